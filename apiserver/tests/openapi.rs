//! OpenAPI v3: what kubectl looks up in it.

use apiserver::openapi;
use proto::kind::{ROWS, Row};
use serde_json::Value;

fn document(group: &str) -> Value {
    let bytes = openapi::v3_document(group, "v1", ROWS).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[test]
fn the_index_names_a_document_per_group_and_version() {
    let index: Value = serde_json::from_slice(&openapi::v3_index(ROWS)).unwrap();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let hash = openapi::v3_hash("apps", "v1", ROWS);
    assert_eq!(url, format!("/openapi/v3/apis/apps/v1?hash={hash}"));
    assert!(index["paths"]["api/v1"].is_object());
    let fewer: Vec<&Row> = ROWS.iter().copied().filter(|row| row.kind != "Deployment").collect();
    assert_ne!(openapi::v3_hash("apps", "v1", &fewer), hash);
    assert_eq!(openapi::v3_hash("", "v1", &fewer), openapi::v3_hash("", "v1", ROWS));
    assert!(openapi::v3_document("nothing", "v1", ROWS).is_none());
}

#[test]
fn every_reference_leads_somewhere() {
    for row in ROWS {
        let document = document(&row.group);
        let mut references = Vec::new();
        collect(&document, &mut references);
        assert!(references.len() > 5, "{}", row.kind);
        for reference in references {
            let pointer = reference.trim_start_matches('#');
            let schema = document.pointer(pointer);
            assert!(schema.is_some_and(Value::is_object), "{reference}");
        }
    }
}

fn collect<'a>(value: &'a Value, references: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            references.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|value| collect(value, references));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}

#[test]
fn what_kubectl_looks_up() {
    let core = document("");
    let schemas = &core["components"]["schemas"];
    let pod = &schemas["io.k8s.api.core.v1.PodSpec"];
    let containers = &pod["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-list-map-keys"][0], "name");
    assert_eq!(containers["x-kubernetes-list-type"], "map");
    assert!(containers["description"].as_str().unwrap().starts_with("List of containers"));
    assert_eq!(pod["required"][0], "containers");
    let policy = &pod["properties"]["restartPolicy"];
    assert!(policy["enum"].as_array().unwrap().contains(&"OnFailure".into()));
    assert_eq!(
        schemas["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"][0]["kind"],
        "Pod"
    );
    let apps = document("apps");
    let item = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    let patch = &item["patch"];
    assert_eq!(patch["x-kubernetes-action"], "patch");
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    let names = |operation: &Value| -> Vec<String> {
        let parameters = operation["parameters"].as_array().unwrap().iter();
        parameters.map(|parameter| parameter["name"].as_str().unwrap().to_string()).collect()
    };
    assert!(names(patch).contains(&"fieldValidation".to_string()));
    assert_eq!(names(item), ["name", "namespace", "pretty"]);
    let scale = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"];
    assert_eq!(scale["put"]["x-kubernetes-group-version-kind"]["group"], "autoscaling");
    assert!(apps["paths"]["/apis/apps/v1/deployments"]["get"].is_object());
}
