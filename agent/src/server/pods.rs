//! `/pods`, which the API server has bound to this node, and `/runningpods/`, of which the runtime has
//! containers.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::{Shared, refuse};
use crate::cri::{Running, labels};

/// As the API server wrote them.
pub(super) async fn bound(State(shared): State<Shared>) -> Response {
    let mut list = br#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":["#.to_vec();
    for (index, entry) in shared.informer.snapshot().values().enumerate() {
        if index > 0 {
            list.push(b',');
        }
        list.extend_from_slice(&entry.bytes);
    }
    list.extend_from_slice(b"]}");
    ([(CONTENT_TYPE, "application/json")], list).into_response()
}

/// Not what is wanted, but what is there.
pub(super) async fn running(State(shared): State<Shared>) -> Response {
    match shared.pods.context().runtime.running().await {
        Ok(running) => super::json(&list(&running)),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn list(running: &Running) -> Value {
    let mut pods: Vec<Value> = Vec::new();
    for sandbox in running.sandboxes.values() {
        let Some(meta) = &sandbox.metadata else { continue };
        let own = running.containers.values().filter(|one| one.pod_sandbox_id == sandbox.id);
        let mut containers: Vec<Value> = own
            .filter_map(|one| {
                let name = one.labels.get(labels::CONTAINER_NAME)?;
                let image = one.image.as_ref().map_or("", |image| image.image.as_str());
                Some(json!({"name": name, "image": image, "resources": {}}))
            })
            .collect();
        containers.sort_by_key(|one| one["name"].to_string());
        if !containers.is_empty() {
            pods.push(json!({
                "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
                "spec": {"containers": containers},
                "status": {},
            }));
        }
    }
    pods.sort_by_key(|pod| pod["metadata"].to_string());
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::summary::tests::figures;

    #[test]
    fn what_runs_is_listed_without_what_has_ended() {
        let mut running = figures().usage.running;
        for sandbox in running.sandboxes.values_mut() {
            let (name, namespace, uid) = ("p".into(), "a".into(), "u1".into());
            sandbox.metadata =
                Some(proto::cri::PodSandboxMetadata { name, namespace, uid, attempt: 0 });
        }
        assert_eq!(list(&running)["items"], json!([]));
        for container in running.containers.values_mut() {
            container.pod_sandbox_id = "s1".into();
            container.labels.insert(labels::CONTAINER_NAME.into(), "main".into());
        }
        let expected = json!([{
            "metadata": {"name": "p", "namespace": "a", "uid": "u1"},
            "spec": {"containers": [{"name": "main", "image": "", "resources": {}}]},
            "status": {},
        }]);
        assert_eq!(list(&running)["items"], expected);
    }
}
