//! What a controller wants done. A plan is data: a pure function makes it, the executor carries
//! it out in order and makes no choices.

use std::sync::Arc;

use client::DeleteOptions;
use proto::kind::Row;
use proto::meta::{ObjectMeta, OwnerReference};
use proto::time::Time;
use proto::view::{Condition, ObjectReference};
use serde::Serialize;
use serde_json::{Value, json};

/// Steps in order, and when to look again if nothing happens until then. The first step that
/// fails ends the plan; the object is planned anew after a back-off.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub again: Option<Time>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Creations of one kind next to each other are carried out together.
    Create(Create),
    /// Deletions next to each other are carried out together.
    Delete(Delete),
    Patch(Patch),
    /// Patches of different objects, carried out together.
    PatchEach(Vec<Patch>),
    /// A patch that makes or keeps `owner` an owner; done only if the owner still lives and is
    /// the same, which is asked anew.
    Adopt {
        owner: Target,
        patch: Patch,
    },
    /// Goes on only if the object is really absent, which is asked anew: a cache may be behind.
    Absent(Target),
    /// Goes on only if the API server allows what this SubjectAccessReview asks.
    Allowed(Value),
    Event(Event),
}

/// Creates `count` objects from one body. Of all that are carried out together first one, then
/// two, four, … at a time, so that a refusal is met once and not a thousand times (slow start).
#[derive(Clone, Debug, PartialEq)]
pub struct Create {
    pub row: &'static Row,
    pub namespace: String,
    pub object: Arc<Value>,
    pub count: usize,
    pub told: Option<Told>,
}

#[derive(Clone, Debug)]
pub struct Delete {
    pub target: Target,
    pub options: DeleteOptions,
    pub told: Option<Told>,
}

impl PartialEq for Delete {
    fn eq(&self, other: &Delete) -> bool {
        self.target == other.target && self.told == other.told
    }
}

/// A merge patch. With a revision in its metadata it fails where someone else wrote in between.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    pub target: Target,
    /// Empty, `status`, ….
    pub subresource: &'static str,
    /// Merge lists by their keys: for lists that have several writers.
    pub strategic: bool,
    pub body: Value,
}

/// One object; of whichever uid if that is empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub row: &'static Row,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// The events that tell of creations and deletions.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub regarding: ObjectReference,
    /// What else the words name.
    pub beside: String,
    pub created: Option<Words>,
    pub not_created: Option<Words>,
    pub deleted: Option<Words>,
    pub not_deleted: Option<Words>,
}

/// A reason and a message, in which `{name}` stands for the object's name, `{owner}` for that of
/// whom the event regards, `{beside}` for what else is named; the name or the error comes last, or
/// in the place of `{}`.
pub type Words = (&'static str, &'static str);

impl Told {
    /// Tells nothing yet.
    pub fn new(regarding: ObjectReference) -> Told {
        Told {
            regarding,
            beside: String::new(),
            created: None,
            not_created: None,
            deleted: None,
            not_deleted: None,
        }
    }
}

