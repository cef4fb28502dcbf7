//! Node-pressure eviction: when the node runs low on memory, disk or processes it says so, frees
//! what nobody needs, and then ends pods, one at a time, those first that take more than they asked
//! for (Kubernetes: Node-pressure Eviction); and it ends pods that write more than they may (Local
//! ephemeral storage). What is judged and chosen here is pure; only [`run`] looks at the machine
//! and touches pods. Critical pods are never chosen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::time::Time;

mod flags;
mod local;
mod message;
mod pressure;
mod rank;
mod run;
mod threshold;
mod usage;

pub use flags::Flags;
pub use pressure::Pressure;
pub use run::{Manager, run};
pub use threshold::{Condition, Graces, Limit, Limits, Reclaims, Signal, Threshold, thresholds};

use usage::{Observation, Observations};

/// What the manager goes by.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub thresholds: Vec<Threshold>,
    /// What a pod gets at most to end, where a soft threshold is met.
    pub max_pod_grace: Duration,
    /// How long a condition stays after the last time it was seen.
    pub transition: Duration,
}

/// What is remembered from one look to the next; thresholds by their place in the configuration.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Those that were due at the last look.
    met: BTreeSet<usize>,
    first_met: BTreeMap<usize, Time>,
    last_seen: BTreeMap<Condition, Time>,
}

/// What one look at the node means.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    pub conditions: BTreeSet<Condition>,
    /// The thresholds of which something must be done, the most urgent first.
    pub due: Vec<Threshold>,
}

impl Memory {
    pub fn judge(&mut self, config: &Config, seen: &Observations, now: Time) -> Judgement {
        let mut low = low(config, seen, false);
        // What was low counts until as much more is free as is to be reclaimed.
        low.extend(self::low(config, seen, true).intersection(&self.met));
        self.first_met.retain(|index, _| low.contains(index));
        for index in &low {
            self.first_met.entry(*index).or_insert(now);
        }
        for index in &low {
            self.last_seen.insert(config.thresholds[*index].signal.condition(), now);
        }
        self.last_seen.retain(|_, seen| now.since(*seen) < config.transition || *seen == now);
        let waited = |index: &usize| {
            let grace = config.thresholds[*index].grace;
            self.first_met.get(index).is_some_and(|first| now.since(*first) >= grace)
        };
        self.met = low.into_iter().filter(waited).collect();
        let mut due: Vec<Threshold> =
            self.met.iter().map(|index| config.thresholds[*index]).collect();
        // Memory first: a machine without it does nothing else.
        due.sort_by_key(|threshold| threshold.signal.condition());
        Judgement { conditions: self.last_seen.keys().copied().collect(), due }
    }
}

/// Is nothing low any more, with what is to be reclaimed beyond the limits?
pub fn resolved(config: &Config, seen: &Observations) -> bool {
    low(config, seen, true).is_empty()
}

fn low(config: &Config, seen: &Observations, reclaim: bool) -> BTreeSet<usize> {
    let low = |threshold: &Threshold| {
        let Some(observation) = seen.get(&threshold.signal) else { return false };
        let mut needed = quantity(threshold, observation);
        if let Some(more) = threshold.reclaim.filter(|_| reclaim) {
            needed += more.of(observation.capacity);
        }
        observation.available < needed
    };
    let all = config.thresholds.iter().enumerate();
    all.filter(|(_, threshold)| low(threshold)).map(|(index, _)| index).collect()
}

/// How much must be free.
fn quantity(threshold: &Threshold, observation: &Observation) -> i64 {
    threshold.limit.of(observation.capacity)
}

/// How long a pod may take to end.
pub fn grace(config: &Config, threshold: &Threshold, own: Option<Duration>) -> Duration {
    match threshold.is_hard() {
        true => AT_ONCE,
        false => own.map_or(config.max_pod_grace, |own| own.min(config.max_pod_grace)),
    }
}

