//! kubeconfig files: where the API server is, whom to believe and who we are. Read and merged by
//! kubectl's rules; written so that kubectl works at once.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value};

use crate::BoxError;

/// What is needed to connect.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `https://host:port`, perhaps with a path.
    pub server: String,
    /// PEM; `None`: the system's authorities.
    pub ca: Option<Vec<u8>>,
    pub identity: Option<Identity>,
    pub token: Option<Token>,
    /// Believe any certificate.
    pub insecure: bool,
    /// The name the certificate must bear, if not the server's.
    pub server_name: Option<String>,
    /// The context's default namespace; empty means `default`.
    pub namespace: String,
}

/// A client certificate and its key, PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
    /// Where both were read, and are read again when they have changed.
    pub files: Option<(PathBuf, PathBuf)>,
}

impl Identity {
    pub fn new(certificate: Vec<u8>, key: Vec<u8>) -> Identity {
        Identity { certificate, key, files: None }
    }

    /// Takes over what the files hold now.
    pub fn reread(&mut self) -> std::io::Result<()> {
        if let Some((certificate, key)) = &self.files {
            (self.certificate, self.key) = (std::fs::read(certificate)?, std::fs::read(key)?);
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    Text(String),
    /// Read for every request, because it is renewed there.
    File(PathBuf),
}

/// Why a kubeconfig cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error("cannot read kubeconfig {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write kubeconfig {path}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("kubeconfig {path} is not valid")]
    Parse { path: PathBuf, source: serde_yaml::Error },
    #[error("no kubeconfig: neither KUBECONFIG nor ~/.kube/config names a cluster")]
    Empty,
    #[error("context {0:?} does not exist")]
    NoContext(String),
    #[error("cluster {0:?} does not exist")]
    NoCluster(String),
    #[error("user {0:?} does not exist")]
    NoUser(String),
    #[error("{field} of {name:?} is not base64")]
    Base64 { field: &'static str, name: String, source: base64::DecodeError },
    #[error("cannot read {path}, the {field} of {name:?}")]
    File { field: &'static str, name: String, path: PathBuf, source: std::io::Error },
    #[error("user {name:?} wants {method}, which is not supported")]
    Unsupported { name: String, method: &'static str },
}

/// A kubeconfig, or several merged. What it does not know it keeps.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Kubeconfig {
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    pub kind: String,
    #[serde(rename = "current-context")]
    pub current_context: String,
    #[serde(deserialize_with = "proto::meta::or_default")]
    pub clusters: Vec<NamedCluster>,
    #[serde(deserialize_with = "proto::meta::or_default")]
    pub users: Vec<NamedUser>,
    #[serde(deserialize_with = "proto::meta::or_default")]
    pub contexts: Vec<NamedContext>,
    #[serde(flatten)]
    pub rest: Mapping,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct NamedCluster {
    pub name: String,
    pub cluster: Cluster,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct NamedUser {
    pub name: String,
    #[serde(default)]
    pub user: UserInfo,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct NamedContext {
    pub name: String,
    pub context: Context,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Cluster {
    pub server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<PathBuf>,
    /// Base64 of PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority_data: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_tls_verify: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    #[serde(flatten)]
    pub rest: Mapping,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct UserInfo {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    #[serde(rename = "tokenFile", skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    #[serde(flatten)]
    pub rest: Mapping,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Context {
    pub cluster: String,
    pub user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(flatten)]
    pub rest: Mapping,
}

/// The files to read, in order: the explicit one, else those of `KUBECONFIG` (a colon-separated
/// list), else `~/.kube/config`.
pub fn paths(
    explicit: Option<&Path>,
    kubeconfig: Option<&OsStr>,
    home: Option<&Path>,
) -> Vec<PathBuf> {
    if let Some(path) = explicit {
        return vec![path.into()];
    }
    let listed: Vec<PathBuf> = kubeconfig
        .map(|list| std::env::split_paths(list).filter(|path| path != Path::new("")).collect())
        .unwrap_or_default();
    match home {
        _ if !listed.is_empty() => listed,
        Some(home) => vec![home.join(".kube/config")],
        None => Vec::new(),
    }
}

impl Kubeconfig {
    /// A kubeconfig with one cluster, one user and one context, all called `name`.
    pub fn single(name: &str, config: &Config) -> Kubeconfig {
        let encoded = |pem: &Vec<u8>| STANDARD.encode(pem);
        let identity = config.identity.as_ref();
        let (token, token_file) = match config.token.clone() {
            Some(Token::Text(token)) => (Some(token), None),
            Some(Token::File(path)) => (None, Some(path)),
            None => (None, None),
        };
        let cluster = Cluster {
            server: config.server.clone(),
            certificate_authority_data: config.ca.as_ref().map(encoded),
            insecure_skip_tls_verify: config.insecure,
            tls_server_name: config.server_name.clone(),
            ..Cluster::default()
        };
        let user = UserInfo {
            client_certificate_data: identity.map(|identity| encoded(&identity.certificate)),
            client_key_data: identity.map(|identity| encoded(&identity.key)),
            token,
            token_file,
            ..UserInfo::default()
        };
        let namespace = Some(config.namespace.clone()).filter(|namespace| !namespace.is_empty());
        let context =
            Context { cluster: name.into(), user: name.into(), namespace, rest: Mapping::new() };
        Kubeconfig {
            api_version: "v1".into(),
            kind: "Config".into(),
            current_context: name.into(),
            clusters: vec![NamedCluster { name: name.into(), cluster }],
            users: vec![NamedUser { name: name.into(), user }],
            contexts: vec![NamedContext { name: name.into(), context }],
            rest: Mapping::new(),
        }
    }

    /// Reads and merges the files kubectl would read. An explicit file must exist; of the others,
    /// missing ones are passed over.
    pub fn load(explicit: Option<&Path>) -> Result<Kubeconfig, KubeconfigError> {
        let home = std::env::home_dir();
        let list = std::env::var_os("KUBECONFIG");
        let mut merged = Kubeconfig::default();
        for path in paths(explicit, list.as_deref(), home.as_deref()) {
            match Kubeconfig::read(&path) {
                Ok(next) => merged.add_missing(next),
                Err(KubeconfigError::Read { source, .. })
                    if explicit.is_none() && source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(merged)
    }

    /// Reads one file; relative paths in it become relative to where it lies.
    pub fn read(path: &Path) -> Result<Kubeconfig, KubeconfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| KubeconfigError::Read { path: path.into(), source })?;
        let mut config = Kubeconfig::parse(&text)
            .map_err(|source| KubeconfigError::Parse { path: path.into(), source })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let anchor = |file: &mut Option<PathBuf>| {
            if let Some(file) = file {
                *file = folder.join(&*file);
            }
        };
        for NamedCluster { cluster, .. } in &mut config.clusters {
            anchor(&mut cluster.certificate_authority);
        }
        for NamedUser { user, .. } in &mut config.users {
            anchor(&mut user.client_certificate);
            anchor(&mut user.client_key);
            anchor(&mut user.token_file);
        }
        Ok(config)
    }

    /// Reads a kubeconfig's text; an empty one is an empty kubeconfig.
    pub fn parse(text: &str) -> Result<Kubeconfig, serde_yaml::Error> {
        let value: Option<Kubeconfig> = serde_yaml::from_str(text)?;
        Ok(value.unwrap_or_default())
    }

    /// Adds what this one does not have yet: the first file to define something wins.
    pub fn add_missing(&mut self, other: Kubeconfig) {
        for (own, theirs) in [
            (&mut self.api_version, other.api_version),
            (&mut self.kind, other.kind),
            (&mut self.current_context, other.current_context),
        ] {
            if own.is_empty() {
                *own = theirs;
            }
        }
        for named in other.clusters {
            if self.clusters.iter().all(|known| known.name != named.name) {
                self.clusters.push(named);
            }
        }
        for named in other.users {
            if self.users.iter().all(|known| known.name != named.name) {
                self.users.push(named);
            }
        }
        for named in other.contexts {
            if self.contexts.iter().all(|known| known.name != named.name) {
                self.contexts.push(named);
            }
        }
        for (key, value) in other.rest {
            self.rest.entry(key).or_insert(value);
        }
    }

    /// Removes the context, cluster and user of this name; the current context too if it is it.
    pub fn remove(&mut self, name: &str) {
        self.clusters.retain(|named| named.name != name);
        self.users.retain(|named| named.name != name);
        self.contexts.retain(|named| named.name != name);
        if self.current_context == name {
            self.current_context.clear();
        }
    }

    /// Writes `self` over what the file has under the same names and makes its current context
    /// the file's.
    pub fn merge_into(mut self, path: &Path) -> Result<(), KubeconfigError> {
        let existing = match Kubeconfig::read_raw(path) {
            Ok(existing) => existing,
            Err(KubeconfigError::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Kubeconfig::default()
            }
            Err(error) => return Err(error),
        };
        self.add_missing(existing);
        self.write(path)
    }

    /// Removes the entries of this name from the file; a missing file has none.
    pub fn remove_from(path: &Path, name: &str) -> Result<(), KubeconfigError> {
        match Kubeconfig::read_raw(path) {
            Ok(mut config) => {
                config.remove(name);
                config.write(path)
            }
            Err(KubeconfigError::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// As [`Kubeconfig::read`], with paths as written.
    fn read_raw(path: &Path) -> Result<Kubeconfig, KubeconfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| KubeconfigError::Read { path: path.into(), source })?;
        Kubeconfig::parse(&text)
            .map_err(|source| KubeconfigError::Parse { path: path.into(), source })
    }

    /// Writes the file, readable by its owner alone, in one step.
    pub fn write(&self, path: &Path) -> Result<(), KubeconfigError> {
        let failed = |source| KubeconfigError::Write { path: path.into(), source };
        let text =
            serde_yaml::to_string(self).map_err(|source| failed(std::io::Error::other(source)))?;
        write_private(path, text.as_bytes()).map_err(failed)
    }

    /// What is needed to connect with a context, by default the current one.
    pub fn config(&self, context: Option<&str>) -> Result<Config, KubeconfigError> {
        if self.contexts.is_empty() && self.clusters.is_empty() && context.is_none() {
            return Err(KubeconfigError::Empty);
        }
        let wanted = context.unwrap_or(&self.current_context);
        let context = self
            .contexts
            .iter()
            .find(|named| named.name == wanted)
            .map(|named| &named.context)
            .ok_or_else(|| KubeconfigError::NoContext(wanted.into()))?;
        let cluster = self
            .clusters
            .iter()
            .find(|named| named.name == context.cluster)
            .ok_or_else(|| KubeconfigError::NoCluster(context.cluster.clone()))?;
        let nobody = NamedUser::default();
        let user = match context.user.as_str() {
            "" => &nobody,
            name => self
                .users
                .iter()
                .find(|named| named.name == name)
                .ok_or_else(|| KubeconfigError::NoUser(name.into()))?,
        };
        let mut config = user.credentials()?;
        let NamedCluster { name, cluster } = cluster;
        config.server = cluster.server.clone();
        config.ca = material(
            "certificate-authority",
            name,
            &cluster.certificate_authority_data,
            &cluster.certificate_authority,
        )?;
        config.insecure = cluster.insecure_skip_tls_verify;
        config.server_name = cluster.tls_server_name.clone();
        config.namespace = context.namespace.clone().unwrap_or_default();
        Ok(config)
    }
}

impl NamedUser {
    fn credentials(&self) -> Result<Config, KubeconfigError> {
        let NamedUser { name, user } = self;
        for method in ["exec", "auth-provider", "username", "as"] {
            if user.rest.get(Value::from(method)).is_some_and(|value| !value.is_null()) {
                return Err(KubeconfigError::Unsupported { name: name.clone(), method });
            }
        }
        let certificate = material(
            "client-certificate",
            name,
            &user.client_certificate_data,
            &user.client_certificate,
        )?;
        let key = material("client-key", name, &user.client_key_data, &user.client_key)?;
        let inline = |data: &Option<String>| data.as_deref().is_some_and(|data| !data.is_empty());
        let files = user.client_certificate.clone().zip(user.client_key.clone());
        let files = files
            .filter(|_| !inline(&user.client_certificate_data) && !inline(&user.client_key_data));
        let identity = certificate
            .zip(key)
            .map(|(certificate, key)| Identity { files, ..Identity::new(certificate, key) });
        let file = user.token_file.clone().map(Token::File);
        let token = file.or_else(|| user.token.clone().map(Token::Text));
        Ok(Config { identity, token, ..Config::default() })
    }
}

/// The bytes given inline, or those of the file.
fn material(
    field: &'static str,
    name: &str,
    data: &Option<String>,
    file: &Option<PathBuf>,
) -> Result<Option<Vec<u8>>, KubeconfigError> {
    if let Some(data) = data.as_deref().filter(|data| !data.is_empty()) {
        let decoded = STANDARD.decode(data.trim());
        return decoded.map(Some).map_err(|source| KubeconfigError::Base64 {
            field,
            name: name.into(),
            source,
        });
    }
    let Some(path) = file.as_ref().filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(None);
    };
    std::fs::read(path).map(Some).map_err(|source| KubeconfigError::File {
        field,
        name: name.into(),
        path: path.clone(),
        source,
    })
}

/// Writes beside the file and renames, so that no reader sees half of it.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
    if let Some(folder) = path.parent().filter(|folder| *folder != Path::new("")) {
        std::fs::create_dir_all(folder)?;
    }
    let mut beside = path.clone().into_os_string();
    beside.push(format!(".{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(bytes)?;
    std::fs::rename(&beside, &path)
}

/// Reads the kubeconfig at `path` and resolves its current context, as a component does that was
/// started with `--kubeconfig`.
pub fn component(path: &Path) -> Result<Config, BoxError> {
    Ok(Kubeconfig::read(path)?.config(None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_files_are_read() {
        let home = Some(Path::new("/home/u"));
        let list = Some(OsStr::new("/a::/b"));
        for (explicit, list, expected) in [
            (Some(Path::new("/x")), list, vec!["/x"]),
            (None, list, vec!["/a", "/b"]),
            (None, Some(OsStr::new("")), vec!["/home/u/.kube/config"]),
            (None, None, vec!["/home/u/.kube/config"]),
        ] {
            let expected: Vec<PathBuf> = expected.into_iter().map(PathBuf::from).collect();
            assert_eq!(paths(explicit, list, home), expected);
        }
    }

    #[test]
    fn merged_in_order_and_written_back_whole() {
        let theirs = "apiVersion: v1\nkind: Config\npreferences: {colors: true}\n\
            current-context: b\nclusters:\n- name: b\n  cluster: {server: 'https://b', extra: 1}\n\
            users: null\ncontexts:\n- name: b\n  context: {cluster: b, user: ''}\n";
        let folder =
            std::env::temp_dir().join(format!("coracle-kubeconfig-{}", std::process::id()));
        let path = folder.join("config");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(&path, theirs).unwrap();
        let config = Config {
            server: "https://a:6443".into(),
            ca: Some(b"pem".to_vec()),
            token: Some(Token::Text("t".into())),
            ..Config::default()
        };
        Kubeconfig::single("coracle-a", &config).merge_into(&path).unwrap();
        let merged = Kubeconfig::read(&path).unwrap();
        assert_eq!(merged.current_context, "coracle-a");
        let back = merged.config(None).unwrap();
        assert_eq!(
            (back.server.as_str(), back.ca.as_deref()),
            ("https://a:6443", Some(&b"pem"[..]))
        );
        assert_eq!(back.token, config.token);
        assert_eq!(merged.config(Some("b")).unwrap().server, "https://b");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("extra: 1") && text.contains("colors: true"), "{text}");
        Kubeconfig::remove_from(&path, "coracle-a").unwrap();
        let rest = Kubeconfig::read(&path).unwrap();
        assert!(rest.clusters.len() == 1 && rest.current_context.is_empty());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_is_wrong_is_named() {
        let text = "contexts:\n- name: a\n  context: {cluster: a, user: u}\n\
            clusters:\n- name: a\n  cluster: {server: 'https://a'}\n\
            users:\n- name: u\n  user: {exec: {command: x}}\n";
        let config = Kubeconfig::parse(text).unwrap();
        let said = |context: &str| config.config(Some(context)).unwrap_err().to_string();
        assert_eq!(said("z"), "context \"z\" does not exist");
        assert_eq!(said("a"), "user \"u\" wants exec, which is not supported");
        assert!(matches!(Kubeconfig::default().config(None), Err(KubeconfigError::Empty)));
    }
}
