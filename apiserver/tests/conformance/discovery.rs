//! Discovery as the suites walk it.

use serde_json::{Value, json};

use crate::api::Api;

#[tokio::test]
async fn every_group_has_a_preferred_version_among_its_versions() {
    let api = Api::start().await;
    let list = api.get("/apis/").await.expect(200);
    let groups = list["groups"].as_array().unwrap();
    assert!(groups.len() > 15);
    for group in groups {
        let name = group["name"].as_str().unwrap();
        let own = api.get(&format!("/apis/{name}/")).await.expect(200);
        assert_eq!((&own["kind"], &own["name"]), (&json!("APIGroup"), &json!(name)));
        let preferred = &own["preferredVersion"]["groupVersion"];
        let versions = own["versions"].as_array().unwrap();
        assert!(versions.iter().any(|it| it["groupVersion"] == *preferred), "{own}");
        assert_eq!(own["versions"], group["versions"]);
    }
}

/// Group, version, and a resource that must be found in them. Those of custom resources and
/// aggregated APIs have suites of their own.
const RESOURCES: &[(&str, &str, &str)] = &[
    ("", "v1", "namespaces"),
    ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"),
    ("apps", "v1", "deployments"),
    ("authentication.k8s.io", "v1", "tokenreviews"),
    ("authorization.k8s.io", "v1", "selfsubjectaccessreviews"),
    ("autoscaling", "v1", "horizontalpodautoscalers"),
    ("autoscaling", "v2", "horizontalpodautoscalers"),
    ("batch", "v1", "jobs"),
    ("certificates.k8s.io", "v1", "certificatesigningrequests"),
    ("coordination.k8s.io", "v1", "leases"),
    ("discovery.k8s.io", "v1", "endpointslices"),
    ("events.k8s.io", "v1", "events"),
    ("flowcontrol.apiserver.k8s.io", "v1", "flowschemas/status"),
    ("networking.k8s.io", "v1", "ingresses"),
    ("node.k8s.io", "v1", "runtimeclasses"),
    ("policy", "v1", "poddisruptionbudgets"),
    ("scheduling.k8s.io", "v1", "priorityclasses"),
    ("storage.k8s.io", "v1", "csinodes"),
    ("", "v1", "componentstatuses"),
];

#[tokio::test]
async fn a_resource_of_every_group_is_located() {
    let api = Api::start().await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let accept = format!("accept: {accept}");
    let (core, named) = (
        api.send("GET /api", &[&accept], "").await.expect(200),
        api.send("GET /apis", &[&accept], "").await.expect(200),
    );
    for (group, version, resource) in RESOURCES {
        let (path, group_version) = match *group {
            "" => (format!("/api/{version}"), version.to_string()),
            group => (format!("/apis/{group}/{version}"), format!("{group}/{version}")),
        };
        let list = api.get(&path).await.expect(200);
        assert_eq!(list["groupVersion"], group_version);
        let has = |list: &Value, field: &str, name: &str| {
            list.as_array().into_iter().flatten().any(|it| it[field] == name)
        };
        assert!(has(&list["resources"], "name", resource), "{path} {resource}");
        let aggregated = if group.is_empty() { &core } else { &named };
        let items = aggregated["items"].as_array().unwrap().iter();
        let mut of_group =
            items.filter(|it| it["metadata"]["name"].as_str().unwrap_or("") == *group);
        let versions = of_group.next().unwrap()["versions"].as_array().unwrap();
        let of_version = versions.iter().find(|it| it["version"] == **version).unwrap();
        let plain = resource.split('/').next().unwrap();
        assert!(has(&of_version["resources"], "resource", plain), "{path} {resource}");
    }
    for path in ["/apis/apps/v2", "/apis/not-these-apps/v1", "/apis/not-these-apps"] {
        let missing = api.get(path).await.expect(404);
        assert_eq!((&missing["kind"], &missing["reason"]), (&json!("Status"), &json!("NotFound")));
    }
}
