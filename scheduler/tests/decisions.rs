//! Tables of decisions: nodes and pods as the API has them, and what the scheduler makes of them.

use std::sync::Arc;

use client::{Entry, Key, Rng};
use proptest::prelude::*;
use proto::time::Time;
use proto::view::persistent_volume::PersistentVolume;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::view::storage_class::StorageClass;
use scheduler::cycle::{Decider, opinions};
use scheduler::explanation::sentence;
use scheduler::plugins::{Event, Plugin};
use scheduler::profile::Profile;
use scheduler::queue::Queue;
use scheduler::snapshot::{Kind, PodInfo, Snapshot};
use scheduler::storage::Promise;
use serde_json::{Value, json};

fn entry<T: client::Object>(value: Value) -> Arc<Entry<T>> {
    Arc::new(Entry::decode(value.to_string().into()).unwrap())
}

fn node(name: &str, more: Value) -> Value {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    });
    json_patch::merge(&mut node, &more);
    node
}

fn pod(name: &str, spec: Value) -> Arc<PodInfo> {
    let metadata =
        json!({"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}});
    let pod = json!({"metadata": metadata, "spec": spec});
    Arc::new(PodInfo::new(Key::new("default", name), entry(pod)))
}

fn asks(cpu: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
}

/// A pod that asks for more as a whole than its containers do.
fn whole(cpu: &str, containers: &str) -> Value {
    let mut spec = asks(containers);
    spec["resources"] = json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
    spec
}

fn snapshot(nodes: Vec<Value>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    nodes.into_iter().for_each(|node| snapshot.put_node(entry(node)));
    snapshot
}

/// Where it goes, or why it goes nowhere, without others' making room.
fn decide(pod: &Arc<PodInfo>, snapshot: &Snapshot) -> Result<String, String> {
    let profile = Profile { preempts: false, ..Profile::default() };
    let placed = Decider::new(Arc::new(profile), Rng::seeded(1)).schedule(pod, snapshot);
    placed.map(|placement| placement.node.to_string()).map_err(|refused| sentence(&refused))
}

#[test]
fn reasons_in_upstreams_words() {
    let tainted = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}});
    let affinity = |operator: &str, values: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "disk", "operator": operator, "values": values}]}]}}}})
    };
    let labelled = json!({"metadata": {"labels": {"disk": "ssd"}}});
    for (nodes, spec, wanted) in [
        (vec![], asks("1"), Err("no nodes available to schedule pods")),
        (vec![node("a", json!({}))], asks("1"), Ok("a")),
        (
            vec![node("a", json!({}))],
            asks("5"),
            Err("0/1 nodes are available: 1 Insufficient cpu."),
        ),
        // What a pod has as a whole goes before what its containers ask for.
        (
            vec![node("a", json!({}))],
            whole("5", "1"),
            Err("0/1 nodes are available: 1 Insufficient cpu."),
        ),
        (vec![node("a", json!({}))], whole("2", "1"), Ok("a")),
        (
            vec![node("a", json!({})), node("b", json!({}))],
            json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "gpu"}]}),
            Err("0/2 nodes are available: could not find ResourceClaim \"default/gpu\"."),
        ),
        (
            vec![node("a", tainted.clone()), node("b", json!({"spec": {"unschedulable": true}}))],
            asks("1"),
            Err(
                "0/2 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable.",
            ),
        ),
        (
            vec![node("a", tainted)],
            json!({"tolerations": [{"key": "k", "operator": "Exists"}]}),
            Ok("a"),
        ),
        (
            vec![node("a", json!({})), node("b", labelled.clone())],
            json!({"nodeSelector": {"disk": "ssd"}}),
            Ok("b"),
        ),
        (
            vec![node("a", json!({})), node("b", labelled.clone())],
            affinity("In", json!(["ssd"])),
            Ok("b"),
        ),
        (
            vec![node("a", json!({})), node("b", labelled)],
            affinity("NotIn", json!(["ssd"])),
            Ok("a"),
        ),
        (
            vec![node("a", json!({}))],
            affinity("Exists", json!([])),
            Err("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."),
        ),
        (
            vec![node("a", json!({"status": {"allocatable": {"pods": "0"}}}))],
            asks("1"),
            Err("0/1 nodes are available: 1 Too many pods."),
        ),
        (
            vec![node("a", json!({}))],
            json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]}),
            Err("0/1 nodes are available: 1 Insufficient example.com/gpu."),
        ),
    ] {
        let said = decide(&pod("p", spec.clone()), &snapshot(nodes));
        assert_eq!(said.as_deref().map_err(String::as_str), wanted, "{spec}");
    }
}

