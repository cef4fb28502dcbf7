//! Options of lists and watches, pages that outlive history, fields that are missing, and what
//! discovery says, over HTTP.

#[path = "http/api.rs"]
mod api;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use api::{Api, CONFIG_MAPS, PODS, config_map, pod};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn options_that_do_not_fit_together() {
    let api = Api::start().await;
    let forbidden = |why: &str| {
        format!("ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: {why}")
    };
    let cases = [
        (
            "resourceVersionMatch=Exact",
            forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"),
        ),
        (
            "resourceVersion=0&resourceVersionMatch=Exact",
            forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""),
        ),
        (
            "resourceVersion=1&resourceVersionMatch=exact",
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Unsupported value: \
             \"exact\": supported values: \"Exact\", \"NotOlderThan\", \"\""
                .into(),
        ),
        (
            "resourceVersion=1&resourceVersionMatch=Exact&continue=x",
            forbidden("resourceVersionMatch is forbidden when continue is provided"),
        ),
        (
            "sendInitialEvents=true",
            "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: \
             sendInitialEvents is forbidden for list"
                .into(),
        ),
        (
            "watch=true&resourceVersionMatch=NotOlderThan",
            forbidden(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ),
        ),
        (
            "watch=true&sendInitialEvents=true",
            forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
        ),
        (
            "watch=true&sendInitialEvents=true&resourceVersionMatch=Exact",
            "ListOptions.meta.k8s.io \"\" is invalid: [resourceVersionMatch: Forbidden: \
             sendInitialEvents requires setting resourceVersionMatch to NotOlderThan, \
             resourceVersionMatch: Unsupported value: \"Exact\": supported values: \
             \"NotOlderThan\"]"
                .into(),
        ),
    ];
    for (query, message) in cases {
        let reply = api.get(&format!("{PODS}?{query}")).await;
        assert_eq!((reply.code, reply.message()), (422, message), "{query}");
    }
}

/// A token whose revision the store cannot show: it was restored, or compacted.
#[tokio::test]
async fn a_page_of_forgotten_history_goes_on_inconsistently() {
    let api = Api::start().await;
    for name in ["a", "b", "c"] {
        api.post(CONFIG_MAPS, config_map(name)).await.expect(201);
    }
    let text = json!({"v": "meta.k8s.io/v1", "rv": 9_000_000, "after": "default/a"}).to_string();
    let token = BASE64_URL_SAFE_NO_PAD.encode(text);
    let gone = api.get(&format!("{CONFIG_MAPS}?limit=1&continue={token}")).await.expect(410);
    assert_eq!(gone["reason"], "Expired");
    let message = gone["message"].as_str().unwrap();
    assert!(message.starts_with("The provided continue parameter is too old to display a "));
    let fresh = gone["metadata"]["continue"].as_str().unwrap();
    api.post(CONFIG_MAPS, config_map("aa")).await.expect(201);
    let rest = api.get(&format!("{CONFIG_MAPS}?limit=2&continue={fresh}")).await.expect(200);
    assert_eq!(names(&rest), ["aa", "b"], "of what is current");
    let next = rest["metadata"]["continue"].as_str().unwrap();
    let last = api.get(&format!("{CONFIG_MAPS}?continue={next}")).await.expect(200);
    assert_eq!(names(&last), ["c"]);
}

