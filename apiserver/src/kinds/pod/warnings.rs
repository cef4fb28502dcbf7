//! What is allowed in a pod spec but hardly meant.

use serde_json::Value;

use super::resources::read;
use crate::kinds::lens::Lens;
use crate::kinds::name;
use crate::kinds::path::Path;

/// Warnings about a pod spec at `path`.
pub fn spec(path: &Path, spec: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let selector = path.field("nodeSelector");
    for (key, _) in spec.pairs("nodeSelector") {
        warnings.extend(old_label(key).map(|old| format!("{}: {old}", selector.key(key))));
    }
    for (index, volume) in spec.items("volumes").iter().enumerate() {
        let path = path.field("volumes");
        let path = path.index(index);
        let old = OLD_VOLUMES.iter().filter(|(field, ..)| volume.has(field));
        warnings.extend(old.map(|(_, named, since)| format!("{}: {since}", path.field(named))));
        let projected = volume.at("projected").items("sources").iter();
        for _ in projected.filter(|source| source.as_object().is_some_and(|map| map.is_empty())) {
            let name = volume.text("name");
            warnings.push(format!("volume {name:?} (Projected) has no sources provided"));
        }
    }
    if spec.int("terminationGracePeriodSeconds").unwrap_or(0) < 0 {
        let path = path.field("terminationGracePeriodSeconds");
        warnings.push(format!(
            "{path}: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    for (index, secret) in spec.items("imagePullSecrets").iter().enumerate() {
        if secret.text("name").is_empty() {
            let path = path.field("imagePullSecrets");
            warnings.push(format!("{}.name: invalid empty name \"\"", path.index(index)));
        }
    }
    for field in ["initContainers", "containers"] {
        let path = path.field(field);
        for (index, item) in spec.items(field).iter().enumerate() {
            container(&path.index(index), item, &mut warnings);
        }
    }
    warnings
}

/// What to say of a node's label that was renamed.
pub fn old_label(key: &str) -> Option<String> {
    let (_, since, instead) = OLD_LABELS.iter().find(|(old, ..)| *old == key)?;
    Some(format!("deprecated since {since}; use {instead:?} instead"))
}

/// The warning about a name that cannot be a host's; `what` is what the name is used in.
pub fn name(name: &str, what: &str) -> Option<String> {
    let problems = name::label(name);
    (!name.is_empty() && !problems.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in {what}, which can result in surprising behavior; a \
             DNS label is recommended: [{}]",
            problems.join(" ")
        )
    })
}

fn container(path: &Path, container: &Value, warnings: &mut Vec<String>) {
    let (env, path_env) = (container.items("env"), path.field("env"));
    for (index, variable) in env.iter().enumerate() {
        let name = variable.text("name");
        if env[..index].iter().any(|other| other.text("name") == name) {
            warnings.push(format!(
                "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                path_env.index(index)
            ));
        }
    }
    let (ports, path_ports) = (container.items("ports"), path.field("ports"));
    let key = |port: &Value| {
        let number = |field| port.int(field).unwrap_or(0);
        let text = |field: &str| port.text(field).to_string();
        (number("containerPort"), number("hostPort"), text("protocol"), text("hostIP"))
    };
    for (index, port) in ports.iter().enumerate() {
        if let Some(first) = ports[..index].iter().position(|other| key(other) == key(port)) {
            warnings.push(format!(
                "{}: duplicate port definition with {}",
                path_ports.index(index),
                path_ports.index(first)
            ));
        }
    }
    let path_resources = path.field("resources");
    for list in ["requests", "limits"] {
        let path = path_resources.field(list);
        for name in ["memory", "ephemeral-storage"] {
            let quantity = container.at("resources").at(list).at(name);
            if read(quantity).is_some_and(|quantity| !quantity.is_whole()) {
                warnings.push(format!(
                    "{}: fractional byte value {quantity} is invalid, must be an integer",
                    path.key(name)
                ));
            }
        }
    }
}

/// Node labels that were renamed: the old name, since when, the new one.
const OLD_LABELS: &[(&str, &str, &str)] = &[
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];

/// Sources that no node knows any more: the field, what upstream calls it, and since when.
const OLD_VOLUMES: &[(&str, &str, &str)] = &[
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    ("gitRepo", "gitRepo", "deprecated in v1.11"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_hardly_meant() {
        let pod = json!({
            "nodeSelector": {"beta.kubernetes.io/os": "linux"},
            "terminationGracePeriodSeconds": -1,
            "volumes": [
                {"name": "a", "storageos": {}}, {"name": "b", "projected": {"sources": [{}]}},
            ],
            "containers": [{
                "env": [{"name": "A"}, {"name": "A"}],
                "ports": [{"containerPort": 80}, {"containerPort": 80}],
                "resources": {"limits": {"memory": "100m", "cpu": "100m"}},
            }],
        });
        assert_eq!(
            spec(&Path::root("spec"), &pod),
            [
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \
                 \"kubernetes.io/os\" instead",
                "spec.volumes[0].storageOS: deprecated in v1.22, non-functional in v1.25+",
                "volume \"b\" (Projected) has no sources provided",
                "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid \
                 and will be treated as 1",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be \
                 dropped when using apply",
                "spec.containers[0].ports[1]: duplicate port definition with \
                 spec.containers[0].ports[0]",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is \
                 invalid, must be an integer",
            ]
        );
        assert_eq!(spec(&Path::root("spec"), &json!({})), Vec::<String>::new());
        assert!(name("a", "Pod names").is_none());
        assert!(name("a.b", "Pod names").unwrap().contains("used in Pod names, which"));
    }
}
