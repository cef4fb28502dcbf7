//! StatefulSets, DaemonSets and ReplicationControllers as their users see them: the whole cluster in
//! one process, under virtual time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{DeleteOptions, Entry, Object, Patch};
use proto::view::controller_revision::ControllerRevision;
use proto::view::daemon_set::DaemonSet;
use proto::view::node::Node;
use proto::view::persistent_volume::PersistentVolume;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::view::pod::Pod;
use proto::view::replication_controller::ReplicationController;
use proto::view::resource_quota::ResourceQuota;
use proto::view::stateful_set::StatefulSet;
use serde_json::{Value, json};
use tests::world::World;

/// What all pods of a test look like: of this image, ready as soon as their container is well.
fn template(image: &str, annotations: Value) -> Value {
    json!({
        "metadata": {"labels": {"app": "web"}, "annotations": annotations},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": image,
                "readinessProbe": {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1}}],
        },
    })
}

fn workload(kind: &str, version: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": version, "kind": kind, "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}},
            "template": template("i:1", json!({}))},
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object
}

fn stateful(spec: Value) -> Value {
    workload("StatefulSet", "apps/v1", spec)
}

fn all<T: Object>(world: &World) -> Vec<Arc<Entry<T>>> {
    world.informers.of::<T>().snapshot().values().cloned().collect()
}

/// The pods of the workload by name.
fn pods(world: &World) -> BTreeMap<String, Arc<Entry<Pod>>> {
    let ours = |pod: &Arc<Entry<Pod>>| pod.metadata.labels.get("app").is_some_and(|it| it == "web");
    all::<Pod>(world).into_iter().filter(ours).map(|pod| (pod.metadata.name.clone(), pod)).collect()
}

fn image(pod: &Pod) -> &str {
    &pod.spec.containers[0].image
}

/// The images of the ready pods that stay, by name.
fn ready(world: &World) -> BTreeMap<String, String> {
    let well = |pod: &Entry<Pod>| pod.is_ready() && pod.is_active();
    let pods = pods(world).into_iter().filter(|(_, pod)| well(pod));
    pods.map(|(name, pod)| (name, image(&pod).to_string())).collect()
}

fn is_ready(world: &World, wanted: &[(&str, &str)]) -> bool {
    let ready = ready(world);
    let ready = ready.iter().map(|(name, image)| (name.as_str(), image.as_str()));
    pods(world).len() == wanted.len() && ready.eq(wanted.iter().copied())
}

/// Waits, for ten minutes at most.
async fn until(world: &World, what: &str, met: impl Fn() -> bool) {
    for _ in 0..6000 {
        if met() {
            return;
        }
        world.clock.sleep(Duration::from_millis(100)).await;
    }
    for pod in all::<Pod>(world) {
        let (node, phase) = (&pod.spec.node_name, &pod.status.phase);
        let (name, labels) = (&pod.metadata.name, &pod.metadata.labels);
        let (ready, end) = (pod.is_ready(), pod.is_terminating());
        eprintln!("{name} on {node}: {} {phase} {ready} ends: {end} {labels:?}", image(&pod));
    }
    for set in all::<StatefulSet>(world) {
        eprintln!("{}", String::from_utf8_lossy(&set.bytes));
    }
    for set in all::<DaemonSet>(world) {
        eprintln!("{}", String::from_utf8_lossy(&set.bytes));
    }
    panic!("{what} did not come to be in ten minutes");
}

async fn patch<T: Object>(world: &World, name: &str, subresource: &str, patch: Value) {
    let namespace = if T::row().namespaced { "default" } else { "" };
    let patch = Patch::Merge(patch);
    world.client.patch::<T>(namespace, name, subresource, &patch).await.unwrap();
}

async fn delete<T: Object>(world: &World, name: &str) {
    world.client.delete::<T>("default", name, &DeleteOptions::default()).await.unwrap();
}

