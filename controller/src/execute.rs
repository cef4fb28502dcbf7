//! Carries plans out: the only place where controllers write. It makes no choices.

use std::sync::Arc;

use bytes::Bytes;
use client::{Client, Error, Recorder};
use futures::stream::{self, StreamExt};
use http::Method;
use proto::kind::{Row, SUBJECT_ACCESS_REVIEW};
use proto::meta::ObjectMeta;
use proto::view::Meta;
use serde_json::Value;

use crate::plan::{Create, Delete, Patch, Step, Target, Told, Words};
use crate::view::{Failure, View};

const JSON: &str = "application/json";
/// How many requests of one plan are under way at once, at most.
const TOGETHER: usize = 50;

/// A step that did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("{verb} {kind} {namespace}/{name}")]
pub struct StepError {
    pub verb: &'static str,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    /// What the next plan for the object should know.
    pub failure: Option<Failure>,
    #[source]
    pub source: Error,
}

impl StepError {
    /// The view was behind: nothing is wrong, planning again will do.
    pub fn is_stale(&self) -> bool {
        self.source.is_conflict() || self.source.is_not_found() || self.source.is_already_exists()
    }
}

/// Writes for one controller, into its view too.
pub(crate) struct Executor {
    pub client: Client,
    pub view: Arc<View>,
    pub recorder: Recorder,
}

impl Executor {
    /// Carries the steps out in order; stops at the first that fails.
    pub async fn carry_out(&self, steps: Vec<Step>) -> Result<(), StepError> {
        let mut steps = steps.into_iter().peekable();
        while let Some(step) = steps.next() {
            match step {
                Step::Create(first) => {
                    let (row, namespace) = (first.row, first.namespace.clone());
                    let same = |create: &Create| create.row == row && create.namespace == namespace;
                    let mut requests = bodies(first);
                    while let Some(Step::Create(next)) =
                        steps.next_if(|step| matches!(step, Step::Create(create) if same(create)))
                    {
                        requests.extend(bodies(next));
                    }
                    self.create(requests).await?;
                }
                Step::Delete(first) => {
                    let mut batch = vec![first];
                    while let Some(Step::Delete(next)) =
                        steps.next_if(|step| matches!(step, Step::Delete(_)))
                    {
                        batch.push(next);
                    }
                    self.delete_all(batch).await?;
                }
                Step::Patch(patch) => self.patch(&patch).await?,
                Step::PatchEach(patches) => {
                    let patch = |patch: Patch| async move { self.patch(&patch).await };
                    together(patches.into_iter().map(patch)).await?;
                }
                Step::Adopt { owner, patch } => {
                    let living = self.read(&owner).await?.is_some_and(|meta| {
                        meta.uid == owner.uid && meta.deletion_timestamp.is_none()
                    });
                    if !living {
                        return Ok(());
                    }
                    self.patch(&patch).await?;
                }
                Step::Absent(target) => {
                    let same = |meta: &ObjectMeta| target.uid.is_empty() || meta.uid == target.uid;
                    if self.read(&target).await?.as_ref().is_some_and(same) {
                        return Ok(());
                    }
                }
                Step::Allowed(review) => {
                    if !self.allowed(&review).await? {
                        return Ok(());
                    }
                }
                Step::Event(event) => {
                    self.recorder.event(&event.regarding, event.kind, event.reason, event.message);
                }
            }
        }
        Ok(())
    }

    /// One, two, four, … at a time, so that a refusal is met once.
    async fn create(&self, mut creates: Vec<(Arc<Create>, Bytes)>) -> Result<(), StepError> {
        let mut batch = 1;
        while !creates.is_empty() {
            let later = creates.split_off(batch.min(TOGETHER).min(creates.len()));
            let create = |(create, body): (Arc<Create>, _)| async move {
                self.create_one(&create, body).await
            };
            together(creates.into_iter().map(create)).await?;
            creates = later;
            batch *= 2;
        }
        Ok(())
    }

    async fn create_one(&self, create: &Create, body: Bytes) -> Result<(), StepError> {
        let path = create.row.path(&create.namespace, "");
        match self.client.send(Method::POST, &path, JSON, body).await {
            Ok(answer) => {
                let meta = self.wrote(create.row, &path, answer).map_err(|source| {
                    step_error("create", create.row, &create.namespace, "", source)
                })?;
                self.tell_success(create.told.as_ref(), |told| told.created, &meta.name);
                Ok(())
            }
            Err(source) => {
                let metadata = &create.object["metadata"];
                let name = metadata["name"].as_str().or(metadata["generateName"].as_str());
                let name = name.unwrap_or_default();
                let mut error = step_error("create", create.row, &create.namespace, name, source);
                // Nothing can be created in a namespace that is going away, and what is there
                // already was only not seen yet: no one need know.
                if !error.source.is_namespace_terminating() && !error.source.is_already_exists() {
                    let words = |told: &Told| told.not_created;
                    let told = create.told.as_ref();
                    error.failure = self.tell_failure(told, words, name, &error.source);
                }
                Err(error)
            }
        }
    }

    async fn delete_all(&self, batch: Vec<Delete>) -> Result<(), StepError> {
        together(batch.into_iter().map(|delete| self.delete(delete))).await
    }

