//! Defaults of pods that depend on other fields.

use serde_json::{Value, json};

use super::level;
use crate::kinds::lens::Lens;

/// Defaults of a pod: those of every pod spec, and those that templates leave to their pods.
pub fn pod(object: &mut Value) {
    let pod = object.section("spec");
    spec(pod);
    let host_network = pod.flag("hostNetwork") == Some(true);
    for field in ["initContainers", "containers"] {
        for container in pod.items_mut(field) {
            requests_from_limits(container);
            if host_network {
                host_ports(container);
            }
        }
    }
    level::default(pod);
}

/// Defaults of a pod spec, alone or in a template.
pub fn spec(spec: &mut Value) {
    if spec.text("serviceAccountName").is_empty() {
        let old_name = spec.text("serviceAccount").to_string();
        if !old_name.is_empty() {
            spec.set("serviceAccountName", old_name);
        }
    }
    if spec.has("serviceAccountName") {
        let name = spec.at("serviceAccountName").clone();
        spec.set("serviceAccount", name);
    }
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec.items_mut(field) {
            if container.text("imagePullPolicy").is_empty() {
                let policy = pull_policy(container.text("image"));
                container.set("imagePullPolicy", policy);
            }
        }
    }
    for volume in spec.items_mut("volumes") {
        if volume.has("image") && volume.at("image").text("pullPolicy").is_empty() {
            let policy = pull_policy(volume.at("image").text("reference"));
            volume.section("image").set("pullPolicy", policy);
        }
        if volume.as_object().is_some_and(|fields| fields.keys().all(|field| field == "name")) {
            volume.set("emptyDir", json!({}));
        }
    }
}

/// `:latest`, or no tag at all, is pulled again and again; everything else once.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        None if !digest => "Always",
        _ => "IfNotPresent",
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container.at("resources").at("limits").as_object().cloned() else { return };
    if limits.is_empty() {
        return;
    }
    let requests = container.section("resources").section("requests");
    for (name, limit) in limits {
        requests.fill(&name, limit);
    }
}

fn host_ports(container: &mut Value) {
    for port in container.items_mut("ports") {
        if port.int("hostPort").unwrap_or(0) == 0 {
            let number = port.at("containerPort").clone();
            port.set("hostPort", number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_by_tag() {
        for image in ["nginx", "nginx:latest", "localhost:5000/nginx", "a/b:latest@sha256:0"] {
            assert_eq!(pull_policy(image), "Always", "{image}");
        }
        for image in ["nginx:1", "localhost:5000/nginx:1", "nginx@sha256:0", "nginx:1@sha256:0"] {
            assert_eq!(pull_policy(image), "IfNotPresent", "{image}");
        }
    }

    #[test]
    fn pods_take_more_than_templates() {
        let spec_in = json!({
            "hostNetwork": true,
            "serviceAccount": "robot",
            "volumes": [{"name": "scratch"}],
            "containers": [{
                "name": "c", "image": "nginx", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1m"}},
            }],
        });
        let mut template = spec_in.clone();
        spec(&mut template);
        assert_eq!(template["volumes"][0], json!({"name": "scratch", "emptyDir": {}}));
        assert_eq!(template["serviceAccountName"], "robot");
        assert_eq!(template["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(template["containers"][0]["ports"], spec_in["containers"][0]["ports"]);
        let mut object = json!({ "spec": spec_in });
        pod(&mut object);
        let container = &object["spec"]["containers"][0];
        assert_eq!(container["resources"]["requests"], json!({"cpu": "1m", "memory": "1Gi"}));
        assert_eq!(container["ports"][0]["hostPort"], 80);
        let once = object.clone();
        pod(&mut object);
        assert_eq!(object, once, "idempotent");
    }
}