/// A world whose informers of what the tests ask for are running.
async fn world(seed: u64, nodes: usize) -> World {
    let world = World::new(seed, nodes).await;
    world.informers.of::<StatefulSet>().synced().await;
    world.informers.of::<DaemonSet>().synced().await;
    world.informers.of::<ControllerRevision>().synced().await;
    world.informers.of::<PersistentVolumeClaim>().synced().await;
    world.informers.of::<ReplicationController>().synced().await;
    world
}

fn stateful_set(world: &World) -> Arc<Entry<StatefulSet>> {
    world.informers.of::<StatefulSet>().get("default", "web").unwrap()
}

fn revisions(world: &World) -> Vec<i64> {
    let mut numbers: Vec<i64> =
        all::<ControllerRevision>(world).iter().map(|revision| revision.revision).collect();
    numbers.sort();
    numbers
}

fn uids(world: &World) -> BTreeMap<String, String> {
    pods(world).into_iter().map(|(name, pod)| (name, pod.metadata.uid.clone())).collect()
}

/// A new template that never gets ready stops the update at its first pod; taken back, and with that
/// pod out of the way, all is as before, and the other pods have run on.
#[tokio::test(start_paused = true)]
async fn an_update_halts_at_a_pod_that_is_ill_and_goes_back() {
    let world = world(31, 3).await;
    let set = stateful(json!({"replicas": 3, "serviceName": "web"}));
    world.client.create::<StatefulSet>("default", &set).await.unwrap();
    let first = [("web-0", "i:1"), ("web-1", "i:1"), ("web-2", "i:1")];
    until(&world, "three pods", || is_ready(&world, &first)).await;
    let before = uids(&world);
    let current = stateful_set(&world).status.current_revision.clone();

    let bad = template("i:bad", json!({"simulated.coracle/healthy-after-seconds": "100000"}));
    patch::<StatefulSet>(&world, "web", "", json!({"spec": {"template": bad}})).await;
    let halted = || {
        let pods = pods(&world);
        pods.get("web-2").is_some_and(|pod| image(pod) == "i:bad" && pod.status.phase == "Running")
    };
    until(&world, "the first bad pod", halted).await;
    world.clock.sleep(Duration::from_secs(300)).await;
    assert_eq!(ready(&world).len(), 2, "the others are left alone");
    let status = stateful_set(&world).status.clone();
    assert_eq!(status.current_revision, current);
    assert_ne!(status.update_revision, current);
    let counts =
        [status.replicas, status.ready_replicas, status.current_replicas, status.updated_replicas];
    assert_eq!(counts, [3, 2, 2, 1]);

    let good = json!({"spec": {"template": template("i:1", Value::Null)}});
    patch::<StatefulSet>(&world, "web", "", good).await;
    let back = || stateful_set(&world).status.update_revision == current;
    until(&world, "the first revision again", back).await;
    world.clock.sleep(Duration::from_secs(60)).await;
    assert_eq!(image(&pods(&world)["web-2"]), "i:bad", "what never got ready has to be deleted");
    delete::<Pod>(&world, "web-2").await;
    until(&world, "all as before", || is_ready(&world, &first)).await;
    let after = uids(&world);
    assert_eq!((&after["web-0"], &after["web-1"]), (&before["web-0"], &before["web-1"]));
    assert_eq!(revisions(&world), [2, 3], "the first revision became the newest");

    let next = json!({"spec": {"template": {"spec": template("i:2", json!({}))["spec"]}}});
    patch::<StatefulSet>(&world, "web", "", next).await;
    let done = [("web-0", "i:2"), ("web-1", "i:2"), ("web-2", "i:2")];
    until(&world, "a good update", || is_ready(&world, &done)).await;
    let told = || {
        let status = stateful_set(&world).status.clone();
        status.current_revision == status.update_revision && status.current_replicas == 3
    };
    until(&world, "the end of the update", told).await;
}

