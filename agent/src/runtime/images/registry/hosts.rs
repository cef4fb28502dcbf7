//! Where the images of a registry come from: a folder per registry in containerd's layout,
//! `certs.d/HOST/hosts.toml` with `certs.d/_default` for all others, or certificates alone as
//! Docker keeps them. Read anew for every pull, so that changes count at once.
//!
//! Names and files in, a list of hosts to try out; nothing here speaks to anybody.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use serde::Deserialize;

const DEFAULT: &str = "_default";
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// One host to ask.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    pub scheme: &'static str,
    /// Host and port.
    pub authority: String,
    /// What comes before the repository: `/v2`.
    pub path: String,
    /// Blobs and manifests by digest.
    pub pull: bool,
    /// What a tag stands for.
    pub resolve: bool,
    pub tls: Tls,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub dial_timeout: Duration,
    /// The registry that it stands in for, where that is another.
    pub mirror_of: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tls {
    /// Files of authorities beside the system's.
    pub ca: Vec<PathBuf>,
    /// Certificate and key, which may be one file.
    pub client: Option<(PathBuf, PathBuf)>,
    pub skip_verify: bool,
}

/// A registry's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    #[error("read {path}")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not what hosts.toml may be")]
    Toml {
        path: String,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("{path}: {problem}")]
    Value { path: String, problem: String },
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: toml::Table,
    capabilities: Option<Vec<String>>,
    ca: Option<toml::Value>,
    client: Option<toml::Value>,
    skip_verify: Option<bool>,
    override_path: Option<bool>,
    header: Option<toml::Table>,
    dial_timeout: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    capabilities: Option<Vec<String>>,
    ca: Option<toml::Value>,
    client: Option<toml::Value>,
    skip_verify: Option<bool>,
    override_path: Option<bool>,
    header: Option<toml::Table>,
    dial_timeout: Option<String>,
}

/// The hosts to try for a registry, in order; the last is the registry itself, or what the file
/// calls its server.
pub fn hosts(folder: &Path, registry: &str) -> Result<Vec<Host>, HostsError> {
    let Some(own) = folder_of(folder, registry) else { return Ok(vec![upstream(registry)]) };
    let path = own.join("hosts.toml");
    match fs::read_to_string(&path) {
        Ok(text) => parse(&text, &path, registry),
        Err(error) if error.kind() == io::ErrorKind::NotFound => certificates(&own, registry),
        Err(source) => Err(HostsError::Read { path: path.display().to_string(), source }),
    }
}

fn folder_of(folder: &Path, registry: &str) -> Option<PathBuf> {
    // A colon is not allowed in every file system: containerd's spelling without one comes first.
    let plain = registry.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_"));
    let names = plain.iter().map(String::as_str).chain([registry, DEFAULT]);
    names.map(|name| folder.join(name)).find(|path| path.is_dir())
}

/// The registry as it is without any configuration: by HTTPS, or by plain HTTP on this machine.
pub fn upstream(registry: &str) -> Host {
    let authority = match registry {
        "docker.io" => "registry-1.docker.io",
        other => other,
    };
    let name = authority.rsplit_once(':').map_or(authority, |(name, _)| name);
    let local = name == "localhost" || name.starts_with("127.") || name == "[::1]";
    Host {
        scheme: if local { "http" } else { "https" },
        authority: authority.to_owned(),
        path: "/v2".to_owned(),
        pull: true,
        resolve: true,
        tls: Tls::default(),
        headers: Vec::new(),
        dial_timeout: DIAL_TIMEOUT,
        mirror_of: None,
    }
}

fn parse(text: &str, path: &Path, registry: &str) -> Result<Vec<Host>, HostsError> {
    let shown = path.display().to_string();
    let broken = |source| HostsError::Toml { path: shown.clone(), source: Box::new(source) };
    let file: File = toml::from_str(text).map_err(broken)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut hosts = Vec::new();
    for (url, value) in file.host {
        let entry: Entry = value.try_into().map_err(broken)?;
        hosts.push(host(&url, entry, folder, registry).map_err(|problem| HostsError::Value {
            path: shown.clone(),
            problem: format!("host {url:?}: {problem}"),
        })?);
    }
    let entry = Entry {
        capabilities: file.capabilities,
        ca: file.ca,
        client: file.client,
        skip_verify: file.skip_verify,
        override_path: file.override_path,
        header: file.header,
        dial_timeout: file.dial_timeout,
    };
    let own = upstream(registry);
    let server = match file.server {
        Some(server) => server,
        // Settings of certificates are meant for HTTPS.
        None if entry.ca.is_some() || entry.client.is_some() || entry.skip_verify.is_some() => {
            format!("https://{}", own.authority)
        }
        None => format!("{}://{}", own.scheme, own.authority),
    };
    let server = host(&server, entry, folder, registry).map_err(|problem| HostsError::Value {
        path: shown.clone(),
        problem: format!("server {server:?}: {problem}"),
    })?;
    hosts.push(server);
    Ok(hosts)
}

