//! What objects cost against ResourceQuotas: the API server charges by it, the quota controller
//! counts by it. <https://kubernetes.io/docs/concepts/policy/resource-quotas/>

use std::collections::BTreeMap;

use crate::kind::{self, Row};
use crate::quantity::Quantity;
use crate::time::Time;
use crate::view::Resources;
use crate::view::persistent_volume_claim::PersistentVolumeClaim;
use crate::view::pod::{Container, Pod, PodAffinity, PodSpec, Requirements};
use crate::view::resource_claim::ResourceClaim;
use crate::view::resource_quota::{ResourceQuota, ScopedRequirement};
use crate::view::service::Service;

/// An object, as far as its cost depends on more than its kind.
pub enum Counted<'a> {
    Pod(&'a Pod),
    Service(&'a Service),
    Claim(&'a PersistentVolumeClaim),
    Devices(&'a ResourceClaim, &'a Surroundings),
    Other,
}

/// What the cost of a ResourceClaim depends on besides the claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Surroundings {
    /// The extended resources that stand for device classes.
    pub extended: BTreeMap<String, String>,
    /// What the claim's pod is charged for, where the claim was made for what the pod asks.
    pub paid: Resources,
}

/// Kinds of the core group that are counted under their plain names, too.
const PLAIN: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];

