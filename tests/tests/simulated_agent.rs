//! The agent as a program of its own, without containers: `ctl agent --runtime simulated`.

use std::path::Path;
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

fn agent(server: &Server, folder: &Path, flags: &[&str]) -> Agent {
    let log = std::fs::File::create(folder.join("agent.log")).unwrap();
    let mut agent = Command::new(built("ctl"));
    agent.args(["agent", "--runtime", "simulated", "--node-name", "alone"]);
    agent.args(["--node-ip", "127.0.0.1", "--bind-address", "127.0.0.1", "--port", "0"]);
    agent.arg("--kubeconfig").arg(server.kubeconfig());
    agent.arg("--root-dir").arg(folder.join("root"));
    agent.arg("--pod-logs-dir").arg(folder.join("logs")).args(flags);
    Agent(agent.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
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
    // Nobody is there whom it could ask.
    server.kill();
    let manifests = manifests.display().to_string();
    let _agent = agent(&server, folder.path(), &["--pod-manifest-path", &manifests]);
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

/// It says nothing of a range itself.
#[test]
fn a_node_is_given_the_range_of_its_pods() {
    let server = Server::start(&[
        "--disable-admission-plugins=ServiceAccount",
        "--allocate-node-cidrs",
        "--cluster-cidr=10.77.0.0/16",
    ]);
    let folder = tempfile::tempdir().unwrap();
    let _agent = agent(&server, folder.path(), &[]);
    // A pod that comes before the range gets what address there is.
    let mut number = 0;
    until("a pod with an address of the range", 60, || {
        let said = server.ctl(&["get", "node", "alone", "-o", "jsonpath={.spec.podCIDR}"]);
        (said.out == "10.77.0.0/24").then_some(())?;
        number += 1;
        let name = format!("late{number}");
        let manifest = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: alone, \
             containers: [{{name: c, image: \"i:1\"}}]}}}}"
        );
        server.ctl_with(&["apply", "-f", "-"], &manifest).ok();
        let address = until("its address", 60, || {
            pod(&server, &name)?["status"]["podIP"].as_str().map(String::from)
        });
        address.starts_with("10.77.0.").then_some(())
    });
}
