//! The scheduler in a whole cluster under virtual time: pods of higher priority take the place of
//! others, and all that users see of it (conditions, events, nominations).

use std::time::Duration;

use client::{CancellationToken, DeleteOptions, Informer, Informers, ListOptions, Rng};
use proto::user::User;
use proto::view::Condition;
use proto::view::event::Event;
use proto::view::pod::Pod;
use proto::view::pod_disruption_budget::PodDisruptionBudget;
use proto::view::replica_set::ReplicaSet;
use serde_json::{Value, json};
use tests::world::World;

#[path = "scheduling/devices.rs"]
mod devices;

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

/// As the upstream test of the preemption path of ReplicaSets: who had to make room comes back as a
/// new pod, waits, says why, and runs again when there is room.
#[tokio::test(start_paused = true)]
async fn replicas_make_room_and_come_back() {
    let world = world(3).await;
    let set = |name: &str, class: &str, replicas: usize| {
        let template =
            json!({"metadata": {"labels": {"app": name}}, "spec": pod(name, class, "4")["spec"]});
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
                "template": template}})
    };
    let running = |pods: &Informer<Pod>, app: &str| {
        let all = pods.snapshot();
        let ours = all.values().filter(|pod| pod.metadata.labels["app"] == app);
        ours.filter(|pod| pod.status.phase == "Running" && !pod.is_terminating()).count()
    };
    world.client.create::<ReplicaSet>("default", &set("low", "low", 6)).await.unwrap();
    world.until::<Pod>(|pods| running(pods, "low") == 6).await;
    world.client.create::<ReplicaSet>("default", &set("high", "high", 2)).await.unwrap();
    let settled = |pods: &Informer<Pod>| {
        let all = pods.snapshot();
        let waits = |pod: &&std::sync::Arc<client::Entry<Pod>>| {
            let scheduled = Condition::find(&pod.status.conditions, "PodScheduled");
            scheduled.is_some_and(|condition| {
                condition.message
                    == "0/3 nodes are available: 3 Insufficient cpu. no new claims to \
                    deallocate, preemption: 0/3 nodes are available: 3 No preemption victims found \
                    for incoming pod."
            })
        };
        running(pods, "high") == 2
            && running(pods, "low") == 4
            && all.values().filter(waits).count() == 2
    };
    world.until::<Pod>(settled).await;
    world.client.delete::<ReplicaSet>("default", "high", &DeleteOptions::default()).await.unwrap();
    world.until::<Pod>(|pods| running(pods, "low") == 6).await;
}

/// Another scheduler beside the world's own, with this configuration.
fn another(world: &World, seed: u64, config: Option<std::path::PathBuf>) -> CancellationToken {
    let client = world.server.client(User::new("system:kube-scheduler", &["system:authenticated"]));
    let (clock, rng) = (world.clock.clone(), Rng::seeded(seed));
    // It reads for itself, with no more than a scheduler's rights.
    let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
    let options = scheduler::Options { leader_elect: false, config, ..Default::default() };
    let shutdown = CancellationToken::new();
    tokio::spawn(scheduler::run(options, client, informers, clock, rng, shutdown.clone()));
    shutdown
}

#[tokio::test(start_paused = true)]
async fn two_schedulers_fight_and_nobody_is_hurt() {
    for seed in 0..5 {
        println!("seed {seed}");
        let (world, rng) = (World::new(seed, 3).await, Rng::seeded(seed));
        let other = another(&world, seed + 100, None);
        let pods = world.informers.of::<Pod>();
        let mut changes = pods.changes();
        let mut nodes = std::collections::HashMap::new();
        let mut wanted: Vec<String> = Vec::new();
        for number in 0..60 {
            let name = format!("p{number}");
            create(&world, pod(&name, "", "1")).await;
            wanted.push(name);
            if wanted.len() > 20 || rng.below(4) == 0 {
                let gone = wanted.remove(rng.below(wanted.len() as u64) as usize);
                let now =
                    DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
                world.client.delete::<Pod>("default", &gone, &now).await.unwrap();
            }
            world.clock.sleep(Duration::from_millis(rng.below(30))).await;
            while let Some(change) = changes.try_next() {
                let Some(new) = &change.new else { continue };
                let node = &new.spec.node_name;
                if !node.is_empty() {
                    let known = nodes.entry(change.key).or_insert_with(|| node.clone());
                    assert_eq!(known, node, "a pod has one node, once and for all");
                }
            }
            let most = world.running().values().copied().max().unwrap_or(0);
            assert!(most <= 8, "{most} CPUs of 8 are taken");
        }
        // A node turns away what one of the two sent there on top of the other's; the rest runs.
        let ended = |pods: &Informer<Pod>| {
            wanted.iter().all(|name| {
                let pod = pods.get("default", name);
                pod.is_some_and(|pod| ["Running", "Failed"].contains(&pod.status.phase.as_str()))
            })
        };
        world.until::<Pod>(ended).await;
        other.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn a_profile_decides_by_its_own_lights() {
    let world = world(3).await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("scheduler.yaml");
    let text = "apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: packed
  pluginConfig:
  - name: NodeResourcesFit
    args: {scoringStrategy: {type: MostAllocated}}
  plugins: {score: {disabled: [{name: NodeResourcesBalancedAllocation}, {name: PodTopologySpread}]}}
- schedulerName: idle
";
    std::fs::write(&config, text).unwrap();
    let _packs = another(&world, 1, Some(config));
    for number in 0..4 {
        let mut pod = pod(&format!("p{number}"), "", "1");
        pod["spec"]["schedulerName"] = "packed".into();
        create(&world, pod).await;
        world.clock.sleep(Duration::from_secs(5)).await;
    }
    world.until::<Pod>(|pods| (0..4).all(|n| node_of(pods, &format!("p{n}")).is_some())).await;
    assert_eq!(world.running().len(), 1, "all are on one node: {:?}", world.running());
    let told = events(&world, "Scheduled").await;
    assert_eq!(told.len(), 4);
    assert!(told.iter().all(|event| event.source.component == "packed"), "{told:?}");
}
