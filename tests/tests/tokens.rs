//! Programs in containers as the ServiceAccount of their pod: a real kubectl that finds the token,
//! the authority and the address where every client looks for them, and the end of such tokens.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tests::cluster::Cluster;
use tests::kubectl::Kubectl;
use tests::program::{Said, run};
use tests::wait::until;
use tests::{image, machine, needs};

const FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A pod as another is, but for its name and some fields of its spec.
fn pod(name: &str, spec: Value) -> String {
    let container = |name: &str, script: &str| json!({"name": name, "image": "test/shell:1", "command": ["sh", "-c", script]});
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "initContainers": [container("first", "cat $TOKENS/token >/dev/null || test $TOKENS = none")],
            "containers": [container("shell", "sleep 3600")],
        },
    });
    let folder = if spec["automountServiceAccountToken"] == false { "none" } else { FOLDER };
    pod["spec"]["initContainers"][0]["env"] = json!([{"name": "TOKENS", "value": folder}]);
    for (field, value) in spec.as_object().unwrap() {
        pod["spec"][field] = value.clone();
    }
    pod.to_string()
}

const READS_SECRETS: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reads-secrets}
rules: [{apiGroups: [""], resources: [secrets], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reads-secrets}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reads-secrets}
subjects: [{kind: ServiceAccount, name: default, namespace: default}]
"#;

#[test]
fn pods_speak_to_the_api() {
    needs!(root);
    needs!("busybox");
    let Some(kubectl) = Kubectl::find(Path::new("/dev/null")) else { return };
    let cluster = Cluster::create("e2e-tokens", &["--nodes", "2"]);
    let folder = tempfile::tempdir().unwrap();
    let busybox = machine::find("busybox").unwrap();
    let programs = [("kubectl", kubectl.program())];
    let archive = image::shell(folder.path(), &busybox, &programs);
    cluster.ctl(&["image", "load", &archive.to_string_lossy()]).ok();
    apply(&cluster, &pod("inside", json!({})));
    apply(&cluster, &pod("without", json!({"automountServiceAccountToken": false})));
    ready(&cluster, "inside");
    ready(&cluster, "without");
    finds_itself(&cluster);
    may_what_its_account_may(&cluster);
    meets_the_server_by_every_name(&cluster);
    has_its_files(&cluster);
    let outside = Outside::new(&cluster, &kubectl, folder.path());
    dies_with_its_pod(&cluster, &outside);
    dies_with_its_account(&cluster, &outside);
    waits_for_what_is_missing(&cluster);
}

fn apply(cluster: &Cluster, manifest: &str) {
    cluster.ctl_with(&["apply", "-f", "-"], manifest).ok();
}

fn ready(cluster: &Cluster, pod: &str) {
    let pod = format!("pod/{pod}");
    cluster.ctl(&["wait", "--for=condition=Ready", &pod, "--timeout=60s"]).ok();
}

/// What a command says in the pod.
fn inside(cluster: &Cluster, command: &[&str]) -> Said {
    cluster.ctl(&[&["exec", "inside", "--"], command].concat())
}

