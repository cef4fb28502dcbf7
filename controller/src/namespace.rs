//! Namespaces that are being deleted: first their pods, then all else they hold, then they
//! themselves. What there is to delete only the API server knows, so this one asks instead of
//! planning from a view.
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/>

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::error::chain;
use client::{
    Client, Clock, DeleteOptions, Entry, Error, Informer, ListOptions, Patch, WorkQueue,
    in_namespace,
};
use http::Method;
use proto::kind::{NAMESPACE, Row};
use proto::time::Time;
use proto::view::namespace::Namespace;
use proto::view::pod::Pod;
use proto::view::{Condition, Meta};
use serde_json::json;
use tokio::task::JoinSet;

use crate::discovery::{discover, serves};
use crate::plan::difference;
use crate::run::Setup;

/// The name under which `--controllers` knows it.
pub const NAME: &str = "namespace-controller";
const WORKERS: usize = 5;
const FINALIZER: &str = "kubernetes";
/// Content with finalizers is looked at again after this time.
const FINALIZATION: Duration = Duration::from_secs(1);

/// What a pass over a namespace found.
#[derive(Default)]
struct Findings {
    /// Groups whose kinds are not known.
    undiscovered: Vec<String>,
    /// Kinds whose objects could not be deleted, and why.
    undeleted: Vec<String>,
    /// `resource.group` and how many there are.
    remaining: BTreeMap<String, usize>,
    /// Finalizer and on how many objects.
    finalizers: BTreeMap<String, usize>,
}

struct Terminator {
    client: Client,
    clock: Clock,
    namespaces: Informer<Namespace>,
    queue: Arc<WorkQueue<Arc<str>>>,
}

/// Runs until dropped.
pub async fn run(setup: Setup) {
    let terminator = Arc::new(Terminator {
        queue: setup.queue(NAME, ""),
        client: setup.client,
        clock: setup.clock,
        namespaces: setup.informers.of::<Namespace>(),
    });
    let pods = setup.informers.of::<Pod>();
    terminator.namespaces.synced().await;
    let mut tasks = JoinSet::new();
    for _ in 0..WORKERS {
        let terminator = terminator.clone();
        tasks.spawn(async move { terminator.work().await });
    }
    let (mut namespaces, mut changes) = (terminator.namespaces.changes(), pods.changes());
    loop {
        tokio::select! {
            change = namespaces.next() => {
                if change.new.is_some_and(|namespace| is_ending(&namespace)) {
                    terminator.queue.add(change.key.name);
                }
            }
            change = changes.next() => {
                let namespace = &change.key.namespace;
                let ending = || terminator.namespaces.get("", namespace);
                let emptied = || in_namespace(&pods.snapshot(), namespace).next().is_none();
                if change.new.is_none()
                    && ending().is_some_and(|namespace| is_ending(&namespace))
                    && emptied()
                {
                    terminator.queue.add(namespace.clone());
                }
            }
        }
    }
}

