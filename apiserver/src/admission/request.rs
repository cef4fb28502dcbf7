//! What admission plugins are asked, and what they may know. Plugins read the cluster through
//! [`Cluster`] alone, so that one can be tested, or live elsewhere, without a registry.

use std::sync::Arc;

use client::{Clock, Rng};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use proto::{kind::Row, status::Status, time::Time, user::User};
use serde_json::Value;

use crate::{audit::Notes, authz::Attributes, cache::Entry, kinds::Reservation, kinds::lens::Lens};

/// What is about to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    /// A stream into a pod, or a request passed on through the server.
    Connect,
}

impl Operation {
    /// As webhooks and messages name it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// What plugins may know of the cluster.
pub trait Cluster: Send + Sync {
    /// An object as the cache has it.
    fn get(&self, row: &Row, namespace: &str, name: &str) -> Option<Arc<Entry>>;
    /// The objects of a namespace, or with an empty one all, by name.
    fn list(&self, row: &Row, namespace: &str) -> Vec<Arc<Entry>>;
    /// After this the cache has all that was acknowledged before, by whichever server.
    fn fresh(&self) -> BoxFuture<'_, Result<(), Status>>;
    /// Whether the authorizer allows it.
    fn allows(&self, attributes: &Attributes) -> bool;
    fn clock(&self) -> &Clock;
    fn rng(&self) -> &Rng;
}

/// The request, without the object it is about.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub operation: Operation,
    pub row: &'a Row,
    /// Empty for cluster-scoped kinds.
    pub namespace: &'a str,
    pub name: &'a str,
    pub subresource: &'a str,
    pub user: &'a User,
    /// Before an update, or what is deleted.
    pub old: Option<&'a Value>,
    pub dry_run: bool,
    /// The plugins have seen the object before, and it was changed since.
    pub again: bool,
    pub now: Time,
    pub cluster: &'a dyn Cluster,
    /// Sentences for `Warning: 299` headers.
    pub warnings: &'a Mutex<Vec<String>>,
    /// For the audit log; absent where it wants nothing of the request.
    pub notes: Option<&'a Notes>,
}

impl Request<'_> {
    /// This operation on objects of this kind themselves.
    pub fn is(&self, operation: Operation, row: &Row) -> bool {
        self.operation == operation && self.writes(row)
    }

    /// Whichever operation on objects of this kind themselves.
    pub fn writes(&self, row: &Row) -> bool {
        self.concerns(row) && self.subresource.is_empty()
    }

    /// Objects of this kind or their subresources, in whichever version.
    pub fn concerns(&self, row: &Row) -> bool {
        self.row.resource == row.resource && self.row.group == row.group
    }

    pub fn warn(&self, sentence: String) {
        let mut warnings = self.warnings.lock();
        if !warnings.contains(&sentence) {
            warnings.push(sentence);
        }
    }

    /// An annotation of the request's audit event.
    pub fn annotate(&self, key: &str, value: impl Into<String>) {
        if let Some(notes) = self.notes {
            notes.add(key, value);
        }
    }

    /// 403: `pods "p" is forbidden: ` and why.
    pub fn forbidden(&self, why: impl AsRef<str>) -> Denied {
        let row = self.row;
        Denied(Status::forbidden(&row.group, &row.resource, self.name, why.as_ref()))
    }
}

/// The request is refused with this answer. An error of its own, so that no `?` on another error
/// can pass for a decision.
#[derive(Debug)]
pub struct Denied(pub Status);

impl From<Denied> for Status {
    fn from(denied: Denied) -> Status {
        denied.0
    }
}

/// What a mutating plugin did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Nothing,
    Changed,
    /// Changed in a way that the plugins before it must have another look at, as what comes from
    /// outside the server is.
    Again,
}

impl From<bool> for Effect {
    fn from(changed: bool) -> Effect {
        if changed { Effect::Changed } else { Effect::Nothing }
    }
}

/// A plugin that waits for something (a lock, another server); the others are plain functions.
pub trait Plugin: Send + Sync {
    fn mutate<'a>(
        &'a self,
        _request: &'a Request<'a>,
        _object: &'a mut Value,
    ) -> BoxFuture<'a, Result<Effect, Denied>> {
        Box::pin(std::future::ready(Ok(Effect::Nothing)))
    }

    /// Without an object for deletions and connections.
    fn validate<'a>(
        &'a self,
        _request: &'a Request<'a>,
        _object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Denied>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// The last word: what must be written in the same transaction as the object. Asked again
    /// where a guard did not hold; for dry runs too, which write nothing of it.
    fn reserve<'a>(
        &'a self,
        _request: &'a Request<'a>,
        _object: &'a Value,
    ) -> BoxFuture<'a, Result<Reservation, Denied>> {
        Box::pin(std::future::ready(Ok(Reservation::default())))
    }
}

/// The object of an entry; null for one that cannot be read, which the cache has complained about.
pub fn read(entry: &Entry) -> Value {
    serde_json::from_slice(&entry.bytes()).unwrap_or_default()
}

/// Whether a controller of the kind's own marks the object as the cluster's default.
pub fn is_default(object: &Value, annotations: &[&str]) -> bool {
    let marks = object.at("metadata").at("annotations");
    annotations.iter().any(|annotation| marks.text(annotation) == "true")
}