/// What pods cost by name; huge pages and extended resources come on top.
const OF_PODS: &[&str] = &[
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

const OF_CLASS: &str = ".storageclass.storage.k8s.io/";
const HUGE: &str = "hugepages-";
const OF_DEVICES: &str = ".deviceclass.resource.k8s.io/devices";
/// The extended resource that every device class is, before the class's name.
pub const IMPLICIT: &str = "deviceclass.resource.kubernetes.io/";
/// How many devices a claim gets at most.
const MOST_DEVICES: i64 = 32;
const REQUESTS: &str = "requests.";

/// The name under which every object of a kind is counted: `count/deployments.apps`.
pub fn count_name(row: &Row) -> String {
    format!("count/{}", row.qualified())
}

/// Whether objects of the kind are charged for the resource.
pub fn concerns(row: &Row, resource: &str) -> bool {
    if resource.strip_prefix("count/").is_some_and(|counted| counted == row.qualified()) {
        return true;
    }
    let requested = resource.strip_prefix(REQUESTS);
    if (&*row.group, &*row.resource) == ("resource.k8s.io", "resourceclaims") {
        return resource.ends_with(OF_DEVICES)
            || requested.is_some_and(|name| name.starts_with(IMPLICIT) || is_extended(name));
    }
    if !row.group.is_empty() {
        return false;
    }
    if PLAIN.contains(&resource) {
        return resource == row.resource;
    }
    match &*row.resource {
        "pods" => {
            let of_pods = |name: &str| {
                name.starts_with(HUGE) || name.starts_with(IMPLICIT) || is_extended(name)
            };
            OF_PODS.contains(&resource)
                || resource.starts_with(HUGE)
                || requested.is_some_and(of_pods)
        }
        "services" => matches!(resource, "services.nodeports" | "services.loadbalancers"),
        "persistentvolumeclaims" => resource == "requests.storage" || resource.contains(OF_CLASS),
        _ => false,
    }
}

/// Of a vendor: with a domain, and not one of Kubernetes' own.
pub fn is_extended(resource: &str) -> bool {
    resource.contains('/')
        && !resource.contains("kubernetes.io/")
        && !resource.starts_with(REQUESTS)
}

/// What the object costs at `now`.
pub fn usage(row: &Row, object: &Counted, now: Time) -> Resources {
    let one = Quantity::new(1);
    let mut usage = Resources::from([(count_name(row), one)]);
    if matches!(object, Counted::Pod(pod) if !is_charged(pod, now)) {
        return usage; // the object is still there, what it held is not
    }
    if row.group.is_empty() && PLAIN.contains(&&*row.resource) {
        usage.insert(row.resource.to_string(), one);
    }
    match object {
        Counted::Pod(pod) => {
            let requests = pod_total(&pod.spec, |container| &container.requests, true);
            let limits = pod_total(&pod.spec, |container| &container.limits, false);
            usage.extend(compute(&requests, &limits));
        }
        Counted::Service(service) => usage.extend(of_service(service)),
        Counted::Claim(claim) => usage.extend(of_claim(claim)),
        Counted::Devices(claim, around) => usage.extend(of_devices(claim, around)),
        Counted::Other => {}
    }
    usage
}

/// Whether an object of the kind falls under the quota: the quota limits something it costs, and
/// it is in every scope. `hard` are the limits that hold.
pub fn matches(quota: &ResourceQuota, hard: &Resources, row: &Row, object: &Counted) -> bool {
    hard.keys().any(|resource| concerns(row, resource)) && in_scopes(quota, object)
}

/// Whether the object is in every scope of the quota. Only pods and claims are in any.
pub fn in_scopes(quota: &ResourceQuota, object: &Counted) -> bool {
    let plain = quota.spec.scopes.iter().map(|scope| ScopedRequirement {
        scope_name: scope.clone(),
        operator: "Exists".into(),
        values: Vec::new(),
    });
    let selected = quota.spec.scope_selector.match_expressions.iter().cloned();
    plain.chain(selected).all(|scope| match object {
        Counted::Pod(pod) => pod_in_scope(pod, &scope),
        Counted::Claim(claim) => claim_in_scope(claim, &scope),
        _ => false,
    })
}

/// CPU and memory that are limited must be asked for by every container, unless something is asked
/// for the pod as a whole: the names of those that do not, by resource, both sorted.
pub fn unspecified(pod: &Pod, limited: &[&str]) -> Vec<(String, Vec<String>)> {
    if pod.spec.resources.is_set() {
        return Vec::new();
    }
    let must = |resource: &&&str| {
        let bare = resource.trim_start_matches(REQUESTS).trim_start_matches("limits.");
        matches!(bare, "cpu" | "memory")
    };
    let mut resources: Vec<&str> = limited.iter().filter(must).copied().collect();
    resources.sort_unstable();
    let missing = resources.into_iter().map(|resource| {
        let containers = pod.spec.containers.iter().chain(&pod.spec.init_containers);
        let lacks = |container: &&Container| {
            let own = &container.resources;
            !compute(&own.requests, &own.limits).contains_key(resource)
        };
        let mut names: Vec<String> =
            containers.filter(lacks).map(|container| container.name.clone()).collect();
        names.sort();
        names.dedup();
        (resource.to_string(), names)
    });
    missing.filter(|(_, names)| !names.is_empty()).collect()
}

/// What the pod needs at one time, of requests or of limits: the containers' and sidecars' sum or
/// the most of its start, or what is set for the pod as a whole, with the runtime's overhead.
/// Overhead raises limits only where there are some.
pub fn pod_total(
    spec: &PodSpec,
    amounts: impl Fn(&Requirements) -> &Resources,
    is_request: bool,
) -> Resources {
    let mut total = containers_total(spec, |container| amounts(&container.resources).clone());
    for (name, amount) in amounts(&spec.resources) {
        total.insert(name.clone(), *amount);
    }
    for (name, amount) in &spec.overhead {
        if is_request || total.get(name).is_some_and(|limit| !limit.is_zero()) {
            *total.entry(name.clone()).or_default() += *amount;
        }
    }
    total
}

/// What the containers need at one time: their and the sidecars' sum, or the most that the init
/// containers need with the sidecars that were started before them.
pub fn containers_total(spec: &PodSpec, amounts: impl Fn(&Container) -> Resources) -> Resources {
    let mut total = Resources::new();
    for container in &spec.containers {
        add(&mut total, &amounts(container));
    }
    let (mut sidecars, mut starting) = (Resources::new(), Resources::new());
    for container in &spec.init_containers {
        let mut now = sidecars.clone();
        add(&mut now, &amounts(container));
        for (name, amount) in &now {
            let most = starting.entry(name.clone()).or_insert(*amount);
            *most = (*most).max(*amount);
        }
        if container.restart_policy == "Always" {
            sidecars = now;
        }
    }
    add(&mut total, &sidecars);
    for (name, amount) in starting {
        let most = total.entry(name).or_insert(amount);
        *most = (*most).max(amount);
    }
    total
}

/// Adds amounts by name.
pub fn add(total: &mut Resources, more: &Resources) {
    for (name, amount) in more {
        *total.entry(name.clone()).or_default() += *amount;
    }
}

/// Neither ended nor overdue to be gone.
fn is_charged(pod: &Pod, now: Time) -> bool {
    let metadata = &pod.metadata;
    let overdue = match (metadata.deletion_timestamp, metadata.deletion_grace_period_seconds) {
        (Some(deleted), Some(grace)) => {
            now > deleted.plus(std::time::Duration::from_secs(grace.max(0) as u64))
        }
        _ => false,
    };
    !pod.is_terminal() && !overdue
}

/// The names under which quotas limit what is requested and what it is limited to.
fn compute(requests: &Resources, limits: &Resources) -> Resources {
    const LIMITED: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
    let mut usage = Resources::new();
    for (name, amount) in requests {
        let plain = LIMITED.contains(&name.as_str()) || name.starts_with(HUGE);
        if plain {
            usage.insert(name.clone(), *amount);
        }
        if plain || name.starts_with(IMPLICIT) || is_extended(name) {
            usage.insert(format!("{REQUESTS}{name}"), *amount);
        }
    }
    for (name, amount) in limits.iter().filter(|(name, _)| LIMITED.contains(&name.as_str())) {
        usage.insert(format!("limits.{name}"), *amount);
    }
    usage
}

fn of_service(service: &Service) -> Resources {
    let ports = &service.spec.ports;
    let (balancers, ports) = match service.spec.kind.as_str() {
        "NodePort" => (0, ports.len()),
        "LoadBalancer" => match service.spec.allocate_load_balancer_node_ports {
            Some(false) => (1, ports.iter().filter(|port| port.node_port != 0).count()),
            _ => (1, ports.len()),
        },
        _ => (0, 0),
    };
    Resources::from([
        ("services.loadbalancers".into(), Quantity::new(balancers)),
        ("services.nodeports".into(), Quantity::new(ports as i64)),
    ])
}

fn of_claim(claim: &PersistentVolumeClaim) -> Resources {
    let one = Quantity::new(1);
    let mut usage = Resources::new();
    let class = claim.class();
    if !class.is_empty() {
        usage.insert(format!("{class}{OF_CLASS}persistentvolumeclaims"), one);
    }
    let requested = claim.spec.resources.requests.get("storage");
    let allocated = claim.status.allocated_resources.get("storage");
    if let Some(storage) = requested.max(allocated) {
        usage.insert("requests.storage".into(), *storage);
        if !class.is_empty() {
            usage.insert(format!("{class}{OF_CLASS}requests.storage"), *storage);
        }
    }
    usage
}

/// Devices by their class, and by the extended resources that the class also goes by, as far as
/// the claim's pod is not charged for those. Of alternatives the most of each class counts.
fn of_devices(claim: &ResourceClaim, around: &Surroundings) -> Resources {
    let mut classes = Resources::new();
    for request in &claim.spec.devices.requests {
        let mut most = Resources::new();
        for devices in request.exactly.iter().chain(&request.first_available) {
            let amount = Quantity::new(match devices.allocation_mode.as_str() {
                "ExactCount" => devices.count,
                "All" => MOST_DEVICES,
                _ => 0,
            });
            let known = most.entry(devices.device_class_name.clone()).or_default();
            *known = (*known).max(amount);
        }
        add(&mut classes, &most);
    }
    let mut usage = Resources::new();
    for (class, amount) in classes {
        let named = around.extended.get(&class).map(|name| format!("{REQUESTS}{name}"));
        for resource in named.into_iter().chain([format!("{REQUESTS}{IMPLICIT}{class}")]) {
            let paid = around.paid.get(&resource).copied().unwrap_or_default();
            if amount > paid {
                usage.insert(resource, amount - paid);
            }
        }
        usage.insert(format!("{class}{OF_DEVICES}"), amount);
    }
    usage
}

/// What is charged for the pod of a claim. Only the first of the claims that name the pod is for
/// it; `claims` are those of the namespace.
pub fn paid<'a>(
    claim: &ResourceClaim,
    pod: &Pod,
    claims: impl IntoIterator<Item = &'a ResourceClaim>,
    now: Time,
) -> Resources {
    let Some(owner) = claim.extended_owner().filter(|owner| owner.uid == pod.metadata.uid) else {
        return Resources::new();
    };
    let age =
        |claim: &ResourceClaim| (claim.metadata.creation_timestamp, claim.metadata.name.clone());
    let earlier = |other: &&ResourceClaim| {
        other.extended_owner().is_some_and(|its| its.uid == owner.uid) && age(other) < age(claim)
    };
    match claims.into_iter().find(earlier) {
        Some(_) => Resources::new(),
        None => usage(&kind::POD, &Counted::Pod(pod), now),
    }
}

