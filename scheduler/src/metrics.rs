//! What the scheduler counts, under kube-scheduler's names. Decisions are counted by the loop in a
//! histogram of its own, and what the queue knows in the queue; both are brought here once a turn.
//! What ends in a write is counted where it is written: beside that, a lock is nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use proto::exposition::{Histogram, Kind, Text};
use proto::quantity::Quantity;
use proto::quota::pod_total;
use proto::view::pod::Pod;

use crate::queue::{Counts, Figures};

/// How an attempt to schedule a pod ends.
pub const SCHEDULED: &str = "scheduled";
pub const UNSCHEDULABLE: &str = "unschedulable";
pub const ERROR: &str = "error";

/// Seconds of an attempt: from 1 ms, doubling.
const ATTEMPT: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096,
    8.192, 16.384,
];
/// Seconds from a pod's coming to its binding: from 10 ms, doubling.
const POD: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84,
    327.68, 655.36, 1310.72, 2621.44, 5242.88,
];
const TRIES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0];
const VICTIMS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
/// Pods that were tried so often or more are counted together.
const MANY: u32 = 15;

/// What has been counted, and what was last told of how things are.
#[derive(Default)]
pub struct Metrics(Mutex<Counted>);

struct Counted {
    /// By profile and result; seconds from the beginning of the attempt to its end.
    attempts: BTreeMap<String, BTreeMap<&'static str, Histogram>>,
    algorithm: Histogram,
    /// By the number of attempts.
    pods: BTreeMap<u32, Histogram>,
    tries: Histogram,
    preemptions: u64,
    victims: Histogram,
    standing: State,
}

/// How things are.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub pending: Counts,
    pub queue: Figures,
    pub nodes: usize,
    /// Placed ones, those too whose binding the API server has not told of yet.
    pub pods: usize,
    pub assumed: usize,
}

impl Default for Counted {
    fn default() -> Counted {
        Counted {
            attempts: BTreeMap::new(),
            algorithm: algorithm(),
            pods: BTreeMap::new(),
            tries: Histogram::new(TRIES),
            preemptions: 0,
            victims: Histogram::new(VICTIMS),
            standing: State::default(),
        }
    }
}

/// Seconds of decisions, to be counted by who makes them.
pub fn algorithm() -> Histogram {
    Histogram::new(ATTEMPT)
}

impl Metrics {
    /// An attempt has ended so.
    pub fn attempt(&self, profile: &str, result: &'static str, took: Duration) {
        self.0.lock().attempt(profile, result, took);
    }

    /// A pod is bound, after so many attempts and so long after it came.
    pub fn scheduled(&self, profile: &str, took: Duration, attempts: u32, waited: Duration) {
        let mut counted = self.0.lock();
        counted.attempt(profile, SCHEDULED, took);
        counted.tries.observe(attempts.into());
        let pods = counted.pods.entry(attempts.min(MANY)).or_insert_with(|| Histogram::new(POD));
        pods.observe(waited.as_secs_f64());
    }

    /// Others were asked to make room: so many, where that helps.
    pub fn preemption(&self, victims: Option<usize>) {
        let mut counted = self.0.lock();
        counted.preemptions += 1;
        if let Some(victims) = victims {
            counted.victims.observe(victims as f64);
        }
    }

    /// What a turn of the loop has come to. Takes the decisions over.
    pub fn turn(&self, decisions: &mut Histogram, look: impl FnOnce(&mut State)) {
        let mut counted = self.0.lock();
        counted.algorithm.absorb(decisions);
        look(&mut counted.standing);
    }

    pub fn write(&self, text: &mut Text) {
        let counted = self.0.lock();
        counted.write_attempts(text);
        counted.write_preemptions(text);
        counted.standing.write(text);
    }
}

impl Counted {
    fn attempt(&mut self, profile: &str, result: &'static str, took: Duration) {
        if !self.attempts.contains_key(profile) {
            self.attempts.insert(profile.to_string(), BTreeMap::new());
        }
        let Some(results) = self.attempts.get_mut(profile) else { return };
        results.entry(result).or_insert_with(algorithm).observe(took.as_secs_f64());
    }

    fn write_attempts(&self, text: &mut Text) {
        let all = || {
            self.attempts.iter().flat_map(|(profile, results)| {
                let labels = |result| [("profile", profile.as_str()), ("result", result)];
                results.iter().map(move |(result, spread)| (labels(*result), spread))
            })
        };
        let help = "[STABLE] Attempts to find a node for a pod, by what they came to";
        let mut family = text.counter("scheduler_schedule_attempts_total", help);
        all().for_each(|(labels, spread)| family.sample(&labels, spread.count() as f64));
        let help = "[STABLE] Seconds of one attempt, with the binding where there was one";
        let name = "scheduler_scheduling_attempt_duration_seconds";
        let mut family = text.family(name, Kind::Histogram, help);
        all().for_each(|(labels, spread)| family.histogram(&labels, spread));
        let help = "[ALPHA] Seconds of one decision";
        let name = "scheduler_scheduling_algorithm_duration_seconds";
        text.family(name, Kind::Histogram, help).histogram(&[], &self.algorithm);
        let help = "[STABLE] Attempts that a pod took until it was bound";
        let name = "scheduler_pod_scheduling_attempts";
        text.family(name, Kind::Histogram, help).histogram(&[], &self.tries);
        let help =
            "[BETA] Seconds from a pod's first queueing until it was bound, over all its attempts";
        let name = "scheduler_pod_scheduling_sli_duration_seconds";
        let mut family = text.family(name, Kind::Histogram, help);
        for (attempts, spread) in &self.pods {
            let many = if *attempts == MANY { "+" } else { "" };
            family.histogram(&[("attempts", &format!("{attempts}{many}"))], spread);
        }
    }

