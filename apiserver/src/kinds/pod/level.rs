//! Pod-level resources: what a pod has as a whole, within which its containers may have theirs.
//! <https://kubernetes.io/docs/tasks/configure-pod-container/assign-pod-level-resources/>

use proto::quota::containers_total;
use proto::status::FieldError;
use proto::view::Resources;
use proto::view::pod::{PodSpec, Requirements};
use serde::Deserialize;
use serde_json::{Value, json};

use super::resources;
use crate::kinds::check::Errors;
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

/// What a pod may have as a whole; of huge pages any size.
const SUPPORTED: [&str; 3] = ["cpu", "hugepages-", "memory"];

/// Whether anything is asked for the pod as a whole.
pub fn is_set(spec: &Value) -> bool {
    let resources = spec.at("resources");
    !resources.vacant("requests") || !resources.vacant("limits")
}

/// What is left out follows from the containers and from the pod's own limits. The containers'
/// defaults come first.
pub fn default(spec: &mut Value) {
    if !is_set(spec) {
        return;
    }
    let Ok(view) = PodSpec::deserialize(&*spec) else { return };
    let (requests, limits) = totals(&view);
    let own = spec.section("resources");
    for (name, amount) in limits.iter().filter(|(name, _)| resources::is_huge(name)) {
        own.section("limits").fill(name, json!(amount));
    }
    if own.vacant("limits") {
        return;
    }
    for (name, amount) in &requests {
        if is_supported(name) && resources::overcommits(name) {
            own.section("requests").fill(name, json!(amount));
        }
    }
    for (name, amount) in resources::list(own.at("limits")) {
        if is_supported(&name) {
            own.section("requests").fill(&name, json!(amount));
        }
    }
}

/// Validates the `resources` of the spec at `path`.
pub fn validate(path: &Path, spec: &Value, errors: &mut Errors) {
    let own = spec.at("resources");
    let path = path.field("resources");
    if own.is_null() {
        return;
    }
    if spec.at("os").text("name") == "windows" {
        errors.push(FieldError::forbidden(path, "may not be set for a windows pod"));
        return;
    }
    if !own.vacant("claims") {
        let detail = "claims may not be set for Resources at pod-level";
        errors.push(FieldError::forbidden(path.field("claims"), detail));
    }
    resources::requirements(&path, own, supported, errors);
    let Ok(view) = PodSpec::deserialize(spec) else { return };
    consistency(&path, &view, errors);
}

/// The containers together ask for no more than the pod, and no one has a higher limit.
fn consistency(path: &Path, spec: &PodSpec, errors: &mut Errors) {
    let (requests, limits) = totals(spec);
    let huge = limits.iter().filter(|(name, _)| resources::is_huge(name));
    let Requirements { requests: asked, limits: bounds, .. } = &spec.resources;
    let sums = requests.iter().map(|sum| ("requests", asked, sum));
    for (what, own, (name, sum)) in sums.chain(huge.map(|sum| ("limits", bounds, sum))) {
        let Some(own) = own.get(name).filter(|own| sum > *own) else { continue };
        let detail =
            format!("must be greater than or equal to aggregate container {what} of {sum}");
        let path = path.field(what);
        errors.push(FieldError::invalid(path.key(name), own.to_string(), detail));
    }
    let path = path.field("containers");
    for (index, container) in spec.containers.iter().enumerate() {
        for (name, limit) in &container.resources.limits {
            let Some(own) = bounds.get(name).filter(|own| limit > *own) else { continue };
            let path = path.index(index);
            let path = path.key(name);
            let detail = format!("must be less than or equal to pod limits of {own}");
            errors.push(FieldError::invalid(path.field("limits"), limit.to_string(), detail));
        }
    }
}

/// What the containers request and what they are limited to, together.
fn totals(spec: &PodSpec) -> (Resources, Resources) {
    (
        containers_total(spec, |container| container.resources.requests.clone()),
        containers_total(spec, |container| container.resources.limits.clone()),
    )
}

fn supported(path: &Path, name: &str, errors: &mut Errors) {
    let before = errors.len();
    resources::resource(path, name, errors);
    if errors.len() == before && !is_supported(name) {
        errors.push(FieldError::not_supported(path, name, &SUPPORTED));
    }
}

pub fn is_supported(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || resources::is_huge(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(own: Value, containers: &[Value]) -> Value {
        let containers: Vec<Value> =
            containers.iter().map(|resources| json!({ "resources": resources })).collect();
        json!({ "resources": own, "containers": containers })
    }

    #[test]
    fn what_is_left_out() {
        let one = json!({"requests": {"cpu": "1", "memory": "1Gi"}});
        let huge =
            json!({"requests": {"hugepages-2Mi": "2Mi"}, "limits": {"hugepages-2Mi": "2Mi"}});
        let cases = [
            (json!({}), vec![one.clone()], json!({})),
            // Without limits nothing is added.
            (
                json!({"requests": {"cpu": "3"}}),
                vec![one.clone()],
                json!({"requests": {"cpu": "3"}}),
            ),
            // From the containers, else from the limit.
            (
                json!({"limits": {"cpu": "4", "memory": "4Gi"}}),
                vec![one.clone(), json!({"requests": {"cpu": "1"}})],
                json!({
                    "limits": {"cpu": "4", "memory": "4Gi"},
                    "requests": {"cpu": "2", "memory": "1Gi"},
                }),
            ),
            (
                json!({"limits": {"cpu": "4"}}),
                vec![json!({})],
                json!({"limits": {"cpu": "4"}, "requests": {"cpu": "4"}}),
            ),
            // Huge pages are not promised twice: the limits' sum is both.
            (
                json!({"limits": {"cpu": "4"}}),
                vec![huge.clone(), huge],
                json!({
                    "limits": {"cpu": "4", "hugepages-2Mi": "4Mi"},
                    "requests": {"cpu": "4", "hugepages-2Mi": "4Mi"},
                }),
            ),
        ];
        for (own, containers, expected) in cases {
            let mut spec = spec(own.clone(), &containers);
            default(&mut spec);
            assert_eq!(spec["resources"], expected, "{own}");
            let once = spec.clone();
            default(&mut spec);
            assert_eq!(spec, once, "idempotent");
        }
    }

    #[test]
    fn what_does_not_fit() {
        let one = json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}});
        let cases = [
            (json!({"requests": {"cpu": "2"}, "limits": {"cpu": "2"}}), ""),
            (
                json!({"requests": {"cpu": "1"}}),
                "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or \
                 equal to aggregate container requests of 2",
            ),
            (
                json!({"limits": {"cpu": "1"}}),
                "spec.resources.containers[0][cpu].limits: Invalid value: \"2\": must be less \
                 than or equal to pod limits of 1; \
                 spec.resources.containers[1][cpu].limits: Invalid value: \"2\": must be less \
                 than or equal to pod limits of 1",
            ),
            (
                json!({"requests": {"ephemeral-storage": "1Gi"}}),
                "spec.resources.requests[ephemeral-storage]: Unsupported value: \
                 \"ephemeral-storage\": supported values: \"cpu\", \"hugepages-\", \"memory\"",
            ),
            (
                json!({"claims": [{"name": "c"}]}),
                "spec.resources.claims: Forbidden: claims may not be set for Resources at \
                 pod-level",
            ),
        ];
        for (own, expected) in cases {
            let mut errors = Vec::new();
            let spec = spec(own.clone(), &[one.clone(), one.clone()]);
            validate(&Path::root("spec"), &spec, &mut errors);
            let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(found.join("; "), expected, "{own}");
        }
    }
}
