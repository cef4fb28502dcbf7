//! How far a rollout is, in kubectl's words.

use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::resources::items;

/// How far the rollout of an object of this kind is, and whether that is the end of it.
pub fn of(kind: &str, name: &str, object: &Value) -> Result<(String, bool)> {
    match kind {
        "StatefulSet" => stateful_set(object),
        "DaemonSet" => daemon_set(name, object),
        _ => deployment(name, object),
    }
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn deployment(name: &str, deployment: &Value) -> Result<(String, bool)> {
    let (spec, status) = (&deployment["spec"], &deployment["status"]);
    if is_old(deployment) {
        return Ok(("Waiting for deployment spec update to be observed...".into(), false));
    }
    let exceeded = items(&status["conditions"]).any(|condition| {
        condition["type"] == "Progressing" && condition["reason"] == "ProgressDeadlineExceeded"
    });
    if exceeded {
        return Err(Failure::said(format!("deployment {name:?} exceeded its progress deadline")));
    }
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    let (updated, all) = (number(&status["updatedReplicas"]), number(&status["replicas"]));
    let available = number(&status["availableReplicas"]);
    let waiting = |what: String| {
        (format!("Waiting for deployment {name:?} rollout to finish: {what}..."), false)
    };
    Ok(if updated < wanted {
        waiting(format!("{updated} out of {wanted} new replicas have been updated"))
    } else if all > updated {
        waiting(format!("{} old replicas are pending termination", all - updated))
    } else if available < updated {
        waiting(format!("{available} of {updated} updated replicas are available"))
    } else {
        (format!("deployment {name:?} successfully rolled out"), true)
    })
}

/// Whether the API server's word is from before the object last changed.
fn is_old(object: &Value) -> bool {
    number(&object["metadata"]["generation"]) > number(&object["status"]["observedGeneration"])
}

fn must_roll(object: &Value) -> Result<()> {
    match object["spec"]["updateStrategy"]["type"].as_str() {
        Some("RollingUpdate") => Ok(()),
        _ => Err(Failure::said("rollout status is only available for RollingUpdate strategy type")),
    }
}

fn stateful_set(set: &Value) -> Result<(String, bool)> {
    must_roll(set)?;
    let (spec, status) = (&set["spec"], &set["status"]);
    if is_old(set) {
        return Ok(("Waiting for statefulset spec update to be observed...".into(), false));
    }
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    let (ready, updated) = (number(&status["readyReplicas"]), number(&status["updatedReplicas"]));
    if ready < wanted {
        return Ok((format!("Waiting for {} pods to be ready...", wanted - ready), false));
    }
    if let Some(partition) = spec["updateStrategy"]["rollingUpdate"]["partition"].as_i64() {
        let new = wanted - partition;
        return Ok(match updated < new {
            true => (
                format!(
                    "Waiting for partitioned roll out to finish: {updated} out of {new} new pods have \
                     been updated..."
                ),
                false,
            ),
            false => (
                format!("partitioned roll out complete: {updated} new pods have been updated..."),
                true,
            ),
        });
    }
    let revision = |field: &str| status[field].as_str().unwrap_or_default().to_string();
    Ok(match revision("updateRevision") {
        update if update != revision("currentRevision") => (
            format!(
                "waiting for statefulset rolling update to complete {updated} pods at revision \
                 {update}..."
            ),
            false,
        ),
        update => (
            format!(
                "statefulset rolling update complete {} pods at revision {update}...",
                number(&status["currentReplicas"])
            ),
            true,
        ),
    })
}

fn daemon_set(name: &str, set: &Value) -> Result<(String, bool)> {
    must_roll(set)?;
    if is_old(set) {
        return Ok(("Waiting for daemon set spec update to be observed...".into(), false));
    }
    let status = &set["status"];
    let wanted = number(&status["desiredNumberScheduled"]);
    let updated = number(&status["updatedNumberScheduled"]);
    let available = number(&status["numberAvailable"]);
    let waiting = |what: String| {
        (format!("Waiting for daemon set {name:?} rollout to finish: {what}..."), false)
    };
    Ok(if updated < wanted {
        waiting(format!("{updated} out of {wanted} new pods have been updated"))
    } else if available < wanted {
        waiting(format!("{available} of {wanted} updated pods are available"))
    } else {
        (format!("daemon set {name:?} successfully rolled out"), true)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn progress_in_kubectls_words() {
        let at = |generation: i64, status: Value| json!({"metadata": {"generation": generation}, "spec": {"replicas": 3}, "status": status});
        for (deployment, said, done) in [
            (
                at(2, json!({"observedGeneration": 1})),
                "Waiting for deployment spec update to be observed...",
                false,
            ),
            (
                at(1, json!({"observedGeneration": 1, "updatedReplicas": 1, "replicas": 3})),
                "Waiting for deployment \"web\" rollout to finish: 1 out of 3 new replicas have been updated...",
                false,
            ),
            (
                at(1, json!({"observedGeneration": 1, "updatedReplicas": 3, "replicas": 4})),
                "Waiting for deployment \"web\" rollout to finish: 1 old replicas are pending termination...",
                false,
            ),
            (
                at(
                    1,
                    json!({"observedGeneration": 1, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 2}),
                ),
                "Waiting for deployment \"web\" rollout to finish: 2 of 3 updated replicas are available...",
                false,
            ),
            (
                at(
                    1,
                    json!({"observedGeneration": 1, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3}),
                ),
                "deployment \"web\" successfully rolled out",
                true,
            ),
        ] {
            let (words, end) = of("Deployment", "web", &deployment).unwrap();
            assert_eq!((words.as_str(), end), (said, done));
        }
    }

    #[test]
    fn sets_in_kubectls_words() {
        let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}});
        let at = |generation: i64, strategy: &Value, status: Value| {
            json!({"metadata": {"generation": generation}, "status": status,
                "spec": {"replicas": 3, "updateStrategy": strategy}})
        };
        let ready = json!({"observedGeneration": 1, "readyReplicas": 3, "updatedReplicas": 2,
            "currentReplicas": 3, "currentRevision": "web-1", "updateRevision": "web-2"});
        let whole = json!({"type": "RollingUpdate"});
        for (kind, object, said, done) in [
            (
                "StatefulSet",
                at(2, &rolling, ready.clone()),
                "Waiting for statefulset spec update to be observed...",
                false,
            ),
            (
                "StatefulSet",
                at(1, &rolling, json!({"observedGeneration": 1, "readyReplicas": 1})),
                "Waiting for 2 pods to be ready...",
                false,
            ),
            (
                "StatefulSet",
                at(1, &rolling, ready.clone()),
                "partitioned roll out complete: 2 new pods have been updated...",
                true,
            ),
            (
                "StatefulSet",
                at(1, &whole, ready),
                "waiting for statefulset rolling update to complete 2 pods at revision web-2...",
                false,
            ),
            (
                "DaemonSet",
                at(
                    1,
                    &whole,
                    json!({"observedGeneration": 1, "desiredNumberScheduled": 3,
                    "updatedNumberScheduled": 3, "numberAvailable": 2}),
                ),
                "Waiting for daemon set \"web\" rollout to finish: 2 of 3 updated pods are available...",
                false,
            ),
            (
                "DaemonSet",
                at(1, &whole, json!({"observedGeneration": 1})),
                "daemon set \"web\" successfully rolled out",
                true,
            ),
        ] {
            let (words, end) = of(kind, "web", &object).unwrap();
            assert_eq!((words.as_str(), end), (said, done));
        }
        assert!(of("DaemonSet", "web", &at(1, &json!({"type": "OnDelete"}), json!({}))).is_err());
    }
}
