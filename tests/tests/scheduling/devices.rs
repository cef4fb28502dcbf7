//! Devices that pods claim, and those that they ask for as extended resources.

use std::collections::BTreeSet;
use std::time::Duration;

use client::{DeleteOptions, Informer, Patch};
use proto::view::Condition;
use proto::view::device::ResourceSlice;
use proto::view::node::Node;
use proto::view::pod::Pod;
use proto::view::resource_claim::{DeviceClass, FINALIZER, ResourceClaim, ResourceClaimTemplate};
use serde_json::{Value, json};
use tests::world::World;

use super::{create, events, node_of, pod};

const DRIVER: &str = "gpu.example.com";

/// A class, a template for one of its devices, and two devices of each node.
async fn devices(world: &World) {
    let select = format!("device.driver == {DRIVER:?} && device.attributes[{DRIVER:?}].size > 1");
    let class = json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass",
        "metadata": {"name": "gpu"},
        "spec": {"selectors": [{"cel": {"expression": select}}]}});
    world.client.post("/apis/resource.k8s.io/v1/deviceclasses", &class).await.unwrap();
    let requests = json!([{"name": "r", "exactly": {"deviceClassName": "gpu"}}]);
    let template = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
        "metadata": {"name": "one"}, "spec": {"spec": {"devices": {"requests": requests}}}});
    world.client.create::<ResourceClaimTemplate>("default", &template).await.unwrap();
    for node in world.informers.of::<Node>().snapshot().values() {
        let node = &node.metadata.name;
        world.client.create::<ResourceSlice>("", &slice(node, json!([]))).await.unwrap();
    }
}

fn slice(node: &str, taints: Value) -> Value {
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice",
        "metadata": {"name": format!("{node}-gpus")}, "spec": {"driver": DRIVER, "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "small", "attributes": {"size": {"int": 1}}},
                {"name": "large", "attributes": {"size": {"int": 8}}, "taints": taints}]}})
}

/// A pod with a claim of its own.
fn claiming(name: &str) -> Value {
    let mut pod = pod(name, "", "1");
    pod["spec"]["resourceClaims"] = json!([{"name": "gpu", "resourceClaimTemplateName": "one"}]);
    pod["spec"]["containers"][0]["resources"]["claims"] = json!([{"name": "gpu"}]);
    pod
}

