//! Ephemeral containers: what may be added to a running pod through its subresource
//! (kubernetes.io/docs/concepts/workloads/pods/ephemeral-containers).

use std::collections::HashSet;

use proto::status::{FieldError, Problem};
use serde_json::Value;

use super::claim;
use super::container::{self, OfPod};
use super::volume::Volumes;
use crate::kinds::check::Errors;
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

/// What would make it a part of the workload.
const NOT_FOR_THEM: &[&str] = &[
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

/// The pod as it is, but for the ephemeral containers of the new one.
pub fn prepare(new: &mut Value, old: &Value) {
    let mut made = old.clone();
    made.section("metadata").take_over("managedFields", new.at("metadata"));
    made.section("spec").take_over("ephemeralContainers", new.at("spec"));
    *new = made;
}

/// Validates the ephemeral containers of a pod; `path` is the spec's.
pub fn validate(path: &Path, spec: &Value, volumes: &Volumes, errors: &mut Errors) {
    let others = spec.items("containers").iter().chain(spec.items("initContainers"));
    let others: HashSet<&str> = others.map(|container| container.text("name")).collect();
    let mut names = others.clone();
    let of_pod = OfPod { spec, volumes, claims: &claim::names(spec) };
    let path = path.field("ephemeralContainers");
    for (index, container) in spec.items("ephemeralContainers").iter().enumerate() {
        let path = path.index(index);
        container::any(&path, container, &of_pod, errors);
        container::unique(&path, container, &mut names, errors);
        let target = container.text("targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            let path = path.field("targetContainerName");
            errors.push(FieldError::new(path, Problem::NotFound(target.into()), ""));
        }
        let detail = "cannot be set for an Ephemeral Container";
        for field in NOT_FOR_THEM.iter().filter(|field| !container.vacant(field)) {
            errors.push(FieldError::forbidden(path.field(field), detail));
        }
        let mounts = path.field("volumeMounts");
        for (index, mount) in container.items("volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !mount.text(field).is_empty() {
                    let path = mounts.index(index);
                    errors.push(FieldError::forbidden(path.field(field), detail));
                }
            }
        }
    }
}

/// Ephemeral containers come, and neither go nor change.
pub fn validate_update(path: &Path, new: &Value, old: &Value, errors: &mut Errors) {
    if super::is_mirror(old.at("metadata")) {
        let detail = "static pods do not support ephemeral containers";
        *errors = vec![FieldError::forbidden("", detail)];
        return;
    }
    let (new, old) = (new.at("spec"), old.at("spec"));
    let path = path.field("ephemeralContainers");
    let added = new.items("ephemeralContainers");
    for before in old.items("ephemeralContainers") {
        let name = before.text("name");
        let after = added.iter().find(|container| container.text("name") == name);
        let why = match after {
            None => format!("existing ephemeral containers {name:?} may not be removed\n"),
            Some(after) if after != before => {
                let mut difference = String::new();
                super::update::differences(after, before, name, &mut difference);
                format!("existing ephemeral containers {name:?} may not be changed\n{difference}")
            }
            Some(_) => continue,
        };
        errors.push(FieldError::forbidden(path, why));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_may_be_added() {
        let container = |name: &str| {
            json!({"name": name, "image": "i", "imagePullPolicy": "Always",
                "terminationMessagePolicy": "File"})
        };
        let with = |field: &str, value: Value| {
            let mut container = container("debug");
            container[field] = value;
            container
        };
        let cases = [
            (container("debug"), ""),
            (with("targetContainerName", json!("c")), ""),
            (with("resources", json!({})), ""),
            (container("c"), "spec.ephemeralContainers[0].name: Duplicate value: \"c\""),
            (
                with("targetContainerName", json!("x")),
                "spec.ephemeralContainers[0].targetContainerName: Not found: \"x\"",
            ),
            (
                with("resources", json!({"limits": {"cpu": "1"}})),
                "spec.ephemeralContainers[0].resources: Forbidden: cannot be set for an Ephemeral \
                 Container",
            ),
        ];
        for (added, expected) in cases {
            let spec =
                json!({"containers": [container("c")], "ephemeralContainers": [added.clone()]});
            let mut errors = Vec::new();
            validate(&Path::root("spec"), &spec, &Volumes::default(), &mut errors);
            let found: Vec<String> =
                errors.iter().map(|error| format!("{}: {}", error.field, error.body())).collect();
            assert_eq!(found.join("; "), expected, "{added}");
        }
        let old = json!({"spec": {"ephemeralContainers": [container("a")]}});
        let new = json!({"spec": {}});
        let mut errors = Vec::new();
        validate_update(&Path::root("spec"), &new, &old, &mut errors);
        assert_eq!(errors[0].detail, "existing ephemeral containers \"a\" may not be removed\n");
    }
}
