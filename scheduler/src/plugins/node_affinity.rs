//! NodeAffinity: node selector and node affinity, required and preferred.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::meta::Labels;
use proto::selector::{Requirement, Selector, Test};
use proto::view::pod::{NodeAffinity as Affinity, NodeSelector, NodeSelectorTerm};

use super::{Event, Judge, Plugin, Rejection, proportional};
use crate::profile::Args;
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub struct NodeAffinity;

struct Wish {
    required: Required,
    /// What the configuration adds for every pod.
    added: Option<Vec<Alternative>>,
    preferred: Vec<(i64, Alternative)>,
    only: Option<Vec<String>>,
}

/// Which nodes a pod may be on; parsed once.
pub struct Required {
    selector: Selector,
    alternatives: Option<Vec<Alternative>>,
}

/// A term of a node selector; all of it must hold.
struct Alternative {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
    /// It is empty, or the API server would have refused it.
    void: bool,
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn cures(&self) -> &'static [Event] {
        &[Event::NodeAdded, Event::NodeLabels]
    }

    fn judge(&self, pod: &Arc<PodInfo>, _: &Snapshot, args: &Args) -> Option<Box<dyn Judge>> {
        let spec = &pod.object.spec;
        let own = spec.affinity.as_ref().map(|affinity| &affinity.node_affinity);
        let added = args.added_affinity.as_ref();
        if spec.node_selector.is_empty() && own.is_none() && added.is_none() {
            return None;
        }
        let preferred = |affinity: &Affinity| {
            let terms = affinity.preferred.iter().filter(|term| term.weight != 0);
            terms
                .map(|term| (i64::from(term.weight), Alternative::new(&term.preference)))
                .collect::<Vec<_>>()
        };
        let required = Required::of(pod);
        Some(Box::new(Wish {
            only: required.only(),
            required,
            added: added.and_then(|added| added.required.as_ref()).map(alternatives),
            preferred: own.into_iter().chain(added).flat_map(preferred).collect(),
        }))
    }
}

impl Judge for Wish {
    fn only(&self) -> Option<&[String]> {
        self.only.as_deref()
    }

    fn filter(&self, node: &NodeInfo, _: &Snapshot) -> Option<Rejection> {
        if self.added.as_ref().is_some_and(|added| !any(added, node)) {
            return Rejection::lasting("node(s) didn't match scheduler-enforced node affinity");
        }
        match self.required.admits(node) {
            true => None,
            false => Rejection::lasting("node(s) didn't match Pod's node affinity/selector"),
        }
    }

    fn score(&self, node: &NodeInfo, _: &Snapshot) -> Option<i64> {
        if self.preferred.is_empty() {
            return None;
        }
        let matching = self.preferred.iter().filter(|(_, term)| term.admits(node));
        Some(matching.map(|(weight, _)| weight).sum())
    }

    fn is_relative(&self) -> bool {
        true
    }

    fn normalize(&self, scores: &mut [i64]) {
        proportional(scores, false);
    }
}

impl Required {
    /// What selector and required affinity of the pod ask for.
    pub fn of(pod: &PodInfo) -> Required {
        let spec = &pod.object.spec;
        let required = spec.affinity.as_ref().and_then(|all| all.node_affinity.required.as_ref());
        Required {
            selector: Selector::of(&spec.node_selector),
            alternatives: required.map(alternatives),
        }
    }

    pub fn admits(&self, node: &NodeInfo) -> bool {
        self.selector.matches(node.labels())
            && self.alternatives.as_ref().is_none_or(|alternatives| any(alternatives, node))
    }

    /// The names of the nodes that it admits, where every alternative names them.
    fn only(&self) -> Option<Vec<String>> {
        let mut names = BTreeSet::new();
        for alternative in self.alternatives.as_ref()? {
            names.extend(alternative.names()?);
        }
        (!names.is_empty()).then(|| names.into_iter().collect())
    }
}

fn alternatives(selector: &NodeSelector) -> Vec<Alternative> {
    selector.node_selector_terms.iter().map(Alternative::new).collect()
}

fn any(alternatives: &[Alternative], node: &NodeInfo) -> bool {
    alternatives.iter().any(|alternative| alternative.admits(node))
}

impl Alternative {
    fn new(term: &NodeSelectorTerm) -> Alternative {
        let parse = |all: &[proto::selector::Expression]| {
            all.iter().map(|one| one.requirement(true).ok()).collect::<Option<Vec<_>>>()
        };
        let empty = term.match_expressions.is_empty() && term.match_fields.is_empty();
        match (parse(&term.match_expressions), parse(&term.match_fields)) {
            (Some(labels), Some(fields)) => Alternative { labels, fields, void: empty },
            _ => Alternative { labels: Vec::new(), fields: Vec::new(), void: true },
        }
    }

    fn admits(&self, node: &NodeInfo) -> bool {
        let label = |labels: &Labels, one: &Requirement| {
            one.matches(labels.get(&one.key).map(String::as_str))
        };
        let field = |one: &Requirement| one.matches((one.key == NAME).then_some(&*node.name));
        !self.void
            && self.labels.iter().all(|one| label(node.labels(), one))
            && self.fields.iter().all(field)
    }

    fn names(&self) -> Option<Vec<String>> {
        let named = |one: &Requirement| match (&one.test, one.key == NAME) {
            (Test::In(names), true) => Some(names.iter().cloned().collect()),
            _ => None,
        };
        self.fields.iter().find_map(named)
    }
}

/// The only field of a node that terms can ask about.
const NAME: &str = "metadata.name";
