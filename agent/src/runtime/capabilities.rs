//! Which capabilities a container has.

use std::str::FromStr;

use caps::Capability;
use proto::cri;

/// What a container has that asks for nothing (containerd's and Docker's default).
const DEFAULT: [Capability; 14] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FSETID,
    Capability::CAP_FOWNER,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_KILL,
    Capability::CAP_AUDIT_WRITE,
];

/// The capabilities of a container's first process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Capabilities {
    pub permitted: Vec<Capability>,
    pub ambient: Vec<Capability>,
}

#[derive(Debug, thiserror::Error)]
#[error("unknown capability \"{0}\"")]
pub struct UnknownCapability(String);

impl Capabilities {
    /// The default set with what is added and dropped; `drop: ALL` goes first, whatever is added
    /// then remains.
    pub fn new(
        privileged: bool,
        change: &cri::Capability,
    ) -> Result<Capabilities, UnknownCapability> {
        if privileged {
            return Ok(Capabilities { permitted: available(), ambient: Vec::new() });
        }
        let all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
        let mut permitted =
            if all(&change.add_capabilities) { available() } else { DEFAULT.to_vec() };
        if all(&change.drop_capabilities) {
            permitted.clear();
        }
        for capability in named(&change.add_capabilities)? {
            if !permitted.contains(&capability) {
                permitted.push(capability);
            }
        }
        let dropped = named(&change.drop_capabilities)?;
        permitted.retain(|capability| !dropped.contains(capability));
        let ambient = named(&change.add_ambient_capabilities)?;
        permitted.extend(
            ambient
                .iter()
                .filter(|capability| !permitted.contains(capability))
                .copied()
                .collect::<Vec<_>>(),
        );
        permitted.sort_by_key(Capability::index);
        Ok(Capabilities { permitted, ambient })
    }
}

/// Sets as the kernel takes them.
pub fn mask(capabilities: &[Capability]) -> u64 {
    capabilities.iter().fold(0, |mask, capability| mask | capability.bitmask())
}

/// What this process could hand on.
fn available() -> Vec<Capability> {
    let mut all: Vec<Capability> = match caps::read(None, caps::CapSet::Permitted) {
        Ok(set) => set.into_iter().collect(),
        Err(_) => DEFAULT.to_vec(),
    };
    all.sort_by_key(Capability::index);
    all
}

fn named(names: &[String]) -> Result<Vec<Capability>, UnknownCapability> {
    let names = names.iter().filter(|name| !name.eq_ignore_ascii_case("ALL"));
    names
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
            Capability::from_str(&full).map_err(|_| UnknownCapability(name.clone()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(add: &[&str], drop: &[&str]) -> cri::Capability {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        cri::Capability {
            add_capabilities: owned(add),
            drop_capabilities: owned(drop),
            ..Default::default()
        }
    }

    #[test]
    fn added_and_dropped() {
        let of = |add: &[&str], drop: &[&str]| {
            Capabilities::new(false, &change(add, drop)).unwrap().permitted
        };
        assert_eq!(of(&[], &[]).len(), 14);
        assert_eq!(of(&["NET_BIND_SERVICE"], &["ALL"]), [Capability::CAP_NET_BIND_SERVICE]);
        assert!(of(&["CAP_NET_ADMIN"], &[]).contains(&Capability::CAP_NET_ADMIN));
        assert!(!of(&[], &["kill"]).contains(&Capability::CAP_KILL));
        assert!(Capabilities::new(false, &change(&["FLY"], &[])).is_err());
    }
}
