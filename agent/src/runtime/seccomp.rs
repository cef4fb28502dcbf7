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

/// The filter that a request asks for. A profile of the node is read now: commands that are executed
/// in the container later get the same.
pub fn chosen(context: &cri::LinuxContainerSecurityContext) -> Result<Option<Seccomp>, Error> {
    if context.privileged {
        return Ok(None);
    }
    let localhost = |path: &str| read(path).map(Some);
    match &context.seccomp {
        Some(profile) => match profile.profile_type() {
            ProfileType::RuntimeDefault => Ok(Some(Seccomp::default())),
            ProfileType::Unconfined => Ok(None),
            ProfileType::Localhost => localhost(&profile.localhost_ref),
        },
        // The deprecated way to say it. Without either: the default, which is the safe side.
        None => match context.seccomp_profile_path.as_str() {
            "" | "runtime/default" | "docker/default" => Ok(Some(Seccomp::default())),
            "unconfined" => Ok(None),
            path => match path.strip_prefix("localhost/") {
                Some(path) => localhost(path),
                None => Err(Error::Invalid(format!("invalid seccomp profile \"{path}\""))),
            },
        },
    }
}

/// What the kernel is given, for a process with these capabilities.
pub fn filter(chosen: Option<&Seccomp>, capabilities: &[Capability]) -> Option<Filter> {
    let chosen = chosen?;
    if chosen.code.is_empty() {
        return Some(Filter { code: default::default_profile(capabilities), flags: 0 });
    }
    Some(Filter { code: chosen.code.clone(), flags: chosen.flags })
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
        assert_eq!(chosen(&context).unwrap(), Some(Seccomp::default()));
        context.seccomp_profile_path = "unconfined".into();
        assert_eq!(chosen(&context).unwrap(), None);
        context.seccomp_profile_path = "somewhere".into();
        assert!(chosen(&context).is_err());
        context.seccomp = Some(cri::SecurityProfile {
            profile_type: ProfileType::Localhost as i32,
            localhost_ref: "relative.json".into(),
        });
        assert!(chosen(&context).unwrap_err().to_string().contains("not an absolute path"));
        context.privileged = true;
        assert_eq!(chosen(&context).unwrap(), None);
    }
}