    async fn delete(&self, delete: Delete) -> Result<(), StepError> {
        let Target { row, namespace, name, .. } = &delete.target;
        match self.client.delete_of(row, namespace, name, &delete.options).await {
            Ok(answer) => self.deleted(&delete.target, answer),
            Err(error) if error.is_not_found() => self.deleted(&delete.target, Bytes::new()),
            Err(source) => {
                let mut error = step_error("delete", row, namespace, name, source);
                let words = |told: &Told| told.not_deleted;
                error.failure = self.tell_failure(delete.told.as_ref(), words, name, &error.source);
                return Err(error);
            }
        }
        self.tell_success(delete.told.as_ref(), |told| told.deleted, name);
        Ok(())
    }

    /// The answer is the object that is now ending, or one that has ended, or a Status.
    fn deleted(&self, target: &Target, answer: Bytes) {
        let Some(overlay) = self.view.overlay(target.row) else { return };
        let meta = match serde_json::from_slice::<Meta>(&answer) {
            Ok(object) if object.metadata.uid == target.uid => object.metadata,
            _ => ObjectMeta::default(),
        };
        let ending = meta.deletion_timestamp.is_some()
            && (!meta.finalizers.is_empty() || meta.deletion_grace_period_seconds != Some(0));
        if ending && overlay.wrote(answer).is_ok() {
            return;
        }
        overlay.removed(&ObjectMeta {
            namespace: target.namespace.clone(),
            name: target.name.clone(),
            uid: target.uid.clone(),
            ..meta
        });
    }

    async fn patch(&self, patch: &Patch) -> Result<(), StepError> {
        let Target { row, namespace, name, .. } = &patch.target;
        let failed = |source| step_error("patch", row, namespace, name, source);
        let body = match patch.strategic {
            true => client::Patch::Strategic(patch.body.clone()),
            false => client::Patch::Merge(patch.body.clone()),
        };
        let answer = self
            .client
            .patch_of(row, namespace, name, patch.subresource, &body)
            .await
            .map_err(failed)?;
        self.wrote(row, name, answer).map_err(failed).map(drop)
    }

    async fn allowed(&self, review: &Value) -> Result<bool, StepError> {
        let row = &SUBJECT_ACCESS_REVIEW;
        let answer = self.client.post(&row.path("", ""), review).await;
        let answer = answer.map_err(|source| step_error("create", row, "", "", source))?;
        Ok(answer["status"]["allowed"] == true)
    }

    async fn read(&self, target: &Target) -> Result<Option<ObjectMeta>, StepError> {
        let Target { row, namespace, name, .. } = target;
        let path = row.path(namespace, name);
        let failed = |source| step_error("get", row, namespace, name, source);
        match self.client.send(Method::GET, &path, "", Bytes::new()).await {
            Ok(bytes) => match serde_json::from_slice::<Meta>(&bytes) {
                Ok(object) => Ok(Some(object.metadata)),
                Err(source) => Err(failed(Error::Decode { path, source })),
            },
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn wrote(&self, row: &Row, path: &str, answer: Bytes) -> Result<ObjectMeta, Error> {
        let read = match self.view.overlay(row) {
            Some(overlay) => overlay.wrote(answer),
            None => serde_json::from_slice::<Meta>(&answer).map(|object| object.metadata),
        };
        read.map_err(|source| Error::Decode { path: path.into(), source })
    }

    /// Tells of a failure; returns what the next plan should know.
    fn tell_failure(
        &self,
        told: Option<&Told>,
        words: fn(&Told) -> Option<Words>,
        name: &str,
        error: &Error,
    ) -> Option<Failure> {
        let (reason, message) = (words(told?)?.0, error.to_string());
        self.tell(told, "Warning", words, name, &message);
        Some(Failure { reason, message })
    }

    fn tell_success(&self, told: Option<&Told>, words: fn(&Told) -> Option<Words>, name: &str) {
        self.tell(told, "Normal", words, name, name);
    }

    fn tell(
        &self,
        about: Option<&Told>,
        kind: &'static str,
        words: fn(&Told) -> Option<Words>,
        name: &str,
        what: &str,
    ) {
        if let Some(about) = about
            && let Some((reason, words)) = words(about)
        {
            let message = about.message(words, name, what);
            self.recorder.event(&about.regarding, kind, reason, message);
        }
    }
}

/// As often as it is wanted, with the request's body, which is made once.
fn bodies(create: Create) -> Vec<(Arc<Create>, Bytes)> {
    let (count, body) = (create.count, Bytes::from(create.object.to_string()));
    vec![(Arc::new(create), body); count]
}

/// Carries all of them out, whatever becomes of some; tells of the first failure.
async fn together(
    requests: impl Iterator<Item = impl Future<Output = Result<(), StepError>>>,
) -> Result<(), StepError> {
    let outcomes: Vec<_> = stream::iter(requests).buffer_unordered(TOGETHER).collect().await;
    outcomes.into_iter().collect()
}

fn step_error(
    verb: &'static str,
    row: &Row,
    namespace: &str,
    name: &str,
    source: Error,
) -> StepError {
    let (namespace, name) = (namespace.to_string(), name.to_string());
    StepError { verb, kind: row.kind.to_string(), namespace, name, failure: None, source }
}