fn is_ending(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
        && namespace.spec.finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

impl Terminator {
    async fn work(&self) {
        loop {
            let name = self.queue.next().await;
            match self.end(&name).await {
                Ok(None) => self.queue.forget(&name),
                Ok(Some(wait)) => self.queue.add_after(name.clone(), wait),
                Err(error) if error.is_conflict() || error.is_not_found() => {
                    self.queue.backoff(name.clone());
                }
                Err(error) => {
                    tracing::warn!(controller = NAME, %name, error = chain(&error), "failed");
                    self.queue.backoff(name.clone());
                }
            }
            self.queue.done(&name);
        }
    }

    /// One pass; says when to come back if that is needed.
    async fn end(&self, name: &str) -> Result<Option<Duration>, Error> {
        let namespace = match self.client.get::<Namespace>("", name).await {
            Ok(namespace) if is_ending(&namespace) => namespace,
            Ok(_) => return Ok(None),
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let findings = self.clear(name).await?;
        let mut status = namespace.status.clone();
        status.phase = "Terminating".into();
        for condition in conditions(&findings, self.clock.now()) {
            set(&mut status.conditions, condition);
        }
        let settled = findings.remaining.is_empty() && findings.undeleted.is_empty();
        if settled && findings.undiscovered.is_empty() {
            self.finalize(&namespace).await?;
            return Ok(None);
        }
        if let Some(status) = difference(&namespace.status, &status) {
            let revision = &namespace.metadata.resource_version;
            let body = json!({ "metadata": { "resourceVersion": revision }, "status": status });
            self.client.patch_of(&NAMESPACE, "", name, "status", &Patch::Merge(body)).await?;
        }
        // The end of the last pod wakes this by itself; other content may be held by finalizers.
        let only_pods = findings.remaining.len() == 1 && findings.remaining.contains_key("pods.");
        Ok(Some(if only_pods { FINALIZATION * 10 } else { FINALIZATION }))
    }

    /// Deletes what the namespace holds: pods, and once there are none, everything else.
    async fn clear(&self, name: &str) -> Result<Findings, Error> {
        let discovery = discover(&self.client).await?;
        let mut findings = Findings::default();
        for (group, error) in &discovery.failures {
            findings.undiscovered.push(format!("{group}: {error}"));
        }
        let deletable = |row: &&Row| row.namespaced && serves(row, &["list", "delete"]);
        let (pods, others): (Vec<&Row>, Vec<&Row>) = discovery
            .rows
            .iter()
            .filter(deletable)
            .partition(|row| row.group.is_empty() && row.resource == "pods");
        for rows in [pods, others] {
            for row in rows {
                if let Err(error) = self.clear_kind(row, name, &mut findings).await {
                    findings.undeleted.push(format!("{}: {error}", row.resource));
                }
            }
            if !findings.remaining.is_empty() || !findings.undeleted.is_empty() {
                break;
            }
        }
        Ok(findings)
    }

    async fn clear_kind(
        &self,
        row: &Row,
        namespace: &str,
        findings: &mut Findings,
    ) -> Result<(), Error> {
        let list = ListOptions { namespace: namespace.into(), ..ListOptions::default() };
        let mut left = self.client.list_of::<Meta>(row, &list).await?.items;
        if left.is_empty() {
            return Ok(());
        }
        if serves(row, &["deletecollection"]) {
            let body = DeleteOptions::default().body().to_string();
            let path = row.path(namespace, "");
            self.client.send(Method::DELETE, &path, "application/json", body.into()).await?;
        } else {
            for object in &left {
                let options = DeleteOptions::uid(&object.metadata.uid);
                match self.client.delete_of(row, namespace, &object.metadata.name, &options).await {
                    Ok(_) => {}
                    Err(error) if error.is_not_found() || error.is_conflict() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        left = self.client.list_of::<Meta>(row, &list).await?.items;
        if !left.is_empty() {
            findings.remaining.insert(format!("{}.{}", row.resource, row.group), left.len());
        }
        for finalizer in left.iter().flat_map(|object| &object.metadata.finalizers) {
            *findings.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        Ok(())
    }

    /// Takes our finalizer off; without any the namespace is gone.
    async fn finalize(&self, namespace: &Entry<Namespace>) -> Result<(), Error> {
        let mut object = namespace.value();
        let others = namespace.spec.finalizers.iter().filter(|finalizer| *finalizer != FINALIZER);
        object["spec"]["finalizers"] = others.map(|finalizer| json!(finalizer)).collect();
        let name = &namespace.metadata.name;
        match self.client.update::<Namespace>("", name, "finalize", &object).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }
}

/// What the findings say, in Kubernetes' words.
fn conditions(findings: &Findings, now: Time) -> Vec<Condition> {
    let Findings { undiscovered, undeleted, remaining, finalizers } = findings;
    let failing = |list: &[String]| format!("[{}]", list.join(", "));
    let counted = |map: &BTreeMap<String, usize>, words: &str| {
        let each =
            map.iter().map(|(name, count)| format!("{name} {words} {count} resource instances"));
        each.collect::<Vec<_>>().join(", ")
    };
    let table: [(&str, bool, &str, String, &str, &str); 5] = [
        (
            "NamespaceDeletionDiscoveryFailure",
            !undiscovered.is_empty(),
            "DiscoveryFailed",
            format!(
                "Discovery failed for some groups, {} failing: {}",
                undiscovered.len(),
                failing(undiscovered)
            ),
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "GroupVersionParsingFailed",
            String::new(),
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            !undeleted.is_empty(),
            "ContentDeletionFailed",
            format!(
                "Failed to delete all resource types, {} remaining: {}",
                undeleted.len(),
                undeleted.join(", ")
            ),
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            !remaining.is_empty(),
            "SomeResourcesRemain",
            format!("Some resources are remaining: {}", counted(remaining, "has")),
            "ContentRemoved",
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            !finalizers.is_empty(),
            "SomeFinalizersRemain",
            format!(
                "Some content in the namespace has finalizers remaining: {}",
                counted(finalizers, "in")
            ),
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ];
    let condition = |(kind, holds, bad, message, good, well): (_, _, _, String, _, &str)| {
        let _: (&str, bool, &str, &str) = (kind, holds, bad, good);
        Condition {
            kind: kind.into(),
            status: if holds { "True" } else { "False" }.into(),
            reason: if holds { bad } else { good }.into(),
            message: if holds { message } else { well.into() },
            last_transition_time: Some(now),
            ..Condition::default()
        }
    };
    table.into_iter().map(condition).collect()
}

/// Puts a condition in the place of the one of its type.
fn set(list: &mut Vec<Condition>, mut condition: Condition) {
    match list.iter_mut().find(|old| old.kind == condition.kind) {
        None => list.push(condition),
        Some(old) => {
            if old.status == condition.status {
                condition.last_transition_time = old.last_transition_time;
            }
            *old = condition;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_tell_what_remains() {
        let mut findings = Findings::default();
        findings.remaining.insert("pods.".into(), 2);
        findings.finalizers.insert("example.com/hold".into(), 1);
        let said: Vec<String> = conditions(&findings, Time::from_unix(0))
            .into_iter()
            .map(|condition| format!("{} {}", condition.status, condition.message))
            .collect();
        assert_eq!(
            said,
            [
                "False All resources successfully discovered",
                "False All legacy kube types successfully parsed",
                "False All content successfully deleted, may be waiting on finalization",
                "True Some resources are remaining: pods. has 2 resource instances",
                "True Some content in the namespace has finalizers remaining: example.com/hold in \
                 1 resource instances",
            ]
        );
    }
}
