//! What was found out about pods of one signature, kept between decisions: what each judge says of
//! each node. A decision changes one node, so that the next has only that one to judge anew.

use std::collections::HashMap;
use std::sync::Arc;

use crate::plugins::{Judge, Plugin, Reason, Rejection, Scope};
use crate::preemption::Harms;
use crate::profile::Profile;
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// More signatures than this are forgotten, the one that was not asked for longest first.
const MOST: usize = 256;

/// A judge and what it counts for.
pub struct Judged {
    pub plugin: &'static dyn Plugin,
    pub filters: bool,
    pub weight: i64,
    pub judge: Box<dyn Judge>,
}

#[derive(Default)]
pub struct Memory {
    memos: HashMap<Arc<[u8]>, Memo>,
    asked: u64,
}

pub struct Memo {
    /// Those that look at the node alone come first.
    pub judges: Vec<Judged>,
    /// How many those are.
    local: usize,
    cells: Vec<Cell>,
    /// Relative scores of local judges, by judge and node.
    relative: Vec<(usize, Vec<i64>)>,
    /// Every different rejection, and whose it was.
    rejections: Vec<(&'static str, Rejection)>,
    /// What making room would cost.
    pub harms: Harms,
    /// Up to where the judges have followed.
    seen: u64,
    asked: u64,
}

/// What local judges say of one node.
#[derive(Clone, Copy, Default)]
struct Cell {
    /// Of the node when it was judged; 0: never.
    generation: u64,
    verdict: Verdict,
    /// Their scores that stand for themselves, weighted.
    fixed: i32,
}

/// That a node takes the pod, or the number of the rejection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict(u32);

impl Verdict {
    pub const FITS: Verdict = Verdict(0);
    /// It was not asked.
    pub const UNASKED: Verdict = Verdict(u32::MAX);

    /// Where its rejection is, if it is one.
    pub fn rejection(self) -> Option<usize> {
        (self != Verdict::FITS && self != Verdict::UNASKED).then(|| self.0 as usize - 1)
    }
}

impl Memory {
    /// What is known for a pod like this, brought up to date.
    pub fn recall(
        &mut self,
        signature: &Arc<[u8]>,
        pod: &Arc<PodInfo>,
        cluster: &Snapshot,
        profile: &Profile,
    ) -> &mut Memo {
        self.asked += 1;
        let known = self.memos.get_mut(signature).is_some_and(|memo| memo.follow(cluster));
        if !known {
            self.forget_one(signature);
            self.memos.insert(Arc::clone(signature), Memo::new(pod, cluster, profile));
        }
        let memo = self.memos.entry(Arc::clone(signature));
        let memo = memo.or_insert_with(|| Memo::new(pod, cluster, profile));
        memo.asked = self.asked;
        memo
    }

    fn forget_one(&mut self, signature: &Arc<[u8]>) {
        self.memos.remove(signature);
        if self.memos.len() >= MOST {
            let oldest = self.memos.iter().min_by_key(|(_, memo)| memo.asked);
            if let Some(oldest) = oldest.map(|(signature, _)| Arc::clone(signature)) {
                self.memos.remove(&oldest);
            }
        }
    }
}

impl Memo {
    pub fn new(pod: &Arc<PodInfo>, cluster: &Snapshot, profile: &Profile) -> Memo {
        let judge = |enabled: &crate::profile::Enabled| {
            let judge = enabled.plugin.judge(pod, cluster, &profile.args)?;
            let (plugin, filters, weight) = (enabled.plugin, enabled.filters, enabled.weight);
            Some(Judged { plugin, filters, weight, judge })
        };
        let mut judges: Vec<Judged> = profile.plugins.iter().filter_map(judge).collect();
        judges.sort_by_key(|judged| judged.judge.scope() == Scope::Cluster);
        let local = judges.iter().filter(|own| own.judge.scope() == Scope::Node).count();
        let nodes = cluster.nodes().len();
        let relative = (0..local)
            .filter(|at| judges[*at].weight > 0 && judges[*at].judge.is_relative())
            .map(|at| (at, vec![0; nodes]));
        Memo {
            relative: relative.collect(),
            local,
            cells: vec![Cell::default(); nodes],
            rejections: Vec::new(),
            harms: Harms::default(),
            seen: cluster.journal().end(),
            asked: 0,
            judges,
        }
    }

    /// Whether the judges could follow all that has happened.
    fn follow(&mut self, cluster: &Snapshot) -> bool {
        let Some(changes) = cluster.journal().since(self.seen) else { return false };
        for change in changes {
            if !self.judges.iter_mut().all(|judged| judged.judge.follow(change, cluster)) {
                return false;
            }
        }
        self.seen = cluster.journal().end();
        // Of a cluster that always changes there is ever more to say.
        self.rejections.len() < 1000
    }

    /// Whether no judge looks at more than one node.
    pub fn is_local(&self) -> bool {
        self.local == self.judges.len()
    }

    pub fn refusal(&self) -> Option<(&'static str, Reason)> {
        self.filtering().find_map(|own| Some((own.plugin.name(), own.judge.refuse()?)))
    }

