//! Devices and CPUs with real containers: a plugin's devices become the node's, containers have what was
//! given to them and nobody else has it, whatever becomes of agent and plugin meanwhile; and who is
//! guaranteed whole CPUs runs on them alone.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use agent::cpu_manager::{CpuSet, SYS, Topology};
use agent::plugins::channel;
use proto::device_plugin::{CdiDevice, ContainerAllocateResponse, DeviceSpec, Mount};
use proto::dra_health::HealthStatus;
use proto::pod_resources::pod_resources_lister_client::PodResourcesListerClient;
use proto::pod_resources::{
    AllocatableResourcesRequest, ContainerResources, GetPodResourcesRequest,
    ListPodResourcesRequest,
};
use serde_json::{Value, json};
use tests::alone::{Alone, Daemon};
use tests::wait::until;
use tests::{machine, needs};

#[allow(dead_code)]
#[path = "../../agent/tests/devices/plugin.rs"]
mod plugin;

#[path = "devices/driver.rs"]
mod driver;

use driver::{DRIVER, Driver};
use plugin::Plugin;

const RESOURCE: &str = "example.com/thing";
const UNEXPECTED: &str = "UnexpectedAdmissionError";

/// A node of the test's own, without a pod network.
struct Node {
    alone: Alone,
    tokio: tokio::runtime::Runtime,
}

impl Deref for Node {
    type Target = Alone;

    fn deref(&self) -> &Alone {
        &self.alone
    }
}

impl Node {
    fn start(folder: &Path) -> Node {
        let alone = Alone::start(folder, &["--disable-admission-plugins=ServiceAccount"]);
        Node { alone, tokio: tokio::runtime::Runtime::new().expect("threads") }
    }

    fn agent(&self, arguments: &[&str]) -> Daemon {
        let flags = [&["--eviction-hard=memory.available<1Mi"], arguments].concat();
        self.alone.agent(&self.server.kubeconfig(), &flags)
    }

    #[track_caller]
    fn until(&self, name: &str, what: &str, met: impl Fn(&Value) -> bool) -> Value {
        let said = format!("pod {name} to be {what}, which is {:?}", self.get(&["pod", name]));
        until(&said, 60, || self.get(&["pod", name]).filter(|pod| met(pod)))
    }

