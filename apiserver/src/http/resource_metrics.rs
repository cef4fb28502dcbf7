//! GET of NodeMetrics and PodMetrics: which nodes are to be asked, and what their answers come to.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use proto::{kind, status::Status};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use crate::{
    cache::Entry,
    codec::duration,
    node::{Used, UsedByNode},
    registry::{Answer, Call, Content, Selection},
};

/// What is read of a pod here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Pod {
    metadata: Metadata,
    spec: Spec,
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
    namespace: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: String,
    container_statuses: Vec<ContainerStatus>,
    init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    name: String,
    state: State,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct State {
    running: Option<serde::de::IgnoredAny>,
}

type ByNode = HashMap<String, Arc<UsedByNode>>;

/// One of them, or all.
pub(super) async fn answer(api: &Api, call: &Call<'_>) -> Result<Answer, Status> {
    let selection = Selection::parse(call)?;
    let mut found = match call.kind.row.kind == kind::NODE_METRICS.kind {
        true => nodes(api, call, &selection).await,
        false => pods(api, call, &selection).await,
    };
    let content = match call.name {
        "" => Content::Made(found),
        name => {
            let row = call.kind.row;
            let missing = || Status::not_found(&row.group, &row.resource, name);
            Content::Object(found.pop().ok_or_else(missing)?)
        }
    };
    Ok(Answer { code: 200, content, warnings: Vec::new() })
}

async fn nodes(api: &Api, call: &Call<'_>, selection: &Selection) -> Vec<Value> {
    let snapshot = api.registry.of(&kind::NODE).cache.snapshot();
    let selected: Vec<_> = snapshot
        .list("", None)
        .filter(|entry| selection.matches_within(entry))
        .map(|entry| (name_of(entry), entry.clone()))
        .collect();
    let names = selected.iter().map(|(name, _)| name.clone()).collect();
    let used = ask(api, names).await;
    let metrics = selected.iter().filter_map(|(name, entry)| {
        let node = used.get(name)?.node?;
        let mut object = head(call, name, "", entry, &node);
        object["usage"] = usage(&node);
        Some(object)
    });
    metrics.collect()
}

async fn pods(api: &Api, call: &Call<'_>, selection: &Selection) -> Vec<Value> {
    let snapshot = api.registry.of(&kind::POD).cache.snapshot();
    let mut selected: Vec<(Pod, Arc<Entry>)> = Vec::new();
    for entry in snapshot.list(call.namespace, None) {
        if selection.matches_within(entry)
            && let Ok(pod) = serde_json::from_slice::<Pod>(&entry.bytes())
            && pod.status.phase == "Running"
        {
            selected.push((pod, entry.clone()));
        }
    }
    let nodes = selected.iter().map(|(pod, _)| pod.spec.node_name.clone());
    let used = ask(api, nodes.filter(|node| !node.is_empty()).collect()).await;
    selected.iter().filter_map(|(pod, entry)| of_pod(call, pod, entry, &used)).collect()
}

async fn ask(api: &Api, nodes: BTreeSet<String>) -> ByNode {
    let known = api.registry.of(&kind::NODE).cache.snapshot();
    let names: BTreeSet<String> = known.list("", None).map(|entry| name_of(entry)).collect();
    api.usage.keep(|node| names.contains(node));
    api.usage.of(&api.registry, nodes).await
}

/// Only where every container that runs is known: a part would be taken for the whole.
fn of_pod(call: &Call<'_>, pod: &Pod, entry: &Entry, used: &ByNode) -> Option<Value> {
    let Metadata { name, namespace } = &pod.metadata;
    let node = used.get(&pod.spec.node_name)?;
    let status = &pod.status;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses);
    let running = all.filter(|container| container.state.running.is_some());
    let mut containers = Vec::new();
    // That with the longest window, of which the others' are a part.
    let mut longest: Option<Used> = None;
    for container in running {
        let found = *node.container(namespace, name, &container.name)?;
        containers.push(json!({"name": container.name, "usage": usage(&found)}));
        if longest.is_none_or(|one| one.window < found.window) {
            longest = Some(found);
        }
    }
    let mut object = head(call, name, namespace, entry, &longest?);
    object["containers"] = containers.into();
    Some(object)
}

fn head(call: &Call<'_>, name: &str, namespace: &str, entry: &Entry, used: &Used) -> Value {
    let labels = entry.labels.iter().map(|(key, value)| (key.to_string(), value.to_string()));
    let labels: serde_json::Map<String, Value> =
        labels.map(|(key, value)| (key, value.into())).collect();
    let mut metadata = json!({"name": name, "creationTimestamp": call.now});
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    if !labels.is_empty() {
        metadata["labels"] = labels.into();
    }
    let window = u64::try_from(used.window.as_nanos()).unwrap_or(u64::MAX);
    json!({
        "kind": call.kind.row.kind,
        "apiVersion": call.kind.row.api_version(),
        "metadata": metadata,
        "timestamp": used.at,
        "window": duration::write(window),
    })
}

fn usage(used: &Used) -> Value {
    json!({"cpu": used.cpu.to_string(), "memory": used.memory.to_string()})
}

fn name_of(entry: &Entry) -> String {
    entry.name().to_string()
}
