//! Runtime handlers: the names by which a RuntimeClass chooses how its pods are run. All of them run
//! here; they differ in what they may do. The handler without a name is everybody's.

use std::collections::BTreeMap;
use std::str::FromStr;

use proto::cri;

use super::engine::Error;

/// What pods of a handler may ask for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Features {
    pub recursive_read_only: bool,
    pub user_namespaces: bool,
}

/// One handler as `--handler` takes it: `NAME` has every feature, `NAME=FEATURE,…` has those.
#[derive(Clone, Debug, PartialEq)]
pub struct Handler {
    pub name: String,
    pub features: Features,
}

/// The handlers of this runtime by name.
#[derive(Clone, Debug)]
pub struct Handlers(BTreeMap<String, Features>);

const RECURSIVE_READ_ONLY: &str = "recursive-read-only";
const USER_NAMESPACES: &str = "user-namespaces";
const ALL: Features = Features { recursive_read_only: true, user_namespaces: true };

impl FromStr for Handler {
    type Err = String;

    fn from_str(text: &str) -> Result<Handler, String> {
        let (name, features) = match text.split_once('=') {
            None => (text, ALL),
            Some((name, list)) => {
                let mut features = Features { recursive_read_only: false, user_namespaces: false };
                for feature in list.split(',').filter(|feature| !feature.is_empty()) {
                    match feature {
                        RECURSIVE_READ_ONLY => features.recursive_read_only = true,
                        USER_NAMESPACES => features.user_namespaces = true,
                        other => {
                            return Err(format!(
                                "feature \"{other}\" is none of {RECURSIVE_READ_ONLY}, {USER_NAMESPACES}"
                            ));
                        }
                    }
                }
                (name, features)
            }
        };
        if name.is_empty() {
            return Err("the handler without a name is there anyway: give this one a name".into());
        }
        Ok(Handler { name: name.to_owned(), features })
    }
}

impl Handlers {
    /// `machine` is what the kernel can do: no handler has more.
    pub fn new(named: &[Handler], machine: Features) -> Handlers {
        let limit = |features: Features| Features {
            recursive_read_only: features.recursive_read_only && machine.recursive_read_only,
            user_namespaces: features.user_namespaces && machine.user_namespaces,
        };
        let named = named.iter().map(|handler| (handler.name.clone(), limit(handler.features)));
        Handlers(std::iter::once((String::new(), limit(ALL))).chain(named).collect())
    }

    /// What pods of a handler may ask for; the error is containerd's, which users know.
    pub fn find(&self, name: &str) -> Result<Features, Error> {
        self.0.get(name).copied().ok_or_else(|| {
            Error::Invalid(format!(
                "failed to get sandbox runtime: no runtime for \"{name}\" is configured"
            ))
        })
    }

    /// As the status tells them.
    pub fn list(&self) -> Vec<cri::RuntimeHandler> {
        let told = |(name, features): (&String, &Features)| cri::RuntimeHandler {
            name: name.clone(),
            features: Some(cri::RuntimeHandlerFeatures {
                recursive_read_only_mounts: features.recursive_read_only,
                user_namespaces: features.user_namespaces,
            }),
        };
        self.0.iter().map(told).collect()
    }
}

impl Features {
    /// What this machine's kernel can do: recursive attributes of mounts since 5.12; user namespaces
    /// for pods since 6.3, which maps ids on tmpfs, if any may be made at all.
    pub fn of_machine() -> Features {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let most = std::fs::read_to_string("/proc/sys/user/max_user_namespaces");
        let most = most.ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
        Features {
            recursive_read_only: version(&release) >= (5, 12),
            user_namespaces: version(&release) >= (6, 3) && most > 0,
        }
    }
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|character: char| !character.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_have_features() {
        let parse = |text: &str| text.parse::<Handler>();
        assert_eq!(parse("runc").unwrap(), Handler { name: "runc".into(), features: ALL });
        let plain = parse("plain=recursive-read-only").unwrap();
        assert_eq!(plain.features, Features { recursive_read_only: true, user_namespaces: false });
        assert!(parse("x=fly").unwrap_err().contains("\"fly\""));
        assert!(parse("=user-namespaces").is_err());
        let old = Features { recursive_read_only: true, user_namespaces: false };
        let handlers = Handlers::new(&[parse("runc").unwrap()], old);
        assert_eq!(handlers.find("").unwrap(), old);
        assert_eq!(handlers.find("runc").unwrap(), old);
        assert_eq!(
            handlers.find("kata").unwrap_err().to_string(),
            "failed to get sandbox runtime: no runtime for \"kata\" is configured"
        );
        assert_eq!(handlers.list().len(), 2);
    }

    #[test]
    fn versions_are_two_numbers() {
        for (release, expected) in
            [("6.18.0-rc1", (6, 18)), ("5.4", (5, 4)), ("6.3.0+deb12", (6, 3)), ("", (0, 0))]
        {
            assert_eq!(version(release), expected, "{release}");
        }
    }
}
