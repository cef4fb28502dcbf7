//! DELETE of an object and of a collection: preconditions, grace, finalizers, propagation. What
//! happens is decided by [`plan`]; this module then writes it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use proto::{
    status::{Details, FieldError, Status},
    time::Time,
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Answer, Call, Content, Kind, List, Registry, Selection, list, object,
    write::{self, ATTEMPTS, Retry},
};
use crate::{
    admission::Operation,
    cache::Entry,
    codec,
    http::query::{Query, dry_run},
    kinds::{self, Context, lens::Lens, pod::binding},
    store::{Guard, Op, Outcome, Txn},
};

/// metav1.DeleteOptions.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub preconditions: Option<Preconditions>,
    pub orphan_dependents: Option<bool>,
    pub propagation_policy: Option<String>,
    pub dry_run: Vec<String>,
    /// The pod says in its conditions that it was evicted.
    #[serde(skip)]
    pub evicted: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preconditions {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

/// The finalizers by which the garbage collector is told what to do with dependents.
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Kinds whose deletion answers with the object and not with a Status, as upstream's do.
const RETURNED: &[&str] = &[
    "CSIDriver",
    "CSINode",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Pod",
    "PodTemplate",
    "ResourceQuota",
    "Service",
    "ServiceAccount",
    "StorageClass",
    "VolumeAttachment",
    "VolumeAttributesClass",
];

/// Deletions of one collection that are on their way at a time.
const AT_ONCE: usize = 32;

/// What a deletion does to an object.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// It goes.
    Remove,
    /// It stays for now, like this.
    Keep(Value),
    /// It is on its way already; nothing changes.
    Wait,
}

impl Registry {
    pub async fn delete(&self, call: &Call<'_>, body: Bytes) -> Result<Answer, Status> {
        let options = options(call, &body)?;
        if let Some(why) = call.kind.strategy.undeletable(call.name) {
            let row = call.kind.row;
            return Err(Status::forbidden(&row.group, &row.resource, call.name, why));
        }
        let answer = self.delete_with(call, &options).await?;
        Ok(Answer { warnings: warnings(call, &options), ..answer })
    }

    pub(super) async fn delete_with(
        &self,
        call: &Call<'_>,
        options: &DeleteOptions,
    ) -> Result<Answer, Status> {
        let dry = dry_run(options.dry_run.iter().map(String::as_str), "DeleteOptions")?;
        let mut fresh = false;
        for _ in 0..ATTEMPTS {
            let Some(entry) = call.kind.cache.get(call.namespace, call.name) else {
                if !fresh {
                    self.fresh().await?;
                    fresh = true;
                    continue;
                }
                return Err(call.not_found());
            };
            match self.attempt_deletion(call, options, &entry, dry).await {
                Ok(answer) => return Ok(answer),
                Err(Retry::Uncertain(status)) => return Err(status),
                // What was refused may have been the past: another server may have written since.
                Err(Retry::Failed(status)) if self.is_current(call, &entry).await? => {
                    return Err(status);
                }
                Err(Retry::Failed(_) | Retry::Again) => {}
            }
        }
        Err(call.modified())
    }

    async fn attempt_deletion(
        &self,
        call: &Call<'_>,
        options: &DeleteOptions,
        entry: &Arc<Entry>,
        dry: bool,
    ) -> Result<Answer, Retry> {
        check_preconditions(call, options, entry)?;
        let old = object::decode(entry)?;
        // An eviction was admitted as such.
        if !options.evicted {
            let mut warnings = Vec::new();
            self.admit(call, Operation::Delete, None, Some(&old), dry, &mut warnings).await?;
        }
        let context = call.context(self.random());
        let step = plan(call.kind, &old, options, &context);
        match dry {
            true => Ok(self.dry_deletion(call, entry, old, step)),
            false => self.step(call, options, entry, &old, step).await,
        }
    }

