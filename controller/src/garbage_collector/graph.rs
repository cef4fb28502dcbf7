//! Who names whom as owner, and what follows from it. Pure: no I/O, no time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use client::{Key, Propagation};
use proto::meta::{ObjectMeta, OwnerReference};

use super::{FOREGROUND, ORPHAN, orphans_dependents, waits_for_dependents};

pub(super) type Uid = Arc<str>;

/// What is known of one object.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub uid: Uid,
    /// Index of its kind.
    pub row: usize,
    pub key: Key,
    pub revision: String,
    pub owners: Vec<OwnerReference>,
    pub finalizers: Vec<String>,
    /// It is being deleted.
    pub deleting: bool,
    /// It waits for its dependents to go first (foreground).
    pub waits: bool,
    /// It waits for its dependents to be let go (orphan).
    pub orphans: bool,
}

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// It exists, and its dependents with it.
    Solid,
    /// It is being deleted in the foreground: its dependents go first.
    Waiting,
    Absent,
    /// The graph does not know it: ask.
    Unknown,
}

/// What is to be done about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    None,
    Delete(Propagation),
    /// These owners are gone or going, but others are not.
    DropOwners(Vec<String>),
    /// It is part of a circle of owners that wait for each other: stop blocking, then delete.
    Unblock,
    /// No dependent is in its way any more: take the foreground finalizer off.
    Finish,
    /// Take these dependents' references off, then the orphan finalizer.
    Orphan(Vec<Uid>),
    /// These dependents have to go first.
    Wait(Vec<Uid>),
}

#[derive(Default)]
pub(super) struct Graph {
    nodes: HashMap<Uid, Node>,
    dependents: HashMap<Uid, HashSet<Uid>>,
}

impl Graph {
    /// Takes over an object's state; says who has to be looked at because of it.
    pub fn put(&mut self, row: usize, key: &Key, meta: &ObjectMeta) -> Vec<Uid> {
        let uid: Uid = meta.uid.as_str().into();
        let node = Node {
            uid: uid.clone(),
            row,
            key: key.clone(),
            revision: meta.resource_version.clone(),
            owners: meta.owner_references.clone(),
            finalizers: meta.finalizers.clone(),
            deleting: meta.deletion_timestamp.is_some(),
            waits: waits_for_dependents(meta),
            orphans: orphans_dependents(meta),
        };
        let mut affected = Vec::new();
        let before = self.nodes.insert(uid.clone(), node.clone());
        let owners_before = before.as_ref().map_or(&[][..], |node| &node.owners);
        if owners_before != node.owners {
            for owner in owners_before {
                self.unlink(&owner.uid, &uid);
                // An owner that waits may have waited for this reference.
                affected.extend(self.waiting(&owner.uid));
            }
            for owner in &node.owners {
                self.dependents.entry(owner.uid.as_str().into()).or_default().insert(uid.clone());
            }
            if node.owners.iter().any(|owner| self.known(&node, owner) != Owner::Solid) {
                affected.push(uid.clone());
            }
        }
        if (node.waits && !before.as_ref().is_some_and(|before| before.waits))
            || (node.orphans && !before.as_ref().is_some_and(|before| before.orphans))
        {
            affected.push(uid);
        }
        affected
    }

