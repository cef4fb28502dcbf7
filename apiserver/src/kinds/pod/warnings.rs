//! What is allowed in a pod spec but hardly meant.

mod paths;

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
    affinity(&path.field("affinity"), spec.at("affinity"), &mut warnings);
    let spread = path.field("topologySpreadConstraints");
    for (index, constraint) in spec.items("topologySpreadConstraints").iter().enumerate() {
        let (path, key) = (spread.index(index), constraint.text("topologyKey"));
        let old =
            old_label(key).map(|old| format!("{}: {key} is {old}", path.field("topologyKey")));
        warnings.extend(old);
        no_selector(&path, constraint, &mut warnings);
    }
    for (index, volume) in spec.items("volumes").iter().enumerate() {
        let path = path.field("volumes");
        let path = path.index(index);
        let old = OLD_VOLUMES.iter().filter(|(field, ..)| volume.has(field));
        warnings.extend(old.map(|(_, named, since)| format!("{}: {since}", path.field(named))));
        warnings.extend(paths::overlaps(volume));
    }
    repeated(path, spec, "hostAliases", "ip", &mut warnings);
    repeated(path, spec, "imagePullSecrets", "name", &mut warnings);
    fractions(&path.field("overhead"), spec.at("overhead"), &mut warnings);
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
    ports(path, spec, &mut warnings);
    warnings
}

fn affinity(path: &Path, affinity: &Value, warnings: &mut Vec<String>) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let (to_nodes, of_nodes) = (path.field("nodeAffinity"), affinity.at("nodeAffinity"));
    let terms = of_nodes.at(REQUIRED).items("nodeSelectorTerms").iter().enumerate();
    let required = to_nodes.field(REQUIRED);
    let required = required.field("nodeSelectorTerms");
    for (index, term) in terms {
        old_labels(&required.index(index), term, warnings);
    }
    let preferred = to_nodes.field(PREFERRED);
    for (index, term) in of_nodes.items(PREFERRED).iter().enumerate() {
        old_labels(&preferred.index(index).field("preference"), term.at("preference"), warnings);
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        let (path, pods) = (path.field(field), affinity.at(field));
        let (required, preferred) = (path.field(REQUIRED), path.field(PREFERRED));
        for (index, term) in pods.items(REQUIRED).iter().enumerate() {
            no_selector(&required.index(index), term, warnings);
        }
        for (index, term) in pods.items(PREFERRED).iter().enumerate() {
            let (index, of_pods) = (preferred.index(index), "podAffinityTerm");
            no_selector(&index.field(of_pods), term.at(of_pods), warnings);
        }
    }
}

/// Of a node selector's term.
fn old_labels(path: &Path, term: &Value, warnings: &mut Vec<String>) {
    let expressions = path.field("matchExpressions");
    for (index, expression) in term.items("matchExpressions").iter().enumerate() {
        let key = expression.text("key");
        let path = expressions.index(index);
        let old = old_label(key).map(|old| format!("{}: {key} is {old}", path.field("key")));
        warnings.extend(old);
    }
}

fn no_selector(path: &Path, of: &Value, warnings: &mut Vec<String>) {
    if !of.has("labelSelector") {
        let path = path.field("labelSelector");
        warnings.push(format!("{path}: a null labelSelector results in matching no pod"));
    }
}

/// Items of a list whose key an earlier one has.
fn repeated(path: &Path, spec: &Value, list: &str, key: &str, warnings: &mut Vec<String>) {
    let (path, items) = (path.field(list), spec.items(list));
    for (index, item) in items.iter().enumerate() {
        let text = item.text(key);
        if items[..index].iter().any(|other| other.text(key) == text) {
            warnings.push(format!("{}: duplicate {key} {text:?}", path.index(index).field(key)));
        }
    }
}

/// Parts of bytes.
fn fractions(path: &Path, amounts: &Value, warnings: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        let quantity = amounts.at(name);
        if read(quantity).is_some_and(|quantity| !quantity.is_whole()) {
            warnings.push(format!(
                "{}: fractional byte value {quantity} is invalid, must be an integer",
                path.key(name)
            ));
        }
    }
}

