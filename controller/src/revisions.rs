//! Revisions: the versions of the pod template of a StatefulSet or DaemonSet, each kept in a
//! ControllerRevision. Written as the controllers of kube-controller-manager write them, byte for
//! byte, so that either may go on where the other stopped.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#revision-history>

use std::sync::Arc;

use client::{Entry, Object};
use proto::json::as_go;
use proto::kind::CONTROLLER_REVISION;
use proto::meta::Labels;
use proto::selector::Selector;
use proto::view::controller_revision::ControllerRevision;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::plan::{Plan, controller_reference};
use crate::run::PlanError;
use crate::view::View;

/// The letters of a hash: k8s.io/apimachinery util/rand.SafeEncodeString.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// The label of a StatefulSet's revision that bears its hash.
pub const REVISION_HASH: &str = "controller.kubernetes.io/hash";
/// The label of a pod that tells its revision; of a DaemonSet's revisions, too.
pub const POD_HASH: &str = "controller-revision-hash";
/// So many bytes of the owner's name are in that of a revision.
const LONGEST_NAME: usize = 223;
/// Revisions that no one uses are kept up to this number where the owner says none.
const LIMIT: i32 = 10;

/// One version of a pod template.
pub struct Revision {
    pub name: String,
    /// Grows with each change of the template.
    pub number: i64,
    pub labels: Labels,
    pub template: Value,
    /// Absent while it is only planned.
    entry: Option<Arc<Entry<ControllerRevision>>>,
}

/// All versions of one owner's template.
pub struct History {
    /// Oldest first.
    pub all: Vec<Revision>,
    /// Which of them is the present template's.
    update: usize,
    /// How many names were taken by others, so far.
    pub collisions: i32,
}

/// Reads the history of an owner and plans what makes it complete: adoption, a revision of the
/// present template with the highest number. `label` is that of the hash.
pub fn history<T: Object>(
    owner: &Entry<T>,
    template: &Value,
    selector: &Selector,
    collisions: Option<i32>,
    label: &'static str,
    view: &View,
    plan: &mut Plan,
) -> Result<History, PlanError> {
    let meta = owner.meta();
    let claim = view.claim::<ControllerRevision>(T::row(), meta, selector);
    plan.steps.extend(claim.steps);
    let all = claim.mine.into_iter().map(Revision::existing).collect::<Result<Vec<_>, _>>()?;
    let mut history = History { all, update: 0, collisions: collisions.unwrap_or(0) };
    history.all.sort_by(|a, b| a.age().cmp(&b.age()));
    let next = history.all.last().map_or(1, |last| last.number + 1);
    let wanted = normal(template.clone());
    match history.all.iter().rposition(|revision| revision.template == wanted) {
        Some(index) if index + 1 == history.all.len() => history.update = index,
        Some(index) => {
            // The template of old is the present one again: it is the newest now.
            let mut revision = history.all.remove(index);
            revision.number = next;
            if let Some(entry) = &revision.entry {
                plan.patch(&CONTROLLER_REVISION, entry.meta(), json!({ "revision": next }));
            }
            history.push(revision);
        }
        None => {
            let revision = history.make(owner, wanted, next, label, view)?;
            if revision.entry.is_none() {
                let object = revision.object(owner);
                plan.create(&CONTROLLER_REVISION, &meta.namespace, object);
            }
            history.push(revision);
        }
    }
    Ok(history)
}

#[derive(Deserialize)]
struct Whole {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    spec: DataSpec,
}

#[derive(Deserialize)]
struct DataSpec {
    template: Value,
}

impl Revision {
    fn existing(entry: Arc<Entry<ControllerRevision>>) -> Result<Revision, PlanError> {
        let meta = entry.meta();
        let whole: Whole = serde_json::from_slice(&entry.bytes).map_err(|source| {
            PlanError::Decode { kind: "ControllerRevision", name: meta.name.clone(), source }
        })?;
        let mut template = whole.data.spec.template;
        if let Some(fields) = template.as_object_mut() {
            fields.remove("$patch");
        }
        Ok(Revision {
            name: meta.name.clone(),
            number: entry.revision,
            labels: meta.labels.clone(),
            template: normal(template),
            entry: Some(entry),
        })
    }

    /// Orders by number, then by creation.
    fn age(&self) -> (i64, Option<proto::time::Time>, &str) {
        let created = self.entry.as_ref().and_then(|entry| entry.meta().creation_timestamp);
        (self.number, created, &self.name)
    }

    /// The value of the label that pods of a DaemonSet have.
    pub fn hash(&self) -> &str {
        self.labels.get(POD_HASH).unwrap_or(&self.name)
    }

