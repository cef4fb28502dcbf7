//! The Container Device Interface: what a device needs in a container, as its vendor has written it down
//! in a file of the node. <https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>
//!
//! A container's request with CDI devices becomes one without. What cannot be done is refused by name:
//! a container without a part of its device would be worse than none.

mod edits;
mod registry;

use std::path::PathBuf;

use proto::cri;

use super::engine::Error;

use registry::{FOLDERS, Registry};

/// The request with all that its CDI devices need, by the files that are there now.
pub fn applied(config: &cri::ContainerConfig) -> Result<cri::ContainerConfig, Error> {
    let mut config = config.clone();
    let devices = std::mem::take(&mut config.cdi_devices);
    if devices.is_empty() {
        return Ok(config);
    }
    let names: Vec<String> = devices.into_iter().map(|device| device.name).collect();
    let registry = Registry::read(&FOLDERS.map(PathBuf::from));
    let found = registry.edits(&names);
    let failed = |why: String| Error::Invalid(format!("CDI device injection failed: {why}"));
    for (name, edits) in found.map_err(failed)? {
        edits.apply(&mut config).map_err(|why| failed(format!("{name}: {why}")))?;
    }
    Ok(config)
}

/// `vendor.com/class=name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    kind: String,
    device: String,
}

impl Name {
    fn parse(text: &str) -> Option<Name> {
        let (kind, device) = text.split_once('=')?;
        let inner = |extra: &'static [char]| {
            move |text: &str| {
                let end = |character: Option<char>| {
                    character.is_some_and(|character| character.is_ascii_alphanumeric())
                };
                let fine = |character: char| {
                    character.is_ascii_alphanumeric() || extra.contains(&character)
                };
                end(text.chars().next()) && end(text.chars().next_back()) && text.chars().all(fine)
            }
        };
        let good = is_kind(kind) && inner(&['_', '-', '.', ':'])(device);
        good.then(|| Name { kind: kind.into(), device: device.into() })
    }
}

/// `vendor.com/class`.
fn is_kind(text: &str) -> bool {
    let part = |text: &str, extra: &[char]| {
        let mut characters = text.chars();
        characters.next().is_some_and(|first| first.is_ascii_alphabetic())
            && text.chars().next_back().is_some_and(|last| last.is_ascii_alphanumeric())
            && text.chars().all(|one| one.is_ascii_alphanumeric() || extra.contains(&one))
    };
    text.split_once('/')
        .is_some_and(|(vendor, class)| part(vendor, &['_', '-', '.']) && part(class, &['_', '-']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, good) in [
            ("vendor.com/gpu=0", true),
            ("k8s.gpu.example.com/claim=a-b_c.d:e", true),
            ("vendor.com/gpu", false),
            ("vendor.com=0", false),
            ("/gpu=0", false),
            ("vendor.com/1gpu=0", false),
            ("vendor.com/gpu=", false),
            ("vendor.com/gpu=-0", false),
            ("vendor.com/g/pu=0", false),
        ] {
            assert_eq!(Name::parse(text).is_some(), good, "{text}");
        }
    }
}
