//! A pod as the plugins ask about it again and again: parsed once, when it comes.

use std::sync::{Arc, OnceLock};

use client::{Entry, Key};
use proto::meta::Labels;
use proto::selector::{Requirement, Selector, Test};
use proto::time::Time;
use proto::view::Condition;
use proto::view::pod::{Pod, PodAffinityTerm, PreferredPods};
use serde::Serialize;

use super::Snapshot;
use crate::resources::{self, Resources};

#[derive(Debug)]
pub struct PodInfo {
    pub key: Key,
    pub object: Arc<Entry<Pod>>,
    pub requests: Resources,
    /// CPU (milli) and memory for scores, never zero.
    pub scored: (i64, i64),
    pub host_ports: Vec<HostPort>,
    /// What it says of other pods, where it says anything.
    pub terms: Option<Box<Terms>>,
    signature: OnceLock<Option<Arc<[u8]>>>,
}

/// A port of the node's own that a pod occupies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostPort {
    /// `0.0.0.0` for all addresses.
    pub ip: String,
    pub protocol: String,
    pub port: i64,
}

/// Inter-pod affinity and anti-affinity of one pod.
#[derive(Debug, Default)]
pub struct Terms {
    pub near: Vec<Term>,
    pub far: Vec<Term>,
    /// Preferences; those to be far weigh less than nothing.
    pub wishes: Vec<(i64, Term)>,
}

/// A term made ready to match pods.
#[derive(Debug)]
pub struct Term {
    pub key: String,
    /// Without one no pod matches.
    selector: Option<Selector>,
    namespaces: Vec<String>,
    /// Further namespaces, by their labels.
    namespace_selector: Option<Selector>,
}

impl PodInfo {
    pub fn new(key: Key, object: Arc<Entry<Pod>>) -> PodInfo {
        let ports = object.spec.containers.iter().flat_map(|container| &container.ports);
        let host_ports = ports
            .filter(|port| port.host_port != 0)
            .map(|port| HostPort {
                ip: or(&port.host_ip, "0.0.0.0"),
                protocol: or(&port.protocol, "TCP"),
                port: i64::from(port.host_port),
            })
            .collect();
        PodInfo {
            requests: resources::of_pod(&object),
            scored: resources::for_score(&object),
            host_ports,
            terms: Terms::of(&object, &key.namespace),
            signature: OnceLock::new(),
            key,
            object,
        }
    }

    pub fn labels(&self) -> &Labels {
        &self.object.metadata.labels
    }

    pub fn namespace(&self) -> &str {
        &self.key.namespace
    }

    pub fn uid(&self) -> &str {
        &self.object.metadata.uid
    }

    pub fn priority(&self) -> i32 {
        self.object.spec.priority.unwrap_or(0)
    }

    /// The images of its containers, of init containers too.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        let spec = &self.object.spec;
        spec.init_containers.iter().chain(&spec.containers).map(|container| &*container.image)
    }

    /// Whether a scheduler has asked it to make room and it is about to.
    pub fn makes_room(&self) -> bool {
        let asked = Condition::find(&self.object.status.conditions, "DisruptionTarget");
        self.object.is_terminating()
            && asked.is_some_and(|asked| {
                asked.status == "True" && asked.reason == "PreemptionByScheduler"
            })
    }

    /// Everything that a plugin reads of a pod: pods of equal signatures get equal verdicts. None
    /// for pods whose verdict depends on objects of their own, as claims are.
    pub fn signature(&self) -> Option<&Arc<[u8]>> {
        let made = self.signature.get_or_init(|| {
            let spec = &self.object.spec;
            if !spec.resource_claims.is_empty() || self.object.claims().next().is_some() {
                return None;
            }
            let requests = &self.requests;
            let read = (
                (&*self.key.namespace, self.labels(), self.object.metadata.controller()),
                (&spec.node_name, &spec.node_selector, &spec.affinity, &spec.tolerations),
                (&spec.topology_spread_constraints, spec.priority, &spec.preemption_policy),
                (requests.cpu, requests.memory, requests.ephemeral_storage, &requests.extended),
                (self.scored, &self.host_ports, self.images().collect::<Vec<_>>()),
            );
            serde_json::to_vec(&read).ok().map(Arc::from)
        });
        made.as_ref()
    }

    /// Whether for all who reckon with it on its node the other is the same.
    pub(super) fn counts_as(&self, other: &PodInfo) -> bool {
        let (own, its) = (&self.object, &other.object);
        own.metadata.uid == its.metadata.uid
            && own.metadata.labels == its.metadata.labels
            && own.metadata.generation == its.metadata.generation
            && own.metadata.deletion_timestamp == its.metadata.deletion_timestamp
            && own.spec == its.spec
            && own.status.start_time == its.status.start_time
    }

    /// When it began; one that has not begun is the youngest of all.
    pub fn started(&self) -> Option<Time> {
        self.object.status.start_time
    }
}

