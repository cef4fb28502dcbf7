//! The eviction manager's executor: looks at the node every ten seconds, does what the plans say,
//! and chooses nothing. Folders of pods are only measured where something is low or a pod is
//! limited: a node at rest reads a few lines of /proc.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::error::chain;

use super::rank::{Candidate, rank};
use super::usage::{PodUsage, Seen};
use super::{AT_ONCE, Config, Judgement, Memory, Pressure, Signal, Threshold};
use super::{grace, local, message, resolved};
use crate::cri;
use crate::events::WARNING;
use crate::plan::End;
use crate::pod::Pod;
use crate::pods::Pods;
use crate::runtime::cgroup::Cgroups;
use crate::stats::disk::FileSystem;
use crate::stats::machine::Reading;
use crate::stats::{Scope, Stats};

/// As often as the kubelet.
const PERIOD: Duration = Duration::from_secs(10);
/// How long an evicted pod is waited for before the node is looked at again.
const CLEANUP: Duration = Duration::from_secs(30);
const REASON: &str = "Evicted";

pub struct Manager {
    pub config: Config,
    pub pods: Pods,
    pub stats: Stats,
    pub pressure: Pressure,
    pub node: String,
}

/// Looks after the node for ever.
pub async fn run(manager: Manager) {
    let clock = manager.pods.context().clock.clone();
    let cgroups = Cgroups::detect().ok();
    let mut round =
        Round { manager, cgroups, folders: None, memory: Memory::default(), known: HashMap::new() };
    loop {
        let evicted = round.look().await;
        if evicted.is_empty() {
            clock.sleep(PERIOD).await;
            continue;
        }
        let stopped = evicted.iter().map(|uid| round.manager.pods.stopped(uid));
        let stopped = futures::future::join_all(stopped);
        if clock.timeout(CLEANUP, stopped).await.is_err() {
            tracing::warn!(pods = ?evicted, "evicted pods have not ended yet");
        }
    }
}

/// Where images and the layers of containers are.
#[derive(Clone, Default)]
struct Folders {
    images: Option<PathBuf>,
    containers: Option<PathBuf>,
}

struct Round {
    manager: Manager,
    cgroups: Option<Cgroups>,
    folders: Option<Folders>,
    memory: Memory,
    /// By uid, with the revision that was read.
    known: HashMap<String, (u64, Arc<Pod>)>,
}

impl Round {
    /// One look and what follows from it: the uids of the pods that were evicted.
    async fn look(&mut self) -> Vec<String> {
        let seen = self.seen().await;
        let observations = seen.observations();
        let now = self.manager.pods.context().clock.now();
        let Judgement { conditions, due } =
            self.memory.judge(&self.manager.config, &observations, now);
        self.manager.pressure.set(conditions);
        let pods = self.active();
        if pods.iter().any(|pod| local::is_limited(pod)) {
            let usage = self.usage().await;
            let evicted = self.enforce(&pods, &usage);
            if !evicted.is_empty() {
                return evicted;
            }
        }
        let Some(threshold) = due.first() else { return Vec::new() };
        let resource = threshold.signal.resource();
        tracing::warn!(signal = threshold.signal.name(), "the node is low on {resource}");
        let events = &self.manager.pods.context().events;
        let attempt = format!("Attempting to reclaim {resource}");
        events.node(&self.manager.node, WARNING, "EvictionThresholdMet", &attempt);
        if self.reclaim(threshold).await {
            let seen = self.seen().await;
            if resolved(&self.manager.config, &seen.observations()) {
                return Vec::new();
            }
        }
        let usage = self.usage().await;
        let mut all: Vec<Candidate<'_>> =
            pods.iter().map(|pod| Candidate { pod, usage: usage.get(&pod.metadata.uid) }).collect();
        rank(&mut all, threshold.signal, self.is_dedicated());
        let victim = all.into_iter().find(|one| !one.pod.is_critical());
        let Some(Candidate { pod, usage }) = victim else {
            tracing::warn!("no pod can be evicted: all are critical");
            return Vec::new();
        };
        let message = message::message(pod, usage, threshold, &observations);
        let own = pod.spec.termination_grace_period_seconds;
        let own = own.map(|seconds| Duration::from_secs(seconds.max(0).unsigned_abs()));
        let grace = grace(&self.manager.config, threshold, own);
        self.evict(pod, &message, grace, Some(message.clone()));
        vec![pod.metadata.uid.clone()]
    }