    /// Makes a pod of one container; `number` is its alone, and how it is found.
    fn create(&self, name: &str, number: u32, limits: Value, more: Value) {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"hostNetwork": true, "terminationGracePeriodSeconds": 1,
                // Without a pod network the node is not ready.
                "tolerations": [{"operator": "Exists"}], "containers": [
                {"name": "c", "image": "test/shell:1", "command": ["sleep", seconds(number)],
                 "resources": {"limits": limits}}]}});
        for (key, value) in more.as_object().expect("fields of a spec") {
            pod["spec"][key] = value.clone();
        }
        self.server.ctl_with(&["apply", "-f", "-"], &pod.to_string()).ok();
    }

    fn runs(&self, name: &str, number: u32) -> u32 {
        self.until(name, "running", |pod| pod["status"]["phase"] == "Running");
        let line = format!("sleep\0{}\0", seconds(number));
        until("its process", 20, || machine::processes(&line).first().copied())
    }

    /// A pod is not taken, with this reason and message.
    fn refuses(&self, name: &str, reason: &str, message: &str) {
        let pod = self.until(name, "refused", |pod| pod["status"]["phase"] == "Failed");
        assert_eq!(pod["status"]["reason"], reason);
        assert_eq!(pod["status"]["message"], format!("Pod was rejected: {message}"));
    }

    fn counts(&self, capacity: &str, allocatable: &str) {
        let said = format!("the node to have {allocatable} of {capacity} things");
        until(&said, 60, || {
            let status = self.get(&["node", "alone"])?["status"].clone();
            let of = |list: &str| status[list][RESOURCE].as_str().map(String::from);
            let found = (of("capacity"), of("allocatable"));
            (found == (Some(capacity.into()), Some(allocatable.into()))).then_some(())
        });
    }

    /// The node's plugin, as a program would be that was just started.
    fn plugin(&self, devices: &str) -> Plugin {
        let folder = self.folder.join("kubelet/device-plugins");
        let agent = folder.join("kubelet.sock");
        until("the agent's socket", 60, || agent.exists().then_some(()));
        let _ = std::fs::remove_file(folder.join("thing.sock"));
        let plugin = Plugin::start(&folder, "thing.sock", devices);
        let files = self.folder.join("things");
        std::fs::create_dir_all(&files).unwrap();
        std::fs::write(files.join("manual"), "read me").unwrap();
        plugin.answers(move |ids| {
            Ok(ContainerAllocateResponse {
                envs: [("THINGS".to_string(), ids.join(","))].into(),
                mounts: vec![Mount {
                    container_path: "/things".into(),
                    host_path: files.display().to_string(),
                    read_only: true,
                }],
                devices: vec![DeviceSpec {
                    container_path: "/dev/thing".into(),
                    host_path: "/dev/full".into(),
                    permissions: "rw".into(),
                }],
                ..Default::default()
            })
        });
        // The socket of an agent that was killed is there until the next one comes.
        until("the plugin to be taken", 60, || {
            self.tokio.block_on(plugin.register(&agent, RESOURCE)).ok()
        });
        plugin
    }

    fn health(&self, name: &str, devices: &str, health: &str) {
        let resources: Vec<Value> =
            devices.split(',').map(|id| json!({"resourceID": id, "health": health})).collect();
        let expected = json!([{"name": RESOURCE, "resources": resources}]);
        self.until(name, health, |pod| {
            pod["status"]["containerStatuses"][0]["allocatedResourcesStatus"] == expected
        });
    }

    /// How the one device of the pod's first container is.
    #[track_caller]
    fn is_told(&self, name: &str, resource: &str, health: Value) {
        let expected = json!([{"name": resource, "resources": [health]}]);
        self.until(name, &expected.to_string(), |pod| {
            pod["status"]["containerStatuses"][0]["allocatedResourcesStatus"] == expected
        });
    }

    /// What the pod resources API says of every pod's container.
    fn listed(&self) -> BTreeMap<String, ContainerResources> {
        let socket = self.folder.join("kubelet/pod-resources/kubelet.sock");
        self.tokio.block_on(async {
            let mut client = PodResourcesListerClient::new(channel(&socket));
            let list = client.list(ListPodResourcesRequest {}).await.unwrap().into_inner();
            let pods = list.pod_resources.into_iter();
            pods.map(|mut pod| (pod.name, pod.containers.remove(0))).collect()
        })
    }

    fn runs_on(&self, pid: u32, cpus: &CpuSet) {
        let said = format!("{pid} to run on {cpus}");
        until(&said, 60, || (allowed(pid) == *cpus).then_some(()));
    }
}

/// For how long a container sleeps: no other of any test does for as long.
fn seconds(number: u32) -> String {
    format!("{number}{:06}", std::process::id())
}

fn variable(pid: u32, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    text.split('\0').find_map(|line| line.strip_prefix(&format!("{name}="))).map(String::from)
}

fn allowed(pid: u32) -> CpuSet {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
    line.unwrap().parse().unwrap()
}

