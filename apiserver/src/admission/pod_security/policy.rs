//! Which standard a namespace's labels ask for.

use std::fmt;

use proto::{meta::Labels, status::FieldError};

const PREFIX: &str = "pod-security.kubernetes.io/";

/// What is looked at under `latest`: higher than any minor version.
const LATEST: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

/// A level as of a version of Kubernetes: `restricted:v1.25`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    pub level: Level,
    /// The minor version of 1.
    pub minor: u32,
}

/// What is refused, what the audit log hears of, and what is warned of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub enforce: Bound,
    pub audit: Bound,
    pub warn: Bound,
}

impl Default for Bound {
    fn default() -> Bound {
        Bound { level: Level::Privileged, minor: LATEST }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.minor {
            LATEST => write!(f, "{level}:latest"),
            minor => write!(f, "{level}:v1.{minor}"),
        }
    }
}

impl Policy {
    /// And what is wrong with the labels. A level to enforce that is none counts as restricted, one
    /// to audit or to warn of as privileged, and a version that is none as the latest.
    pub fn of(labels: &Labels) -> (Policy, Vec<FieldError>) {
        let mut errors = Vec::new();
        let enforce = bound(labels, "enforce", &mut errors);
        let audit = bound(labels, "audit", &mut errors);
        let mut warn = bound(labels, "warn", &mut errors);
        let says = |mode: &str| labels.contains_key(&format!("{PREFIX}{mode}"));
        // Who enforces without a word on warnings wants to hear of templates, too.
        if says("enforce") && !says("warn") && !says("warn-version") && enforce.level > warn.level {
            warn = enforce;
        }
        (Policy { enforce, audit, warn }, errors)
    }
}

fn bound(labels: &Labels, mode: &str, errors: &mut Vec<FieldError>) -> Bound {
    let mut bound = Bound::default();
    let mut refuse = |key: &str, value: &str, why: &str| {
        errors.push(FieldError::invalid(format!("metadata.labels[{key}]"), value, why));
    };
    let key = format!("{PREFIX}{mode}");
    if let Some(level) = labels.get(&key) {
        bound.level = match level.as_str() {
            "privileged" => Level::Privileged,
            "baseline" => Level::Baseline,
            "restricted" => Level::Restricted,
            other => {
                refuse(&key, other, "must be one of privileged, baseline, restricted");
                if mode == "enforce" { Level::Restricted } else { Level::Privileged }
            }
        };
    }
    let key = format!("{key}-version");
    if let Some(version) = labels.get(&key) {
        match minor(version) {
            Some(minor) => bound.minor = minor,
            None => refuse(&key, version, "must be \"latest\" or \"v1.x\""),
        }
    }
    bound
}

fn minor(version: &str) -> Option<u32> {
    if version == "latest" {
        return Some(LATEST);
    }
    let digits = version.strip_prefix("v1.")?;
    let canonical = digits == "0" || !digits.starts_with('0');
    let number = digits.bytes().all(|byte| byte.is_ascii_digit());
    if canonical && number { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_say_what_holds() {
        for (labels, enforce, audit, warn, errors) in [
            (vec![], "privileged:latest", "privileged:latest", "privileged:latest", ""),
            (
                vec![("enforce", "baseline")],
                "baseline:latest",
                "privileged:latest",
                "baseline:latest",
                "",
            ),
            (
                vec![("enforce", "restricted"), ("warn", "privileged"), ("audit", "baseline")],
                "restricted:latest",
                "baseline:latest",
                "privileged:latest",
                "",
            ),
            (
                vec![("warn", "restricted"), ("warn-version", "v1.25")],
                "privileged:latest",
                "privileged:latest",
                "restricted:v1.25",
                "",
            ),
            (
                vec![("audit", "strict")],
                "privileged:latest",
                "privileged:latest",
                "privileged:latest",
                "metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: \"strict\": \
                 must be one of privileged, baseline, restricted",
            ),
            (
                vec![("enforce", "strict"), ("audit-version", "v2.1")],
                "restricted:latest",
                "privileged:latest",
                "restricted:latest",
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": \
                 must be one of privileged, baseline, restricted; \
                 metadata.labels[pod-security.kubernetes.io/audit-version]: Invalid value: \
                 \"v2.1\": must be \"latest\" or \"v1.x\"",
            ),
        ] {
            let labels: Labels = labels
                .into_iter()
                .map(|(key, value)| (format!("{PREFIX}{key}"), value.to_string()))
                .collect();
            let (policy, found) = Policy::of(&labels);
            assert_eq!(policy.enforce.to_string(), enforce, "{labels:?}");
            assert_eq!(policy.audit.to_string(), audit, "{labels:?}");
            assert_eq!(policy.warn.to_string(), warn, "{labels:?}");
            let found: Vec<String> = found.iter().map(FieldError::to_string).collect();
            assert_eq!(found.join("; "), errors);
        }
    }
}