fn finds_itself(cluster: &Cluster) {
    let said = inside(cluster, &["kubectl", "auth", "whoami", "-o", "json"]).ok();
    let review: Value = serde_json::from_str(&said).unwrap();
    let user = &review["status"]["userInfo"];
    assert_eq!(user["username"], "system:serviceaccount:default:default");
    assert_eq!(
        user["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    let account = cluster.get(&["serviceaccount", "default"]);
    assert_eq!(user["uid"], account["metadata"]["uid"]);
    let pod = cluster.get(&["pod", "inside"]);
    let node = cluster.get(&["node", pod["spec"]["nodeName"].as_str().unwrap()]);
    for (key, object) in [("pod", &pod), ("node", &node)] {
        for field in ["name", "uid"] {
            let extra = &user["extra"][format!("authentication.kubernetes.io/{key}-{field}")];
            assert_eq!(*extra, json!([object["metadata"][field]]), "{user}");
        }
    }
    let id = &user["extra"]["authentication.kubernetes.io/credential-id"][0];
    assert!(id.as_str().unwrap().starts_with("JTI="), "{user}");
}

fn may_what_its_account_may(cluster: &Cluster) {
    let refused = inside(cluster, &["kubectl", "get", "secrets"]).fails();
    let expected = "Error from server (Forbidden): secrets is forbidden: User \
                    \"system:serviceaccount:default:default\" cannot list resource \"secrets\" in \
                    API group \"\" in the namespace \"default\"\n";
    assert!(refused.starts_with(expected), "{refused}");
    apply(cluster, READS_SECRETS);
    until("the binding to count", 10, || {
        let said = inside(cluster, &["kubectl", "get", "secrets"]);
        (said.code == 0).then(|| assert!(said.err.contains("No resources found"), "{said:?}"))
    });
    cluster.ctl(&["delete", "rolebinding", "reads-secrets"]).ok();
    until("the binding to go", 10, || {
        (inside(cluster, &["kubectl", "get", "secrets"]).code == 1).then_some(())
    });
}

fn meets_the_server_by_every_name(cluster: &Cluster) {
    let service = cluster.get(&["service", "kubernetes"]);
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    let said =
        inside(cluster, &["sh", "-c", "echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT"]);
    assert_eq!(said.ok().trim(), format!("{address}:443"));
    for host in [
        address,
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ] {
        let script = format!(
            "kubectl --server=https://{host} --certificate-authority={FOLDER}/ca.crt \
             --token=$(cat {FOLDER}/token) get --raw /api"
        );
        let said = inside(cluster, &["sh", "-c", &script]).ok();
        assert!(said.contains("APIVersions"), "{host}: {said}");
    }
}

fn has_its_files(cluster: &Cluster) {
    let read = |name: &str| inside(cluster, &["cat", &format!("{FOLDER}/{name}")]).ok();
    assert_eq!(read("namespace"), "default");
    let map = cluster.get(&["configmap", "kube-root-ca.crt"]);
    assert_eq!(read("ca.crt"), map["data"]["ca.crt"]);
    let mode = inside(cluster, &["stat", "-L", "-c", "%a %u", &format!("{FOLDER}/token")]).ok();
    assert_eq!(mode.trim(), "644 0");
    let write = format!("echo x >{FOLDER}/token");
    let said = inside(cluster, &["sh", "-c", &write]).fails();
    assert!(said.contains("Read-only file system"), "{said}");
    let said = cluster.ctl(&["exec", "without", "--", "cat", &format!("{FOLDER}/token")]).fails();
    assert!(said.contains("No such file or directory"), "{said}");
}

/// Asks the API from the machine with nothing but a token.
struct Outside {
    program: std::path::PathBuf,
    server: String,
    ca: std::path::PathBuf,
}

impl Outside {
    fn new(cluster: &Cluster, kubectl: &Kubectl, folder: &Path) -> Outside {
        let ca = folder.join("ca.crt");
        let map = cluster.get(&["configmap", "kube-root-ca.crt"]);
        std::fs::write(&ca, map["data"]["ca.crt"].as_str().unwrap()).unwrap();
        let ours = cluster.kubectl().unwrap();
        let path = "jsonpath={.clusters[0].cluster.server}";
        let server = ours.run(&["config", "view", "--minify", "-o", path]).ok();
        Outside { program: kubectl.program().to_path_buf(), server, ca }
    }

    fn who(&self, token: &str) -> Said {
        let mut command = Command::new(&self.program);
        command.args(["--kubeconfig=/dev/null", "--server", &self.server, "--token", token]);
        command.arg("--certificate-authority").arg(&self.ca);
        command.args(["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]);
        run(&mut command)
    }

    fn waits_for_its_end(&self, token: &str) {
        until("the token to end", 20, || {
            let said = self.who(token);
            let end = "error: You must be logged in to the server (Unauthorized)\n";
            (said.code == 1).then(|| assert_eq!(said.err, end))
        });
    }
}

fn token_of(cluster: &Cluster, pod: &str) -> String {
    cluster.ctl(&["exec", pod, "--", "cat", &format!("{FOLDER}/token")]).ok()
}

fn dies_with_its_pod(cluster: &Cluster, outside: &Outside) {
    let token = token_of(cluster, "inside");
    assert_eq!(outside.who(&token).ok(), "system:serviceaccount:default:default");
    cluster.ctl(&["delete", "pod", "inside"]).ok();
    outside.waits_for_its_end(&token);
}

fn dies_with_its_account(cluster: &Cluster, outside: &Outside) {
    cluster.ctl_with(&["apply", "-f", "-"], ROBOT).ok();
    apply(cluster, &pod("robotic", json!({"serviceAccountName": "robot"})));
    ready(cluster, "robotic");
    let token = token_of(cluster, "robotic");
    assert_eq!(outside.who(&token).ok(), "system:serviceaccount:default:robot");
    cluster.ctl(&["delete", "serviceaccount", "robot"]).ok();
    outside.waits_for_its_end(&token);
    cluster.ctl(&["delete", "pod", "robotic"]).ok();
}

const ROBOT: &str =
    r#"{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}"#;

/// The account is gone when the pod reaches its node, and comes back.
fn waits_for_what_is_missing(cluster: &Cluster) {
    cluster.ctl_with(&["apply", "-f", "-"], ROBOT).ok();
    let gate = json!({"serviceAccountName": "robot", "schedulingGates": [{"name": "test/wait"}]});
    apply(cluster, &pod("patient", gate));
    cluster.ctl(&["delete", "serviceaccount", "robot"]).ok();
    let opened = pod("patient", json!({"serviceAccountName": "robot"}));
    let mut opened: Value = serde_json::from_str(&opened).unwrap();
    opened["spec"]["schedulingGates"] = json!([]);
    apply(cluster, &opened.to_string());
    let said = until("an event of the pod", 20, || {
        let events = cluster.get(&["events", "--field-selector", "involvedObject.name=patient"]);
        let events = events["items"].as_array()?.clone();
        let failed = events.iter().find(|event| event["reason"] == "FailedMount")?;
        Some(failed["message"].as_str().unwrap().to_string())
    });
    assert!(said.starts_with("MountVolume.SetUp failed for volume \"kube-api-access-"), "{said}");
    let why = " : failed to fetch token: serviceaccounts \"robot\" not found";
    assert!(said.ends_with(why), "{said}");
    let waiting = cluster.get(&["pod", "patient"]);
    let state = &waiting["status"]["initContainerStatuses"][0]["state"]["waiting"]["reason"];
    assert_eq!(*state, "PodInitializing");
    cluster.ctl_with(&["apply", "-f", "-"], ROBOT).ok();
    ready(cluster, "patient");
}
