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
mod tests;
