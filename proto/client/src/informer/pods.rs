//! Pods by what they are mostly looked for by. Each look costs what it finds, however many other
//! pods there are.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::selector::{Selector, Test};
use proto::view::pod::{Pod, term};

use super::{Informer, Key, in_namespace};
use crate::Entry;

impl Informer<Pod> {
    /// The pods of a namespace that the selector matches, by name. Only a selector that asks for no
    /// value of a label costs a look at all of them.
    pub fn selected(&self, namespace: &str, selector: &Selector) -> Vec<Arc<Entry<Pod>>> {
        let matches = |pod: &&Arc<Entry<Pod>>| selector.matches(&pod.metadata.labels);
        let terms = selector.requirements().iter().filter_map(|requirement| {
            let value = match &requirement.test {
                Test::Equals(value) => value,
                Test::In(values) if values.len() == 1 => values.first()?,
                _ => return None,
            };
            Some(term::label(namespace, &requirement.key, value))
        });
        let state = self.0.state.read();
        let found = |term: String| state.found.get(&term).map_or(&NONE, |keys| keys);
        let Some(fewest) = terms.map(found).min_by_key(|keys| keys.len()) else {
            let all = state.objects.clone();
            drop(state);
            return in_namespace(&all, namespace)
                .map(|(_, pod)| pod)
                .filter(matches)
                .cloned()
                .collect();
        };
        let pods = fewest.iter().filter_map(|key| state.objects.get(key));
        pods.filter(matches).cloned().collect()
    }

    /// The pods on a node.
    pub fn on_node(&self, node: &str) -> Vec<Arc<Entry<Pod>>> {
        self.found(&term::node(node))
    }

    /// The pods that use a PersistentVolumeClaim.
    pub fn using_claim(&self, namespace: &str, claim: &str) -> Vec<Arc<Entry<Pod>>> {
        self.found(&term::claim(namespace, claim))
    }

    fn found(&self, term: &str) -> Vec<Arc<Entry<Pod>>> {
        let state = self.0.state.read();
        let keys = state.found.get(term).unwrap_or(&NONE);
        keys.iter().filter_map(|key| state.objects.get(key)).cloned().collect()
    }
}

static NONE: BTreeSet<Key> = BTreeSet::new();

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::Rng;

    /// Whatever comes, changes and goes, a look finds what a walk over all pods finds.
    #[test]
    fn a_look_finds_what_a_walk_finds() {
        let (pods, feed) = Informer::<Pod>::detached();
        let rng = Rng::seeded(7);
        let any = |names: &[&str]| names[rng.below(names.len() as u64) as usize].to_string();
        for revision in 1..2000 {
            let pod = json!({
                "metadata": {"namespace": any(&["a", "b"]), "name": any(&["1", "2", "3", "4", "5"]),
                    "resourceVersion": revision.to_string(), "uid": "u",
                    "labels": {"app": any(&["x", "y"]), any(&["app", "tier"]): any(&["x", "z"])}},
                "spec": {"nodeName": any(&["", "n1", "n2"]), "volumes":
                    [{"name": "v", "persistentVolumeClaim": {"claimName": any(&["c", "d"])}}]},
            });
            let entry = Entry::decode(Bytes::from(pod.to_string())).unwrap();
            match rng.below(3) {
                0 => feed.delete(&entry),
                1 if revision % 100 == 0 => feed.replace(vec![entry], revision),
                _ => feed.put(entry),
            }
            let all = pods.snapshot();
            let walk = |wanted: &dyn Fn(&Pod) -> bool| -> Vec<Key> {
                all.iter().filter(|(_, pod)| wanted(pod)).map(|(key, _)| key.clone()).collect()
            };
            let keys = |found: Vec<Arc<Entry<Pod>>>| -> Vec<Key> {
                found.iter().map(|pod| Key::of(&pod.metadata)).collect()
            };
            for text in ["app=x", "app=x,tier=z", "tier in (z)", "app!=x", "app=y,tier!=x", ""] {
                let selector = Selector::parse(text).unwrap();
                let wanted = |pod: &Pod| {
                    pod.metadata.namespace == "a" && selector.matches(&pod.metadata.labels)
                };
                assert_eq!(keys(pods.selected("a", &selector)), walk(&wanted), "{text}");
            }
            let on_node = walk(&|pod| pod.spec.node_name == "n1");
            assert_eq!(keys(pods.on_node("n1")), on_node);
            let using = walk(&|pod| {
                pod.metadata.namespace == "b" && pod.claims().any(|used| used.name == "d")
            });
            assert_eq!(keys(pods.using_claim("b", "d")), using);
        }
        for (_, pod) in pods.snapshot() {
            feed.delete(&pod);
        }
        assert!(feed.0.state.read().found.is_empty());
    }
}
