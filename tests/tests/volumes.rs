//! Claims, volumes and pods under virtual time: API server, binder, provisioner and scheduler as in
//! every cluster; the test plays the nodes' part where a disk would be.

use std::time::Duration;

use client::{DeleteOptions, Object, Patch};
use proto::view::csi_driver::CsiDriver;
use proto::view::csi_storage_capacity::CsiStorageCapacity;
use proto::view::event::Event;
use proto::view::node::Node;
use proto::view::persistent_volume::PersistentVolume;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::view::pod::Pod;
use proto::view::storage_class::StorageClass;
use proto::view::volume_attachment::VolumeAttachment;
use proto::volume::SELECTED_NODE;
use serde_json::{Value, json};
use tests::world::World;

fn claim(name: &str, class: Value, more: Value) -> Value {
    let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "resources": {"requests": {"storage": "1Gi"}}}});
    json_patch::merge(&mut claim, &more);
    claim
}

fn volume(name: &str, size: &str, more: Value) -> Value {
    let mut volume = json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size},
            "storageClassName": "manual", "hostPath": {"path": "/tmp/none"}}});
    json_patch::merge(&mut volume, &more);
    volume
}

fn class(name: &str, provisioner: &str, mode: &str, more: Value) -> Value {
    let mut class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
    json_patch::merge(&mut class, &more);
    class
}

fn pod(name: &str, volume: Value) -> Value {
    let mut volume = volume;
    volume["name"] = "data".into();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"volumes": [volume], "containers": [{"name": "c", "image": "i",
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}})
}

fn named(claim: &str) -> Value {
    json!({"persistentVolumeClaim": {"claimName": claim}})
}

async fn create<T: Object>(world: &World, object: Value) {
    let namespace = if T::row().namespaced { "default" } else { "" };
    world.client.create::<T>(namespace, &object).await.unwrap();
}

async fn delete<T: Object>(world: &World, name: &str) {
    let namespace = if T::row().namespaced { "default" } else { "" };
    world.client.delete::<T>(namespace, name, &DeleteOptions::default()).await.unwrap();
}

/// Waits until the claim is in this phase, with this volume (any if empty).
async fn until_claim(world: &World, name: &str, phase: &str, volume: &str) {
    world
        .until::<PersistentVolumeClaim>(|claims| {
            claims.get("default", name).is_some_and(|claim| {
                claim.status.phase == phase
                    && (volume.is_empty() || claim.spec.volume_name == volume)
            })
        })
        .await;
}

async fn until_volume(world: &World, name: &str, phase: &str) {
    world
        .until::<PersistentVolume>(|volumes| {
            volumes.get("", name).is_some_and(|volume| volume.status.phase == phase)
        })
        .await;
}

async fn until_event(world: &World, name: &str, reason: &str, message: &str) {
    world
        .until::<Event>(|events| {
            events.snapshot().values().any(|event| {
                let value = event.value();
                value["involvedObject"]["name"] == name
                    && value["reason"] == reason
                    && value["message"].as_str().is_some_and(|said| said.starts_with(message))
            })
        })
        .await;
}

async fn until_running(world: &World, name: &str) -> String {
    world
        .until::<Pod>(|pods| {
            pods.get("default", name).is_some_and(|pod| pod.status.phase == "Running")
        })
        .await;
    let pod = world.informers.of::<Pod>().get("default", name).unwrap();
    pod.spec.node_name.clone()
}

