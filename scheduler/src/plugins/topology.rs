//! PodTopologySpread: a pod's own constraints, or, for pods without any, a preference to keep
//! replicas apart: as the configuration says, or else by host with a skew of 3 and by zone with a
//! skew of 5. <https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/>

use std::sync::Arc;

use proto::selector::{Requirement, Selector, Test};
use proto::view::pod::TopologySpreadConstraint;

use super::node_affinity::Required;
use super::taints::repels;
use super::{BEST, Event, Judge, Plugin, Rejection, Scope};
use crate::profile::{Args, SpreadDefaults};
use crate::snapshot::{Change, NodeInfo, PodInfo, Snapshot, Topology};

pub struct PodTopologySpread;

const HOST: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// One constraint.
struct Rule {
    key: String,
    max_skew: i64,
    min_domains: usize,
    /// Without one it counts nobody.
    selector: Option<Selector>,
    ignores_affinity: bool,
    honours_taints: bool,
}

/// A constraint with the matching pods counted.
struct Counted {
    rule: Rule,
    topology: Arc<Topology>,
    /// Each node is a domain of its own.
    by_node: bool,
    /// By node: whether it counts.
    included: Vec<bool>,
    /// By domain; `ABSENT` where no node of it counts.
    counts: Vec<i32>,
    /// Domains with a node that counts.
    domains: usize,
    /// The smallest of the counts.
    least: i32,
    /// The pod itself would count.
    matches_self: bool,
}

const ABSENT: i32 = i32::MAX;

struct Spread {
    pod: Arc<PodInfo>,
    hard: Vec<Counted>,
    soft: Soft,
    /// A node without the label of any of the rules gets no score.
    needs_all_labels: bool,
    /// Of the soft rules, for the candidates at hand: many domains weigh more.
    weights: Vec<f64>,
}

/// What is preferred is counted once there is something to choose.
enum Soft {
    Asked(Vec<Rule>),
    Counted(Vec<Counted>),
}

/// What a node gets that the preferences do not apply to.
const IGNORED: i64 = -1;

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn cures(&self) -> &'static [Event] {
        use Event::{NodeAdded, NodeLabels, NodeTaints, PodAdded, PodDeleted, PodLabels};
        &[NodeAdded, NodeLabels, NodeTaints, PodAdded, PodDeleted, PodLabels]
    }

    fn heeds(&self, waiting: &PodInfo, event: Event, pod: &PodInfo, _: &Snapshot) -> bool {
        let own = &waiting.object.spec.topology_spread_constraints;
        let counts = |constraint: &TopologySpreadConstraint| {
            let selector = Rule::new(constraint, waiting).selector;
            selector.is_some_and(|selector| selector.matches(pod.labels()))
        };
        match event {
            Event::PodAdded | Event::PodDeleted if !own.is_empty() => {
                pod.key.namespace == waiting.key.namespace && own.iter().any(counts)
            }
            _ => true,
        }
    }

    fn judge(&self, pod: &Arc<PodInfo>, cluster: &Snapshot, args: &Args) -> Option<Box<dyn Judge>> {
        let own = &pod.object.spec.topology_spread_constraints;
        let of = |required: bool| {
            let kind = own.iter().filter(move |one| is_required(one) == required);
            kind.map(|one| Rule::new(one, pod)).collect::<Vec<_>>()
        };
        let (hard, soft) = match own.is_empty() {
            true => defaults(pod, cluster, args),
            false => (of(true), of(false)),
        };
        if hard.is_empty() && soft.is_empty() {
            return None;
        }
        Some(Box::new(Spread {
            hard: count(hard, pod, cluster, true, false),
            soft: Soft::Asked(soft),
            needs_all_labels: !own.is_empty() || args.spread != SpreadDefaults::System,
            weights: Vec::new(),
            pod: Arc::clone(pod),
        }))
    }
}

fn is_required(constraint: &TopologySpreadConstraint) -> bool {
    constraint.when_unsatisfiable != "ScheduleAnyway"
}

