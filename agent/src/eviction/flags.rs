//! The kubelet's flags of eviction.

use std::time::Duration;

use super::{Config, Graces, Limits, Reclaims, thresholds};
use crate::options::duration;

#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Flags {
    /// Where less is left of something (memory.available, nodefs.available, nodefs.inodesFree,
    /// imagefs.available, imagefs.inodesFree, pid.available), pods are evicted at once. So much of
    /// memory and disk is kept from pods.
    #[arg(
        id = "eviction_hard",
        long = "eviction-hard",
        value_name = "SIGNAL<LIMIT,…",
        default_value = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,\
                         imagefs.available<15%,imagefs.inodesFree<5%"
    )]
    pub hard: Limits,
    /// Where less is left for longer than the grace period, pods are evicted.
    #[arg(
        id = "eviction_soft",
        long = "eviction-soft",
        value_name = "SIGNAL<LIMIT,…",
        default_value = ""
    )]
    pub soft: Limits,
    /// For how long each soft threshold may be met.
    #[arg(
        id = "eviction_soft_grace_period",
        long = "eviction-soft-grace-period",
        value_name = "SIGNAL=DURATION,…",
        default_value = ""
    )]
    pub soft_grace: Graces,
    /// How much more than the limit has to be free before a threshold counts as resolved.
    #[arg(
        id = "eviction_minimum_reclaim",
        long = "eviction-minimum-reclaim",
        value_name = "SIGNAL=AMOUNT,…",
        default_value = ""
    )]
    pub minimum_reclaim: Reclaims,
    /// How many seconds a pod gets at most to end, where a soft threshold is met.
    #[arg(
        id = "eviction_max_pod_grace_period",
        long = "eviction-max-pod-grace-period",
        value_name = "SECONDS",
        default_value_t = 0
    )]
    pub max_pod_grace: u64,
    /// How long the node stays under pressure after the last time it was.
    #[arg(
        id = "eviction_pressure_transition_period",
        long = "eviction-pressure-transition-period",
        value_name = "DURATION",
        value_parser = duration,
        default_value = "5m0s"
    )]
    pub transition: Duration,
}

impl Flags {
    pub fn config(&self) -> Result<Config, String> {
        Ok(Config {
            thresholds: thresholds(
                &self.hard,
                &self.soft,
                &self.soft_grace,
                &self.minimum_reclaim,
            )?,
            max_pod_grace: Duration::from_secs(self.max_pod_grace),
            transition: self.transition,
        })
    }
}