/// Pods below the partition keep the old revision, also when they are made anew.
#[tokio::test(start_paused = true)]
async fn canaries_come_first_and_the_rest_in_phases() {
    let world = world(32, 2).await;
    let partition =
        |number: i32| json!({"type": "RollingUpdate", "rollingUpdate": {"partition": number}});
    let set = stateful(json!({"replicas": 3, "updateStrategy": partition(3)}));
    world.client.create::<StatefulSet>("default", &set).await.unwrap();
    let first = [("web-0", "i:1"), ("web-1", "i:1"), ("web-2", "i:1")];
    until(&world, "three pods", || is_ready(&world, &first)).await;
    let next = json!({"spec": {"template": {"spec": template("i:2", json!({}))["spec"]}}});
    patch::<StatefulSet>(&world, "web", "", next).await;
    world.clock.sleep(Duration::from_secs(60)).await;
    assert!(is_ready(&world, &first), "no pod is at or above the partition");
    for (number, images) in [(2, ["i:1", "i:1", "i:2"]), (1, ["i:1", "i:2", "i:2"])] {
        patch::<StatefulSet>(
            &world,
            "web",
            "",
            json!({"spec": {"updateStrategy": partition(number)}}),
        )
        .await;
        let wanted: Vec<_> = ["web-0", "web-1", "web-2"].into_iter().zip(images).collect();
        until(&world, "the next phase", || is_ready(&world, &wanted)).await;
        for name in ["web-0", "web-2"] {
            let uid = uids(&world)[name].clone();
            delete::<Pod>(&world, name).await;
            let again = || is_ready(&world, &wanted) && uids(&world)[name] != uid;
            until(&world, "the deleted pod at its own revision", again).await;
        }
    }
}

/// Scaled through the subresource, in order and all at once.
#[tokio::test(start_paused = true)]
async fn sets_scale_in_order_or_in_bursts() {
    let world = world(33, 3).await;
    let slow = template("i:1", json!({"simulated.coracle/healthy-after-seconds": "10"}));
    for policy in ["OrderedReady", "Parallel"] {
        let set = stateful(json!({
            "replicas": 2, "podManagementPolicy": policy, "template": slow,
            "ordinals": {"start": 5},
        }));
        world.client.create::<StatefulSet>("default", &set).await.unwrap();
        until(&world, "a pod", || !pods(&world).is_empty()).await;
        world.clock.sleep(Duration::from_secs(5)).await;
        let early: Vec<String> = pods(&world).into_keys().collect();
        let together = ["web-5", "web-6"];
        assert_eq!(early, together[..if policy == "Parallel" { 2 } else { 1 }], "{policy}");
        until(&world, "two", || is_ready(&world, &[("web-5", "i:1"), ("web-6", "i:1")])).await;
        patch::<StatefulSet>(&world, "web", "scale", json!({"spec": {"replicas": 4}})).await;
        until(&world, "four", || ready(&world).len() == 4).await;
        assert!(ready(&world).contains_key("web-8"));
        patch::<StatefulSet>(&world, "web", "scale", json!({"spec": {"replicas": 1}})).await;
        until(&world, "one", || is_ready(&world, &[("web-5", "i:1")])).await;
        let told = || stateful_set(&world).status.replicas == 1;
        until(&world, "the status", told).await;
        delete::<StatefulSet>(&world, "web").await;
        let gone = || pods(&world).is_empty() && all::<ControllerRevision>(&world).is_empty();
        until(&world, "the end", gone).await;
    }
}

/// A pod on a silent node is told to go after five minutes; until the node says that it is gone
/// there is no other of its name.
#[tokio::test(start_paused = true)]
async fn there_are_never_two_pods_of_a_name() {
    let world = world(40, 3).await;
    let set = stateful(json!({"replicas": 3, "podManagementPolicy": "Parallel"}));
    world.client.create::<StatefulSet>("default", &set).await.unwrap();
    let three = [("web-0", "i:1"), ("web-1", "i:1"), ("web-2", "i:1")];
    until(&world, "three pods", || is_ready(&world, &three)).await;
    let before = pods(&world)["web-1"].clone();
    let node = before.spec.node_name.clone();
    let number = node.trim_start_matches("simulated-").parse().unwrap();
    let runtime = world.nodes.runtime(&node).unwrap();
    world.nodes.stop(&node);
    world.clock.sleep(Duration::from_secs(1200)).await;
    let lost = pods(&world)["web-1"].clone();
    assert!(lost.is_terminating() && lost.metadata.uid == before.metadata.uid);
    world.nodes.resume(number, runtime).await;
    until(&world, "three again", || is_ready(&world, &three)).await;
    assert_ne!(pods(&world)["web-1"].metadata.uid, before.metadata.uid);
}

