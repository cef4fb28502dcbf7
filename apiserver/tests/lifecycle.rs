//! The life of an object of every kind, as upstream's conformance tests of each API lead it: over
//! HTTP, from its place in discovery to the deletion of the last of its collection.

#[path = "http/api.rs"]
mod api;
#[path = "lifecycle/rows.rs"]
mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Api, Watch};
use apiserver::codec::{self, Format, protobuf::encode};
use proto::kind::{NAMESPACE, ROWS};
use rows::Life;
use serde_json::{Value, json};

const SELECTED: &str = "labelSelector=life%3Dlong";
const APPLY: &str = "apply-patch+yaml";
const JSON: &str = "json-patch+json";
const MERGE: &str = "merge-patch+json";
const STRATEGIC: &str = "strategic-merge-patch+json";

#[tokio::test]
async fn every_kind_lives_as_upstreams() {
    let rows = rows::all();
    let stored: Vec<_> = ROWS.iter().filter(|row| row.is_stored()).copied().collect();
    let listed: Vec<_> = rows.iter().map(|life| life.row).collect();
    assert_eq!(listed, stored, "a row for every kind, in the table's order");
    let api = Arc::new(Api::start().await);
    api.namespace("life", json!({})).await;
    let mut failed = Vec::new();
    for life in rows {
        let name = format!("{}.{}", life.row.qualified(), life.row.version);
        println!("--- {name}");
        let api = api.clone();
        let course = async move { Run::new(&api, &life).all().await };
        if tokio::spawn(course).await.is_err() {
            failed.push(name);
        }
    }
    assert_eq!(failed, Vec::<String>::new());
}

/// One kind's course.
struct Run<'a> {
    api: &'a Api,
    life: &'a Life,
    /// Of the collection.
    path: String,
}

