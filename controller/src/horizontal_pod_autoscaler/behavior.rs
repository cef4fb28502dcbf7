//! How fast the number of replicas may change.
//! <https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#configurable-scaling-behavior>

use std::time::Duration;

use proto::time::Time;
use proto::view::horizontal_pod_autoscaler::{AutoscalerSpec, ScalingRules};

/// What was wanted and done, as far back as it bears on the next step.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct History {
    pub wanted: Vec<(Time, i32)>,
    pub added: Vec<(Time, i32)>,
    pub removed: Vec<(Time, i32)>,
}

/// So long the highest number wanted counts, where the spec says nothing.
const DOWN_WINDOW: Duration = Duration::from_secs(300);
/// The longest window and the longest period there may be.
const LONGEST: Duration = Duration::from_secs(3600);

/// Reason and message.
pub(super) type Why = (&'static str, &'static str);

/// A number of replicas within all limits, and the reasons of the conditions.
#[derive(Debug, PartialEq)]
pub(super) struct Limited {
    pub replicas: i32,
    /// Of AbleToScale.
    pub able: Why,
    pub is_limited: bool,
    /// Of ScalingLimited.
    pub limit: Why,
}

const READY: Why = ("ReadyForNewScale", "recommended size matches current size");
const DOWN_STABILIZED: Why = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent \
     recommendation",
);
const UP_STABILIZED: Why = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent \
     recommendation",
);
const WITHIN: Why = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_FEW: Why =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_MANY: Why =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const UP_LIMIT: Why =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: Why = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
);

impl History {
    /// Forgets what is too long ago to matter.
    pub fn trim(&mut self, now: Time) {
        for list in [&mut self.wanted, &mut self.added, &mut self.removed] {
            list.retain(|(at, _)| at.plus(LONGEST) > now);
        }
    }

    /// Notes that the number was changed.
    pub fn scaled(&mut self, now: Time, from: i32, to: i32) {
        match to > from {
            true => self.added.push((now, to - from)),
            false => self.removed.push((now, from - to)),
        }
    }

    fn recent(list: &[(Time, i32)], now: Time, window: Duration) -> impl Iterator<Item = i32> + '_ {
        list.iter().filter(move |(at, _)| at.plus(window) > now).map(|(_, number)| *number)
    }
}

/// Brings what the metrics want within the spec's limits, and notes it.
pub(super) fn limit(
    spec: &AutoscalerSpec,
    history: &mut History,
    current: i32,
    wanted: i32,
    now: Time,
) -> Limited {
    let has_behavior = spec.behavior.scale_up.is_some() || spec.behavior.scale_down.is_some();
    let usual = ScalingRules::default();
    let up = spec.behavior.scale_up.as_ref().unwrap_or(&usual);
    let down = spec.behavior.scale_down.as_ref().unwrap_or(&usual);
    let window = |rules: &ScalingRules, usual: Duration| {
        let seconds = rules.stabilization_window_seconds;
        seconds.map_or(usual, |seconds| Duration::from_secs(seconds.max(0) as u64))
    };
    let up_window = window(up, Duration::ZERO);
    let lowest = History::recent(&history.wanted, now, up_window).fold(wanted, i32::min);
    let down_window = window(down, DOWN_WINDOW);
    let highest = History::recent(&history.wanted, now, down_window).fold(wanted, i32::max);
    let stable = match has_behavior {
        true => current.max(lowest).min(highest),
        false => highest,
    };
    history.wanted.push((now, wanted));
    let able = match () {
        () if stable == wanted => READY,
        () if has_behavior && wanted >= current => UP_STABILIZED,
        () => DOWN_STABILIZED,
    };
    let (least, most) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    let (fastest_up, fastest_down) = match has_behavior {
        true => (up_limit(up, history, current, now), down_limit(down, history, current, now)),
        false => ((2 * current).max(4), least),
    };
    let (floor, below) =
        if least < fastest_down { (fastest_down, DOWN_LIMIT) } else { (least, TOO_FEW) };
    let (ceiling, above) =
        if most > fastest_up { (fastest_up, UP_LIMIT) } else { (most, TOO_MANY) };
    let (replicas, limit) = match () {
        () if stable < floor && (!has_behavior || stable < current) => (floor, below),
        () if stable > ceiling && (!has_behavior || stable > current) => (ceiling, above),
        () => (stable, WITHIN),
    };
    Limited { replicas, able, is_limited: replicas != stable, limit }
}

/// The number at the start of a period.
fn start(history: &History, current: i32, now: Time, seconds: i32) -> i32 {
    let period = Duration::from_secs(seconds.max(0) as u64);
    let added: i32 = History::recent(&history.added, now, period).sum();
    let removed: i32 = History::recent(&history.removed, now, period).sum();
    current - added + removed
}

fn up_limit(rules: &ScalingRules, history: &History, current: i32, now: Time) -> i32 {
    let limits = rules.policies.iter().map(|policy| {
        let start = start(history, current, now, policy.period_seconds);
        match policy.kind.as_str() {
            "Pods" => start.saturating_add(policy.value),
            // Rounded up, or a small number would never grow.
            _ => (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
        }
    });
    let limit = match rules.select_policy.as_deref() {
        Some("Disabled") => return current,
        Some("Min") => limits.min(),
        _ if rules.policies.is_empty() => Some((2 * current).max(current + 4)),
        _ => limits.max(),
    };
    limit.unwrap_or(current).max(current)
}

fn down_limit(rules: &ScalingRules, history: &History, current: i32, now: Time) -> i32 {
    let limits = rules.policies.iter().map(|policy| {
        let start = start(history, current, now, policy.period_seconds);
        match policy.kind.as_str() {
            "Pods" => start.saturating_sub(policy.value),
            _ => (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
        }
    });
    let limit = match rules.select_policy.as_deref() {
        Some("Disabled") => return current,
        // The least change is the highest number.
        Some("Min") => limits.max(),
        _ if rules.policies.is_empty() => Some(0),
        _ => limits.min(),
    };
    limit.unwrap_or(current).min(current)
}