    pub fn only(&self) -> Option<(&'static str, &[String])> {
        self.filtering().find_map(|own| Some((own.plugin.name(), own.judge.only()?)))
    }

    pub fn filtering(&self) -> impl Iterator<Item = &Judged> {
        self.judges.iter().filter(|judged| judged.filters)
    }

    pub fn rejection(&self, verdict: Verdict) -> Option<&(&'static str, Rejection)> {
        self.rejections.get(verdict.rejection()?)
    }

    /// How often each rejection is among the verdicts.
    pub fn count(
        &self,
        verdicts: &[Verdict],
    ) -> impl Iterator<Item = (&(&'static str, Rejection), usize)> {
        let mut counts = vec![0; self.rejections.len()];
        for at in verdicts.iter().filter_map(|verdict| verdict.rejection()) {
            counts[at] += 1;
        }
        self.rejections.iter().zip(counts).filter(|(_, count)| *count > 0)
    }

    /// What all judges say of the node as it is.
    pub fn verdict(&mut self, node: usize, cluster: &Snapshot) -> Verdict {
        if self.cells[node].generation != cluster.generations()[node] {
            self.judge(node, cluster);
        }
        let verdict = self.cells[node].verdict;
        if verdict != Verdict::FITS || self.is_local() {
            return verdict;
        }
        let info = &cluster.nodes()[node];
        let others = self.judges[self.local..].iter().filter(|judged| judged.filters);
        for judged in others {
            if let Some(rejection) = judged.judge.filter(info, cluster) {
                return number(&mut self.rejections, judged.plugin.name(), rejection);
            }
        }
        Verdict::FITS
    }

    /// The number of a rejection that was found elsewhere.
    pub fn number(&mut self, plugin: &'static str, rejection: Rejection) -> Verdict {
        number(&mut self.rejections, plugin, rejection)
    }

    fn judge(&mut self, node: usize, cluster: &Snapshot) {
        let info = &cluster.nodes()[node];
        let cell = &mut self.cells[node];
        *cell = Cell { generation: cluster.generations()[node], ..Cell::default() };
        let local = &self.judges[..self.local];
        for judged in local.iter().filter(|judged| judged.filters) {
            if let Some(rejection) = judged.judge.filter(info, cluster) {
                cell.verdict = number(&mut self.rejections, judged.plugin.name(), rejection);
                return;
            }
        }
        for judged in local.iter().filter(|own| own.weight > 0 && !own.judge.is_relative()) {
            let score = judged.judge.score(info, cluster).unwrap_or(0);
            cell.fixed += (score * judged.weight) as i32;
        }
        for (at, scores) in &mut self.relative {
            scores[node] = local[*at].judge.score(info, cluster).unwrap_or(0);
        }
    }

    /// The total score of each candidate; all of them have been found to fit.
    pub fn score(&mut self, candidates: &[u32], cluster: &Snapshot) -> Vec<i64> {
        let nodes = || candidates.iter().map(|node| *node as usize);
        let mut totals: Vec<i64> = nodes().map(|node| i64::from(self.cells[node].fixed)).collect();
        let mut add = |judged: &Judged, mut scores: Vec<i64>| {
            judged.judge.normalize(&mut scores);
            totals.iter_mut().zip(scores).for_each(|(total, one)| *total += one * judged.weight);
        };
        for (at, scores) in &self.relative {
            let judged = &self.judges[*at];
            // Among equals nobody gains.
            if nodes().any(|node| scores[node] != 0) {
                add(judged, nodes().map(|node| scores[node]).collect());
            }
        }
        for judged in self.judges[self.local..].iter_mut().filter(|own| own.weight > 0) {
            judged.judge.prepare(candidates, cluster);
            let score = |node: usize| judged.judge.score(&cluster.nodes()[node], cluster);
            let scores: Option<Vec<i64>> = nodes().map(score).collect();
            if let Some(scores) = scores {
                add(judged, scores);
            }
        }
        totals
    }

    /// The weighted score of each candidate by each judge, in the order of the judges.
    pub fn scores_by_plugin(
        &mut self,
        candidates: &[u32],
        cluster: &Snapshot,
    ) -> Vec<(&'static str, Vec<i64>)> {
        let nodes = || candidates.iter().map(|node| &cluster.nodes()[*node as usize]);
        let of = |judged: &mut Judged| {
            judged.judge.prepare(candidates, cluster);
            let scores: Option<Vec<i64>> =
                nodes().map(|node: &NodeInfo| judged.judge.score(node, cluster)).collect();
            let mut scores = scores?;
            judged.judge.normalize(&mut scores);
            scores.iter_mut().for_each(|score| *score *= judged.weight);
            Some((judged.plugin.name(), scores))
        };
        self.judges.iter_mut().filter(|judged| judged.weight > 0).filter_map(of).collect()
    }
}

fn number(
    known: &mut Vec<(&'static str, Rejection)>,
    plugin: &'static str,
    rejection: Rejection,
) -> Verdict {
    let same = |(own, known): &(&'static str, Rejection)| *own == plugin && *known == rejection;
    let at = known.iter().position(same).unwrap_or_else(|| {
        known.push((plugin, rejection));
        known.len() - 1
    });
    Verdict(at as u32 + 1)
}
