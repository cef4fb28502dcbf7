//! Clusters larger and days longer than a test has: many nodes and pods in one process.

#[path = "virtual_time/outages.rs"]
mod outages;

use std::time::Duration;

use client::{Clock, Patch, Rng};
use futures::StreamExt;
use futures::stream;
use proto::view::cron_job::CronJob;
use proto::view::deployment::Deployment;
use proto::view::job::Job;
use proto::view::node::Node;
use proto::view::pod::Pod;
use serde_json::json;
use tests::world::World;

const NODES: usize = 100;
const PODS: usize = 1000;

/// A node falls silent; five virtual minutes later its pods run elsewhere.
#[tokio::test(start_paused = true)]
async fn a_lost_node_is_replaced() {
    let world = World::new(7, NODES).await;
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": PODS,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web:1"}]},
            },
        },
    });
    world.client.create::<Deployment>("default", &deployment).await.unwrap();
    let all_run = || world.running().values().sum::<usize>() == PODS;
    world.until::<Pod>(|_| all_run()).await;
    assert_eq!(world.running().len(), NODES, "every node has its share");

    let lost = "simulated-42";
    let before = world.running()[lost];
    assert!(before > 0);
    world.nodes.stop(lost);
    world.clock.sleep(Duration::from_secs(60)).await;
    let node = world.informers.of::<Node>().get("", lost).unwrap();
    assert!(!node.is_ready(), "it is silent for longer than its grace period");
    assert!(node.spec.taints.iter().any(|taint| taint.key == "node.kubernetes.io/unreachable"));
    assert_eq!(world.running().get(lost), Some(&before), "its pods are tolerated for five minutes");

    world.clock.sleep(Duration::from_secs(300)).await;
    world.until::<Pod>(|_| all_run()).await;
    assert_eq!(world.running().get(lost), None, "its pods run elsewhere");
}

/// No node runs these pods: the test says how they end, one in twenty badly. `cargo xtask soak` asks
/// for ten thousand completions.
#[tokio::test(start_paused = true)]
async fn completions_are_counted() {
    let wanted = std::env::var("CORACLE_COMPLETIONS").ok().and_then(|text| text.parse().ok());
    let completions: usize = wanted.unwrap_or(300);
    let seed = match std::env::var("SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => Rng::from_os().below(1_000_000),
    };
    eprintln!("SEED={seed}");
    let (world, rng) = (World::new(seed, 0).await, Rng::seeded(seed));
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "many"},
        "spec": {"completions": completions, "parallelism": 500, "backoffLimit": 1_000_000,
            "completionMode": "Indexed", "template": {"spec": {"restartPolicy": "Never",
                "schedulerName": "nobody", "containers": [{"name": "c", "image": "i"}]}}},
    });
    world.client.create::<Job>("default", &job).await.unwrap();
    let (jobs, pods) = (world.informers.of::<Job>(), world.informers.of::<Pod>());
    jobs.synced().await;
    let finished = || jobs.get("default", "many").is_some_and(|job| job.finished().is_some());
    while !finished() {
        world.clock.sleep(Duration::from_secs(20)).await;
        let snapshot = pods.snapshot();
        let living = snapshot.values().filter(|pod| pod.is_active() && rng.below(10) > 0);
        let names: Vec<String> = living.map(|pod| pod.metadata.name.clone()).collect();
        let ends =
            names.into_iter().map(|name| {
                let phase = if rng.below(20) == 0 { "Failed" } else { "Succeeded" };
                let (client, now) = (world.client.clone(), world.clock.now());
                async move {
                    let patch = Patch::Merge(
                        json!({"status": {"phase": phase, "containerStatuses":
                    [{"name": "c", "state": {"terminated": {"exitCode": 0, "finishedAt": now}}}]}}),
                    );
                    client.patch::<Pod>("default", &name, "status", &patch).await.unwrap();
                }
            });
        stream::iter(ends).buffer_unordered(50).collect::<Vec<()>>().await;
    }
    let status = jobs.get("default", "many").unwrap().status.clone();
    let count =
        |phase: &str| pods.snapshot().values().filter(|pod| pod.status.phase == phase).count();
    assert_eq!(status.completed_indexes, format!("0-{}", completions - 1), "SEED={seed}");
    assert_eq!(status.succeeded as usize, completions, "SEED={seed}");
    assert_eq!(count("Succeeded"), completions, "SEED={seed}");
    assert_eq!(status.failed as usize, count("Failed"), "SEED={seed}");
    assert!(count("Failed") > completions / 100, "one in twenty fails (SEED={seed})");
    assert!(pods.snapshot().values().all(|pod| pod.metadata.finalizers.is_empty()), "SEED={seed}");
}

/// The night in which New York's clocks go back, on a cluster with nodes.
#[tokio::test(start_paused = true)]
async fn a_cron_job_lives_through_the_end_of_summer_time() {
    let night = "2026-11-01T05:20:00Z".parse().unwrap();
    let world = World::with(Clock::simulated(night), Rng::seeded(3), 2).await;
    let cron = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "night"},
        "spec": {"schedule": "30 1 * * *", "timeZone": "America/New_York",
            "successfulJobsHistoryLimit": 100, "jobTemplate": {"spec": {"template": {
                "metadata": {"annotations": {"simulated.coracle/exit-after-seconds": "30"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]},
            }}}},
    });
    world.client.create::<CronJob>("default", &cron).await.unwrap();
    let jobs = world.informers.of::<Job>();
    jobs.synced().await;
    world.clock.sleep(Duration::from_secs(80 * 60)).await;
    let meant = |job: &Job| {
        job.metadata.annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"].clone()
    };
    let jobs = jobs.snapshot();
    let ended = jobs.values().filter(|job| job.is_complete());
    let mut meant: Vec<String> = ended.map(|job| meant(job)).collect();
    meant.sort();
    assert_eq!(meant, ["2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00"]);
}