#[tokio::test]
async fn missing_fields_compare_as_empty_or_false() {
    let api = Api::start().await;
    api.post(PODS, pod("p")).await.expect(201);
    api.post("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await.expect(201);
    let cases = [
        (PODS, "spec.nodeName%3D", true),
        (PODS, "spec.nodeName!%3D", false),
        (PODS, "status.phase%3DPending", true),
        (PODS, "status.podIP%3D", true),
        ("/api/v1/nodes", "spec.unschedulable%3Dfalse", true),
        ("/api/v1/nodes", "spec.unschedulable%3Dtrue", false),
    ];
    for (path, selector, found) in cases {
        let list = api.get(&format!("{path}?fieldSelector={selector}")).await.expect(200);
        assert_eq!(!names(&list).is_empty(), found, "{selector}");
    }
}

#[tokio::test]
async fn tables_of_both_versions_tell_their_columns_once() {
    let api = Api::start().await;
    api.post(PODS, pod("p")).await.expect(201);
    for version in ["v1", "v1beta1"] {
        let accept = format!("application/json;as=Table;v={version};g=meta.k8s.io");
        let header = format!("accept: {accept}");
        let line = format!("GET {PODS}?includeObject=Object");
        let table = api.send(&line, &[&header], "").await.expect(200);
        assert_eq!(table["apiVersion"], format!("meta.k8s.io/{version}"));
        assert_eq!(table["rows"][0]["object"]["kind"], "Pod");
        let bad = format!("GET {PODS}?includeObject=Some");
        let bad = api.send(&bad, &[&header], "").await.expect(400);
        assert_eq!(bad["message"], "unrecognized includeObject value: \"Some\"");
        let mut watch = api.watch_as(&format!("{PODS}?watch=true"), &accept).await;
        assert!(watch.next().await["object"]["columnDefinitions"][0].is_object());
        let labels = json!({"metadata": {"labels": {"v": version}}});
        api.merge(&format!("{PODS}/p"), labels).await.expect(200);
        let second = watch.next().await;
        assert_eq!(second["object"]["columnDefinitions"], Value::Null);
        assert_eq!(second["object"]["rows"][0]["cells"][0], "p");
    }
}

/// Served by upstream, and by nothing here yet.
const ABSENT: &[&str] = &[
    "apiextensions.k8s.io/v1 customresourcedefinitions",
    "apiextensions.k8s.io/v1 customresourcedefinitions/status",
    "apiregistration.k8s.io/v1 apiservices",
    "apiregistration.k8s.io/v1 apiservices/status",
    "authentication.k8s.io/v1 tokenreviews",
    "authorization.k8s.io/v1 localsubjectaccessreviews",
    "authorization.k8s.io/v1 selfsubjectaccessreviews",
    "authorization.k8s.io/v1 selfsubjectrulesreviews",
    "authorization.k8s.io/v1 subjectaccessreviews",
    "v1 nodes/proxy",
    "v1 pods/ephemeralcontainers",
    "v1 pods/portforward",
    "v1 pods/proxy",
    "v1 pods/resize",
    "v1 serviceaccounts/token",
    "v1 services/proxy",
];

/// Aggregated discovery in both versions, the legacy documents and upstream's own table agree on
/// every resource.
#[tokio::test]
async fn discovery_tells_one_story() {
    let api = Api::start().await;
    let mut legacy: BTreeMap<String, Value> = BTreeMap::new();
    let mut versions = vec!["/api/v1".to_string()];
    for group in api.get("/apis").await.expect(200)["groups"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            versions.push(format!("/apis/{}", version["groupVersion"].as_str().unwrap()));
        }
    }
    for path in &versions {
        let list = api.get(path).await.expect(200);
        for resource in list["resources"].as_array().unwrap() {
            let (version, name) = (list["groupVersion"].as_str().unwrap(), &resource["name"]);
            legacy.insert(format!("{version} {}", name.as_str().unwrap()), resource.clone());
        }
    }
    for version in ["v2", "v2beta1"] {
        let accept =
            format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
        let mut seen = BTreeSet::new();
        for root in ["/api", "/apis/"] {
            let reply = api.send(&format!("GET {root}"), &[&format!("accept: {accept}")], "").await;
            assert_eq!(reply.headers["content-type"], accept.as_str());
            assert_eq!(reply.headers["cache-control"], "no-cache, private");
            let etag = format!("if-none-match: {}", reply.headers["etag"].to_str().unwrap());
            let accept = format!("accept: {accept}");
            assert_eq!(api.send(&format!("GET {root}"), &[&accept, &etag], "").await.code, 304);
            for group in reply.expect(200)["items"].as_array().unwrap() {
                compare(group, &legacy, &mut seen);
            }
        }
        assert_eq!(seen, legacy.keys().cloned().collect(), "{version}");
    }
    let below = "shared/data/kubernetes-1.36/api-resources.json";
    let mut above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let Some(path) = above.find_map(|dir| Some(dir.join(below)).filter(|path| path.exists()))
    else {
        eprintln!("skipped: the table of upstream's resources is absent");
        return;
    };
    let upstream: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for mut theirs in upstream {
        let theirs = theirs.as_object_mut().unwrap();
        let version = theirs.remove("groupVersion").unwrap();
        let key = format!("{} {}", version.as_str().unwrap(), theirs["name"].as_str().unwrap());
        match legacy.get(&key) {
            None => assert!(ABSENT.contains(&&*key), "{key} is not served"),
            Some(ours) => {
                let mut ours = ours.as_object().unwrap().clone();
                ours.remove("storageVersionHash");
                assert_eq!(&ours, theirs, "{key}");
            }
        }
    }
}

/// The resources of an aggregated group are those of the legacy documents.
fn compare(group: &Value, legacy: &BTreeMap<String, Value>, seen: &mut BTreeSet<String>) {
    let name = group["metadata"]["name"].as_str().unwrap_or_default();
    for version in group["versions"].as_array().unwrap() {
        assert_eq!(version["freshness"], "Current");
        let number = version["version"].as_str().unwrap();
        let prefix = if name.is_empty() { number.into() } else { format!("{name}/{number}") };
        let mut check = |own: &Value, resource: String, kind: &Value, namespaced: Option<bool>| {
            let key = format!("{prefix} {resource}");
            let theirs = legacy.get(&key).unwrap_or_else(|| panic!("{key}"));
            assert_eq!(own["verbs"], theirs["verbs"], "{key}");
            assert_eq!(kind["kind"], theirs["kind"], "{key}");
            let other = |field: &str, usual: &str| {
                theirs[field].as_str().map_or_else(|| usual.to_string(), str::to_string)
            };
            assert_eq!(kind["group"], other("group", name), "{key}");
            assert_eq!(kind["version"], other("version", number), "{key}");
            if let Some(namespaced) = namespaced {
                assert_eq!(theirs["namespaced"], namespaced, "{key}");
                assert_eq!(own["singularResource"], theirs["singularName"], "{key}");
                assert_eq!(own.get("shortNames"), theirs.get("shortNames"), "{key}");
                assert_eq!(own.get("categories"), theirs.get("categories"), "{key}");
            }
            seen.insert(key);
        };
        for resource in version["resources"].as_array().unwrap() {
            let own = resource["resource"].as_str().unwrap();
            let namespaced = resource["scope"] == "Namespaced";
            check(resource, own.into(), &resource["responseKind"], Some(namespaced));
            for sub in resource["subresources"].as_array().into_iter().flatten() {
                let path = format!("{own}/{}", sub["subresource"].as_str().unwrap());
                check(sub, path, &sub["responseKind"], None);
            }
        }
    }
}