#[tokio::test(start_paused = true)]
async fn devices_go_to_who_claims_them() {
    let world = World::new(21, 2).await;
    devices(&world).await;
    for name in ["a", "b"] {
        create(&world, claiming(name)).await;
    }
    let run = |pods: &Informer<Pod>| ["a", "b"].iter().all(|name| node_of(pods, name).is_some());
    world.until::<Pod>(run).await;
    let (pods, claims) = (world.informers.of::<Pod>(), world.informers.of::<ResourceClaim>());
    assert_ne!(node_of(&pods, "a"), node_of(&pods, "b"), "each node has but one such device");
    let a = pods.get("default", "a").unwrap();
    let name = a.status.resource_claim_statuses[0].resource_claim_name.clone().unwrap();
    assert!(name.starts_with("a-gpu-") && name.len() == "a-gpu-".len() + 5, "{name}");
    let claim = claims.get("default", &name).unwrap();
    assert!(claim.is_of(&a) && claim.is_reserved_for(&a));
    assert_eq!(claim.metadata.finalizers, [FINALIZER]);
    let results = &claim.status.allocation.as_ref().unwrap().devices.results;
    let given: Vec<_> = results.iter().map(|it| (it.pool.as_str(), it.device.as_str())).collect();
    assert_eq!(given, [(a.spec.node_name.as_str(), "large")]);

    create(&world, claiming("c")).await;
    let says = |pods: &Informer<Pod>| {
        let pod = pods.get("default", "c")?;
        Some(Condition::find(&pod.status.conditions, "PodScheduled")?.message.clone())
    };
    let none = "0/2 nodes are available: 2 cannot allocate all claims. still not schedulable, \
                preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    world.until::<Pod>(|pods| says(pods).as_deref() == Some(none)).await;
    world.client.delete::<Pod>("default", "a", &DeleteOptions::default()).await.unwrap();
    world.until::<Pod>(|pods| node_of(pods, "c").is_some()).await;
    world.until::<ResourceClaim>(|claims| claims.get("default", &name).is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_several_share() {
    let world = World::new(22, 2).await;
    devices(&world).await;
    let mut shared = Vec::new();
    for name in ["a", "b"] {
        let mut pod = claiming(name);
        pod["spec"]["resourceClaims"] = json!([{"name": "gpu", "resourceClaimName": "ours"}]);
        shared.push(pod);
    }
    let [a, b] = shared.try_into().unwrap();
    create(&world, a).await;
    let says = |pods: &Informer<Pod>| {
        let pod = pods.get("default", "a")?;
        Some(Condition::find(&pod.status.conditions, "PodScheduled")?.message.clone())
    };
    world.until::<Pod>(|pods| says(pods).is_some()).await;
    let pods = world.informers.of::<Pod>();
    let missing = "0/2 nodes are available: could not find ResourceClaim \"default/ours\".";
    assert!(says(&pods).unwrap().starts_with(missing), "{:?}", says(&pods));
    let requests = json!([{"name": "r", "exactly": {"deviceClassName": "gpu"}}]);
    let claim = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"name": "ours"}, "spec": {"devices": {"requests": requests}}});
    world.client.create::<ResourceClaim>("default", &claim).await.unwrap();
    world.until::<Pod>(|pods| node_of(pods, "a").is_some()).await;
    create(&world, b).await;
    world.until::<Pod>(|pods| node_of(pods, "b").is_some()).await;
    assert_eq!(node_of(&pods, "a"), node_of(&pods, "b"), "where the device is");
    let reserved = |claims: &Informer<ResourceClaim>| {
        let claim = claims.get("default", "ours").unwrap();
        let mut names: Vec<String> =
            claim.status.reserved_for.iter().map(|it| it.name.clone()).collect();
        names.sort();
        (names, claim.status.allocation.is_some(), claim.metadata.finalizers.len())
    };
    let both = (vec!["a".to_string(), "b".to_string()], true, 1);
    world.until::<ResourceClaim>(|claims| reserved(claims) == both).await;
    // A tainted device drives out who has it; then nobody does, and it is free.
    let node = node_of(&pods, "a").unwrap();
    let taints = json!([{"key": "sick", "value": "yes", "effect": "NoExecute"}]);
    let patch = Patch::Merge(json!({ "spec": slice(&node, taints)["spec"] }));
    let name = format!("{node}-gpus");
    world.client.patch::<ResourceSlice>("", &name, "", &patch).await.unwrap();
    world.until::<Pod>(|pods| pods.snapshot().is_empty()).await;
    let free = (Vec::new(), false, 0);
    world.until::<ResourceClaim>(|claims| reserved(claims) == free).await;
    world.clock.sleep(Duration::from_secs(5)).await;
    let evicted = events(&world, "DeviceTaintManagerEviction").await;
    assert_eq!(evicted.len(), 2);
}

const GPU: &str = "example.com/gpu";

/// A pod that asks for a device as it does for memory.
fn asking(name: &str, resource: &str) -> Value {
    let mut pod = pod(name, "", "1");
    let resources = &mut pod["spec"]["containers"][0]["resources"];
    resources["requests"][resource] = "1".into();
    resources["limits"][resource] = "1".into();
    pod
}

fn says(pods: &Informer<Pod>, name: &str) -> Option<String> {
    let pod = pods.get("default", name)?;
    Some(Condition::find(&pod.status.conditions, "PodScheduled")?.message.clone())
}

/// What the claims of the pod's extended resources got: node and device, of each claim that has any.
fn given(claims: &Informer<ResourceClaim>) -> Vec<(String, String)> {
    let all = claims.snapshot();
    let results = all.values().flat_map(|claim| {
        assert!(claim.extended_owner().is_some());
        let results = claim.status.allocation.iter().flat_map(|it| &it.devices.results);
        results.map(|one| (one.pool.clone(), one.device.clone())).collect::<Vec<_>>()
    });
    results.collect()
}

