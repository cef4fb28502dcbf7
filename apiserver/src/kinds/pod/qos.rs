//! The quality of service class of a pod.

use std::collections::BTreeMap;

use proto::quantity::Quantity;
use serde_json::Value;

use super::resources::read;
use crate::kinds::lens::Lens;

/// Guaranteed when every container's cpu and memory are limited to what they request, BestEffort
/// when nothing is requested or limited, else Burstable; pod-level resources go before those of
/// the containers
/// (https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/).
pub fn class(spec: &Value) -> &'static str {
    let mut requests = BTreeMap::new();
    let mut limits = BTreeMap::new();
    let mut guaranteed = true;
    let own = spec.at("resources");
    // What the pod has as a whole says it all.
    if !own.is_null() {
        add(&mut requests, own, "requests");
        let limited = add(&mut limits, own, "limits");
        guaranteed = own.vacant("limits") || limited == 2;
    }
    let containers = if own.is_null() { &CONTAINERS[..] } else { &[] };
    for container in containers.iter().flat_map(|list| spec.items(list)) {
        let resources = container.at("resources");
        add(&mut requests, resources, "requests");
        let limited = add(&mut limits, resources, "limits");
        guaranteed &= limited == 2;
    }
    match () {
        () if requests.is_empty() && limits.is_empty() => "BestEffort",
        () if guaranteed && requests == limits => "Guaranteed",
        () => "Burstable",
    }
}

const CONTAINERS: [&str; 2] = ["containers", "initContainers"];

/// Adds cpu and memory to the sums; how many of them are there and not zero.
fn add<'a>(sums: &mut BTreeMap<&'a str, Quantity>, resources: &'a Value, field: &'a str) -> usize {
    let mut found = 0;
    for (name, quantity) in resources.pairs(field) {
        let Some(quantity) = read(quantity).filter(|quantity| !quantity.is_zero()) else {
            continue;
        };
        if matches!(name, "cpu" | "memory") {
            *sums.entry(name).or_default() += quantity;
            found += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let both = json!({"cpu": "1", "memory": "1Gi"});
        let cases = [
            (json!([{}]), "BestEffort"),
            (json!([{"resources": {"requests": {"cpu": "0"}}}]), "BestEffort"),
            (json!([{"resources": {"requests": {"example.com/gpu": "1"}}}]), "BestEffort"),
            (json!([{"resources": {"limits": both, "requests": both}}]), "Guaranteed"),
            (json!([{"resources": {"limits": both, "requests": both}}, {}]), "Burstable"),
            (json!([{"resources": {"limits": both, "requests": {"cpu": "1"}}}]), "Burstable"),
        ];
        for (containers, expected) in cases {
            assert_eq!(class(&json!({ "containers": containers })), expected, "{containers}");
        }
        let full = json!([{"resources": {"limits": both, "requests": both}}]);
        let cases = [
            (json!({"limits": both, "requests": both}), json!([{}]), "Guaranteed"),
            (json!({"requests": {"cpu": "1"}}), full.clone(), "Burstable"),
            (json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}), full.clone(), "Burstable"),
            (json!({}), full, "BestEffort"),
        ];
        for (own, containers, expected) in cases {
            let spec = json!({ "containers": containers, "resources": own });
            assert_eq!(class(&spec), expected, "{spec}");
        }
    }
}