/// For a pod that says nothing: required and preferred rules.
fn defaults(pod: &PodInfo, cluster: &Snapshot, args: &Args) -> (Vec<Rule>, Vec<Rule>) {
    let Some(selector) = cluster.groups.selector_of(pod) else { return (Vec::new(), Vec::new()) };
    let with_selector = |mut rule: Rule| {
        rule.selector = Some(selector.clone());
        rule
    };
    match &args.spread {
        SpreadDefaults::System => {
            let rules = [(HOST, 3), (ZONE, 5)].map(|(key, skew)| {
                let constraint = TopologySpreadConstraint {
                    topology_key: key.into(),
                    max_skew: skew,
                    ..TopologySpreadConstraint::default()
                };
                with_selector(Rule::new(&constraint, pod))
            });
            (Vec::new(), rules.into())
        }
        SpreadDefaults::List(list) => {
            let (hard, soft): (Vec<_>, Vec<_>) = list.iter().partition(|one| is_required(one));
            let rules = |list: Vec<&TopologySpreadConstraint>| {
                list.into_iter().map(|one| with_selector(Rule::new(one, pod))).collect()
            };
            (rules(hard), rules(soft))
        }
    }
}

impl Rule {
    fn new(constraint: &TopologySpreadConstraint, pod: &PodInfo) -> Rule {
        let own = constraint.match_label_keys.iter();
        let own = own.filter_map(|key| pod.labels().get_key_value(key)).map(|(key, value)| {
            Requirement { key: key.clone(), test: Test::Equals(value.clone()) }
        });
        // The API server has checked the selector; one that it would refuse selects nothing.
        let selector = constraint.label_selector.as_ref();
        let selector = selector.and_then(|selector| selector.selector().ok());
        Rule {
            key: constraint.topology_key.clone(),
            max_skew: i64::from(constraint.max_skew),
            min_domains: constraint.min_domains.unwrap_or(1).max(1) as usize,
            selector: selector.map(|selector| selector.and(own)),
            ignores_affinity: constraint.node_affinity_policy.as_deref() == Some("Ignore"),
            honours_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }
}

/// Counts all pods there are. Domains of hosts may be taken for the nodes themselves, which then
/// all count.
fn count(
    rules: Vec<Rule>,
    pod: &PodInfo,
    cluster: &Snapshot,
    needs_all_labels: bool,
    hosts_are_nodes: bool,
) -> Vec<Counted> {
    let topologies: Vec<_> = rules.iter().map(|rule| cluster.topology(&rule.key)).collect();
    let required = Required::of(pod);
    let tolerations = &pod.object.spec.tolerations;
    let of = |rule: Rule| {
        let topology = cluster.topology(&rule.key);
        let by_node = hosts_are_nodes && rule.key == HOST;
        let is_included = |node: &NodeInfo| {
            let everywhere = topologies.iter().all(|all| all.of(node.index).is_some());
            by_node
                || (everywhere || !needs_all_labels)
                    && (rule.ignores_affinity || required.admits(node))
                    && !(rule.honours_taints
                        && node.object.spec.taints.iter().any(|taint| repels(taint, tolerations)))
        };
        let included: Vec<bool> = cluster.nodes().iter().map(is_included).collect();
        let size = if by_node { included.len() } else { topology.size };
        let mut counted = Counted {
            matches_self: rule
                .selector
                .as_ref()
                .is_some_and(|selector| selector.matches(pod.labels())),
            counts: vec![ABSENT; size],
            domains: 0,
            least: ABSENT,
            rule,
            topology,
            by_node,
            included,
        };
        counted.fill(pod, cluster);
        counted
    };
    rules.into_iter().map(of).collect()
}

impl Counted {
    fn fill(&mut self, pod: &PodInfo, cluster: &Snapshot) {
        for node in cluster.nodes().iter().filter(|node| self.included[node.index]) {
            let Some(domain) = self.domain(node.index) else { continue };
            let pods = node.pods.iter().filter(|other| self.counts_pod(pod, other)).count() as i32;
            if self.counts[domain] == ABSENT {
                self.counts[domain] = 0;
                self.domains += 1;
            }
            self.counts[domain] += pods;
        }
        self.least = self.counts.iter().copied().min().unwrap_or(ABSENT);
    }

    fn domain(&self, node: usize) -> Option<usize> {
        let domain = self.topology.of(node)?;
        Some(if self.by_node { node } else { domain })
    }

    fn counts_pod(&self, pod: &PodInfo, other: &PodInfo) -> bool {
        let selected =
            |selector: &Selector| !selector.is_empty() && selector.matches(other.labels());
        other.key.namespace == pod.key.namespace
            && !other.object.is_terminating()
            && self.rule.selector.as_ref().is_some_and(selected)
    }

