//! What a node does about itself, with real containers: it joins with a bootstrap token and has its
//! certificates signed, waits for its pods' range, ends pods that write more than they may, and, when it is short of memory,
//! ends one pod after the other but none that is critical.

use std::ops::Deref;

use client::Patch;
use proto::view::certificate_signing_request::CertificateSigningRequest;
use serde_json::{Value, json};
use tests::alone::{Alone, Daemon};
use tests::needs;
use tests::wait::until;

/// The token of a node that is not known yet, and who may do what with it (Kubernetes: TLS
/// bootstrapping).
const BOOTSTRAP: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: bootstrap-token-abcdef, namespace: kube-system}
type: bootstrap.kubernetes.io/token
stringData:
  token-id: abcdef
  token-secret: 0123456789abcdef
  usage-bootstrap-authentication: "true"
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: create-csrs-for-bootstrapping}
subjects:
- {kind: Group, name: "system:bootstrappers", apiGroup: rbac.authorization.k8s.io}
roleRef: {kind: ClusterRole, name: "system:node-bootstrapper", apiGroup: rbac.authorization.k8s.io}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: auto-approve-csrs-for-group}
subjects:
- {kind: Group, name: "system:bootstrappers", apiGroup: rbac.authorization.k8s.io}
roleRef:
  kind: ClusterRole
  name: system:certificates.k8s.io:certificatesigningrequests:nodeclient
  apiGroup: rbac.authorization.k8s.io
"#;

/// Pods that write; busybox has more than a mebibyte.
const WRITERS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: cache}
spec:
  nodeName: alone
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  volumes: [{name: cache, emptyDir: {sizeLimit: 1Mi}}]
  containers:
  - name: c
    image: test/shell:1
    command: [sh, -c, "cat /bin/busybox /bin/busybox > /cache/file; sleep 1000"]
    volumeMounts: [{name: cache, mountPath: /cache}]
---
apiVersion: v1
kind: Pod
metadata: {name: layer}
spec:
  nodeName: alone
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: test/shell:1
    command: [sh, -c, "cat /bin/busybox /bin/busybox > /file; sleep 1000"]
    resources: {limits: {ephemeral-storage: 1Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: modest}
spec:
  nodeName: alone
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  volumes: [{name: cache, emptyDir: {sizeLimit: 1Gi}}]
  containers:
  - name: c
    image: test/shell:1
    command: [sh, -c, "cat /bin/busybox > /cache/file; sleep 1000"]
    resources: {requests: {memory: 1Ki}, limits: {ephemeral-storage: 1Gi}}
    volumeMounts: [{name: cache, mountPath: /cache}]
---
apiVersion: v1
kind: Pod
metadata: {name: critical, namespace: kube-system}
spec:
  nodeName: alone
  hostNetwork: true
  priorityClassName: system-node-critical
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: "test/shell:1", command: [sleep, "1000"]}
"#;

const UNCONNECTED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: unconnected}
spec:
  nodeName: alone
  containers:
  - {name: c, image: "test/shell:1", command: [sleep, "1000"]}
"#;

const LATE: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: late}
spec:
  nodeName: alone
  hostNetwork: true
  containers:
  - {name: c, image: "test/shell:1", command: [sleep, "1000"]}
"#;

/// A node of the test's own, without a pod network.
struct Node(Alone);

impl Deref for Node {
    type Target = Alone;

    fn deref(&self) -> &Alone {
        &self.0
    }
}

impl Node {
    /// The node's agent, which knows nothing but a token at first.
    fn agent(&self, hard: &str) -> Daemon {
        let within = |name: &str| self.folder.join(name).display().to_string();
        let (bootstrap, pki) = (within("bootstrap"), within("pki"));
        let flags = ["--bootstrap-kubeconfig", &bootstrap, "--cert-dir", &pki];
        let rotate = ["--rotate-certificates", "--rotate-server-certificates"];
        let flags = [&flags[..], &rotate, &["--eviction-hard", hard]].concat();
        self.0.agent(&self.folder.join("kubeconfig"), &flags)
    }

    fn pod(&self, name: &str, phase: &str) -> Value {
        until(&format!("pod {name} to be {phase}"), 60, || {
            self.get(&["pod", name]).filter(|pod| pod["status"]["phase"] == phase)
        })
    }

    /// Writes a kubeconfig with nothing but the token.
    fn hand_over_a_token(&self) {
        let admin = client::kubeconfig::component(&self.server.kubeconfig()).unwrap();
        let token = client::kubeconfig::Token::Text("abcdef.0123456789abcdef".into());
        let config = client::Config { identity: None, token: Some(token), ..admin };
        let kubeconfig = client::Kubeconfig::single("bootstrap", &config);
        kubeconfig.write(&self.folder.join("bootstrap")).unwrap();
    }

    fn approve(&self, name: &str) {
        let admin = client::kubeconfig::component(&self.server.kubeconfig()).unwrap();
        let approved = json!({"type": "Approved", "status": "True", "reason": "Known"});
        let approval = Patch::Merge(json!({"status": {"conditions": [approved]}}));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let client = client::Client::connect(&admin).unwrap();
            let patch = client.patch::<CertificateSigningRequest>("", name, "approval", &approval);
            patch.await.unwrap();
        });
    }

    /// The one request of this signer.
    fn request(&self, signer: &str) -> Value {
        until(&format!("a request to {signer}"), 60, || {
            let all = self.get(&["certificatesigningrequests"])?;
            let mut all = all["items"].as_array().cloned().unwrap_or_default().into_iter();
            all.find(|request| request["spec"]["signerName"] == signer)
        })
    }
}