#[test]
fn devices_are_given_once() {
    needs!(root);
    needs!("busybox");
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    let agent = node.agent(&[]);
    let plugin = node.plugin("one two -three");
    node.counts("3", "2");
    // The scheduler finds the only node that has any.
    let thing = |count: u32| json!({ RESOURCE: count.to_string() });
    node.create("first", 1, thing(1), json!({}));
    let first = node.runs("first", 1);
    assert_eq!(variable(first, "THINGS").unwrap(), "one");
    let inside = PathBuf::from(format!("/proc/{first}/root"));
    assert_eq!(std::fs::read_to_string(inside.join("things/manual")).unwrap(), "read me");
    let (made, known) = (inside.join("dev/thing"), Path::new("/dev/full"));
    assert_eq!(made.metadata().unwrap().rdev(), known.metadata().unwrap().rdev());
    node.health("first", "one", "Healthy");
    plugin.offer("-one two three four");
    node.counts("4", "3");
    node.health("first", "one", "Unhealthy");
    // Who names the node himself asks the node.
    node.create("greedy", 2, thing(4), json!({"nodeName": "alone"}));
    let few = format!(
        "Allocate failed due to requested number of devices unavailable for \
         {RESOURCE}. Requested: 4, Available: 3, which is unexpected"
    );
    node.refuses("greedy", UNEXPECTED, &few);

    drop(agent);
    let agent = node.agent(&[]);
    node.counts("0", "0");
    node.health("first", "one", "Unknown");
    node.create("early", 3, thing(1), json!({"nodeName": "alone"}));
    let none = format!(
        "Allocate failed due to no healthy devices present; cannot allocate \
         unhealthy devices {RESOURCE}, which is unexpected"
    );
    node.refuses("early", UNEXPECTED, &none);
    drop(plugin);
    let plugin = node.plugin("one two");
    node.counts("2", "2");
    node.create("second", 4, thing(1), json!({}));
    let second = node.runs("second", 4);
    assert_eq!(variable(second, "THINGS").unwrap(), "two", "the other is taken");
    assert_eq!(node.runs("first", 1), first, "containers do not notice");
    what_is_told(&node);
    drop(plugin);
    node.counts("2", "0");
    node.health("second", "two", "Unknown");
    // What a pod had is free when it has gone.
    node.server.ctl(&["delete", "pod", "second", "first", "--wait=true"]).ok();
    let plugin = node.plugin("one two three");
    node.counts("3", "3");
    node.create("third", 5, thing(2), json!({}));
    assert_eq!(variable(node.runs("third", 5), "THINGS").unwrap(), "one,three");
    // What the runtime cannot do is said.
    plugin.answers(|_| {
        let cdi_devices = vec![CdiDevice { name: "example.com/thing=two".into() }];
        Ok(ContainerAllocateResponse { cdi_devices, ..Default::default() })
    });
    node.create("other", 6, thing(1), json!({}));
    let other = node.until("other", "waiting", |pod| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        waiting["reason"] == "CreateContainerError"
    });
    let waiting = &other["status"]["containerStatuses"][0]["state"]["waiting"];
    let refused = "CDI device injection failed: unresolvable CDI devices example.com/thing=two";
    assert_eq!(waiting["message"], refused);
    node.server.ctl(&["delete", "pods", "--all", "--wait=true"]).ok();
    // A node that has lost its memory has nothing until somebody offers it.
    drop((agent, plugin));
    std::fs::remove_dir_all(node.folder.join("kubelet/device-plugins")).unwrap();
    let _agent = node.agent(&[]);
    node.counts("0", "0");
}

fn what_is_told(node: &Node) {
    let listed = node.listed();
    let devices = |name: &str| -> Vec<(&str, String)> {
        let devices = listed[name].devices.iter();
        devices.map(|it| (it.resource_name.as_str(), it.device_ids.join(","))).collect()
    };
    assert_eq!(devices("first"), [(RESOURCE, "one".to_string())]);
    assert_eq!(devices("second"), [(RESOURCE, "two".to_string())]);
    assert!(!listed.contains_key("greedy"), "it is not active");
    let socket = node.folder.join("kubelet/pod-resources/kubelet.sock");
    node.tokio.block_on(async {
        let mut client = PodResourcesListerClient::new(channel(&socket));
        let request = |name: &str| GetPodResourcesRequest {
            pod_name: name.into(),
            pod_namespace: "default".into(),
        };
        let one = client.get(request("first")).await.unwrap().into_inner();
        assert_eq!(one.pod_resources.unwrap().containers, [listed["first"].clone()]);
        let status = client.get(request("nobody")).await.unwrap_err();
        assert_eq!(status.message(), "pod nobody in namespace default not found");
        let all = client.get_allocatable_resources(AllocatableResourcesRequest {}).await.unwrap();
        let all = all.into_inner();
        let ids: Vec<&String> = all.devices.iter().flat_map(|one| &one.device_ids).collect();
        assert_eq!(ids, ["one", "two"]);
        assert!(all.cpu_ids.is_empty(), "nobody has any for himself");
    });
}

/// A class, what the driver offers on the node, and a claim for it.
fn offer(node: &Node) {
    let select = format!("device.driver == {DRIVER:?}");
    let requests = json!([{"name": "r", "exactly": {"deviceClassName": "things"}}]);
    for object in [
        json!({"kind": "DeviceClass", "metadata": {"name": "things"},
            "spec": {"extendedResourceName": RESOURCE,
                "selectors": [{"cel": {"expression": select}}]}}),
        json!({"kind": "ResourceSlice", "metadata": {"name": "alone"}, "spec": {
            "driver": DRIVER, "nodeName": "alone", "devices": [{"name": "large"}],
            "pool": {"name": "alone", "generation": 1, "resourceSliceCount": 1}}}),
        json!({"kind": "ResourceClaim", "metadata": {"name": "mine"},
            "spec": {"devices": {"requests": requests}}}),
    ] {
        let mut object = object;
        object["apiVersion"] = "resource.k8s.io/v1".into();
        node.server.ctl_with(&["apply", "-f", "-"], &object.to_string()).ok();
    }
}