impl Told {
    /// The message of these words about the object `name`; `what` is its name again, or an error.
    pub fn message(&self, words: &str, name: &str, what: &str) -> String {
        let text = words.replace("{name}", name).replace("{owner}", &self.regarding.name);
        let text = text.replace("{beside}", &self.beside);
        match text.split_once("{}") {
            Some((before, after)) => format!("{before}{what}{after}"),
            None => text + what,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub regarding: ObjectReference,
    /// `Normal` or `Warning`.
    pub kind: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl Target {
    pub fn of(row: &'static Row, meta: &ObjectMeta) -> Target {
        Target {
            row,
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
        }
    }
}

impl Plan {
    /// Looks again at `time` at the latest.
    pub fn look_again(&mut self, time: Time) {
        self.again = Some(self.again.map_or(time, |again| again.min(time)));
    }

    pub fn create(&mut self, row: &'static Row, namespace: &str, object: Value) {
        self.steps.push(Step::Create(Create {
            row,
            namespace: namespace.into(),
            object: Arc::new(object),
            count: 1,
            told: None,
        }));
    }

    /// Deletes this very object, dependents in the background.
    pub fn delete(&mut self, row: &'static Row, meta: &ObjectMeta) {
        let options = DeleteOptions::uid(&meta.uid);
        self.steps.push(Step::Delete(Delete {
            target: Target::of(row, meta),
            options,
            told: None,
        }));
    }

    /// Merges `body` into the object as it was seen: refused if it has changed since.
    pub fn patch(&mut self, row: &'static Row, meta: &ObjectMeta, mut body: Value) {
        body["metadata"]["resourceVersion"] = meta.resource_version.as_str().into();
        self.merge(row, meta, body);
    }

    /// Merges `body` into the object, whatever it is by now.
    pub fn merge(&mut self, row: &'static Row, meta: &ObjectMeta, body: Value) {
        let target = Target::of(row, meta);
        self.steps.push(Step::Patch(Patch { target, subresource: "", strategic: false, body }));
    }

    /// Merges `status` into the object's as it was seen: refused if it has changed since.
    pub fn status(&mut self, row: &'static Row, meta: &ObjectMeta, status: Value) {
        let body = json!({
            "metadata": { "resourceVersion": meta.resource_version },
            "status": status,
        });
        let (target, subresource) = (Target::of(row, meta), "status");
        self.steps.push(Step::Patch(Patch { target, subresource, strategic: false, body }));
    }

    /// Merges conditions into the object's, each by its type, and other fields of its status.
    /// Touches only this very object, whatever its revision.
    pub fn conditions(
        &mut self,
        row: &'static Row,
        meta: &ObjectMeta,
        conditions: &[Condition],
        mut status: Value,
    ) {
        status["conditions"] = json!(conditions);
        let body = json!({ "metadata": { "uid": meta.uid }, "status": status });
        let (target, subresource) = (Target::of(row, meta), "status");
        self.steps.push(Step::Patch(Patch { target, subresource, strategic: true, body }));
    }

    pub fn event(
        &mut self,
        regarding: &ObjectReference,
        kind: &'static str,
        reason: &'static str,
        message: String,
    ) {
        let regarding = regarding.clone();
        self.steps.push(Step::Event(Event { regarding, kind, reason, message }));
    }
}

/// What events about an object refer to.
pub fn reference(row: &Row, meta: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        api_version: row.api_version(),
        kind: row.kind.to_string(),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: String::new(),
    }
}

/// The reference by which an object's controller owns others.
pub fn controller_reference(row: &Row, meta: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: row.api_version(),
        kind: row.kind.to_string(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The merge patch that turns the written form of `old` into that of `new`; `None` if they are
/// the same. Fields that neither knows stay as they are.
pub fn difference(old: &impl Serialize, new: &impl Serialize) -> Option<Value> {
    let (old, new) = (json!(old), json!(new));
    if old == new { None } else { Some(merge_patch(&old, &new)) }
}

/// As [`difference`], for a status: these of its numbers are written even when they are 0.
pub fn status_difference(
    old: &impl Serialize,
    new: &impl Serialize,
    always: &[&str],
) -> Option<Value> {
    let mut patch = difference(old, new)?;
    for field in always {
        if patch.get(field).is_some_and(Value::is_null) {
            patch[field] = 0.into();
        }
    }
    Some(patch)
}

fn merge_patch(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return new.clone() };
    let mut patch = serde_json::Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        match old.get(key) {
            Some(before) if before == value => {}
            Some(before) => drop(patch.insert(key.clone(), merge_patch(before, value))),
            None => drop(patch.insert(key.clone(), value.clone())),
        }
    }
    patch.into()
}

/// The name (without version) of a reference's group.
pub fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_tell_of_names_and_errors() {
        let web = ObjectReference { name: "web".into(), ..ObjectReference::default() };
        let told = Told { beside: "x".into(), ..Told::new(web) };
        for (words, what, expected) in [
            ("Created pod: ", "web-0", "Created pod: web-0"),
            ("create Pod {} in Set {owner} done", "web-0", "create Pod web-0 in Set web done"),
            ("Pod {name} of {beside} failed: ", "no {} left", "Pod web-0 of x failed: no {} left"),
        ] {
            assert_eq!(told.message(words, "web-0", what), expected);
        }
    }

    #[test]
    fn numbers_of_a_status_that_fall_to_zero() {
        let (old, new) = (json!({"replicas": 1, "readyReplicas": 1}), json!({}));
        let patch = status_difference(&old, &new, &["replicas"]);
        assert_eq!(patch, Some(json!({"replicas": 0, "readyReplicas": null})));
    }

    #[test]
    fn differences_are_merge_patches() {
        let old = json!({"a": 1, "b": {"c": 1, "d": 2}, "e": [1]});
        let new = json!({"b": {"c": 1, "d": 3}, "e": [1], "f": 0});
        assert_eq!(difference(&old, &new), Some(json!({"a": null, "b": {"d": 3}, "f": 0})));
        assert_eq!(difference(&old, &old), None);
    }
}