    async fn step(
        &self,
        call: &Call<'_>,
        options: &DeleteOptions,
        entry: &Arc<Entry>,
        old: &Value,
        step: Step,
    ) -> Result<Answer, Retry> {
        let key = &entry.key;
        let guard = Guard { key: key.clone(), expected: entry.revision };
        let mut txn = Txn { guards: vec![guard], ops: Vec::new() };
        let mut turns = Vec::new();
        match &step {
            Step::Wait => {
                if !self.is_current(call, entry).await? {
                    return Err(Retry::Again);
                }
                let content = Content::Entry(entry.clone());
                return Ok(Answer { code: accepted(options), content, warnings: Vec::new() });
            }
            Step::Remove => {
                let context = call.context(self.random());
                let change = kinds::Change::Delete(old);
                let reservation = self.reserve(call, change, &context).await?;
                txn.ops.push(Op::Delete { key: key.clone() });
                turns = write::join(&mut txn, reservation);
            }
            Step::Keep(object) => {
                let value = object::encode(call.kind.row, object);
                txn.ops.push(Op::Put { key: key.clone(), value });
            }
        }
        let outcome = self.transact(txn).await.map_err(Retry::Uncertain)?;
        drop(turns);
        let Outcome::Committed(revision) = outcome else { return Err(Retry::Again) };
        Ok(match step {
            Step::Remove => removed(call, entry, old, Some(revision)),
            _ => {
                let entry = self.written(call, key, revision).map_err(Retry::Uncertain)?;
                let content = Content::Entry(entry);
                Answer { code: accepted(options), content, warnings: Vec::new() }
            }
        })
    }

    fn dry_deletion(&self, call: &Call, entry: &Arc<Entry>, old: Value, step: Step) -> Answer {
        match step {
            Step::Remove => removed(call, entry, &old, None),
            Step::Keep(object) => self.dry(200, object, Vec::new()),
            Step::Wait => Answer::ok(Content::Entry(entry.clone())),
        }
    }

    /// Deletes what matches, and answers with the list of it.
    pub async fn delete_collection(&self, call: &Call<'_>, body: Bytes) -> Result<Answer, Status> {
        let options = options(call, &body)?;
        let selection = Selection::parse(call)?;
        let snapshot = self.snapshot(call, list::at(call.query)?).await?;
        let entries: Vec<Arc<Entry>> = snapshot
            .list(&selection.namespace, None)
            .filter(|entry| selection.matches_within(entry))
            .cloned()
            .collect();
        let options = &options;
        let mut deletions = stream::iter(entries.clone().into_iter().map(|entry| async move {
            let call = Call { namespace: entry.namespace(), name: entry.name(), ..*call };
            self.delete_with(&call, options).await
        }))
        .buffer_unordered(AT_ONCE);
        while let Some(result) = deletions.next().await {
            match result {
                Err(status) if status.code != 404 => return Err(status),
                _ => {}
            }
        }
        drop(deletions);
        let list = List {
            revision: snapshot.revision,
            entries,
            continue_token: String::new(),
            remaining: None,
        };
        let answer = Answer::ok(Content::List(list));
        Ok(Answer { warnings: warnings(call, options), ..answer })
    }
}

/// What options that are silent about dependents may not have meant.
fn warnings(call: &Call, options: &DeleteOptions) -> Vec<String> {
    let silent = options.propagation_policy.is_none() && options.orphan_dependents.is_none();
    let warning = call.kind.strategy.deletion_warning().filter(|_| silent);
    warning.map(String::from).into_iter().collect()
}

/// What this deletion does to `old` (kubernetes.io/docs, "Garbage collection" and "Finalizers").
fn plan(kind: &Kind, old: &Value, options: &DeleteOptions, context: &Context) -> Step {
    let strategy = kind.strategy;
    let mut object = old.clone();
    let terminating = object::is_terminating(old);
    if terminating && strategy.held(old) {
        return Step::Wait;
    }
    let grace = match grace(kind, old, options) {
        Grace::Pending => return Step::Wait,
        Grace::Seconds(seconds) => Some(seconds),
        Grace::None => None,
    };
    set_finalizers(&mut object, options, strategy.orphans());
    if strategy.held(old) {
        object::meta_mut(&mut object).set("deletionTimestamp", object::time(context.now));
        strategy.begin_delete(&mut object);
        return Step::Keep(object);
    }
    let pending = !object::meta(&object).vacant("finalizers");
    match grace {
        Some(seconds) if seconds > 0 || pending => terminate(&mut object, seconds, context.now),
        _ if pending => terminate(&mut object, 0, context.now),
        _ => return Step::Remove,
    }
    strategy.begin_delete(&mut object);
    if options.evicted {
        binding::evict(&mut object, context.now);
    }
    if object == *old { Step::Wait } else { Step::Keep(object) }
}