#[test]
fn claimed_devices_are_got_ready() {
    needs!(root);
    needs!("busybox");
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    let agent = node.agent(&[]);
    until("the node to be registered", 60, || node.get(&["node", "alone"]));
    let manual = folder.path().join("manual");
    std::fs::write(&manual, "read me").unwrap();
    let driver = Driver::start(&folder.path().join("kubelet/plugins_registry"), &manual);
    driver.refuses("it is cold");
    offer(&node);
    let container = |name: &str, number: u32, claims: Value| {
        json!({"name": name, "image": "test/shell:1", "command": ["sleep", seconds(number)],
            "resources": {"claims": claims}})
    };
    let containers = json!([
        container("c", 21, json!([{"name": "thing", "request": "r"}])),
        container("other", 22, json!([]))
    ]);
    let more = json!({"containers": containers,
        "resourceClaims": [{"name": "thing", "resourceClaimName": "mine"}]});
    node.create("first", 21, json!({}), more);
    let cold = "Failed to prepare dynamic resources: prepare dynamic resources: \
                NodePrepareResources failed for ResourceClaim mine: it is cold";
    until("the refusal to be told", 60, || {
        let events = node.get(&["events"])?;
        let mut events = events["items"].as_array()?.clone();
        events.retain(|event| event["reason"] == "FailedPrepareDynamicResources");
        events.iter().any(|event| event["message"] == cold).then_some(())
    });
    driver.refuses("");
    let first = node.runs("first", 21);
    assert_eq!(variable(first, "THING").unwrap(), "large");
    assert_eq!(variable(first, "THINGS").unwrap(), "all");
    let inside = PathBuf::from(format!("/proc/{first}/root"));
    assert_eq!(std::fs::read_to_string(inside.join("manual")).unwrap(), "read me");
    let (made, known) = (inside.join("dev/thing"), Path::new("/dev/full"));
    assert_eq!(made.metadata().unwrap().rdev(), known.metadata().unwrap().rdev());
    assert_eq!(variable(node.runs("first", 22), "THING"), None, "who does not name it has none");
    let listed = &node.listed()["first"].dynamic_resources;
    assert_eq!((listed.len(), listed[0].claim_name.as_str()), (1, "mine"));
    let device = &listed[0].claim_resources[0];
    assert_eq!((device.driver_name.as_str(), device.device_name.as_str()), (DRIVER, "large"));
    assert_eq!(device.cdi_devices[0].name, driver.cdi());
    let ready = driver.calls().iter().filter(|call| *call == "ready mine").count();
    node.is_told(
        "first",
        "claim:thing/r",
        json!({"resourceID": driver.cdi(), "health": "Unknown"}),
    );
    driver.tells(HealthStatus::Unhealthy, "it is hot");
    let hot = json!({"resourceID": driver.cdi(), "health": "Unhealthy", "message": "it is hot"});
    node.is_told("first", "claim:thing/r", hot);
    driver.tells(HealthStatus::Healthy, "");
    let well = json!({"resourceID": driver.cdi(), "health": "Healthy"});
    node.is_told("first", "claim:thing/r", well);

    // An agent that restarts neither asks again nor forgets what is to be taken down.
    drop(agent);
    let _agent = node.agent(&[]);
    until("the new agent to be asked", 60, || {
        let socket = folder.path().join("kubelet/pod-resources/kubelet.sock");
        std::os::unix::net::UnixStream::connect(socket).ok()
    });
    node.server.ctl(&["delete", "pod", "first", "--wait=true"]).ok();
    let calls = driver.calls();
    assert_eq!(calls.iter().filter(|call| *call == "ready mine").count(), ready);
    assert_eq!(calls.last().map(String::as_str), Some("over mine"));
    until("the claim to be free", 60, || {
        let claim = node.get(&["resourceclaim", "mine"])?;
        claim["status"]["allocation"].is_null().then_some(())
    });
}

