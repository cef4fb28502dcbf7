//! What a pod needs of its node at one time (Kubernetes: Resource Management for Pods and
//! Containers; Init Containers, "Resource sharing within containers"). Pure.

use std::collections::BTreeMap;

use proto::quantity::Quantity;

use super::{Pod, Resources};

type Amounts = BTreeMap<String, Quantity>;

impl Pod {
    /// Its requests: those of the pod as a whole where they are set, else the containers' and
    /// sidecars' sum or the most of its start; with the overhead of its runtime class.
    pub fn requests(&self) -> Amounts {
        let mut total = self.container_total(|resources| &resources.requests);
        if let Some(whole) = self.level_resources() {
            total.extend(whole.requests.clone());
        }
        add(&mut total, &self.spec.overhead);
        // What it has by a claim it does not have of the node itself.
        total.retain(|name, _| !self.is_claimed(name));
        total
    }

    /// Whether it has this extended resource by a claim.
    pub fn is_claimed(&self, resource: &str) -> bool {
        self.claimed.iter().any(|mapping| mapping.resource_name == resource)
    }

    /// Of one of the two lists of its containers.
    pub fn container_total(&self, amounts: impl Fn(&Resources) -> &Amounts) -> Amounts {
        let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
        for container in &self.spec.init_containers {
            let mut now = sidecars.clone();
            add(&mut now, amounts(&container.resources));
            for (name, amount) in &now {
                let most = starting.entry(name.clone()).or_insert(*amount);
                *most = (*most).max(*amount);
            }
            if container.is_sidecar() {
                sidecars = now;
            }
        }
        let mut total = sidecars;
        for container in &self.spec.containers {
            add(&mut total, amounts(&container.resources));
        }
        for (name, amount) in starting {
            let most = total.entry(name).or_insert(amount);
            *most = (*most).max(amount);
        }
        total
    }
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *total.entry(name.clone()).or_default() += *amount;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_most_at_one_time() {
        let one = |cpu: &str| json!({"name": "x", "resources": {"requests": {"cpu": cpu}}});
        let sidecar = |cpu: &str| {
            let mut container = one(cpu);
            container["restartPolicy"] = json!("Always");
            container
        };
        let table = [
            (json!({"containers": [one("1"), one("2")]}), "3"),
            (json!({"initContainers": [one("5")], "containers": [one("1"), one("2")]}), "5"),
            (json!({"initContainers": [sidecar("2"), one("3")], "containers": [one("1")]}), "5"),
            (json!({"initContainers": [one("3"), sidecar("2")], "containers": [one("1")]}), "3"),
            (
                json!({"containers": [one("1")], "resources": {"requests": {"cpu": "4"}},
                    "overhead": {"cpu": "500m"}}),
                "4500m",
            ),
        ];
        for (spec, expected) in table {
            let pod: Pod = serde_json::from_value(json!({ "spec": Value::clone(&spec) })).unwrap();
            assert_eq!(pod.requests()["cpu"].to_string(), expected, "{spec}");
        }
    }
}
