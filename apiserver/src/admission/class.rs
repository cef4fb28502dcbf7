//! Classes that a pod may name: of priority and of runtime.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/>
//! <https://kubernetes.io/docs/concepts/containers/runtime-class/>

use proto::{kind, quantity::Quantity};
use serde_json::{Value, json};

use super::{Denied, Operation, Request, request::read};
use crate::kinds::{lens::Lens, pod::resources};

/// What Kubernetes itself defines, also where the objects are not there (yet).
const SYSTEM: &[(&str, i64)] =
    &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

const PREEMPT: &str = "PreemptLowerPriority";

/// Computes the priority of a new pod from the class that it names.
pub(super) fn priority(request: &Request, pod: &mut Value) -> Result<bool, Denied> {
    if !request.writes(&kind::POD) {
        return Ok(false);
    }
    match (request.operation, request.old) {
        (Operation::Create, _) => compute(request, pod),
        (Operation::Update, Some(old)) => Ok(restore(pod, old)),
        _ => Ok(false),
    }
}

/// A client that does not know what was computed does not mean to take it away.
fn restore(pod: &mut Value, old: &Value) -> bool {
    let mut changed = false;
    for field in ["priority", "preemptionPolicy"] {
        if !pod.at("spec").has(field) && old.at("spec").has(field) {
            pod.section("spec").take_over(field, old.at("spec"));
            changed = true;
        }
    }
    changed
}

fn compute(request: &Request, pod: &mut Value) -> Result<bool, Denied> {
    let name = pod.at("spec").text("priorityClassName").to_string();
    let class = if name.is_empty() { default_class(request) } else { named(request, &name)? };
    let (name, priority, policy) = match &class {
        Some(class) => (
            class.at("metadata").text("name"),
            class.int("value").unwrap_or(0),
            Some(class.text("preemptionPolicy")).filter(|policy| !policy.is_empty()),
        ),
        None => ("", 0, None),
    };
    let policy = policy.unwrap_or(PREEMPT);
    let spec = pod.section("spec");
    if let Some(given) = spec.int("priority").filter(|given| *given != priority) {
        return Err(request.forbidden(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority \
             admission controller computed {priority} from the given PriorityClass name"
        )));
    }
    let given = spec.text("preemptionPolicy");
    if !given.is_empty() && given != policy {
        return Err(request.forbidden(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; \
             priority admission controller computed {policy} from the given PriorityClass name"
        )));
    }
    if !name.is_empty() {
        spec.set("priorityClassName", name);
    }
    spec.set("priority", priority);
    spec.set("preemptionPolicy", policy);
    Ok(true)
}

fn named(request: &Request, name: &str) -> Result<Option<Value>, Denied> {
    if let Some(entry) = request.cluster.get(&kind::PRIORITY_CLASS, "", name) {
        return Ok(Some(read(&entry)));
    }
    match SYSTEM.iter().find(|(known, _)| *known == name) {
        Some((name, value)) => Ok(Some(json!({"metadata": {"name": name}, "value": value}))),
        None => Err(request.forbidden(format!("no PriorityClass with name {name} was found"))),
    }
}

/// The class for pods that name none; of several the one with the lowest value.
fn default_class(request: &Request) -> Option<Value> {
    let classes = request.cluster.list(&kind::PRIORITY_CLASS, "");
    let classes = classes.iter().map(|entry| read(entry));
    let marked = classes.filter(|class| class.flag("globalDefault") == Some(true));
    marked.min_by_key(|class| class.int("value").unwrap_or(0))
}

/// There is one default among the PriorityClasses.
pub(super) fn one_default(request: &Request, class: Option<&Value>) -> Result<(), Denied> {
    let marked = |class: &Value| class.flag("globalDefault") == Some(true);
    let written = matches!(request.operation, Operation::Create | Operation::Update);
    let Some(_) =
        class.filter(|class| written && request.writes(&kind::PRIORITY_CLASS) && marked(class))
    else {
        return Ok(());
    };
    let Some(other) = default_class(request) else { return Ok(()) };
    let other = other.at("metadata").text("name");
    let renewed = request.operation == Operation::Update
        && (other == request.name || request.old.is_some_and(marked));
    if renewed {
        return Ok(());
    }
    Err(request.forbidden(format!(
        "PriorityClass {other} is already marked as default. Only one default can exist"
    )))
}

/// What the runtime of the pod costs, and which nodes have it.
pub(super) fn runtime(request: &Request, pod: &mut Value) -> Result<bool, Denied> {
    let Some(class) = runtime_class(request, pod)? else { return Ok(false) };
    let overhead = class.at("overhead").at("podFixed");
    let spec = pod.section("spec");
    if class.has("overhead") {
        if !spec.vacant("overhead") && !same(spec.at("overhead"), overhead) {
            return Err(request.forbidden(
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
            ));
        }
        if !overhead.is_null() {
            spec.set("overhead", overhead.clone());
        }
    }
    let scheduling = class.at("scheduling");
    for (key, value) in scheduling.pairs("nodeSelector") {
        let own = spec.at("nodeSelector").at(key);
        if !own.is_null() && own != value {
            let (value, own) = (value.as_str().unwrap_or(""), own.as_str().unwrap_or(""));
            return Err(request.forbidden(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; \
                 pod.spec.nodeSelector[{key}] = {own}"
            )));
        }
        spec.section("nodeSelector").set(key, value.clone());
    }
    let mut tolerations = spec.items("tolerations").to_vec();
    for toleration in scheduling.items("tolerations") {
        if !tolerations.contains(toleration) {
            tolerations.push(toleration.clone());
        }
    }
    if !tolerations.is_empty() {
        spec.set("tolerations", tolerations);
    }
    Ok(true)
}

/// Nobody but a runtime class sets what it costs.
pub(super) fn overhead(request: &Request, pod: Option<&Value>) -> Result<(), Denied> {
    let Some(pod) = pod.filter(|_| request.is(Operation::Create, &kind::POD)) else {
        return Ok(());
    };
    let own = pod.at("spec").at("overhead");
    match runtime_class(request, pod)?.filter(|class| class.has("overhead")) {
        Some(class) if !same(own, class.at("overhead").at("podFixed")) => Err(request.forbidden(
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        )),
        None if !own.is_null() => Err(request.forbidden(
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        )),
        _ => Ok(()),
    }
}

fn runtime_class(request: &Request, pod: &Value) -> Result<Option<Value>, Denied> {
    let name = pod.at("spec").text("runtimeClassName");
    if name.is_empty() || !request.is(Operation::Create, &kind::POD) {
        return Ok(None);
    }
    match request.cluster.get(&kind::RUNTIME_CLASS, "", name) {
        Some(entry) => Ok(Some(read(&entry))),
        None => Err(request.forbidden(format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

/// The same amounts, however they are written.
fn same(left: &Value, right: &Value) -> bool {
    let amounts = |list: &Value| -> Vec<(String, Option<Quantity>)> {
        let pairs = list.as_object().into_iter().flatten();
        let mut amounts: Vec<_> =
            pairs.map(|(name, amount)| (name.clone(), resources::read(amount))).collect();
        amounts.sort_by(|left, right| left.0.cmp(&right.0));
        amounts
    };
    amounts(left) == amounts(right)
}