    fn change(&mut self, pod: &PodInfo, node: usize, other: &PodInfo, by: i32) {
        if !self.included[node] || !self.counts_pod(pod, other) {
            return;
        }
        let Some(domain) = self.domain(node) else { return };
        let before = self.counts[domain];
        self.counts[domain] += by;
        if by < 0 {
            self.least = self.least.min(before + by);
        } else if before == self.least {
            self.least = self.counts.iter().copied().min().unwrap_or(ABSENT);
        }
    }

    /// Pods in the node's domain.
    fn there(&self, node: usize) -> Option<i64> {
        let count = self.counts[self.domain(node)?];
        Some(if count == ABSENT { 0 } else { i64::from(count) })
    }
}

impl Spread {
    fn counted(&mut self) -> impl Iterator<Item = &mut Counted> {
        let soft = match &mut self.soft {
            Soft::Asked(_) => &mut [],
            Soft::Counted(counted) => counted.as_mut_slice(),
        };
        self.hard.iter_mut().chain(soft)
    }

    fn soft(&self) -> &[Counted] {
        match &self.soft {
            Soft::Asked(_) => &[],
            Soft::Counted(counted) => counted,
        }
    }

    fn is_ignored(&self, node: usize) -> bool {
        self.needs_all_labels && self.soft().iter().any(|rule| rule.topology.of(node).is_none())
    }
}

impl Judge for Spread {
    fn scope(&self) -> Scope {
        Scope::Cluster
    }

    fn filter(&self, node: &NodeInfo, _: &Snapshot) -> Option<Rejection> {
        for counted in &self.hard {
            let Some(there) = counted.there(node.index) else {
                return Rejection::lasting(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                );
            };
            let fewest = match counted.domains < counted.rule.min_domains {
                true => 0,
                false => i64::from(counted.least),
            };
            if there + i64::from(counted.matches_self) - fewest > counted.rule.max_skew {
                return Rejection::curable("node(s) didn't match pod topology spread constraints");
            }
        }
        None
    }

    fn follow(&mut self, change: &Change, _: &Snapshot) -> bool {
        let (node, other, by) = match change {
            Change::Placed { node, pod } => (*node, pod, 1),
            Change::Removed { node, pod } => (*node, pod, -1),
            Change::Labels => return false,
            Change::Images => return true,
        };
        let pod = Arc::clone(&self.pod);
        if other.key.namespace == pod.key.namespace {
            self.counted().for_each(|counted| counted.change(&pod, node, other, by));
        }
        true
    }

    fn prepare(&mut self, candidates: &[u32], cluster: &Snapshot) {
        if let Soft::Asked(rules) = &mut self.soft {
            let rules = std::mem::take(rules);
            let counted = count(rules, &self.pod, cluster, self.needs_all_labels, true);
            self.soft = Soft::Counted(counted);
        }
        let nodes = || candidates.iter().map(|node| *node as usize);
        let counting = nodes().filter(|node| !self.is_ignored(*node)).count();
        let weight = |rule: &Counted| {
            let size = match rule.by_node {
                true => counting,
                false => {
                    let mut seen = vec![false; rule.topology.size];
                    let domains = nodes().filter(|node| !self.is_ignored(*node));
                    let domains = domains.filter_map(|node| rule.topology.of(node));
                    domains.filter(|at| !std::mem::replace(&mut seen[*at], true)).count()
                }
            };
            ((size + 2) as f64).ln()
        };
        self.weights = self.soft().iter().map(weight).collect();
    }

    /// Fewer matching pods in the node's domains are better.
    fn score(&self, node: &NodeInfo, _: &Snapshot) -> Option<i64> {
        if self.soft().is_empty() {
            return None;
        }
        if self.is_ignored(node.index) {
            return Some(IGNORED);
        }
        let share = self.soft().iter().zip(&self.weights).filter_map(|(counted, weight)| {
            let there = counted.there(node.index)? as f64;
            Some(there * weight + (counted.rule.max_skew - 1) as f64)
        });
        Some(share.sum::<f64>().round() as i64)
    }

    fn is_relative(&self) -> bool {
        true
    }

    fn normalize(&self, scores: &mut [i64]) {
        let counting = || scores.iter().copied().filter(|score| *score != IGNORED);
        let most = counting().max().unwrap_or(0);
        let least = counting().min().unwrap_or(0);
        for score in scores {
            *score = match *score {
                IGNORED => 0,
                _ if most == 0 => BEST,
                score => BEST * (most + least - score) / most,
            };
        }
    }
}
