//! What `/metrics` shows, in Prometheus' text format and under upstream's names where the same
//! thing exists. Counting costs a hash of the labels; what can be read off when it is asked for
//! (objects per kind, seats, the process) is not counted before.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use client::Clock;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use proto::time::Time;

use crate::flow::Load;

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What tells requests apart. As upstream's labels of the same names.
#[derive(Clone, Debug, Default, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Request {
    pub component: &'static str,
    pub dry_run: &'static str,
    pub group: String,
    pub resource: String,
    /// `cluster`, `namespace`, `resource`; empty for other paths.
    pub scope: &'static str,
    pub subresource: String,
    pub verb: &'static str,
    pub version: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    code: u16,
    #[prometheus(flatten)]
    request: Request,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    request_kind: RequestKind,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the values of the label, as upstream's")]
enum RequestKind {
    mutating,
    readOnly,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Refused {
    flow_schema: String,
    priority_level: String,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfLevel {
    priority_level: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfResource {
    resource: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Build {
    git_version: &'static str,
    major: &'static str,
    minor: &'static str,
    platform: String,
}

/// Upstream's buckets, in seconds.
const BUCKETS: [f64; 26] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0,
];

type Seconds = Gauge<f64, AtomicU64>;

/// The counters of one API server.
pub struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    durations: Family<Request, Histogram, fn() -> Histogram>,
    inflight: Family<Kind, Gauge>,
    long_running: Family<Request, Gauge>,
    refused: Family<Refused, Counter>,
    executing: Family<OfLevel, Gauge>,
    waiting: Family<OfLevel, Gauge>,
    seats: Family<OfLevel, Gauge>,
    objects: Family<OfResource, Gauge>,
    process: Process,
}

#[derive(Default)]
struct Process {
    cpu: Counter<f64, AtomicU64>,
    resident: Gauge,
    virtual_: Gauge,
    files: Gauge,
    started: Seconds,
}

/// Counts a request as in flight until it is dropped.
pub struct Running(Gauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub fn new(clock: &Clock, version: &'static str, platform: String) -> Arc<Metrics> {
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        let mut metrics = Metrics {
            registry: Registry::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram),
            inflight: Family::default(),
            long_running: Family::default(),
            refused: Family::default(),
            executing: Family::default(),
            waiting: Family::default(),
            seats: Family::default(),
            objects: Family::default(),
            process: Process::default(),
        };
        metrics.register();
        let build = Family::<Build, Gauge>::default();
        let labels = Build { git_version: version, major: "1", minor: "36", platform };
        build.get_or_create(&labels).set(1);
        metrics.registry.register("kubernetes_build_info", "What was built", build);
        metrics.process.started.set(started(clock.now()));
        Arc::new(metrics)
    }

    fn register(&mut self) {
        let Metrics { registry, process, .. } = self;
        registry.register(
            "apiserver_request",
            "Requests that were answered",
            self.requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Time from a request's arrival to the end of its answer",
            self.durations.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests that are being handled, long-running ones aside",
            self.inflight.clone(),
        );
        registry.register(
            "apiserver_longrunning_requests",
            "Watches, log streams and connections to pods",
            self.long_running.clone(),
        );
        registry.register(
            "apiserver_flowcontrol_rejected_requests",
            "Requests that got no seat",
            self.refused.clone(),
        );
        registry.register(
            "apiserver_flowcontrol_current_executing_requests",
            "Requests that have a seat",
            self.executing.clone(),
        );
        registry.register(
            "apiserver_flowcontrol_current_inqueue_requests",
            "Requests that wait for a seat",
            self.waiting.clone(),
        );
        registry.register(
            "apiserver_flowcontrol_nominal_limit_seats",
            "Seats of a priority level",
            self.seats.clone(),
        );
        registry.register(
            "apiserver_storage_objects",
            "Objects in the store",
            self.objects.clone(),
        );
        registry.register("process_cpu_seconds", "Processor time used", process.cpu.clone());
        registry.register(
            "process_resident_memory_bytes",
            "Memory that is resident",
            process.resident.clone(),
        );
        registry.register(
            "process_virtual_memory_bytes",
            "Memory that is mapped",
            process.virtual_.clone(),
        );
        registry.register("process_open_fds", "Open file descriptors", process.files.clone());
        registry.register(
            "process_start_time_seconds",
            "When the process started, in seconds since 1970",
            process.started.clone(),
        );
    }

    /// A request begins that will end soon.
    pub fn running(&self, mutating: bool) -> Running {
        let request_kind = if mutating { RequestKind::mutating } else { RequestKind::readOnly };
        let gauge = self.inflight.get_or_create(&Kind { request_kind }).clone();
        gauge.inc();
        Running(gauge)
    }

    /// A request begins that may go on for as long as it likes.
    pub fn long_running(&self, request: &Request) -> Running {
        let gauge = self.long_running.get_or_create(request).clone();
        gauge.inc();
        Running(gauge)
    }

    pub fn answered(&self, request: Request, code: u16, took: Duration) {
        self.durations.get_or_create(&request).observe(took.as_secs_f64());
        self.requests.get_or_create(&Answered { code, request }).inc();
    }

    pub fn refused(&self, flow_schema: &str, priority_level: &str, reason: &'static str) {
        let (flow_schema, priority_level) = (flow_schema.into(), priority_level.into());
        self.refused.get_or_create(&Refused { flow_schema, priority_level, reason }).inc();
    }

    /// Everything, as of now.
    pub fn text(
        &self,
        loads: &[Load],
        objects: impl IntoIterator<Item = (String, usize)>,
    ) -> String {
        for load in loads {
            let level = OfLevel { priority_level: load.level.to_string() };
            self.executing.get_or_create(&level).set(load.executing.into());
            self.waiting.get_or_create(&level).set(load.waiting as i64);
            self.seats.get_or_create(&level).set(load.seats.into());
        }
        for (resource, count) in objects {
            self.objects.get_or_create(&OfResource { resource }).set(count as i64);
        }
        self.process.read();
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("a String takes everything");
        text
    }
}

impl Process {
    /// From /proc; where that is not there the numbers stay as they are.
    fn read(&self) {
        if let Some([used, ..]) = stat() {
            let seconds = used / TICKS - self.cpu.get();
            self.cpu.inc_by(seconds.max(0.0));
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (name, gauge) in [("VmRSS:", &self.resident), ("VmSize:", &self.virtual_)] {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            if let Some(kilobytes) = kilobytes {
                let kilobytes: i64 = kilobytes;
                gauge.set(kilobytes * 1024);
            }
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            self.files.set(files.count() as i64);
        }
    }
}

/// Linux counts processor time for programs in hundredths of a second.
const TICKS: f64 = 100.0;

/// Processor time and start of this process, in ticks (proc(5): utime + stime, starttime).
fn stat() -> Option<[f64; 2]> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<f64> = stat
        .rsplit(") ")
        .next()?
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    Some([fields.get(10)? + fields.get(11)?, *fields.get(18)?])
}

/// When this process started, in seconds since 1970.
fn started(now: Time) -> f64 {
    let now = now.0.as_millisecond() as f64 / 1000.0;
    let up = std::fs::read_to_string("/proc/uptime").ok();
    let up: Option<f64> = up.and_then(|text| text.split_whitespace().next()?.parse().ok());
    match (up, stat()) {
        (Some(up), Some([_, start])) => now - up + start / TICKS,
        _ => now,
    }
}