#[test]
fn host_ports_conflict_per_address_and_protocol() {
    let port = |ip: &str, protocol: &str| {
        json!({"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": 80, "hostIP": ip, "protocol": protocol}]}]})
    };
    for (first, second, fits) in [
        (port("", "TCP"), port("", "TCP"), false),
        (port("", "TCP"), port("", "UDP"), true),
        (port("10.0.0.1", "TCP"), port("10.0.0.2", "TCP"), true),
        (port("10.0.0.1", "TCP"), port("0.0.0.0", "TCP"), false),
    ] {
        let mut snapshot = snapshot(vec![node("a", json!({}))]);
        snapshot.place(pod("first", first.clone()), "a");
        assert_eq!(
            decide(&pod("second", second.clone()), &snapshot).is_ok(),
            fits,
            "{first} {second}"
        );
    }
}

#[test]
fn replicas_spread_and_constraints_bind() {
    let owned = |name: &str| {
        let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs", "controller": true}]);
        let value = json!({"metadata": {"name": name, "namespace": "default", "uid": name,
            "labels": {"app": "web"}, "ownerReferences": owner}});
        Arc::new(PodInfo::new(Key::new("default", name), entry(value)))
    };
    let mut spread = snapshot(["a", "b", "c"].map(|name| node(name, json!({}))).to_vec());
    let set = json!({"spec": {"selector": {"matchLabels": {"app": "web"}}}}).to_string();
    spread.put_controller(Kind::ReplicaSet, &Key::new("default", "rs"), Some(set.as_bytes()));
    for index in 0..6 {
        let replica = owned(&format!("p{index}"));
        let chosen = decide(&replica, &spread).unwrap();
        spread.place(replica, &chosen);
    }
    let counts: Vec<usize> = spread.nodes().iter().map(|node| node.pods.len()).collect();
    assert_eq!(counts, [2, 2, 2]);

    let constrained = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]});
    let zoned =
        |name: &str, zone: &str| node(name, json!({"metadata": {"labels": {"zone": zone}}}));
    let mut zones = snapshot(vec![zoned("a", "1"), zoned("b", "2"), node("c", json!({}))]);
    zones.place(pod("one", json!({})), "a");
    assert_eq!(decide(&pod("two", constrained.clone()), &zones).as_deref(), Ok("b"));
    zones.remove_node("b");
    zones.put_node(entry(node(
        "b",
        json!({"metadata": {"labels": {"zone": "2"}}, "spec": {"unschedulable": true}}),
    )));
    assert_eq!(
        decide(&pod("two", constrained), &zones).unwrap_err(),
        "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) \
         didn't match pod topology spread constraints (missing required label), 1 node(s) were \
         unschedulable."
    );
}

#[test]
fn company_is_sought_and_kept_out() {
    let term = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}});
    let far = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}});
    let nodes = || snapshot(vec![node("a", json!({})), node("b", json!({}))]);

    assert!(decide(&pod("first", near.clone()), &nodes()).is_ok(), "the first of its group");
    let mut one = nodes();
    one.place(pod("web", json!({})), "b");
    assert_eq!(decide(&pod("p", near), &one).as_deref(), Ok("b"));
    assert_eq!(decide(&pod("p", far.clone()), &one).as_deref(), Ok("a"));

    let mut guarded = nodes();
    guarded.place(pod("hermit", far), "b");
    guarded.remove_node("a");
    assert_eq!(
        decide(&pod("p", json!({})), &guarded).unwrap_err(),
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."
    );
}

#[test]
fn init_containers_count_for_the_most_they_need() {
    let cpu = |amount: &str| json!({"requests": {"cpu": amount}});
    let spec = json!({
        "initContainers": [
            {"name": "sidecar", "restartPolicy": "Always", "resources": cpu("1")},
            {"name": "init", "resources": cpu("3")},
        ],
        "containers": [{"name": "c", "resources": cpu("2")}],
        "overhead": {"cpu": "500m"},
    });
    assert_eq!(pod("p", spec).requests.cpu, 4500);
}