/// Ports that another of the pod's containers has too: all share their addresses.
fn ports(path: &Path, spec: &Value, warnings: &mut Vec<String>) {
    let mut seen: Vec<(String, &Value)> = Vec::new();
    for field in ["initContainers", "containers"] {
        let containers = path.field(field);
        for (index, container) in spec.items(field).iter().enumerate() {
            let path = containers.index(index);
            let path = path.field("ports");
            for (index, port) in container.items("ports").iter().enumerate() {
                let path = path.index(index);
                for (other_path, other) in &seen {
                    let how = overlap(port, other);
                    let told = |how| format!("{path}: {how} port definition with {other_path}");
                    warnings.extend(how.map(told));
                }
                seen.push((path.to_string(), port));
            }
        }
    }
}

fn overlap(port: &Value, other: &Value) -> Option<&'static str> {
    let number = |port: &Value, field| port.int(field).unwrap_or(0);
    let same_port = number(port, "containerPort") == number(other, "containerPort");
    if !same_port || port.text("protocol") != other.text("protocol") {
        return None;
    }
    let host_ports = (number(port, "hostPort"), number(other, "hostPort"));
    let host_ips = (port.text("hostIP"), other.text("hostIP"));
    if host_ports.0 == host_ports.1 && host_ips.0 == host_ips.1 {
        return Some("duplicate");
    }
    let anywhere = |ip: &str| matches!(ip, "" | "0.0.0.0" | "::");
    let one_is_open = host_ports.0 == 0 || host_ports.1 == 0;
    let same_door = host_ports.0 == host_ports.1 && (anywhere(host_ips.0) || anywhere(host_ips.1));
    (one_is_open || same_door).then_some("overlapping")
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
        let (name, value) = (variable.text("name"), variable.text("value"));
        // One that goes on from what was there before is meant: `PATH=/opt:$(PATH)`.
        let reference = format!("$({name})");
        let goes_on = value != reference && value.contains(&reference);
        if !goes_on && env[..index].iter().any(|other| other.text("name") == name) {
            warnings.push(format!(
                "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                path_env.index(index)
            ));
        }
    }
    let path_resources = path.field("resources");
    for list in ["requests", "limits"] {
        fractions(&path_resources.field(list), container.at("resources").at(list), warnings);
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
            "affinity": {
                "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"preference":
                    {"matchExpressions": [{"key": "beta.kubernetes.io/arch"}]}}]},
                "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                    {"labelSelector": {}}, {}]},
            },
            "topologySpreadConstraints": [{"topologyKey": "zone"}],
            "hostAliases": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.1"}],
            "terminationGracePeriodSeconds": -1,
            "volumes": [
                {"name": "a", "storageos": {}}, {"name": "b", "projected": {"sources": [{}]}},
            ],
            "containers": [{
                "env": [{"name": "A"}, {"name": "A"}, {"name": "A", "value": "$(A)b"}],
                "ports": [{"containerPort": 80}, {"containerPort": 80}],
                "resources": {"limits": {"memory": "100m", "cpu": "100m"}},
            }, {"ports": [{"containerPort": 80, "hostPort": 80}]}],
        });
        assert_eq!(
            spec(&Path::root("spec"), &pod),
            [
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \
                 \"kubernetes.io/os\" instead",
                "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0]\
                 .preference.matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since \
                 v1.14; use \"kubernetes.io/arch\" instead",
                "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[1]\
                 .labelSelector: a null labelSelector results in matching no pod",
                "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in \
                 matching no pod",
                "spec.volumes[0].storageOS: deprecated in v1.22, non-functional in v1.25+",
                "volume \"b\" (Projected) has no sources provided",
                "spec.hostAliases[1].ip: duplicate ip \"1.1.1.1\"",
                "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid \
                 and will be treated as 1",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be \
                 dropped when using apply",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is \
                 invalid, must be an integer",
                "spec.containers[0].ports[1]: duplicate port definition with \
                 spec.containers[0].ports[0]",
                "spec.containers[1].ports[0]: overlapping port definition with \
                 spec.containers[0].ports[0]",
                "spec.containers[1].ports[0]: overlapping port definition with \
                 spec.containers[0].ports[1]",
            ]
        );
        assert_eq!(spec(&Path::root("spec"), &json!({})), Vec::<String>::new());
        assert!(name("a", "Pod names").is_none());
        assert!(name("a.b", "Pod names").unwrap().contains("used in Pod names, which"));
    }
}
