//! One decision: filter, score, choose. Pure; the executor binds.

use std::collections::BTreeMap;

use client::Rng;

use crate::plugins::{Judge, PLUGINS, Plugin, Reason};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// A node that takes the pod, and what each plugin gave it (weighted).
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    pub node: String,
    pub score: i64,
}

/// Why no node takes the pod: every rejection, none thrown away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unschedulable {
    /// Nodes there are.
    pub nodes: usize,
    /// Why it was not worth asking any node.
    pub everywhere: Option<Reason>,
    /// How many nodes gave each reason.
    pub reasons: BTreeMap<Reason, usize>,
    /// The plugins that rejected a node, with how many each.
    pub plugins: BTreeMap<&'static str, usize>,
}

/// All that the plugins say of one node, for `ctl why`.
#[derive(Clone, Debug, PartialEq)]
pub struct Opinion {
    pub node: String,
    /// Plugin and reason; empty when the node can take the pod.
    pub rejections: Vec<(&'static str, Reason)>,
    /// Plugin and weighted score, of candidates only.
    pub scores: Vec<(&'static str, i64)>,
}

type Judges<'a> = Vec<(&'static dyn Plugin, Box<dyn Judge + 'a>)>;

/// The best node for the pod; among equals one at random.
pub fn schedule(pod: &PodInfo, snapshot: &Snapshot, rng: &Rng) -> Result<Placement, Unschedulable> {
    let judges = judges(pod, snapshot);
    let mut refused = Unschedulable { nodes: snapshot.nodes().len(), ..Unschedulable::default() };
    let refusal = judges.iter().find_map(|(plugin, judge)| Some((plugin.name(), judge.refuse()?)));
    if let Some((plugin, reason)) = refusal.filter(|_| refused.nodes > 0) {
        refused.plugins.insert(plugin, refused.nodes);
        refused.everywhere = Some(reason);
        return Err(refused);
    }
    let mut candidates = Vec::new();
    for node in snapshot.nodes() {
        match first_rejection(&judges, node) {
            None => candidates.push(node),
            Some((plugin, reasons)) => {
                *refused.plugins.entry(plugin).or_default() += 1;
                for reason in reasons {
                    *refused.reasons.entry(reason).or_default() += 1;
                }
            }
        }
    }
    let mut totals = vec![0; candidates.len()];
    if candidates.len() > 1 {
        for (_, scores) in score(&judges, &candidates) {
            totals.iter_mut().zip(scores).for_each(|(total, score)| *total += score);
        }
    }
    let Some(best) = totals.iter().copied().max() else { return Err(refused) };
    let equals: Vec<usize> = (0..totals.len()).filter(|at| totals[*at] == best).collect();
    let chosen = equals[rng.below(equals.len() as u64) as usize];
    Ok(Placement { node: candidates[chosen].name.clone(), score: best })
}

/// What every plugin says of every node, also where one has already refused.
pub fn opinions(pod: &PodInfo, snapshot: &Snapshot) -> Vec<Opinion> {
    let judges = judges(pod, snapshot);
    let mut opinions: Vec<Opinion> = Vec::new();
    for node in snapshot.nodes() {
        let rejections = judges.iter().flat_map(|(plugin, judge)| {
            judge.filter(node).into_iter().map(|reason| (plugin.name(), reason))
        });
        let rejections = rejections.collect();
        opinions.push(Opinion { node: node.name.clone(), rejections, scores: Vec::new() });
    }
    let fits: Vec<usize> =
        (0..opinions.len()).filter(|at| opinions[*at].rejections.is_empty()).collect();
    let candidates: Vec<&NodeInfo> = fits.iter().map(|at| &snapshot.nodes()[*at]).collect();
    for (plugin, scores) in score(&judges, &candidates) {
        for (at, score) in fits.iter().zip(scores) {
            opinions[*at].scores.push((plugin, score));
        }
    }
    opinions
}

fn judges<'a>(pod: &'a PodInfo, snapshot: &'a Snapshot) -> Judges<'a> {
    let judge = |plugin: &&'static dyn Plugin| Some((*plugin, plugin.judge(pod, snapshot)?));
    PLUGINS.iter().filter_map(judge).collect()
}

fn first_rejection(judges: &Judges, node: &NodeInfo) -> Option<(&'static str, Vec<Reason>)> {
    judges.iter().find_map(|(plugin, judge)| {
        let reasons = judge.filter(node);
        (!reasons.is_empty()).then(|| (plugin.name(), reasons))
    })
}

/// Weighted scores of each scoring plugin, in the order of the candidates.
fn score(judges: &Judges, candidates: &[&NodeInfo]) -> Vec<(&'static str, Vec<i64>)> {
    let of_plugin = |(plugin, judge): &(&'static dyn Plugin, Box<dyn Judge + '_>)| {
        let raw: Option<Vec<i64>> = candidates.iter().map(|node| judge.score(node)).collect();
        let mut scores = raw?;
        judge.normalize(&mut scores);
        scores.iter_mut().for_each(|score| *score *= plugin.weight());
        Some((plugin.name(), scores))
    };
    judges.iter().filter_map(of_plugin).collect()
}
