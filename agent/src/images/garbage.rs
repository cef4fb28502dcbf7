//! Image garbage collection (Kubernetes: Garbage Collection, "Container image garbage collection"):
//! what to remove is planned from what is known of images and disk; the loop lists, removes and
//! tells, and decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use client::Clock;
use client::error::chain;
use proto::cri;
use proto::time::Time;

use crate::cri::Runtime;
use crate::events::{Events, WARNING};
use crate::images::records::Records;

/// As often as the kubelet looks.
const PERIOD: Duration = Duration::from_secs(300);

/// The flags `--image-gc-high-threshold` and so on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Percent of the disk in use at which images go; 100: never for want of room.
    pub high: u8,
    /// Percent in use down to which they do.
    pub low: u8,
    /// Younger images stay.
    pub minimum_age: Duration,
    /// Images unused for longer go in any case.
    pub maximum_age: Option<Duration>,
}

/// The file system of the images, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disk {
    pub capacity: u64,
    pub available: u64,
}

/// What the agent has seen of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    first: Time,
    used: Option<Time>,
}

/// What it has seen of all, since it began.
#[derive(Debug)]
pub struct Memory {
    began: Time,
    seen: BTreeMap<String, Seen>,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Too old, whatever room there is.
    pub expired: Vec<Doomed>,
    /// To make room, in this order until it suffices.
    pub evicted: Vec<Doomed>,
    /// How much room is to be made.
    pub wanted: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Doomed {
    pub id: String,
    pub size: u64,
}

impl Memory {
    pub fn new(began: Time) -> Memory {
        Memory { began, seen: BTreeMap::new() }
    }

    /// Notes which images there are and which containers use. Those of before the agent's time are
    /// of unknown age: old.
    pub fn look(&mut self, images: &[cri::Image], used: &BTreeSet<String>, now: Time) {
        let first =
            if self.seen.is_empty() && now == self.began { Time::from_unix(0) } else { now };
        self.seen.retain(|id, _| images.iter().any(|image| image.id == *id));
        for image in images {
            let seen = self.seen.entry(image.id.clone()).or_insert(Seen { first, used: None });
            let mut names = image.repo_tags.iter().chain(&image.repo_digests).chain([&image.id]);
            if names.any(|name| used.contains(name)) {
                seen.used = Some(now);
            }
        }
    }

    /// Plans, for images and uses that were just looked at.
    pub fn plan(&self, images: &[cri::Image], disk: Disk, policy: &Policy, now: Time) -> Plan {
        let mut unused: Vec<(&cri::Image, Seen)> = images
            .iter()
            .filter(|image| !image.pinned)
            .filter_map(|image| Some((image, *self.seen.get(&image.id)?)))
            .filter(|(_, seen)| seen.used.is_none_or(|used| used < now))
            .collect();
        unused.sort_by_key(|(_, seen)| (seen.used, seen.first));
        let doomed = |image: &cri::Image| Doomed { id: image.id.clone(), size: image.size };
        let mut plan = Plan::default();
        // What was used before the agent began is not known: no judgement before its own time is up.
        let maximum = policy.maximum_age.filter(|age| now.since(self.began) > *age);
        if let Some(maximum) = maximum {
            let expired =
                |seen: &Seen| now.since(seen.used.unwrap_or(Time::from_unix(0))) > maximum;
            let old = unused.iter().filter(|(_, seen)| expired(seen));
            plan.expired = old.map(|(image, _)| doomed(image)).collect();
            unused.retain(|(_, seen)| !expired(seen));
        }
        let available = disk.available.min(disk.capacity);
        let in_use = 100 - (u128::from(available) * 100 / u128::from(disk.capacity.max(1))) as u64;
        if in_use < u64::from(policy.high) || policy.high >= 100 || disk.capacity == 0 {
            return plan;
        }
        let kept = u128::from(disk.capacity) * u128::from(100 - policy.low.min(100)) / 100;
        plan.wanted = (kept as u64).saturating_sub(available);
        let mut room = 0;
        for (image, seen) in unused {
            if room >= plan.wanted {
                break;
            }
            if now.since(seen.first) >= policy.minimum_age {
                room += image.size;
                plan.evicted.push(doomed(image));
            }
        }
        plan
    }
}

/// Why the images could not be looked after.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("ask the runtime about its images")]
    Runtime(#[from] crate::cri::Error),
    #[error("invalid capacity 0 on image filesystem")]
    Capacity,
    #[error("measure the image filesystem at {path}")]
    Disk { path: String, source: std::io::Error },
    #[error(
        "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
    )]
    TooLittle { wanted: u64, freed: u64 },
    #[error(
        "wanted to free {wanted} bytes, but freed {freed} bytes space with errors in image deletion: {errors}"
    )]
    Removal { wanted: u64, freed: u64, errors: String },
}

impl Error {
    /// Of the event that it deserves each time.
    fn reason(&self) -> Option<&'static str> {
        match self {
            Error::Capacity => Some("InvalidDiskCapacity"),
            Error::TooLittle { .. } => Some("FreeDiskSpaceFailed"),
            _ => None,
        }
    }
}

/// Looks after the images of a node.
pub struct Collector<'a> {
    pub runtime: &'a dyn Runtime,
    pub clock: &'a Clock,
    pub policy: Policy,
    pub records: Option<&'a Records>,
}

