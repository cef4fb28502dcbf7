//! Resizing a pod in place: what may change through its subresource
//! (kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources).

use proto::status::FieldError;
use serde_json::Value;

use super::qos;
use crate::kinds::check::Errors;
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

const LISTS: [&str; 2] = ["containers", "initContainers"];

/// The pod as it is, but for the resources and resize policies of the new one.
pub fn prepare(new: &mut Value, old: &Value) {
    if !same_order(new.at("spec"), old.at("spec"), LISTS[0])
        || !same_order(new.at("spec"), old.at("spec"), LISTS[1])
    {
        return; // Validation says so.
    }
    let mut made = old.clone();
    made.section("metadata").take_over("managedFields", new.at("metadata"));
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
    if before.at("os").text("name") == "windows" {
        errors.push(FieldError::forbidden("", "windows pods cannot be resized"));
        return;
    }
    let class = old.at("status").text("qosClass");
    if qos::class(spec) != class && !class.is_empty() {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid(path, class, detail));
    }
    if !resizable(old) {
        let detail = "Pod running on node without support for resize";
        errors.push(FieldError::forbidden(path, detail));
    }
    let start = errors.len();
    for list in LISTS.into_iter().filter(|list| !same_order(spec, before, list)) {
        let detail = format!("{list} may not be renamed or reordered on resize");
        errors.push(FieldError::forbidden(path.field(list), detail));
    }
    if errors.len() > start {
        return;
    }
    let mut munged = spec.clone();
    for list in LISTS {
        let field = path.field(list);
        for (index, old) in before.items(list).iter().enumerate() {
            let container = &spec.items(list)[index];
            let path = field.index(index);
            let path = path.field("resources");
            let (resources, before) = (container.at("resources"), old.at("resources"));
            let once = list == LISTS[1] && container.text("restartPolicy") != "Always";
            if once && resources != before {
                let detail = "resources for non-sidecar init containers are immutable";
                errors.push(FieldError::forbidden(path, detail));
            }
            for (field, what) in [("requests", "resource requests"), ("limits", "resource limits")]
            {
                let kept = |(name, _): (&str, &Value)| resources.at(field).has(name);
                if !before.pairs(field).all(kept) {
                    let detail = format!("{what} cannot be removed");
                    errors.push(FieldError::forbidden(path.field(field), detail));
                }
            }
            put_back(&mut munged.items_mut(list)[index], old);
        }
    }
    if munged != *before {
        errors.push(FieldError::forbidden(path, "only cpu and memory resources are mutable"));
    }
}

/// What may change becomes what it was.
fn put_back(container: &mut Value, old: &Value) {
    container.take_over("resizePolicy", old);
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
        let disk = json!({"cpu": "2", "memory": "1Gi", "ephemeral-storage": "1Gi"});
        let cases = [
            (resized(json!({"requests": requests, "limits": higher})), ""),
            (policy, ""),
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
                "spec.containers: Forbidden: containers may not be renamed or reordered on resize",
            ),
            (
                init,
                "spec.initContainers[0].resources: Forbidden: resources for non-sidecar init \
                 containers are immutable",
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
