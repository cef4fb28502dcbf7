//! DefaultPreemption: who would have to make room for a pod that no node takes. Pure: it asks the
//! same judges about nodes without the victims.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/>

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use client::Rng;
use proto::time::Time;

use crate::cycle::{Memo, Trial, Verdict, rivals};
use crate::plugins::{Reason, Reasons, Rejection};
use crate::profile::Args;
use crate::snapshot::{NodeInfo, PodInfo, Snapshot, Spent};

/// What came of looking for others to make room.
#[derive(Clone, Debug)]
pub enum Preemption {
    /// These should.
    Found(Victims),
    /// It would help nowhere. How many nodes gave each reason.
    Useless { nodes: usize, reasons: BTreeMap<Reason, usize> },
    /// The pod may not take another's place (now).
    Refused(&'static str),
}

/// Who must go from a node so that the pod can go there.
#[derive(Clone, Debug)]
pub struct Victims {
    pub node: Arc<str>,
    /// The most important first.
    pub pods: Vec<Arc<PodInfo>>,
    /// How many of them their budgets would keep.
    pub violations: usize,
}

/// What is known of a decision that failed.
pub struct Attempt<'a> {
    pub pod: &'a Arc<PodInfo>,
    pub cluster: &'a Snapshot,
    pub memo: &'a mut Memo,
    pub args: &'a Args,
    pub rng: &'a Rng,
    /// By node.
    pub verdicts: &'a [Verdict],
}

const NO_VICTIMS: Reason = Reason::Borrowed("No preemption victims found for incoming pod");
const NOT_HELPFUL: Reason = Reason::Borrowed("Preemption is not helpful for scheduling");

impl PartialEq for Preemption {
    fn eq(&self, other: &Preemption) -> bool {
        match (self, other) {
            (Preemption::Found(one), Preemption::Found(other)) => {
                let names = |victims: &Victims| -> Vec<client::Key> {
                    victims.pods.iter().map(|pod| pod.key.clone()).collect()
                };
                one.node == other.node && names(one) == names(other)
            }
            (Preemption::Refused(one), Preemption::Refused(other)) => one == other,
            (
                Preemption::Useless { nodes, reasons },
                Preemption::Useless { nodes: others, reasons: theirs },
            ) => nodes == others && reasons == theirs,
            _ => false,
        }
    }
}

/// By node: the harm that was found there last, where that depends on the node alone.
#[derive(Default)]
pub struct Harms(Vec<Option<Harm>>);

#[derive(Clone, Copy)]
struct Harm {
    /// Of the node, and of all budgets.
    versions: (u64, u64),
    found: Result<Rank, Verdict>,
}