/// Nobody on the node counts them: they are claimed for who asks for them.
#[test]
fn extended_resources_can_be_claimed() {
    needs!(root);
    needs!("busybox");
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    let _agent = node.agent(&[]);
    until("the node to be registered", 60, || node.get(&["node", "alone"]));
    let manual = folder.path().join("manual");
    std::fs::write(&manual, "read me").unwrap();
    let driver = Driver::start(&folder.path().join("kubelet/plugins_registry"), &manual);
    driver.answers("container-0-request-0");
    offer(&node);
    let container = |name: &str, number: u32, limits: Value| {
        json!({"name": name, "image": "test/shell:1", "command": ["sleep", seconds(number)],
            "resources": {"limits": limits}})
    };
    let containers =
        json!([container("c", 24, json!({RESOURCE: "1"})), container("other", 23, json!({}))]);
    node.create("asks", 23, json!({}), json!({ "containers": containers }));
    let has = node.runs("asks", 24);
    assert_eq!(variable(has, "THING").unwrap(), "large");
    assert_eq!(variable(node.runs("asks", 23), "THING"), None, "who does not ask has none");
    let status =
        node.get(&["pod", "asks"]).unwrap()["status"]["extendedResourceClaimStatus"].clone();
    assert_eq!(
        status["requestMappings"],
        json!([{"containerName": "c", "resourceName": RESOURCE,
            "requestName": "container-0-request-0"}])
    );
    let claim = status["resourceClaimName"].as_str().unwrap().to_string();
    assert!(claim.starts_with("asks-extended-resources-"), "{claim}");
    assert_eq!(node.listed()["asks"].dynamic_resources[0].claim_name, claim);

    // There is but one.
    node.create("waits", 25, json!({RESOURCE: "1"}), json!({}));
    node.until("waits", "waiting", |pod| {
        let condition = &pod["status"]["conditions"][0];
        condition["message"].as_str().is_some_and(|it| it.contains("cannot allocate all claims"))
    });
    node.server.ctl(&["delete", "pod", "asks", "--wait=true"]).ok();
    assert!(driver.calls().contains(&format!("over {claim}")));
    assert_eq!(variable(node.runs("waits", 25), "THING").unwrap(), "large");
    until("the claim to go", 60, || node.get(&["resourceclaim", &claim]).is_none().then_some(()));
    node.server.ctl(&["delete", "pod", "waits", "--wait=true"]).ok();
}

#[test]
fn guaranteed_cpus_are_ones_own() {
    needs!(root);
    needs!("busybox");
    let all = Topology::read(Path::new(SYS)).unwrap().all();
    if all.len() < 2 {
        eprintln!("SKIPPED: this test needs two CPUs");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    let fixed = ["--cpu-manager-policy=static", "--reserved-cpus=0"];
    let agent = node.agent(&fixed);
    until("the node to be registered", 60, || node.get(&["node", "alone"]));
    let here = || json!({"nodeName": "alone"});
    node.create("any", 11, json!({}), here());
    let any = node.runs("any", 11);
    assert_eq!(allowed(any), all);
    let limits = |cpu: usize| json!({"cpu": cpu.to_string(), "memory": "32Mi"});
    node.create("own", 12, limits(1), here());
    let own = node.runs("own", 12);
    let its = allowed(own);
    assert!(its.len() == 1 && !its.contains(0), "{its}");
    let quota = machine::cgroup_value(own, &["cpu.cfs_quota_us", "cpu.max"]);
    assert!(quota == "-1" || quota.starts_with("max"), "{quota}");
    // Those that run already make room.
    node.runs_on(any, &all.without(&its));
    assert_eq!(node.listed()["own"].cpu_ids, [i64::from(*its.0.first().unwrap())]);
    assert!(node.listed()["any"].cpu_ids.is_empty());
    node.create("many", 14, limits(all.len()), here());
    let few = format!(
        "Allocate failed due to not enough cpus available to satisfy request: \
         requested={}, available={}, which is unexpected",
        all.len(),
        all.len() - 2
    );
    node.refuses("many", UNEXPECTED, &few);

    drop(agent);
    let mut other = node.agent(&["--cpu-manager-policy=none"]);
    let ended = until("an agent of another policy to end", 60, || other.0.try_wait().unwrap());
    assert!(!ended.success());
    let log = node.log();
    let why = "configured policy \"none\" differs from state checkpoint policy \"static\"";
    assert!(log.contains(why) || log.contains(&why.replace('"', "\\\"")), "{log}");
    let _agent = node.agent(&fixed);
    node.create("late", 15, json!({}), here());
    assert_eq!(allowed(node.runs("late", 15)), all.without(&its), "nothing is forgotten");
    assert_eq!(allowed(own), its);
    node.server.ctl(&["delete", "pod", "own", "--wait=true"]).ok();
    node.runs_on(any, &all);
    // Less than one CPU is nobody's own.
    let half = json!({"cpu": "100m", "memory": "32Mi"});
    node.create("half", 13, half, here());
    assert_eq!(allowed(node.runs("half", 13)), all);
    node.server.ctl(&["delete", "pods", "--all", "--wait=true"]).ok();
}
