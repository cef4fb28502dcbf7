//! ComponentStatuses, made when they are asked for: how the store is, and whether a scheduler and
//! controllers are at work. Those in this process say so themselves; others hold a Lease.

use std::time::Duration;

use proto::{
    kind,
    meta::Labels,
    selector::{FieldSelector, Selector},
    status::Status,
    time::Time,
    view::lease::Lease,
};
use serde_json::{Value, json};

use super::Api;
use crate::registry::{Answer, Call, Content};

/// Every component by name, and the Lease of those that compete for one.
const COMPONENTS: [(&str, Option<&str>); 3] = [
    ("controller-manager", Some("kube-controller-manager")),
    ("etcd-0", None),
    ("scheduler", Some("kube-scheduler")),
];

/// GET of one or of all.
pub(super) async fn answer(api: &Api, call: &Call<'_>) -> Result<Answer, Status> {
    let content = match call.name {
        "" => Content::Made(list(api, call).await?),
        name => {
            let row = call.kind.row;
            let component = COMPONENTS.iter().find(|(known, _)| *known == name);
            let component =
                component.ok_or_else(|| Status::not_found(&row.group, &row.resource, name))?;
            Content::Object(status(api, call, component).await)
        }
    };
    Ok(Answer { code: 200, content, warnings: Vec::new() })
}

async fn list(api: &Api, call: &Call<'_>) -> Result<Vec<Value>, Status> {
    let bad = |error: &dyn std::fmt::Display| Status::bad_request(error.to_string());
    let labels = Selector::parse(call.query.text("labelSelector")).map_err(|e| bad(&e))?;
    let fields = FieldSelector::parse(call.query.text("fieldSelector")).map_err(|e| bad(&e))?;
    let mut found = Vec::new();
    for component in &COMPONENTS {
        let named = |field: &str| if field == "metadata.name" { component.0 } else { "" };
        if labels.matches(&Labels::new()) && fields.matches(named) {
            found.push(status(api, call, component).await);
        }
    }
    Ok(found)
}

async fn status(api: &Api, call: &Call<'_>, (name, lease): &(&str, Option<&str>)) -> Value {
    let verdict = match lease {
        None => match api.health.store_answers().await {
            true => Ok(()),
            false => Err("the store does not answer".to_string()),
        },
        Some(_) if api.health.holds(name) => Ok(()),
        Some(lease) => held(api, lease, call.now),
    };
    let (status, message) = match verdict {
        Ok(()) => ("True", "ok".to_string()),
        Err(why) => ("False", why),
    };
    json!({
        "kind": call.kind.row.kind,
        "apiVersion": call.kind.row.api_version(),
        "metadata": {"name": name},
        "conditions": [{"type": "Healthy", "status": status, "message": message}],
    })
}

/// Whether somebody holds the Lease.
fn held(api: &Api, name: &str, now: Time) -> Result<(), String> {
    let leases = &api.registry.of(&kind::LEASE).cache;
    let nobody = || format!("nobody holds the lease kube-system/{name}");
    let entry = leases.get("kube-system", name).ok_or_else(nobody)?;
    let lease: Lease = serde_json::from_slice(&entry.bytes()).map_err(|error| error.to_string())?;
    let spec = &lease.spec;
    let Some(renewed) = spec.renew_time.filter(|_| !spec.holder_identity.is_empty()) else {
        return Err(nobody());
    };
    let seconds = spec.lease_duration_seconds.unwrap_or(0).max(0);
    match now > renewed.0.plus(Duration::from_secs(seconds as u64)) {
        true => Err(format!("the lease kube-system/{name} was renewed last at {}", renewed.0)),
        false => Ok(()),
    }
}