#[test]
fn every_plugin_has_its_say() {
    let snapshot =
        snapshot(vec![node("a", json!({"spec": {"unschedulable": true}})), node("b", json!({}))]);
    let opinions = opinions(&pod("p", asks("5")), &snapshot, &Profile::default());
    let plugins: Vec<&str> = opinions[0].rejections.iter().map(|(plugin, _)| *plugin).collect();
    assert_eq!(plugins, ["NodeUnschedulable", "NodeResourcesFit"]);
    assert_eq!(opinions[1].rejections.len(), 1);
}

#[test]
fn only_an_event_that_could_cure_wakes_a_pod() {
    let at = Time::from_unix;
    let mut queue = Queue::default();
    let waiting = pod("p", asks("5"));
    queue.put(Arc::clone(&waiting), at(0));
    assert!(queue.pop(at(0)).is_some());
    queue.refused(&waiting.key, vec!["NodeResourcesFit"], at(0));
    assert!(queue.pop(at(100)).is_none());

    queue.happened(Event::NodeTaints, at(100));
    assert!(queue.pop(at(100)).is_none(), "taints do not bring CPU");
    queue.happened(Event::PodDeleted, at(100));
    assert!(queue.pop(at(100)).is_some());

    // An event during the decision counts, and the second failure waits longer.
    queue.happened(Event::PodDeleted, at(100));
    queue.refused(&waiting.key, vec!["NodeResourcesFit"], at(100));
    assert!(queue.pop(at(101)).is_none());
    assert_eq!(queue.wake_at(), Some(at(102)));
    assert!(queue.pop(at(102)).is_some());

    // Of pods only those matter that have to do with the rejection.
    queue.refused(&waiting.key, vec!["NodePorts"], at(102));
    queue.happened_where(Event::PodDeleted, at(200), |_, _| false);
    assert!(queue.pop(at(200)).is_none());
    let asks =
        |plugin: &dyn Plugin, pod: &PodInfo| (plugin.name(), &*pod.key.name) == ("NodePorts", "p");
    queue.happened_where(Event::PodDeleted, at(102), asks);
    assert!(queue.pop(at(106)).is_some());

    // A missed event is made up for after five minutes.
    queue.refused(&waiting.key, vec!["NodeResourcesFit"], at(106));
    assert_eq!(queue.wake_at(), Some(at(406)));
    assert!(queue.pop(at(406)).is_some());
}

/// What of a pod that comes or goes makes it worth another try.
#[test]
fn only_pods_that_matter_wake_a_pod() {
    let term = |app: &str| {
        json!([{"topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"app": app}}}])
    };
    let affinity = |kind: &str, app: &str| json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": term(app)}}});
    let spread = |app: &str| {
        json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": app}}}]})
    };
    let port =
        |port: i64| json!({"containers": [{"ports": [{"containerPort": 80, "hostPort": port}]}]});
    let (near, far, plain) = ("podAffinity", "podAntiAffinity", json!({}));
    let cluster = Snapshot::default();
    // All pods are of the app "web".
    for (plugin, waiting, event, other, heeds) in [
        ("InterPodAffinity", affinity(near, "web"), Event::PodAdded, &plain, true),
        ("InterPodAffinity", affinity(near, "db"), Event::PodAdded, &plain, false),
        ("InterPodAffinity", affinity(far, "web"), Event::PodAdded, &plain, false),
        ("InterPodAffinity", affinity(far, "web"), Event::PodDeleted, &plain, true),
        ("InterPodAffinity", affinity(far, "db"), Event::PodDeleted, &plain, false),
        ("InterPodAffinity", plain.clone(), Event::PodDeleted, &affinity(far, "web"), true),
        ("InterPodAffinity", affinity(far, "db"), Event::PodLabels, &plain, true),
        ("PodTopologySpread", spread("web"), Event::PodAdded, &plain, true),
        ("PodTopologySpread", spread("db"), Event::PodAdded, &plain, false),
        ("NodePorts", port(80), Event::PodDeleted, &port(80), true),
        ("NodePorts", port(80), Event::PodDeleted, &port(81), false),
    ] {
        let found = scheduler::plugins::find(plugin).unwrap();
        let said =
            found.heeds(&pod("p", waiting.clone()), event, &pod("o", other.clone()), &cluster);
        assert_eq!(said, heeds, "{plugin} {waiting} {event:?} {other}");
    }
}

/// A claim of class `c`, changed so, under its own name.
fn claim(name: &str, more: Value) -> (Key, Option<Arc<Entry<PersistentVolumeClaim>>>) {
    let mut claim = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "c",
            "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"},
    });
    json_patch::merge(&mut claim, &more);
    (Key::new("default", name), Some(entry(claim)))
}

