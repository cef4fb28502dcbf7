//! InterPodAffinity: near or far from other pods, required and preferred, in both directions
//! (Kubernetes: Inter-pod affinity and anti-affinity).

use std::collections::HashSet;

use proto::meta::Labels;
use proto::selector::Selector;
use proto::view::pod::{PodAffinityTerm, PreferredPods};

use super::{BEST, Event, Judge, Plugin, Reason};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub struct InterPodAffinity;

/// A term made ready to match pods.
struct Term<'a> {
    key: &'a str,
    /// Without one no pod matches.
    selector: Option<Selector>,
    namespaces: Vec<&'a str>,
    /// Further namespaces, by their labels.
    namespace_selector: Option<Selector>,
}

/// Where pods matching a term are.
struct Domains<'a> {
    key: &'a str,
    values: HashSet<&'a str>,
}

struct Company<'a> {
    near: Vec<Domains<'a>>,
    /// All `near` terms match the pod itself and nobody else yet: the first of its group.
    first_of_group: bool,
    far: Vec<Domains<'a>>,
    /// Domains closed by the anti-affinity of pods that are there.
    closed: Vec<Domains<'a>>,
    wishes: Vec<(i64, Domains<'a>)>,
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

    fn judge<'a>(&self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Judge + 'a>> {
        let affinity = pod.object.spec.affinity.as_deref();
        let closed = closed_to(pod, snapshot);
        if affinity.is_none() && closed.is_empty() {
            return None;
        }
        let near = affinity.map(|affinity| &affinity.pod_affinity);
        let far = affinity.map(|affinity| &affinity.pod_anti_affinity);
        let find = |terms: &'a [PodAffinityTerm]| -> Vec<Domains<'a>> {
            terms.iter().map(|term| domains(&Term::new(term, pod), pod, snapshot)).collect()
        };
        let near_terms = near.map(|near| near.required.as_slice()).unwrap_or_default();
        let near_domains = find(near_terms);
        let first_of_group = near_domains.iter().all(|domains| domains.values.is_empty())
            && near_terms.iter().all(|term| Term::new(term, pod).matches(pod, snapshot));
        let wish = |sign: i64, terms: &'a [PreferredPods]| {
            let wish = move |term: &'a PreferredPods| {
                let found = domains(&Term::new(&term.pod_affinity_term, pod), pod, snapshot);
                (sign * i64::from(term.weight), found)
            };
            terms.iter().map(wish).collect::<Vec<_>>()
        };
        let mut wishes = wish(1, near.map(|near| near.preferred.as_slice()).unwrap_or_default());
        wishes.extend(wish(-1, far.map(|far| far.preferred.as_slice()).unwrap_or_default()));
        let far = find(far.map(|far| far.required.as_slice()).unwrap_or_default());
        Some(Box::new(Company { near: near_domains, first_of_group, far, closed, wishes }))
    }
}

impl Judge for Company<'_> {
    fn filter(&self, node: &NodeInfo) -> Vec<Reason> {
        let labels = node.labels();
        let has_keys = self.near.iter().all(|domains| labels.contains_key(domains.key));
        let near = has_keys
            && (self.first_of_group || self.near.iter().all(|domains| domains.holds(labels)));
        let reason = if !near {
            "node(s) didn't match pod affinity rules"
        } else if self.far.iter().any(|domains| domains.holds(labels)) {
            "node(s) didn't match pod anti-affinity rules"
        } else if self.closed.iter().any(|domains| domains.holds(labels)) {
            "node(s) didn't satisfy existing pods anti-affinity rules"
        } else {
            return Vec::new();
        };
        vec![reason.into()]
    }

    fn score(&self, node: &NodeInfo) -> Option<i64> {
        let granted = self.wishes.iter().filter(|(_, domains)| domains.holds(node.labels()));
        Some(granted.map(|(weight, _)| weight).sum())
    }

    fn normalize(&self, scores: &mut [i64]) {
        let most = scores.iter().copied().max().unwrap_or(0);
        let least = scores.iter().copied().min().unwrap_or(0);
        for score in scores {
            *score = if most == least { 0 } else { BEST * (*score - least) / (most - least) };
        }
    }
}

impl<'a> Term<'a> {
    fn new(term: &'a PodAffinityTerm, owner: &'a PodInfo) -> Term<'a> {
        let namespaces = match (&term.namespace_selector, term.namespaces.is_empty()) {
            (None, true) => vec![owner.namespace()],
            _ => term.namespaces.iter().map(String::as_str).collect(),
        };
        let selector = term.label_selector.as_ref().and_then(|selector| {
            let mut selector = selector.clone();
            for key in &term.match_label_keys {
                if let Some(value) = owner.labels().get(key) {
                    selector.match_labels.insert(key.clone(), value.clone());
                }
            }
            // The API server has checked it.
            selector.selector().ok()
        });
        let namespace_selector =
            term.namespace_selector.as_ref().and_then(|selector| selector.selector().ok());
        Term { key: &term.topology_key, selector, namespaces, namespace_selector }
    }

    fn matches(&self, pod: &PodInfo, snapshot: &Snapshot) -> bool {
        let by_label = |selector: &Selector| {
            snapshot.namespace(pod.namespace()).is_some_and(|labels| selector.matches(labels))
        };
        let here = self.namespaces.contains(&pod.namespace())
            || self.namespace_selector.as_ref().is_some_and(by_label);
        here && self.selector.as_ref().is_some_and(|selector| selector.matches(pod.labels()))
    }
}

impl Domains<'_> {
    fn holds(&self, labels: &Labels) -> bool {
        labels.get(self.key).is_some_and(|value| self.values.contains(value.as_str()))
    }
}

/// The domains in which some placed pod matches the term.
fn domains<'a>(term: &Term<'a>, pod: &PodInfo, snapshot: &'a Snapshot) -> Domains<'a> {
    let there = |node: &&NodeInfo| {
        node.pods.iter().any(|other| other.key != pod.key && term.matches(other, snapshot))
    };
    let nodes = snapshot.nodes().iter().filter(there);
    let values = nodes.filter_map(|node| node.labels().get(term.key)).map(String::as_str);
    Domains { key: term.key, values: values.collect() }
}

/// The domains that pods already placed keep this pod out of.
fn closed_to<'a>(pod: &PodInfo, snapshot: &'a Snapshot) -> Vec<Domains<'a>> {
    let mut closed = Vec::new();
    for node in snapshot.nodes() {
        for other in node.pods.iter().filter(|other| other.key != pod.key) {
            let Some(affinity) = &other.object.spec.affinity else { continue };
            for term in &affinity.pod_anti_affinity.required {
                let term = Term::new(term, other);
                if let Some(value) = node.labels().get(term.key)
                    && term.matches(pod, snapshot)
                {
                    closed.push(Domains { key: term.key, values: HashSet::from([value.as_str()]) });
                }
            }
        }
    }
    closed
}
