//! InterPodAffinity: near or far from other pods, required and preferred, in both directions.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity>

use std::sync::Arc;

use super::{BEST, Event, Judge, Plugin, Rejection, Scope};
use crate::profile::Args;
use crate::snapshot::{Change, NodeInfo, PodInfo, Snapshot, Term, Topology};

pub struct InterPodAffinity;

/// A number for each domain of a label.
struct Tally {
    key: String,
    topology: Arc<Topology>,
    counts: Vec<i64>,
}

struct Company {
    pod: Arc<PodInfo>,
    /// By term: pods that all of them match.
    near: Vec<Tally>,
    /// What they add up to; with nothing, the pod may be the first of its group.
    near_total: i64,
    /// All terms match the pod itself.
    founds_group: bool,
    /// By term.
    far: Vec<Tally>,
    /// By label: terms of pods there that want this one away.
    closed: Vec<Tally>,
    /// By label: what the pod's wishes and those of pods there amount to.
    wishes: Vec<Tally>,
    /// What being wanted by a pod there counts for; nothing where nobody's wishes matter.
    wanted: Option<i64>,
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn cures(&self) -> &'static [Event] {
        use Event::{NodeAdded, NodeLabels, PodAdded, PodDeleted, PodLabels};
        &[NodeAdded, NodeLabels, PodAdded, PodDeleted, PodLabels]
    }

    fn heeds(&self, waiting: &PodInfo, event: Event, pod: &PodInfo, cluster: &Snapshot) -> bool {
        let any = |terms: Option<&Vec<Term>>, of: &PodInfo| {
            terms.into_iter().flatten().any(|term| term.matches(of, cluster))
        };
        let own = waiting.terms.as_deref();
        let near = any(own.map(|own| &own.near), pod);
        match event {
            Event::PodAdded => near,
            // The last of a group leaves room for the first of the next.
            Event::PodDeleted => {
                let theirs = pod.terms.as_deref().map(|theirs| &theirs.far);
                near || any(own.map(|own| &own.far), pod) || any(theirs, waiting)
            }
            _ => true,
        }
    }

    fn judge(&self, pod: &Arc<PodInfo>, cluster: &Snapshot, args: &Args) -> Option<Box<dyn Judge>> {
        if pod.terms.is_none() && !cluster.is_choosy() {
            return None;
        }
        let own = pod.terms.as_deref();
        let tallies = |terms: Option<&Vec<Term>>| {
            let terms = terms.into_iter().flatten();
            terms.map(|term| Tally::new(&term.key, cluster)).collect::<Vec<_>>()
        };
        let (near, far) = (own.map(|own| &own.near), own.map(|own| &own.far));
        let wishes = own.is_some_and(|own| !own.wishes.is_empty());
        let mut company = Company {
            near: tallies(near),
            near_total: 0,
            founds_group: near.into_iter().flatten().all(|term| term.matches(pod, cluster)),
            far: tallies(far),
            closed: Vec::new(),
            wishes: Vec::new(),
            wanted: (wishes || !args.ignore_preferred_terms_of_existing_pods)
                .then_some(args.hard_pod_affinity_weight),
            pod: Arc::clone(pod),
        };
        for node in cluster.nodes() {
            for other in &node.pods {
                company.count(node.index, other, 1, cluster);
            }
        }
        Some(Box::new(company))
    }
}

impl Company {
    fn count(&mut self, node: usize, other: &PodInfo, by: i64, cluster: &Snapshot) {
        let pod = Arc::clone(&self.pod);
        if let Some(own) = pod.terms.as_deref() {
            let matches = |term: &Term| term.matches(other, cluster);
            if !own.near.is_empty() && own.near.iter().all(matches) {
                for tally in &mut self.near {
                    self.near_total += tally.add(node, by);
                }
            }
            for (term, tally) in own.far.iter().zip(&mut self.far) {
                if matches(term) {
                    tally.add(node, by);
                }
            }
            for (weight, term) in &own.wishes {
                if matches(term) {
                    tally(&mut self.wishes, &term.key, cluster).add(node, by * weight);
                }
            }
        }
        let Some(theirs) = other.terms.as_deref() else { return };
        let matches = |term: &Term| term.matches(&pod, cluster);
        for term in theirs.far.iter().filter(|term| matches(term)) {
            tally(&mut self.closed, &term.key, cluster).add(node, by);
        }
        let Some(wanted) = self.wanted else { return };
        for (weight, term) in theirs.wishes.iter().filter(|(_, term)| matches(term)) {
            tally(&mut self.wishes, &term.key, cluster).add(node, by * weight);
        }
        for term in theirs.near.iter().filter(|term| wanted > 0 && matches(term)) {
            tally(&mut self.wishes, &term.key, cluster).add(node, by * wanted);
        }
    }
}

impl Judge for Company {
    fn scope(&self) -> Scope {
        Scope::Cluster
    }

    fn filter(&self, node: &NodeInfo, _: &Snapshot) -> Option<Rejection> {
        let at = node.index;
        if !self.near.is_empty() {
            let first = self.near_total == 0 && self.founds_group;
            let near = |tally: &Tally| tally.of(at).is_some_and(|count| first || count > 0);
            if !self.near.iter().all(near) {
                return Rejection::lasting("node(s) didn't match pod affinity rules");
            }
        }
        let holds = |tally: &Tally| tally.of(at).is_some_and(|count| count > 0);
        if self.far.iter().any(holds) {
            return Rejection::curable("node(s) didn't match pod anti-affinity rules");
        }
        if self.closed.iter().any(holds) {
            let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
            return Rejection::curable(reason);
        }
        None
    }

    fn follow(&mut self, change: &Change, cluster: &Snapshot) -> bool {
        match change {
            Change::Placed { node, pod } => self.count(*node, pod, 1, cluster),
            Change::Removed { node, pod } => self.count(*node, pod, -1, cluster),
            Change::Labels => return false,
            Change::Images => {}
        }
        true
    }

    fn score(&self, node: &NodeInfo, _: &Snapshot) -> Option<i64> {
        if self.wishes.is_empty() {
            return None;
        }
        Some(self.wishes.iter().filter_map(|tally| tally.of(node.index)).sum())
    }

    fn is_relative(&self) -> bool {
        true
    }

    fn normalize(&self, scores: &mut [i64]) {
        let most = scores.iter().copied().max().unwrap_or(0);
        let least = scores.iter().copied().min().unwrap_or(0);
        for score in scores {
            *score = match most - least {
                0 => 0,
                range => (BEST as f64 * ((*score - least) as f64 / range as f64)) as i64,
            };
        }
    }
}

impl Tally {
    fn new(key: &str, cluster: &Snapshot) -> Tally {
        let topology = cluster.topology(key);
        Tally { key: key.into(), counts: vec![0; topology.size], topology }
    }

    /// What was added: nothing where the node has no such label.
    fn add(&mut self, node: usize, by: i64) -> i64 {
        let Some(domain) = self.topology.of(node) else { return 0 };
        self.counts[domain] += by;
        by
    }

    fn of(&self, node: usize) -> Option<i64> {
        Some(self.counts[self.topology.of(node)?])
    }
}

/// The tally of that label.
fn tally<'a>(tallies: &'a mut Vec<Tally>, key: &str, cluster: &Snapshot) -> &'a mut Tally {
    let at = tallies.iter().position(|tally| tally.key == key).unwrap_or_else(|| {
        tallies.push(Tally::new(key, cluster));
        tallies.len() - 1
    });
    &mut tallies[at]
}