fn volume(name: &str, node: &str, more: Value) -> Arc<Entry<PersistentVolume>> {
    let here = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node]});
    let mut volume = json!({
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "c",
            "capacity": {"storage": "1Gi"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}}},
        "status": {"phase": "Available"},
    });
    json_patch::merge(&mut volume, &more);
    entry(volume)
}

fn class(name: &str, mode: &str, provisioner: &str) -> Arc<Entry<StorageClass>> {
    entry(
        json!({"metadata": {"name": name}, "volumeBindingMode": mode, "provisioner": provisioner}),
    )
}

fn uses(claim: &str) -> Value {
    json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]})
}

#[test]
fn pods_go_where_their_volumes_are() {
    let bound = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"volumeName": "on-b"}, "status": {"phase": "Bound"}});
    let late = |more: Value| {
        let mut claim = json!({"spec": {"storageClassName": "late"}});
        json_patch::merge(&mut claim, &more);
        claim
    };
    let of_late = json!({"spec": {"storageClassName": "late"}});
    let selected = |node: &str| {
        late(json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": node}}}))
    };
    let gone = json!({"status": {"phase": "Lost"}, "spec": {"volumeName": "x"}});
    let leaving = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let nothing = "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to \
                   bind.";
    for (more, volumes, provisioner, expected) in [
        (None, vec![], "p", Err("0/2 nodes are available: persistentvolumeclaim \"k\" not found.")),
        (
            Some(json!({})),
            vec![],
            "p",
            Err("0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."),
        ),
        (
            Some(gone),
            vec![],
            "p",
            Err("0/2 nodes are available: persistentvolumeclaim \"k\" bound \
            to non-existent persistentvolume \"x\"."),
        ),
        (
            Some(leaving),
            vec![],
            "p",
            Err("0/2 nodes are available: persistentvolumeclaim \"k\" is being deleted."),
        ),
        (Some(bound.clone()), vec![volume("on-b", "b", json!({}))], "p", Ok("b")),
        (
            Some(bound.clone()),
            vec![volume("on-b", "x", json!({}))],
            "p",
            Err("0/2 nodes are \
            available: 2 node(s) didn't match PersistentVolume's node affinity."),
        ),
        (
            Some(bound),
            vec![],
            "p",
            Err("0/2 nodes are available: 2 node(s) unavailable due to one \
            or more pvc(s) bound to non-existent pv(s)."),
        ),
        (
            Some(late(json!({}))),
            vec![volume("free", "b", of_late.clone())],
            "kubernetes.io/no-provisioner",
            Ok("b"),
        ),
        (Some(late(json!({}))), vec![], "kubernetes.io/no-provisioner", Err(nothing)),
        (Some(selected("a")), vec![volume("free", "b", of_late)], "example.com/p", Ok("a")),
    ] {
        let mut cluster = snapshot(vec![node("a", json!({})), node("b", json!({}))]);
        if let Some(more) = &more {
            let (key, claim) = claim("k", more.clone());
            cluster.storage.put_claim(key, claim);
        }
        for volume in volumes {
            let name = volume.metadata.name.clone();
            cluster.storage.put_volume(&name, Some(volume));
        }
        cluster.storage.put_class("c", Some(class("c", "Immediate", provisioner)));
        cluster.storage.put_class("late", Some(class("late", "WaitForFirstConsumer", provisioner)));
        let said = decide(&pod("p", uses("k")), &cluster);
        assert_eq!(said.as_deref().map_err(String::as_str), expected, "{more:?}");
    }
}

