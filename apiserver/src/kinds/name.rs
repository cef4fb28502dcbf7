//! What names, label keys and label values may look like, in the sentences of
//! k8s.io/apimachinery's validation. Each check returns what is wrong, one sentence each.

/// The rule for metadata.name of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// DNS-1123 subdomain, at most 253 bytes.
    Subdomain,
    /// DNS-1123 label, at most 63.
    Label,
    /// DNS-1035 label: like a label, but begins with a letter.
    Dns1035,
    /// Whatever fits in one segment of a URL.
    PathSegment,
    /// An IP address in its canonical form.
    Address,
    /// Anything goes.
    Free,
}

impl NameRule {
    pub fn check(self, name: &str) -> Vec<String> {
        match self {
            NameRule::Subdomain => subdomain(name),
            NameRule::Label => label(name),
            NameRule::Dns1035 => dns1035(name),
            NameRule::PathSegment => path_segment(name),
            NameRule::Address => address(name),
            NameRule::Free => Vec::new(),
        }
    }

    /// The same for generateName, where a trailing dash is fine: a suffix will follow.
    pub fn check_prefix(self, name: &str) -> Vec<String> {
        match name.strip_suffix('-') {
            Some(stem) if !stem.is_empty() => self.check(&format!("{stem}a")),
            _ => self.check(name),
        }
    }
}

pub fn label(name: &str) -> Vec<String> {
    check(name, 63, is_label(name), LABEL)
}

pub fn subdomain(name: &str) -> Vec<String> {
    check(name, 253, name.split('.').all(is_label), SUBDOMAIN)
}

pub fn dns1035(name: &str) -> Vec<String> {
    let begins = name.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    check(name, 63, begins && is_label(name), DNS1035)
}

/// `*.example.com`.
pub fn wildcard(name: &str) -> Vec<String> {
    let domain = name.strip_prefix("*.");
    check(name, 253, domain.is_some_and(|domain| domain.split('.').all(is_label)), WILDCARD)
}

/// An IP address in its canonical form.
pub fn address(text: &str) -> Vec<String> {
    match text.parse::<std::net::IpAddr>() {
        Ok(address) if address.to_string() == text => Vec::new(),
        Ok(address) => vec![format!("must be in canonical form (\"{address}\")")],
        Err(_) => {
            vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()]
        }
    }
}

/// Whatever fits in one segment of a URL.
pub fn path_segment(name: &str) -> Vec<String> {
    if name == "." || name == ".." {
        return vec![format!("may not be '{name}'")];
    }
    let banned = ["/", "%"].into_iter().filter(|banned| name.contains(banned));
    banned.map(|banned| format!("may not contain '{banned}'")).collect()
}

/// `example.com/name`, the prefix optional: label and annotation keys, finalizers, resources.
pub fn qualified(name: &str) -> Vec<String> {
    let (prefix, part) = match name.split_once('/') {
        None => (None, name),
        Some((_, part)) if part.contains('/') => {
            let optional = "with an optional DNS subdomain prefix and '/' \
                            (e.g. 'example.com/MyName')";
            return vec![format!("a qualified name {QUALIFIED} {optional}")];
        }
        Some((prefix, part)) => (Some(prefix), part),
    };
    let mut problems = Vec::new();
    match prefix {
        Some("") => problems.push(format!("prefix part {EMPTY}")),
        Some(prefix) => {
            problems.extend(subdomain(prefix).iter().map(|text| format!("prefix part {text}")));
        }
        None => {}
    }
    if part.is_empty() {
        problems.push(format!("name part {EMPTY}"));
    } else if part.len() > 63 {
        problems.push(format!("name part {}", too_long(63)));
    }
    if !is_word(part) {
        problems.push(format!("name part {QUALIFIED}"));
    }
    problems
}

pub fn label_value(value: &str) -> Vec<String> {
    check(value, 63, value.is_empty() || is_word(value), LABEL_VALUE)
}

/// A name of a ConfigMap's or Secret's key.
pub fn config_key(key: &str) -> Vec<String> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let matches = !key.is_empty() && key.bytes().all(fine);
    let mut problems = check(key, 253, matches, CONFIG_KEY);
    if key == "." {
        problems.push("must not be '.'".into());
    } else if key == ".." {
        problems.push("must not be '..'".into());
    } else if key.starts_with("..") {
        problems.push("must not start with '..'".into());
    }
    problems
}