/// A pod that its node refuses is made anew until it may run, always one of its name.
#[tokio::test(start_paused = true)]
async fn a_refused_pod_is_made_anew() {
    let world = world(34, 1).await;
    let port = json!([{"containerPort": 80, "hostPort": 7777}]);
    let blocker = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "blocker"},
        "spec": {"nodeName": "simulated-1",
            "containers": [{"name": "c", "image": "i", "ports": port}]}});
    world.client.create::<Pod>("default", &blocker).await.unwrap();
    let mut template = template("i:1", json!({}));
    template["spec"]["nodeName"] = "simulated-1".into();
    template["spec"]["containers"][0]["ports"] = port;
    let set = stateful(json!({"replicas": 1, "template": template}));
    world.client.create::<StatefulSet>("default", &set).await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        seen.extend(uids(&world).into_values());
        world.clock.sleep(Duration::from_millis(500)).await;
    }
    assert!(seen.len() > 1, "it is tried again: {seen:?}");
    delete::<Pod>(&world, "blocker").await;
    until(&world, "the pod", || is_ready(&world, &[("web-0", "i:1")])).await;
}

/// Claims outlive pods, or go with them where the set says so.
#[tokio::test(start_paused = true)]
async fn claims_stay_or_go_as_the_set_says() {
    let world = world(35, 2).await;
    for number in 0..8 {
        let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": format!("v{number}")},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/tmp/x"},
                "storageClassName": ""}});
        world.client.create::<PersistentVolume>("", &volume).await.unwrap();
    }
    let retention =
        |scaled: &str, deleted: &str| json!({"whenScaled": scaled, "whenDeleted": deleted});
    let set = stateful(json!({
        "replicas": 2,
        "volumeClaimTemplates": [{"metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "",
                "resources": {"requests": {"storage": "1Gi"}}}}],
    }));
    world.client.create::<StatefulSet>("default", &set).await.unwrap();
    let both = [("web-0", "i:1"), ("web-1", "i:1")];
    until(&world, "two pods", || is_ready(&world, &both)).await;
    let claims = || -> BTreeMap<String, String> {
        let claims = all::<PersistentVolumeClaim>(&world).into_iter();
        claims.map(|it| (it.metadata.name.clone(), it.metadata.uid.clone())).collect()
    };
    let first = claims();
    assert_eq!(first.keys().collect::<Vec<_>>(), ["data-web-0", "data-web-1"]);
    let volume = &pods(&world)["web-1"].spec.volumes;
    assert!(volume.iter().any(|it| {
        it.persistent_volume_claim.as_ref().is_some_and(|claim| claim.claim_name == "data-web-1")
    }));
    let scale = |replicas: i32| json!({"spec": {"replicas": replicas}});
    patch::<StatefulSet>(&world, "web", "scale", scale(1)).await;
    until(&world, "one pod", || is_ready(&world, &both[..1])).await;
    world.clock.sleep(Duration::from_secs(60)).await;
    assert_eq!(claims(), first, "claims are kept");
    patch::<StatefulSet>(&world, "web", "scale", scale(2)).await;
    until(&world, "two again", || is_ready(&world, &both)).await;
    assert_eq!(claims(), first, "and found again");

    let spec =
        json!({"spec": {"persistentVolumeClaimRetentionPolicy": retention("Delete", "Delete")}});
    patch::<StatefulSet>(&world, "web", "", spec).await;
    let owned = || {
        all::<PersistentVolumeClaim>(&world)
            .iter()
            .all(|claim| claim.metadata.controller().is_some_and(|it| it.kind == "StatefulSet"))
    };
    until(&world, "the set owns the claims", owned).await;
    patch::<StatefulSet>(&world, "web", "scale", scale(1)).await;
    until(&world, "the claim goes with its pod", || !claims().contains_key("data-web-1")).await;
    patch::<StatefulSet>(&world, "web", "scale", scale(2)).await;
    until(&world, "two once more", || is_ready(&world, &both)).await;
    assert_ne!(claims()["data-web-1"], first["data-web-1"]);
    assert_eq!(claims()["data-web-0"], first["data-web-0"]);
    delete::<StatefulSet>(&world, "web").await;
    until(&world, "no claims", || claims().is_empty()).await;
}