#[test]
fn what_is_promised_to_one_pod_no_other_gets() {
    let mut cluster = snapshot(vec![node("a", json!({}))]);
    let late = json!({"spec": {"storageClassName": "late"}});
    for name in ["k1", "k2"] {
        let (key, claim) = claim(name, late.clone());
        cluster.storage.put_claim(key, claim);
    }
    cluster.storage.put_volume("only", Some(volume("only", "a", late)));
    let class = class("late", "WaitForFirstConsumer", "kubernetes.io/no-provisioner");
    cluster.storage.put_class("late", Some(class));
    let (first, second) = (pod("first", uses("k1")), pod("second", uses("k2")));
    let claims = cluster.storage.claims_of(&first).unwrap();
    let promises = cluster.storage.on_node(&first.key, &claims, &cluster.nodes()[0]).unwrap();
    assert!(matches!(promises.as_slice(), [Promise::Bind { .. }]));
    cluster.storage.promise(&first.key, &promises);
    assert_eq!(decide(&first, &cluster).as_deref(), Ok("a"), "its own promise is no hindrance");
    assert!(decide(&second, &cluster).is_err());
    cluster.storage.release(&first.key);
    assert_eq!(decide(&second, &cluster).as_deref(), Ok("a"));
}

/// Where a driver says how much it can make, volumes are only made where there is room.
#[test]
fn a_volume_is_made_where_there_is_room() {
    let zone = |zone: &str| json!({"metadata": {"labels": {"zone": zone}}});
    let capacity = |name: &str, size: &str, more: Value| {
        let mut capacity = json!({"metadata": {"name": name, "namespace": "default"},
            "storageClassName": "late", "capacity": size,
            "nodeTopology": {"matchLabels": {"zone": name}}});
        json_patch::merge(&mut capacity, &more);
        capacity
    };
    let none = "0/2 nodes are available: 2 node(s) did not have enough free storage.";
    for (frank, capacities, expected) in [
        (true, vec![], Err(none)),
        (true, vec![capacity("x", "512Mi", json!({})), capacity("y", "1Gi", json!({}))], Ok("b")),
        (true, vec![capacity("x", "1Gi", json!({})), capacity("y", "1023Mi", json!({}))], Ok("a")),
        // Free, but not in one piece; or in pieces that are said to be large enough.
        (true, vec![capacity("x", "9Gi", json!({"maximumVolumeSize": "512Mi"}))], Err(none)),
        (true, vec![capacity("x", "1Mi", json!({"maximumVolumeSize": "1Gi"}))], Ok("a")),
        // Of another class, for no node, unknown.
        (true, vec![capacity("x", "9Gi", json!({"storageClassName": "other"}))], Err(none)),
        (true, vec![capacity("x", "9Gi", json!({"nodeTopology": null}))], Err(none)),
        (true, vec![capacity("x", "9Gi", json!({"capacity": null}))], Err(none)),
        // Who says nothing of it is believed to have room.
        (false, vec![capacity("y", "1Mi", json!({}))], Ok("any")),
    ] {
        let mut cluster = snapshot(vec![node("a", zone("x")), node("b", zone("y"))]);
        let (key, claim) = claim("k", json!({"spec": {"storageClassName": "late"}}));
        cluster.storage.put_claim(key, claim);
        cluster.storage.put_class("late", Some(class("late", "WaitForFirstConsumer", "d")));
        let driver = json!({"metadata": {"name": "d"}, "spec": {"storageCapacity": frank}});
        cluster.storage.put_driver("d", Some(entry(driver)));
        for capacity in &capacities {
            let name = capacity["metadata"]["name"].as_str().unwrap();
            let key = Key::new("default", name);
            cluster.storage.put_capacity(key, Some(entry(capacity.clone())));
        }
        let found = decide(&pod("p", uses("k")), &cluster);
        match expected {
            Ok("any") => assert!(found.is_ok(), "{found:?}"),
            expected => assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned)),
        }
    }
    // A driver that is gone says nothing any more.
    let mut cluster = snapshot(vec![node("a", json!({}))]);
    let (key, claim) = claim("k", json!({"spec": {"storageClassName": "late"}}));
    cluster.storage.put_claim(key, claim);
    cluster.storage.put_class("late", Some(class("late", "WaitForFirstConsumer", "d")));
    let driver = json!({"metadata": {"name": "d"}, "spec": {"storageCapacity": true}});
    cluster.storage.put_driver("d", Some(entry(driver)));
    assert!(decide(&pod("p", uses("k")), &cluster).is_err());
    cluster.storage.put_driver("d", None);
    assert_eq!(decide(&pod("p", uses("k")), &cluster).as_deref(), Ok("a"));
}