enum Grace {
    None,
    Seconds(i64),
    /// A deletion with a shorter grace is under way.
    Pending,
}

fn grace(kind: &Kind, old: &Value, options: &DeleteOptions) -> Grace {
    let metadata = object::meta(old);
    let requested = options.grace_period_seconds.map(|seconds| seconds.max(-1)).map(|seconds| {
        if seconds < 0 { 1 } else { seconds } // a negative grace means "at once, but orderly"
    });
    if !object::is_terminating(old) {
        return match kind.strategy.grace(old, requested) {
            Some(seconds) => Grace::Seconds(seconds),
            None => Grace::None,
        };
    }
    match (metadata.int("deletionGracePeriodSeconds").unwrap_or(0), requested) {
        (0, _) => Grace::None,
        (existing, Some(seconds)) if seconds < existing => Grace::Seconds(seconds),
        _ => Grace::Pending,
    }
}

/// Sets the time and the grace; a shorter grace moves the time forward.
fn terminate(object: &mut Value, seconds: i64, now: Time) {
    let metadata = object::meta_mut(object);
    let begun = metadata.text("deletionTimestamp").parse::<Time>().ok().map(|time| {
        let before = metadata.int("deletionGracePeriodSeconds").unwrap_or(0);
        Time::from_unix(time.0.as_second() - before)
    });
    if begun.is_none()
        && let Some(generation) = metadata.int("generation").filter(|generation| *generation > 0)
    {
        metadata.set("generation", generation + 1);
    }
    let end = begun.unwrap_or(now).plus(Duration::from_secs(seconds.max(0) as u64));
    metadata.set("deletionTimestamp", object::time(end));
    metadata.set("deletionGracePeriodSeconds", seconds);
}

/// Replaces the garbage collector's finalizers by what the options ask for; silent options leave
/// them, and where there are none do what is usual for the kind.
fn set_finalizers(object: &mut Value, options: &DeleteOptions, orphans: bool) {
    let collected = |finalizer: &Value| *finalizer == ORPHAN || *finalizer == FOREGROUND;
    let decided = object::meta(object).items("finalizers").iter().any(collected);
    let wanted = match (options.propagation_policy.as_deref(), options.orphan_dependents) {
        (Some("Orphan"), _) | (None, Some(true)) => Some(ORPHAN),
        (Some("Foreground"), _) => Some(FOREGROUND),
        (Some(_), _) | (None, Some(false)) => None,
        (None, None) if orphans && !decided => Some(ORPHAN),
        (None, None) => return,
    };
    let metadata = object::meta_mut(object);
    let mut finalizers: Vec<Value> = metadata.items("finalizers").to_vec();
    finalizers.retain(|finalizer| !collected(finalizer));
    finalizers.extend(wanted.map(Value::from));
    match finalizers.is_empty() {
        true => metadata.drop("finalizers"),
        false => metadata.set("finalizers", finalizers),
    }
}

fn removed(call: &Call, entry: &Arc<Entry>, old: &Value, revision: Option<u64>) -> Answer {
    if RETURNED.contains(&&*call.kind.row.kind) {
        let mut object = old.clone();
        if let Some(revision) = revision {
            object::meta_mut(&mut object).set("resourceVersion", revision.to_string());
        }
        return Answer::ok(Content::Object(object));
    }
    let mut status = Status::success();
    status.code = 0;
    status.details = Some(Box::new(Details {
        name: call.name.into(),
        group: call.kind.row.group.to_string(),
        kind: call.kind.row.resource.to_string(),
        uid: entry.uid.to_string(),
        ..Details::default()
    }));
    Answer::ok(Content::Other(status_value(&status)))
}

/// A success without a code, as deletions answer.
pub(super) fn status_value(status: &Status) -> Value {
    let mut value = serde_json::to_value(status).expect("a Status always serializes");
    if status.code == 0 {
        value.drop("code");
    }
    value
}

/// 202 where the client asked to wait for dependents in the old way; in the new one it is 200, as
/// upstream answers.
fn accepted(options: &DeleteOptions) -> u16 {
    if options.orphan_dependents == Some(false) { 202 } else { 200 }
}