fn host(url: &str, entry: Entry, folder: &Path, registry: &str) -> Result<Host, String> {
    let full = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    let uri: Uri = full.parse().map_err(|_| "not a URL".to_owned())?;
    let scheme = match uri.scheme_str() {
        Some("http") => "http",
        Some("https") => "https",
        _ => return Err("neither http:// nor https://".into()),
    };
    let authority = uri.authority().ok_or("no host")?.as_str().to_owned();
    if authority.contains('@') || uri.query().is_some() {
        return Err("a URL of scheme, host and path is meant".into());
    }
    let mut path = uri.path().trim_end_matches('/').to_owned();
    if entry.override_path != Some(true) && !path.ends_with("/v2") {
        path.push_str("/v2");
    }
    let capabilities = entry.capabilities.unwrap_or_else(|| vec!["pull".into(), "resolve".into()]);
    // Nothing is ever pushed from here.
    if let Some(odd) = capabilities.iter().find(|c| !["pull", "resolve", "push"].contains(&&***c)) {
        return Err(format!("capability {odd:?} is none of pull, resolve and push"));
    }
    let has = |name: &str| capabilities.iter().any(|known| known == name);
    let dial_timeout = match &entry.dial_timeout {
        Some(text) => seconds(text).ok_or(format!("dial_timeout {text:?} is no duration"))?,
        None => DIAL_TIMEOUT,
    };
    let own = authority == registry || authority == upstream(registry).authority;
    Ok(Host {
        scheme,
        path,
        pull: has("pull"),
        resolve: has("resolve"),
        tls: Tls {
            ca: authorities(entry.ca, folder)?,
            client: client(entry.client, folder)?,
            skip_verify: entry.skip_verify.unwrap_or(false),
        },
        headers: headers(entry.header.unwrap_or_default())?,
        dial_timeout,
        mirror_of: (!own).then(|| registry.to_owned()),
        authority,
    })
}

fn authorities(value: Option<toml::Value>, folder: &Path) -> Result<Vec<PathBuf>, String> {
    let text = |value: toml::Value| match value {
        toml::Value::String(path) => Ok(folder.join(path)),
        _ => Err("ca is a file or a list of files".to_owned()),
    };
    match value {
        None => Ok(Vec::new()),
        Some(toml::Value::Array(list)) => list.into_iter().map(text).collect(),
        Some(one) => Ok(vec![text(one)?]),
    }
}

/// A file, or pairs of certificate and key. TLS shows one of them, so that more make no sense.
fn client(value: Option<toml::Value>, folder: &Path) -> Result<Option<(PathBuf, PathBuf)>, String> {
    use toml::Value::{Array, String};
    let problem = || Err("client is a file, or one pair of certificate and key".to_owned());
    let pair = |cert: &str, key: &str| {
        let key = if key.is_empty() { cert } else { key };
        Ok(Some((folder.join(cert), folder.join(key))))
    };
    match value {
        None => Ok(None),
        Some(String(file)) => pair(&file, &file),
        Some(Array(list)) => match list.as_slice() {
            [] => Ok(None),
            [String(file)] => pair(file, file),
            [Array(inner)] => match inner.as_slice() {
                [String(file)] => pair(file, file),
                [String(cert), String(key)] => pair(cert, key),
                _ => problem(),
            },
            _ => problem(),
        },
        Some(_) => problem(),
    }
}

fn headers(table: toml::Table) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut headers = Vec::new();
    for (name, value) in table {
        let values = match value {
            toml::Value::Array(values) => values,
            one => vec![one],
        };
        let key: HeaderName = name.parse().map_err(|_| format!("{name:?} is no header's name"))?;
        for value in values {
            let text = value.as_str().and_then(|text| HeaderValue::from_str(text).ok());
            headers.push((key.clone(), text.ok_or(format!("header {name:?} has no text"))?));
        }
    }
    Ok(headers)
}

