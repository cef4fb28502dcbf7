//! PodSecurity.

use serde_json::{Value, json};

use crate::api::{Api, pod};

const PODS: &str = "/api/v1/namespaces/n/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/n/deployments";

async fn labelled(labels: &[(&str, &str)]) -> Api {
    let api = Api::start().await;
    let labels = labels
        .iter()
        .map(|(mode, level)| (format!("pod-security.kubernetes.io/{mode}"), Value::from(*level)));
    api.namespace("n", Value::Object(labels.collect())).await;
    api
}

/// A pod that the strictest standard accepts, with changes by JSON pointer below spec.
fn strict(changes: &[(&str, Value)]) -> Value {
    let mut object = pod("p");
    object["spec"]["containers"][0]["securityContext"] = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
    });
    object["spec"]["securityContext"] =
        json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    for (path, value) in changes {
        let mut place = &mut object["spec"];
        for part in path.split('/') {
            place = match part.parse::<usize>() {
                Ok(index) => &mut place[index],
                Err(_) => &mut place[part],
            };
        }
        *place = value.clone();
    }
    object
}

const CONTEXT: &str = "containers/0/securityContext";

#[tokio::test]
async fn baseline_forbids_what_reaches_the_node() {
    let api = labelled(&[("enforce", "baseline")]).await;
    let context = |field: &str| format!("{CONTEXT}/{field}");
    let probe = json!({"httpGet": {"port": 80, "host": "evil"}});
    let cases: Vec<(Vec<(String, Value)>, &str)> = vec![
        (
            vec![("hostNetwork".into(), json!(true)), ("hostPID".into(), json!(true))],
            "host namespaces (hostNetwork=true, hostPID=true)",
        ),
        (
            vec![
                (context("privileged"), json!(true)),
                (context("allowPrivilegeEscalation"), json!(true)),
            ],
            "privileged (container \"c\" must not set securityContext.privileged=true)",
        ),
        (
            vec![(context("capabilities"), json!({"add": ["NET_ADMIN", "CHOWN", "BPF"]}))],
            "non-default capabilities (container \"c\" must not include \"BPF\", \"NET_ADMIN\" in \
             securityContext.capabilities.add)",
        ),
        (
            vec![("volumes".into(), json!([{"name": "v", "hostPath": {"path": "/"}}]))],
            "hostPath volumes (volume \"v\")",
        ),
        (
            vec![("containers/0/ports".into(), json!([{"containerPort": 80, "hostPort": 80}]))],
            "hostPort (container \"c\" uses hostPort 80)",
        ),
        (
            vec![("containers/0/livenessProbe".into(), probe)],
            "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"evil\")",
        ),
        (
            vec![(context("seLinuxOptions"), json!({"type": "spc_t", "user": "u"}))],
            "seLinuxOptions (container \"c\" set forbidden securityContext.seLinuxOptions: type \
             \"spc_t\"; user may not be set)",
        ),
        (
            vec![("securityContext/seccompProfile".into(), json!({"type": "Unconfined"}))],
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \
             \"Unconfined\")",
        ),
        (
            vec![("securityContext/appArmorProfile".into(), json!({"type": "Unconfined"}))],
            "forbidden AppArmor profile (pod must not set AppArmor profile type to \
             \"Unconfined\")",
        ),
        (
            vec![(
                "securityContext/sysctls".into(),
                json!([{"name": "kernel.msgmax", "value": "1"},
                    {"name": "net.ipv4.tcp_rmem", "value": "1"}]),
            )],
            "forbidden sysctls (kernel.msgmax)",
        ),
    ];
    for (changes, why) in cases {
        let changes: Vec<(&str, Value)> =
            changes.iter().map(|(path, value)| (path.as_str(), value.clone())).collect();
        let refused = api.post(PODS, strict(&changes)).await.expect(403);
        let expected =
            format!("pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": {why}");
        assert_eq!(refused["message"], expected);
    }
    api.post(PODS, pod("p")).await.expect(201);
}

#[tokio::test]
async fn restricted_wants_it_said() {
    let api = labelled(&[("enforce", "restricted")]).await;
    let refused = api.post(PODS, pod("p")).await.expect(403);
    assert_eq!(
        refused["message"],
        "pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": \
         allowPrivilegeEscalation != false (container \"c\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \
         \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or \
         container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or \
         container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
         \"Localhost\")"
    );
    for (path, value, why) in [
        (
            "volumes",
            json!([{"name": "v", "nfs": {"server": "s", "path": "/"}}]),
            "restricted volume types (volume \"v\" uses restricted volume type \"nfs\")",
        ),
        (
            "containers/0/securityContext/runAsNonRoot",
            json!(false),
            "runAsNonRoot != true (container \"c\" must not set \
             securityContext.runAsNonRoot=false)",
        ),
        ("securityContext/runAsUser", json!(0), "runAsUser=0 (pod must not set runAsUser=0)"),
        (
            "containers/0/securityContext/capabilities",
            json!({"drop": ["ALL"], "add": ["CHOWN", "NET_BIND_SERVICE"]}),
            "unrestricted capabilities (container \"c\" must not include \"CHOWN\" in \
             securityContext.capabilities.add)",
        ),
    ] {
        let refused = api.post(PODS, strict(&[(path, value)])).await.expect(403);
        let expected =
            format!("pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": {why}");
        assert_eq!(refused["message"], expected);
    }
    api.post(PODS, strict(&[])).await.expect(201);
    let own_users = strict(&[("hostUsers", json!(false)), ("securityContext/runAsUser", json!(0))]);
    let mut own_users = own_users;
    own_users["metadata"]["name"] = json!("q");
    api.post(PODS, own_users).await.expect(201);
}

#[tokio::test]
async fn old_versions_know_less() {
    let api = labelled(&[("enforce", "restricted"), ("enforce-version", "v1.21")]).await;
    let refused = api.post(PODS, pod("p")).await.expect(403);
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("\"restricted:v1.21\"") && !message.contains("capab"), "{message}");
}

#[tokio::test]
async fn templates_are_warned_of() {
    let api = labelled(&[("warn", "baseline")]).await;
    let mut template = crate::api::deployment("d");
    template["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
    let reply = api.post(DEPLOYMENTS, template).await;
    let warning = "299 - \"would violate PodSecurity \\\"baseline:latest\\\": host namespaces \
                   (hostNetwork=true)\"";
    assert_eq!((reply.code, reply.warnings()), (201, vec![warning.to_string()]));
    let reply = api.post(PODS, strict(&[("hostNetwork", json!(true))])).await;
    assert_eq!((reply.code, reply.warnings()), (201, vec![warning.to_string()]));
}

#[tokio::test]
async fn tightening_a_namespace_tells_of_its_pods() {
    let api = labelled(&[]).await;
    for name in ["a", "b"] {
        let mut object = strict(&[("hostNetwork", json!(true))]);
        object["metadata"]["name"] = json!(name);
        api.post(PODS, object).await.expect(201);
    }
    let path = "/api/v1/namespaces/n";
    let set = |label: &str, value: &str| json!({"metadata": {"labels": {(format!("pod-security.kubernetes.io/{label}")): value}}});
    let reply = api.merge(path, set("enforce", "baseline")).await;
    assert_eq!(reply.code, 200, "{}", reply.text());
    assert_eq!(
        reply.warnings(),
        [
            "299 - \"existing pods in namespace \\\"n\\\" violate the new PodSecurity enforce \
             level \\\"baseline:latest\\\"\"",
            "299 - \"a (and 1 other pod): host namespaces\"",
        ]
    );
    let refused = api.merge(path, set("enforce", "strict")).await.expect(422);
    assert_eq!(
        refused["message"],
        "Namespace \"n\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid \
         value: \"strict\": must be one of privileged, baseline, restricted"
    );
}
