//! The static pods among a node's pods: which should run, which do, and what the API has in their
//! place. Of two pods with the same name one ends before the other begins.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::{Change, Entry, Key};
use proto::view::pod::Pod;
use tokio::sync::watch;

use super::Pods;
use crate::cri::PodId;
use crate::manifest::sources::Wanted;
use crate::manifest::{Manifest, by_name};
use crate::pod::CONFIG_MIRROR;
use crate::worker::{Latest, Mirror, Worker, delete_mirror};

type Seen = watch::Sender<Option<Arc<Entry<Pod>>>>;

#[derive(Default)]
pub(super) struct Statics {
    wanted: BTreeMap<(String, String), Manifest>,
    /// There are no others.
    complete: bool,
    /// The uid of the pod that has this name now.
    running: HashMap<Key, String>,
    mirrors: HashMap<Key, Seen>,
}

#[derive(Debug, PartialEq)]
enum Next {
    Nothing,
    Begin,
    End,
    DeleteMirror,
}

/// What is to be done about one name: by the uid that is wanted under it, the one that runs, and
/// whether the API has a mirror. `complete`: all manifests are known.
fn next(complete: bool, wanted: Option<&str>, running: Option<&str>, mirror: bool) -> Next {
    match (wanted, running) {
        (Some(wanted), Some(running)) if wanted == running => Next::Nothing,
        (_, Some(_)) if complete || wanted.is_some() => Next::End,
        (Some(_), None) => Next::Begin,
        // Somebody made a mirror of nothing, or its pod is gone.
        (None, None) if mirror && complete => Next::DeleteMirror,
        _ => Next::Nothing,
    }
}

impl Statics {
    fn wanted(&self, key: &Key) -> Option<&Manifest> {
        let key = (key.namespace.to_string(), key.name.to_string());
        self.wanted.get(&key)
    }

    /// Of those that run.
    pub(super) fn uids(&self) -> HashSet<String> {
        self.running.values().cloned().collect()
    }

    fn mirror(&mut self, key: &Key) -> &Seen {
        self.mirrors.entry(key.clone()).or_default()
    }
}

impl Pods {
    /// These static pods should run; no others, once all are known.
    pub fn manifests(&self, all: Wanted) {
        let keys: Vec<Key> = {
            let mut statics = self.statics.lock();
            let wanted = by_name(all.pods);
            let named = wanted.keys().map(|(namespace, name)| Key::new(namespace, name));
            let mut keys: Vec<Key> = named.collect();
            (statics.wanted, statics.complete) = (wanted, all.complete);
            keys.extend(statics.running.keys().chain(statics.mirrors.keys()).cloned());
            keys.sort();
            keys.dedup();
            keys
        };
        keys.into_iter().for_each(|key| self.arrange(key));
    }

    /// Under which uid the runtime knows the pod of the API: that of the static pod whose mirror it
    /// is. A mirror of nothing is nothing: its annotation is anybody's word.
    pub fn runtime_uid(&self, pod: &Pod) -> String {
        let meta = &pod.metadata;
        let statics = self.statics.lock();
        let running = statics.running.get(&Key::of(meta));
        let mirrored = running.filter(|uid| meta.annotations.get(CONFIG_MIRROR) == Some(*uid));
        mirrored.unwrap_or(&meta.uid).clone()
    }

    /// The API's object in the place of a static pod has changed.
    pub(super) fn mirror(&self, change: &Change<Pod>) {
        self.statics.lock().mirror(&change.key).send_replace(change.new.clone());
        self.arrange(change.key.clone());
    }

    fn arrange(&self, key: Key) {
        let mut statics = self.statics.lock();
        let mirror = statics.mirror(&key).borrow().clone();
        let wanted = statics.wanted(&key).map(|manifest| manifest.uid.as_str());
        let running = statics.running.get(&key).map(String::as_str);
        match next(statics.complete, wanted, running, mirror.is_some()) {
            Next::Nothing => {}
            Next::Begin => {
                if let Some(manifest) = statics.wanted(&key).cloned() {
                    statics.running.insert(key.clone(), manifest.uid.clone());
                    let seen = statics.mirror(&key).subscribe();
                    self.begin_static(key, Mirror { manifest, seen });
                }
            }
            Next::End => {
                let uid = statics.running.get(&key).cloned().unwrap_or_default();
                drop(statics);
                self.gone(&uid);
            }
            Next::DeleteMirror => {
                if let Some(mirror) = mirror {
                    tokio::spawn(self.clone().delete_mirror(key, mirror.view.metadata.uid.clone()));
                }
            }
        }
    }

    fn begin_static(&self, key: Key, mirror: Mirror) {
        let Manifest { namespace, name, uid, bytes } = mirror.manifest.clone();
        let entry = match Entry::decode(bytes) {
            Ok(entry) => Arc::new(entry),
            Err(error) => {
                tracing::error!(pod = %name, %error, "cannot read a static pod");
                return;
            }
        };
        let pod = PodId { uid: uid.clone(), namespace, name };
        let (worker, handle) = Worker::new(self.context.clone(), pod, Latest::Present(entry));
        let pods = self.clone();
        self.spawn(worker.mirrored(mirror), handle, uid.clone(), move || {
            pods.workers.lock().remove(&uid);
            pods.statics.lock().running.remove(&key);
            pods.arrange(key);
        });
    }

    /// Until it is gone, or stands for a pod again.
    async fn delete_mirror(self, key: Key, uid: String) {
        let (client, clock) = (&self.context.client, &self.context.clock);
        let mut delay = Duration::from_millis(100);
        loop {
            if self.statics.lock().running.contains_key(&key) {
                return;
            }
            match delete_mirror(client, &key.namespace, &key.name, &uid).await {
                Ok(()) => return,
                Err(error) if error.is_not_found() || error.is_conflict() => return,
                Err(error) => {
                    tracing::warn!(pod = %key.name, %error, "cannot delete a mirror");
                    clock.sleep(delay).await;
                    delay = (delay * 2).min(Duration::from_secs(10));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_one_pod() {
        let table = [
            (true, Some("a"), None, false, Next::Begin),
            (true, Some("a"), Some("a"), true, Next::Nothing),
            (true, Some("b"), Some("a"), true, Next::End),
            (true, None, Some("a"), true, Next::End),
            (true, None, None, true, Next::DeleteMirror),
            (true, None, None, false, Next::Nothing),
            // What all of them say is not known yet.
            (false, Some("b"), Some("a"), true, Next::End),
            (false, None, Some("a"), true, Next::Nothing),
            (false, None, None, true, Next::Nothing),
        ];
        for (complete, wanted, running, mirror, expected) in table {
            assert_eq!(next(complete, wanted, running, mirror), expected, "{wanted:?} {running:?}");
        }
    }
}