/// Fifty nodes, of which one is silent: the others are updated a few at a time, and its pod is
/// neither forced away nor replaced until it is back.
#[tokio::test(start_paused = true)]
async fn daemons_roll_over_fifty_nodes() {
    const NODES: usize = 50;
    let world = world(36, NODES).await;
    let set = workload(
        "DaemonSet",
        "apps/v1",
        json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "10%"}}}),
    );
    world.client.create::<DaemonSet>("default", &set).await.unwrap();
    let with = |wanted: &str| ready(&world).values().filter(|image| *image == wanted).count();
    until(&world, "one pod on each node", || with("i:1") == NODES).await;
    assert_eq!(world.running().len(), NODES);
    let status = || world.informers.of::<DaemonSet>().get("default", "web").unwrap().status.clone();
    let away = "simulated-7";
    let runtime = world.nodes.runtime(away).unwrap();
    world.nodes.stop(away);
    // What its taint keeps off is not wanted there any more, but may stay.
    until(&world, "a silent node", || status().number_misscheduled == 1).await;
    world.clock.sleep(Duration::from_secs(400)).await;
    let there = |pod: &Arc<Entry<Pod>>| pod.spec.node_name == away;
    let stays: Vec<_> = pods(&world).into_values().filter(there).collect();
    assert!(stays.len() == 1 && !stays[0].is_terminating(), "daemons are not evicted");

    let next = json!({"spec": {"template": {"spec": template("i:2", json!({}))["spec"]}}});
    patch::<DaemonSet>(&world, "web", "", next).await;
    let mut fewest = NODES;
    for _ in 0..3000 {
        fewest = fewest.min(ready(&world).len());
        if with("i:2") == NODES - 1 {
            break;
        }
        world.clock.sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(with("i:2"), NODES - 1, "{:?}", status());
    assert!(fewest >= NODES - 5, "at most a tenth is missing, on the silent node too: {fewest}");
    world.clock.sleep(Duration::from_secs(60)).await;
    let stays: Vec<_> = pods(&world).into_values().filter(there).collect();
    assert!(stays.len() == 1 && stays[0].is_terminating(), "it waits for its node");
    let counts = status();
    assert_eq!(counts.desired_number_scheduled, NODES as i32 - 1);
    assert_eq!((counts.number_available, counts.number_misscheduled), (NODES as i32 - 1, 1));

    world.nodes.resume(7, runtime).await;
    until(&world, "the last one", || with("i:2") == NODES).await;
    let done = || status().updated_number_scheduled == NODES as i32;
    until(&world, "the status", done).await;
    assert_eq!(revisions(&world), [1, 2]);
}

