//! One decision: filter, score, choose; and if no node takes the pod, what would help. Pure; the
//! executor binds.

mod memo;
mod trial;

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Rng;

use crate::plugins::{Reason, Rejection};
use crate::preemption::{self, Preemption};
use crate::profile::Profile;
use crate::snapshot::{PodInfo, Snapshot};

use memo::Memory;
pub use memo::{Judged, Memo, Verdict};
pub use trial::{Trial, rivals};

/// The node that a pod goes to, and its (weighted) score.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    pub node: Arc<str>,
    pub score: i64,
}

/// Why no node takes the pod: every rejection, none thrown away.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unschedulable {
    /// Nodes there are.
    pub nodes: usize,
    /// Why it was not worth asking any node.
    pub everywhere: Option<Reason>,
    /// How many nodes gave each reason.
    pub reasons: BTreeMap<Reason, usize>,
    /// The plugins that rejected a node, with how many each.
    pub plugins: BTreeMap<&'static str, usize>,
    /// What came of looking for devices that a claim could give back; none where nobody looked.
    pub devices_back: Option<&'static str>,
    /// What came of looking for others to make room; none where that was not done.
    pub preemption: Option<Preemption>,
}

/// A claim gives its devices back, so that they can be found elsewhere.
pub const DEALLOCATED: &str = "deallocation of ResourceClaim completed";

/// What was claimed for the pod when it was to go elsewhere goes, so that it can be claimed anew.
pub const DELETED: &str = "deletion of ResourceClaim completed";

/// All that the plugins say of one node, for `ctl why`.
#[derive(Clone, Debug, PartialEq)]
pub struct Opinion {
    pub node: Arc<str>,
    /// Plugin and reason; empty when the node can take the pod.
    pub rejections: Vec<(&'static str, Reason)>,
    /// Plugin and weighted score, of candidates only.
    pub scores: Vec<(&'static str, i64)>,
}

/// Decides for the pods of one profile.
pub struct Decider {
    pub profile: Arc<Profile>,
    rng: Rng,
    memory: Memory,
    /// Which node is asked first: the one after those asked last.
    next: usize,
    /// By node, of the decision at hand.
    verdicts: Vec<Verdict>,
}

impl Decider {
    pub fn new(profile: Arc<Profile>, rng: Rng) -> Decider {
        Decider { profile, rng, memory: Memory::default(), next: 0, verdicts: Vec::new() }
    }

    /// The best node for the pod, of those that were asked; among equals one at random.
    pub fn schedule(
        &mut self,
        pod: &Arc<PodInfo>,
        cluster: &Snapshot,
    ) -> Result<Placement, Unschedulable> {
        let mut alone;
        // What is said of devices depends on more than the pod and the node.
        let signature = pod.signature().filter(|_| !cluster.devices.concern(pod));
        let memo = match signature {
            Some(signature) => self.memory.recall(signature, pod, cluster, &self.profile),
            None => {
                alone = Memo::new(pod, cluster, &self.profile);
                &mut alone
            }
        };
        let mut search = Search {
            pod,
            cluster,
            memo,
            profile: &self.profile,
            rng: &self.rng,
            verdicts: &mut self.verdicts,
        };
        search.run(&mut self.next)
    }
}

struct Search<'a> {
    pod: &'a Arc<PodInfo>,
    cluster: &'a Snapshot,
    memo: &'a mut Memo,
    profile: &'a Profile,
    rng: &'a Rng,
    verdicts: &'a mut Vec<Verdict>,
}

impl Search<'_> {
    fn run(&mut self, next: &mut usize) -> Result<Placement, Unschedulable> {
        let nodes = self.cluster.nodes();
        self.verdicts.clear();
        self.verdicts.resize(nodes.len(), Verdict::UNASKED);
        if nodes.is_empty() {
            return Err(Unschedulable::default());
        }
        if let Some((plugin, reason)) = self.memo.refusal() {
            let everywhere = Some(reason);
            let plugins = BTreeMap::from([(plugin, nodes.len())]);
            let refused =
                Unschedulable { nodes: nodes.len(), everywhere, plugins, ..Default::default() };
            return Err(self.with_preemption(refused));
        }
        let candidates = self.candidates(next);
        if candidates.is_empty() {
            let refused = self.refused();
            return Err(self.with_preemption(refused));
        }
        if let [only] = candidates[..] {
            return Ok(Placement { node: nodes[only as usize].name.clone(), score: 0 });
        }
        let totals = self.memo.score(&candidates, self.cluster);
        let score = totals.iter().copied().max().unwrap_or(0);
        let equals = totals.iter().filter(|total| **total == score).count();
        let chosen = self.rng.below(equals as u64) as usize;
        let best = candidates.iter().zip(&totals).filter(|(_, total)| **total == score);
        let node = best.map(|(node, _)| *node as usize).nth(chosen).unwrap_or(0);
        Ok(Placement { node: nodes[node].name.clone(), score })
    }