fn check_preconditions(call: &Call, options: &DeleteOptions, entry: &Entry) -> Result<(), Status> {
    let Some(preconditions) = &options.preconditions else { return Ok(()) };
    let row = call.kind.row;
    let conflict = |what: &str, wanted: &str, found: &str| {
        let why = format!(
            "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
        );
        Status::conflict(&row.group, &row.resource, call.name, &why)
    };
    if let Some(uid) = &preconditions.uid
        && **uid != *entry.uid
    {
        return Err(conflict("UID", uid, &entry.uid));
    }
    if let Some(version) = &preconditions.resource_version
        && *version != entry.revision.to_string()
    {
        return Err(conflict("ResourceVersion", version, &entry.revision.to_string()));
    }
    Ok(())
}

/// From the body, or without one from the query.
pub(super) fn options(call: &Call, body: &[u8]) -> Result<DeleteOptions, Status> {
    let options = match body.is_empty() {
        true => from_query(call.query)?,
        false => {
            let kind = ("", "v1", "DeleteOptions");
            let decoded = codec::decode_kind(write::format(call)?, body, kind)?;
            let mut options = parse(decoded.value)?;
            options.dry_run.extend(call.query.all("dryRun").map(String::from));
            options
        }
    };
    check(&options)?;
    Ok(options)
}

pub(super) fn parse(value: Value) -> Result<DeleteOptions, Status> {
    serde_json::from_value(value)
        .map_err(|error| Status::bad_request(format!("reading DeleteOptions: {error}")))
}

fn from_query(query: &Query) -> Result<DeleteOptions, Status> {
    Ok(DeleteOptions {
        grace_period_seconds: query.number("gracePeriodSeconds")?,
        preconditions: None,
        orphan_dependents: query.optional_flag("orphanDependents"),
        propagation_policy: query.find("propagationPolicy").map(String::from),
        dry_run: query.all("dryRun").map(String::from).collect(),
        evicted: false,
    })
}

fn check(options: &DeleteOptions) -> Result<(), Status> {
    let mut errors = Vec::new();
    if let Some(policy) = &options.propagation_policy {
        if options.orphan_dependents.is_some() {
            errors.push(FieldError::invalid(
                "propagationPolicy",
                policy.as_str(),
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        let supported = ["Background", "Foreground", "Orphan"];
        if !supported.contains(&policy.as_str()) {
            errors.push(FieldError::not_supported(
                "propagationPolicy",
                policy.as_str(),
                &supported,
            ));
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finalizers_follow_the_policy() {
        let options = |policy: Option<&str>| DeleteOptions {
            propagation_policy: policy.map(String::from),
            ..DeleteOptions::default()
        };
        let cases = [
            (None, false, json!(["a"]), json!(["a"])),
            (None, false, json!(["a", "orphan"]), json!(["a", "orphan"])),
            (None, true, json!(["a"]), json!(["a", "orphan"])),
            (None, true, json!(["foregroundDeletion"]), json!(["foregroundDeletion"])),
            (Some("Orphan"), false, json!(["a"]), json!(["a", "orphan"])),
            (Some("Foreground"), false, json!(["orphan"]), json!(["foregroundDeletion"])),
            (Some("Background"), true, json!(["orphan"]), Value::Null),
        ];
        for (policy, orphans, before, after) in cases {
            let mut object = json!({"metadata": {"finalizers": before}});
            set_finalizers(&mut object, &options(policy), orphans);
            assert_eq!(object["metadata"]["finalizers"], after, "{policy:?}");
        }
    }

    #[test]
    fn a_shorter_grace_moves_the_end_forward() {
        let now = Time::from_unix(1000);
        let mut object = json!({"metadata": {"generation": 1}});
        terminate(&mut object, 30, now);
        assert_eq!(object["metadata"]["deletionTimestamp"], Time::from_unix(1030).to_string());
        assert_eq!(object["metadata"]["generation"], 2);
        terminate(&mut object, 5, Time::from_unix(1010));
        assert_eq!(object["metadata"]["deletionTimestamp"], Time::from_unix(1005).to_string());
        assert_eq!(object["metadata"]["generation"], 2);
    }
}