#[test]
fn a_node_has_only_so_many_volumes_of_a_driver() {
    let mut cluster = snapshot(vec![node("a", json!({}))]);
    for (claim_name, volume_name) in [("k1", "v1"), ("k2", "v2")] {
        let bound = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
            "spec": {"volumeName": volume_name}, "status": {"phase": "Bound"}});
        let (key, claim) = claim(claim_name, bound);
        cluster.storage.put_claim(key, claim);
        let driven = json!({"spec": {"nodeAffinity": null,
            "csi": {"driver": "d", "volumeHandle": volume_name}}});
        cluster.storage.put_volume(volume_name, Some(volume(volume_name, "", driven)));
    }
    let drivers = json!({"metadata": {"name": "a"}, "spec": {"drivers": [
        {"name": "d", "nodeID": "a", "allocatable": {"count": 1}}]}});
    cluster.storage.put_drivers("a", Some(entry(drivers)));
    cluster.place(pod("first", uses("k1")), "a");
    assert_eq!(decide(&pod("same", uses("k1")), &cluster).as_deref(), Ok("a"));
    assert_eq!(
        decide(&pod("other", uses("k2")), &cluster).unwrap_err(),
        "0/1 nodes are available: 1 node(s) exceed max volume count."
    );
}

#[test]
fn a_claim_for_one_pod_is_not_shared() {
    let mut cluster = snapshot(vec![node("a", json!({})), node("b", json!({}))]);
    let alone = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"accessModes": ["ReadWriteOncePod"], "volumeName": "w"},
        "status": {"phase": "Bound"}});
    let (key, alone) = claim("k", alone);
    cluster.storage.put_claim(key, alone);
    let anywhere = json!({"spec": {"nodeAffinity": null}});
    cluster.storage.put_volume("w", Some(volume("w", "", anywhere)));
    let second = pod("second", uses("k"));
    assert!(decide(&second, &cluster).is_ok());
    cluster.place(pod("first", uses("k")), "a");
    assert_eq!(
        decide(&second, &cluster).unwrap_err(),
        "0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name \
         and ReadWriteOncePod access mode."
    );
}

proptest! {
    /// Whatever comes, in whatever order: no node is overcommitted, and no pod is refused while a
    /// node could take it.
    #[test]
    fn neither_overcommitted_nor_idle(
        nodes in prop::collection::vec(1i64..8, 1..6),
        pods in prop::collection::vec((1i64..5, any::<bool>()), 1..40),
    ) {
        let mut cluster = Snapshot::default();
        for (index, cpu) in nodes.iter().enumerate() {
            let allocatable = json!({"status": {"allocatable": {"cpu": cpu.to_string(), "pods": "10"}}});
            cluster.put_node(entry(node(&format!("n{index}"), allocatable)));
        }
        let mut placed = Vec::new();
        for (index, (cpu, ends)) in pods.iter().enumerate() {
            let next = pod(&format!("p{index}"), asks(&cpu.to_string()));
            let room = |node: &scheduler::snapshot::NodeInfo| {
                node.allocatable.cpu - node.requested.cpu >= cpu * 1000 && node.pods.len() < 10
            };
            let possible = cluster.nodes().iter().any(room);
            let chosen = decide(&next, &cluster);
            prop_assert_eq!(chosen.is_ok(), possible);
            if let Ok(chosen) = chosen {
                placed.push(next.key.clone());
                cluster.place(next, &chosen);
            }
            if *ends && !placed.is_empty() {
                cluster.remove_pod(&placed.remove(0));
            }
            for node in cluster.nodes() {
                let sum: i64 = node.pods.iter().map(|pod| pod.requests.cpu).sum();
                prop_assert_eq!(sum, node.requested.cpu);
                prop_assert!(sum <= node.allocatable.cpu);
            }
        }
    }
}
