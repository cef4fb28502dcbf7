//! What the agent counts of its own work, for `/metrics` and `/metrics/probes`. Whoever does the work
//! counts it; the endpoint tells it. Names, types and labels are the kubelet's.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use proto::exposition::{Family, Histogram, Kind, Text};

/// All counters of one agent.
#[derive(Debug)]
pub struct Metrics {
    /// By operation.
    runtime_operations: Spread<1>,
    runtime_errors: Count<1>,
    /// By method, path, server and whether it is long.
    requests: Count<4>,
    request_durations: Spread<4>,
    inflight: Count<4>,
    /// By kind, result, container, pod, namespace and uid.
    probes: Count<6>,
    /// By kind, container, pod and namespace.
    probe_durations: Spread<4>,
}

/// Seconds, as upstream's of runtime operations: from 5 ms in steps of 2.5.
const OPERATION: &[f64] = &[
    0.005,
    0.0125,
    0.03125,
    0.078125,
    0.1953125,
    0.48828125,
    1.220703125,
    3.0517578125,
    7.62939453125,
    19.073486328125,
    47.6837158203125,
    119.20928955078125,
    298.0232238769531,
    745.0580596923828,
];
/// Seconds, as Prometheus' own.
const REQUEST: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Whom a probe was of.
pub struct Probed<'a> {
    /// `Liveness`, `Readiness`, `Startup`.
    pub kind: &'a str,
    pub container: &'a str,
    pub pod: &'a str,
    pub namespace: &'a str,
    pub uid: &'a str,
}

/// A request to the endpoint while it is answered.
pub struct InFlight<'a> {
    metrics: &'a Metrics,
    labels: [String; 4],
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            runtime_operations: Spread::new(OPERATION),
            runtime_errors: Count::default(),
            requests: Count::default(),
            request_durations: Spread::new(REQUEST),
            inflight: Count::default(),
            probes: Count::default(),
            probe_durations: Spread::new(REQUEST),
        }
    }
}

impl Metrics {
    /// A call to the runtime is over.
    pub fn operation(&self, name: &str, took: Duration, failed: bool) {
        self.runtime_operations.observe([name], took);
        if failed {
            self.runtime_errors.add([name], 1.0);
        }
    }

    /// A request has come. `path` is the first part of its path.
    pub fn request(&self, method: &str, path: &str, long: bool) -> InFlight<'_> {
        let long = if long { "true" } else { "false" };
        let labels = [long, method, path, "readwrite"].map(str::to_string);
        self.requests.add(labels.each_ref().map(String::as_str), 1.0);
        self.inflight.add(labels.each_ref().map(String::as_str), 1.0);
        InFlight { metrics: self, labels }
    }

    pub fn probe(&self, probed: &Probed<'_>, result: &str, took: Duration) {
        let Probed { kind, container, pod, namespace, uid } = *probed;
        self.probes.add([kind, result, container, pod, namespace, uid], 1.0);
        self.probe_durations.observe([kind, container, pod, namespace], took);
    }

    /// The pod is gone, and with it what was counted of its probes.
    pub fn forget_pod(&self, namespace: &str, pod: &str) {
        let of = |labels: &[String], at: usize| labels[at] == pod && labels[at + 1] == namespace;
        self.probes.0.lock().retain(|labels, _| !of(labels, 3));
        self.probe_durations.known.lock().retain(|labels, _| !of(labels, 2));
    }

    /// The lines of `/metrics` that are counted here.
    pub fn write(&self, text: &mut Text) {
        let labels = ["long_running", "method", "path", "server_type"];
        let help = "[ALPHA] Requests that came since the start";
        self.requests.write(text.counter("kubelet_http_requests_total", help), labels);
        let help = "[ALPHA] Requests that are being answered";
        self.inflight.write(text.gauge("kubelet_http_inflight_requests", help), labels);
        let help = "[ALPHA] What answering a request took, in seconds";
        let name = "kubelet_http_requests_duration_seconds";
        self.request_durations.write(text.family(name, Kind::Histogram, help), labels);

        let labels = ["operation_type"];
        let help = "[ALPHA] Calls of the container runtime, by method";
        let family = text.counter("kubelet_runtime_operations_total", help);
        self.runtime_operations.write_counts(family, labels);
        let help = "[ALPHA] What calls of the container runtime took, in seconds, by method";
        let name = "kubelet_runtime_operations_duration_seconds";
        self.runtime_operations.write(text.family(name, Kind::Histogram, help), labels);
        let help = "[ALPHA] Calls that the container runtime refused or failed, by method";
        let family = text.counter("kubelet_runtime_operations_errors_total", help);
        self.runtime_errors.write(family, labels);
    }

    /// The lines of `/metrics/probes`.
    pub fn write_probes(&self, text: &mut Text) {
        let labels = ["probe_type", "result", "container", "pod", "namespace", "pod_uid"];
        let help = "[ALPHA] Probes of a container by what they found";
        self.probes.write(text.counter("prober_probe_total", help), labels);
        let labels = ["probe_type", "container", "pod", "namespace"];
        let help = "[ALPHA] What a probe took, in seconds";
        let family = text.family("prober_probe_duration_seconds", Kind::Histogram, help);
        self.probe_durations.write(family, labels);
    }
}

