//! Resizing a pod in place: what may change through its subresource
//! (kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources).

use proto::status::FieldError;
use serde_json::Value;

use super::{level, qos};
use crate::kinds::check::Errors;
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

const LISTS: [&str; 2] = ["containers", "initContainers"];

/// The pod as it is, but for the resources and resize policies of the new one.
pub fn prepare(new: &mut Value, old: &Value) {
    if LISTS.iter().any(|list| !same_order(new.at("spec"), old.at("spec"), list)) {
        return; // Validation says so.
    }
    let mut made = old.clone();
    made.section("metadata").take_over("managedFields", new.at("metadata"));
    made.section("spec").take_over("resources", new.at("spec"));
    for list in LISTS {
        let asked = new.at("spec").items(list);
        for (container, asked) in made.section("spec").items_mut(list).iter_mut().zip(asked) {
            container.take_over("resources", asked);
            container.take_over("resizePolicy", asked);
        }
    }
    *new = made;
}

/// Validates the change; both pods are valid on their own. `path` is the spec's.
pub fn validate(path: &Path, new: &Value, old: &Value, errors: &mut Errors) {
    let (spec, before) = (new.at("spec"), old.at("spec"));
    for (never, what) in [
        (super::is_mirror(old.at("metadata")), "static"),
        (before.at("os").text("name") == "windows", "windows"),
    ] {
        if never {
            *errors = vec![FieldError::forbidden("", format!("{what} pods cannot be resized"))];
            return;
        }
    }
    let class = match old.at("status").text("qosClass") {
        "" => qos::class(before),
        class => class,
    };
    if qos::class(spec) != class {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid(path, new.at("status").text("qosClass"), detail));
    }
    if !resizable(old) {
        let detail = "Pod running on node without support for resize";
        errors.push(FieldError::forbidden(path, detail));
    }
    let mut munged = spec.clone();
    if level::is_set(before) || level::is_set(spec) {
        pod_level(path, &mut munged, before, errors);
    }
    if !old.at("status").vacant("nodeAllocatableResourceClaimStatuses") {
        let detail = "pods with node allocatable resource claims cannot be resized";
        errors.push(FieldError::forbidden(path, detail));
    }
    let start = errors.len();
    LISTS.iter().for_each(|list| order(path, list, spec, before, errors));
    if errors.len() > start {
        return;
    }
    for list in ["initContainers", "containers"] {
        let field = path.field(list);
        for (index, old) in before.items(list).iter().enumerate() {
            let (path, container) = (field.index(index), &spec.items(list)[index]);
            let field = path.field("resources");
            removed(&field, container.at("resources"), old.at("resources"), "", errors);
        }
    }
    for list in LISTS {
        let field = path.field(list);
        for (index, old) in before.items(list).iter().enumerate() {
            let container = &mut munged.items_mut(list)[index];
            let (init, changed) = (list == LISTS[1], container != old);
            put_back(container, old);
            let (path, detail) = match init {
                true => (
                    field.index(index),
                    "only cpu and memory resources for init or sidecar containers are mutable",
                ),
                false => (*path, "only cpu and memory resources are mutable"),
            };
            if container != old {
                errors.push(FieldError::forbidden(path, detail));
            }
            let once = init && container.text("restartPolicy") != "Always";
            if once && changed {
                restarted(&path, container, errors);
            }
        }
    }
    if errors.is_empty() && munged != *before {
        errors.push(FieldError::forbidden(path, "only cpu and memory resources are mutable"));
    }
}

