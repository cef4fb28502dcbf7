//! How many decisions the scheduler makes in a second of its core's time, and how that changes with
//! the size of the cluster. Nothing is written anywhere: what is measured is what `cycle` does.
//!
//! `cargo run --release -p scheduler --example bench_scheduler`

use std::sync::Arc;
use std::time::Duration;

use client::{Entry, Key, Rng};
use scheduler::cycle::Decider;
use scheduler::preemption::Preemption;
use scheduler::profile::Profile;
use scheduler::snapshot::{PodInfo, Snapshot};
use serde_json::{Value, json};

const SIZES: [usize; 4] = [100, 1000, 5000, 15_000];
const ZONES: usize = 10;
/// On every node, before the first decision.
const THERE: usize = 10;
/// Sets of equal pods that come in turn.
const SETS: usize = 10;

/// What of a pod differs from a plain one, by the name of its set.
type Workload = fn(&str) -> Value;

const WORKLOADS: &[(&str, Workload, usize)] = &[
    ("plain pods", |_| json!({}), 50_000),
    ("required node affinity", node_affinity, 10_000),
    ("topology spreading", spread, 10_000),
    ("pod anti-affinity", anti_affinity, 10_000),
];

const PREEMPTIONS: usize = 2000;

fn main() {
    println!("decisions per second, by number of nodes ({THERE} pods on each)");
    for (name, workload, wanted) in WORKLOADS {
        report(name, *wanted, |nodes| decisions(nodes, *workload));
    }
    report("preemption", PREEMPTIONS, preemptions);
}

fn report(name: &str, wanted: usize, measure: impl Fn(usize) -> f64) {
    let rates: Vec<f64> = SIZES.iter().map(|nodes| measure(*nodes)).collect();
    let columns: Vec<String> =
        SIZES.iter().zip(&rates).map(|(nodes, rate)| format!("{nodes}: {rate:>8.0}")).collect();
    let wanted = rates[2] / wanted as f64;
    let slower = rates[0] / rates[3];
    println!(
        "{name:<24} {}   at 5000 {wanted:.2} of what is wanted; at 15000 {slower:.1} times slower \
         than at 100",
        columns.join("  ")
    );
}

/// Decides and places until so many pods have a node.
fn decisions(nodes: usize, workload: Workload) -> f64 {
    let mut cluster = cluster(nodes, 0);
    let most = 20_000.min(nodes * 40);
    let pods: Vec<Arc<PodInfo>> = (0..most)
        .map(|number| {
            // A set that is kept apart is no larger than the cluster.
            let set = format!("set-{}-{}", number % SETS, number / SETS / (nodes / 2));
            pod(&format!("p{number}"), &set, 0, 10, workload(&set))
        })
        .collect();
    let mut decider = Decider::new(Arc::new(Profile::default()), Rng::seeded(1));
    let (count, before) = (pods.len(), cpu());
    for pod in pods {
        let placed = decider.schedule(&pod, &cluster).expect("there is room");
        cluster.place(pod, &placed.node);
    }
    count as f64 / (cpu() - before).as_secs_f64()
}

/// Every node is full; each pod finds victims, and when they are gone its node.
fn preemptions(nodes: usize) -> f64 {
    let mut cluster = cluster(nodes, 390);
    let most = 2000.min(nodes / 2);
    let pods: Vec<Arc<PodInfo>> = (0..most)
        .map(|number| pod(&format!("p{number}"), "important", 100, 1000, json!({})))
        .collect();
    let mut decider = Decider::new(Arc::new(Profile::default()), Rng::seeded(1));
    let (count, before) = (pods.len(), cpu());
    for pod in pods {
        let refused = decider.schedule(&pod, &cluster).expect_err("all is full");
        let Some(Preemption::Found(victims)) = refused.preemption else {
            panic!("somebody can make room: {refused:?}")
        };
        cluster.nominations.put(Arc::clone(&pod), &victims.node);
        victims.pods.iter().for_each(|victim| cluster.remove_pod(&victim.key));
        let placed = decider.schedule(&pod, &cluster).expect("there is room now");
        assert_eq!(placed.node, victims.node);
        cluster.place(pod, &placed.node);
    }
    count as f64 / (cpu() - before).as_secs_f64()
}

/// Four CPUs on each node, and pods of so many thousandths.
fn cluster(nodes: usize, milli: i64) -> Snapshot {
    let mut cluster = Snapshot::default();
    for number in 0..nodes {
        let name = format!("node-{number}");
        let disk = if number % 2 == 0 { "hdd" } else { "ssd" };
        let labels = json!({"kubernetes.io/hostname": name, "disk": disk,
            "topology.kubernetes.io/zone": format!("zone-{}", number % ZONES)});
        let node = json!({"metadata": {"name": name, "labels": labels},
            "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}}});
        cluster.put_node(entry(node));
    }
    for number in 0..nodes * THERE {
        let set = format!("there-{}", number % 50);
        let pod = pod(&format!("there-{number}"), &set, 0, milli, json!({}));
        cluster.place(pod, &format!("node-{}", number % nodes));
    }
    cluster
}

fn pod(name: &str, set: &str, priority: i32, milli: i64, more: Value) -> Arc<PodInfo> {
    let requests = json!({"cpu": format!("{milli}m"), "memory": "64Mi"});
    let mut spec = json!({"priority": priority, "containers": [
        {"name": "c", "image": "web:1", "resources": {"requests": requests}}]});
    if let (Value::Object(spec), Value::Object(more)) = (&mut spec, more) {
        spec.extend(more);
    }
    let metadata =
        json!({"name": name, "namespace": "default", "uid": name, "labels": {"app": set}});
    let status = json!({"startTime": "2026-01-01T00:00:00Z"});
    let pod = json!({"metadata": metadata, "spec": spec, "status": status});
    Arc::new(PodInfo::new(Key::new("default", name), entry(pod)))
}

fn entry<T: client::Object>(value: Value) -> Arc<Entry<T>> {
    Arc::new(Entry::decode(value.to_string().into()).expect("an object"))
}

fn node_affinity(_: &str) -> Value {
    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "disk", "operator": "In", "values": ["ssd", "nvme"]}]}]}}}})
}

fn spread(set: &str) -> Value {
    let by = |key: &str, skew: i64| {
        json!({"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": set}}})
    };
    json!({"topologySpreadConstraints":
        [by("topology.kubernetes.io/zone", 1), by("kubernetes.io/hostname", 2)]})
}

fn anti_affinity(set: &str) -> Value {
    json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": set}}}]}}})
}

/// The CPU time of this thread, by proc(5).
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says");
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("nanoseconds on the processor"))
}
