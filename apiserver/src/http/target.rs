//! What a URL path names. Pure; the rows decide later whether it exists.

use std::borrow::Cow;

type Part<'a> = Cow<'a, str>;

/// A path of the API, parsed. Trailing slashes do not matter.
#[derive(Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// `/`: the list of paths.
    Index,
    /// `/livez`, `/readyz/store`: the endpoint and, where named, the single check.
    Health {
        endpoint: &'static str,
        check: Option<Part<'a>>,
    },
    Version,
    Metrics,
    /// `/coracle/backup`.
    Backup,
    /// `/.well-known/openid-configuration`: who issues ServiceAccount tokens.
    Issuer,
    /// `/openid/v1/jwks`: the keys of ServiceAccount tokens.
    IssuerKeys,
    /// `/api`.
    LegacyVersions,
    /// `/apis`.
    Groups,
    /// `/apis/GROUP`.
    Group(Part<'a>),
    /// `/api/v1`, `/apis/GROUP/VERSION`.
    Resources {
        group: Part<'a>,
        version: Part<'a>,
    },
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3`.
    OpenApiIndex,
    /// `/openapi/v3/apis/GROUP/VERSION`; the group is empty for `/openapi/v3/api/v1`.
    OpenApi {
        group: Part<'a>,
        version: Part<'a>,
    },
    Resource(ResourcePath<'a>),
    Unknown,
}

/// A collection, an object, or a subresource of an object. Parts that are absent are empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ResourcePath<'a> {
    pub group: Part<'a>,
    pub version: Part<'a>,
    pub namespace: Part<'a>,
    pub resource: Part<'a>,
    pub name: Part<'a>,
    pub subresource: Part<'a>,
    /// The deprecated form `/api/v1/watch/…`.
    pub watch: bool,
}

impl<'a> Target<'a> {
    pub fn parse(path: &'a str) -> Target<'a> {
        let trimmed = path.trim_matches('/');
        if trimmed.is_empty() {
            return Target::Index;
        }
        let parts: Vec<Part<'a>> = trimmed.split('/').map(decode).collect();
        let head = &*parts[0];
        match (head, parts.len()) {
            ("livez" | "readyz" | "healthz", _) => health(parts),
            ("version", 1) => Target::Version,
            ("metrics", 1) => Target::Metrics,
            ("coracle", 2) if parts[1] == "backup" => Target::Backup,
            (".well-known", 2) if parts[1] == "openid-configuration" => Target::Issuer,
            ("openid", 3) if parts[1] == "v1" && parts[2] == "jwks" => Target::IssuerKeys,
            ("api", 1) => Target::LegacyVersions,
            ("apis", 1) => Target::Groups,
            ("openapi", _) => openapi(parts),
            ("api", _) => grouped(Cow::Borrowed(""), parts, 1),
            ("apis", 2) => Target::Group(nth(parts, 1)),
            ("apis", _) => grouped(parts[1].clone(), parts, 2),
            _ => Target::Unknown,
        }
    }
}

fn health(parts: Vec<Part>) -> Target {
    let endpoint = match &*parts[0] {
        "livez" => "livez",
        "readyz" => "readyz",
        _ => "healthz",
    };
    // The names of some checks have slashes.
    let check = match &parts[1..] {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(many.join("/").into()),
    };
    Target::Health { endpoint, check }
}

fn openapi(parts: Vec<Part>) -> Target {
    let names: Vec<&str> = parts.iter().map(|part| &**part).collect();
    match names.as_slice() {
        ["openapi", "v2"] => Target::OpenApiV2,
        ["openapi", "v3"] => Target::OpenApiIndex,
        ["openapi", "v3", "api", _] => {
            Target::OpenApi { group: Cow::Borrowed(""), version: nth(parts, 3) }
        }
        ["openapi", "v3", "apis", _, _] => {
            Target::OpenApi { group: parts[3].clone(), version: nth(parts, 4) }
        }
        _ => Target::Unknown,
    }
}

/// `at` is the index of the version.
fn grouped<'a>(group: Part<'a>, parts: Vec<Part<'a>>, at: usize) -> Target<'a> {
    let mut parts = parts.into_iter().skip(at);
    let version = parts.next().unwrap_or_default();
    let mut rest: Vec<Part> = parts.collect();
    if rest.is_empty() {
        return Target::Resources { group, version };
    }
    let watch = rest.len() > 1 && rest[0] == "watch";
    if watch {
        rest.remove(0);
    }
    let mut path = ResourcePath { group, version, watch, ..ResourcePath::default() };
    // `/namespaces/NAME/status` is a subresource of the namespace, not a collection in it.
    let of_namespace = rest.len() == 3 && matches!(&*rest[2], "status" | "finalize");
    if rest[0] == "namespaces" && rest.len() >= 3 && !of_namespace {
        path.namespace = rest.remove(1);
        rest.remove(0);
    }
    // What follows `/proxy` is the path of another server.
    if rest.len() > 3 && rest[2] == "proxy" {
        rest.truncate(3);
    }
    if rest.len() > 3 || rest.iter().any(|part| part.is_empty()) {
        return Target::Unknown;
    }
    let mut rest = rest.into_iter();
    path.resource = rest.next().unwrap_or_default();
    path.name = rest.next().unwrap_or_default();
    path.subresource = rest.next().unwrap_or_default();
    Target::Resource(path)
}

fn nth(parts: Vec<Part>, index: usize) -> Part {
    parts.into_iter().nth(index).unwrap_or_default()
}

/// Percent-decoding; what is not UTF-8 stays as it is, and will name nothing.
pub(super) fn decode(part: &str) -> Part<'_> {
    if !part.contains('%') {
        return Cow::Borrowed(part);
    }
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |index: usize| tail.get(index).and_then(|b| (*b as char).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    match String::from_utf8(bytes) {
        Ok(text) => Cow::Owned(text),
        Err(_) => Cow::Borrowed(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(parts: [&'static str; 6]) -> Target<'static> {
        let [group, version, namespace, resource, name, subresource] = parts.map(Cow::Borrowed);
        let watch = false;
        Target::Resource(ResourcePath {
            group,
            version,
            namespace,
            resource,
            name,
            subresource,
            watch,
        })
    }

    #[test]
    fn every_form_of_path() {
        let cases = [
            ("/api/v1/pods", resource(["", "v1", "", "pods", "", ""])),
            ("/api/v1/nodes/n/status", resource(["", "v1", "", "nodes", "n", "status"])),
            ("/api/v1/namespaces", resource(["", "v1", "", "namespaces", "", ""])),
            ("/api/v1/namespaces/a", resource(["", "v1", "", "namespaces", "a", ""])),
            ("/api/v1/namespaces/a/status", resource(["", "v1", "", "namespaces", "a", "status"])),
            ("/api/v1/namespaces/a/pods/", resource(["", "v1", "a", "pods", "", ""])),
            ("/api/v1/namespaces/a/pods/p/log", resource(["", "v1", "a", "pods", "p", "log"])),
            (
                "/apis/apps/v1/namespaces/a/deployments/d%3A1",
                resource(["apps", "v1", "a", "deployments", "d:1", ""]),
            ),
            ("/api/v1/nodes/n:80/proxy/a//b", resource(["", "v1", "", "nodes", "n:80", "proxy"])),
            (
                "/api/v1/namespaces/a/services/http:s:web/proxy/x/y/",
                resource(["", "v1", "a", "services", "http:s:web", "proxy"]),
            ),
            ("/apis/", Target::Groups),
            ("/api/", Target::LegacyVersions),
            ("/openid/v1/jwks", Target::IssuerKeys),
            ("/.well-known/openid-configuration", Target::Issuer),
            ("/.well-known/other", Target::Unknown),
            ("/apis/apps", Target::Group("apps".into())),
            ("/api/v1/", Target::Resources { group: "".into(), version: "v1".into() }),
            ("/readyz/store", Target::Health { endpoint: "readyz", check: Some("store".into()) }),
            ("/livez/poststarthook/rbac/bootstrap-roles/", {
                let check = Some("poststarthook/rbac/bootstrap-roles".into());
                Target::Health { endpoint: "livez", check }
            }),
            ("/openapi/v2", Target::OpenApiV2),
            ("/openapi/v3", Target::OpenApiIndex),
            ("/openapi/v3/apis/apps/v1", {
                Target::OpenApi { group: "apps".into(), version: "v1".into() }
            }),
            ("/api/v1/pods/a/b/c", Target::Unknown),
            ("/api/v1//pods", Target::Unknown),
            ("/favicon.ico", Target::Unknown),
        ];
        for (path, expected) in cases {
            assert_eq!(Target::parse(path), expected, "{path}");
        }
        let watched = Target::parse("/api/v1/watch/namespaces/a/pods");
        let Target::Resource(path) = watched else { panic!("{watched:?}") };
        assert!(path.watch && path.namespace == "a" && path.resource == "pods");
    }

    proptest::proptest! {
        #[test]
        fn a_slash_at_the_end_changes_nothing(path in "(/(api|apis|v1|watch|namespaces|%[0-9A-Fa-f%é]{0,3}|[a-z.é]{0,5})){0,8}") {
            let slashed = format!("{path}/");
            proptest::prop_assert_eq!(Target::parse(&path), Target::parse(&slashed));
        }
    }
}
