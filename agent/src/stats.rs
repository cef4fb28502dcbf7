//! What the node and its pods use: collected from the runtime over CRI, from the machine's /proc
//! and from the folders of pods, and told as the kubelet tells it (`stats/v1alpha1`). Nothing is
//! looked at before somebody asks, and nothing is kept but the last CPU times, of which the next
//! asker's rates are made.

use std::sync::Arc;

use client::Informer;
use proto::time::Time;
use proto::view::pod::Pod;
use serde::Deserialize;

use crate::cri;
use crate::runtime::cgroup::Cgroups;
use crate::worker::Context;

pub mod disk;
pub mod machine;
mod rate;
pub mod summary;

use disk::{FileSystem, PodDisk};
use machine::Reading;
use rate::Rates;
use summary::{Figures, Summary};

/// Asks for figures, one asker after the other or many at once.
pub struct Stats {
    context: Arc<Context>,
    node: String,
    pods: Informer<Pod>,
    cgroups: Option<Cgroups>,
    rates: Rates,
}

/// How much is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// CPU and memory, which costs little.
    Compute,
    /// Also networks and file systems; folders are walked.
    Everything,
}

impl Stats {
    pub fn new(context: Arc<Context>, node: String, pods: Informer<Pod>) -> Stats {
        let cgroups = Cgroups::detect().inspect_err(|error| {
            let error = client::error::chain(error);
            tracing::warn!(error, "cannot tell what pods use as a whole");
        });
        Stats { context, node, pods, cgroups: cgroups.ok(), rates: Rates::default() }
    }

    pub async fn summary(&self, scope: Scope) -> cri::Result<Summary> {
        let figures = self.figures(scope).await?;
        Ok(summary::build(&figures, scope))
    }

    /// Everything of one moment, as it was read.
    pub async fn figures(&self, scope: Scope) -> cri::Result<Figures> {
        let runtime = &self.context.runtime;
        let (usage, file_systems) = match scope {
            Scope::Compute => (runtime.usage().await?, None),
            Scope::Everything => {
                let (usage, both) = tokio::try_join!(runtime.usage(), runtime.file_systems())?;
                (usage, Some(both))
            }
        };
        let now = self.context.clock.now();
        let config = &self.context.config;
        let kubepods = format!("{}/kubepods", config.cgroup_root.trim_end_matches('/'));
        let pods_usage = self.cgroups.as_ref().map(|cgroups| cgroups.usage(&kubepods));
        let root = config.root.clone();
        let mut wanted = Vec::new();
        if scope == Scope::Everything {
            wanted = self.folders(&usage);
        }
        let images = file_systems;
        let read = move || {
            let disks = wanted.into_iter().map(|(uid, pod)| (uid, pod.measure())).collect();
            let mounted = |usage: Option<&proto::cri::FilesystemUsage>| {
                let usage = usage?;
                let point = usage.fs_id.as_ref()?.mountpoint.clone();
                Some((usage.clone(), FileSystem::of(point.as_ref())?))
            };
            let images = images.unwrap_or_default();
            Figures {
                machine: Reading::now(),
                node_fs: FileSystem::of(&root),
                image_fs: mounted(images.image_filesystems.first()),
                container_fs: mounted(images.container_filesystems.first()),
                disks,
                ..Figures::default()
            }
        };
        let figures = tokio::task::spawn_blocking(read).await;
        let mut figures = figures.unwrap_or_default();
        figures.node = self.node.clone();
        figures.now = now;
        figures.usage = usage;
        figures.kubepods = pods_usage;
        figures.rates = self.rates(&figures);
        Ok(figures)
    }

    /// How fast CPU time grows, by the id of a container or sandbox, and of the node by "".
    fn rates(&self, figures: &Figures) -> std::collections::HashMap<String, u64> {
        let sample = |id: &str, cpu: Option<&proto::cri::CpuUsage>| {
            let cpu = cpu?;
            Some((id.to_string(), cpu.timestamp, cpu.usage_core_nano_seconds.as_ref()?.value))
        };
        let now = i64::try_from(figures.now.0.as_nanosecond()).unwrap_or(i64::MAX);
        let mut samples = vec![(String::new(), now, figures.machine.cpu_nanoseconds)];
        for pod in &figures.usage.pods {
            let Some(linux) = &pod.linux else { continue };
            let id = pod.attributes.as_ref().map_or("", |it| it.id.as_str());
            samples.extend(sample(id, linux.cpu.as_ref()));
            for container in &linux.containers {
                let id = container.attributes.as_ref().map_or("", |it| it.id.as_str());
                samples.extend(sample(id, container.cpu.as_ref()));
            }
        }
        self.rates.next(samples)
    }

    /// What is to be measured of each pod that runs.
    fn folders(&self, usage: &cri::Usage) -> Vec<(String, PodDisk)> {
        let known = self.pods.snapshot();
        let config = &self.context.config;
        let mut all = Vec::new();
        for pod in &usage.pods {
            let Some(meta) = pod.attributes.as_ref().and_then(|it| it.metadata.as_ref()) else {
                continue;
            };
            let mut entries = known.values();
            let entry = entries.find(|entry| entry.view.metadata.uid == meta.uid);
            let claims = entry.map(|entry| claims(&meta.name, &entry.bytes)).unwrap_or_default();
            let disk = PodDisk {
                logs: config.log_dir(&meta.namespace, &meta.name, &meta.uid),
                volumes: config.pod_dir(&meta.uid).join("volumes"),
                claims,
            };
            all.push((meta.uid.clone(), disk));
        }
        all
    }
}

/// The claims of a pod's volumes: volume and claim.
fn claims(pod: &str, bytes: &[u8]) -> Vec<(String, String)> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Object {
        spec: Spec,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Spec {
        volumes: Vec<Volume>,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Volume {
        name: String,
        persistent_volume_claim: Option<Claim>,
        ephemeral: Option<serde_json::Map<String, serde_json::Value>>,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Claim {
        claim_name: String,
    }
    let object: Object = serde_json::from_slice(bytes).unwrap_or_default();
    let claim = |volume: Volume| match (volume.persistent_volume_claim, volume.ephemeral) {
        (Some(claim), _) => Some((volume.name, claim.claim_name)),
        (None, Some(_)) => {
            let claim = format!("{pod}-{}", volume.name);
            Some((volume.name, claim))
        }
        (None, None) => None,
    };
    object.spec.volumes.into_iter().filter_map(claim).collect()
}

/// Nanoseconds since 1970 as a moment.
pub fn moment(nanoseconds: i64) -> Time {
    Time::from_unix(0).plus(std::time::Duration::from_nanos(nanoseconds.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_volumes_are_claims() {
        let pod = br#"{"spec":{"volumes":[{"name":"a","emptyDir":{}},
            {"name":"b","persistentVolumeClaim":{"claimName":"c"}},
            {"name":"d","ephemeral":{"volumeClaimTemplate":{}}}]}}"#;
        let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
        assert_eq!(claims("p", pod), [pair("b", "c"), pair("d", "p-d")]);
        assert_eq!(claims("p", b"{}"), []);
    }
}
