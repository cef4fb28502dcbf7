//! The Node object and its status, from what was seen of the machine and the runtime (Kubernetes:
//! Node Status). Pure.

use std::collections::{BTreeMap, BTreeSet};

use proto::cri;
use proto::meta::Labels;
use proto::quantity::Quantity;
use proto::time::Time;
use serde_json::{Value, json};

use super::facts::architecture;
use super::reserved::allocatable;
use super::{FEATURES, Identity, VERSION};
use crate::cri::Info;
use crate::eviction::Condition;

/// An image has at most so many names in the status.
const MOST_NAMES: usize = 5;

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub capacity: BTreeMap<String, Quantity>,
    /// By resource: how many devices there are, and how many of them can be had.
    pub devices: BTreeMap<String, (i64, i64)>,
    /// NodeSystemInfo without the versions of agent and runtime.
    pub machine: Value,
    pub pressure: BTreeSet<Condition>,
    /// None: the runtime does not answer.
    pub runtime: Option<Info>,
    pub images: Vec<cri::Image>,
    /// The machine is about to shut down.
    pub shutting_down: bool,
}

/// Since when each condition is as it is.
pub type Since = BTreeMap<&'static str, (bool, Time)>;

impl Seen {
    /// Every condition, in the kubelet's order.
    pub fn states(&self) -> Vec<(&'static str, bool)> {
        let ready = self.runtime.as_ref().is_some_and(|info| info.not_ready.is_none());
        let all = [Condition::MemoryPressure, Condition::DiskPressure, Condition::PidPressure];
        let pressures = all.map(|it| (it.name(), self.pressure.contains(&it)));
        pressures.into_iter().chain([("Ready", !self.shutting_down && ready)]).collect()
    }
}

/// What is registered.
pub fn object(identity: &Identity, status: Value) -> Value {
    let Identity { name, pod_cidr, taints, .. } = identity;
    let all = self::labels(identity);
    let mut spec = match pod_cidr.as_str() {
        "" => json!({}),
        cidr => json!({"podCIDR": cidr, "podCIDRs": [cidr]}),
    };
    if !taints.is_empty() {
        let taints = taints.iter();
        spec["taints"] = taints
            .map(|taint| json!({"key": taint.key, "value": taint.value, "effect": taint.effect}))
            .collect();
    }
    let annotations = json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": all, "annotations": annotations},
        "spec": spec,
        "status": status,
    })
}

/// The labels with which it is registered.
pub fn labels(identity: &Identity) -> Labels {
    let Identity { name, labels, .. } = identity;
    let arch = architecture();
    let mut all: Labels = [
        ("beta.kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/hostname", name.as_str()),
    ]
    .map(|(key, value)| (key.to_string(), value.to_string()))
    .into();
    all.extend(labels.clone());
    all
}

pub fn status(identity: &Identity, seen: &Seen, since: &Since, now: Time) -> Value {
    let Identity { name, ips, port, .. } = identity;
    let mut addresses: Vec<Value> =
        ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    addresses.push(json!({"type": "Hostname", "address": name}));
    let mut node_info = seen.machine.clone();
    node_info["kubeletVersion"] = VERSION.into();
    let mut capacity = capacity(identity, &seen.capacity);
    let mut allocatable = allocatable_of(identity, &seen.capacity);
    for (name, (all, can_be_had)) in &seen.devices {
        capacity.insert(name.clone(), Quantity::new(*all));
        allocatable.insert(name.clone(), Quantity::new(*can_be_had));
    }
    let mut status = json!({
        "addresses": addresses,
        "allocatable": allocatable,
        "capacity": capacity,
        "conditions": conditions(seen, since, now),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "declaredFeatures": FEATURES,
        "images": images(&seen.images, identity.most_images),
    });
    if let Some(info) = &seen.runtime {
        node_info["containerRuntimeVersion"] = format!("{}://{}", info.name, info.version).into();
        let handler = |handler: &cri::RuntimeHandler| {
            let features = handler.features.unwrap_or_default();
            json!({
                "name": handler.name,
                "features": {
                    "recursiveReadOnlyMounts": features.recursive_read_only_mounts,
                    "userNamespaces": features.user_namespaces,
                },
            })
        };
        if !info.handlers.is_empty() {
            status["runtimeHandlers"] = info.handlers.iter().map(handler).collect();
        }
        if let Some(features) = &info.features {
            let policy = features.supplemental_groups_policy;
            status["features"] = json!({ "supplementalGroupsPolicy": policy });
        }
    }
    status["nodeInfo"] = node_info;
    status
}

/// The status without the times at which it was looked at: what makes two of them differ.
pub fn unbeaten(status: &Value) -> Value {
    let mut status = status.clone();
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        if let Some(condition) = condition.as_object_mut() {
            condition.remove("lastHeartbeatTime");
            condition.remove("lastTransitionTime");
        }
    }
    status
}

fn capacity(
    identity: &Identity,
    machine: &BTreeMap<String, Quantity>,
) -> BTreeMap<String, Quantity> {
    let mut capacity = machine.clone();
    capacity.insert("pods".into(), Quantity::new(identity.max_pods));
    capacity
}

pub fn allocatable_of(
    identity: &Identity,
    machine: &BTreeMap<String, Quantity>,
) -> BTreeMap<String, Quantity> {
    let reserved = [&identity.kube_reserved, &identity.system_reserved];
    allocatable(&capacity(identity, machine), reserved, &identity.thresholds)
}

/// The largest first, each by its digests and tags.
fn images(images: &[cri::Image], most: Option<usize>) -> Vec<Value> {
    let mut sorted: Vec<&cri::Image> = images.iter().collect();
    sorted.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    sorted.truncate(most.unwrap_or(usize::MAX));
    let named = |image: &cri::Image| {
        let names = image.repo_digests.iter().chain(&image.repo_tags).take(MOST_NAMES);
        json!({"names": names.collect::<Vec<_>>(), "sizeBytes": image.size})
    };
    sorted.into_iter().map(named).collect()
}

