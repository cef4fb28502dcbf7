//! A profile: under which name pods ask for it, which plugins have a say and how much, and what
//! the plugins are told. The default is kube-scheduler's.
//! <https://kubernetes.io/docs/reference/scheduling/config/#profiles>

use std::time::Duration;

use proto::view::pod::{NodeAffinity, Pod, TopologySpreadConstraint};

use crate::plugins::strategy::{Strategy, Weights};
use crate::plugins::{PLUGINS, Plugin};

/// Whom pods name that do not choose a scheduler.
pub const DEFAULT_NAME: &str = "default-scheduler";

#[derive(Clone)]
pub struct Profile {
    pub name: String,
    /// In the order in which they are asked.
    pub plugins: Vec<Enabled>,
    /// Whether pods may take the place of others (DefaultPreemption).
    pub preempts: bool,
    /// Of all nodes, how many are looked at once so many take the pod; 0: fewer the more there are.
    pub percentage_of_nodes_to_score: u32,
    pub args: Args,
}

/// A plugin in a profile.
#[derive(Clone, Copy)]
pub struct Enabled {
    pub plugin: &'static dyn Plugin,
    pub filters: bool,
    /// What its scores count for; nothing where it does not score.
    pub weight: i64,
}

/// What the plugins are told (`pluginConfig`).
#[derive(Clone, Debug)]
pub struct Args {
    /// NodeAffinity: of every pod, on top of its own.
    pub added_affinity: Option<NodeAffinity>,
    /// NodeResourcesFit: extended resources that are somebody else's business.
    pub ignored_resources: Vec<String>,
    /// The same by the part of the name before the slash.
    pub ignored_resource_groups: Vec<String>,
    pub strategy: Strategy,
    pub resources: Weights,
    /// NodeResourcesBalancedAllocation.
    pub balanced: Weights,
    /// PodTopologySpread.
    pub spread: SpreadDefaults,
    /// InterPodAffinity: what it counts for that a pod that is there requires this one near.
    pub hard_pod_affinity_weight: i64,
    pub ignore_preferred_terms_of_existing_pods: bool,
    /// VolumeBinding: how long a pod waits for its volumes.
    pub bind_timeout: Duration,
    /// DefaultPreemption: after how many candidates the search ends, whichever is more.
    pub min_candidate_nodes_percentage: usize,
    pub min_candidate_nodes_absolute: usize,
}

/// How pods are spread that do not say.
#[derive(Clone, Debug, PartialEq)]
pub enum SpreadDefaults {
    /// By host and by zone, where that is possible.
    System,
    List(Vec<TopologySpreadConstraint>),
}

impl Default for Profile {
    fn default() -> Profile {
        let enabled = |plugin: &&'static dyn Plugin| {
            let (filters, weight) = (plugin.filters(), plugin.weight());
            Enabled { plugin: *plugin, filters, weight }
        };
        Profile {
            name: DEFAULT_NAME.into(),
            plugins: PLUGINS.iter().map(enabled).collect(),
            preempts: true,
            percentage_of_nodes_to_score: 0,
            args: Args::default(),
        }
    }
}

impl Default for Args {
    fn default() -> Args {
        let equally = || vec![("cpu".to_string(), 1), ("memory".to_string(), 1)];
        Args {
            added_affinity: None,
            ignored_resources: Vec::new(),
            ignored_resource_groups: Vec::new(),
            strategy: Strategy::LeastAllocated,
            resources: equally(),
            balanced: equally(),
            spread: SpreadDefaults::System,
            hard_pod_affinity_weight: 1,
            ignore_preferred_terms_of_existing_pods: false,
            bind_timeout: Duration::from_secs(600),
            min_candidate_nodes_percentage: 10,
            min_candidate_nodes_absolute: 100,
        }
    }
}

impl Args {
    /// Whether NodeResourcesFit does not look at this extended resource.
    pub fn ignores(&self, resource: &str) -> bool {
        let group = resource.split_once('/').map_or("", |(group, _)| group);
        self.ignored_resources.iter().any(|ignored| ignored == resource)
            || self.ignored_resource_groups.iter().any(|ignored| ignored == group)
    }
}

impl Profile {
    /// How many nodes that take a pod are enough to choose among, of so many nodes.
    /// <https://kubernetes.io/docs/concepts/scheduling-eviction/scheduler-perf-tuning/>
    pub fn enough(&self, nodes: usize) -> usize {
        const ALL_BELOW: usize = 100;
        let adaptive = 50usize.saturating_sub(nodes / 125).max(5);
        let percentage = match self.percentage_of_nodes_to_score as usize {
            0 => adaptive,
            percentage => percentage,
        };
        match nodes < ALL_BELOW || percentage >= 100 {
            true => nodes,
            false => (nodes * percentage / 100).max(ALL_BELOW),
        }
    }
}

/// The profile that the pod asks for.
pub fn profile_of(pod: &Pod) -> &str {
    match pod.spec.scheduler_name.as_str() {
        "" => DEFAULT_NAME,
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_nodes_a_part_is_enough() {
        let profile = Profile::default();
        for (nodes, enough) in [(50, 50), (100, 100), (400, 188), (5000, 500), (15_000, 750)] {
            assert_eq!(profile.enough(nodes), enough, "{nodes}");
        }
        let all = Profile { percentage_of_nodes_to_score: 100, ..Profile::default() };
        assert_eq!(all.enough(15_000), 15_000);
    }
}
