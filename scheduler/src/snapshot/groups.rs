//! What makes pods replicas of one another: the Services that select them and the controller that
//! owns them. Only for pods that say nothing themselves of how they want to be spread.

use std::collections::HashMap;

use client::Key;
use proto::meta::{Labels, or_default};
use proto::selector::{LabelSelector, Selector};
use serde::Deserialize;

use super::PodInfo;

#[derive(Debug, Default)]
pub struct Groups {
    services: HashMap<String, HashMap<Key, Labels>>,
    controllers: HashMap<(Kind, Key), Selector>,
}

/// The controllers whose pods are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    ReplicaSet,
    StatefulSet,
    ReplicationController,
}

#[derive(Deserialize)]
struct Selecting<S: Default> {
    spec: Spec<S>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Default + Deserialize<'de>")]
struct Spec<S: Default> {
    #[serde(deserialize_with = "or_default", default)]
    selector: S,
}

impl Kind {
    fn of(kind: &str) -> Option<Kind> {
        match kind {
            "ReplicaSet" => Some(Kind::ReplicaSet),
            "StatefulSet" => Some(Kind::StatefulSet),
            "ReplicationController" => Some(Kind::ReplicationController),
            _ => None,
        }
    }

    /// The selector of such an object, read from its JSON.
    fn selector(self, object: &[u8]) -> Option<Selector> {
        match self {
            Kind::ReplicationController => {
                let read: Selecting<Labels> = serde_json::from_slice(object).ok()?;
                Some(Selector::of(&read.spec.selector))
            }
            _ => {
                let read: Selecting<LabelSelector> = serde_json::from_slice(object).ok()?;
                read.spec.selector.selector().ok()
            }
        }
    }
}

impl Groups {
    /// Whether anything is different now.
    pub fn put_service(&mut self, key: &Key, selector: Option<&Labels>) -> bool {
        let all = self.services.entry(key.namespace.to_string()).or_default();
        match selector.filter(|selector| !selector.is_empty()) {
            Some(selector) => {
                let old = all.insert(key.clone(), selector.clone());
                old.as_ref() != Some(selector)
            }
            None => all.remove(key).is_some(),
        }
    }

    /// As its JSON says; whether anything is different now.
    pub fn put_controller(&mut self, kind: Kind, key: &Key, object: Option<&[u8]>) -> bool {
        let of = (kind, key.clone());
        match object.and_then(|object| kind.selector(object)) {
            Some(selector) => {
                let old = self.controllers.insert(of, selector.clone());
                old.as_ref() != Some(&selector)
            }
            None => self.controllers.remove(&of).is_some(),
        }
    }

    /// What selects the replicas of the pod, itself among them; none where nothing does.
    pub fn selector_of(&self, pod: &PodInfo) -> Option<Selector> {
        let mut selector = Selector::default();
        for service in self.services.get(pod.namespace()).into_iter().flatten().map(|(_, own)| own)
        {
            if service.iter().all(|(key, value)| pod.labels().get(key) == Some(value)) {
                selector = selector.and(Selector::of(service).requirements().to_vec());
            }
        }
        let owner = pod.object.metadata.controller().and_then(|owner| {
            let key = Key::new(pod.namespace(), &owner.name);
            self.controllers.get(&(Kind::of(&owner.kind)?, key))
        });
        if let Some(owner) = owner {
            selector = selector.and(owner.requirements().to_vec());
        }
        (!selector.is_empty()).then_some(selector)
    }
}
