//! What the authorizer of nodes asks about pods, answered from the cache.

use proto::kind;
use serde_json::Value;

use crate::{authz::NodeView, cache::Entry, kinds::lens::Lens, registry::Registry};

impl NodeView for Registry {
    fn on_node(&self, namespace: &str, pod: &str, node: &str) -> bool {
        let entry = self.of(&kind::POD).cache.get(namespace, pod);
        entry.is_some_and(|entry| entry.field("spec.nodeName") == Some(node))
    }

    fn needs(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let pods = self.of(&kind::POD).cache.snapshot();
        let mut here =
            pods.list(namespace, None).filter(|entry| entry.field("spec.nodeName") == Some(node));
        here.any(|entry| mentions(entry, resource, name))
    }
}

/// A search through the fields that name such an object.
fn mentions(entry: &Entry, resource: &str, name: &str) -> bool {
    let Ok(pod) = serde_json::from_slice::<Value>(&entry.bytes()) else { return false };
    let spec = pod.at("spec");
    let fields: &[(&str, &str)] = match resource {
        "serviceaccounts" => return spec.text("serviceAccountName") == name,
        "secrets" => &[
            ("secret", "secretName"),
            ("secret", "name"),
            ("secretRef", "name"),
            ("secretKeyRef", "name"),
        ],
        _ => &[("configMap", "name"), ("configMapRef", "name"), ("configMapKeyRef", "name")],
    };
    let pulled = |secret: &Value| resource == "secrets" && secret.text("name") == name;
    spec.items("imagePullSecrets").iter().any(pulled) || refers(spec, fields, name)
}

fn refers(value: &Value, fields: &[(&str, &str)], name: &str) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| refers(item, fields, name)),
        Value::Object(map) => {
            let direct = fields.iter().any(|(holder, field)| value.at(holder).text(field) == name);
            direct || map.values().any(|item| refers(item, fields, name))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_pod_mentions() {
        let spec = json!({
            "volumes": [{"name": "v", "secret": {"secretName": "s1"}}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}}]}],
        });
        let fields = [("secret", "secretName"), ("secretKeyRef", "name")];
        assert!(refers(&spec, &fields, "s1") && refers(&spec, &fields, "s2"));
        assert!(!refers(&spec, &fields, "v"));
    }
}
