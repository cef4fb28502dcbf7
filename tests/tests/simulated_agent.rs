//! The agent as a program of its own, without containers: `ctl agent --runtime simulated`.

use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tests::program::built;
use tests::server::Server;
use tests::wait::until;

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: ends
  annotations:
    simulated.coracle/exit-after-seconds: "0.2"
    simulated.coracle/exit-code: "3"
    simulated.coracle/termination-message: enough
spec:
  restartPolicy: Never
  nodeName: alone
  containers: [{name: c, image: "i:1"}]
---
apiVersion: v1
kind: Pod
metadata: {name: stays}
spec:
  nodeName: alone
  containers: [{name: c, image: "i:1"}]
"#;

const STATIC: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: own}
spec: {containers: [{name: c, image: "i:1"}]}
"#;

/// Ends with the test.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pod(server: &Server, name: &str) -> Option<Value> {
    let said = server.ctl(&["get", "pod", name, "-o", "json"]);
    (said.code == 0).then(|| serde_json::from_str(&said.out).expect("ctl prints JSON"))
}

#[test]
fn an_agent_runs_pods_without_containers() {
    let mut server = Server::start(&["--disable-admission-plugins=ServiceAccount"]);
    let folder = tempfile::tempdir().unwrap();
    let manifests = folder.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    std::fs::write(manifests.join("own.yaml"), STATIC).unwrap();
    let log = std::fs::File::create(folder.path().join("agent.log")).unwrap();
    // Nobody is there whom it could ask.
    server.kill();
    let mut agent = Command::new(built("ctl"));
    agent.args(["agent", "--runtime", "simulated", "--node-name", "alone"]);
    agent.args(["--node-ip", "127.0.0.1", "--bind-address", "127.0.0.1", "--port", "0"]);
    agent.arg("--kubeconfig").arg(server.kubeconfig());
    agent.arg("--root-dir").arg(folder.path().join("root"));
    agent.arg("--pod-logs-dir").arg(folder.path().join("logs"));
    agent.arg("--pod-manifest-path").arg(&manifests);
    agent.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let _agent = Agent(agent.spawn().unwrap());
    server.restart();
    server.ctl_with(&["apply", "-f", "-"], PODS).ok();
    let ended = until("a pod to end", 60, || {
        pod(&server, "ends").filter(|pod| pod["status"]["phase"] == "Failed")
    });
    let end = &ended["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&end["exitCode"], &end["message"]), (&Value::from(3), &Value::from("enough")));
    for name in ["stays", "own-alone"] {
        until(name, 60, || {
            pod(&server, name).filter(|pod| pod["status"]["phase"] == "Running").map(drop)
        });
    }
    server.ctl(&["delete", "pod", "stays"]).ok();
    assert!(pod(&server, "stays").is_none());
}