#[tokio::test(start_paused = true)]
async fn claims_and_volumes_find_each_other() {
    let world = World::new(11, 1).await;
    create::<PersistentVolume>(&world, volume("big", "10Gi", json!({}))).await;
    create::<PersistentVolume>(&world, volume("fit", "2Gi", json!({}))).await;
    until_volume(&world, "fit", "Available").await;
    create::<PersistentVolumeClaim>(&world, claim("one", json!("manual"), json!({}))).await;
    until_claim(&world, "one", "Bound", "fit").await;
    until_volume(&world, "fit", "Bound").await;
    let bound = world.informers.of::<PersistentVolumeClaim>().get("default", "one").unwrap();
    assert_eq!(bound.value()["status"]["capacity"]["storage"], "2Gi");
    assert_eq!(bound.metadata.annotations["pv.kubernetes.io/bind-completed"], "yes");
    assert_eq!(bound.metadata.annotations["pv.kubernetes.io/bound-by-controller"], "yes");

    // Kept by the volume, asked for by the claim; and none at all.
    let kept = json!({"spec": {"storageClassName": "kept",
        "claimRef": {"namespace": "default", "name": "two"}}});
    create::<PersistentVolume>(&world, volume("kept", "5Gi", kept)).await;
    until_volume(&world, "kept", "Available").await;
    create::<PersistentVolumeClaim>(&world, claim("two", json!("kept"), json!({}))).await;
    until_claim(&world, "two", "Bound", "kept").await;
    let by_name = json!({"spec": {"volumeName": "big"}});
    create::<PersistentVolumeClaim>(&world, claim("three", json!("manual"), by_name)).await;
    until_claim(&world, "three", "Bound", "big").await;
    create::<PersistentVolumeClaim>(&world, claim("four", json!(""), json!({}))).await;
    let none = "no persistent volumes available for this claim and no storage class is set";
    until_event(&world, "four", "FailedBinding", none).await;

    // Given back; the volume stays, its content is the user's.
    delete::<PersistentVolumeClaim>(&world, "one").await;
    until_volume(&world, "fit", "Released").await;
    let again = Patch::Merge(json!({"spec": {"claimRef": null}}));
    world.client.patch::<PersistentVolume>("", "fit", "", &again).await.unwrap();
    until_volume(&world, "fit", "Available").await;
    // A bound volume that is taken away is missed.
    delete::<PersistentVolume>(&world, "big").await;
    let finalizers = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    world.client.patch::<PersistentVolume>("", "big", "", &finalizers).await.unwrap();
    until_claim(&world, "three", "Lost", "").await;
    until_event(&world, "three", "ClaimLost", "Bound claim has lost its PersistentVolume.").await;

    // At rest nothing is written.
    world.clock.sleep(Duration::from_secs(60)).await;
    let revisions = || {
        let volumes = world.informers.of::<PersistentVolume>().snapshot();
        let claims = world.informers.of::<PersistentVolumeClaim>().snapshot();
        let volumes = volumes.values().map(|it| it.metadata.revision());
        volumes.chain(claims.values().map(|it| it.metadata.revision())).collect::<Vec<_>>()
    };
    let before = revisions();
    world.clock.sleep(Duration::from_secs(600)).await;
    assert_eq!(revisions(), before);
}

#[tokio::test(start_paused = true)]
async fn pods_wait_for_their_volumes() {
    let world = World::new(12, 2).await;
    let none = "kubernetes.io/no-provisioner";
    let late = class("late", none, "WaitForFirstConsumer", json!({}));
    create::<StorageClass>(&world, late).await;
    create::<PersistentVolumeClaim>(&world, claim("k", json!("late"), json!({}))).await;
    let waits = "waiting for first consumer to be created before binding";
    until_event(&world, "k", "WaitForFirstConsumer", waits).await;
    create::<Pod>(&world, pod("early", named("missing"))).await;
    let missing = "0/2 nodes are available: persistentvolumeclaim \"missing\" not found.";
    until_event(&world, "early", "FailedScheduling", missing).await;
    create::<Pod>(&world, pod("p", named("k"))).await;
    let nothing = "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to \
                   bind.";
    until_event(&world, "p", "FailedScheduling", nothing).await;
    // The volume says where the pod goes.
    let nodes: Vec<String> =
        world.informers.of::<Node>().snapshot().keys().map(|key| key.name.to_string()).collect();
    let here = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [nodes[1]]});
    let local = json!({"spec": {"storageClassName": "late", "hostPath": null,
        "local": {"path": "/mnt/disk"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}}}});
    create::<PersistentVolume>(&world, volume("disk", "1Gi", local)).await;
    assert_eq!(until_running(&world, "p").await, nodes[1]);
    until_claim(&world, "k", "Bound", "disk").await;

    // A claim that is used goes only with its pod.
    delete::<PersistentVolumeClaim>(&world, "k").await;
    world.clock.sleep(Duration::from_secs(30)).await;
    assert!(world.informers.of::<PersistentVolumeClaim>().get("default", "k").is_some());
    delete::<Pod>(&world, "p").await;
    world.until::<PersistentVolumeClaim>(|claims| claims.get("default", "k").is_none()).await;
    until_volume(&world, "disk", "Released").await;
}

