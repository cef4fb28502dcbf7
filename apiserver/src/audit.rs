//! The audit log: who did what, when, and what came of it, as JSON lines of audit.k8s.io/v1 Event.
//! A policy decides how much of which request is written. A line is written before the stage it
//! speaks of is over, so that a killed server has said what it answered.

use std::sync::Arc;

use bytes::Bytes;
use proto::time::Time;
use proto::user::User;
use serde_json::{Value, json};

use crate::authz::What;

mod log;
mod notes;
mod policy;

pub use log::{Log, LogError, LogOptions};
pub use notes::Notes;
pub use policy::{Level, Policy, PolicyError, Stage};

/// What requests are told to. Shared.
pub struct Audit {
    policy: Policy,
    log: Log,
}

/// One request on its way, as far as the log speaks of it.
pub struct Record {
    pub level: Level,
    omitted: Vec<Stage>,
    omit_managed_fields: bool,
    /// All but stage, status, objects and the stage's time.
    event: Value,
    audit: Arc<Audit>,
}

/// What is said of a request when it is known who asks for what.
pub struct Subject<'a> {
    pub id: &'a str,
    pub uri: &'a str,
    pub verb: &'a str,
    /// Who proved to be whom, and whom they act as.
    pub user: &'a User,
    pub impersonated: Option<&'a User>,
    pub source: Option<std::net::IpAddr>,
    pub user_agent: &'a str,
    pub what: What<'a>,
    pub version: &'a str,
    pub received: Time,
}

/// How it went.
pub struct Outcome<'a> {
    pub stage: Stage,
    pub code: u16,
    /// A failure's Status, or the object that was answered.
    pub answered: Option<&'a Bytes>,
    pub requested: Option<&'a Value>,
    pub now: Time,
    /// Why it was allowed or refused.
    pub decision: Option<(&'static str, &'a str)>,
    pub notes: Option<&'a Notes>,
}

impl Audit {
    pub fn new(policy: Policy, log: Log) -> Arc<Audit> {
        Arc::new(Audit { policy, log })
    }

    /// Nothing where the policy wants nothing of the request.
    pub fn begin(self: &Arc<Audit>, subject: &Subject<'_>) -> Option<Record> {
        let user = subject.impersonated.unwrap_or(subject.user);
        let rule = self.policy.rule(user, subject.verb, &subject.what);
        if rule.level == Level::None {
            return None;
        }
        let mut event = json!({
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": rule.level.name(),
            "auditID": subject.id,
            "requestURI": subject.uri,
            "verb": subject.verb,
            "user": person(subject.user),
            "userAgent": subject.user_agent,
            "requestReceivedTimestamp": subject.received.micro(),
        });
        if let Some(source) = subject.source {
            event["sourceIPs"] = json!([source.to_string()]);
        }
        if let Some(impersonated) = subject.impersonated {
            event["impersonatedUser"] = person(impersonated);
        }
        if let What::Resource { group, resource, subresource, namespace, name } = subject.what {
            let parts = [
                ("resource", resource),
                ("namespace", namespace),
                ("name", name),
                ("apiGroup", group),
                ("apiVersion", subject.version),
                ("subresource", subresource),
            ];
            let parts = parts.into_iter().filter(|(_, text)| !text.is_empty());
            event["objectRef"] = parts.collect();
        }
        let record = Record {
            level: rule.level,
            omitted: rule.omitted,
            omit_managed_fields: rule.omit_managed_fields,
            event,
            audit: self.clone(),
        };
        record.write(&Outcome {
            stage: Stage::RequestReceived,
            code: 0,
            answered: None,
            requested: None,
            now: subject.received,
            decision: None,
            notes: None,
        });
        Some(record)
    }
}

impl Record {
    pub fn write(&self, outcome: &Outcome<'_>) {
        if self.omitted.contains(&outcome.stage) {
            return;
        }
        let mut event = self.event.clone();
        event["stage"] = outcome.stage.name().into();
        event["stageTimestamp"] = outcome.now.micro().into();
        let parsed = |bytes: &Bytes| serde_json::from_slice::<Value>(bytes).ok();
        let answered = outcome.answered.and_then(parsed);
        if outcome.code != 0 {
            event["responseStatus"] = status(outcome.code, answered.as_ref());
        }
        let mut annotations = outcome.notes.map(Notes::all).unwrap_or_default();
        if let Some((decision, reason)) = outcome.decision {
            annotations.insert("authorization.k8s.io/decision".into(), decision.into());
            annotations.insert("authorization.k8s.io/reason".into(), reason.into());
        }
        if !annotations.is_empty() {
            event["annotations"] = json!(annotations);
        }
        if self.level >= Level::Request
            && let Some(requested) = outcome.requested
        {
            event["requestObject"] = self.shown(requested.clone());
        }
        if self.level >= Level::RequestResponse
            && let Some(answered) = answered
        {
            event["responseObject"] = self.shown(answered);
        }
        self.audit.log.write(&event);
    }

    fn shown(&self, mut object: Value) -> Value {
        if self.omit_managed_fields {
            let drop = |object: &mut Value| {
                if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("managedFields");
                }
            };
            drop(&mut object);
            let items = object.get_mut("items").and_then(Value::as_array_mut);
            items.into_iter().flatten().for_each(drop);
        }
        object
    }
}

fn person(user: &User) -> Value {
    let mut person = json!({"username": user.name});
    if !user.uid.is_empty() {
        person["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        person["groups"] = user.groups.clone().into();
    }
    person
}

/// metav1.Status, shortened to what happened.
fn status(code: u16, answered: Option<&Value>) -> Value {
    let mut status = json!({"metadata": {}, "code": code});
    if let Some(answered) = answered.filter(|answered| answered["kind"] == "Status") {
        for field in ["status", "message", "reason", "details"] {
            if let Some(value) = answered.get(field) {
                status[field] = value.clone();
            }
        }
    }
    status
}