fn pod_in_scope(pod: &Pod, scope: &ScopedRequirement) -> bool {
    let deadline = pod.spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0);
    let best_effort = pod.status.qos_class == "BestEffort";
    let class = pod.spec.priority_class_name.as_str();
    match scope.scope_name.as_str() {
        "Terminating" => deadline,
        "NotTerminating" => !deadline,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => {
            let named = scope.values.iter().any(|value| value == class);
            match scope.operator.as_str() {
                "In" => !class.is_empty() && named,
                "NotIn" => class.is_empty() || !named,
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn claim_in_scope(claim: &PersistentVolumeClaim, scope: &ScopedRequirement) -> bool {
    let mut classes = claim.attributes_classes().peekable();
    let none = classes.peek().is_none();
    let listed = |class: &str| scope.values.iter().any(|value| value == class);
    match (scope.scope_name.as_str(), scope.operator.as_str()) {
        ("VolumeAttributesClass", "In") => classes.any(listed),
        ("VolumeAttributesClass", "NotIn") => none || classes.any(|class| !listed(class)),
        ("VolumeAttributesClass", "DoesNotExist") => none,
        ("VolumeAttributesClass", _) => !none,
        _ => false,
    }
}

fn crosses_namespaces(pod: &Pod) -> bool {
    let Some(affinity) = &pod.spec.affinity else { return false };
    let crosses = |affinity: &PodAffinity| {
        let preferred = affinity.preferred.iter().map(|term| &term.pod_affinity_term);
        let mut terms = affinity.required.iter().chain(preferred);
        terms.any(|term| !term.namespaces.is_empty() || term.namespace_selector.is_some())
    };
    crosses(&affinity.pod_affinity) || crosses(&affinity.pod_anti_affinity)
}

/// Whether quotas may limit how many objects of the kind there are. Events come and go by
/// themselves.
pub fn is_countable(row: &Row) -> bool {
    let stored = row.verbs.iter().any(|verb| verb == "watch");
    row.namespaced && stored && row.resource != kind::EVENT.resource
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::{DEPLOYMENT, PERSISTENT_VOLUME_CLAIM, POD, SECRET, SERVICE};
    use crate::view::resource_claim::EXTENDED_CLAIM;

    fn written(usage: &Resources) -> String {
        let parts: Vec<String> = usage.iter().map(|(name, q)| format!("{name}={q}")).collect();
        parts.join(" ")
    }

    #[test]
    fn what_devices_cost() {
        let request = |value: serde_json::Value| serde_json::json!({"exactly": value});
        let exactly = |class: &str, count: i64| {
            serde_json::json!({"deviceClassName": class, "allocationMode": "ExactCount",
                "count": count})
        };
        let all = serde_json::json!({"deviceClassName": "gold", "allocationMode": "All"});
        let first = |of: &[serde_json::Value]| serde_json::json!({"firstAvailable": of});
        let claim = |requests: &[serde_json::Value]| -> ResourceClaim {
            let spec = serde_json::json!({"spec": {"devices": {"requests": requests}}});
            serde_json::from_value(spec).unwrap()
        };
        let extended = BTreeMap::from([("tin".to_string(), "example.com/tin".to_string())]);
        let paid = Resources::from([("requests.example.com/tin".into(), Quantity::new(1))]);
        let around = Surroundings { extended, paid };
        for (requests, expected) in [
            (
                vec![request(exactly("gold", 1)), request(exactly("gold", 2))],
                "gold.deviceclass.resource.k8s.io/devices=3 \
                 requests.deviceclass.resource.kubernetes.io/gold=3",
            ),
            (
                vec![request(all)],
                "gold.deviceclass.resource.k8s.io/devices=32 \
                 requests.deviceclass.resource.kubernetes.io/gold=32",
            ),
            (
                vec![first(&[exactly("gold", 1), exactly("gold", 3), exactly("lead", 2)])],
                "gold.deviceclass.resource.k8s.io/devices=3 \
                 lead.deviceclass.resource.k8s.io/devices=2 \
                 requests.deviceclass.resource.kubernetes.io/gold=3 \
                 requests.deviceclass.resource.kubernetes.io/lead=2",
            ),
            (
                vec![request(exactly("tin", 3))],
                "requests.deviceclass.resource.kubernetes.io/tin=3 requests.example.com/tin=2 \
                 tin.deviceclass.resource.k8s.io/devices=3",
            ),
        ] {
            let claim = claim(&requests);
            let mut usage = usage(
                &kind::RESOURCE_CLAIM,
                &Counted::Devices(&claim, &around),
                Time::from_unix(0),
            );
            let count = usage.remove("count/resourceclaims.resource.k8s.io");
            assert_eq!(count, Some(Quantity::new(1)));
            assert_eq!(written(&usage), expected);
            for resource in usage.keys() {
                assert!(concerns(&kind::RESOURCE_CLAIM, resource), "{resource}");
            }
        }
    }

    /// A pod that asks for an extended resource pays for it, and the claim made of that does not
    /// pay again; only one claim is made of it.
    #[test]
    fn what_a_claims_pod_has_paid() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"uid": "p"},
            "spec": {"containers": [{"resources": {"requests": {"example.com/tin": "1"}}}]}}))
        .unwrap();
        let claim = |name: &str, uid: &str, made: &str| -> ResourceClaim {
            let owner = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "name": "p",
                "uid": uid, "controller": true});
            let metadata = serde_json::json!({"name": name, "ownerReferences": [owner],
                "annotations": {EXTENDED_CLAIM: made}});
            serde_json::from_value(serde_json::json!({ "metadata": metadata })).unwrap()
        };
        let (first, second) = (claim("a", "p", "true"), claim("b", "p", "true"));
        let claims = [first.clone(), second.clone()];
        let paid = |claim: &ResourceClaim| {
            let paid = paid(claim, &pod, &claims, Time::from_unix(0));
            paid.contains_key("requests.example.com/tin")
        };
        assert!(paid(&first));
        assert!(!paid(&second));
        assert!(!paid(&claim("a", "another", "true")));
        assert!(!paid(&claim("a", "p", "false")));
    }

    #[test]
    fn what_pods_cost() {
        let now = Time::from_unix(100);
        for (spec, status, expected) in [
            (r#"{"containers":[{}]}"#, "{}", "count/pods=1 pods=1"),
            (
                r#"{"containers":[{"resources":{"requests":{"cpu":"1","example.com/gpu":"2",
                    "hugepages-2Mi":"4Mi"},"limits":{"cpu":"2"}}},
                    {"resources":{"requests":{"cpu":"500m"}}}]}"#,
                "{}",
                "count/pods=1 cpu=1500m hugepages-2Mi=4Mi limits.cpu=2 pods=1 requests.cpu=1500m \
                 requests.example.com/gpu=2 requests.hugepages-2Mi=4Mi",
            ),
            (
                r#"{"containers":[{"resources":{"requests":{"memory":"1Gi"}}}],
                    "initContainers":[
                        {"restartPolicy":"Always","resources":{"requests":{"memory":"1Gi"}}},
                        {"resources":{"requests":{"memory":"2Gi"}}}],
                    "overhead":{"memory":"1Mi"}}"#,
                "{}",
                "count/pods=1 memory=3073Mi pods=1 requests.memory=3073Mi",
            ),
            (
                r#"{"containers":[{"resources":{"requests":{"cpu":"1","memory":"1Gi"}}}],
                    "resources":{"requests":{"cpu":"3"},"limits":{"cpu":"4"}},
                    "overhead":{"cpu":"100m"}}"#,
                "{}",
                "count/pods=1 cpu=3100m limits.cpu=4100m memory=1Gi pods=1 requests.cpu=3100m \
                 requests.memory=1Gi",
            ),
            (
                r#"{"containers":[{"resources":{"requests":{"cpu":"1"}}}]}"#,
                r#"{"phase":"Succeeded"}"#,
                "count/pods=1",
            ),
        ] {
            let pod = format!(r#"{{"spec":{spec},"status":{status}}}"#);
            let pod: Pod = serde_json::from_str(&pod).unwrap();
            let usage = usage(&POD, &Counted::Pod(&pod), now);
            assert_eq!(written(&usage), expected);
            assert!(usage.keys().all(|resource| concerns(&POD, resource)), "{usage:?}");
        }
        let pod: Pod = serde_json::from_str(
            r#"{"metadata":{"deletionTimestamp":"1970-01-01T00:01:00Z","deletionGracePeriodSeconds":30}}"#,
        )
        .unwrap();
        assert_eq!(usage(&POD, &Counted::Pod(&pod), Time::from_unix(90)).len(), 2);
        assert_eq!(usage(&POD, &Counted::Pod(&pod), Time::from_unix(91)).len(), 1);
    }

    #[test]
    fn who_asks_for_nothing() {
        let pod =
            |spec: &str| -> Pod { serde_json::from_str(&format!(r#"{{"spec":{spec}}}"#)).unwrap() };
        let plain = pod(r#"{"containers":[{"name":"a"}]}"#);
        let missing = [("requests.cpu".to_string(), vec!["a".to_string()])];
        assert_eq!(unspecified(&plain, &["requests.cpu", "pods"]), missing);
        let whole = pod(r#"{"containers":[{"name":"a"}],"resources":{"limits":{"cpu":"1"}}}"#);
        assert_eq!(unspecified(&whole, &["requests.cpu", "limits.memory"]), []);
    }

    #[test]
    fn what_others_cost() {
        let now = Time::from_unix(0);
        let service = |text: &str| serde_json::from_str::<Service>(text).unwrap();
        for (text, expected) in [
            (r#"{"spec":{"type":"ClusterIP","ports":[{}]}}"#, (0, 0)),
            (r#"{"spec":{"type":"NodePort","ports":[{},{}]}}"#, (0, 2)),
            (r#"{"spec":{"type":"LoadBalancer","ports":[{}]}}"#, (1, 1)),
            (
                r#"{"spec":{"type":"LoadBalancer","allocateLoadBalancerNodePorts":false,
                    "ports":[{},{"nodePort":30000}]}}"#,
                (1, 1),
            ),
        ] {
            let usage = usage(&SERVICE, &Counted::Service(&service(text)), now);
            let of = |name: &str| usage[name].value();
            assert_eq!((of("services.loadbalancers"), of("services.nodeports")), expected);
        }
        let claim: PersistentVolumeClaim = serde_json::from_str(
            r#"{"spec":{"storageClassName":"fast","resources":{"requests":{"storage":"1Gi"}}},
                "status":{"allocatedResources":{"storage":"2Gi"}}}"#,
        )
        .unwrap();
        assert_eq!(
            written(&usage(&PERSISTENT_VOLUME_CLAIM, &Counted::Claim(&claim), now)),
            "count/persistentvolumeclaims=1 \
             fast.storageclass.storage.k8s.io/persistentvolumeclaims=1 \
             fast.storageclass.storage.k8s.io/requests.storage=2Gi persistentvolumeclaims=1 \
             requests.storage=2Gi"
        );
        let other = |row| written(&usage(row, &Counted::Other, now));
        assert_eq!(other(&SECRET), "count/secrets=1 secrets=1");
        assert_eq!(other(&DEPLOYMENT), "count/deployments.apps=1");
        assert!(!concerns(&DEPLOYMENT, "pods") && !concerns(&SECRET, "cpu"));
    }

    #[test]
    fn scopes() {
        let quota = |spec: &str| -> ResourceQuota {
            serde_json::from_str(&format!(r#"{{"spec":{spec}}}"#)).unwrap()
        };
        let pod: Pod = serde_json::from_str(
            r#"{"spec":{"activeDeadlineSeconds":5,"priorityClassName":"high","affinity":
                {"podAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":
                [{"namespaces":["a"]}]}}},"status":{"qosClass":"BestEffort"}}"#,
        )
        .unwrap();
        let class = |operator: &str, values: &str| {
            format!(
                r#"{{"scopeSelector":{{"matchExpressions":[{{"scopeName":"PriorityClass",
                    "operator":"{operator}","values":[{values}]}}]}}}}"#
            )
        };
        for (spec, expected) in [
            ("{}".to_string(), true),
            (r#"{"scopes":["BestEffort","Terminating"]}"#.into(), true),
            (r#"{"scopes":["BestEffort","NotTerminating"]}"#.into(), false),
            (r#"{"scopes":["NotBestEffort"]}"#.into(), false),
            (r#"{"scopes":["CrossNamespacePodAffinity","PriorityClass"]}"#.into(), true),
            (class("In", r#""high""#), true),
            (class("In", r#""low""#), false),
            (class("NotIn", r#""low""#), true),
            (class("Exists", ""), true),
            (class("DoesNotExist", ""), false),
        ] {
            assert_eq!(in_scopes(&quota(&spec), &Counted::Pod(&pod)), expected, "{spec}");
        }
        assert!(!in_scopes(&quota(r#"{"scopes":["BestEffort"]}"#), &Counted::Other));
    }

    #[test]
    fn scopes_of_claims() {
        let claim = |text: &str| -> PersistentVolumeClaim { serde_json::from_str(text).unwrap() };
        let gold = claim(r#"{"spec":{"volumeAttributesClassName":"gold"}}"#);
        let changing = claim(
            r#"{"spec":{"volumeAttributesClassName":"gold"},"status":{
                "currentVolumeAttributesClassName":"silver",
                "modifyVolumeStatus":{"targetVolumeAttributesClassName":"gold"}}}"#,
        );
        let plain = claim("{}");
        for (operator, values, expected) in [
            ("In", r#""gold""#, [true, true, false]),
            ("In", r#""silver""#, [false, true, false]),
            ("NotIn", r#""gold""#, [false, true, true]),
            ("Exists", "", [true, true, false]),
            ("DoesNotExist", "", [false, false, true]),
        ] {
            let quota: ResourceQuota = serde_json::from_str(&format!(
                r#"{{"spec":{{"scopeSelector":{{"matchExpressions":[{{
                    "scopeName":"VolumeAttributesClass","operator":"{operator}",
                    "values":[{values}]}}]}}}}}}"#
            ))
            .unwrap();
            let found =
                [&gold, &changing, &plain].map(|claim| in_scopes(&quota, &Counted::Claim(claim)));
            assert_eq!(found, expected, "{operator} {values}");
            let pod = Pod::default();
            assert!(!in_scopes(&quota, &Counted::Pod(&pod)), "{operator}");
        }
    }
}
