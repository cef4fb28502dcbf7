//! Jobs and CronJobs.

use std::collections::HashSet;

use client::Changes;
use proto::view::Condition;
use proto::view::cron_job::CronJob;

use super::*;

const TRACKING: &str = "batch.kubernetes.io/job-tracking";

/// Its pods end by themselves, well, after so many seconds (0: never).
fn job(name: &str, spec: Value, seconds: u64) -> Value {
    let mut annotations = json!({});
    if seconds > 0 {
        annotations[EXIT_AFTER] = seconds.to_string().into();
    }
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"template": {
            "metadata": {"annotations": annotations, "labels": {"of": name}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]},
        }},
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        job["spec"][field] = value.clone();
    }
    job
}

impl Rig {
    fn job(&self, name: &str) -> Option<Arc<client::Entry<Job>>> {
        self.informers.of::<Job>().get("default", name)
    }

    /// The reason of the condition, if it is true.
    fn said(&self, name: &str, kind: &str) -> Option<String> {
        let job = self.job(name)?;
        let condition = Condition::find(&job.status.conditions, kind)?;
        (condition.status == "True").then(|| condition.reason.clone())
    }

    fn pods_of(&self, name: &str) -> Vec<Arc<client::Entry<Pod>>> {
        let mut pods = self.all::<Pod>();
        pods.retain(|pod| pod.metadata.labels.get("of").is_some_and(|of| of == name));
        pods
    }

    async fn change(&self, name: &str, spec: Value) {
        let patch = Patch::Strategic(json!({ "spec": spec }));
        self.client.patch::<Job>("default", name, "", &patch).await.unwrap();
    }

    /// Ends a container of the pod, badly.
    fn crash(&self, pod: &client::Entry<Pod>) {
        let status = &pod.value()["status"]["containerStatuses"][0];
        let Some(id) = status["containerID"].as_str() else { return };
        let id = id.rsplit('/').next().unwrap_or_default();
        if let Some(runtime) = self._nodes.runtime(&pod.spec.node_name) {
            runtime.exit(id, 1);
        }
    }

