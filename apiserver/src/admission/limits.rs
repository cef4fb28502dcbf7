//! LimitRanger: defaults for what containers ask for, and bounds on what containers, pods and
//! claims may ask for. <https://kubernetes.io/docs/concepts/policy/limit-range/>

use proto::{kind, quantity::Quantity, quota::pod_total, view::Resources, view::pod::PodSpec};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Denied, Operation, Request, request::read};
use crate::kinds::{lens::Lens, pod::resources::list};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Where pods keep containers that take resources, and what the annotation calls one.
const CONTAINERS: [(&str, &str); 2] =
    [("containers", "container"), ("initContainers", "init container")];

/// One item of a LimitRange.
struct Item(Value);

/// Sets the defaults of every LimitRange of the namespace, and notes which.
pub(super) fn mutate(request: &Request, pod: &mut Value) -> Result<bool, Denied> {
    if !is_pod(request) {
        return Ok(false);
    }
    let mut changed = false;
    for items in ranges(request) {
        let notes = set_defaults(&items, pod);
        if !notes.is_empty() {
            let note = format!("LimitRanger plugin set: {}", notes.join("; "));
            pod.section("metadata").section("annotations").set(ANNOTATION, note);
            changed = true;
        }
    }
    Ok(changed)
}

/// Refuses what is out of bounds: everything that one LimitRange has to say.
pub(super) fn validate(request: &Request, object: Option<&Value>) -> Result<(), Denied> {
    let Some(object) = object else { return Ok(()) };
    let check: fn(&Item, &Value) -> Vec<String> = if is_pod(request) {
        check_pod
    } else if is_claim(request) {
        check_claim
    } else {
        return Ok(());
    };
    for items in ranges(request) {
        let mut problems: Vec<String> = Vec::new();
        for problem in items.iter().flat_map(|item| check(item, object)) {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        match problems.as_slice() {
            [] => {}
            [one] => return Err(request.forbidden(one)),
            many => return Err(request.forbidden(format!("[{}]", many.join(", ")))),
        }
    }
    Ok(())
}

/// The resources of a pod are set when it is made or resized.
fn is_pod(request: &Request) -> bool {
    let resized = request.concerns(&kind::POD)
        && request.operation == Operation::Update
        && request.subresource == "resize";
    request.is(Operation::Create, &kind::POD) || (resized && !is_leaving(request))
}

fn is_claim(request: &Request) -> bool {
    let claim = &kind::PERSISTENT_VOLUME_CLAIM;
    request.is(Operation::Create, claim)
        || (request.is(Operation::Update, claim) && !is_leaving(request))
}

fn is_leaving(request: &Request) -> bool {
    request.old.is_some_and(|old| old.at("metadata").has("deletionTimestamp"))
}

/// The items of each LimitRange of the namespace.
fn ranges(request: &Request) -> Vec<Vec<Item>> {
    let ranges = request.cluster.list(&kind::LIMIT_RANGE, request.namespace);
    let items = |range: Value| range.at("spec").items("limits").iter().cloned().map(Item).collect();
    ranges.iter().map(|entry| items(read(entry))).collect()
}

/// Says what was set, per container: requests first, then limits.
fn set_defaults(items: &[Item], pod: &mut Value) -> Vec<String> {
    let defaults = |field: &str| -> Resources {
        let of_containers = items.iter().filter(|item| item.kind() == "Container");
        of_containers.flat_map(|item| item.amounts(field)).collect()
    };
    let defaults = [
        ("requests", "request", defaults("defaultRequest")),
        ("limits", "limit", defaults("default")),
    ];
    let mut notes = Vec::new();
    for (list, called) in CONTAINERS {
        for container in pod.section("spec").items_mut(list) {
            let name = container.text("name").to_string();
            for (field, singular, amounts) in &defaults {
                let mut set = Vec::new();
                for (resource, amount) in amounts {
                    if !container.at("resources").at(field).has(resource) {
                        container.section("resources").section(field).set(resource, json!(amount));
                        set.push(resource.as_str());
                    }
                }
                if !set.is_empty() {
                    notes.push(format!("{} {singular} for {called} {name}", set.join(", ")));
                }
            }
        }
    }
    notes
}

fn check_pod(item: &Item, pod: &Value) -> Vec<String> {
    let spec = pod.at("spec");
    match item.kind() {
        "Container" => {
            let all = CONTAINERS.iter().flat_map(|(field, _)| spec.items(field));
            let bounds = all.flat_map(|container| {
                let own = container.at("resources");
                item.check(&list(own.at("requests")), &list(own.at("limits")))
            });
            bounds.collect()
        }
        "Pod" => {
            let Ok(mut spec) = PodSpec::deserialize(spec) else { return Vec::new() };
            spec.overhead.clear();
            let requests = pod_total(&spec, |own| &own.requests, true);
            let limits = pod_total(&spec, |own| &own.limits, false);
            item.check(&requests, &limits)
        }
        _ => Vec::new(),
    }
}

/// Claims only request.
fn check_claim(item: &Item, claim: &Value) -> Vec<String> {
    if item.kind() != "PersistentVolumeClaim" {
        return Vec::new();
    }
    let requests = list(claim.at("spec").at("resources").at("requests"));
    let mut problems = Vec::new();
    for (bound, field) in [("minimum", "min"), ("maximum", "max")] {
        for (resource, limit) in item.amounts(field) {
            let say = |what: &str| {
                format!("{bound} {resource} usage per {} is {limit}{what}", item.kind())
            };
            match requests.get(&resource) {
                None => problems.push(say(".  No request is specified")),
                Some(request) if out_of(bound, *request, limit) => {
                    problems.push(say(&format!(", but request is {request}")));
                }
                Some(_) => {}
            }
        }
    }
    problems
}

fn out_of(bound: &str, amount: Quantity, limit: Quantity) -> bool {
    if bound == "minimum" { amount < limit } else { amount > limit }
}

impl Item {
    fn kind(&self) -> &str {
        self.0.text("type")
    }

    fn amounts(&self, field: &str) -> Resources {
        list(self.0.at(field))
    }

    /// All bounds of this item on these amounts.
    fn check(&self, requests: &Resources, limits: &Resources) -> Vec<String> {
        let mut problems = Vec::new();
        for (resource, bound) in self.amounts("min") {
            let (must, also) = (("request", requests), ("limit", limits));
            problems.extend(self.bound("minimum", &resource, bound, must, also));
        }
        for (resource, bound) in self.amounts("max") {
            let (must, also) = (("limit", limits), ("request", requests));
            problems.extend(self.bound("maximum", &resource, bound, must, also));
        }
        for (resource, most) in self.amounts("maxLimitRequestRatio") {
            problems.extend(self.ratio(
                &resource,
                most,
                requests.get(&resource),
                limits.get(&resource),
            ));
        }
        problems
    }

    /// `must` has to be there and within the bound; `also` within it where it is there.
    fn bound(
        &self,
        name: &str,
        resource: &str,
        bound: Quantity,
        must: (&str, &Resources),
        also: (&str, &Resources),
    ) -> Option<String> {
        let say = |what: String| {
            Some(format!("{name} {resource} usage per {} is {bound}{what}", self.kind()))
        };
        if !must.1.contains_key(resource) {
            return say(format!(".  No {} is specified", must.0));
        }
        for (what, amounts) in [must, also] {
            if let Some(amount) = amounts.get(resource)
                && out_of(name, *amount, bound)
            {
                return say(format!(", but {what} is {amount}"));
            }
        }
        None
    }

    fn ratio(
        &self,
        resource: &str,
        most: Quantity,
        request: Option<&Quantity>,
        limit: Option<&Quantity>,
    ) -> Option<String> {
        let say = |what: String| {
            Some(format!(
                "{resource} max limit to request ratio per {} is {most}, but {what}",
                self.kind()
            ))
        };
        let Some(request) = request.filter(|request| !request.is_zero()) else {
            return say("no request is specified or request is 0".into());
        };
        let Some(limit) = limit.filter(|limit| !limit.is_zero()) else {
            return say("no limit is specified or limit is 0".into());
        };
        let ratio = exact(*limit) / exact(*request);
        if ratio > exact(most) { say(format!("provided ratio is {ratio:.6}")) } else { None }
    }
}

/// Thousandths where they fit into the number.
fn exact(amount: Quantity) -> f64 {
    match amount.milli() {
        i64::MAX => amount.value() as f64,
        milli => milli as f64 / 1000.0,
    }
}