    fn write_preemptions(&self, text: &mut Text) {
        let help = "[STABLE] Attempts to make room for a pod by ending others";
        text.counter("scheduler_preemption_attempts_total", help)
            .sample(&[], self.preemptions as f64);
        let help = "[STABLE] Pods chosen to end in one such attempt";
        text.family("scheduler_preemption_victims", Kind::Histogram, help)
            .histogram(&[], &self.victims);
    }
}

impl State {
    fn write(&self, text: &mut Text) {
        let help = "[STABLE] Pods that wait for a node, by what they wait for";
        let mut family = text.gauge("scheduler_pending_pods", help);
        let Counts { active, backoff, unschedulable, gated } = self.pending;
        for (queue, count) in [
            ("active", active),
            ("backoff", backoff),
            ("gated", gated),
            ("unschedulable", unschedulable),
        ] {
            family.sample(&[("queue", queue)], count as f64);
        }
        let help =
            "[STABLE] Pods that came into a queue, by the queue and by what brought them there";
        let mut family = text.counter("scheduler_queue_incoming_pods_total", help);
        for ((queue, event), count) in &self.queue.incoming {
            family.sample(&[("event", event), ("queue", queue)], *count as f64);
        }
        let help = "[ALPHA] Pods that no node suits, once for each plugin that refused them";
        let mut family = text.gauge("scheduler_unschedulable_pods", help);
        for (profile, plugins) in &self.queue.unschedulable {
            for (plugin, count) in plugins {
                family.sample(&[("plugin", plugin), ("profile", profile)], *count as f64);
            }
        }
        let help = "[ALPHA] What the scheduler holds in memory, by its kind";
        let mut family = text.gauge("scheduler_cache_size", help);
        for (kind, count) in
            [("assumed_pods", self.assumed), ("nodes", self.nodes), ("pods", self.pods)]
        {
            family.sample(&[("type", kind)], count as f64);
        }
    }
}

/// `/metrics/resources`: what pods ask for and may use at most, as the scheduler reckons. Pods that
/// have ended take nothing.
pub fn write_resources<'a>(text: &mut Text, pods: impl Iterator<Item = &'a Pod>) {
    let pods = pods.filter(|pod| pod.spec.node_name.is_empty() || !pod.is_terminal());
    let pods: Vec<&Pod> = pods.collect();
    let mut write = |name, help, is_request| {
        let mut family = text.gauge(name, help);
        for pod in &pods {
            let spec = &pod.spec;
            let total = pod_total(
                spec,
                |asked| if is_request { &asked.requests } else { &asked.limits },
                is_request,
            );
            let priority = spec.priority.map(|priority| priority.to_string()).unwrap_or_default();
            for (resource, amount) in total.iter().filter(|(_, amount)| !amount.is_zero()) {
                let labels = [
                    ("namespace", pod.metadata.namespace.as_str()),
                    ("node", &spec.node_name),
                    ("pod", &pod.metadata.name),
                    ("priority", &priority),
                    ("resource", resource),
                    ("scheduler", &spec.scheduler_name),
                    ("unit", unit(resource)),
                ];
                family.sample(&labels, value(resource, *amount));
            }
        }
    };
    write("kube_pod_resource_limit", "[STABLE] What a pod may use of a resource at most", false);
    write("kube_pod_resource_request", "[STABLE] What a pod asks for of a resource", true);
}

fn unit(resource: &str) -> &'static str {
    match resource {
        "cpu" => "cores",
        "memory" | "storage" | "ephemeral-storage" => "bytes",
        huge if huge.starts_with("hugepages-") => "bytes",
        attached if attached.starts_with("attachable-volumes-") => "integer",
        _ => "",
    }
}

fn value(resource: &str, amount: Quantity) -> f64 {
    if resource == "cpu" { amount.milli() as f64 / 1000.0 } else { amount.value() as f64 }
}

#[cfg(test)]
mod tests {
    use proto::exposition::parse;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_pods_ask_for() {
        let containers = json!([{"resources": {"requests": {"cpu": "1500m", "memory": "1Ki"},
            "limits": {"example.com/gpu": "2"}}}]);
        let pod = |name: &str, node: &str, phase: &str| -> Pod {
            let pod = json!({"metadata": {"name": name, "namespace": "n"},
                "spec": {"nodeName": node, "priority": 7, "schedulerName": "s",
                    "containers": containers},
                "status": {"phase": phase}});
            serde_json::from_value(pod).unwrap()
        };
        let pods = [pod("a", "x", "Running"), pod("b", "", "Pending"), pod("c", "x", "Succeeded")];
        let mut text = Text::default();
        write_resources(&mut text, pods.iter());
        let parsed = parse(&text.finish()).unwrap();
        let told: Vec<_> = parsed
            .samples
            .iter()
            .map(|sample| {
                let of = |name| sample.label(name).to_string();
                (of("pod"), of("node"), of("resource"), of("unit"), sample.value)
            })
            .collect();
        let expected = [
            ("a", "x", "example.com/gpu", "", 2.0),
            ("b", "", "example.com/gpu", "", 2.0),
            ("a", "x", "cpu", "cores", 1.5),
            ("a", "x", "memory", "bytes", 1024.0),
            ("b", "", "cpu", "cores", 1.5),
            ("b", "", "memory", "bytes", 1024.0),
        ];
        assert_eq!(
            told,
            expected.map(|(a, b, c, d, value)| {
                (a.to_string(), b.to_string(), c.to_string(), d.to_string(), value)
            })
        );
        let first = &parsed.samples[0];
        assert_eq!((first.label("priority"), first.label("scheduler")), ("7", "s"));
    }
}
