//! The node's heartbeat: a Lease in kube-node-lease, renewed every ten seconds. Nothing that is
//! slow may happen in this task.

use std::time::Duration;

use client::{Client, Clock, Rng};
use proto::meta::{ObjectMeta, OwnerReference};
use proto::time::MicroTime;
use proto::view::lease::{Lease, LeaseSpec};
use serde_json::Value;

const NAMESPACE: &str = "kube-node-lease";
const DURATION_SECONDS: i32 = 40;
const RENEW: Duration = Duration::from_secs(10);
/// A renewal that takes longer is given up and tried again.
const PATIENCE: Duration = Duration::from_secs(10);

/// Renews the lease of `node` for ever.
pub async fn renew(client: Client, clock: Clock, rng: Rng, node: String, uid: String) {
    let mut held: Option<Lease> = None;
    let mut delay = Duration::from_millis(200);
    loop {
        let beat = beat(&client, &clock, &node, &uid, held.take());
        match clock.timeout(PATIENCE, beat).await {
            Ok(Ok(lease)) => {
                held = Some(lease);
                delay = Duration::from_millis(200);
                clock.sleep(rng.jitter(RENEW, 0.04)).await;
            }
            Ok(Err(error)) => {
                tracing::debug!(%node, %error, "cannot renew the node's lease");
                clock.sleep(delay).await;
                delay = (delay * 2).min(Duration::from_secs(7));
            }
            Err(_) => tracing::warn!(%node, "renewing the node's lease takes too long"),
        }
    }
}

async fn beat(
    client: &Client,
    clock: &Clock,
    node: &str,
    uid: &str,
    held: Option<Lease>,
) -> Result<Lease, client::Error> {
    let known = match held {
        Some(lease) => Some(lease),
        None => match client.get::<Lease>(NAMESPACE, node).await {
            Ok(entry) => Some(entry.view),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        },
    };
    let new = known.is_none();
    let mut lease = known.unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: node.into(),
            namespace: NAMESPACE.into(),
            owner_references: vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: node.into(),
                uid: uid.into(),
                ..OwnerReference::default()
            }],
            ..ObjectMeta::default()
        },
        spec: LeaseSpec::default(),
    });
    lease.spec.holder_identity = node.into();
    lease.spec.lease_duration_seconds = Some(DURATION_SECONDS);
    lease.spec.renew_time = Some(MicroTime(clock.now()));
    let mut object = serde_json::to_value(&lease).unwrap_or_default();
    object["apiVersion"] = Value::from("coordination.k8s.io/v1");
    object["kind"] = Value::from("Lease");
    let entry = match new {
        true => client.create::<Lease>(NAMESPACE, &object).await?,
        false => client.update::<Lease>(NAMESPACE, node, "", &object).await?,
    };
    Ok(entry.view)
}
