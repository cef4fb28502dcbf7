//! Credentials that programs on the node give out (Kubernetes: Configure a kubelet image credential
//! provider): each is asked about the images that it matches, and remembered as long as it says.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use client::Clock;
use client::error::chain;
use parking_lot::Mutex;
use proto::cri;
use proto::time::Time;
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::credentials::{Credential, matches};
use crate::options::duration;
use crate::reference::Reference;

const CONFIG_APIS: &[&str] = &[
    "kubelet.config.k8s.io/v1",
    "kubelet.config.k8s.io/v1beta1",
    "kubelet.config.k8s.io/v1alpha1",
];
const APIS: &[&str] = &[
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];
/// As long as the kubelet waits for a program.
const PATIENCE: Duration = Duration::from_secs(60);

/// The file of `--image-credential-provider-config` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read {path}")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no CredentialProviderConfig")]
    Yaml {
        path: String,
        #[source]
        source: serde_yaml::Error,
    },
    #[error("{path}: {problem}")]
    Value { path: String, problem: String },
}

/// Why a provider gave no credentials.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("run it")]
    Run(#[source] io::Error),
    #[error("it did not answer in time")]
    Timeout,
    #[error("it ended with {0}")]
    Exit(std::process::ExitStatus),
    #[error("its answer is no CredentialProviderResponse")]
    Answer(#[source] serde_json::Error),
    #[error("its answer is a {0:?} of {1:?}")]
    Kind(String, String),
    #[error("its cacheDuration is not one: {0}")]
    Duration(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Config {
    kind: String,
    api_version: String,
    providers: Vec<Provider>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Provider {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: String,
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    cache_key_type: String,
    cache_duration: Option<String>,
    #[serde(default, deserialize_with = "proto::meta::or_default")]
    auth: BTreeMap<String, Login>,
}

#[derive(Clone, Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Login {
    username: String,
    password: String,
}

type Logins = Vec<(String, Login)>;

/// The programs of one node.
pub struct Providers {
    programs: PathBuf,
    all: Vec<Provider>,
    clock: Clock,
    /// By provider and what the answer is for, until when.
    known: Mutex<HashMap<(String, String), (Time, Logins)>>,
}

impl Providers {
    pub fn open(config: &Path, programs: &Path, clock: Clock) -> Result<Providers, ConfigError> {
        let path = config.display().to_string();
        let text = std::fs::read_to_string(config)
            .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        let config: Config = serde_yaml::from_str(&text)
            .map_err(|source| ConfigError::Yaml { path: path.clone(), source })?;
        check(&config).map_err(|problem| ConfigError::Value { path, problem })?;
        let known = Mutex::default();
        Ok(Providers { programs: programs.to_owned(), all: config.providers, clock, known })
    }

    /// What the providers have for the image.
    pub async fn credentials(&self, image: &Reference) -> Vec<Credential> {
        let mut found = Vec::new();
        for provider in &self.all {
            if !provider.match_images.iter().any(|pattern| matches(pattern, image)) {
                continue;
            }
            match self.logins(provider, image).await {
                Ok(logins) => {
                    // A longer pattern knows better.
                    let ours = logins.into_iter().rev().filter(|(key, _)| matches(key, image));
                    found.extend(ours.map(|(_, login)| login));
                }
                Err(error) => tracing::warn!(
                    provider = provider.name,
                    error = chain(&error),
                    "a credential provider gave no credentials"
                ),
            }
        }
        let credential = |login: Login| Credential {
            secret: None,
            auth: cri::AuthConfig {
                username: login.username,
                password: login.password,
                ..Default::default()
            },
        };
        found.into_iter().map(credential).collect()
    }

    async fn logins(&self, provider: &Provider, image: &Reference) -> Result<Logins, AskError> {
        let keys = [image.name(), image.registry.clone(), String::new()];
        let now = self.clock.now();
        for key in &keys {
            let mut known = self.known.lock();
            known.retain(|_, (until, _)| *until > now);
            if let Some((_, logins)) = known.get(&(provider.name.clone(), key.clone())) {
                return Ok(logins.clone());
            }
        }
        let answer = self.ask(provider, image).await?;
        let lasts = answer.cache_duration.as_ref().unwrap_or(&provider.default_cache_duration);
        let lasts = duration(lasts).map_err(AskError::Duration)?;
        let [own, registry, all] = keys;
        let key = match answer.cache_key_type.as_str() {
            "Global" => all,
            "Registry" => registry,
            _ => own,
        };
        let logins: Logins = answer.auth.into_iter().collect();
        if !lasts.is_zero() {
            let until = self.clock.now().plus(lasts);
            self.known.lock().insert((provider.name.clone(), key), (until, logins.clone()));
        }
        Ok(logins)
    }

    async fn ask(&self, provider: &Provider, image: &Reference) -> Result<Answer, AskError> {
        let mut command = tokio::process::Command::new(self.programs.join(&provider.name));
        command
            .args(&provider.args)
            .envs(provider.env.iter().map(|variable| (&variable.name, &variable.value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        let request = json!({
            "kind": "CredentialProviderRequest",
            "apiVersion": provider.api_version,
            "image": image.to_string(),
        });
        let talk = async {
            let mut child = command.spawn()?;
            if let Some(mut input) = child.stdin.take() {
                // One that does not read may answer nevertheless.
                let _ = input.write_all(request.to_string().as_bytes()).await;
            }
            child.wait_with_output().await
        };
        let output = self.clock.timeout(PATIENCE, talk).await.map_err(|_| AskError::Timeout)?;
        let output = output.map_err(AskError::Run)?;
        if !output.status.success() {
            return Err(AskError::Exit(output.status));
        }
        let answer: Answer = serde_json::from_slice(&output.stdout).map_err(AskError::Answer)?;
        if answer.kind != "CredentialProviderResponse" || answer.api_version != provider.api_version
        {
            return Err(AskError::Kind(answer.kind, answer.api_version));
        }
        Ok(answer)
    }
}

fn check(config: &Config) -> Result<(), String> {
    if config.kind != "CredentialProviderConfig" {
        return Err(format!("kind {:?} is not CredentialProviderConfig", config.kind));
    }
    if !CONFIG_APIS.contains(&config.api_version.as_str()) {
        return Err(format!("apiVersion {:?} is none of {CONFIG_APIS:?}", config.api_version));
    }
    let mut names = std::collections::BTreeSet::new();
    for provider in &config.providers {
        let name = &provider.name;
        let bad = |what: String| Err(format!("provider {name:?}: {what}"));
        if name.is_empty() || name.contains(['/', ' ']) || matches!(name.as_str(), "." | "..") {
            return bad(
                "the name is that of a program in --image-credential-provider-bin-dir".into()
            );
        }
        if !names.insert(name) {
            return bad("there are two of that name".into());
        }
        if !APIS.contains(&provider.api_version.as_str()) {
            return bad(format!("apiVersion {:?} is none of {APIS:?}", provider.api_version));
        }
        if provider.match_images.is_empty() {
            return bad("matchImages is empty".into());
        }
        if let Err(problem) = duration(&provider.default_cache_duration) {
            return bad(format!("defaultCacheDuration: {problem}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const CONFIG: &str = "
kind: CredentialProviderConfig
apiVersion: kubelet.config.k8s.io/v1
providers:
- name: login
  matchImages: ['*.reg.test', 'other.test/team']
  defaultCacheDuration: 1h
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  args: [counted]
  env: [{name: WHO, value: robot}]
";

    #[tokio::test]
    async fn programs_are_asked_once_and_only_about_their_images() {
        let folder = tempfile::tempdir().unwrap();
        let (config, count) = (folder.path().join("config.yaml"), folder.path().join("counted"));
        std::fs::write(&config, CONFIG).unwrap();
        let answer = r#"{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","auth":{"*.reg.test":{"username":"'$WHO'","password":"p"},"a.reg.test/x":{"username":"x","password":"p"},"else.test":{"username":"no","password":""}}}"#;
        let script = format!("#!/bin/sh\ncat >> {}\necho '{answer}'\n", count.display());
        let program = folder.path().join("login");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let providers = Providers::open(&config, folder.path(), Clock::system()).unwrap();
        let ask = async |image: &str| {
            let found = providers.credentials(&image.parse().unwrap()).await;
            found.into_iter().map(|one| one.auth.username).collect::<Vec<_>>()
        };
        assert_eq!(ask("a.reg.test/x:1").await, ["x", "robot"]);
        assert_eq!(ask("a.reg.test/y:1").await, ["robot"]);
        assert_eq!(ask("quay.test/y:1").await, [""; 0]);
        let asked = std::fs::read_to_string(&count).unwrap();
        assert_eq!(asked.matches("CredentialProviderRequest").count(), 1, "{asked}");
        assert!(asked.contains(r#""image":"a.reg.test/x:1""#), "{asked}");
        std::fs::write(&program, "#!/bin/sh\nexit 3\n").unwrap();
        assert_eq!(ask("other.test/team/z").await, [""; 0]);
    }

    #[test]
    fn what_is_wrong_with_a_configuration_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        for (from, to, problem) in [
            ("kind: C", "kind: D", "is not CredentialProviderConfig"),
            ("name: login", "name: ../login", "the name is that of a program"),
            ("1h", "soon", "defaultCacheDuration"),
            ("k8s.io/v1\n  args", "k8s.io/v9\n  args", "apiVersion"),
            ("args: [counted]", "tokenAttributes: {}", "no CredentialProviderConfig"),
        ] {
            std::fs::write(&path, CONFIG.replace(from, to)).unwrap();
            let opened = Providers::open(&path, folder.path(), Clock::system());
            let error = opened.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(problem), "{to}: {error}");
        }
    }
}
