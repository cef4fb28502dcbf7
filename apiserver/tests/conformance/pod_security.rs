//! The audit level of PodSecurity: it lets things through and has the audit log say what it found.

use serde_json::{Value, json};

use crate::api::{Api, deployment, pod};

const POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n";
const PREFIX: &str = "pod-security.kubernetes.io";

/// The annotation of the last event of the request that is called so.
fn annotation(log: &std::path::Path, id: &str, name: &str) -> Value {
    let text = std::fs::read_to_string(log).unwrap();
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let event = events.rev().find(|event| event["auditID"] == id).expect("it is logged");
    assert_eq!(event["stage"], "ResponseComplete");
    event["annotations"][format!("{PREFIX}/{name}")].clone()
}

#[tokio::test]
async fn the_audit_log_says_what_the_audit_level_forbids() {
    let folder = tempfile::tempdir().unwrap();
    let (policy, log) = (folder.path().join("policy.yaml"), folder.path().join("audit.log"));
    std::fs::write(&policy, POLICY).unwrap();
    let flags = [
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", log.display()),
    ];
    let api = Api::start_with(&flags.each_ref().map(String::as_str)).await;
    let level = |mode: &str| format!("{PREFIX}/{mode}");
    api.namespace("quiet", json!({})).await;
    api.namespace(
        "audited",
        json!({level("audit"): "restricted", level("audit-version"): "v1.30"}),
    )
    .await;
    api.namespace("both", json!({level("audit"): "restricted", level("enforce"): "baseline"}))
        .await;
    api.namespace("garbled", json!({level("enforce"): "baseline"})).await;
    let unreadable = json!({"metadata": {"labels": {level("audit-version"): "never"}}});
    let garbled = api.merge("/api/v1/namespaces/garbled", unreadable).await;

    let mut privileged = pod("p");
    privileged["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    let create = async |id: &str, path: &str, object: &Value| {
        let headers = ["content-type: application/json", &*format!("audit-id: {id}")];
        api.send(&format!("POST {path}"), &headers, object.to_string()).await.code
    };
    let pods = |namespace: &str| format!("/api/v1/namespaces/{namespace}/pods");
    let cases = [
        ("a", pods("quiet"), &pod("p"), 201, json!("privileged:latest"), None),
        (
            "b",
            pods("audited"),
            &pod("p"),
            201,
            json!("privileged:latest"),
            Some("restricted:v1.30"),
        ),
        ("c", pods("both"), &pod("p"), 201, json!("baseline:latest"), Some("restricted:latest")),
        ("d", pods("both"), &privileged, 403, json!("baseline:latest"), Some("restricted:latest")),
        (
            "e",
            "/apis/apps/v1/namespaces/audited/deployments".into(),
            &deployment("d"),
            201,
            Value::Null,
            Some("restricted:v1.30"),
        ),
    ];
    for (id, path, object, code, enforced, audited) in cases {
        assert_eq!(create(id, &path, object).await, code, "{id}");
        assert_eq!(annotation(&log, id, "enforce-policy"), enforced, "{id}");
        let found = annotation(&log, id, "audit-violations");
        match audited {
            None => assert_eq!(found, Value::Null, "{id}"),
            Some(level) => {
                let start = format!("would violate PodSecurity \"{level}\": ");
                assert!(found.as_str().is_some_and(|it| it.starts_with(&start)), "{id}: {found}");
                let what = "allowPrivilegeEscalation != false (container";
                assert!(found.as_str().unwrap().contains(what), "{id}: {found}");
            }
        }
    }
    // Labels that say nothing readable are refused when they are written.
    assert_eq!(garbled.code, 422, "{}", garbled.text());
}