#[tokio::test(start_paused = true)]
async fn folders_of_nodes_are_made_and_removed() {
    let world = World::new(13, 2).await;
    let default = json!({"metadata": {"annotations":
        {"storageclass.kubernetes.io/is-default-class": "true"}}});
    let mode = "WaitForFirstConsumer";
    // A claim made before there is a default class gets it later.
    create::<PersistentVolumeClaim>(&world, claim("k", Value::Null, json!({}))).await;
    until_claim(&world, "k", "Pending", "").await;
    let folders = class("host-path", "coracle.dev/host-path", mode, default);
    create::<StorageClass>(&world, folders).await;
    world
        .until::<PersistentVolumeClaim>(|claims| {
            claims.get("default", "k").is_some_and(|claim| claim.class() == "host-path")
        })
        .await;
    create::<Pod>(&world, pod("p", named("k"))).await;
    // Simulated nodes have no disk.
    let refused = "failed to provision volume with StorageClass \"host-path\": node \"simulated-";
    until_event(&world, "k", "ProvisioningFailed", refused).await;
    for node in world.informers.of::<Node>().snapshot().keys() {
        let says = json!({"metadata": {"annotations": {"host-path.coracle.dev/folder": "/d"}}});
        world.client.patch::<Node>("", &node.name, "", &Patch::Merge(says)).await.unwrap();
    }
    let node = until_running(&world, "p").await;
    let claim = world.informers.of::<PersistentVolumeClaim>().get("default", "k").unwrap();
    let name = format!("pvc-{}", claim.metadata.uid);
    assert_eq!(claim.spec.volume_name, name);
    let volume = world.informers.of::<PersistentVolume>().get("", &name).unwrap();
    assert_eq!(volume.spec.local.as_ref().unwrap().path, format!("/d/{name}"));
    until_event(
        &world,
        "k",
        "ProvisioningSucceeded",
        &format!("Successfully provisioned volume {name}"),
    )
    .await;
    // Another pod of the claim has no choice of nodes.
    delete::<Pod>(&world, "p").await;
    world.until::<Pod>(|pods| pods.get("default", "p").is_none()).await;
    create::<Pod>(&world, pod("q", named("k"))).await;
    assert_eq!(until_running(&world, "q").await, node);

    delete::<Pod>(&world, "q").await;
    delete::<PersistentVolumeClaim>(&world, "k").await;
    let asked = format!("discard.host-path.coracle.dev/{name}");
    let said = |nodes: &client::Informer<Node>| {
        nodes.get("", &node).and_then(|node| node.metadata.annotations.get(&asked).cloned())
    };
    world.until::<Node>(|nodes| said(nodes).as_deref() == Some("wanted")).await;
    world.clock.sleep(Duration::from_secs(60)).await;
    assert!(world.informers.of::<PersistentVolume>().get("", &name).is_some(), "not yet removed");
    let done = json!({"metadata": {"annotations": {&asked: "done"}}});
    world.client.patch::<Node>("", &node, "", &Patch::Merge(done)).await.unwrap();
    world.until::<PersistentVolume>(|volumes| volumes.get("", &name).is_none()).await;
    world.until::<Node>(|nodes| said(nodes).is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn ephemeral_claims_live_and_die_with_their_pods() {
    let world = World::new(14, 1).await;
    create::<PersistentVolume>(&world, volume("v", "1Gi", json!({}))).await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "manual",
        "resources": {"requests": {"storage": "1Gi"}}}});
    let generic = json!({"ephemeral": {"volumeClaimTemplate": template}});
    create::<Pod>(&world, pod("p", generic.clone())).await;
    until_running(&world, "p").await;
    until_claim(&world, "p-data", "Bound", "v").await;
    delete::<Pod>(&world, "p").await;
    world.until::<PersistentVolumeClaim>(|claims| claims.get("default", "p-data").is_none()).await;
    // A claim of that name that is not the pod's.
    create::<PersistentVolumeClaim>(&world, claim("q-data", json!("manual"), json!({}))).await;
    create::<Pod>(&world, pod("q", generic)).await;
    let why = "0/1 nodes are available: PVC default/q-data was not created for pod default/q (pod \
               is not owner).";
    until_event(&world, "q", "FailedScheduling", why).await;
}

