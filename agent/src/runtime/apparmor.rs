//! AppArmor: which profile a container's command is executed under. The default one is loaded when it
//! is first needed, unless the node's administrator has loaded another of its name; all others are
//! the administrator's.
//! <https://kubernetes.io/docs/tutorials/security/apparmor/>

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Once;

use proto::cri::{self, security_profile::ProfileType};

use super::engine::Error;

/// Loaded profiles, one line each: `name (mode)`.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// What `RuntimeDefault` means, and what nobody asks for means.
const DEFAULT: &str = "coracle-default";
const DEFAULT_PROFILE: &str = include_str!("apparmor/default.profile");
/// Compiles profiles for the kernel; of Debian's package `apparmor`.
const PARSER: &str = "apparmor_parser";

/// The profile that a container asks for; `None` leaves the command unconfined, as does a machine
/// without AppArmor.
pub fn profile(context: &cri::LinuxContainerSecurityContext) -> Result<Option<String>, Error> {
    let Some(wanted) = wanted(context)? else { return Ok(None) };
    let enabled = fs::read_to_string(ENABLED).is_ok_and(|text| text.trim() == "Y");
    let loaded =
        if enabled { fs::read_to_string(PROFILES).unwrap_or_default() } else { String::new() };
    let chosen = choose(&wanted, enabled, &loaded)?;
    if enabled && chosen.is_none() && load(DEFAULT_PROFILE)? {
        return Ok(Some(DEFAULT.to_owned()));
    }
    Ok(chosen)
}

/// Gives the kernel a profile; false where the parser is not installed.
fn load(profile: &str) -> Result<bool, Error> {
    static TOLD: Once = Once::new();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut parser = Command::new(PARSER);
    parser.env("PATH", format!("{path}:/usr/sbin:/sbin")).args(["--replace", "--skip-cache"]);
    parser.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let step = |source| Error::Step { step: format!("load AppArmor profile {DEFAULT}"), source };
    let mut parser = match parser.spawn() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            TOLD.call_once(|| {
                tracing::warn!("containers are not confined by AppArmor: there is no {PARSER}");
            });
            return Ok(false);
        }
        started => started.map_err(step)?,
    };
    let written = parser.stdin.take().map(|mut stdin| stdin.write_all(profile.as_bytes()));
    let ended = parser.wait_with_output().map_err(step)?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        return Err(step(std::io::Error::other(format!("{PARSER}: {}", said.trim()))));
    }
    written.transpose().map_err(step)?;
    Ok(true)
}

#[derive(Debug, PartialEq)]
enum Wanted {
    RuntimeDefault,
    Localhost(String),
}

/// From the field, or else the deprecated path.
fn wanted(context: &cri::LinuxContainerSecurityContext) -> Result<Option<Wanted>, Error> {
    let path = context.apparmor_profile.as_str();
    if context.privileged {
        return Ok(None);
    }
    let localhost = |name: &str| match name {
        "" => Err(Error::Invalid("an AppArmor profile of type Localhost needs a name".into())),
        name => Ok(Some(Wanted::Localhost(name.to_owned()))),
    };
    match &context.apparmor {
        Some(profile) => match profile.profile_type() {
            ProfileType::RuntimeDefault => Ok(Some(Wanted::RuntimeDefault)),
            ProfileType::Unconfined => Ok(None),
            ProfileType::Localhost => localhost(
                profile.localhost_ref.strip_prefix("localhost/").unwrap_or(&profile.localhost_ref),
            ),
        },
        None => match path {
            "unconfined" => Ok(None),
            "" | "runtime/default" => Ok(Some(Wanted::RuntimeDefault)),
            path => match path.strip_prefix("localhost/") {
                Some(name) => localhost(name),
                None => Err(Error::Invalid(format!("invalid AppArmor profile \"{path}\""))),
            },
        },
    }
}

fn choose(wanted: &Wanted, enabled: bool, loaded: &str) -> Result<Option<String>, Error> {
    let is_loaded = |name: &str| {
        loaded.lines().any(|line| line.rsplit_once(" (").is_some_and(|(known, _)| known == name))
    };
    match wanted {
        Wanted::RuntimeDefault => Ok(is_loaded(DEFAULT).then(|| DEFAULT.to_owned())),
        Wanted::Localhost(_) if !enabled => Err(Error::Invalid(
            "Cannot enforce AppArmor: AppArmor is not enabled on the host".into(),
        )),
        Wanted::Localhost(name) if !is_loaded(name) => {
            Err(Error::Invalid(format!("apparmor profile not found {name}")))
        }
        Wanted::Localhost(name) => Ok(Some(name.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_chosen() {
        let loaded = "coracle-default (enforce)\nweb server (complain)\n";
        let web = Wanted::Localhost("web server".into());
        let chosen = |wanted: &Wanted, enabled, loaded| {
            choose(wanted, enabled, loaded).map_err(|error| error.to_string())
        };
        assert_eq!(chosen(&web, true, loaded), Ok(Some("web server".into())));
        assert_eq!(chosen(&Wanted::RuntimeDefault, true, loaded), Ok(Some(DEFAULT.into())));
        assert_eq!(chosen(&Wanted::RuntimeDefault, false, ""), Ok(None));
        assert!(chosen(&web, true, "").unwrap_err().contains("not found web server"));
        assert!(chosen(&web, false, "").unwrap_err().contains("not enabled on the host"));
    }

    #[test]
    fn fields_win_over_paths() {
        let mut context = cri::LinuxContainerSecurityContext {
            apparmor_profile: "localhost/old".into(),
            ..Default::default()
        };
        assert_eq!(wanted(&context).unwrap(), Some(Wanted::Localhost("old".into())));
        context.apparmor = Some(cri::SecurityProfile {
            profile_type: ProfileType::Localhost as i32,
            localhost_ref: "new".into(),
        });
        assert_eq!(wanted(&context).unwrap(), Some(Wanted::Localhost("new".into())));
        context.privileged = true;
        assert_eq!(wanted(&context).unwrap(), None);
        let silent = cri::LinuxContainerSecurityContext::default();
        assert_eq!(wanted(&silent).unwrap(), Some(Wanted::RuntimeDefault));
    }
}