fn conditions(seen: &Seen, since: &Since, now: Time) -> Vec<Value> {
    let states = seen.states().into_iter();
    states
        .map(|(kind, yes)| {
            let (reason, mut message) = words(kind, yes);
            if kind == "Ready" && seen.shutting_down {
                message = "node is shutting down".into();
            } else if kind == "Ready" && !yes {
                let why = seen.runtime.as_ref().and_then(|info| info.not_ready.clone());
                message = why.unwrap_or_else(|| "container runtime is down".into());
            }
            let transition = match since.get(kind) {
                Some((before, at)) if *before == yes => *at,
                _ => now,
            };
            json!({
                "type": kind,
                "status": if yes { "True" } else { "False" },
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": now,
                "lastTransitionTime": transition,
            })
        })
        .collect()
}

/// Reason and message of a condition, in the kubelet's words.
pub fn words(kind: &str, yes: bool) -> (&'static str, String) {
    let (reason, message) = match (kind, yes) {
        ("MemoryPressure", false) => {
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available")
        }
        ("MemoryPressure", true) => {
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available")
        }
        ("DiskPressure", false) => ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("DiskPressure", true) => ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        ("PIDPressure", false) => {
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available")
        }
        ("PIDPressure", true) => {
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available")
        }
        (_, true) => ("KubeletReady", "kubelet is posting ready status"),
        (_, false) => ("KubeletNotReady", ""),
    };
    (reason, message.to_string())
}

#[cfg(test)]
mod tests {
    use proto::view::node::Taint;

    use super::*;

    fn identity() -> Identity {
        Identity {
            name: "n".into(),
            ips: vec!["10.0.0.1".into()],
            port: 10250,
            max_pods: 110,
            most_images: Some(2),
            taints: vec![Taint {
                key: "a".into(),
                value: "b".into(),
                effect: "NoSchedule".into(),
                time_added: None,
            }],
            ..Identity::default()
        }
    }

    fn seen() -> Seen {
        let image = |id: &str, size: u64, tags: usize| cri::Image {
            id: id.into(),
            size,
            repo_digests: vec![format!("r@{id}")],
            repo_tags: (0..tags).map(|tag| format!("r:{tag}")).collect(),
            ..Default::default()
        };
        let handler = cri::RuntimeHandler {
            name: String::new(),
            features: Some(cri::RuntimeHandlerFeatures {
                recursive_read_only_mounts: true,
                user_namespaces: false,
            }),
        };
        let features =
            cri::RuntimeFeatures { supplemental_groups_policy: true, ..Default::default() };
        Seen {
            capacity: [("cpu".to_string(), Quantity::new(2))].into(),
            devices: [("example.com/x".to_string(), (3, 2))].into(),
            machine: json!({"bootID": "b"}),
            pressure: BTreeSet::new(),
            runtime: Some(Info {
                name: "coracle".into(),
                version: "1".into(),
                not_ready: None,
                network_not_ready: None,
                handlers: vec![handler],
                features: Some(features),
            }),
            shutting_down: false,
            images: vec![image("s", 1, 1), image("l", 9, 9), image("m", 5, 0)],
        }
    }

    #[test]
    fn a_whole_status() {
        let status = status(&identity(), &seen(), &Since::new(), Time::from_unix(7));
        let amounts = |devices: &str| json!({"cpu": "2", "example.com/x": devices, "pods": "110"});
        assert_eq!(status["capacity"], amounts("3"));
        assert_eq!(status["allocatable"], amounts("2"));
        let images = &status["images"];
        assert_eq!(images[0]["names"], json!(["r@l", "r:0", "r:1", "r:2", "r:3"]));
        assert_eq!(
            (&images[1], &images[2]),
            (&json!({"names": ["r@m"], "sizeBytes": 5}), &Value::Null)
        );
        let features = json!({"recursiveReadOnlyMounts": true, "userNamespaces": false});
        assert_eq!(status["runtimeHandlers"], json!([{"name": "", "features": features}]));
        assert_eq!(status["features"], json!({"supplementalGroupsPolicy": true}));
        assert_eq!(status["nodeInfo"]["containerRuntimeVersion"], "coracle://1");
        assert_eq!(status["conditions"][3]["reason"], "KubeletReady");
        let object = object(&identity(), status);
        let taint = json!({"key": "a", "value": "b", "effect": "NoSchedule"});
        assert_eq!(object["spec"]["taints"], json!([taint]));
    }

    #[test]
    fn only_news_make_a_difference() {
        let at = |seconds| status(&identity(), &seen(), &Since::new(), Time::from_unix(seconds));
        assert_eq!(unbeaten(&at(1)), unbeaten(&at(2)));
        let mut other = seen();
        other.images.pop();
        let other = status(&identity(), &other, &Since::new(), Time::from_unix(1));
        assert_ne!(unbeaten(&at(1)), unbeaten(&other));
    }

    #[test]
    fn why_a_node_is_not_ready() {
        let ready = |runtime: Option<Info>| {
            let seen = Seen { runtime, ..seen() };
            let conditions = conditions(&seen, &Since::new(), Time::from_unix(1));
            let text = |field: &str| conditions[3][field].as_str().unwrap().to_string();
            [text("status"), text("reason"), text("message")]
        };
        let not = |message: &str| ["False", "KubeletNotReady", message].map(str::to_string);
        assert_eq!(ready(None), not("container runtime is down"));
        let info = Info { not_ready: Some("why".into()), ..Info::default() };
        assert_eq!(ready(Some(info)), not("why"));
    }
}
