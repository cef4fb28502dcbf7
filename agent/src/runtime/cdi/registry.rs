//! The files in which vendors describe their devices.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::edits::Edits;
use super::{Name, is_kind};

/// Where descriptions are; one in a later folder counts for more.
pub const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// A file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    cdi_version: String,
    kind: String,
    devices: Vec<Device>,
    /// Of every container with one of the devices.
    container_edits: Edits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Device {
    name: String,
    container_edits: Edits,
}

/// All devices that are described.
#[derive(Debug, Default)]
pub struct Registry {
    specs: Vec<(PathBuf, Spec)>,
    /// Which of the specs describes the device, and where in it; none where two files of one folder
    /// both do.
    devices: BTreeMap<Name, Option<(usize, usize)>>,
    /// Files that say nothing, and why.
    broken: Vec<String>,
}

impl Registry {
    pub fn read(folders: &[PathBuf]) -> Registry {
        let mut registry = Registry::default();
        for folder in folders {
            let mut of_folder: BTreeMap<Name, Option<(usize, usize)>> = BTreeMap::new();
            for path in files(folder) {
                let spec = match read(&path) {
                    Ok(spec) => spec,
                    Err(why) => {
                        registry.broken.push(format!("{}: {why}", path.display()));
                        continue;
                    }
                };
                let number = registry.specs.len();
                for (at, device) in spec.devices.iter().enumerate() {
                    let name = Name { kind: spec.kind.clone(), device: device.name.clone() };
                    let place = of_folder.entry(name).or_insert(Some((number, at)));
                    if *place != Some((number, at)) {
                        *place = None;
                    }
                }
                registry.specs.push((path, spec));
            }
            registry.devices.extend(of_folder);
        }
        registry
    }

    /// What these devices need, each file's own part once and first; the name says whose it is.
    pub fn edits(&self, names: &[String]) -> Result<Vec<(String, &Edits)>, String> {
        let mut places = Vec::new();
        let mut unknown: Vec<String> = Vec::new();
        for text in names {
            let found = Name::parse(text).and_then(|name| self.devices.get(&name).copied());
            match found {
                Some(Some(place)) => places.push((text, place)),
                Some(None) => unknown.push(format!("{text} (described twice)")),
                None => unknown.push(text.clone()),
            }
        }
        if !unknown.is_empty() {
            let mut why = format!("unresolvable CDI devices {}", unknown.join(", "));
            if !self.broken.is_empty() {
                why += &format!(" (unusable: {})", self.broken.join("; "));
            }
            return Err(why);
        }
        let mut edits = Vec::new();
        let (mut specs, mut seen) = (Vec::new(), Vec::new());
        for (text, (spec, device)) in places {
            let (path, content) = &self.specs[spec];
            if !specs.contains(&spec) {
                specs.push(spec);
                edits.push((path.display().to_string(), &content.container_edits));
            }
            if !seen.contains(&(spec, device)) {
                seen.push((spec, device));
                edits.push((text.clone(), &content.devices[device].container_edits));
            }
        }
        Ok(edits)
    }
}

/// Those that CDI looks at, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_spec = |path: &PathBuf| {
        path.extension().is_some_and(|end| end == "json" || end == "yaml") && path.is_file()
    };
    let mut files: Vec<PathBuf> = all.filter(is_spec).collect();
    files.sort();
    files
}

fn read(path: &Path) -> Result<Spec, String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    // What is JSON is YAML, too.
    let spec: Spec = serde_yaml::from_slice(&text).map_err(|error| error.to_string())?;
    let version = spec.cdi_version.trim_start_matches('v');
    if !version.starts_with("0.") && !version.starts_with("1.") {
        return Err(format!("invalid CDI version {version:?}"));
    }
    if !is_kind(&spec.kind) {
        return Err(format!("invalid kind {:?}", spec.kind));
    }
    for device in &spec.devices {
        let name = format!("{}={}", spec.kind, device.name);
        if Name::parse(&name).is_none() {
            return Err(format!("invalid device name {:?}", device.name));
        }
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, file: &str, content: &str) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(file), content).unwrap();
    }

    fn spec(kind: &str, device: &str, env: &str) -> String {
        format!(
            "cdiVersion: 0.6.0\nkind: {kind}\ncontainerEdits:\n  env: [\"ALL={env}\"]\n\
             devices:\n- name: \"{device}\"\n  containerEdits:\n    env: [\"ONE={env}\"]\n"
        )
    }

    #[test]
    fn later_folders_count_for_more() {
        let folder = tempfile::tempdir().unwrap();
        let (etc, run) = (folder.path().join("etc"), folder.path().join("run"));
        write(&etc, "a.yaml", &spec("v.com/gpu", "0", "etc"));
        write(&etc, "b.yaml", &spec("v.com/nic", "0", "b"));
        write(&etc, "c.yaml", &spec("v.com/nic", "0", "c"));
        write(&etc, "d.txt", &spec("v.com/txt", "0", "no"));
        write(&etc, "e.json", "{\"cdiVersion\": \"0.6.0\", \"kind\": \"nonsense\"}");
        write(
            &run,
            "a.json",
            r#"{"cdiVersion": "1.0.0", "kind": "v.com/gpu", "devices": [
            {"name": "0", "containerEdits": {"env": ["ONE=run"]}}]}"#,
        );
        let registry = Registry::read(&[etc.clone(), run]);
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
            let edits = registry.edits(&names)?;
            Ok::<_, String>(edits.iter().flat_map(|(_, it)| it.env.clone()).collect::<Vec<_>>())
        };
        assert_eq!(names(&["v.com/gpu=0", "v.com/gpu=0"]).unwrap(), ["ONE=run"]);
        let refused = names(&["v.com/gpu=1", "v.com/nic=0", "v.com/txt=0"]).unwrap_err();
        let start = "unresolvable CDI devices v.com/gpu=1, v.com/nic=0 (described twice), v.com/txt=0 \
                     (unusable: ";
        assert!(refused.starts_with(start), "{refused}");
        assert!(refused.contains("invalid kind \"nonsense\""), "{refused}");
        let only = Registry::read(&[etc]);
        let edits = only.edits(&["v.com/gpu=0".into()]).unwrap();
        let all: Vec<_> = edits.iter().flat_map(|(_, it)| it.env.clone()).collect();
        assert_eq!(all, ["ALL=etc", "ONE=etc"]);
    }
}
