//! System call filters: which one a container has, and what the kernel is given for it.

mod default;
mod numbers;
mod profile;

use std::path::Path;

use caps::Capability;
use proto::cri::{self, security_profile::ProfileType};

use super::engine::Error;
use super::state::Seccomp;

/// A filter as the kernel takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// Instructions of 8 bytes.
    pub code: Vec<u8>,
    /// Of seccomp(2).
    pub flags: u64,
}

/// Larger profiles are no profiles.
const LARGEST: u64 = 4 << 20;

/// What a request asks for.
#[derive(Debug, PartialEq)]
enum Wanted {
    RuntimeDefault,
    Unconfined,
    Localhost(String),
}

fn wanted(context: &cri::LinuxContainerSecurityContext) -> Result<Wanted, Error> {
    if context.privileged {
        return Ok(Wanted::Unconfined);
    }
    match &context.seccomp {
        Some(profile) => Ok(match profile.profile_type() {
            ProfileType::RuntimeDefault => Wanted::RuntimeDefault,
            ProfileType::Unconfined => Wanted::Unconfined,
            ProfileType::Localhost => Wanted::Localhost(profile.localhost_ref.clone()),
        }),
        // The deprecated way to say it. Without either: the default, which is the safe side.
        None => match context.seccomp_profile_path.as_str() {
            "" | "runtime/default" | "docker/default" => Ok(Wanted::RuntimeDefault),
            "unconfined" => Ok(Wanted::Unconfined),
            path => match path.strip_prefix("localhost/") {
                Some(path) => Ok(Wanted::Localhost(path.to_owned())),
                None => Err(Error::Invalid(format!("invalid seccomp profile \"{path}\""))),
            },
        },
    }
}

/// The profile of the node that a request asks for, if it does. It is read when the container is
/// made: commands that are executed in it later get the same.
pub fn profile(context: &cri::LinuxContainerSecurityContext) -> Result<Option<Seccomp>, Error> {
    match wanted(context)? {
        Wanted::Localhost(path) => read(&path).map(Some),
        Wanted::RuntimeDefault | Wanted::Unconfined => Ok(None),
    }
}

/// What the kernel is given, for a process with these capabilities: the profile that was read, or
/// what the request asks for instead.
pub fn filter(
    context: &cri::LinuxContainerSecurityContext,
    profile: Option<&Seccomp>,
    capabilities: &[Capability],
) -> Result<Option<Filter>, Error> {
    if let Some(profile) = profile {
        return Ok(Some(Filter { code: profile.code.clone(), flags: profile.flags }));
    }
    Ok(match wanted(context)? {
        Wanted::Unconfined => None,
        _ => Some(Filter { code: default::default_profile(capabilities), flags: 0 }),
    })
}

fn read(path: &str) -> Result<Seccomp, Error> {
    use std::io::Read;
    if !path.starts_with('/') {
        return Err(Error::Invalid(format!("seccomp profile \"{path}\" is not an absolute path")));
    }
    let failed = |error: std::io::Error| {
        Error::Invalid(format!("cannot load seccomp profile \"{path}\": {error}"))
    };
    let file = std::fs::File::open(Path::new(path)).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::Invalid(format!("seccomp profile \"{path}\" is not a file")));
    }
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text).map_err(failed)?;
    let Filter { code, flags } = profile::compile(&text)
        .map_err(|error| Error::Invalid(format!("seccomp profile \"{path}\": {error}")))?;
    Ok(Seccomp { code, flags })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_win_over_paths() {
        let mut context = cri::LinuxContainerSecurityContext::default();
        assert_eq!(wanted(&context).unwrap(), Wanted::RuntimeDefault);
        assert!(filter(&context, None, &[]).unwrap().is_some());
        context.seccomp_profile_path = "unconfined".into();
        assert_eq!(wanted(&context).unwrap(), Wanted::Unconfined);
        assert_eq!(filter(&context, None, &[]).unwrap(), None);
        context.seccomp_profile_path = "localhost//profiles/a.json".into();
        assert_eq!(wanted(&context).unwrap(), Wanted::Localhost("/profiles/a.json".into()));
        context.seccomp_profile_path = "somewhere".into();
        assert!(wanted(&context).is_err());
        context.seccomp = Some(cri::SecurityProfile {
            profile_type: ProfileType::Localhost as i32,
            localhost_ref: "relative.json".into(),
        });
        assert!(profile(&context).unwrap_err().to_string().contains("not an absolute path"));
        context.privileged = true;
        assert_eq!(wanted(&context).unwrap(), Wanted::Unconfined);
    }
}