    async fn events(&self) -> Vec<String> {
        let options = client::ListOptions::default();
        let events = self.client.list::<proto::view::event::Event>(&options).await.unwrap();
        let line = |event: &client::Entry<proto::view::event::Event>| {
            format!("{} {}", event.reason, event.message)
        };
        events.items.iter().map(line).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_run_to_their_end() {
    let rig = Rig::new(11, 3).await;
    rig.informers.of::<Job>().synced().await;
    let plain = job("plain", json!({"completions": 5, "parallelism": 2}), 3);
    let indexed = json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed"});
    rig.client.create::<Job>("default", &plain).await.unwrap();
    rig.client.create::<Job>("default", &job("indexed", indexed, 3)).await.unwrap();
    for (name, count) in [("plain", 5), ("indexed", 4)] {
        rig.until(name, || rig.said(name, "Complete").is_some()).await;
        assert_eq!(rig.said(name, "Complete").unwrap(), "CompletionsReached");
        assert_eq!(rig.said(name, "SuccessCriteriaMet").unwrap(), "CompletionsReached");
        let status = rig.job(name).unwrap().status.clone();
        let numbers = (status.succeeded, status.failed, status.active, status.terminating);
        assert_eq!(numbers, (count, 0, 0, Some(0)), "{name}");
        assert!(status.start_time.is_some() && status.completion_time.is_some());
        let pods = rig.pods_of(name);
        assert_eq!(pods.len(), count as usize, "{name}");
        assert!(pods.iter().all(|pod| pod.metadata.finalizers.is_empty()));
    }
    assert_eq!(rig.job("indexed").unwrap().status.completed_indexes, "0-3");
    let hostnames: HashSet<String> =
        rig.pods_of("indexed").iter().map(|pod| pod.spec.hostname.clone()).collect();
    assert_eq!(hostnames, (0..4).map(|index| format!("indexed-{index}")).collect());
    let events = rig.events().await;
    assert!(events.iter().any(|event| event == "Completed Job completed"), "{events:?}");
    assert!(events.iter().any(|event| event.starts_with("SuccessfulCreate Created pod: plain-")));
}

#[tokio::test(start_paused = true)]
async fn jobs_fail_as_their_limits_say() {
    let rig = Rig::new(12, 3).await;
    rig.informers.of::<Job>().synced().await;
    let failing = |name: &str, spec: Value| {
        let mut job = job(name, spec, 1);
        job["spec"]["template"]["metadata"]["annotations"][EXIT_CODE] = "3".into();
        job
    };
    let rule = |action: &str| json!({"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [3]}}]});
    let indexed = |more: Value| {
        let mut spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed",
            "backoffLimitPerIndex": 1});
        for (field, value) in more.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        spec
    };
    let jobs = [
        (failing("limit", json!({"backoffLimit": 2})), "BackoffLimitExceeded", 3),
        (failing("policy", json!({"podFailurePolicy": rule("FailJob")})), "PodFailurePolicy", 1),
        (failing("each", indexed(json!({}))), "FailedIndexes", 6),
        (
            failing("at-once", indexed(json!({"podFailurePolicy": rule("FailIndex")}))),
            "FailedIndexes",
            3,
        ),
        (
            failing("most", indexed(json!({"maxFailedIndexes": 0, "parallelism": 1}))),
            "MaxFailedIndexesExceeded",
            2,
        ),
        (job("late", json!({"activeDeadlineSeconds": 30}), 0), "DeadlineExceeded", 1),
    ];
    for (job, ..) in &jobs {
        rig.client.create::<Job>("default", job).await.unwrap();
    }
    for (job, reason, failed) in &jobs {
        let name = job["metadata"]["name"].as_str().unwrap();
        rig.until(name, || rig.said(name, "Failed").is_some()).await;
        assert_eq!(rig.said(name, "Failed").as_deref(), Some(*reason), "{name}");
        assert_eq!(rig.said(name, "FailureTarget").as_deref(), Some(*reason), "{name}");
        let status = rig.job(name).unwrap().status.clone();
        assert_eq!((status.failed, status.active), (*failed, 0), "{name}");
        let living = rig.pods_of(name).into_iter().filter(|pod| !pod.is_terminal());
        assert_eq!(living.count(), 0, "{name}");
    }
    assert_eq!(rig.job("each").unwrap().status.failed_indexes.as_deref(), Some("0-2"));
    assert_eq!(rig.job("most").unwrap().status.failed_indexes.as_deref(), Some("0"));
}

#[tokio::test(start_paused = true)]
async fn jobs_are_suspended_adopted_and_deleted() {
    let rig = Rig::new(13, 2).await;
    rig.informers.of::<Job>().synced().await;
    let running = |name: &str| {
        let pods = rig.pods_of(name);
        pods.iter().filter(|pod| pod.is_active() && pod.status.phase == "Running").count()
    };
    let spec = json!({"parallelism": 2, "suspend": true});
    rig.client.create::<Job>("default", &job("held", spec, 0)).await.unwrap();
    rig.until("suspension", || rig.said("held", "Suspended").is_some()).await;
    rig.clock.sleep(Duration::from_secs(60)).await;
    assert!(rig.pods_of("held").is_empty() && rig.job("held").unwrap().status.start_time.is_none());
    rig.change("held", json!({"suspend": false})).await;
    rig.until("two pods", || running("held") == 2).await;
    rig.change("held", json!({"suspend": true})).await;
    rig.until("no pods", || rig.pods_of("held").is_empty()).await;
    rig.until("the count", || rig.job("held").unwrap().status.active == 0).await;
    assert_eq!(rig.job("held").unwrap().status.failed, 0, "taken away is not failed");
    rig.change("held", json!({"suspend": false})).await;
    rig.until("two pods again", || running("held") == 2).await;

    // A pod without an owner comes back, one whose labels are others goes.
    let pods = rig.pods_of("held");
    let (orphan, other) = (pods[0].metadata.clone(), pods[1].metadata.clone());
    let bare = Patch::Merge(json!({"metadata": {"ownerReferences": null}}));
    rig.client.patch::<Pod>("default", &orphan.name, "", &bare).await.unwrap();
    let of = |name: &str| {
        let pod = rig.informers.of::<Pod>().get("default", name)?;
        Some((pod.metadata.controller().is_some(), pod.metadata.finalizers.clone()))
    };
    let adopted = Some((true, vec![TRACKING.to_string()]));
    rig.until("the adoption", || of(&orphan.name) == adopted).await;
    let labels = Patch::Merge(json!({"metadata": {"labels": null}}));
    rig.client.patch::<Pod>("default", &other.name, "", &labels).await.unwrap();
    rig.until("the release", || of(&other.name) == Some((false, vec![]))).await;
    rig.until("another pod", || running("held") == 2).await;

    // Deleted without its pods: they lose the finalizer; with them: nothing stays.
    let options =
        |propagation| DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
    rig.client.delete::<Job>("default", "held", &options(Propagation::Orphan)).await.unwrap();
    let free = || {
        let pods = rig.pods_of("held");
        pods.len() == 2 && pods.iter().all(|pod| pod.metadata.finalizers.is_empty())
    };
    rig.until("free pods", free).await;
    for propagation in [Propagation::Background, Propagation::Foreground] {
        rig.client.create::<Job>("default", &job("short", json!({}), 0)).await.unwrap();
        rig.until("a pod", || running("short") == 1).await;
        rig.client.delete::<Job>("default", "short", &options(propagation)).await.unwrap();
        rig.until("its end", || rig.gone::<Job>("short") && rig.pods_of("short").is_empty()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn finished_jobs_go_in_time() {
    let rig = Rig::new(14, 1).await;
    rig.informers.of::<Job>().synced().await;
    let spec = json!({"ttlSecondsAfterFinished": 600});
    rig.client.create::<Job>("default", &job("brief", spec, 2)).await.unwrap();
    rig.until("completion", || rig.said("brief", "Complete").is_some()).await;
    rig.clock.sleep(Duration::from_secs(590)).await;
    assert!(!rig.gone::<Job>("brief"));
    rig.clock.sleep(Duration::from_secs(20)).await;
    rig.until("its end", || rig.gone::<Job>("brief") && rig.pods_of("brief").is_empty()).await;
}

fn cron(name: &str, policy: &str, seconds: u64) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name},
        "spec": {"schedule": "* * * * *", "concurrencyPolicy": policy,
            "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1,
            "jobTemplate": {"spec": job(name, json!({}), seconds)["spec"]}},
    })
}

#[tokio::test(start_paused = true)]
async fn cron_jobs_start_jobs() {
    let rig = Rig::new(15, 2).await;
    rig.informers.of::<Job>().synced().await;
    let crons = rig.informers.of::<CronJob>();
    crons.synced().await;
    for (name, policy, seconds) in
        [("quick", "Allow", 5), ("many", "Allow", 0), ("one", "Forbid", 0), ("last", "Replace", 0)]
    {
        rig.client.create::<CronJob>("default", &cron(name, policy, seconds)).await.unwrap();
    }
    let of = |name: &str| {
        let mut jobs = rig.all::<Job>();
        jobs.retain(|job| job.metadata.name.starts_with(&format!("{name}-")));
        jobs
    };
    rig.clock.sleep(Duration::from_secs(190)).await;
    let active = |name: &str| crons.get("default", name).unwrap().status.active.len();
    assert_eq!((of("many").len(), active("many")), (3, 3));
    assert_eq!((of("one").len(), active("one")), (1, 1));
    assert_eq!((of("last").len(), active("last")), (1, 1));
    assert_eq!((of("quick").len(), active("quick")), (1, 0), "the history is limited");
    let quick = crons.get("default", "quick").unwrap();
    let last = quick.status.last_schedule_time.unwrap();
    let expected = format!("quick-{}", last.0.as_second() / 60);
    assert_eq!(of("quick")[0].metadata.name, expected);
    assert_eq!(quick.status.last_successful_time, of("quick")[0].status.completion_time);
    let replaced = crons.get("default", "last").unwrap().status.last_schedule_time;
    assert_eq!(replaced, Some(last), "the newest runs");

    let suspended = Patch::Merge(json!({"spec": {"suspend": true}}));
    for name in ["quick", "many", "one", "last"] {
        rig.client.patch::<CronJob>("default", name, "", &suspended).await.unwrap();
    }
    let before = rig.all::<Job>().len();
    rig.clock.sleep(Duration::from_secs(300)).await;
    assert_eq!(rig.all::<Job>().len(), before, "suspended");
    let events = rig.events().await;
    let told = |text: &str| events.iter().any(|event| event.starts_with(text));
    assert!(told("SuccessfulCreate Created job quick-"), "{events:?}");
    assert!(told("SawCompletedJob Saw completed job: quick-"), "{events:?}");
    assert!(told("JobAlreadyActive Not starting job because prior execution is running"));
    assert!(told("SuccessfulDelete Deleted job last-"), "{events:?}");
    assert!(!told("MissingJob") && !told("UnexpectedJob"), "{events:?}");
}

/// The uids of the pods of a Job that ever bore the finalizer and had succeeded, or had otherwise
/// ended or were being deleted.
fn ended(changes: &mut Changes<Pod>, name: &str, seen: &mut (HashSet<String>, HashSet<String>)) {
    while let Some(change) = changes.try_next() {
        for pod in change.old.iter().chain(&change.new) {
            let tracked = pod.metadata.finalizers.iter().any(|finalizer| finalizer == TRACKING);
            let ours = pod.metadata.labels.get("of").is_some_and(|of| of == name);
            if tracked && ours && pod.status.phase == "Succeeded" {
                seen.0.insert(pod.metadata.uid.clone());
            } else if tracked && ours && (pod.is_terminal() || pod.is_terminating()) {
                seen.1.insert(pod.metadata.uid.clone());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pods_of_jobs_count_once_whatever_goes_wrong() {
    let seed = match std::env::var("SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => Rng::from_os().below(1_000_000),
    };
    eprintln!("SEED={seed}");
    let mut rig = Rig::new(seed, 3).await;
    rig.informers.of::<Job>().synced().await;
    let mut changes = rig.informers.of::<Pod>().changes();
    let mut seen = (HashSet::new(), HashSet::new());
    let alone = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "lone", "labels": {"of": "nobody"}},
        "spec": {"containers": [{"name": "c", "image": "own:1"}]}});
    rig.client.create::<Pod>("default", &alone).await.unwrap();
    rig.bad.store(true, Ordering::Relaxed);
    let spec = json!({"completions": 40, "parallelism": 6, "backoffLimit": 1000});
    rig.client.create::<Job>("default", &job("plain", spec, 15)).await.unwrap();
    let spec = json!({"completions": 12, "parallelism": 4, "completionMode": "Indexed",
        "backoffLimitPerIndex": 1000});
    rig.client.create::<Job>("default", &job("indexed", spec, 15)).await.unwrap();
    for round in 1..10u64 {
        rig.clock.sleep(Duration::from_millis(rig.rng.below(20_000))).await;
        let (parallelism, suspend) = (rig.rng.below(9), rig.rng.below(4) == 0);
        rig.change("plain", json!({"parallelism": parallelism, "suspend": suspend})).await;
        if round % 2 == 0 {
            rig.start_controllers();
        }
        let mut pods = rig.pods_of("plain");
        pods.extend(rig.pods_of("indexed"));
        pods.retain(|pod| pod.is_active());
        for _ in 0..2 {
            if pods.is_empty() {
                break;
            }
            let victim = pods.swap_remove(rig.rng.below(pods.len() as u64) as usize);
            rig.crash(&victim);
            if !pods.is_empty() && rig.rng.below(2) == 0 {
                let name = &pods[rig.rng.below(pods.len() as u64) as usize].metadata.name;
                let any = DeleteOptions::default();
                let _ = rig.client.delete::<Pod>("default", name, &any).await;
            }
        }
        ended(&mut changes, "plain", &mut seen);
    }
    rig.bad.store(false, Ordering::Relaxed);
    rig.change("plain", json!({"parallelism": 8, "suspend": false})).await;
    let done = |name: &str| rig.said(name, "Complete").is_some();
    // Back-offs of pods that failed may take ten minutes each.
    for _ in 0..20 {
        if done("plain") && done("indexed") {
            break;
        }
        rig.clock.sleep(Duration::from_secs(600)).await;
    }
    rig.until(&format!("completion (SEED={seed})"), || done("plain") && done("indexed")).await;
    rig.clock.sleep(Duration::from_secs(120)).await;
    ended(&mut changes, "plain", &mut seen);
    let status = rig.job("plain").unwrap().status.clone();
    let (succeeded, failed) = (status.succeeded as usize, status.failed as usize);
    let (good, bad) = seen;
    assert!(succeeded >= 40 && succeeded <= good.len(), "{succeeded} (SEED={seed})");
    assert_eq!(succeeded + failed, good.union(&bad).count(), "each once (SEED={seed})");
    let indexed = rig.job("indexed").unwrap().status.clone();
    assert_eq!((indexed.succeeded, &*indexed.completed_indexes), (12, "0-11"), "SEED={seed}");
    let mut pods = rig.pods_of("plain");
    pods.extend(rig.pods_of("indexed"));
    assert!(pods.iter().all(|pod| pod.metadata.finalizers.is_empty()), "SEED={seed}");
    let lone = rig.informers.of::<Pod>().get("default", "lone").unwrap();
    assert!(lone.is_active() && lone.metadata.owner_references.is_empty(), "SEED={seed}");

    let mut rest = rig.state();
    let note = |rest: &mut BTreeMap<String, String>| {
        for job in rig.all::<Job>() {
            rest.insert(job.metadata.name.clone(), job.metadata.resource_version.clone());
        }
    };
    note(&mut rest);
    rig.clock.sleep(Duration::from_secs(600)).await;
    let mut later = rig.state();
    note(&mut later);
    assert_eq!(later, rest, "at rest nothing is written (SEED={seed})");
}
