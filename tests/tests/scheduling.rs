//! The scheduler in a whole cluster under virtual time: pods of higher priority take the place of
//! others, and all that users see of it (conditions, events, nominations).

use std::time::Duration;

use client::{Informer, ListOptions};
use proto::view::Condition;
use proto::view::event::Event;
use proto::view::pod::Pod;
use proto::view::pod_disruption_budget::PodDisruptionBudget;
use serde_json::{Value, json};
use tests::world::World;

/// A simulated node has eight CPUs.
fn pod(name: &str, class: &str, cpu: &str) -> Value {
    let mut spec = json!({"containers": [
        {"name": "c", "image": "web:1", "resources": {"requests": {"cpu": cpu}}}]});
    if !class.is_empty() {
        spec["priorityClassName"] = class.into();
    }
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
}

async fn world(nodes: usize) -> World {
    let world = World::new(11, nodes).await;
    for (name, value) in [("low", 1), ("medium", 50), ("high", 100)] {
        let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": name}, "value": value});
        let path = "/apis/scheduling.k8s.io/v1/priorityclasses";
        world.client.post(path, &class).await.unwrap();
    }
    world
}

async fn create(world: &World, pod: Value) {
    world.client.create::<Pod>("default", &pod).await.unwrap();
}

fn node_of(pods: &Informer<Pod>, name: &str) -> Option<String> {
    let pod = pods.get("default", name)?;
    (pod.status.phase == "Running").then(|| pod.spec.node_name.clone())
}

async fn events(world: &World, reason: &str) -> Vec<Event> {
    let options = ListOptions {
        namespace: "default".into(),
        field_selector: format!("reason={reason}"),
        ..ListOptions::default()
    };
    let list = world.client.list::<Event>(&options).await.unwrap();
    list.items.into_iter().map(|entry| entry.view).collect()
}

#[tokio::test(start_paused = true)]
async fn the_less_important_makes_room() {
    let world = world(2).await;
    create(&world, pod("low", "low", "6")).await;
    create(&world, pod("medium", "medium", "6")).await;
    let run =
        |pods: &Informer<Pod>| ["low", "medium"].iter().all(|name| node_of(pods, name).is_some());
    world.until::<Pod>(run).await;
    let pods = world.informers.of::<Pod>();
    let freed = node_of(&pods, "low").unwrap();
    let mut changes = pods.changes();

    create(&world, pod("high", "high", "6")).await;
    world.until::<Pod>(|pods| node_of(pods, "high").is_some()).await;
    assert_eq!(node_of(&pods, "high"), Some(freed.clone()));
    assert!(pods.get("default", "low").is_none(), "it had to go");
    assert!(node_of(&pods, "medium").is_some(), "it is in nobody's way");

    let (mut nominated, mut told) = (false, None);
    while let Some(change) = changes.try_next() {
        let Some(new) = change.new else { continue };
        match &*change.key.name {
            "high" => nominated |= new.status.nominated_node_name == freed,
            "low" if new.is_terminating() => {
                told = Condition::find(&new.status.conditions, "DisruptionTarget").cloned();
            }
            _ => {}
        }
    }
    assert!(nominated, "it waits for its node");
    let told = told.expect("the victim says why it goes");
    assert_eq!((told.status.as_str(), told.reason.as_str()), ("True", "PreemptionByScheduler"));
    assert_eq!(told.message, "default-scheduler: preempting to accommodate a higher priority pod");
    let high = pods.get("default", "high").unwrap();
    assert_eq!(high.status.nominated_node_name, "", "it is there");
    world.clock.sleep(Duration::from_secs(5)).await;
    let preempted = events(&world, "Preempted").await;
    let message = format!("Preempted by pod {} on node {freed}", high.metadata.uid);
    assert_eq!(preempted.len(), 1);
    assert_eq!(preempted[0].message, message);
    assert_eq!(preempted[0].involved_object.name, "low");
}

#[tokio::test(start_paused = true)]
async fn a_critical_pod_takes_the_place_of_another() {
    let world = world(1).await;
    create(&world, pod("victim", "high", "6")).await;
    world.until::<Pod>(|pods| node_of(pods, "victim").is_some()).await;
    let mut critical = pod("critical", "system-cluster-critical", "6");
    critical["metadata"]["namespace"] = "kube-system".into();
    world.client.create::<Pod>("kube-system", &critical).await.unwrap();
    let runs = |pods: &Informer<Pod>| {
        pods.get("kube-system", "critical").is_some_and(|pod| pod.status.phase == "Running")
    };
    world.until::<Pod>(runs).await;
    assert!(world.informers.of::<Pod>().get("default", "victim").is_none());
}

#[tokio::test(start_paused = true)]
async fn who_never_preempts_waits_and_says_so() {
    let world = world(1).await;
    create(&world, pod("low", "low", "6")).await;
    world.until::<Pod>(|pods| node_of(pods, "low").is_some()).await;
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": "polite"}, "value": 1000, "preemptionPolicy": "Never"});
    world.client.post("/apis/scheduling.k8s.io/v1/priorityclasses", &class).await.unwrap();
    create(&world, pod("polite", "polite", "6")).await;
    let says = |pods: &Informer<Pod>| {
        let pod = pods.get("default", "polite")?;
        Some(Condition::find(&pod.status.conditions, "PodScheduled")?.message.clone())
    };
    world.until::<Pod>(|pods| says(pods).is_some()).await;
    assert_eq!(
        says(&world.informers.of::<Pod>()).unwrap(),
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not \
         eligible due to preemptionPolicy=Never."
    );
    world.clock.sleep(Duration::from_secs(60)).await;
    assert!(node_of(&world.informers.of::<Pod>(), "low").is_some());
}

/// As the upstream test of preemption with several priorities: each takes no more than it needs,
/// a budget is respected where another victim serves, and who was displaced comes back when there
/// is room.
#[tokio::test(start_paused = true)]
async fn many_priorities_settle() {
    let world = world(3).await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "low-0"}}}});
    world.client.create::<PodDisruptionBudget>("default", &budget).await.unwrap();
    for number in 0..6 {
        create(&world, pod(&format!("low-{number}"), "low", "4")).await;
    }
    world.until::<Pod>(|_| world.running().values().sum::<usize>() == 6).await;
    for (class, wanted) in [("medium", 2), ("high", 3)] {
        for number in 0..wanted {
            create(&world, pod(&format!("{class}-{number}"), class, "4")).await;
        }
    }
    let run = |pods: &Informer<Pod>| {
        let mut names =
            (0..3).map(|n| format!("high-{n}")).chain((0..2).map(|n| format!("medium-{n}")));
        names.all(|name| node_of(pods, &name).is_some())
    };
    world.until::<Pod>(run).await;
    world.clock.sleep(Duration::from_secs(60)).await;
    let pods = world.informers.of::<Pod>();
    assert!(run(&pods), "nobody is displaced by an equal");
    assert!(node_of(&pods, "low-0").is_some(), "its budget protects it while others serve");
    let low = pods.snapshot().values().filter(|pod| pod.metadata.name.starts_with("low")).count();
    assert_eq!(low, 1, "five had to go, for five");
    assert_eq!(world.running().values().sum::<usize>(), 6);
}
