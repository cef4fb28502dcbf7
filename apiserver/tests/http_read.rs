//! Getting, listing, watching and describing, over HTTP.

#[path = "http/api.rs"]
mod api;

use api::{Api, CONFIG_MAPS, DEPLOYMENTS, PODS, config_map, deployment, pod};
use serde_json::{Value, json};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

async fn with_config_maps(names: &[&str]) -> Api {
    let api = Api::start().await;
    for name in names {
        let mut object = config_map(name);
        object["metadata"]["labels"] =
            json!({"name": name, "even": (name.len() % 2 == 0).to_string()});
        api.post(CONFIG_MAPS, object).await.expect(201);
    }
    api
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn lists_select_and_strip() {
    let api = with_config_maps(&["a", "bb", "c", "dd"]).await;
    let list = api.get(CONFIG_MAPS).await.expect(200);
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    assert_eq!(names(&list), ["a", "bb", "c", "dd"]);
    assert!(list["items"][0].get("kind").is_none());
    let cases: &[(&str, &[&str])] = &[
        ("labelSelector=even%3Dtrue", &["bb", "dd"]),
        ("labelSelector=even%20in%20(false),name!%3Da", &["c"]),
        ("fieldSelector=metadata.name%3Dc", &["c"]),
        ("fieldSelector=metadata.name!%3Dc&labelSelector=even%3Dfalse", &["a"]),
        ("fieldSelector=metadata.name%3Dnone", &[]),
    ];
    for (query, expected) in cases {
        let list = api.get(&format!("{CONFIG_MAPS}?{query}")).await.expect(200);
        assert_eq!(names(&list), *expected, "{query}");
    }
    let everywhere = api.get("/api/v1/configmaps/").await.expect(200);
    assert_eq!(names(&everywhere)[..4], ["a", "bb", "c", "dd"]);
    for (query, message) in [
        ("fieldSelector=data.x%3D1", "field label not supported: data.x"),
        ("labelSelector=a%20in", "unable to parse requirement"),
        ("limit=x", "strconv.ParseInt"),
    ] {
        let reply = api.get(&format!("{CONFIG_MAPS}?{query}")).await;
        assert_eq!(reply.code, 400, "{query}");
        assert!(reply.message().contains(message), "{}", reply.message());
    }
}

#[tokio::test]
async fn pages_show_one_revision() {
    let api = with_config_maps(&["a", "b", "c", "d", "e"]).await;
    let first = api.get(&format!("{CONFIG_MAPS}?limit=2")).await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    api.delete(&format!("{CONFIG_MAPS}/c")).await.expect(200);
    api.post(CONFIG_MAPS, config_map("f")).await.expect(201);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let path = format!("{CONFIG_MAPS}?limit=2&continue={token}");
    let second = api.get(&path).await.expect(200);
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let last = api.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!(names(&last), ["e"]);
    assert!(last["metadata"].get("continue").is_none());
    assert!(last["metadata"].get("remainingItemCount").is_none());
    assert_eq!(api.get(&format!("{path}&resourceVersion=5")).await.code, 400);
    assert_eq!(api.get(&format!("{CONFIG_MAPS}?continue=nonsense")).await.code, 400);

    let selected = api.get(&format!("{CONFIG_MAPS}?limit=1&labelSelector=name")).await.expect(200);
    assert!(selected["metadata"]["continue"].is_string());
    assert!(selected["metadata"].get("remainingItemCount").is_none());
}

#[tokio::test]
async fn revisions_of_the_past_and_the_future() {
    let api = with_config_maps(&["a"]).await;
    let list = api.get(CONFIG_MAPS).await.expect(200);
    let revision: u64 = list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    api.post(CONFIG_MAPS, config_map("b")).await.expect(201);
    let at = |query: String| format!("{CONFIG_MAPS}?{query}");
    let exact = at(format!("resourceVersion={revision}&resourceVersionMatch=Exact"));
    assert_eq!(names(&api.get(&exact).await.expect(200)), ["a"]);
    let newer = api.get(&at(format!("resourceVersion={revision}"))).await.expect(200);
    assert_eq!(names(&newer), ["a", "b"]);
    assert_eq!(names(&api.get(&at("resourceVersion=0".into())).await.expect(200)), ["a", "b"]);
    let future = api.get(&at(format!("resourceVersion={}", revision + 1000))).await.expect(504);
    assert_eq!(future["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[tokio::test]
async fn tables_and_metadata() {
    let api = Api::start().await;
    api.post(DEPLOYMENTS, deployment("d")).await.expect(201);
    let accept = |accept: &str| format!("accept: {accept}");
    let table = api.send(&format!("GET {DEPLOYMENTS}"), &[&accept(TABLE)], "").await.expect(200);
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "d");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert!(table["metadata"]["resourceVersion"].is_string());
    let none = format!("GET {DEPLOYMENTS}/d?includeObject=None");
    let one = api.send(&none, &[&accept(TABLE)], "").await.expect(200);
    assert_eq!(one["rows"][0]["cells"][0], "d");
    assert!(one["rows"][0].get("object").is_none());

    let line = format!("GET {DEPLOYMENTS}/d");
    let partial = api.send(&line, &[&accept(METADATA)], "").await.expect(200);
    assert_eq!(partial["kind"], "PartialObjectMetadata");
    assert_eq!(partial["metadata"]["name"], "d");
    assert!(partial.get("spec").is_none());
    let list = api.send(&format!("GET {DEPLOYMENTS}"), &[&accept(METADATA_LIST)], "").await;
    let list = list.expect(200);
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["metadata"]["name"], "d");

    for (line, wanted) in [
        (format!("GET {DEPLOYMENTS}"), METADATA),
        (line.clone(), METADATA_LIST),
        (line.clone(), "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io"),
        (line, "application/json;as=Table;v=v9;g=meta.k8s.io"),
    ] {
        let refused = api.send(&line, &[&accept(wanted)], "").await.expect(406);
        assert_eq!(refused["reason"], "NotAcceptable", "{wanted}");
    }
}

#[tokio::test]
async fn a_watch_tells_what_happens() {
    let api = with_config_maps(&["a"]).await;
    let mut all = api.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    let mut old_style = api.watch("/api/v1/watch/namespaces/default/configmaps/a").await;
    let mut selected = api.watch(&format!("{CONFIG_MAPS}?watch=1&labelSelector=on")).await;
    assert_eq!(all.short().await, "ADDED a");
    assert_eq!(old_style.short().await, "ADDED a");
    let path = format!("{CONFIG_MAPS}/a");
    api.merge(&path, json!({"metadata": {"labels": {"on": "1"}}})).await.expect(200);
    api.post(CONFIG_MAPS, config_map("b")).await.expect(201);
    api.merge(&path, json!({"data": {"k": "v"}})).await.expect(200);
    api.merge(&path, json!({"metadata": {"labels": {"on": null}}})).await.expect(200);
    let last = api.get(CONFIG_MAPS).await.json()["metadata"]["resourceVersion"].clone();
    api.delete(&path).await.expect(200);
    for expected in ["MODIFIED a", "ADDED b", "MODIFIED a", "MODIFIED a", "DELETED a"] {
        assert_eq!(all.short().await, expected);
    }
    for expected in ["MODIFIED a", "MODIFIED a", "MODIFIED a", "DELETED a"] {
        assert_eq!(old_style.short().await, expected);
    }
    for expected in ["ADDED a", "MODIFIED a", "DELETED a"] {
        assert_eq!(selected.short().await, expected);
    }
    let resumed = format!("{CONFIG_MAPS}?watch=true&resourceVersion={}", last.as_str().unwrap());
    let deleted = api.watch(&resumed).await.next().await;
    assert_eq!(deleted["type"], "DELETED");
    let revision = deleted["object"]["metadata"]["resourceVersion"].as_str().unwrap();
    assert!(revision.parse::<u64>().unwrap() > last.as_str().unwrap().parse().unwrap());
    assert_eq!(deleted["object"]["kind"], "ConfigMap");
}

#[tokio::test]
async fn streaming_lists_end_with_a_mark() {
    let api = with_config_maps(&["a", "b"]).await;
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                 &allowWatchBookmarks=true";
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?{query}")).await;
    assert_eq!([watch.short().await, watch.short().await], ["ADDED a", "ADDED b"]);
    let mark = watch.next().await;
    assert_eq!((&mark["type"], &mark["object"]["kind"]), (&json!("BOOKMARK"), &json!("ConfigMap")));
    let metadata = &mark["object"]["metadata"];
    assert_eq!(metadata["annotations"]["k8s.io/initial-events-end"], "true");
    assert_ne!(metadata["resourceVersion"], "0");
    api.post(CONFIG_MAPS, config_map("c")).await.expect(201);
    assert_eq!(watch.short().await, "ADDED c");

    let mut empty = api.watch(&format!("{PODS}?{query}")).await;
    assert_eq!(empty.next().await["type"], "BOOKMARK");
    let refused = api.get(&format!("{PODS}?watch=true&sendInitialEvents=true")).await;
    assert_eq!(refused.code, 422);
}

#[tokio::test]
async fn watches_of_tables_and_metadata() {
    let api = Api::start().await;
    api.post(PODS, pod("p")).await.expect(201);
    let path = format!("{PODS}?watch=true");
    let mut tables = api.watch_as(&path, TABLE).await;
    let mut metadata = api.watch_as(&path, METADATA).await;
    for _ in 0..2 {
        let event = tables.next().await;
        assert_eq!(event["object"]["kind"], "Table");
        assert_eq!(event["object"]["rows"][0]["cells"][0], "p");
        let event = metadata.next().await;
        assert_eq!(event["object"]["kind"], "PartialObjectMetadata");
        assert!(event["object"].get("spec").is_none());
        api.merge(&format!("{PODS}/p"), json!({"metadata": {"labels": {"a": "b"}}})).await;
    }
}

#[tokio::test]
async fn watches_end_at_their_time_and_with_the_server() {
    let api = Api::start().await;
    let mut short = api.watch(&format!("{PODS}?watch=true&timeoutSeconds=1")).await;
    assert_eq!(short.next().await, Value::Null);
}

#[tokio::test]
async fn a_revision_that_is_forgotten_is_gone() {
    let api = with_config_maps(&["a"]).await;
    let path = format!("{CONFIG_MAPS}/a");
    for n in 0..300 {
        let filler = "x".repeat(100 << 10);
        api.merge(&path, json!({"data": {"k": format!("{n}{filler}")}})).await.expect(200);
    }
    let gone = api.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion=2")).await.next().await;
    assert_eq!((&gone["type"], &gone["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(gone["object"]["reason"], "Expired");
}

#[tokio::test]
async fn events_are_one_thing_in_two_groups() {
    let api = Api::start().await;
    let core = "/api/v1/namespaces/default/events";
    let named = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = json!({
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Started",
        "message": "it did",
        "type": "Normal",
        "count": 2,
    });
    api.post(core, event).await.expect(201);
    let shown = api.get(&format!("{named}/e")).await.expect(200);
    assert_eq!(shown["apiVersion"], "events.k8s.io/v1");
    assert_eq!((&shown["regarding"]["name"], &shown["note"]), (&json!("p"), &json!("it did")));
    assert_eq!(shown["deprecatedCount"], 2);
    let list = api.get(named).await.expect(200);
    assert_eq!(list["items"][0]["note"], "it did");
    let mut watch = api.watch(&format!("{named}?watch=true")).await;
    assert_eq!(watch.next().await["object"]["note"], "it did");
    let selected = format!("{core}?fieldSelector=involvedObject.name%3Dp,reason%3DStarted");
    assert_eq!(names(&api.get(&selected).await.expect(200)), ["e"]);
}

#[tokio::test]
async fn what_every_cluster_has() {
    let api = Api::start_with(&["--advertise-address=192.0.2.7"]).await;
    let list = api.get("/api/v1/namespaces").await.expect(200);
    assert_eq!(names(&list), ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let service = api.get("/api/v1/namespaces/default/services/kubernetes").await.expect(200);
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    let endpoints = api.get("/api/v1/namespaces/default/endpoints/kubernetes").await;
    assert_eq!(
        endpoints.warnings(),
        ["299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""]
    );
    let endpoints = endpoints.expect(200);
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "192.0.2.7");
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let slice = api.get(slices).await.expect(200);
    assert_eq!(slice["endpoints"][0]["addresses"][0], "192.0.2.7");
}

#[tokio::test]
async fn documents() {
    let api = Api::start().await;
    let groups = api.get("/apis/").await;
    assert_eq!(groups.headers["cache-control"], "no-cache, private");
    let etag = groups.headers["etag"].to_str().unwrap().to_string();
    assert_eq!(groups.expect(200)["kind"], "APIGroupList");
    let known = api.send("GET /apis", &[&format!("if-none-match: {etag}")], "").await;
    assert_eq!(known.code, 304);
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let aggregated = api.send("GET /api", &[&format!("accept: {v2}")], "").await;
    assert_eq!(aggregated.headers["content-type"], v2);
    assert_eq!(aggregated.expect(200)["kind"], "APIGroupDiscoveryList");
    for (path, kind) in [
        ("/api/", "APIVersions"),
        ("/api/v1/", "APIResourceList"),
        ("/apis/apps", "APIGroup"),
        ("/apis/apps/v1", "APIResourceList"),
    ] {
        assert_eq!(api.get(path).await.expect(200)["kind"], kind, "{path}");
    }
    let version = api.get("/version").await.expect(200);
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("36")));
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.36."));
    let openapi = api.get("/openapi/v3/apis/apps/v1").await.expect(200);
    assert!(openapi["paths"]["/apis/apps/v1/deployments"].is_object());
    assert_eq!(api.get("/readyz").await.text(), "ok");
    assert!(api.get("/readyz?verbose").await.text().contains("[+]etcd ok"));
    assert_eq!(api.get("/livez/ping").await.text(), "ok");
    for path in ["/apis/none", "/api/v2", "/nothing", "/apis/apps/v1/nothing", "/openapi/v3/x"] {
        assert_eq!(api.get(path).await.expect(404)["reason"], "NotFound", "{path}");
    }
    assert_eq!(api.post("/version", json!({})).await.code, 405);
}
