//! What a node must keep free, as the kubelet's flags say it (Kubernetes: Node-pressure Eviction,
//! "Eviction signals and thresholds"). Pure.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use proto::quantity::Quantity;

/// Something of which a node can run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    MemoryAvailable,
    /// Of what all pods together may use; it follows memory.available.
    AllocatableMemory,
    NodeFsAvailable,
    NodeFsInodesFree,
    ImageFsAvailable,
    ImageFsInodesFree,
    PidAvailable,
}

/// Of the node, while something is low.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    MemoryPressure,
    DiskPressure,
    PidPressure,
}

impl Condition {
    pub fn name(self) -> &'static str {
        match self {
            Condition::MemoryPressure => "MemoryPressure",
            Condition::DiskPressure => "DiskPressure",
            Condition::PidPressure => "PIDPressure",
        }
    }
}

impl Signal {
    /// Those that flags may name.
    pub const ALL: [Signal; 6] = [
        Signal::MemoryAvailable,
        Signal::NodeFsAvailable,
        Signal::NodeFsInodesFree,
        Signal::ImageFsAvailable,
        Signal::ImageFsInodesFree,
        Signal::PidAvailable,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Signal::MemoryAvailable => "memory.available",
            Signal::AllocatableMemory => "allocatableMemory.available",
            Signal::NodeFsAvailable => "nodefs.available",
            Signal::NodeFsInodesFree => "nodefs.inodesFree",
            Signal::ImageFsAvailable => "imagefs.available",
            Signal::ImageFsInodesFree => "imagefs.inodesFree",
            Signal::PidAvailable => "pid.available",
        }
    }

    /// What pods use of it, in the words of messages.
    pub fn resource(self) -> &'static str {
        match self {
            Signal::MemoryAvailable | Signal::AllocatableMemory => "memory",
            Signal::NodeFsAvailable | Signal::ImageFsAvailable => "ephemeral-storage",
            Signal::NodeFsInodesFree | Signal::ImageFsInodesFree => "inodes",
            Signal::PidAvailable => "pids",
        }
    }

    pub fn condition(self) -> Condition {
        match self.resource() {
            "memory" => Condition::MemoryPressure,
            "pids" => Condition::PidPressure,
            _ => Condition::DiskPressure,
        }
    }

    fn parse(name: &str) -> Result<Signal, String> {
        if let Some(signal) = Signal::ALL.into_iter().find(|signal| signal.name() == name) {
            return Ok(signal);
        }
        let known = Signal::ALL.map(Signal::name).join(", ");
        Err(match name {
            "containerfs.available" | "containerfs.inodesFree" => format!(
                "{name} cannot be set: containers write where images or pods' files are, so \
                 imagefs and nodefs decide"
            ),
            name => format!("unknown eviction signal {name:?}, known are {known}"),
        })
    }
}

/// An amount, or a part of the whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    Amount(i64),
    Percent(f64),
}

impl Limit {
    pub fn of(self, whole: i64) -> i64 {
        match self {
            Limit::Amount(amount) => amount,
            Limit::Percent(percent) => (whole as f64 * percent / 100.0) as i64,
        }
    }

    fn parse(text: &str) -> Result<Limit, String> {
        let bad = || format!("{text:?} is neither a quantity nor a percentage");
        match text.strip_suffix('%') {
            Some(percent) => {
                let percent = percent.parse().map_err(|_| bad())?;
                match (0.0..=100.0).contains(&percent) {
                    true => Ok(Limit::Percent(percent)),
                    false => Err(format!("{text:?} is not between 0% and 100%")),
                }
            }
            None => match text.parse::<Quantity>().map_err(|_| bad())? {
                amount if amount.is_negative() => Err(format!("{text:?} is negative")),
                amount => Ok(Limit::Amount(amount.value())),
            },
        }
    }

    /// 0 % and 100 % say: none.
    fn is_none(self) -> bool {
        matches!(self, Limit::Percent(percent) if percent == 0.0 || percent == 100.0)
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Limit::Amount(amount) => Quantity::bytes(*amount).fmt(f),
            Limit::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// `memory.available<100Mi,nodefs.available<10%`, as `--eviction-hard` and `--eviction-soft`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits(pub BTreeMap<Signal, Limit>);

/// `nodefs.available=1Gi`, as `--eviction-minimum-reclaim`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reclaims(pub BTreeMap<Signal, Limit>);

/// `memory.available=1m30s`, as `--eviction-soft-grace-period`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graces(pub BTreeMap<Signal, Duration>);

impl Limits {
    /// What must stay free of so much.
    pub fn of(&self, signal: Signal, whole: i64) -> i64 {
        self.0.get(&signal).map_or(0, |limit| limit.of(whole))
    }

    /// By signal, as they were given.
    pub fn signals(&self) -> BTreeMap<&'static str, String> {
        self.0.iter().map(|(signal, limit)| (signal.name(), limit.to_string())).collect()
    }
}

impl Reclaims {
    /// By signal, as they were given.
    pub fn signals(&self) -> BTreeMap<&'static str, String> {
        self.0.iter().map(|(signal, limit)| (signal.name(), limit.to_string())).collect()
    }
}