/// Daemons follow labels and taints; taken back, an update ends only the pods that it had made.
#[tokio::test(start_paused = true)]
async fn daemons_follow_their_nodes_and_go_back() {
    let world = world(37, 4).await;
    let mut template = template("i:1", json!({}));
    template["spec"]["nodeSelector"] = json!({"color": "blue"});
    let set = workload("DaemonSet", "apps/v1", json!({"template": template}));
    world.client.create::<DaemonSet>("default", &set).await.unwrap();
    let on = || -> Vec<String> {
        let pods = pods(&world);
        let mut nodes: Vec<_> = pods.values().map(|pod| pod.spec.node_name.clone()).collect();
        nodes.sort();
        nodes
    };
    let label = |color: Option<&str>| json!({"metadata": {"labels": {"color": color}}});
    world.clock.sleep(Duration::from_secs(30)).await;
    assert!(on().is_empty());
    for number in 1..=4 {
        patch::<Node>(&world, &format!("simulated-{number}"), "", label(Some("blue"))).await;
    }
    until(&world, "four", || ready(&world).len() == 4).await;
    patch::<Node>(&world, "simulated-2", "", label(Some("green"))).await;
    until(&world, "three", || on() == ["simulated-1", "simulated-3", "simulated-4"]).await;
    let taint = json!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}});
    patch::<Node>(&world, "simulated-4", "", taint).await;
    until(&world, "two", || on() == ["simulated-1", "simulated-3"]).await;
    patch::<Node>(&world, "simulated-4", "", json!({"spec": {"taints": null}})).await;
    until(&world, "three again", || ready(&world).len() == 3).await;

    let before = uids(&world);
    let change = |image: &str| {
        json!({"spec": {"template": {"spec": {"containers": [
        {"name": "c", "image": image,
            "readinessProbe": {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1}}]}}}})
    };
    for number in 1..=4 {
        let node = format!("simulated-{number}");
        world.nodes.runtime(&node).unwrap().refuse_pull("i:bad", "no such image");
    }
    patch::<DaemonSet>(&world, "web", "", change("i:bad")).await;
    until(&world, "one bad pod", || ready(&world).len() == 2 && pods(&world).len() == 3).await;
    world.clock.sleep(Duration::from_secs(60)).await;
    assert_eq!(ready(&world).len(), 2, "the update halts");
    patch::<DaemonSet>(&world, "web", "", change("i:1")).await;
    until(&world, "all well", || ready(&world).len() == 3).await;
    let same = uids(&world).iter().filter(|(name, uid)| before.get(*name) == Some(uid)).count();
    assert_eq!(same, 2, "the others were not restarted");
    assert_eq!(revisions(&world), [2, 3]);
}

/// New pods start beside old ones, so that none is ever missing.
#[tokio::test(start_paused = true)]
async fn daemons_surge() {
    let world = world(38, 6).await;
    let slow = template("i:1", json!({"simulated.coracle/healthy-after-seconds": "3"}));
    let set = workload(
        "DaemonSet",
        "apps/v1",
        json!({"template": slow, "minReadySeconds": 4,
            "updateStrategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": "50%"}}}),
    );
    world.client.create::<DaemonSet>("default", &set).await.unwrap();
    let status =
        || world.informers.of::<DaemonSet>().get("default", "web").map(|set| set.status.clone());
    let available = || status().map_or(0, |status| status.number_available);
    until(&world, "one pod on each node", || available() == 6).await;
    let next = json!({"spec": {"template": {"spec": template("i:2", json!({}))["spec"]}}});
    patch::<DaemonSet>(&world, "web", "", next).await;
    let (mut fewest, mut most) = (6, 6);
    let done = || pods(&world).len() == 6 && ready(&world).values().all(|image| image == "i:2");
    for _ in 0..3000 {
        fewest = fewest.min(ready(&world).len());
        most = most.max(pods(&world).len());
        if done() {
            break;
        }
        world.clock.sleep(Duration::from_millis(200)).await;
    }
    assert!(done());
    assert!(fewest >= 6 && (7..=9).contains(&most), "from {fewest} to {most} pods");
    until(&world, "all available", || available() == 6).await;
}

/// A ReplicationController takes up pods that match, lets go those that no longer do, and replaces
/// what is missing.
#[tokio::test(start_paused = true)]
async fn replication_controllers_adopt_release_and_scale() {
    let world = world(39, 2).await;
    let lone = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "lone", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    world.client.create::<Pod>("default", &lone).await.unwrap();
    let controller = json!({"apiVersion": "v1", "kind": "ReplicationController",
        "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"app": "web"},
            "template": template("i:1", json!({}))}});
    world.client.create::<ReplicationController>("default", &controller).await.unwrap();
    until(&world, "two pods", || ready(&world).len() == 2 && pods(&world).len() == 2).await;
    let owner = |name: &str| {
        let pod = world.informers.of::<Pod>().get("default", name).unwrap();
        pod.metadata.controller().map(|owner| owner.kind.clone())
    };
    assert_eq!(owner("lone").as_deref(), Some("ReplicationController"));
    patch::<Pod>(&world, "lone", "", json!({"metadata": {"labels": {"app": "other"}}})).await;
    let let_go = || owner("lone").is_none() && ready(&world).len() == 2;
    until(&world, "another in its place", let_go).await;
    let status = || {
        let found = world.informers.of::<ReplicationController>().get("default", "web");
        found.unwrap().status.clone()
    };
    patch::<ReplicationController>(&world, "web", "scale", json!({"spec": {"replicas": 4}})).await;
    let four = || status().available_replicas == 4 && status().fully_labeled_replicas == 4;
    until(&world, "four", four).await;
    patch::<ReplicationController>(&world, "web", "", json!({"spec": {"replicas": 0}})).await;
    until(&world, "none", || pods(&world).is_empty() && status().replicas == 0).await;
}

