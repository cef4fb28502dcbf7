//! FlowSchemas say whether the priority level that they name exists: the condition `Dangling`, as
//! upstream's consumer of the configuration keeps it.

use std::time::Duration;

use axum::{Router, body::Body};
use client::Clock;
use http::Request;
use http_body_util::BodyExt;
use proto::{kind, status::Status, time::Time, user::User};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{kinds::lens::Lens, registry::Registry};

/// The field manager, as upstream's.
const MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";

/// A write that failed for no fault of the object's is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Does so whenever an object of one of the two kinds changes. Runs until dropped.
pub(super) async fn keep(router: &Router, registry: &Registry, clock: &Clock) {
    let kinds = [&kind::FLOW_SCHEMA, &kind::PRIORITY_LEVEL_CONFIGURATION];
    let [schemas, levels] = kinds.map(|row| &registry.of(row).cache);
    loop {
        let from = registry.cache().progress();
        let (Ok(mut one), Ok(mut other)) = (schemas.watcher(from), levels.watcher(from)) else {
            continue;
        };
        let failed = match sync(router, registry, clock.now()).await {
            Ok(()) => false,
            Err(status) => {
                tracing::warn!(%status, "telling FlowSchemas of their priority levels");
                true
            }
        };
        tokio::select! {
            _ = one.next() => {}
            _ = other.next() => {}
            () = clock.sleep(RETRY), if failed => {}
        }
    }
}

/// Writes the conditions that are not as they should be.
pub(super) async fn sync(router: &Router, registry: &Registry, now: Time) -> Result<(), Status> {
    let levels = &registry.of(&kind::PRIORITY_LEVEL_CONFIGURATION).cache;
    let schemas = registry.of(&kind::FLOW_SCHEMA).cache.snapshot();
    for entry in schemas.list("", None) {
        let Ok(schema) = serde_json::from_slice::<Value>(&entry.bytes()) else { continue };
        let level = schema.at("spec").at("priorityLevelConfiguration").text("name");
        let exists = levels.get("", level).is_some();
        let Some(condition) = due(&schema, level, exists, now) else { continue };
        match apply(router, entry.name(), condition).await {
            // It is gone, or was changed at this moment: that brings us back.
            Err(status) if !matches!(status.code, 404 | 409) => return Err(status),
            _ => {}
        }
    }
    Ok(())
}

/// The condition that the schema should have, where it has another or none.
fn due(schema: &Value, level: &str, exists: bool, now: Time) -> Option<Value> {
    let named = "This FlowSchema references the PriorityLevelConfiguration object named";
    let (status, reason, message) = match exists {
        true => ("False", "Found", format!("{named} {level:?} and it exists")),
        false => ("True", "NotFound", format!("{named} {level:?} but there is no such object")),
    };
    let conditions = schema.at("status").items("conditions");
    let said = conditions.iter().any(|condition| {
        condition.text("type") == "Dangling"
            && condition.text("status") == status
            && condition.text("reason") == reason
            && condition.text("message") == message
    });
    (!said).then(|| {
        json!({
            "type": "Dangling",
            "status": status,
            "lastTransitionTime": now.to_string(),
            "reason": reason,
            "message": message,
        })
    })
}

async fn apply(router: &Router, name: &str, condition: Value) -> Result<(), Status> {
    let row = &kind::FLOW_SCHEMA;
    let object = json!({
        "apiVersion": row.api_version(),
        "kind": row.kind,
        "metadata": {"name": name},
        "status": {"conditions": [condition]},
    });
    let path = row.path("", name);
    let request = Request::patch(format!("{path}/status?fieldManager={MANAGER}&force=true"))
        .header("content-type", "application/apply-patch+yaml")
        .extension(User::new("system:apiserver", &["system:masters"]))
        .body(Body::from(object.to_string()))
        .map_err(Status::internal)?;
    let response = match router.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if response.status().is_success() {
        return Ok(());
    }
    let body = response.into_body().collect().await.map_err(Status::internal)?.to_bytes();
    Err(serde_json::from_slice(&body).map_err(Status::internal)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_written_where_they_differ() {
        let now = Time::from_unix(0);
        let mut schema = json!({"spec": {}});
        let missing = due(&schema, "l", false, now).unwrap();
        assert_eq!(missing["status"], "True");
        schema["status"] = json!({"conditions": [{"type": "Other"}, missing]});
        assert_eq!(due(&schema, "l", false, now), None);
        let found = due(&schema, "l", true, now).unwrap();
        assert_eq!((&found["status"], &found["reason"]), (&json!("False"), &json!("Found")));
        assert_eq!(
            found["message"],
            "This FlowSchema references the PriorityLevelConfiguration object named \"l\" and it \
             exists"
        );
    }
}