/// What is asked for the pod as a whole. What may change becomes what it was.
fn pod_level(path: &Path, spec: &mut Value, old: &Value, errors: &mut Errors) {
    let field = path.field("resources");
    if old.has("resources") && !spec.has("resources") {
        let detail = "pod-level resources cannot be removed";
        errors.push(FieldError::forbidden(field, detail));
        return;
    }
    removed(&field, spec.at("resources"), old.at("resources"), "pod-level ", errors);
    put_back(spec, old);
    if spec.at("resources") != old.at("resources") {
        let detail = "only cpu and memory resources are mutable at pod-level";
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// Containers are known by their place.
fn order(path: &Path, list: &str, new: &Value, old: &Value, errors: &mut Errors) {
    let (path, new, old) = (path.field(list), new.items(list), old.items(list));
    if new.len() != old.len() {
        let detail = format!("{list} may not be added or removed on resize");
        errors.push(FieldError::forbidden(path, detail));
        return;
    }
    for (index, (new, old)) in new.iter().zip(old).enumerate() {
        if new.text("name") != old.text("name") {
            let path = path.index(index);
            let detail = format!("{list} may not be renamed or reordered on resize");
            errors.push(FieldError::forbidden(path.field("name"), detail));
        }
    }
}

/// What was asked for stays asked for, in another amount.
fn removed(path: &Path, new: &Value, old: &Value, level: &str, errors: &mut Errors) {
    for (field, what) in [("requests", "resource requests"), ("limits", "resource limits")] {
        if !old.pairs(field).all(|(name, _)| new.at(field).has(name)) {
            let detail = format!("{level}{what} cannot be removed");
            errors.push(FieldError::forbidden(path.field(field), detail));
        }
    }
}

/// An init container that runs once cannot be restarted for its resources.
fn restarted(path: &Path, container: &Value, errors: &mut Errors) {
    let policies = container.items("resizePolicy").iter();
    for _ in policies.filter(|policy| policy.text("restartPolicy") == "RestartContainer") {
        let detail = "non-sidecar init containers with a resize policy of RestartContainer cannot \
                      be resized";
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// What may change of the resources of a container or a pod becomes what it was.
fn put_back(container: &mut Value, old: &Value) {
    for field in ["requests", "limits"] {
        for name in ["cpu", "memory"] {
            match old.at("resources").at(field).get(name) {
                Some(amount) => {
                    let amount = amount.clone();
                    container.section("resources").section(field).set(name, amount);
                }
                None => container.section("resources").section(field).drop(name),
            }
        }
        let resources = container.section("resources");
        if resources.vacant(field) && !old.at("resources").has(field) {
            resources.drop(field);
        }
    }
    if container.vacant("resources") && !old.has("resources") {
        container.drop("resources");
    }
}

/// The node tells the resources of what it runs.
fn resizable(pod: &Value) -> bool {
    let mut statuses = pod.at("status").items("containerStatuses").iter();
    statuses
        .find(|status| status.at("state").has("running"))
        .is_none_or(|status| status.has("resources"))
}

fn same_order(new: &Value, old: &Value, list: &str) -> bool {
    let names = |spec: &Value| -> Vec<String> {
        spec.items(list).iter().map(|container| container.text("name").to_string()).collect()
    };
    names(new) == names(old)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_may_be_resized() {
        let limits = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
        let container = |resources: Value| json!({"name": "c", "resources": resources});
        let burstable = json!({"requests": limits("1", "1Gi"), "limits": limits("2", "1Gi")});
        let old = json!({
            "spec": {
                "containers": [container(burstable.clone())],
                "initContainers": [{"name": "i", "resources": {
                    "requests": limits("1", "1Gi"), "limits": limits("1", "1Gi"),
                }}],
            },
            "status": {"qosClass": "Burstable"},
        });
        let resized = |resources: Value| {
            let mut pod = old.clone();
            pod["spec"]["containers"][0]["resources"] = resources;
            pod
        };
        let (requests, higher) = (limits("1", "1Gi"), limits("3", "2Gi"));
        let mut renamed = old.clone();
        renamed["spec"]["containers"][0]["name"] = "d".into();
        let mut init = old.clone();
        init["spec"]["initContainers"][0]["resources"]["limits"] = higher.clone();
        let mut policy = old.clone();
        policy["spec"]["containers"][0]["resizePolicy"] =
            json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
        let mut fewer = old.clone();
        fewer["spec"]["initContainers"] = json!([]);
        let disk = json!({"cpu": "2", "memory": "1Gi", "ephemeral-storage": "1Gi"});
        let cases = [
            (resized(json!({"requests": requests, "limits": higher})), ""),
            (policy, "spec: Forbidden: only cpu and memory resources are mutable"),
            (
                resized(json!({"requests": higher, "limits": higher})),
                "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of \
                 resizing",
            ),
            (
                resized(json!({"requests": {"cpu": "1"}, "limits": limits("2", "1Gi")})),
                "spec.containers[0].resources.requests: Forbidden: resource requests cannot be \
                 removed",
            ),
            (
                resized(json!({"requests": requests})),
                "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed",
            ),
            (
                resized(json!({"requests": requests, "limits": disk})),
                "spec: Forbidden: only cpu and memory resources are mutable",
            ),
            (
                renamed,
                "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on \
                 resize",
            ),
            (
                fewer,
                "spec.initContainers: Forbidden: initContainers may not be added or removed on \
                 resize",
            ),
            (init, ""),
        ];
        for (new, expected) in cases {
            let mut errors = Vec::new();
            validate(&Path::root("spec"), &new, &old, &mut errors);
            let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(found.join("; "), expected, "{new}");
        }
    }
    #[test]
    fn what_may_be_resized_of_the_whole() {
        let pod = |own: Value| {
            json!({
                "spec": {"containers": [{"name": "c"}], "resources": own},
                "status": {"qosClass": "Burstable"},
            })
        };
        let old = pod(json!({"limits": {"cpu": "4"}}));
        let mut none = pod(json!({}));
        none["spec"].drop("resources");
        let cases = [
            (pod(json!({"limits": {"cpu": "8"}})), ""),
            (pod(json!({"limits": {"cpu": "8", "memory": "1Gi"}, "requests": {"cpu": "1"}})), ""),
            (
                pod(json!({"limits": {"cpu": "8", "hugepages-2Mi": "2Mi"}})),
                "spec: Forbidden: only cpu and memory resources are mutable at pod-level",
            ),
            (
                pod(json!({"limits": {"memory": "8Gi"}})),
                "spec.resources.limits: Forbidden: pod-level resource limits cannot be removed",
            ),
            (
                none,
                "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of \
                 resizing; spec.resources: Forbidden: pod-level resources cannot be removed",
            ),
        ];
        for (new, expected) in cases {
            let mut errors = Vec::new();
            validate(&Path::root("spec"), &new, &old, &mut errors);
            let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(found.join("; "), expected, "{new}");
        }
    }
}
