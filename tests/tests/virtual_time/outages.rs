//! Nodes that fall silent together, and nodes that are emptied on purpose: how many pods are told to
//! leave, and how fast.

use std::collections::BTreeSet;
use std::time::Duration;

use client::Patch;
use proto::time::Time;
use proto::view::deployment::Deployment;
use proto::view::node::{Node, Taint};
use proto::view::pod::Pod;
use proto::view::pod_disruption_budget::PodDisruptionBudget;
use serde_json::{Value, json};
use tests::chaos::node;
use tests::world::World;

fn deployment(replicas: usize) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"terminationGracePeriodSeconds": 1,
                "containers": [{"name": "c", "image": "i:1"}]},
        }},
    })
}

/// When the pods of each node were told to leave.
fn evictions(world: &World) -> Vec<Time> {
    let evicts = |taint: &&Taint| taint.effect == "NoExecute";
    let nodes = world.informers.of::<Node>().snapshot();
    let taints = nodes.values().flat_map(|node| node.spec.taints.iter().find(evicts));
    let mut times: Vec<Time> = taints.filter_map(|taint| taint.time_added).collect();
    times.sort();
    times
}

/// They fall silent, are so for a while, and come back as they were.
async fn outage(
    world: &World,
    numbers: std::ops::RangeInclusive<usize>,
    seconds: u64,
) -> Vec<Time> {
    let kept: Vec<_> =
        numbers.map(|number| (number, world.nodes.runtime(&node(number)).unwrap())).collect();
    for (number, _) in &kept {
        world.nodes.stop(&node(*number));
    }
    world.clock.sleep(Duration::from_secs(seconds)).await;
    let evictions = evictions(world);
    for (number, runtime) in kept {
        world.nodes.resume(number, runtime).await;
    }
    let well = |node: &Node| node.is_ready() && node.spec.taints.is_empty();
    world.until::<Node>(|nodes| nodes.snapshot().values().all(|node| well(node))).await;
    evictions
}

/// <https://kubernetes.io/docs/concepts/architecture/nodes/#rate-limits-on-eviction>
#[tokio::test(start_paused = true)]
async fn the_larger_the_outage_the_slower_the_evictions() {
    let world = World::new(13, 8).await;
    for number in 1..=8 {
        let zone = if number <= 4 { "a" } else { "b" };
        let label = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
        let label = Patch::Merge(label);
        world.client.patch::<Node>("", &node(number), "", &label).await.unwrap();
    }
    world.client.create::<Deployment>("default", &deployment(16)).await.unwrap();
    let all_run = || world.running().values().sum::<usize>() == 16;
    world.until::<Pod>(|_| all_run()).await;
    let uids = || -> BTreeSet<String> {
        let pods = world.informers.of::<Pod>().snapshot();
        pods.values().map(|pod| pod.metadata.uid.clone()).collect()
    };
    let before = uids();

    // Some of a zone: one node in ten seconds.
    let times = outage(&world, 1..=2, 120).await;
    assert_eq!(times.len(), 2);
    assert!(times[1].since(times[0]) >= Duration::from_secs(10), "{times:?}");
    // All of a zone while the other is well: the same.
    let times = outage(&world, 1..=4, 150).await;
    assert_eq!(times.len(), 4);
    let gap = |pair: &[Time]| pair[1].since(pair[0]);
    assert!(times.windows(2).all(|pair| gap(pair) >= Duration::from_secs(10)), "{times:?}");
    // Most of a zone of less than fifty nodes: it may be the zone's fault, nobody is evicted.
    assert_eq!(uids(), before, "all were back before the five minutes were over");
    let silent = outage(&world, 6..=8, 400).await;
    assert!(silent.len() <= 2, "those before it was known how many there are: {silent:?}");
    // Everything: it is the network's fault. Who was told to leave may stay.
    let before = uids();
    assert_eq!(outage(&world, 1..=8, 900).await, [], "nobody is to leave");
    assert_eq!(uids(), before, "and nobody has left");
}

/// <https://kubernetes.io/docs/tasks/administer-cluster/safely-drain-node/>
#[tokio::test(start_paused = true)]
async fn a_drain_keeps_to_the_budget() {
    let world = World::new(17, 3).await;
    let mut web = deployment(9);
    // Who comes needs a while until it is of use.
    web["spec"]["template"]["metadata"]["annotations"] =
        json!({"simulated.coracle/healthy-after-seconds": "20"});
    web["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] =
        json!({"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1});
    world.client.create::<Deployment>("default", &web).await.unwrap();
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "web"},
        "spec": {"minAvailable": 7, "selector": {"matchLabels": {"app": "web"}}}});
    world.client.create::<PodDisruptionBudget>("default", &budget).await.unwrap();
    let pods = world.informers.of::<Pod>();
    let ready = || pods.snapshot().values().filter(|pod| pod.is_ready() && pod.is_active()).count();
    world.until::<Pod>(|_| ready() == 9).await;
    let allowed = |budget: &PodDisruptionBudget| budget.status.disruptions_allowed == 2;
    let known = |budget| world.informers.of::<PodDisruptionBudget>().get("default", budget);
    world.until::<PodDisruptionBudget>(|_| known("web").is_some_and(|it| allowed(&it))).await;

    let close = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    world.client.patch::<Node>("", &node(1), "", &close).await.unwrap();
    let (mut refused, mut least) = (0, 9);
    let there = || {
        let all = pods.snapshot();
        let there = all.values().filter(|pod| pod.spec.node_name == node(1));
        there.map(|pod| pod.metadata.name.clone()).collect::<Vec<_>>()
    };
    while !there().is_empty() {
        for name in there() {
            let path = format!("/api/v1/namespaces/default/pods/{name}/eviction");
            let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
                "metadata": {"name": name, "namespace": "default"}});
            if let Err(error) = world.client.post(&path, &eviction).await {
                let status = error.status().expect("the server said so").clone();
                assert!([429, 404].contains(&status.code), "{status:?}");
                refused += usize::from(status.code == 429);
            }
            least = least.min(ready());
        }
        world.clock.sleep(Duration::from_secs(5)).await;
        least = least.min(ready());
    }
    assert!(refused > 0, "three pods cannot go at once");
    assert_eq!(least, 7, "no fewer than the budget says were ready");
    world.until::<Pod>(|_| ready() == 9).await;
    assert_eq!(world.running().get(&node(1)), None);
}