impl Graces {
    /// By signal, in seconds.
    pub fn signals(&self) -> BTreeMap<&'static str, String> {
        let seconds = |grace: &Duration| format!("{}s", grace.as_secs_f64());
        self.0.iter().map(|(signal, grace)| (signal.name(), seconds(grace))).collect()
    }
}

impl FromStr for Limits {
    type Err = String;

    fn from_str(text: &str) -> Result<Limits, String> {
        let mut all = pairs(text, '<', Limit::parse)?;
        all.retain(|_, limit| !limit.is_none());
        Ok(Limits(all))
    }
}

impl FromStr for Reclaims {
    type Err = String;

    fn from_str(text: &str) -> Result<Reclaims, String> {
        pairs(text, '=', Limit::parse).map(Reclaims)
    }
}

impl FromStr for Graces {
    type Err = String;

    fn from_str(text: &str) -> Result<Graces, String> {
        pairs(text, '=', crate::options::duration).map(Graces)
    }
}

fn pairs<T>(
    text: &str,
    between: char,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<BTreeMap<Signal, T>, String> {
    let mut all = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let bad = || format!("{part:?} is not SIGNAL{between}VALUE");
        let (signal, value) = part.split_once(between).ok_or_else(bad)?;
        if all.insert(Signal::parse(signal)?, parse(value)?).is_some() {
            return Err(format!("duplicate eviction threshold {signal}"));
        }
    }
    Ok(all)
}

/// When one signal is too low.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    pub limit: Limit,
    /// For how long it may be; zero: pods have to go at once (a hard threshold).
    pub grace: Duration,
    /// How much more than the limit must be free before it counts as resolved.
    pub reclaim: Option<Limit>,
}

impl Threshold {
    pub fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }
}

/// All thresholds of a node; a soft one needs a grace period.
pub fn thresholds(
    hard: &Limits,
    soft: &Limits,
    graces: &Graces,
    reclaims: &Reclaims,
) -> Result<Vec<Threshold>, String> {
    let mut all = Vec::new();
    for (signal, limit) in &hard.0 {
        let reclaim = reclaims.0.get(signal).copied();
        let threshold =
            Threshold { signal: *signal, limit: *limit, grace: Duration::ZERO, reclaim };
        all.push(threshold);
        if *signal == Signal::MemoryAvailable {
            all.push(Threshold { signal: Signal::AllocatableMemory, ..threshold });
        }
    }
    for (signal, limit) in &soft.0 {
        let grace = graces.0.get(signal).copied().filter(|grace| !grace.is_zero());
        let name = signal.name();
        let grace = grace.ok_or(format!(
            "grace period must be specified for the soft eviction threshold {name}: name it in \
             --eviction-soft-grace-period"
        ))?;
        let reclaim = reclaims.0.get(signal).copied();
        all.push(Threshold { signal: *signal, limit: *limit, grace, reclaim });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read_as_the_kubelet_reads_them() {
        let all: Limits =
            "memory.available<100Mi, nodefs.available<10%,pid.available<0%".parse().unwrap();
        assert_eq!(all.of(Signal::MemoryAvailable, 1 << 30), 100 << 20);
        assert_eq!(all.of(Signal::NodeFsAvailable, 5000), 500);
        assert_eq!(all.of(Signal::PidAvailable, 5000), 0);
        let signals = all.signals();
        assert_eq!(signals["memory.available"], "100Mi");
        assert_eq!((signals["nodefs.available"].as_str(), signals.len()), ("10%", 2));
        for bad in [
            "memory.available",
            "memory.available=1Mi",
            "memory.available<x",
            "memory.available<-1Mi",
            "nodefs.available<101%",
            "containerfs.available<1%",
            "allocatableMemory.available<1Mi",
            "pid.available<1,pid.available<2",
        ] {
            assert!(bad.parse::<Limits>().is_err(), "{bad}");
        }
    }

    #[test]
    fn soft_ones_need_a_grace_period() {
        let soft: Limits = "memory.available<1Gi".parse().unwrap();
        let hard: Limits = "memory.available<100Mi".parse().unwrap();
        let reclaims: Reclaims = "memory.available=50Mi".parse().unwrap();
        let none = Graces::default();
        assert!(thresholds(&hard, &soft, &none, &reclaims).is_err());
        let graces = "memory.available=1m30s".parse().unwrap();
        let all = thresholds(&hard, &soft, &graces, &reclaims).unwrap();
        let named: Vec<_> = all.iter().map(|it| (it.signal.name(), it.grace.as_secs())).collect();
        let expected =
            [("memory.available", 0), ("allocatableMemory.available", 0), ("memory.available", 90)];
        assert_eq!(named, expected);
        assert!(all.iter().all(|it| it.reclaim == Some(Limit::Amount(50 << 20))));
    }
}
