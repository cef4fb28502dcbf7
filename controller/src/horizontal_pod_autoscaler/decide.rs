//! What an autoscaler makes of what it sees. Pure: it neither asks nor writes.

use std::sync::Arc;

use client::Entry;
use proto::quantity::Quantity;
use proto::selector::LabelSelector;
use proto::time::Time;
use proto::view::Condition;
use proto::view::horizontal_pod_autoscaler::{
    AutoscalerStatus, Current, HorizontalPodAutoscaler, MetricSpec, MetricStatus, NamedSource,
    NamedStatus, ResourceSource, ResourceStatus,
};
use proto::view::pod::Pod;

use super::behavior::{self, History};
use super::replicas::{self, Proposal, Question, Samples, Tolerance, Wanted};

/// The scale of the target (autoscaling/v1 Scale).
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Scale {
    /// What it is asked for.
    pub wanted: i32,
    /// What there is.
    pub there: i32,
    pub selector: String,
}

/// What a metric said.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reading {
    Pods(Samples),
    /// One value, in thousandths.
    Total(i64),
}

/// What there is to decide from.
pub(super) struct Seen<'a> {
    pub scale: &'a Scale,
    /// Those that the scale's selector selects.
    pub pods: &'a [Arc<Entry<Pod>>],
    /// One per metric of the spec, or why there is none.
    pub readings: &'a [Result<Reading, String>],
    pub now: Time,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Decision {
    pub status: AutoscalerStatus,
    /// The new number, where it changes, and why.
    pub rescale: Option<(i32, String)>,
    /// Warnings: reason and message.
    pub warnings: Vec<(&'static str, String)>,
}

/// Whether the metrics bear on what is to be done.
pub(super) fn needs_metrics(autoscaler: &HorizontalPodAutoscaler, scale: &Scale) -> bool {
    let least = autoscaler.spec.min_replicas.unwrap_or(1);
    let disabled = scale.wanted == 0 && least != 0;
    !disabled && (least..=autoscaler.spec.max_replicas).contains(&scale.wanted)
}

/// Sets a condition; its time is that of the last change of its status.
pub(super) fn set(
    status: &mut AutoscalerStatus,
    kind: &str,
    is: bool,
    reason: &str,
    message: String,
    now: Time,
) {
    let value = if is { "True" } else { "False" };
    let place = status.conditions.iter().position(|condition| condition.kind == kind);
    let place = place.unwrap_or_else(|| {
        status.conditions.push(Condition { kind: kind.into(), ..Condition::default() });
        status.conditions.len() - 1
    });
    let condition = &mut status.conditions[place];
    if condition.status != value {
        condition.last_transition_time = Some(now);
    }
    condition.status = value.into();
    condition.reason = reason.into();
    condition.message = message;
}

pub(super) fn decide(
    autoscaler: &HorizontalPodAutoscaler,
    seen: &Seen,
    history: &mut History,
) -> Decision {
    let (spec, scale, now) = (&autoscaler.spec, seen.scale, seen.now);
    let mut decision = Decision { status: autoscaler.status.clone(), ..Decision::default() };
    let status = &mut decision.status;
    let message = "the HPA controller was able to get the target's current scale";
    set(status, "AbleToScale", true, "SucceededGetScale", message.into(), now);
    status.current_replicas = scale.wanted;
    status.desired_replicas = scale.wanted;
    if history.wanted.is_empty() {
        history.wanted.push((now, scale.wanted));
    }
    let least = spec.min_replicas.unwrap_or(1);
    if scale.wanted == 0 && least != 0 {
        let message = "scaling is disabled since the replica count of the target is zero";
        set(status, "ScalingActive", false, "ScalingDisabled", message.into(), now);
        status.current_metrics.clear();
        return decision;
    }
    if scale.wanted > spec.max_replicas || scale.wanted < least {
        let (wanted, word) = match scale.wanted < least {
            true => (least, "below Spec.MinReplicas"),
            false => (spec.max_replicas, "above Spec.MaxReplicas"),
        };
        status.current_metrics.clear();
        let reason = format!("Current number of replicas {word}");
        decision.rescale = Some((wanted, reason));
        return decision;
    }
    let Some((wanted, metric)) = by_metrics(autoscaler, seen, &mut decision) else {
        decision.status.desired_replicas = autoscaler.status.desired_replicas;
        return decision;
    };
    let limited = behavior::limit(spec, history, scale.wanted, wanted, now);
    let status = &mut decision.status;
    let (reason, message) = limited.able;
    set(status, "AbleToScale", true, reason, message.into(), now);
    let (reason, message) = limited.limit;
    set(status, "ScalingLimited", limited.is_limited, reason, message.into(), now);
    if limited.replicas != scale.wanted {
        let reason = match wanted > scale.wanted {
            true => format!("{metric} above target"),
            false if wanted < scale.wanted => "All metrics below target".into(),
            false => String::new(),
        };
        decision.rescale = Some((limited.replicas, reason));
    }
    decision
}

/// The highest number that a metric asks for, and which one does. With metrics that failed there
/// is none lower than the present one.
fn by_metrics(
    autoscaler: &HorizontalPodAutoscaler,
    seen: &Seen,
    decision: &mut Decision,
) -> Option<(i32, String)> {
    let metrics = &autoscaler.spec.metrics;
    let mut highest: Option<(i32, String)> = None;
    let mut first_failure: Option<(&'static str, String)> = None;
    let mut failures = 0;
    decision.status.current_metrics.clear();
    for (metric, reading) in metrics.iter().zip(seen.readings) {
        match propose(autoscaler, metric, reading, seen) {
            Ok(Proposed { replicas, name, status }) => {
                decision.status.current_metrics.push(status);
                if highest.as_ref().is_none_or(|(most, _)| *most == 0 || replicas > *most) {
                    highest = Some((replicas, name));
                }
            }
            Err((reason, error)) => {
                // What shows them goes by their places.
                let unknown = MetricStatus { kind: metric.kind.clone(), ..MetricStatus::default() };
                decision.status.current_metrics.push(unknown);
                decision.warnings.push((reason, error.clone()));
                first_failure.get_or_insert((reason, error));
                failures += 1;
            }
        }
    }
    let status = &mut decision.status;
    if let Some((reason, error)) = first_failure {
        let all = metrics.len();
        let less = highest.as_ref().is_none_or(|(most, _)| *most < seen.scale.wanted);
        if failures >= all || less {
            let message = format!("the HPA was unable to compute the replica count: {error}");
            set(status, "ScalingActive", false, reason, message, seen.now);
            let message = format!(
                "invalid metrics ({failures} invalid out of {all}), first error is: {error}"
            );
            decision.warnings.push(("FailedComputeMetricsReplicas", message));
            return None;
        }
    }
    let (replicas, name) = highest?;
    let message = format!("the HPA was able to successfully calculate a replica count from {name}");
    set(status, "ScalingActive", true, "ValidMetricFound", message, seen.now);
    Some((replicas, name))
}

struct Proposed {
    replicas: i32,
    name: String,
    status: MetricStatus,
}

/// A reason and an error.
type Failure = (&'static str, String);

fn propose(
    autoscaler: &HorizontalPodAutoscaler,
    metric: &MetricSpec,
    reading: &Result<Reading, String>,
    seen: &Seen,
) -> Result<Proposed, Failure> {
    let tolerance = Tolerance::of(&autoscaler.spec);
    let mut status = MetricStatus { kind: metric.kind.clone(), ..MetricStatus::default() };
    let proposal = match metric {
        MetricSpec { resource: Some(source), .. } => {
            let found = of_resource(source, reading, seen, tolerance, "resource")
                .map_err(|error| ("FailedGetResourceMetric", error))?;
            status.resource = Some(resource_status(source, found.0));
            found
        }
        MetricSpec { container_resource: Some(source), .. } => {
            let found = of_resource(source, reading, seen, tolerance, "container resource")
                .map_err(|error| ("FailedGetContainerResourceMetric", error))?;
            status.container_resource = Some(resource_status(source, found.0));
            found
        }
        MetricSpec { pods: Some(source), .. } => {
            let found = of_pods(source, reading, seen, tolerance)
                .map_err(|error| ("FailedGetPodsMetric", error))?;
            status.pods = Some(named_status(source, found.0, true));
            found
        }
        MetricSpec { object: Some(source), .. } => {
            let name = format!("{} metric {}", source.described_object.kind, source.metric.name);
            let found = of_total(source, reading, seen, tolerance)
                .map_err(|error| ("FailedGetObjectMetric", error))?;
            let object = Some(source.described_object.clone());
            let average = source.target.value.is_none();
            status.object = Some(NamedStatus {
                described_object: object,
                ..named_status(source, found, average)
            });
            (found, name)
        }
        MetricSpec { external: Some(source), .. } => {
            let selector = shown(source.metric.selector.as_ref());
            let name = format!("external metric {}({selector})", source.metric.name);
            let found = of_total(source, reading, seen, tolerance)
                .map_err(|error| ("FailedGetExternalMetric", error))?;
            let average = source.target.average_value.is_some();
            status.external = Some(named_status(source, found, average));
            (found, name)
        }
        other => {
            let error = format!("unknown metric source type {:?}", other.kind);
            return Err(("InvalidMetricSourceType", error));
        }
    };
    let (Proposal { replicas, .. }, name) = proposal;
    Ok(Proposed { replicas, name, status })
}

fn of_resource(
    source: &ResourceSource,
    reading: &Result<Reading, String>,
    seen: &Seen,
    tolerance: Tolerance,
    word: &str,
) -> Result<(Proposal, String), String> {
    let (resource, target) = (&source.name, &source.target);
    let (wanted, name, what) = match (target.average_value, target.average_utilization) {
        (Some(value), _) => (Wanted::Average(value.milli()), format!("{resource} {word}"), "usage"),
        (None, Some(percent)) => (
            Wanted::Utilization { percent, container: &source.container },
            format!("{resource} {word} utilization (percentage of request)"),
            "utilization",
        ),
        (None, None) => {
            return Err("invalid resource metric source: neither an average utilization target \
                        nor an average value (usage) target was set"
                .into());
        }
    };
    let failed = |error: &str| format!("failed to get {resource} {what}: {error}");
    let samples = samples(reading).map_err(|error| {
        failed(&format!("unable to get metrics for resource {resource}: {error}"))
    })?;
    let question = Question {
        pods: seen.pods,
        resource,
        wanted,
        current: seen.scale.wanted,
        tolerance,
        now: seen.now,
    };
    let proposal = question.answer(samples).map_err(|error| failed(&error))?;
    Ok((proposal, name))
}

fn of_pods(
    source: &NamedSource,
    reading: &Result<Reading, String>,
    seen: &Seen,
    tolerance: Tolerance,
) -> Result<(Proposal, String), String> {
    let name = &source.metric.name;
    let samples =
        samples(reading).map_err(|error| format!("unable to get metric {name}: {error}"))?;
    let wanted = source.target.average_value.unwrap_or_default().milli();
    let question = Question {
        pods: seen.pods,
        resource: "",
        wanted: Wanted::Average(wanted),
        current: seen.scale.wanted,
        tolerance,
        now: seen.now,
    };
    Ok((question.answer(samples)?, format!("pods metric {name}")))
}

fn of_total(
    source: &NamedSource,
    reading: &Result<Reading, String>,
    seen: &Seen,
    tolerance: Tolerance,
) -> Result<Proposal, String> {
    let total = match reading {
        Ok(Reading::Total(total)) => *total,
        Ok(Reading::Pods(_)) => return Err("it is of pods, not of one object".into()),
        Err(error) => return Err(error.clone()),
    };
    let ready = seen.pods.iter().filter(|pod| pod.status.phase == "Running" && pod.is_ready());
    match (source.target.average_value, source.target.value) {
        (Some(each), None) => {
            Ok(replicas::by_average(total, each.milli(), seen.scale.there, tolerance))
        }
        (_, Some(wanted)) => {
            let current = seen.scale.wanted;
            Ok(replicas::by_value(total, wanted.milli(), current, ready.count(), tolerance))
        }
        (None, None) => Err("invalid metric source: neither a value target nor an average value \
                             target was set"
            .into()),
    }
}

fn samples(reading: &Result<Reading, String>) -> Result<&Samples, String> {
    match reading {
        Ok(Reading::Pods(samples)) => Ok(samples),
        Ok(Reading::Total(_)) => Err("it is of one object, not of pods".into()),
        Err(error) => Err(error.clone()),
    }
}

fn resource_status(source: &ResourceSource, found: Proposal) -> ResourceStatus {
    let average_value = Some(Quantity::from_milli(found.usage));
    let average_utilization = found.utilization;
    ResourceStatus {
        name: source.name.clone(),
        container: source.container.clone(),
        current: Current { value: None, average_value, average_utilization },
    }
}

fn named_status(source: &NamedSource, found: Proposal, average: bool) -> NamedStatus {
    let amount = Some(Quantity::from_milli(found.usage));
    let current = match average {
        true => Current { average_value: amount, ..Current::default() },
        false => Current { value: amount, ..Current::default() },
    };
    NamedStatus { metric: source.metric.clone(), described_object: None, current }
}

/// As the names of external metrics have it.
pub(super) fn shown(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".into() };
    let labels: Vec<String> =
        selector.match_labels.iter().map(|(key, value)| format!("{key}: {value},")).collect();
    let expressions: Vec<String> = selector
        .match_expressions
        .iter()
        .map(|one| {
            let values = one.values.join(" ");
            format!("{{{} {} [{values}]}},", one.key, one.operator)
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{}}},MatchExpressions:\
         []LabelSelectorRequirement{{{}}},}}",
        labels.concat(),
        expressions.concat()
    )
}
