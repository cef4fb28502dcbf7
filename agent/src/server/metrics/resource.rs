//! `/metrics/resource`: CPU and memory of the node, its pods and containers (Kubernetes: Resource
//! metrics pipeline). Pure.

use proto::exposition::Text;
use proto::time::Time;

use crate::stats::summary::{ContainerStats, PodStats, Summary};

type Labels<'a> = Vec<(&'static str, &'a str)>;
/// A value, of which moment.
type Value = Option<(f64, Time)>;

/// Without a summary nothing but the error is told.
pub fn write(text: &mut Text, summary: Option<&Summary>) {
    if let Some(summary) = summary {
        containers(text, summary);
        node(text, summary);
        pods(text, summary);
    }
    let error = if summary.is_some() { 0.0 } else { 1.0 };
    text.gauge(
        "resource_scrape_error",
        "[STABLE] Whether the figures of containers could not be had: 1 where it is so",
    )
    .sample(&[], error);
}

fn containers(text: &mut Text, summary: &Summary) {
    let all =
        || summary.pods.iter().flat_map(|pod| pod.containers.iter().map(move |one| (pod, one)));
    let mut each = |name, help, counter: bool, value: fn(&ContainerStats) -> Value| {
        let mut family = if counter { text.counter(name, help) } else { text.gauge(name, help) };
        for (pod, container) in all() {
            if let Some((value, at)) = value(container) {
                family.sample_at(&of_container(pod, container), value, milliseconds(at));
            }
        }
    };
    each(
        "container_cpu_usage_seconds_total",
        "[STABLE] Processor time of the container since it started",
        true,
        |one| one.cpu.and_then(|cpu| Some((seconds(cpu.usage_core_nano_seconds?), cpu.time))),
    );
    each(
        "container_memory_working_set_bytes",
        "[STABLE] Memory of the container that cannot be taken from it at once",
        false,
        |one| one.memory.and_then(|memory| Some((memory.working_set_bytes? as f64, memory.time))),
    );
    each("container_swap_limit_bytes", "[ALPHA] Swap that the container may use", false, |one| {
        let swap = one.swap?;
        let limit = swap.swap_available_bytes? + swap.swap_usage_bytes.unwrap_or(0);
        Some((limit as f64, swap.time))
    });
    each("container_swap_usage_bytes", "[ALPHA] Swap that the container uses", false, |one| {
        one.swap.and_then(|swap| Some((swap.swap_usage_bytes? as f64, swap.time)))
    });
    let mut family = text.gauge(
        "container_start_time_seconds",
        "[STABLE] When the container started, in seconds of Unix time",
    );
    for (pod, container) in all() {
        if let Some(started) = container.start_time {
            let seconds = started.0.as_nanosecond() as f64 / 1e9;
            family.sample(&of_container(pod, container), seconds);
        }
    }
}

fn node(text: &mut Text, summary: &Summary) {
    let node = &summary.node;
    if let Some(total) = node.cpu.usage_core_nano_seconds {
        let help = "[STABLE] Processor time of the whole node since it started";
        let mut family = text.counter("node_cpu_usage_seconds_total", help);
        family.sample_at(&[], seconds(total), milliseconds(node.cpu.time));
    }
    if let Some(bytes) = node.memory.working_set_bytes {
        let help = "[STABLE] Memory of the node that cannot be taken back at once";
        let mut family = text.gauge("node_memory_working_set_bytes", help);
        family.sample_at(&[], bytes as f64, milliseconds(node.memory.time));
    }
    if let Some(bytes) = node.swap.swap_usage_bytes {
        let help = "[ALPHA] Swap that is in use on the node";
        let mut family = text.gauge("node_swap_usage_bytes", help);
        family.sample_at(&[], bytes as f64, milliseconds(node.swap.time));
    }
}

fn pods(text: &mut Text, summary: &Summary) {
    let mut each = |name, help, counter: bool, value: fn(&PodStats) -> Value| {
        let mut family = if counter { text.counter(name, help) } else { text.gauge(name, help) };
        for pod in &summary.pods {
            if let Some((value, at)) = value(pod) {
                family.sample_at(&of_pod(pod), value, milliseconds(at));
            }
        }
    };
    each(
        "pod_cpu_usage_seconds_total",
        "[STABLE] Processor time of the pod's containers since they started",
        true,
        |pod| pod.cpu.and_then(|cpu| Some((seconds(cpu.usage_core_nano_seconds?), cpu.time))),
    );
    each(
        "pod_memory_working_set_bytes",
        "[STABLE] Memory of the pod that cannot be taken from it at once",
        false,
        |pod| pod.memory.and_then(|memory| Some((memory.working_set_bytes? as f64, memory.time))),
    );
    each("pod_swap_usage_bytes", "[ALPHA] Swap that the pod uses", false, |pod| {
        pod.swap.and_then(|swap| Some((swap.swap_usage_bytes? as f64, swap.time)))
    });
}

fn of_pod(pod: &PodStats) -> Labels<'_> {
    vec![("namespace", &pod.pod_ref.namespace), ("pod", &pod.pod_ref.name)]
}

fn of_container<'a>(pod: &'a PodStats, container: &'a ContainerStats) -> Labels<'a> {
    let mut labels = vec![("container", container.name.as_str())];
    labels.extend(of_pod(pod));
    labels
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn milliseconds(time: Time) -> i64 {
    time.0.as_millisecond()
}

#[cfg(test)]
mod tests {
    use proto::exposition::parse;

    use super::*;
    use crate::stats::Scope;
    use crate::stats::summary::{build, tests::figures};

    #[test]
    fn names_types_and_values() {
        let summary = build(&figures(), Scope::Compute);
        let mut text = Text::default();
        write(&mut text, Some(&summary));
        let parsed = parse(&text.finish()).unwrap();
        let kinds: Vec<(&str, &str)> =
            parsed.kinds.iter().map(|(name, kind)| (name.as_str(), kind.as_str())).collect();
        let expected = [
            ("container_cpu_usage_seconds_total", "counter"),
            ("container_memory_working_set_bytes", "gauge"),
            ("container_start_time_seconds", "gauge"),
            ("container_swap_usage_bytes", "gauge"),
            ("node_cpu_usage_seconds_total", "counter"),
            ("node_memory_working_set_bytes", "gauge"),
            ("node_swap_usage_bytes", "gauge"),
            ("pod_cpu_usage_seconds_total", "counter"),
            ("pod_memory_working_set_bytes", "gauge"),
            ("pod_swap_usage_bytes", "gauge"),
            ("resource_scrape_error", "gauge"),
        ];
        assert_eq!(kinds, expected);
        let found = |name: &str| parsed.samples.iter().find(|one| one.name == name).unwrap();
        let cpu = found("container_cpu_usage_seconds_total");
        assert_eq!((cpu.value, cpu.at), (1.5, Some(1_700_000_000_500)));
        let labels = [("container", "main"), ("namespace", "a"), ("pod", "p")];
        for (name, value) in labels {
            assert_eq!(cpu.label(name), value);
        }
        assert_eq!(found("container_start_time_seconds").value, 1_700_000_000.5);
        assert_eq!(found("node_swap_usage_bytes").value, 30.0);
        assert_eq!(found("resource_scrape_error").value, 0.0);
        let mut text = Text::default();
        write(&mut text, None);
        let parsed = parse(&text.finish()).unwrap();
        assert_eq!((parsed.samples.len(), parsed.samples[0].value), (1, 1.0));
    }
}
