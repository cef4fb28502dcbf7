//! The quality of service class of a pod.

use proto::quantity::Quantity;
use serde_json::Value;

use super::resources::read;
use crate::kinds::lens::Lens;

const BEST_EFFORT: &str = "BestEffort";
const BURSTABLE: &str = "Burstable";
const GUARANTEED: &str = "Guaranteed";

/// Guaranteed when every container's cpu and memory are limited to what they request, BestEffort
/// when nothing is requested or limited, else Burstable; pod-level resources go before those of
/// the containers (https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/).
pub fn class(spec: &Value) -> &'static str {
    if spec.has("resources") {
        return of(spec.at("resources"));
    }
    let containers = spec.items("containers").iter().chain(spec.items("initContainers"));
    agreed(containers.map(|container| of(container.at("resources"))))
}

fn of(resources: &Value) -> &'static str {
    agreed(["cpu", "memory"].into_iter().map(|name| {
        let amount =
            |field: &str| -> Quantity { read(resources.at(field).at(name)).unwrap_or_default() };
        match (amount("requests"), amount("limits")) {
            (request, limit) if request != limit => BURSTABLE,
            (request, _) if request.is_zero() => BEST_EFFORT,
            _ => GUARANTEED,
        }
    }))
}

/// Those who differ are Burstable together.
fn agreed(mut classes: impl Iterator<Item = &'static str>) -> &'static str {
    let first = classes.next().unwrap_or(BEST_EFFORT);
    if classes.all(|class| class == first) { first } else { BURSTABLE }
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
