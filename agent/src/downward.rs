//! What a pod may know of itself: fieldRef and resourceFieldRef, in variables and in files
//! (Kubernetes: Downward API). Pure.

use std::collections::BTreeMap;

use proto::quantity::Quantity;

use crate::pod::{Container, Pod, ResourceFieldRef};

/// What the node adds to the pod's own fields.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub host_ips: Vec<String>,
    pub pod_ips: Vec<String>,
    /// Of the node: the default of a limit that is not set.
    pub allocatable: BTreeMap<String, Quantity>,
}

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    #[error("unsupported container resource : {0}")]
    Resource(String),
    #[error("container {0} not found")]
    Container(String),
}

/// The value of `fieldRef.fieldPath`.
pub fn field(pod: &Pod, path: &str, facts: &Facts) -> Result<String, Error> {
    let meta = &pod.metadata;
    let first = |ips: &[String]| ips.first().cloned().unwrap_or_default();
    Ok(match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => lines(&meta.labels),
        "metadata.annotations" => lines(&meta.annotations),
        "spec.nodeName" => pod.spec.node_name.clone(),
        "spec.serviceAccountName" => pod.spec.service_account_name.clone(),
        "status.hostIP" => first(&facts.host_ips),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => first(&facts.pod_ips),
        "status.podIPs" => facts.pod_ips.join(","),
        path => {
            let subscript = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("']");
            let map = subscript("metadata.labels['").map(|key| (&meta.labels, key));
            let map = map.or_else(|| {
                subscript("metadata.annotations['").map(|key| (&meta.annotations, key))
            });
            let (map, key) = map.ok_or_else(|| Error::Field(path.into()))?;
            map.get(key).cloned().unwrap_or_default()
        }
    })
}

/// The value of a resourceFieldRef: in units of its divisor, rounded up.
pub fn resource(
    pod: &Pod,
    container: Option<&Container>,
    reference: &ResourceFieldRef,
    facts: &Facts,
) -> Result<String, Error> {
    let container = match reference.container_name.as_str() {
        "" => container,
        name => pod.container(name),
    };
    let missing = || Error::Container(reference.container_name.clone());
    let resources = &container.ok_or_else(missing)?.resources;
    let unsupported = || Error::Resource(reference.resource.clone());
    let (of, name) = reference.resource.split_once('.').ok_or_else(unsupported)?;
    let whole = || pod.level_resources()?.limits.get(name);
    let quantity = match of {
        "limits" => {
            let limit = resources.limits.get(name).or_else(whole);
            limit.or_else(|| facts.allocatable.get(name))
        }
        "requests" => resources.requests.get(name).or_else(|| resources.limits.get(name)),
        _ => return Err(unsupported()),
    };
    let quantity = quantity.copied().unwrap_or(Quantity::new(0));
    let divisor = reference.divisor.filter(|divisor| !divisor.is_zero());
    let divisor = divisor.unwrap_or(Quantity::new(1));
    let (amount, unit) = match name {
        "cpu" => (quantity.milli(), divisor.milli()),
        _ => (quantity.value(), divisor.value()),
    };
    let unit = unit.max(1);
    Ok((amount / unit + i64::from(amount % unit > 0)).to_string())
}

/// `key="value"` per line, the value quoted as Go quotes it.
fn lines(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> =
        map.iter().map(|(key, value)| format!("{key}={}", quote(value))).collect();
    lines.join("\n")
}

fn quote(value: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in value.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            letter if letter.is_control() => {
                quoted.push_str(&format!("\\x{:02x}", u32::from(letter)));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_and_resources() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"a": "1", "b": "x\"y\n"}, "annotations": {"k": "v"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "resources":
                {"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}}]},
        }))
        .unwrap();
        let facts = Facts {
            host_ips: vec!["10.0.0.1".into()],
            pod_ips: vec!["10.1.0.2".into(), "fd00::2".into()],
            allocatable: [("ephemeral-storage".to_string(), Quantity::new(5))].into(),
        };
        let table = [
            ("metadata.labels", "a=\"1\"\nb=\"x\\\"y\\n\""),
            ("metadata.labels['a']", "1"),
            ("metadata.annotations['k']", "v"),
            ("metadata.annotations['none']", ""),
            ("status.podIPs", "10.1.0.2,fd00::2"),
            ("status.hostIP", "10.0.0.1"),
        ];
        for (path, value) in table {
            assert_eq!(field(&pod, path, &facts).as_deref(), Ok(value), "{path}");
        }
        assert!(field(&pod, "spec.containers", &facts).is_err());
        let table = [
            ("limits.cpu", "", "2"),
            ("limits.cpu", "1m", "1500"),
            ("requests.cpu", "1m", "250"),
            ("limits.memory", "1Mi", "64"),
            ("requests.memory", "1", "67108864"),
            ("limits.ephemeral-storage", "1", "5"),
        ];
        for (name, divisor, value) in table {
            let divisor = (!divisor.is_empty()).then(|| divisor.parse().unwrap());
            let reference =
                ResourceFieldRef { resource: name.into(), divisor, ..Default::default() };
            let container = pod.spec.containers.first();
            assert_eq!(resource(&pod, container, &reference, &facts).as_deref(), Ok(value));
        }
    }
}