fn condition(object: &Value, kind: &str) -> Value {
    let mut all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
}

#[test]
fn a_node_joins_and_looks_after_itself() {
    needs!(root);
    needs!("busybox");
    let folder = tempfile::tempdir().unwrap();
    let node = Alone::start(folder.path(), &["--disable-admission-plugins=ServiceAccount"]);
    let node = Node(node);
    node.server.ctl_with(&["apply", "-f", "-"], BOOTSTRAP).ok();
    node.hand_over_a_token();
    let agent = node.agent("memory.available<1Mi");
    joins(&node);
    waits_for_a_pod_network(&node);
    node.server.ctl_with(&["apply", "-f", "-"], WRITERS).ok();
    who_writes_too_much_has_to_go(&node);
    drop(agent);
    // From now on there is never enough.
    let _agent = node.agent("memory.available<1000Gi");
    without_memory_pods_have_to_go(&node);
    node.server.ctl(&["delete", "pods", "--all", "--wait=true"]).ok();
    node.server.ctl(&["delete", "pod", "critical", "-n", "kube-system", "--wait=true"]).ok();
}

fn joins(node: &Node) {
    let request = node.request("kubernetes.io/kube-apiserver-client-kubelet");
    assert_eq!(request["spec"]["username"], "system:bootstrap:abcdef");
    until("the node to be registered", 60, || node.get(&["node", "alone"]));
    let kubeconfig = std::fs::read_to_string(node.folder.join("kubeconfig")).unwrap();
    assert!(!kubeconfig.contains("0123456789abcdef"), "{kubeconfig}");
    assert!(node.folder.join("pki/kubelet-client-current.pem").exists());
    // Nobody approves what a node says of its own address but a person.
    let request = node.request("kubernetes.io/kubelet-serving");
    assert_eq!(request["spec"]["username"], "system:node:alone");
    let serving = node.folder.join("pki/kubelet-server-current.pem");
    assert!(!serving.exists());
    let name = request["metadata"]["name"].as_str().unwrap();
    node.approve(name);
    until("a serving certificate", 60, || serving.exists().then_some(()));
}

/// Nobody gives the node a range.
fn waits_for_a_pod_network(node: &Node) {
    let why = "container runtime network not ready: NetworkReady=false \
               reason:NetworkPluginNotReady message:the pod network is not configured: no pod CIDR \
               was given yet";
    until("the node to say why it is not ready", 60, || {
        let ready = condition(&node.get(&["node", "alone"])?, "Ready");
        let said = ["status", "reason", "message"].map(|field| ready[field].as_str());
        (said == [Some("False"), Some("KubeletNotReady"), Some(why)]).then_some(())
    });
    node.server.ctl_with(&["apply", "-f", "-"], UNCONNECTED).ok();
    until("the pod's event", 60, || {
        let events = node.get(&["events"])?;
        let mut events = events["items"].as_array()?.iter();
        let event = events.find(|event| event["reason"] == "NetworkNotReady")?;
        assert_eq!(event["message"], format!("network is not ready: {why}"));
        Some(())
    });
    node.server.ctl(&["delete", "pod", "unconnected", "--wait=true"]).ok();
}

fn who_writes_too_much_has_to_go(node: &Node) {
    let table = [
        ("cache", "Usage of EmptyDir volume \"cache\" exceeds the limit \"1Mi\". "),
        ("layer", "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "),
    ];
    for (name, message) in table {
        let pod = node.pod(name, "Failed");
        assert_eq!(pod["status"]["reason"], "Evicted");
        assert_eq!(pod["status"]["message"], message);
        assert_eq!(condition(&pod, "DisruptionTarget"), Value::Null);
    }
    node.pod("modest", "Running");
}

fn without_memory_pods_have_to_go(node: &Node) {
    let pod = node.pod("modest", "Failed");
    let (reason, message) = (&pod["status"]["reason"], pod["status"]["message"].as_str().unwrap());
    assert_eq!(reason, "Evicted");
    let low = "The node was low on resource: memory. Threshold quantity: 1000Gi, available: ";
    assert!(message.starts_with(low), "{message}");
    let larger = "request is 1Ki, has larger consumption of memory. ";
    assert!(message.contains("Container c was using ") && message.ends_with(larger), "{message}");
    let target = condition(&pod, "DisruptionTarget");
    assert_eq!(
        (&target["status"], &target["reason"]),
        (&json!("True"), &json!("TerminationByKubelet"))
    );
    assert_eq!(target["message"], message);
    until("the node to say so", 60, || {
        let found = node.get(&["node", "alone"])?;
        let reason = condition(&found, "MemoryPressure")["reason"].clone();
        let taints = found["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let tainted = taints.iter().any(|it| it["key"] == "node.kubernetes.io/memory-pressure");
        (reason == "KubeletHasInsufficientMemory" && tainted).then_some(())
    });
    // Who says nothing of what it needs is not taken.
    node.server.ctl_with(&["apply", "-f", "-"], LATE).ok();
    let late = node.pod("late", "Failed");
    assert_eq!(late["status"]["reason"], "Evicted");
    let refused = "Pod was rejected: The node had condition: [MemoryPressure]. ";
    assert_eq!(late["status"]["message"], refused);
    let critical = node.get(&["pod", "critical", "-n", "kube-system"]).unwrap();
    assert_eq!(critical["status"]["phase"], "Running");
}