    /// The object is gone; says who has to be looked at because of it.
    pub fn remove(&mut self, uid: &str) -> Vec<Uid> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut affected: Vec<Uid> = self.dependents_of(uid);
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
            affected.extend(self.waiting(&owner.uid));
        }
        affected
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    /// The object, if it waits for its dependents.
    fn waiting(&self, uid: &str) -> Option<Uid> {
        self.nodes.get(uid).filter(|node| node.waits).map(|node| node.uid.clone())
    }

    fn dependents_of(&self, uid: &str) -> Vec<Uid> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// Whether there is an object of this uid, wherever.
    pub fn knows(&self, uid: &str) -> bool {
        self.nodes.contains_key(uid)
    }

    /// Whether there is an object of this uid in a namespace where the dependent cannot have it.
    pub fn is_elsewhere(&self, uid: &str, dependent: &Key) -> bool {
        self.nodes.get(uid).is_some_and(|owner| !is_within_reach(&owner.key, dependent))
    }

    /// An object, and its owners as far as they are known.
    pub fn look(&self, uid: &str) -> Option<(Node, Vec<(OwnerReference, Owner)>)> {
        let node = self.nodes.get(uid)?.clone();
        let owners = node.owners.iter().map(|owner| (owner.clone(), self.known(&node, owner)));
        let owners = owners.collect();
        Some((node, owners))
    }

    fn known(&self, node: &Node, reference: &OwnerReference) -> Owner {
        match self.nodes.get(reference.uid.as_str()) {
            // The uid is not of what the reference names.
            Some(owner)
                if !is_within_reach(&owner.key, &node.key)
                    || *owner.key.name != *reference.name =>
            {
                Owner::Unknown
            }
            Some(owner) if owner.waits => Owner::Waiting,
            Some(_) => Owner::Solid,
            None => Owner::Unknown,
        }
    }

    /// What is to be done about an object whose owners are like this.
    pub fn decide(&self, uid: &str, owners: &[(OwnerReference, Owner)]) -> Action {
        let Some(node) = self.nodes.get(uid) else { return Action::None };
        let dependents = self.dependents_of(uid);
        if node.orphans {
            return Action::Orphan(dependents);
        }
        if node.waits {
            return self.wait_for(uid, dependents);
        }
        if node.deleting || owners.is_empty() {
            return Action::None;
        }
        let of = |wanted: Owner| owners.iter().filter(move |(_, owner)| *owner == wanted);
        let solid = of(Owner::Solid).chain(of(Owner::Unknown)).next().is_some();
        let gone = of(Owner::Absent).chain(of(Owner::Waiting));
        let gone: Vec<String> = gone.map(|(reference, _)| reference.uid.clone()).collect();
        if solid {
            return if gone.is_empty() { Action::None } else { Action::DropOwners(gone) };
        }
        if of(Owner::Waiting).next().is_some() && !dependents.is_empty() {
            let circle = dependents.iter().any(|uid| self.waiting(uid).is_some());
            return if circle { Action::Unblock } else { Action::Delete(Propagation::Foreground) };
        }
        let carries = |finalizer: &str| node.finalizers.iter().any(|name| name == finalizer);
        Action::Delete(if carries(ORPHAN) {
            Propagation::Orphan
        } else if carries(FOREGROUND) {
            Propagation::Foreground
        } else {
            Propagation::Background
        })
    }

    /// A foreground deletion ends when no dependent blocks it; those that do go first.
    fn wait_for(&self, uid: &str, dependents: Vec<Uid>) -> Action {
        let blocks = |node: &Node| {
            let blocking = |owner: &OwnerReference| owner.block_owner_deletion == Some(true);
            node.owners.iter().any(|owner| owner.uid == uid && blocking(owner))
        };
        let nodes = || dependents.iter().filter_map(|uid| self.nodes.get(uid));
        if !nodes().any(blocks) {
            return Action::Finish;
        }
        Action::Wait(nodes().filter(|node| !node.deleting).map(|node| node.uid.clone()).collect())
    }
}