impl HostPort {
    /// Conflicts are per address, protocol and port; `0.0.0.0` meets every address.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        let same_ip = self.ip == other.ip || self.ip == "0.0.0.0" || other.ip == "0.0.0.0";
        same_ip && self.port == other.port && self.protocol == other.protocol
    }
}

impl Terms {
    fn of(pod: &Pod, namespace: &str) -> Option<Box<Terms>> {
        let affinity = pod.spec.affinity.as_deref()?;
        let labels = &pod.metadata.labels;
        let all = |terms: &[PodAffinityTerm]| {
            terms.iter().map(|term| Term::new(term, namespace, labels)).collect::<Vec<_>>()
        };
        let wishes = |sign: i64, terms: &[PreferredPods]| {
            let wish = |term: &PreferredPods| {
                let made = Term::new(&term.pod_affinity_term, namespace, labels);
                (sign * i64::from(term.weight), made)
            };
            terms.iter().map(wish).collect::<Vec<_>>()
        };
        let (near, far) = (&affinity.pod_affinity, &affinity.pod_anti_affinity);
        let mut wished = wishes(1, &near.preferred);
        wished.extend(wishes(-1, &far.preferred));
        let terms = Terms { near: all(&near.required), far: all(&far.required), wishes: wished };
        let none = terms.near.is_empty() && terms.far.is_empty() && terms.wishes.is_empty();
        (!none).then(|| Box::new(terms))
    }
}

impl Term {
    fn new(term: &PodAffinityTerm, namespace: &str, labels: &Labels) -> Term {
        let namespaces = match (&term.namespace_selector, term.namespaces.is_empty()) {
            (None, true) => vec![namespace.to_string()],
            _ => term.namespaces.clone(),
        };
        // The API server has checked the selector; one that it would refuse selects nothing.
        let selector = term.label_selector.as_ref().and_then(|selector| selector.selector().ok());
        let selector = selector.map(|selector| {
            let own = |keys: &[String], test: fn(String) -> Test| {
                let own = keys.iter().filter_map(|key| labels.get_key_value(key));
                own.map(|(key, value)| Requirement { key: key.clone(), test: test(value.clone()) })
                    .collect::<Vec<_>>()
            };
            selector
                .and(own(&term.match_label_keys, Test::Equals))
                .and(own(&term.mismatch_label_keys, Test::NotEquals))
        });
        let namespace_selector =
            term.namespace_selector.as_ref().and_then(|selector| selector.selector().ok());
        Term { key: term.topology_key.clone(), selector, namespaces, namespace_selector }
    }

    pub fn matches(&self, pod: &PodInfo, cluster: &Snapshot) -> bool {
        let labels = self.selector.as_ref().is_some_and(|selector| selector.matches(pod.labels()));
        labels
            && (self.namespaces.iter().any(|namespace| *namespace == *pod.key.namespace)
                || self.namespace_selector.as_ref().is_some_and(|selector| {
                    match cluster.namespace(pod.namespace()) {
                        Some(labels) => selector.matches(labels),
                        None => selector.is_empty(),
                    }
                }))
    }
}

fn or(text: &str, default: &str) -> String {
    if text.is_empty() { default.to_string() } else { text.to_string() }
}
