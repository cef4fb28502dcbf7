//! The names of extended resources (Kubernetes: Resource Management for Pods and Containers, "Extended
//! resources"). Pure.

/// A name of somebody's own, as `example.com/thing`, which quotas can name, too.
pub fn is_extended_resource(name: &str) -> bool {
    let Some((domain, rest)) = name.split_once('/') else { return false };
    if name.contains("kubernetes.io/") || name.starts_with("requests.") {
        return false;
    }
    is_subdomain(&format!("requests.{domain}")) && is_name(rest)
}

fn is_subdomain(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.iter().all(|byte| letter(*byte) || *byte == b'-')
            && bytes.first().is_some_and(|byte| letter(*byte))
            && bytes.last().is_some_and(|byte| letter(*byte))
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_names_they_are() {
        let long = format!("example.com/{}", "x".repeat(64));
        let table = [
            ("example.com/thing", true),
            ("example.com/Thing_1.5", true),
            ("cpu", false),
            ("kubernetes.io/thing", false),
            ("node.kubernetes.io/thing", false),
            ("requests.example.com/thing", false),
            ("Example.com/thing", false),
            ("example.com/", false),
            ("/thing", false),
            ("example.com/a/b", false),
            (&long, false),
        ];
        for (name, expected) in table {
            assert_eq!(is_extended_resource(name), expected, "{name}");
        }
    }
}