#[tokio::test(start_paused = true)]
async fn devices_for_extended_resources() {
    let world = World::new(23, 2).await;
    devices(&world).await;
    let (pods, claims) = (world.informers.of::<Pod>(), world.informers.of::<ResourceClaim>());
    create(&world, asking("a", GPU)).await;
    let nothing = "0/2 nodes are available: 2 Insufficient example.com/gpu. no new claims to \
                   deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful \
                   for scheduling.";
    world.until::<Pod>(|pods| says(pods, "a").as_deref() == Some(nothing)).await;
    let named = Patch::Merge(json!({ "spec": { "extendedResourceName": GPU } }));
    world.client.patch::<DeviceClass>("", "gpu", "", &named).await.unwrap();
    world.until::<Pod>(|pods| node_of(pods, "a").is_some()).await;

    let a = pods.get("default", "a").unwrap();
    let status = a.status.extended_resource_claim_status.clone().unwrap();
    let name = status.resource_claim_name.clone();
    assert!(name.starts_with("a-extended-resources-"), "{name}");
    let mapping = json!([{"containerName": "c", "resourceName": GPU,
        "requestName": "container-0-request-1"}]);
    assert_eq!(json!(status.request_mappings), mapping);
    let claim = claims.get("default", &name).unwrap();
    assert!(claim.is_of(&a) && claim.is_reserved_for(&a));
    assert_eq!(claim.metadata.finalizers, [FINALIZER]);
    assert_eq!(given(&claims), [(a.spec.node_name.clone(), "large".to_string())]);

    create(&world, asking("b", "deviceclass.resource.kubernetes.io/gpu")).await;
    world.until::<Pod>(|pods| node_of(pods, "b").is_some()).await;
    assert_ne!(node_of(&pods, "a"), node_of(&pods, "b"), "each node has but one such device");
    create(&world, asking("c", GPU)).await;
    let none = "0/2 nodes are available: 2 cannot allocate all claims. still not schedulable, \
                preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    world.until::<Pod>(|pods| says(pods, "c").as_deref() == Some(none)).await;
    world.client.delete::<Pod>("default", "a", &DeleteOptions::default()).await.unwrap();
    world.until::<Pod>(|pods| node_of(pods, "c").is_some()).await;
    world.until::<ResourceClaim>(|claims| claims.get("default", &name).is_none()).await;

    // What the node itself has is not claimed.
    let node = node_of(&pods, "b").unwrap();
    let amount = json!({ "status": { "capacity": { "example.com/own": "1" },
        "allocatable": { "example.com/own": "1" } } });
    world.client.patch::<Node>("", &node, "status", &Patch::Merge(amount)).await.unwrap();
    let class = json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass",
        "metadata": {"name": "own"}, "spec": {"extendedResourceName": "example.com/own",
            "selectors": [{"cel": {"expression": "false"}}]}});
    world.client.create::<DeviceClass>("", &class).await.unwrap();
    create(&world, asking("d", "example.com/own")).await;
    world.until::<Pod>(|pods| node_of(pods, "d").is_some()).await;
    let d = pods.get("default", "d").unwrap();
    assert_eq!(
        (&d.spec.node_name, d.status.extended_resource_claim_status.is_none()),
        (&node, true)
    );
}

/// Whatever comes and goes at once, nobody has what somebody else has, and nothing is lost.
#[tokio::test(start_paused = true)]
async fn extended_resources_under_churn() {
    let world = World::new(24, 4).await;
    devices(&world).await;
    let named = Patch::Merge(json!({ "spec": { "extendedResourceName": GPU } }));
    world.client.patch::<DeviceClass>("", "gpu", "", &named).await.unwrap();
    let claims = world.informers.of::<ResourceClaim>();
    for round in 0..6 {
        for at in 0..6 {
            create(&world, asking(&format!("p-{round}-{at}"), GPU)).await;
        }
        let full = |pods: &Informer<Pod>| {
            let all = pods.snapshot();
            all.values().filter(|pod| !pod.spec.node_name.is_empty()).count() >= 4
        };
        world.until::<Pod>(full).await;
        let all = given(&claims);
        let different: BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len(), "{all:?}");
        let pods = world.informers.of::<Pod>().snapshot();
        for pod in pods.values() {
            let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
            let name = &pod.metadata.name;
            let deleted = world.client.delete::<Pod>("default", name, &now).await;
            // The informer may show one that has gone since the round before.
            assert!(deleted.is_ok() || deleted.is_err_and(|error| error.is_not_found()));
        }
    }
    world.until::<ResourceClaim>(|claims| claims.snapshot().is_empty()).await;
}