/// A port's name (IANA service name).
pub fn port(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name.len() > 15 {
        problems.push(too_long(15));
    }
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || !name.bytes().all(known) {
        problems
            .push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".into());
    }
    if name.contains("--") {
        problems.push("must not contain consecutive hyphens".into());
    }
    if name.starts_with('-') || name.ends_with('-') {
        problems.push("must not begin or end with a hyphen".into());
    }
    problems
}

/// The name of an environment variable: printable ASCII without `=`.
pub fn environment(name: &str) -> Vec<String> {
    let printable = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'=';
    match name {
        "" => vec![format!("environment variable name {EMPTY}")],
        name if name.bytes().all(printable) => Vec::new(),
        _ => vec![ENVIRONMENT.into()],
    }
}

/// Whether `text` is a DNS-1123 label, its length aside.
pub fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.first().is_some_and(ends)
        && bytes.last().is_some_and(ends)
        && bytes.iter().all(|byte| ends(byte) || *byte == b'-')
}

/// Letters, digits, `-_.`, with a letter or digit at both ends.
fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn check(text: &str, longest: usize, matches: bool, sentence: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > longest {
        problems.push(too_long(longest));
    }
    if !matches {
        problems.push(sentence.to_string());
    }
    problems
}

fn too_long(longest: usize) -> String {
    format!("must be no more than {longest} characters")
}

const EMPTY: &str = "must be non-empty";

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters \
    or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', \
    regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
    characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
    'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS \
    subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an \
    alphanumeric character (e.g. '*.example.com', regex used for validation is \
    '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

const DNS1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', \
    start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  \
    or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";

const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start \
    and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex \
    used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric \
    characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
    'MyValue',  or 'my_value',  or '12345', regex used for validation is \
    '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or \
    '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
    '[-._a-zA-Z0-9]+')";

const ENVIRONMENT: &str = "a valid environment variable name must consist only of printable ASCII \
    characters other than '='";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_words_of_kubernetes() {
        for good in ["a", "my-name", "123-abc", "a.b-c.d"] {
            assert_eq!(subdomain(good), Vec::<String>::new(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a..b", "a_b", "ä"] {
            assert_eq!(subdomain(bad), [SUBDOMAIN], "{bad}");
        }
        assert_eq!(
            subdomain("Web_1")[0],
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
             '-' or '.', and must start and end with an alphanumeric character (e.g. \
             'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        );
        assert_eq!(label(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert_eq!(dns1035("1a"), [DNS1035]);
        assert!(NameRule::Subdomain.check_prefix("web-").is_empty());
        assert_eq!(NameRule::Subdomain.check_prefix("-"), [SUBDOMAIN]);
        assert_eq!(NameRule::PathSegment.check("a/b"), ["may not contain '/'"]);
    }

    #[test]
    fn qualified_names() {
        for good in ["a", "A.b_c-9", "example.com/x", "kubernetes.io/arch"] {
            assert!(qualified(good).is_empty(), "{good}");
        }
        let cases = [
            ("", vec![format!("name part {EMPTY}"), format!("name part {QUALIFIED}")]),
            ("/x", vec![format!("prefix part {EMPTY}")]),
            ("A.com/x", vec![format!("prefix part {SUBDOMAIN}")]),
            ("a b", vec![format!("name part {QUALIFIED}")]),
        ];
        for (name, expected) in cases {
            assert_eq!(qualified(name), expected, "{name}");
        }
        assert!(qualified("a/b/c")[0].ends_with("'/' (e.g. 'example.com/MyName')"));
    }

    #[test]
    fn values_keys_ports_and_variables() {
        assert!(label_value("").is_empty() && label_value("a_b").is_empty());
        assert_eq!(label_value("a b"), [LABEL_VALUE]);
        assert!(config_key("a.b_C").is_empty());
        assert_eq!(config_key("..x"), ["must not start with '..'"]);
        assert_eq!(config_key("a/b"), [CONFIG_KEY]);
        assert_eq!(port("80"), ["must contain at least one letter (a-z)"]);
        assert_eq!(port("waytoolongportname"), ["must be no more than 15 characters"]);
        assert!(environment("a.b-C").is_empty());
        assert_eq!(environment("A=B"), [ENVIRONMENT]);
    }
}