impl Collector<'_> {
    /// For ever; what goes wrong is told as events of the node.
    pub async fn run(self, events: &Events, node: &str) {
        let mut memory = Memory::new(self.clock.now());
        let mut failed_before = false;
        loop {
            let outcome = self.once(&mut memory).await;
            if let Err(error) = &outcome {
                let message = chain(error);
                tracing::warn!(error = message, "cannot collect images");
                if let Some(reason) = error.reason() {
                    events.node(node, WARNING, reason, &message);
                }
                // As the kubelet: once may be by chance.
                if failed_before {
                    events.node(node, WARNING, "ImageGCFailed", &message);
                }
            }
            failed_before = outcome.is_err();
            self.clock.sleep(PERIOD).await;
        }
    }

    /// One look, and what follows from it.
    pub async fn once(&self, memory: &mut Memory) -> Result<(), Error> {
        let now = self.clock.now();
        let images = self.runtime.images().await?;
        let used = self.runtime.images_in_use().await?;
        memory.look(&images, &used, now);
        if let Some(records) = self.records {
            records.keep(&images.iter().map(|image| image.id.as_str()).collect(), now);
        }
        let Some(path) = self.runtime.image_folder().await? else { return Ok(()) };
        let disk = measure(&path).map_err(|source| Error::Disk { path, source })?;
        if disk.capacity == 0 {
            return Err(Error::Capacity);
        }
        let plan = memory.plan(&images, disk, &self.policy, now);
        let (mut freed, mut errors) = (0, Vec::new());
        for (number, doomed) in plan.expired.iter().chain(&plan.evicted).enumerate() {
            tracing::info!(image = doomed.id, bytes = doomed.size, "removing an unused image");
            match self.runtime.remove_image(&doomed.id).await {
                Ok(()) if number >= plan.expired.len() => freed += doomed.size,
                Ok(()) => {}
                Err(error) => errors.push(chain(&error)),
            }
        }
        let wanted = plan.wanted;
        if !errors.is_empty() {
            return Err(Error::Removal { wanted, freed, errors: errors.join(", ") });
        }
        if freed < wanted { Err(Error::TooLittle { wanted, freed }) } else { Ok(()) }
    }
}

fn measure(path: &str) -> std::io::Result<Disk> {
    let all = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(all.f_frsize);
    Ok(Disk { capacity: bytes(all.f_blocks), available: bytes(all.f_bavail) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy =
        Policy { high: 85, low: 80, minimum_age: Duration::from_secs(120), maximum_age: None };

    fn at(seconds: i64) -> Time {
        Time::from_unix(seconds)
    }

    fn image(id: &str, size: u64) -> cri::Image {
        cri::Image { id: id.into(), size, ..Default::default() }
    }

    fn used(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| id.to_string()).collect()
    }

    fn ids(doomed: &[Doomed]) -> Vec<&str> {
        doomed.iter().map(|one| one.id.as_str()).collect()
    }

    fn disk(available: u64) -> Disk {
        Disk { capacity: 1000, available }
    }

    #[test]
    fn the_longest_unused_go_until_there_is_room() {
        let images = [image("a", 30), image("b", 30), image("c", 30), image("d", 30)];
        let mut memory = Memory::new(at(0));
        memory.look(&images[..3], &used(&["a"]), at(10));
        memory.look(&images[..3], &used(&["c"]), at(200));
        memory.look(&images, &used(&["c"]), at(1000));
        let plan = |available| memory.plan(&images, disk(available), &POLICY, at(1000));
        // b was never used, a not for long, c is, d is too young.
        assert_eq!(plan(160), Plan::default());
        let full = plan(150);
        assert_eq!((full.wanted, ids(&full.evicted)), (50, vec!["b", "a"]));
        let fuller = plan(180 - 40);
        assert_eq!((fuller.wanted, ids(&fuller.evicted)), (60, vec!["b", "a"]));
        assert_eq!(ids(&plan(0).evicted), ["b", "a"]);
        let never = Policy { high: 100, ..POLICY };
        assert_eq!(memory.plan(&images, disk(0), &never, at(1000)), Plan::default());
    }

    #[test]
    fn one_that_suffices_is_enough_and_pinned_ones_stay() {
        let pinned = cri::Image { pinned: true, ..image("a", 500) };
        let images = [pinned, image("b", 100), image("c", 100)];
        let mut memory = Memory::new(at(10_000));
        memory.look(&images, &used(&[]), at(10_000));
        let plan = memory.plan(&images, disk(150), &POLICY, at(10_000));
        assert_eq!((plan.wanted, ids(&plan.evicted)), (50, vec!["b"]));
    }

    #[test]
    fn old_ones_go_when_the_agent_has_watched_long_enough() {
        let policy = Policy { maximum_age: Some(Duration::from_secs(3600)), ..POLICY };
        let images = [image("a", 1), image("b", 1), image("c", 1)];
        let mut memory = Memory::new(at(0));
        memory.look(&images, &used(&["a", "b"]), at(0));
        memory.look(&images, &used(&["b"]), at(3000));
        let plan = |now| memory.plan(&images, disk(900), &policy, at(now));
        assert_eq!(plan(3600), Plan::default());
        assert_eq!(ids(&plan(3601).expired), ["c", "a"]);
        assert_eq!(ids(&plan(6601).expired), ["c", "a", "b"]);
    }

    #[test]
    fn images_that_are_gone_are_forgotten() {
        let mut memory = Memory::new(at(0));
        memory.look(&[image("a", 1)], &used(&["a"]), at(0));
        memory.look(&[], &used(&[]), at(1));
        memory.look(&[image("a", 1)], &used(&[]), at(500));
        assert_eq!(memory.seen["a"], Seen { first: at(500), used: None });
    }
}
