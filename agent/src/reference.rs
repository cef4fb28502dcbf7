//! Image names as Docker reads them: `my-app` is `docker.io/library/my-app:latest`. Agent and
//! runtime both read them, each in its process; by hand, because the regular expression for them
//! takes 12 MiB once it is compiled.

use std::fmt;

/// A name with everything that may be left out filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub registry: String,
    pub repository: String,
    /// Absent only beside a digest.
    pub tag: Option<String>,
    /// `sha256:…`
    pub digest: Option<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("couldn't parse image name \"{0}\": invalid reference format")]
pub struct InvalidName(String);

impl std::str::FromStr for Reference {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Reference, InvalidName> {
        parse(text).ok_or_else(|| InvalidName(text.to_owned()))
    }
}

impl Reference {
    /// The name without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// This repository's image of that digest.
    pub fn with_digest(&self, digest: &str) -> Reference {
        Reference { tag: None, digest: Some(digest.to_owned()), ..self.clone() }
    }
}

/// A digest wins over a tag, as it does when an image is looked for.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(f, "@{digest}"),
            (None, Some(tag)) => write!(f, ":{tag}"),
            (None, None) => Ok(()),
        }
    }
}

/// The 64 digits of an image's id or of a prefix at least 6 long, with or without `sha256:`.
pub fn as_id(text: &str) -> Option<&str> {
    let (digits, explicit) = match text.strip_prefix("sha256:") {
        Some(digits) => (digits, true),
        None => (text, false),
    };
    let hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (hex && (digits.len() == 64 || (explicit && digits.len() >= 6))).then_some(digits)
}

fn parse(text: &str) -> Option<Reference> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let valid_digest = |digest: &str| {
        digest
            .strip_prefix("sha256:")
            .is_some_and(|hex| as_id(hex).is_some_and(|digits| digits.len() == 64))
    };
    if !digest.is_none_or(valid_digest) {
        return None;
    }
    let (registry, path) = match rest.split_once('/') {
        Some((first, path)) if is_registry(first) => (first, path),
        _ => ("docker.io", rest),
    };
    let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
    let (path, tag) = match path.rsplit_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (path, None),
    };
    if !tag.is_none_or(is_tag) || !path.split('/').all(is_component) || !is_host(registry) {
        return None;
    }
    // 64 hexadecimal digits are an id, never a name.
    if as_id(path).is_some() {
        return None;
    }
    let repository = match registry {
        "docker.io" if !path.contains('/') => format!("library/{path}"),
        _ => path.to_owned(),
    };
    let tag = match (tag, digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Some(Reference {
        registry: registry.to_owned(),
        repository,
        tag,
        digest: digest.map(str::to_owned),
    })
}

fn is_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_host(registry: &str) -> bool {
    let port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let (host, rest) = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            return address.parse::<std::net::Ipv6Addr>().is_ok()
                && rest.strip_prefix(':').is_none_or(port);
        }
        None => {
            registry.split_once(':').map_or((registry, None), |(host, rest)| (host, Some(rest)))
        }
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && rest.is_none_or(port)
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

/// Lower case words joined by `.`, `_`, `__` or dashes.
fn is_component(part: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = bytes.first().copied().is_some_and(alphanumeric)
        && bytes.last().copied().is_some_and(alphanumeric);
    let separators = part.split(|c: char| alphanumeric(c as u8)).filter(|run| !run.is_empty());
    ends && part.is_ascii()
        && separators
            .into_iter()
            .all(|run| matches!(run, "." | "_" | "__") || run.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let table = [
            ("my-app", "docker.io/library/my-app:latest"),
            ("my-app:latest", "docker.io/library/my-app:latest"),
            ("me/my-app:1.0", "docker.io/me/my-app:1.0"),
            ("index.docker.io/library/x", "docker.io/library/x:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
        ];
        for (given, full) in table {
            assert_eq!(given.parse::<Reference>().unwrap().to_string(), full);
        }
        let both: Reference = format!("x:1@{digest}").parse().unwrap();
        assert_eq!(both.to_string(), format!("docker.io/library/x@{digest}"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [
            "",
            "UPPER/Case:tag!",
            "a//b",
            "-a",
            "a:b:c",
            "a@sha256:12",
            "../x",
            "x:",
            "a b",
            &"a".repeat(64),
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_are_told_from_names() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(as_id(&id), Some(id.as_str()));
        assert_eq!(as_id("sha256:012345"), Some("012345"));
        assert_eq!((as_id("012345"), as_id("sha256:0123"), as_id("busybox")), (None, None, None));
    }
}