impl Run<'_> {
    fn new<'a>(api: &'a Api, life: &'a Life) -> Run<'a> {
        Run { api, life, path: life.row.path("life", "") }
    }

    async fn all(&self) {
        let list = self.api.get(&format!("{}?{SELECTED}", self.path)).await.expect(200);
        let from = list["metadata"]["resourceVersion"].as_str().unwrap();
        let watch = format!("{}?{SELECTED}&watch=true&resourceVersion={from}", self.path);
        let mut watch = self.api.watch(&watch).await;
        self.discovery().await;
        self.creation().await;
        self.reads().await;
        self.patches().await;
        self.change().await;
        self.status().await;
        self.scale().await;
        self.deletion().await;
        self.events(&mut watch).await;
    }

    fn of(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    fn first(&self) -> String {
        self.of(self.life.names()[0])
    }

    async fn get(&self) -> Value {
        self.api.get(&self.first()).await.expect(200)
    }

    /// A patch as upstream's tests complete it: of this very object.
    fn patch(&self, mut patch: Value, object: &Value) -> Value {
        for field in ["apiVersion", "kind"] {
            patch[field] = object[field].clone();
        }
        for field in ["name", "namespace", "uid"] {
            if let Some(value) = object["metadata"].get(field) {
                patch["metadata"][field] = value.clone();
            }
        }
        patch
    }

    /// A write as Go's typed clients send it: in protobuf, there and back.
    async fn send(&self, method: &str, path: &str, object: &Value) -> Value {
        let protobuf = "application/vnd.kubernetes.protobuf";
        let headers = [format!("content-type: {protobuf}"), format!("accept: {protobuf}")];
        let body = encode::object(object).expect("built-in kinds have a protobuf form");
        let headers = headers.each_ref().map(String::as_str);
        let reply = self.api.send(&format!("{method} {path}"), &headers, body).await;
        assert!(reply.code < 300, "{}", reply.text());
        assert_eq!(reply.headers["content-type"], protobuf);
        codec::decode(Format::Protobuf, &reply.bytes, Some(self.life.row)).unwrap().value
    }

    fn object(&self, name: &str) -> Value {
        let mut object = self.life.object.clone();
        object["apiVersion"] = self.life.row.api_version().into();
        object["kind"] = (*self.life.row.kind).into();
        object["metadata"] = json!({"name": name, "labels": {"life": "long"}});
        object
    }

    async fn discovery(&self) {
        let row = self.life.row;
        let root = match &*row.group {
            "" => "/api/v1".to_string(),
            group => format!("/apis/{group}/{}", row.version),
        };
        if !row.group.is_empty() {
            let groups = self.api.get("/apis").await.expect(200);
            let groups = groups["groups"].as_array().unwrap();
            let listed = groups.iter().find(|group| group["name"] == *row.group);
            let group = self.api.get(&format!("/apis/{}", row.group)).await.expect(200);
            assert_eq!(listed.expect("the group is listed")["versions"], group["versions"]);
            let versions = group["versions"].as_array().unwrap();
            assert!(versions.iter().any(|it| it["groupVersion"] == row.api_version()));
        }
        let list = self.api.get(&root).await.expect(200);
        let resources = list["resources"].as_array().unwrap();
        let find = |name: String| resources.iter().find(|it| it["name"] == name.as_str());
        let found = find(row.resource.to_string()).expect("the resource is listed");
        assert_eq!(found["verbs"], json!(row.verbs));
        assert_eq!(found["kind"], *row.kind);
        let status = find(format!("{}/status", row.resource)).map(|it| it["verbs"].clone());
        let wanted = (!self.life.status.is_null()).then(|| json!(["get", "patch", "update"]));
        assert_eq!(status, wanted);
    }

    async fn creation(&self) {
        let (api, row) = (self.api, self.life.row);
        let [first, second, third, tried] = self.life.names();
        for name in [first, second, third] {
            let created = match name == second {
                true => self.send("POST", &self.path, &self.object(name)).await,
                false => api.post(&self.path, self.object(name)).await.expect(201),
            };
            assert_eq!(created["kind"], *row.kind);
            assert_eq!(created["apiVersion"], row.api_version());
            assert!(contains(&created, &self.life.object), "{created}");
            let metadata = &created["metadata"];
            assert!(!text(metadata, "uid").is_empty());
            assert!(text(metadata, "creationTimestamp").ends_with('Z'));
            assert!(revision(&created) > 0);
            assert_eq!(metadata.get("namespace").is_some(), row.namespaced);
            let finalizers = self.life.finalizer().map(|finalizer| json!([finalizer]));
            assert_eq!(metadata.get("finalizers").cloned(), finalizers);
        }
        let again = api.post(&self.path, self.object(first)).await.expect(409);
        assert_eq!(again["reason"], "AlreadyExists");
        let message = format!("{} \"{first}\" already exists", row.qualified());
        assert_eq!(again["message"], message);
        api.post(&format!("{}?dryRun=All", self.path), self.object(tried)).await.expect(201);
        let absent = api.get(&self.of(tried)).await.expect(404);
        assert_eq!(absent["reason"], "NotFound");
        assert_eq!(absent["message"], format!("{} \"{tried}\" not found", row.qualified()));
        let put = api.put(&self.of(tried), self.object(tried)).await;
        match self.life.made_by_put() {
            true => {
                put.expect(201);
                api.delete(&self.of(tried)).await.expect(200);
            }
            false => assert_eq!(put.expect(404)["reason"], "NotFound"),
        }
        let mut odd = self.object(tried);
        odd["unheardOf"] = true.into();
        let strict = api.post(&format!("{}?fieldValidation=Strict", self.path), odd).await;
        let message = strict.message();
        assert!(
            message.contains("strict decoding error: unknown field \"unheardOf\""),
            "{message}"
        );
    }

    async fn reads(&self) {
        let (api, row, first) = (self.api, self.life.row, self.life.names()[0]);
        let found = self.get().await;
        let named = format!("fieldSelector=metadata.name%3D{}", first.replace(':', "%3A"));
        let mut lists = vec![(format!("{}?{SELECTED}", self.path), 3)];
        lists.push((format!("{}?{named}", self.path), 1));
        lists.push((format!("{}?{SELECTED}", row.path("", "")), 3));
        lists.push((format!("{}?{SELECTED}&{named}", row.path("", "")), 1));
        lists.push((format!("{}?labelSelector=life%3Dshort", row.path("", "")), 0));
        for (path, count) in lists {
            let list = api.get(&path).await.expect(200);
            assert_eq!(list["kind"], row.list_kind());
            assert_eq!(list["apiVersion"], row.api_version());
            let items = list["items"].as_array().unwrap();
            assert_eq!(items.len(), count, "{path}");
            assert!(items.iter().all(|item| item.get("kind").is_none()));
        }
        let table = "accept: application/json;as=Table;v=v1;g=meta.k8s.io";
        let table = api.send(&format!("GET {}", self.first()), &[table], "").await.expect(200);
        assert_eq!(table["kind"], "Table");
        let columns = table["columnDefinitions"].as_array().unwrap().len();
        assert_eq!(table["rows"][0]["cells"].as_array().unwrap().len(), columns);
        assert_eq!(table["rows"][0]["object"]["metadata"]["uid"], found["metadata"]["uid"]);
        let partial = "accept: application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
        let partial = api.send(&format!("GET {}", self.first()), &[partial], "").await.expect(200);
        assert_eq!(partial["metadata"], found["metadata"]);
    }

    /// In all four kinds, of what every object has.
    async fn patches(&self) {
        let (api, row) = (self.api, self.life.row);
        let mut before = self.get().await;
        // Go's structs write a null where they know no time of creation.
        let note = |key: &str| json!({"metadata": {"creationTimestamp": null, "annotations": {key: "true"}}});
        let added = json!([{"op": "add", "path": "/metadata/annotations/json", "value": "true"}]);
        let patches = [
            ("merged", MERGE, self.patch(note("merged"), &before)),
            ("strategic", STRATEGIC, self.patch(note("strategic"), &before)),
            ("json", JSON, added),
            ("applied", APPLY, self.patch(note("applied"), &before)),
        ];
        for (key, kind, patch) in patches {
            let path = format!("{}?{}", self.first(), options(kind));
            let after = api.patch(&path, kind, patch).await.expect(200);
            assert_eq!(after["metadata"]["annotations"][key], "true", "{kind}");
            assert!(revision(&after) > revision(&before), "{kind}");
            let counted = generation(&before).map(|number| number + self.life.counts().0);
            assert_eq!(generation(&after), counted, "{kind}");
            let born = |object: &Value| object["metadata"]["creationTimestamp"].clone();
            assert_eq!(born(&after), born(&before), "{kind}");
            assert!(contains(&after, &self.life.object), "{kind}: {after}");
            before = after;
        }
        let mut updated = before.clone();
        updated["metadata"]["annotations"]["updated"] = "true".into();
        let after = self.send("PUT", &self.first(), &updated).await;
        assert_eq!(after["metadata"]["annotations"]["updated"], "true");
        assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
        updated["metadata"]["annotations"]["updated"] = "false".into();
        let stale = api.put(&self.first(), updated).await.expect(409);
        assert_eq!(stale["reason"], "Conflict");
        let message = format!(
            "Operation cannot be fulfilled on {} \"{}\": the object has been modified; please \
             apply your changes to the latest version and try again",
            row.qualified(),
            self.life.names()[0]
        );
        assert_eq!(stale["message"], message);
    }

    /// Of what the kind itself says: counted where there is a generation.
    async fn change(&self) {
        if self.life.change.is_null() {
            return;
        }
        for kind in [MERGE, STRATEGIC, APPLY] {
            let before = self.get().await;
            let path = format!("{}?{}", self.first(), options(kind));
            let patch = self.patch(self.life.change.clone(), &before);
            let after = self.api.patch(&path, kind, patch).await.expect(200);
            assert!(contains(&after, &self.life.change), "{kind}: {after}");
            let counted = generation(&before)
                .or(generation(&after))
                .map(|_| generation(&before).unwrap_or(0) + self.life.counts().1);
            // Later it may be that nothing is left to change.
            assert!(kind != MERGE || generation(&after) == counted, "{before} {after}");
            let back = self.api.merge(&self.first(), self.life.object.clone()).await;
            assert!([200, 422].contains(&back.code), "{}", back.text());
        }
    }

    async fn status(&self) {
        let (api, path) = (self.api, format!("{}/status", self.first()));
        if self.life.status.is_null() {
            let absent = api.get(&path).await.expect(404);
            let message = "the server could not find the requested resource";
            assert_eq!(absent["message"], message);
            return;
        }
        let before = self.get().await;
        assert_eq!(api.get(&path).await.expect(200), before);
        let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}},
            "status": self.life.status});
        let patched = api.merge(&path, patch.clone()).await.expect(200);
        assert!(contains(&patched["status"], &self.life.status), "{patched}");
        for kind in [STRATEGIC, APPLY, JSON] {
            let add = |(key, value): (&String, &Value)| json!({"op": "add", "path": format!("/status/{key}"), "value": value});
            let patch = match kind {
                JSON => self.life.status.as_object().unwrap().iter().map(add).collect(),
                _ => self.patch(patch.clone(), &before),
            };
            let path = format!("{path}?{}", options(kind));
            let patched = api.patch(&path, kind, patch).await.expect(200);
            assert!(contains(&patched["status"], &self.life.status), "{kind}: {patched}");
        }
        let patched = self.get().await;
        let noted = (!self.life.status_alone()).then(|| json!("true"));
        let note = |object: &Value, key: &str| object["metadata"]["annotations"].get(key).cloned();
        assert_eq!(note(&patched, "patchedstatus"), noted);
        assert_eq!(generation(&patched), generation(&before));
        assert_eq!(body(&patched), body(&before));

        // What belongs to the object is not written here, nor the status there.
        let mut updated = patched.clone();
        updated["metadata"]["annotations"]["updatedstatus"] = "true".into();
        merge(&mut updated, &self.life.change);
        let updated = api.put(&path, updated).await.expect(200);
        assert_eq!(note(&updated, "updatedstatus"), noted);
        assert_eq!(body(&updated), body(&before));
        assert_eq!(generation(&updated), generation(&before));
        let mut emptied = updated.clone();
        emptied["status"] = json!({});
        emptied["metadata"]["annotations"]["emptied"] = "true".into();
        let kept = api.put(&self.first(), emptied).await.expect(200);
        assert_eq!(kept["status"], updated["status"]);
        let stale = api.put(&path, patched).await.expect(409);
        assert_eq!(stale["reason"], "Conflict");
    }

    async fn scale(&self) {
        let (api, path) = (self.api, format!("{}/scale", self.first()));
        if !self.life.row.has_subresource("scale") {
            api.get(&path).await.expect(404);
            return;
        }
        let before = self.get().await;
        let mut scale = api.get(&path).await.expect(200);
        assert_eq!(
            (&scale["kind"], &scale["apiVersion"]),
            (&json!("Scale"), &json!("autoscaling/v1"))
        );
        assert_eq!(scale["metadata"]["uid"], before["metadata"]["uid"]);
        assert_eq!(scale["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
        assert_eq!(scale["status"], json!({"replicas": 1, "selector": "app=a"}));
        scale["spec"]["replicas"] = 4.into();
        let scaled = api.put(&path, scale).await.expect(200);
        assert_eq!(scaled["spec"]["replicas"], 4);
        for (replicas, kind) in (2..).zip([MERGE, STRATEGIC]) {
            let patch = json!({"spec": {"replicas": replicas}});
            let scaled = api.patch(&path, kind, patch).await.expect(200);
            assert_eq!(scaled["spec"]["replicas"], replicas, "{kind}");
        }
        let after = self.get().await;
        assert_eq!(after["spec"]["replicas"], 3);
        assert_eq!(generation(&after), generation(&before).map(|number| number + 3));
        assert_eq!(after["status"], before["status"]);
    }

    async fn deletion(&self) {
        let (api, row) = (self.api, self.life.row);
        let [first, second, third, _] = self.life.names();
        let background = "propagationPolicy=Background";
        let wrong = json!({"preconditions": {"uid": "other"}});
        let line = format!("DELETE {}", self.first());
        let json = "content-type: application/json";
        let refused = api.send(&line, &[json], wrong.to_string()).await.expect(409);
        assert_eq!(refused["reason"], "Conflict");
        assert_eq!(api.delete(&format!("{}?{background}", self.first())).await.code, 200);
        self.release(first).await;
        let absent = api.delete(&self.first()).await.expect(404);
        let message = format!("{} \"{first}\" not found", row.qualified());
        assert_eq!(absent["message"], message);
        let left = async || {
            let list = api.get(&format!("{}?{SELECTED}", self.path)).await.expect(200);
            list["items"].as_array().unwrap().len()
        };
        assert_eq!(left().await, 2);
        let collection = format!("{}?{SELECTED}&{background}", self.path);
        let reply = api.delete(&collection).await;
        if row.verbs.contains(&"deletecollection".into()) {
            let kind = reply.expect(200)["kind"].clone();
            assert!(kind == row.list_kind() || kind == "Status", "{kind}");
        } else {
            assert_eq!(reply.code, 405);
            for name in [second, third] {
                api.delete(&self.of(name)).await.expect(200);
            }
        }
        for name in [second, third] {
            self.release(name).await;
        }
        assert_eq!(left().await, 0);
    }

    /// Does what a controller would for an object that is held.
    async fn release(&self, name: &str) {
        let path = self.of(name);
        let reply = self.api.get(&path).await;
        let held = self.life.finalizer().is_some() || *self.life.row == NAMESPACE;
        assert_eq!(reply.code, if held { 200 } else { 404 }, "{}", reply.text());
        if !held {
            return;
        }
        let mut object = reply.json();
        assert!(!text(&object["metadata"], "deletionTimestamp").is_empty());
        if *self.life.row == NAMESPACE {
            assert_eq!(object["status"]["phase"], "Terminating");
            object["spec"]["finalizers"] = json!([]);
            self.api.put(&format!("{path}/finalize"), object).await.expect(200);
        } else {
            let none = json!({"metadata": {"finalizers": null}});
            self.api.merge(&path, none).await.expect(200);
        }
        self.api.get(&path).await.expect(404);
    }

    /// What a watch saw of all that: each object from its birth to its end, in order.
    async fn events(&self, watch: &mut Watch) {
        let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut last = 0;
        let done = |seen: &BTreeMap<String, Vec<String>>| {
            let ended = |events: &Vec<String>| events.last().is_some_and(|it| it == "DELETED");
            seen.len() >= 3 && seen.values().all(ended)
        };
        while !done(&seen) {
            let event = watch.next().await;
            let object = &event["object"];
            assert_eq!(object["kind"], *self.life.row.kind, "{event}");
            assert!(revision(object) > last, "{event}");
            last = revision(object);
            let name = text(&object["metadata"], "name").to_string();
            seen.entry(name).or_default().push(text(&event, "type").to_string());
        }
        for (name, events) in seen {
            let middle = &events[1..events.len() - 1];
            assert_eq!(events[0], "ADDED", "{name}");
            assert!(middle.iter().all(|event| event == "MODIFIED"), "{name}: {events:?}");
            let patched = name == self.life.names()[0];
            assert!(middle.len() >= if patched { 5 } else { 0 }, "{name}: {events:?}");
        }
    }
}

/// The query of a patch of this kind.
fn options(kind: &str) -> &str {
    match kind {
        APPLY => "fieldValidation=Strict&fieldManager=life&force=true",
        _ => "fieldValidation=Strict",
    }
}

/// A certificate request that is one.
fn request() -> Value {
    use base64::Engine;
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::new(vec!["life".into()]).unwrap();
    let pem = request.serialize_request(&key).unwrap().pem().unwrap();
    base64::engine::general_purpose::STANDARD.encode(pem).into()
}

/// Without metadata and status.
fn body(object: &Value) -> Value {
    let mut object = object.clone();
    for field in ["metadata", "status"] {
        object.as_object_mut().unwrap().remove(field);
    }
    object
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

fn revision(object: &Value) -> u64 {
    text(&object["metadata"], "resourceVersion").parse().unwrap()
}

fn generation(object: &Value) -> Option<u64> {
    object["metadata"]["generation"].as_u64()
}

/// Whether everything of `part` is there.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, part)| whole.get(key).is_some_and(|whole| contains(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len()
                && whole.iter().zip(part).all(|(whole, part)| contains(whole, part))
        }
        (whole, part) => whole == part,
    }
}

/// RFC 7386, as far as a change needs it.
fn merge(object: &mut Value, patch: &Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, patch) in patch {
                merge(object.entry(key).or_insert(Value::Null), patch);
            }
        }
        (_, Value::Null) => {}
        (object, patch) => *object = patch.clone(),
    }
}
