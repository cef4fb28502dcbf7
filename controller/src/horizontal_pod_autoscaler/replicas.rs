//! How many replicas a metric asks for.
//! <https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details>

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::Entry;
use proto::time::Time;
use proto::view::Condition;
use proto::view::horizontal_pod_autoscaler::AutoscalerSpec;
use proto::view::pod::{Container, Pod};

/// After its start, so long a pod's CPU says something only while it is ready.
const CPU_INITIALIZATION: Duration = Duration::from_secs(300);
/// A pod that became unready so soon after its start has never been ready.
const INITIAL_READINESS_DELAY: Duration = Duration::from_secs(30);
const TOLERANCE: f64 = 0.1;

/// What a pod uses, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    pub milli: i64,
    pub at: Time,
    pub window: Duration,
}

/// By the pod's name.
pub(super) type Samples = BTreeMap<String, Sample>;

/// Ratios between these change nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerance {
    down: f64,
    up: f64,
}

impl Tolerance {
    pub fn of(spec: &AutoscalerSpec) -> Tolerance {
        let rules = [&spec.behavior.scale_down, &spec.behavior.scale_up];
        let [down, up] = rules.map(|rules| {
            let tolerance = rules.as_ref().and_then(|rules| rules.tolerance);
            tolerance.map_or(TOLERANCE, |tolerance| tolerance.milli() as f64 / 1000.0)
        });
        Tolerance { down, up }
    }

    pub fn covers(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// What a metric comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Proposal {
    pub replicas: i32,
    /// Per pod or in all, in thousandths.
    pub usage: i64,
    /// In percent of the requests.
    pub utilization: Option<i32>,
}

/// What is wanted of each pod.
pub(super) enum Wanted<'a> {
    /// Thousandths.
    Average(i64),
    /// Percent of what the pods (or their containers of this name) request.
    Utilization { percent: i32, container: &'a str },
}

/// What is asked of the pods: for a resource its name.
pub(super) struct Question<'a> {
    pub pods: &'a [Arc<Entry<Pod>>],
    pub resource: &'a str,
    pub wanted: Wanted<'a>,
    pub current: i32,
    pub tolerance: Tolerance,
    pub now: Time,
}

/// The pods by what their samples are worth.
#[derive(Default)]
struct Groups<'a> {
    ready: usize,
    unready: Vec<&'a str>,
    missing: Vec<&'a str>,
}