impl InFlight<'_> {
    pub fn took(&self, duration: Duration) {
        let labels = self.labels.each_ref().map(String::as_str);
        self.metrics.request_durations.observe(labels, duration);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.metrics.inflight.add(self.labels.each_ref().map(String::as_str), -1.0);
    }
}

/// Numbers by label values.
#[derive(Debug)]
struct Count<const N: usize>(Mutex<BTreeMap<[String; N], f64>>);

/// Histograms of seconds by label values.
#[derive(Debug)]
struct Spread<const N: usize> {
    bounds: &'static [f64],
    known: Mutex<BTreeMap<[String; N], (Histogram, u64)>>,
}

impl<const N: usize> Default for Count<N> {
    fn default() -> Count<N> {
        Count(Mutex::default())
    }
}

impl<const N: usize> Count<N> {
    fn add(&self, labels: [&str; N], more: f64) {
        *self.0.lock().entry(labels.map(str::to_string)).or_default() += more;
    }

    fn write(&self, mut family: Family<'_>, names: [&str; N]) {
        for (values, count) in self.0.lock().iter() {
            family.sample(&pairs(names, values), *count);
        }
    }
}

impl<const N: usize> Spread<N> {
    fn new(bounds: &'static [f64]) -> Spread<N> {
        Spread { bounds, known: Mutex::default() }
    }

    fn observe(&self, labels: [&str; N], took: Duration) {
        let mut known = self.known.lock();
        let entry = known.entry(labels.map(str::to_string));
        let (histogram, count) = entry.or_insert_with(|| (Histogram::new(self.bounds), 0));
        histogram.observe(took.as_secs_f64());
        *count += 1;
    }

    fn write(&self, mut family: Family<'_>, names: [&str; N]) {
        for (values, (histogram, _)) in self.known.lock().iter() {
            family.histogram(&pairs(names, values), histogram);
        }
    }

    /// Only how many there were.
    fn write_counts(&self, mut family: Family<'_>, names: [&str; N]) {
        for (values, (_, count)) in self.known.lock().iter() {
            family.sample(&pairs(names, values), *count as f64);
        }
    }
}

fn pairs<'a, const N: usize>(
    names: [&'a str; N],
    values: &'a [String; N],
) -> Vec<(&'a str, &'a str)> {
    names.into_iter().zip(values.iter().map(String::as_str)).collect()
}

#[cfg(test)]
mod tests {
    use proto::exposition::parse;

    use super::*;

    #[test]
    fn what_is_counted_is_told() {
        let metrics = Metrics::default();
        metrics.operation("run_podsandbox", Duration::from_millis(20), false);
        metrics.operation("run_podsandbox", Duration::from_millis(20), true);
        let request = metrics.request("GET", "pods", false);
        request.took(Duration::from_millis(1));
        let probed =
            Probed { kind: "Liveness", container: "c", pod: "p", namespace: "n", uid: "u" };
        metrics.probe(&probed, "successful", Duration::from_millis(1));
        let text = || {
            let mut text = Text::default();
            metrics.write(&mut text);
            metrics.write_probes(&mut text);
            parse(&text.finish()).unwrap()
        };
        let value = |name: &str| {
            let samples = text().samples;
            samples.iter().find(|sample| sample.name == name).map(|sample| sample.value)
        };
        assert_eq!(value("kubelet_runtime_operations_total"), Some(2.0));
        assert_eq!(value("kubelet_runtime_operations_errors_total"), Some(1.0));
        assert_eq!(value("kubelet_http_inflight_requests"), Some(1.0));
        drop(request);
        assert_eq!(value("kubelet_http_inflight_requests"), Some(0.0));
        assert_eq!(value("kubelet_http_requests_duration_seconds_count"), Some(1.0));
        assert_eq!(value("prober_probe_total"), Some(1.0));
        metrics.forget_pod("n", "p");
        assert_eq!(value("prober_probe_total"), None);
        assert_eq!(value("prober_probe_duration_seconds_count"), None);
        let kinds = text().kinds;
        assert_eq!(kinds["kubelet_runtime_operations_duration_seconds"], "histogram");
    }
}
