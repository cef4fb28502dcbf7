//! The configuration file: KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1. What it
//! says is done or refused; only what has no meaning here is passed over, with a warning.
//! <https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/>

mod args;
mod plugins;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::LeaseName;
use serde::Deserialize;
use serde_yaml::Value;

use crate::profile::{DEFAULT_NAME, Profile};

#[derive(Clone)]
pub struct Config {
    pub profiles: Vec<Arc<Profile>>,
    pub leader_elect: Option<bool>,
    pub lease: LeaseName,
    /// How long a pod waits after its first failure, and how long at most.
    pub first_backoff: Duration,
    pub longest_backoff: Duration,
}

/// Why a file is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{}: not a KubeSchedulerConfiguration", .0.display())]
    Syntax(PathBuf, #[source] serde_yaml::Error),
    #[error("{}: {}", .0.display(), .1)]
    Invalid(PathBuf, String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    profiles: Vec<FileProfile>,
    percentage_of_nodes_to_score: Option<i64>,
    pod_initial_backoff_seconds: Option<i64>,
    pod_max_backoff_seconds: Option<i64>,
    #[serde(default)]
    leader_election: LeaderElection,
    #[serde(default)]
    extenders: Vec<Value>,
    parallelism: Option<i64>,
    client_connection: Option<Value>,
    enable_profiling: Option<bool>,
    enable_contention_profiling: Option<bool>,
    delay_cache_until_active: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct FileProfile {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<i64>,
    plugins: plugins::Plugins,
    plugin_config: Vec<args::PluginConfig>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct LeaderElection {
    leader_elect: Option<bool>,
    lease_duration: Option<String>,
    renew_deadline: Option<String>,
    retry_period: Option<String>,
    resource_lock: Option<String>,
    resource_name: Option<String>,
    resource_namespace: Option<String>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            profiles: vec![Arc::new(Profile::default())],
            leader_elect: None,
            lease: LeaseName::system("kube-scheduler"),
            first_backoff: Duration::from_secs(1),
            longest_backoff: Duration::from_secs(10),
        }
    }
}

impl Config {
    pub fn load(path: &Path) -> Result<Config, Error> {
        let text = std::fs::read_to_string(path).map_err(|why| Error::Read(path.into(), why))?;
        Config::parse(&text, path)
    }

    /// `path` is what errors speak of.
    pub fn parse(text: &str, path: &Path) -> Result<Config, Error> {
        let file: File =
            serde_yaml::from_str(text).map_err(|why| Error::Syntax(path.into(), why))?;
        file.config().map_err(|why| Error::Invalid(path.into(), why))
    }
}

impl File {
    fn config(self) -> Result<Config, String> {
        if self.api_version != "kubescheduler.config.k8s.io/v1" {
            return Err(format!("apiVersion {:?} is not known", self.api_version));
        }
        if self.kind != "KubeSchedulerConfiguration" {
            return Err(format!("kind {:?} is not KubeSchedulerConfiguration", self.kind));
        }
        if !self.extenders.is_empty() {
            return Err("extenders: this scheduler calls no extenders".into());
        }
        self.warn();
        let seconds = |field: &str, value: Option<i64>, default: i64| match value {
            Some(value) if value < 1 => Err(format!("{field}: must be greater than 0")),
            value => Ok(Duration::from_secs(value.unwrap_or(default) as u64)),
        };
        let first = seconds("podInitialBackoffSeconds", self.pod_initial_backoff_seconds, 1)?;
        let longest = seconds("podMaxBackoffSeconds", self.pod_max_backoff_seconds, 10)?;
        if longest < first {
            let why = "podMaxBackoffSeconds: must not be less than podInitialBackoffSeconds";
            return Err(why.into());
        }
        let common = percentage(self.percentage_of_nodes_to_score)?.unwrap_or(0);
        let default = match self.profiles.is_empty() {
            true => vec![FileProfile::default()],
            false => Vec::new(),
        };
        let alone = self.profiles.len() <= 1;
        let mut names = HashSet::new();
        let mut profiles = Vec::new();
        for (at, profile) in self.profiles.into_iter().chain(default).enumerate() {
            let path = format!("profiles[{at}]");
            let profile = profile.profile(common, alone).map_err(|why| format!("{path}.{why}"))?;
            if !names.insert(profile.name.clone()) {
                return Err(format!("{path}.schedulerName: {:?} is taken", profile.name));
            }
            profiles.push(Arc::new(profile));
        }
        Ok(Config {
            profiles,
            leader_elect: self.leader_election.leader_elect,
            lease: self.leader_election.lease()?,
            first_backoff: first,
            longest_backoff: longest,
        })
    }

    fn warn(&self) {
        let ignored = [
            (self.parallelism.is_some(), "parallelism: decisions are made one after another"),
            (self.client_connection.is_some(), "clientConnection: see --kubeconfig"),
            (self.enable_profiling.is_some(), "enableProfiling: there is no such endpoint"),
            (
                self.enable_contention_profiling.is_some(),
                "enableContentionProfiling: there is no such endpoint",
            ),
            (self.delay_cache_until_active.is_some(), "delayCacheUntilActive"),
        ];
        for (_, field) in ignored.iter().filter(|(said, _)| *said) {
            tracing::warn!("the configuration's field has no effect: {field}");
        }
    }
}

impl FileProfile {
    fn profile(self, common: u32, alone: bool) -> Result<Profile, String> {
        let name = match self.scheduler_name {
            Some(name) if !name.is_empty() => name,
            _ if alone => DEFAULT_NAME.into(),
            _ => return Err("schedulerName: Required value".into()),
        };
        let mut profile = Profile { name, ..Profile::default() };
        profile.percentage_of_nodes_to_score =
            percentage(self.percentage_of_nodes_to_score)?.unwrap_or(common);
        self.plugins.apply(&mut profile)?;
        let mut told = HashSet::new();
        for config in self.plugin_config {
            if !told.insert(config.name.clone()) {
                return Err(format!("pluginConfig: {:?} is there twice", config.name));
            }
            let name = config.name.clone();
            config.apply(&mut profile.args).map_err(|why| format!("pluginConfig {name}: {why}"))?;
        }
        Ok(profile)
    }
}

impl LeaderElection {
    fn lease(&self) -> Result<LeaseName, String> {
        // The times of leader election are the same for every component here.
        for (field, value, only) in [
            ("leaseDuration", &self.lease_duration, "15s"),
            ("renewDeadline", &self.renew_deadline, "10s"),
            ("retryPeriod", &self.retry_period, "2s"),
            ("resourceLock", &self.resource_lock, "leases"),
        ] {
            if value.as_ref().is_some_and(|value| value != only) {
                return Err(format!("leaderElection.{field}: only {only:?} is supported"));
            }
        }
        Ok(LeaseName {
            namespace: self.resource_namespace.clone().unwrap_or("kube-system".into()),
            name: self.resource_name.clone().unwrap_or("kube-scheduler".into()),
        })
    }
}

fn percentage(value: Option<i64>) -> Result<Option<u32>, String> {
    let Some(value) = value else { return Ok(None) };
    match u32::try_from(value) {
        Ok(value) if value <= 100 => Ok(Some(value)),
        _ => Err("percentageOfNodesToScore: not in valid range [0-100]".into()),
    }
}