    fn object<T: Object>(&self, owner: &Entry<T>) -> Value {
        let meta = owner.meta();
        let data: Value = serde_json::from_str(&data(&self.template)).unwrap_or_default();
        let mut object = json!({
            "apiVersion": CONTROLLER_REVISION.api_version(),
            "kind": CONTROLLER_REVISION.kind,
            "metadata": {
                "name": self.name,
                "namespace": meta.namespace,
                "labels": self.labels,
                "ownerReferences": [controller_reference(T::row(), meta)],
            },
            "data": data,
            "revision": self.number,
        });
        if !meta.annotations.is_empty() {
            object["metadata"]["annotations"] = json!(meta.annotations);
        }
        object
    }
}

impl History {
    /// The revision of the present template.
    pub fn update(&self) -> &Revision {
        &self.all[self.update]
    }

    pub fn find(&self, name: &str) -> Option<&Revision> {
        self.all.iter().find(|revision| revision.name == name)
    }

    fn push(&mut self, revision: Revision) {
        self.update = self.all.len();
        self.all.push(revision);
    }

    /// The first name that no other template has taken.
    fn make<T: Object>(
        &mut self,
        owner: &Entry<T>,
        template: Value,
        number: i64,
        label: &str,
        view: &View,
    ) -> Result<Revision, PlanError> {
        let meta = owner.meta();
        let prefix = meta.name.get(..LONGEST_NAME).unwrap_or(&meta.name);
        let data = data(&template);
        loop {
            let hash = hash(&data, self.collisions);
            let name = format!("{prefix}-{hash}");
            if let Some(taken) = view.get::<ControllerRevision>(&meta.namespace, &name) {
                let taken = Revision::existing(taken)?;
                if taken.template == template {
                    return Ok(taken);
                }
                self.collisions += 1;
                continue;
            }
            let mut labels = template_labels(&template);
            labels.insert(label.into(), hash);
            return Ok(Revision { name, number, labels, template, entry: None });
        }
    }

    /// Deletes the oldest of those that no one uses, beyond the owner's limit. The limit holds for
    /// what is not in use (`counted` says of what else).
    pub fn truncate(
        &self,
        limit: Option<i32>,
        is_live: impl Fn(&Revision) -> bool,
        counted: impl Fn(&Revision) -> bool,
        plan: &mut Plan,
    ) {
        let limit = limit.unwrap_or(LIMIT).max(0) as usize;
        let others = || self.all.iter().enumerate().filter(|(index, _)| *index != self.update);
        let surplus = others().filter(|(_, revision)| counted(revision)).count();
        let surplus = surplus.saturating_sub(limit);
        let unused = others().map(|(_, revision)| revision).filter(|revision| !is_live(revision));
        for entry in unused.take(surplus).filter_map(|revision| revision.entry.as_ref()) {
            if entry.meta().deletion_timestamp.is_none() {
                plan.delete(&CONTROLLER_REVISION, entry.meta());
            }
        }
    }

    /// Other revisions of the present template, as two controllers may make them that write it
    /// differently.
    pub fn duplicates(&self) -> impl Iterator<Item = &Arc<Entry<ControllerRevision>>> {
        let same = |revision: &&Revision| {
            revision.name != self.update().name && revision.template == self.update().template
        };
        self.all.iter().filter(same).filter_map(|revision| revision.entry.as_ref())
    }
}

fn template_labels(template: &Value) -> Labels {
    let labels = template["metadata"]["labels"].as_object().into_iter().flatten();
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_string()));
    labels.filter_map(text).collect()
}

/// A template without what says nothing: versions before 1.34 wrote the creation time of a
/// template, which is always null.
fn normal(mut template: Value) -> Value {
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|_, value| !value.is_null());
    }
    template
}

/// The strategic merge patch that brings this template back, as Go writes JSON: keys in order,
/// and letters that mean something in HTML escaped.
fn data(template: &Value) -> String {
    let mut template = template.clone();
    template["$patch"] = "replace".into();
    let text = json!({ "spec": { "template": template } }).to_string();
    as_go(&text).into_owned()
}

/// FNV-1 (32 bits) of the data and the number of collisions in decimal, in letters that make no
/// words.
fn hash(data: &str, collisions: i32) -> String {
    let step = |hash: u32, byte: u8| hash.wrapping_mul(0x0100_0193) ^ u32::from(byte);
    let sum = data.bytes().chain(collisions.to_string().bytes()).fold(0x811c_9dc5, step);
    let letter = |digit: u8| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()]);
    sum.to_string().bytes().map(letter).collect()
}

#[cfg(test)]
mod tests;