/// The whole way from what a user writes to a revision's name is that of Kubernetes 1.34: defaults,
/// what is left out, the order of keys and the hash.
#[tokio::test(start_paused = true)]
async fn revisions_are_named_as_kubernetes_names_them() {
    let world = world(41, 1).await;
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "test"},
        "spec": {"selector": {"matchLabels": {"app": "foo"}},
            "template": {
                "metadata": {"labels": {"app": "foo"}, "annotations": {"test": "value"}},
                "spec": {"containers": [{"name": "test", "image": "test"}]}}}});
    world.client.create::<StatefulSet>("default", &set).await.unwrap();
    until(&world, "a revision", || !all::<ControllerRevision>(&world).is_empty()).await;
    let revision = all::<ControllerRevision>(&world).remove(0);
    assert_eq!(revision.metadata.name, "test-776999688b");
    assert_eq!(revision.metadata.labels["controller.kubernetes.io/hash"], "776999688b");
}

/// A daemon that failed is replaced, whoever said so.
#[tokio::test(start_paused = true)]
async fn failed_daemons_are_replaced() {
    let world = world(42, 2).await;
    let set = workload("DaemonSet", "apps/v1", json!({}));
    world.client.create::<DaemonSet>("default", &set).await.unwrap();
    until(&world, "two pods", || ready(&world).len() == 2).await;
    let (name, pod) = pods(&world).pop_first().unwrap();
    patch::<Pod>(&world, &name, "status", json!({"status": {"phase": "Failed"}})).await;
    let replaced = || ready(&world).len() == 2 && !pods(&world).contains_key(&name);
    until(&world, "another in its place", replaced).await;
    let beside = |other: &&Arc<Entry<Pod>>| other.spec.node_name == pod.spec.node_name;
    assert_eq!(pods(&world).values().filter(beside).count(), 1);
    let failed = world.client.document("/api/v1/namespaces/default/events").await.unwrap();
    let failed = failed["items"].as_array().unwrap().iter();
    assert_eq!(failed.filter(|event| event["reason"] == "FailedDaemonPod").count(), 1);
}

/// What a quota refuses is in the status until less is wanted.
#[tokio::test(start_paused = true)]
async fn replication_controllers_tell_why_pods_are_missing() {
    let world = world(43, 1).await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"},
        "spec": {"hard": {"pods": "2"}}});
    world.client.create::<ResourceQuota>("default", &quota).await.unwrap();
    world.clock.sleep(Duration::from_secs(10)).await;
    let controller = json!({"apiVersion": "v1", "kind": "ReplicationController",
        "metadata": {"name": "web"},
        "spec": {"replicas": 3, "template": template("i:1", json!({}))}});
    world.client.create::<ReplicationController>("default", &controller).await.unwrap();
    let failure = || {
        let found = world.informers.of::<ReplicationController>().get("default", "web")?;
        let failure = proto::view::Condition::find(&found.status.conditions, "ReplicaFailure")?;
        Some((failure.status.clone(), failure.reason.clone()))
    };
    let told = || failure() == Some(("True".into(), "FailedCreate".into()));
    until(&world, "the reason", || told() && ready(&world).len() == 2).await;
    patch::<ReplicationController>(&world, "web", "scale", json!({"spec": {"replicas": 2}})).await;
    until(&world, "no reason", || failure().is_none()).await;
}