    /// Enough nodes that take the pod, or all. The one that is being cleared for it is taken if
    /// that is done.
    fn candidates(&mut self, next: &mut usize) -> Vec<u32> {
        let nodes = self.cluster.nodes();
        let nominated = self.cluster.nominations.of(&self.pod.key);
        if let Some(node) = nominated.and_then(|name| self.cluster.node(name))
            && self.ask(node.index)
        {
            return vec![node.index as u32];
        }
        if let Some((plugin, names)) = self.memo.only() {
            let named = names.iter().filter_map(|name| self.cluster.node(name));
            let named: Vec<usize> = named.map(|node| node.index).collect();
            let reason = format!("node(s) didn't satisfy plugin(s) [{plugin}]");
            let reasons = crate::plugins::Reasons::Many(vec![reason.into()]);
            let others = self.memo.number(plugin, Rejection { reasons, curable: false });
            self.verdicts.fill(others);
            return named.into_iter().filter(|at| self.ask(*at)).map(|at| at as u32).collect();
        }
        let enough = self.profile.enough(nodes.len());
        let order = self.cluster.order();
        let start = *next % nodes.len();
        let mut candidates = Vec::with_capacity(enough);
        let mut asked = 0;
        for at in order[start..].iter().chain(&order[..start]) {
            asked += 1;
            if self.ask(*at as usize) {
                candidates.push(*at);
                if candidates.len() == enough {
                    break;
                }
            }
        }
        *next = (start + asked) % nodes.len();
        candidates
    }

    /// Whether the node takes the pod.
    fn ask(&mut self, node: usize) -> bool {
        let mut verdict = self.memo.verdict(node, self.cluster);
        let info = &self.cluster.nodes()[node];
        if verdict == Verdict::FITS && !self.cluster.nominations.on(&info.name).is_empty() {
            let rivals = rivals(self.pod, info, self.cluster);
            if !rivals.is_empty() {
                let mut trial = Trial::new(&mut self.memo.judges, self.cluster, info);
                let rejection = trial.rejection(&rivals);
                drop(trial);
                if let Some((plugin, rejection)) = rejection {
                    verdict = self.memo.number(plugin, rejection);
                }
            }
        }
        self.verdicts[node] = verdict;
        verdict == Verdict::FITS
    }

    fn refused(&self) -> Unschedulable {
        let mut refused = Unschedulable { nodes: self.verdicts.len(), ..Default::default() };
        for ((plugin, rejection), count) in self.memo.count(self.verdicts) {
            *refused.plugins.entry(*plugin).or_default() += count;
            for reason in rejection.reasons.iter() {
                *refused.reasons.entry(reason).or_default() += count;
            }
        }
        refused
    }

    fn with_preemption(&mut self, mut refused: Unschedulable) -> Unschedulable {
        if self.profile.preempts {
            let mut attempt = preemption::Attempt {
                pod: self.pod,
                cluster: self.cluster,
                memo: self.memo,
                args: &self.profile.args,
                rng: self.rng,
                verdicts: self.verdicts,
            };
            refused.preemption = Some(attempt.run());
            let mut plugins = self.profile.plugins.iter();
            let looks = plugins.any(|own| own.plugin.name() == "DynamicResources");
            refused.devices_back = looks.then(|| {
                let own = refused.plugins.contains_key("DynamicResources");
                devices_back(self.pod, self.cluster, own)
            });
        }
        refused
    }
}

/// As kube-scheduler words it. Where devices are has to have been the reason for a rejection.
fn devices_back(pod: &PodInfo, cluster: &Snapshot, rejected: bool) -> &'static str {
    let devices = &cluster.devices;
    match devices.concern(pod) {
        false => "no new claims to deallocate",
        true if rejected && devices.misplaced(pod, cluster).is_some() => DEALLOCATED,
        true if devices.stale(pod).is_some() => DELETED,
        true => "still not schedulable",
    }
}

/// What every plugin says of every node, also where one has already refused.
pub fn opinions(pod: &Arc<PodInfo>, cluster: &Snapshot, profile: &Profile) -> Vec<Opinion> {
    let mut memo = Memo::new(pod, cluster, profile);
    let mut opinions: Vec<Opinion> = Vec::new();
    let mut candidates: Vec<u32> = Vec::new();
    for node in cluster.nodes() {
        let mut rejections = Vec::new();
        for judged in memo.filtering() {
            let rejection = judged.judge.filter(node, cluster);
            let reasons = rejection.iter().flat_map(|rejection| rejection.reasons.iter());
            rejections.extend(reasons.map(|reason| (judged.plugin.name(), reason)));
        }
        if rejections.is_empty() {
            candidates.push(node.index as u32);
        }
        opinions.push(Opinion { node: node.name.clone(), rejections, scores: Vec::new() });
    }
    for (plugin, scores) in memo.scores_by_plugin(&candidates, cluster) {
        for (at, score) in candidates.iter().zip(scores) {
            opinions[*at as usize].scores.push((plugin, score));
        }
    }
    opinions
}