#[tokio::test(start_paused = true)]
async fn volumes_of_drivers_are_attached_to_the_nodes_of_their_pods() {
    let world = World::new(15, 1).await;
    let driven = json!({"spec": {"hostPath": null,
        "csi": {"driver": "csi.example.com", "volumeHandle": "h"}}});
    create::<PersistentVolume>(&world, volume("v", "1Gi", driven)).await;
    create::<PersistentVolumeClaim>(&world, claim("k", json!("manual"), json!({}))).await;
    until_claim(&world, "k", "Bound", "v").await;
    create::<Pod>(&world, pod("p", named("k"))).await;
    let node = until_running(&world, "p").await;
    let one = |all: &client::Informer<VolumeAttachment>| all.snapshot().values().next().cloned();
    world.until::<VolumeAttachment>(|all| one(all).is_some()).await;
    let attachment = one(&world.informers.of::<VolumeAttachment>()).unwrap();
    assert_eq!(attachment.spec.attacher, "csi.example.com");
    assert_eq!(attachment.spec.node_name, node);
    assert_eq!(attachment.spec.source.persistent_volume_name, "v");
    // The driver has done it; the node says that it uses the volume.
    let name = &attachment.metadata.name;
    let done = Patch::Merge(json!({"status": {"attached": true}}));
    world.client.patch::<VolumeAttachment>("", name, "status", &done).await.unwrap();
    world
        .until::<Node>(|nodes| {
            nodes.get("", &node).is_some_and(|node| {
                node.status
                    .volumes_attached
                    .iter()
                    .any(|it| it.name == "kubernetes.io/csi/csi.example.com^h")
            })
        })
        .await;
    let says = |used: Value| Patch::Merge(json!({"status": {"volumesInUse": used}}));
    let used = says(json!(["kubernetes.io/csi/csi.example.com^h"]));
    world.client.patch::<Node>("", &node, "status", &used).await.unwrap();
    delete::<Pod>(&world, "p").await;
    world.until::<Pod>(|pods| pods.get("default", "p").is_none()).await;
    world.clock.sleep(Duration::from_secs(60)).await;
    let still = one(&world.informers.of::<VolumeAttachment>());
    assert!(still.is_some(), "the node has not let go of it");
    world.client.patch::<Node>("", &node, "status", &says(json!([]))).await.unwrap();
    world.until::<VolumeAttachment>(|all| one(all).is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn volumes_are_made_where_their_driver_has_room() {
    let world = World::new(16, 1).await;
    let driver = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver",
        "metadata": {"name": "csi.example.com"}, "spec": {"storageCapacity": true}});
    create::<CsiDriver>(&world, driver).await;
    world.until::<CsiDriver>(|drivers| drivers.get("", "csi.example.com").is_some()).await;
    let late = class("late", "csi.example.com", "WaitForFirstConsumer", json!({}));
    create::<StorageClass>(&world, late).await;
    create::<PersistentVolumeClaim>(&world, claim("k", json!("late"), json!({}))).await;
    create::<Pod>(&world, pod("p", named("k"))).await;
    let why = "0/1 nodes are available: 1 node(s) did not have enough free storage.";
    until_event(&world, "p", "FailedScheduling", why).await;
    let capacity = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIStorageCapacity",
        "metadata": {"name": "here"}, "storageClassName": "late", "nodeTopology": {},
        "capacity": "2Gi"});
    create::<CsiStorageCapacity>(&world, capacity).await;
    // The provisioner is told where.
    world
        .until::<PersistentVolumeClaim>(|claims| {
            let claim = claims.get("default", "k");
            claim.is_some_and(|claim| claim.metadata.annotations.contains_key(SELECTED_NODE))
        })
        .await;
}