/// Go's durations, as far as a timeout needs them: `500ms`, `10s`, `1m`.
fn seconds(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let unit = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * unit).ok()
}

/// Docker's layout: `*.crt` are authorities, `NAME.cert` and `NAME.key` the client's.
fn certificates(folder: &Path, registry: &str) -> Result<Vec<Host>, HostsError> {
    let failed = |source| HostsError::Read { path: folder.display().to_string(), source };
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).map_err(failed)?.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut host = upstream(registry);
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => host.tls.ca.push(path),
            Some("cert") => host.tls.client = Some((path.clone(), path.with_extension("key"))),
            _ => {}
        }
    }
    if host.tls != Tls::default() {
        host.scheme = "https";
    }
    Ok(vec![host])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Host>, String> {
        parse(text, Path::new("/c/reg.test/hosts.toml"), "reg.test").map_err(|error| {
            use std::error::Error;
            format!("{error}: {:?}", error.source().map(ToString::to_string))
        })
    }

    fn url(host: &Host) -> String {
        format!("{}://{}{}", host.scheme, host.authority, host.path)
    }

    #[test]
    fn hosts_are_tried_in_the_order_of_the_file_and_the_server_last() {
        let hosts = read(
            r#"
            server = "https://reg.test"
            [host."https://z.test/cache/"]
            capabilities = ["pull"]
            ca = ["z.pem", "/abs.pem"]
            client = [["c.pem", "k.pem"]]
            dial_timeout = "500ms"
            header = { x-one = "1", x-two = ["2", "3"] }
            [host."http://a.test:5000/whole/path"]
            override_path = true
            skip_verify = true
            "#,
        )
        .unwrap();
        let urls: Vec<_> = hosts.iter().map(url).collect();
        assert_eq!(
            urls,
            ["https://z.test/cache/v2", "http://a.test:5000/whole/path", "https://reg.test/v2"]
        );
        let [z, a, server] = &hosts[..] else { panic!("{hosts:?}") };
        assert_eq!((z.pull, z.resolve), (true, false));
        assert_eq!(z.tls.ca, [Path::new("/c/reg.test/z.pem"), Path::new("/abs.pem")]);
        let client = (PathBuf::from("/c/reg.test/c.pem"), PathBuf::from("/c/reg.test/k.pem"));
        assert_eq!(z.tls.client, Some(client));
        assert_eq!((z.headers.len(), z.dial_timeout), (3, Duration::from_millis(500)));
        assert!(a.tls.skip_verify && a.resolve);
        assert_eq!(z.mirror_of.as_deref(), Some("reg.test"));
        assert_eq!(server.mirror_of, None);
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for (text, problem) in [
            ("serve = 1", "unknown field"),
            ("[host.\"https://x\"]\nskip = true", "unknown field"),
            ("[host.\"https://x\"]\ncapabilities = [\"fly\"]", "capability"),
            ("[host.\"ftp://x\"]", "neither http"),
            ("[host.\"https://x\"]\nca = 1", "ca is a file"),
            ("[host.\"https://x\"]\nclient = [\"a\", \"b\"]", "one pair"),
            ("[host.\"https://x\"]\ndial_timeout = \"soon\"", "no duration"),
            ("server = ", "hosts.toml may be"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn folders_are_found_by_registry() {
        let folder = tempfile::tempdir().unwrap();
        let find = |registry: &str| {
            hosts(folder.path(), registry).unwrap().iter().map(url).collect::<Vec<_>>()
        };
        assert_eq!(find("docker.io"), ["https://registry-1.docker.io/v2"]);
        assert_eq!(find("localhost:5000"), ["http://localhost:5000/v2"]);
        let make = |name: &str, text: &str| {
            fs::create_dir_all(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("hosts.toml"), text).unwrap();
        };
        make("_default", "[host.\"https://all.test\"]");
        make("reg.test_5000_", "server = \"http://other.test\"");
        assert_eq!(find("docker.io"), ["https://all.test/v2", "https://registry-1.docker.io/v2"]);
        assert_eq!(find("reg.test:5000"), ["http://other.test/v2"]);
        let certs = folder.path().join("127.0.0.1:5000");
        fs::create_dir_all(&certs).unwrap();
        fs::write(certs.join("ca.crt"), "").unwrap();
        assert_eq!(find("127.0.0.1:5000"), ["https://127.0.0.1:5000/v2"]);
    }
}