/// As little as a process gets between TERM and KILL.
const AT_ONCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Signal = Signal::MemoryAvailable;
    const DISK: Signal = Signal::NodeFsAvailable;

    fn config(hard: &str, soft: &str, grace: &str, reclaim: &str) -> Config {
        let (hard, soft) = (hard.parse().unwrap(), soft.parse().unwrap());
        let (grace, reclaim) = (grace.parse().unwrap(), reclaim.parse().unwrap());
        let thresholds = thresholds(&hard, &soft, &grace, &reclaim).unwrap();
        Config {
            thresholds,
            max_pod_grace: Duration::from_secs(30),
            transition: Duration::from_secs(300),
        }
    }

    fn seen(signal: Signal, available: i64) -> Observations {
        [(signal, Observation { available, capacity: 1000 })].into()
    }

    /// Looks at these seconds, with so much left: conditions and how many thresholds are due.
    fn story(config: &Config, signal: Signal, looks: &[(i64, i64)]) -> Vec<(bool, usize)> {
        let mut memory = Memory::default();
        let looks = looks.iter().map(|(second, left)| {
            let judged = memory.judge(config, &seen(signal, *left), Time::from_unix(*second));
            (!judged.conditions.is_empty(), judged.due.len())
        });
        looks.collect()
    }

    #[test]
    fn a_hard_threshold_is_due_at_once_and_its_condition_stays_a_while() {
        let config = config("memory.available<100", "", "", "");
        let looks = [(0, 100), (10, 99), (20, 500), (309, 500), (311, 500)];
        let expected = [(false, 0), (true, 1), (true, 0), (true, 0), (false, 0)];
        assert_eq!(story(&config, MEMORY, &looks), expected);
    }

    #[test]
    fn a_soft_threshold_has_its_grace_period() {
        let config = config("", "nodefs.available<10%", "nodefs.available=1m", "");
        let looks = [(0, 99), (30, 99), (59, 99), (60, 99), (70, 100), (80, 99), (139, 99)];
        let expected =
            [(true, 0), (true, 0), (true, 0), (true, 1), (true, 0), (true, 0), (true, 0)];
        assert_eq!(story(&config, DISK, &looks), expected);
    }

    #[test]
    fn it_stays_due_until_enough_is_reclaimed() {
        let config = config("nodefs.available<100", "", "", "nodefs.available=5%");
        let looks = [(0, 120), (10, 99), (20, 149), (30, 150), (40, 120)];
        let expected = [(false, 0), (true, 1), (true, 1), (true, 0), (true, 0)];
        assert_eq!(story(&config, DISK, &looks), expected);
        assert!(!resolved(&config, &seen(DISK, 149)) && resolved(&config, &seen(DISK, 150)));
        assert!(resolved(&config, &Observations::new()));
    }

    #[test]
    fn memory_goes_first() {
        let config =
            config("nodefs.available<100,pid.available<100,memory.available<100", "", "", "");
        let all = [DISK, Signal::PidAvailable, MEMORY];
        let seen = all.map(|signal| (signal, Observation { available: 1, capacity: 1000 })).into();
        let judged = Memory::default().judge(&config, &seen, Time::from_unix(1));
        let due: Vec<&str> = judged.due.iter().map(|due| due.signal.name()).collect();
        assert_eq!(due, ["memory.available", "nodefs.available", "pid.available"]);
        let names: Vec<&str> = judged.conditions.iter().map(|it| it.name()).collect();
        assert_eq!(names, ["MemoryPressure", "DiskPressure", "PIDPressure"]);
    }

    #[test]
    fn how_long_a_pod_may_take() {
        let seconds = Duration::from_secs;
        let config = config("memory.available<1", "pid.available<9", "pid.available=1s", "");
        let of = |index: usize, own| grace(&config, &config.thresholds[index], own).as_secs();
        assert_eq!((of(0, Some(seconds(60))), of(0, None)), (1, 1));
        assert_eq!((of(2, Some(seconds(60))), of(2, Some(seconds(5))), of(2, None)), (30, 5, 30));
    }
}