impl Question<'_> {
    /// So many that each pod uses what is wanted.
    pub fn answer(&self, samples: &Samples) -> Result<Proposal, String> {
        if self.pods.is_empty() {
            return Err("no pods returned by selector while calculating replica count".into());
        }
        let (groups, mut used) = self.group(samples);
        if used.is_empty() {
            return Err("did not receive metrics for targeted pods (pods might be unready)".into());
        }
        let requests = match self.wanted {
            Wanted::Utilization { container, .. } => self.requests(container)?,
            Wanted::Average(_) => BTreeMap::new(),
        };
        let (ratio, usage, utilization) = self.ratio(&used, &requests)?;
        let proposal = |replicas: i32| Ok(Proposal { replicas, usage, utilization });
        let up_with_unready = !groups.unready.is_empty() && ratio > 1.0;
        if !up_with_unready && groups.missing.is_empty() {
            return match self.tolerance.covers(ratio) {
                true => proposal(self.current),
                false => proposal(ceil(ratio * groups.ready as f64)),
            };
        }
        // What is not known is taken for what would change least.
        for &pod in &groups.missing {
            let full = match self.wanted {
                Wanted::Average(wanted) => wanted,
                Wanted::Utilization { percent, .. } => {
                    requests.get(pod).copied().unwrap_or(0) * i64::from(percent.max(100)) / 100
                }
            };
            if ratio < 1.0 {
                used.insert(pod, full);
            } else if ratio > 1.0 {
                used.insert(pod, 0);
            }
        }
        if up_with_unready {
            used.extend(groups.unready.iter().map(|pod| (*pod, 0)));
        }
        let (corrected, ..) = self.ratio(&used, &requests)?;
        let turns = (ratio < 1.0 && corrected > 1.0) || (ratio > 1.0 && corrected < 1.0);
        if self.tolerance.covers(corrected) || turns {
            return proposal(self.current);
        }
        let replicas = ceil(corrected * used.len() as f64);
        let turns = (corrected < 1.0 && replicas > self.current)
            || (corrected > 1.0 && replicas < self.current);
        proposal(if turns { self.current } else { replicas })
    }

    /// The pods that count, and what each of those that do uses.
    fn group<'a>(&'a self, samples: &Samples) -> (Groups<'a>, BTreeMap<&'a str, i64>) {
        let (mut groups, mut used) = (Groups::default(), BTreeMap::new());
        for pod in self.pods {
            let name = pod.metadata.name.as_str();
            let sample = samples.get(name);
            match sample {
                _ if pod.is_terminating() || pod.status.phase == "Failed" => {}
                _ if pod.status.phase == "Pending" => groups.unready.push(name),
                None => groups.missing.push(name),
                Some(sample) if self.resource == "cpu" && is_unready(pod, sample, self.now) => {
                    groups.unready.push(name);
                }
                Some(sample) => {
                    groups.ready += 1;
                    used.insert(name, sample.milli);
                }
            }
        }
        (groups, used)
    }

    /// Used to wanted; what is used on average, and in percent of the requests.
    fn ratio(
        &self,
        used: &BTreeMap<&str, i64>,
        requests: &BTreeMap<&str, i64>,
    ) -> Result<(f64, i64, Option<i32>), String> {
        match self.wanted {
            Wanted::Average(wanted) => {
                let average = used.values().sum::<i64>() / used.len() as i64;
                Ok((average as f64 / wanted as f64, average, None))
            }
            Wanted::Utilization { percent, .. } => {
                let both = used.iter().filter_map(|(pod, used)| Some((used, requests.get(pod)?)));
                let (mut total, mut requested, mut count) = (0, 0, 0);
                for (used, request) in both {
                    (total, requested, count) = (total + used, requested + request, count + 1);
                }
                if requested == 0 {
                    return Err("no metrics returned matched known pods".into());
                }
                let utilization = (total * 100 / requested) as i32;
                let ratio = f64::from(utilization) / f64::from(percent);
                Ok((ratio, total / count, Some(utilization)))
            }
        }
    }

    fn requests(&self, container: &str) -> Result<BTreeMap<&str, i64>, String> {
        let request = |pod: &'_ Entry<Pod>| -> Result<i64, String> {
            let whole = pod.spec.resources.requests.get(self.resource);
            if let Some(whole) = whole.filter(|_| container.is_empty()) {
                return Ok(whole.milli());
            }
            let sidecars =
                pod.spec.init_containers.iter().filter(|one| one.restart_policy == "Always");
            let all = pod.spec.containers.iter().chain(sidecars);
            let named = |one: &&Container| container.is_empty() || one.name == container;
            let of = |one: &Container| match one.resources.requests.get(self.resource) {
                Some(request) => Ok(request.milli()),
                None => Err(format!(
                    "missing request for {} in container {} of Pod {}",
                    self.resource, one.name, pod.metadata.name
                )),
            };
            all.filter(named).map(of).sum()
        };
        self.pods.iter().map(|pod| Ok((&*pod.metadata.name, request(pod)?))).collect()
    }
}

/// Whether what the pod uses is that of its start.
fn is_unready(pod: &Pod, sample: &Sample, now: Time) -> bool {
    let (Some(ready), Some(start)) =
        (Condition::find(&pod.status.conditions, "Ready"), pod.status.start_time)
    else {
        return true;
    };
    let since = ready.last_transition_time.unwrap_or(start);
    if start.plus(CPU_INITIALIZATION) > now {
        ready.status == "False" || sample.at < since.plus(sample.window)
    } else {
        ready.status == "False" && start.plus(INITIAL_READINESS_DELAY) > since
    }
}

fn ceil(replicas: f64) -> i32 {
    replicas.ceil() as i32
}

/// For one value that all pods share; `ready` of them are.
pub(super) fn by_value(
    usage: i64,
    wanted: i64,
    current: i32,
    ready: usize,
    tolerance: Tolerance,
) -> Proposal {
    let ratio = usage as f64 / wanted as f64;
    let replicas = match current {
        0 => ceil(ratio),
        _ if tolerance.covers(ratio) => current,
        _ => ceil(ratio * ready as f64),
    };
    Proposal { replicas, usage, utilization: None }
}

/// For one value of which each of the pods there are is to have so much.
pub(super) fn by_average(usage: i64, wanted: i64, pods: i32, tolerance: Tolerance) -> Proposal {
    let ratio = usage as f64 / (wanted as f64 * f64::from(pods));
    let replicas = match pods > 0 && tolerance.covers(ratio) {
        true => pods,
        false => ceil(usage as f64 / wanted as f64),
    };
    let each = (usage as f64 / f64::from(pods.max(1))).ceil() as i64;
    Proposal { replicas, usage: each, utilization: None }
}