impl Attempt<'_> {
    pub fn run(&mut self) -> Preemption {
        if let Some(why) = self.ineligible() {
            return Preemption::Refused(why);
        }
        let nodes = self.cluster.nodes().len();
        let order = self.cluster.order().iter().map(|at| *at as usize);
        let curable: Vec<usize> = order.filter(|at| self.is_curable(*at)).collect();
        let wanted = (curable.len() * self.args.min_candidate_nodes_percentage / 100)
            .max(self.args.min_candidate_nodes_absolute);
        let start = self.rng.below(curable.len() as u64) as usize;
        let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
        let mut best: Option<(Rank, usize)> = None;
        let (mut found, mut peaceful) = (0, false);
        for at in curable[start..].iter().chain(&curable[..start]) {
            match self.harm(*at) {
                Err(why) => {
                    let why = self.memo.rejection(why).map(|(_, rejection)| &rejection.reasons);
                    for reason in why.into_iter().flat_map(Reasons::iter) {
                        *reasons.entry(reason).or_default() += 1;
                    }
                }
                Ok(rank) => {
                    found += 1;
                    peaceful |= rank.0 == 0;
                    if best.as_ref().is_none_or(|(known, _)| rank < *known) {
                        best = Some((rank, *at));
                    }
                }
            }
            if found >= wanted && peaceful {
                break;
            }
        }
        let best = best.and_then(|(_, at)| self.victims(&self.cluster.nodes()[at]).ok());
        if let Some(victims) = best {
            return Preemption::Found(victims);
        }
        if nodes > curable.len() {
            *reasons.entry(NOT_HELPFUL).or_default() += nodes - curable.len();
        }
        Preemption::Useless { nodes, reasons }
    }

    /// How bad it would be to make room on the node, or why that does not help.
    fn harm(&mut self, at: usize) -> Result<Rank, Verdict> {
        let node = &self.cluster.nodes()[at];
        let remembers = self.memo.is_local() && self.cluster.nominations.on(&node.name).is_empty();
        let versions = (self.cluster.generations()[at], self.cluster.budgets.version);
        let known = self.memo.harms.0.get(at).copied().flatten();
        if let Some(known) = known.filter(|known| remembers && known.versions == versions) {
            return known.found;
        }
        let found = match self.victims(node) {
            Ok(victims) => Ok(rank(&victims)),
            Err(reasons) => {
                Err(self.memo.number("DefaultPreemption", Rejection { reasons, curable: false }))
            }
        };
        if remembers {
            self.memo.harms.0.resize(self.cluster.nodes().len(), None);
            self.memo.harms.0[at] = Some(Harm { versions, found });
        }
        found
    }

    fn ineligible(&self) -> Option<&'static str> {
        if self.pod.object.spec.preemption_policy == "Never" {
            return Some("not eligible due to preemptionPolicy=Never.");
        }
        let name = self.cluster.nominations.of(&self.pod.key)?;
        let node = self.cluster.node(name)?;
        // Where the node has become the wrong one, waiting there is in vain.
        let lost =
            self.memo.rejection(self.verdicts[node.index]).is_some_and(|(_, no)| !no.curable);
        let leaving =
            |other: &Arc<PodInfo>| other.priority() < self.pod.priority() && other.makes_room();
        let waits = !lost && node.pods.iter().any(leaving);
        waits.then_some("not eligible due to a terminating pod on the nominated node.")
    }

    fn is_curable(&self, node: usize) -> bool {
        self.memo.rejection(self.verdicts[node]).is_some_and(|(_, rejection)| rejection.curable)
    }

    /// The fewest and least important pods that must leave the node, or why that does not help.
    fn victims(&mut self, node: &NodeInfo) -> Result<Victims, Reasons> {
        let lower = node.pods.iter().filter(|other| other.priority() < self.pod.priority());
        let mut lower: Vec<Arc<PodInfo>> = lower.cloned().collect();
        if lower.is_empty() {
            return Err(Reasons::Many(vec![NO_VICTIMS]));
        }
        lower.sort_by_key(|pod| importance(pod));
        let rivals = rivals(self.pod, node, self.cluster);
        let mut trial = Trial::new(&mut self.memo.judges, self.cluster, node);
        lower.iter().for_each(|pod| trial.remove(pod));
        if let Some((_, rejection)) = trial.rejection(&rivals) {
            return Err(rejection.reasons);
        }
        let mut spent = Spent::default();
        let (kept, free): (Vec<_>, Vec<_>) =
            lower.into_iter().partition(|pod| self.cluster.budgets.violates(pod, &mut spent));
        let protected = kept.len();
        let (mut pods, mut violations) = (Vec::new(), 0);
        for (at, pod) in kept.into_iter().chain(free).enumerate() {
            trial.add(&pod);
            if trial.rejection(&rivals).is_some() {
                trial.remove(&pod);
                violations += usize::from(at < protected);
                pods.push(pod);
            }
        }
        pods.sort_by_key(|pod| importance(pod));
        match pods.is_empty() {
            true => Err(Reasons::Many(vec![NO_VICTIMS])),
            false => Ok(Victims { node: node.name.clone(), pods, violations }),
        }
    }
}

/// The most important first: by priority, then the one that has run longest.
fn importance(pod: &PodInfo) -> (Reverse<i32>, bool, Option<Time>) {
    (Reverse(pod.priority()), pod.started().is_none(), pod.started())
}

/// The least is best: violations of budgets, the highest priority, the sum of priorities (none
/// counts less than nothing, so that fewer victims are better), their number, and the node whose
/// most important victim began last.
type Rank = (usize, i32, i64, usize, Reverse<(bool, Option<Time>)>);

fn rank(victims: &Victims) -> Rank {
    let pods = &victims.pods;
    let highest = pods.first().map_or(i32::MIN, |pod| pod.priority());
    let sum = pods.iter().map(|pod| i64::from(pod.priority()) + (1 << 31)).sum();
    let first = pods.first().and_then(|pod| pod.started());
    (victims.violations, highest, sum, pods.len(), Reverse((first.is_none(), first)))
}