    async fn seen(&mut self) -> Seen {
        let context = self.manager.pods.context().clone();
        if self.folders.is_none() {
            match context.runtime.file_systems().await {
                Ok(found) => self.folders = Some(Folders::of(&found)),
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(error, "the runtime does not say where its images are");
                }
            }
        }
        let folders = self.folders.clone().unwrap_or_default();
        let (cgroups, config) = (self.cgroups.as_ref(), &context.config);
        let kubepods = format!("{}/kubepods", config.cgroup_root.trim_end_matches('/'));
        Seen {
            machine: Reading::now(),
            pods: cgroups.map(|cgroups| cgroups.usage(&kubepods)),
            node_fs: FileSystem::of(&config.root),
            image_fs: folders.images.as_deref().and_then(FileSystem::of),
        }
    }

    /// The pods that can be evicted, or cannot because they matter too much.
    fn active(&mut self) -> Vec<Arc<Pod>> {
        let mut known = HashMap::new();
        for (entry, is_static) in self.manager.pods.active() {
            let meta = &entry.view.metadata;
            let (uid, revision) = (meta.uid.clone(), meta.revision());
            let before = self.known.remove(&uid).filter(|(read, _)| *read == revision);
            let pod = match before {
                Some((_, pod)) => pod,
                None => match serde_json::from_slice::<Pod>(&entry.bytes) {
                    Ok(pod) => Arc::new(Pod { is_static, ..pod }),
                    Err(_) => continue,
                },
            };
            known.insert(uid, (revision, pod));
        }
        self.known = known;
        self.known.values().map(|(_, pod)| pod.clone()).collect()
    }

    /// What pods use, by uid.
    async fn usage(&self) -> HashMap<String, PodUsage> {
        match self.manager.stats.summary(Scope::Everything).await {
            Ok(summary) => {
                let pods = summary.pods.iter();
                pods.map(|stats| (stats.pod_ref.uid.clone(), PodUsage::of(stats))).collect()
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "the runtime does not say what pods use");
                HashMap::new()
            }
        }
    }

    /// Ends the pods that write more than they may.
    fn enforce(&self, pods: &[Arc<Pod>], usage: &HashMap<String, PodUsage>) -> Vec<String> {
        let mut evicted = Vec::new();
        for pod in pods.iter().filter(|pod| !pod.is_critical()) {
            let uid = &pod.metadata.uid;
            if let Some(why) = usage.get(uid).and_then(|usage| local::excess(pod, usage)) {
                self.evict(pod, &why, AT_ONCE, None);
                evicted.push(uid.clone());
            }
        }
        evicted
    }

    fn evict(&self, pod: &Pod, message: &str, grace: Duration, disruption: Option<String>) {
        let name = &pod.metadata.name;
        tracing::warn!(pod = %name, namespace = %pod.metadata.namespace, message, "evicting");
        self.manager.pods.context().events.pod(pod, None, WARNING, REASON, message);
        let end = End { grace: Some(grace), disruption, ..End::failed(REASON, message) };
        self.manager.pods.end(&pod.metadata.uid, end);
    }

    /// Frees what no pod needs. False: there is nothing of the sort for this signal.
    async fn reclaim(&self, threshold: &Threshold) -> bool {
        let images_there = match threshold.signal {
            Signal::ImageFsAvailable | Signal::ImageFsInodesFree => true,
            Signal::NodeFsAvailable | Signal::NodeFsInodesFree => self.images_on_node_fs(),
            _ => false,
        };
        if images_there && let Err(error) = self.remove_unused_images().await {
            tracing::warn!(error = chain(&error), "cannot remove unused images");
        }
        images_there
    }

    async fn remove_unused_images(&self) -> cri::Result<()> {
        let runtime = &self.manager.pods.context().runtime;
        let (images, used) = (runtime.images().await?, runtime.images_in_use().await?);
        for image in unused(&images, &used) {
            tracing::info!(image, "removing an unused image");
            runtime.remove_image(image).await?;
        }
        Ok(())
    }

    fn images_on_node_fs(&self) -> bool {
        let folders = self.folders.as_ref();
        folders.is_some_and(|it| self.same_as_root(it.images.as_deref()))
    }

    /// Do containers write elsewhere than where volumes and logs are?
    fn is_dedicated(&self) -> bool {
        let folders = self.folders.as_ref();
        folders.is_some_and(|it| {
            it.containers.is_some() && !self.same_as_root(it.containers.as_deref())
        })
    }

    fn same_as_root(&self, path: Option<&Path>) -> bool {
        let device = |path: &Path| std::fs::metadata(path).ok().map(|found| found.dev());
        let root = device(&self.manager.pods.context().config.root);
        path.and_then(device).is_some_and(|device| root == Some(device))
    }
}

/// The ids of images that no container has and that may go.
fn unused<'a>(images: &'a [proto::cri::Image], used: &BTreeSet<String>) -> Vec<&'a str> {
    let named = |image: &proto::cri::Image| {
        let names = image.repo_tags.iter().chain(&image.repo_digests);
        names.chain([&image.id]).any(|name| used.contains(name))
    };
    let free = images.iter().filter(|image| !image.pinned && !named(image));
    free.map(|image| image.id.as_str()).collect()
}

impl Folders {
    fn of(found: &proto::cri::ImageFsInfoResponse) -> Folders {
        let folder = |all: &[proto::cri::FilesystemUsage]| {
            let point = &all.first()?.fs_id.as_ref()?.mountpoint;
            (!point.is_empty()).then(|| PathBuf::from(point))
        };
        Folders {
            images: folder(&found.image_filesystems),
            containers: folder(&found.container_filesystems),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_images_nobody_needs() {
        let image = |id: &str, tag: &str, pinned: bool| proto::cri::Image {
            id: id.into(),
            repo_tags: vec![tag.into()],
            pinned,
            ..Default::default()
        };
        let images = [
            image("1", "by-id", false),
            image("2", "by-name", false),
            image("3", "free", false),
            image("4", "pinned", true),
        ];
        let used = ["1".to_string(), "by-name".to_string()].into();
        assert_eq!(unused(&images, &used), ["3"]);
    }
}
