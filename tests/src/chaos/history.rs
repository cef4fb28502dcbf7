//! All that a store was told, in its order: what became of each pod and Job, and what must never be.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use apiserver::store::{Change, Event, Revision, Sink};
use parking_lot::Mutex;
use proto::view::job::Job;
use proto::view::pod::Pod;

const INDEX: &str = "batch.kubernetes.io/job-completion-index";

#[derive(Default)]
pub struct History(Mutex<Told>);

#[derive(Default)]
struct Told {
    events: u64,
    /// A line for each event, where somebody wants to compare.
    lines: Option<std::io::BufWriter<std::fs::File>>,
    /// The pods that are there, by their keys.
    pods: BTreeMap<String, String>,
    created: u64,
    jobs: BTreeMap<String, Counted>,
    /// What must never be.
    wrong: Vec<String>,
    /// The Jobs of each CronJob's minutes.
    starts: BTreeMap<String, BTreeSet<String>>,
}

/// What is known of a Job, by its uid.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    pub name: String,
    pub job: Option<Box<Job>>,
    /// The pods that succeeded, by their index, or by nothing.
    pub succeeded: BTreeMap<String, BTreeSet<String>>,
    pub failed: BTreeSet<String>,
}

impl History {
    /// With a line for each event in this file.
    pub fn written_to(path: Option<&std::path::Path>) -> History {
        let history = History::default();
        let file = path.map(|path| std::fs::File::create(path).expect("the file can be written"));
        history.0.lock().lines = file.map(std::io::BufWriter::new);
        history
    }

    pub fn events(&self) -> u64 {
        self.0.lock().events
    }

    /// How many pods there ever were.
    pub fn pods(&self) -> u64 {
        self.0.lock().created
    }

    pub fn jobs(&self) -> Vec<Counted> {
        self.0.lock().jobs.values().cloned().collect()
    }

    pub fn wrong(&self) -> Vec<String> {
        self.0.lock().wrong.clone()
    }
}

impl Sink for History {
    fn apply(&self, events: &[Event], _: Revision) {
        let mut told = self.0.lock();
        for event in events {
            told.hear(event);
        }
    }
}

impl Told {
    fn hear(&mut self, event: &Event) {
        self.events += 1;
        let (verb, value) = match &event.change {
            Change::Put(value) if value.create_revision == event.revision => {
                ("created", &value.value[..])
            }
            Change::Put(value) => ("changed", &value.value[..]),
            Change::Delete => ("deleted", &[][..]),
        };
        if let Some(lines) = &mut self.lines {
            let text = String::from_utf8_lossy(value);
            writeln!(lines, "{} {verb} {} {text}", event.revision, event.key).expect("written");
        }
        if matches!(event.change, Change::Delete) {
            self.pods.remove(&*event.key);
            return;
        }
        if event.key.starts_with("/registry/pods/") {
            self.pod(&event.key, verb, value);
        } else if event.key.starts_with("/registry/jobs/") {
            self.job(&event.key, verb, value);
        }
    }

    fn pod(&mut self, key: &str, verb: &str, bytes: &[u8]) {
        let Ok(pod) = serde_json::from_slice::<Pod>(bytes) else {
            self.wrong.push(format!("{key} cannot be read"));
            return;
        };
        let uid = &pod.metadata.uid;
        match verb {
            "created" => {
                self.created += 1;
                if let Some(other) = self.pods.insert(key.into(), uid.clone()) {
                    self.wrong.push(format!("{key}: {uid} came while {other} was there"));
                }
            }
            _ if self.pods.get(key) != Some(uid) => {
                self.wrong.push(format!("{key} became {uid} without having gone"));
            }
            _ => {}
        }
        let owner = pod.metadata.controller().filter(|owner| owner.kind == "Job");
        let Some(owner) = owner else { return };
        let job = self.jobs.entry(owner.uid.clone()).or_default();
        let index = pod.metadata.annotations.get(INDEX).cloned().unwrap_or_default();
        match pod.status.phase.as_str() {
            "Succeeded" => {
                job.succeeded.entry(index).or_default().insert(uid.clone());
            }
            "Failed" => {
                job.failed.insert(uid.clone());
            }
            _ => {}
        }
        let succeeded = job.succeeded.values().any(|pods| pods.contains(uid));
        if succeeded && job.failed.contains(uid) {
            self.wrong.push(format!("{key} {uid} both succeeded and failed"));
        }
    }

    fn job(&mut self, key: &str, verb: &str, bytes: &[u8]) {
        let Ok(job) = serde_json::from_slice::<Job>(bytes) else {
            self.wrong.push(format!("{key} cannot be read"));
            return;
        };
        let scheduled =
            job.metadata.annotations.get("batch.kubernetes.io/cronjob-scheduled-timestamp");
        if let (Some(owner), Some(time), "created") = (job.metadata.controller(), scheduled, verb)
            && !self.starts.entry(owner.uid.clone()).or_default().insert(time.clone())
        {
            self.wrong.push(format!("{key} was started twice for {time}"));
        }
        let counted = self.jobs.entry(job.metadata.uid.clone()).or_default();
        if let Some(before) = &counted.job
            && let Some(ended) = before.finished()
            && (job.finished().map(|now| &now.kind) != Some(&ended.kind)
                || job.status.succeeded != before.status.succeeded)
        {
            self.wrong.push(format!("{key} changed its mind after it had ended: {job:?}"));
        }
        counted.name = key.into();
        counted.job = Some(Box::new(job));
    }
}