/// Owners are of the whole cluster or of the same namespace.
fn is_within_reach(owner: &Key, dependent: &Key) -> bool {
    owner.namespace.is_empty() || owner.namespace == dependent.namespace
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::time::Time;

    /// `name`, owners as `uid` or `!uid` where they block, finalizers; deleted if it has any of
    /// the two or `deleted`.
    fn object(uid: &str, owners: &[&str], finalizers: &[&str]) -> ObjectMeta {
        let owner = |text: &&str| OwnerReference {
            uid: text.trim_start_matches('!').into(),
            name: text.trim_start_matches('!').into(),
            block_owner_deletion: text.starts_with('!').then_some(true),
            ..OwnerReference::default()
        };
        ObjectMeta {
            uid: uid.into(),
            name: uid.into(),
            namespace: "a".into(),
            owner_references: owners.iter().map(owner).collect(),
            finalizers: finalizers.iter().map(|name| name.to_string()).collect(),
            deletion_timestamp: (!finalizers.is_empty()).then_some(Time::from_unix(0)),
            ..ObjectMeta::default()
        }
    }

    fn graph(objects: &[ObjectMeta]) -> Graph {
        let mut graph = Graph::default();
        for meta in objects {
            graph.put(0, &Key::of(meta), meta);
        }
        graph
    }

    /// What is to be done where every owner that is asked for is absent.
    fn decide(objects: &[ObjectMeta], uid: &str) -> Action {
        let graph = graph(objects);
        let (_, mut owners) = graph.look(uid).unwrap();
        for (_, owner) in &mut owners {
            if *owner == Owner::Unknown {
                *owner = Owner::Absent;
            }
        }
        graph.decide(uid, &owners)
    }

    #[test]
    fn decisions() {
        use Action::*;
        let delete = Delete(Propagation::Background);
        for (case, objects, uid, expected) in [
            ("no owner", vec![object("x", &[], &[])], "x", None),
            ("owner lives", vec![object("o", &[], &[]), object("x", &["o"], &[])], "x", None),
            ("owner gone", vec![object("x", &["o"], &[])], "x", delete.clone()),
            (
                "one of two gone",
                vec![object("p", &[], &[]), object("x", &["o", "p"], &[])],
                "x",
                DropOwners(vec!["o".into()]),
            ),
            (
                "owner goes first to last",
                vec![object("o", &[], &[FOREGROUND]), object("x", &["!o"], &[])],
                "x",
                delete,
            ),
            (
                "with dependents of its own",
                vec![
                    object("o", &[], &[FOREGROUND]),
                    object("x", &["!o"], &[]),
                    object("y", &["!x"], &[]),
                ],
                "x",
                Delete(Propagation::Foreground),
            ),
            (
                "foreground waits",
                vec![object("o", &[], &[FOREGROUND]), object("x", &["!o"], &[])],
                "o",
                Wait(vec!["x".into()]),
            ),
            (
                "foreground is not blocked",
                vec![object("o", &[], &[FOREGROUND]), object("x", &["o"], &[])],
                "o",
                Finish,
            ),
            ("foreground ends", vec![object("o", &[], &[FOREGROUND])], "o", Finish),
            (
                "orphan",
                vec![object("o", &[], &[ORPHAN]), object("x", &["o"], &[])],
                "o",
                Orphan(vec!["x".into()]),
            ),
            ("already going", vec![object("x", &["o"], &["other"])], "x", None),
            (
                "circle",
                vec![object("o", &["!x"], &[FOREGROUND]), object("x", &["!o"], &[])],
                "x",
                Unblock,
            ),
        ] {
            assert_eq!(decide(&objects, uid), expected, "{case}");
        }
    }

    #[test]
    fn who_is_affected() {
        let mut graph = graph(&[object("o", &[], &[]), object("x", &["!o"], &[])]);
        assert_eq!(
            graph.put(0, &Key::new("a", "o"), &object("o", &[], &[FOREGROUND])),
            ["o".into()]
        );
        assert_eq!(graph.remove("x"), ["o".into()], "the owner waited for it");
        let mut graph = self::graph(&[object("o", &[], &[]), object("x", &["o"], &[])]);
        assert_eq!(graph.remove("o"), ["x".into()]);
        let late = object("y", &["o"], &[]);
        assert_eq!(graph.put(0, &Key::of(&late), &late), ["y".into()], "born without its owner");
    }

    #[test]
    fn owners_do_not_reach_into_other_namespaces() {
        let mut owner = object("o", &[], &[]);
        owner.namespace = "b".into();
        assert_eq!(
            decide(&[owner.clone(), object("x", &["o"], &[])], "x"),
            Action::Delete(Propagation::Background)
        );
        owner.namespace = String::new();
        assert_eq!(decide(&[owner, object("x", &["o"], &[])], "x"), Action::None);
    }
}
