//! Creating, replacing, patching and deleting, over HTTP.

#[path = "http/api.rs"]
mod api;

use api::{Api, CONFIG_MAPS, DEPLOYMENTS, PODS, config_map, deployment, pod};
use serde_json::{Value, json};

#[tokio::test]
async fn create_fills_in_what_the_server_owns() {
    let api = Api::start().await;
    let mut object = config_map("a");
    object["metadata"]["uid"] = "mine".into();
    object["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z".into();
    let created = api.post(CONFIG_MAPS, object).await.expect(201);
    let metadata = &created["metadata"];
    assert_eq!(metadata["namespace"], "default");
    assert_ne!(metadata["uid"], "mine");
    assert_ne!(metadata["creationTimestamp"], "2001-01-01T00:00:00Z");
    assert!(metadata["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(api.get(&format!("{CONFIG_MAPS}/a")).await.expect(200), created);

    let again = api.post(CONFIG_MAPS, config_map("a")).await.expect(409);
    assert_eq!(again["reason"], "AlreadyExists");
    assert_eq!(again["message"], "configmaps \"a\" already exists");
}

#[tokio::test]
async fn names_are_generated_until_one_is_free() {
    let api = Api::start().await;
    let object = json!({"metadata": {"generateName": "a-"}});
    let mut names = Vec::new();
    for _ in 0..20 {
        let created = api.post(CONFIG_MAPS, object.clone()).await.expect(201);
        let name = created["metadata"]["name"].as_str().unwrap().to_string();
        assert!(name.starts_with("a-") && name.len() == 7, "{name}");
        names.push(name);
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 20);
}

/// A body, and the answer to it.
#[tokio::test]
async fn what_is_refused_and_how() {
    let api = Api::start().await;
    api.post(CONFIG_MAPS, config_map("there")).await.expect(201);
    let cases: &[(&str, Value, u16, &str)] = &[
        (CONFIG_MAPS, json!({"metadata": {}}), 422, "name or generateName is required"),
        (CONFIG_MAPS, config_map("Bad_Name"), 422, "metadata.name: Invalid value: \"Bad_Name\""),
        (
            "/api/v1/namespaces/nope/configmaps",
            config_map("a"),
            404,
            "namespaces \"nope\" not found",
        ),
        (
            CONFIG_MAPS,
            json!({"metadata": {"name": "a", "namespace": "other"}}),
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            CONFIG_MAPS,
            json!({"metadata": {"name": "a", "resourceVersion": "5"}}),
            400,
            "resourceVersion should not be set on objects to be created",
        ),
        (
            CONFIG_MAPS,
            json!({"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "a"}}),
            400,
            "the API version in the data (v2) does not match the expected API version (v1)",
        ),
        (
            CONFIG_MAPS,
            json!({"kind": "Pod", "apiVersion": "v1"}),
            400,
            "cannot be handled as a ConfigMap",
        ),
        (
            CONFIG_MAPS,
            json!({"metadata": {"name": 5}}),
            400,
            "json: cannot unmarshal number into Go",
        ),
        ("/api/v1/configmaps", config_map("a"), 405, "does not allow this method"),
        ("/api/v1/nothings", config_map("a"), 404, "could not find the requested resource"),
        (
            &format!("{CONFIG_MAPS}?dryRun=Some"),
            config_map("a"),
            422,
            "dryRun: Unsupported value: \"Some\": supported values: \"All\"",
        ),
    ];
    for (path, object, code, message) in cases {
        let reply = api.post(path, object.clone()).await;
        assert_eq!(reply.code, *code, "{path} {object}: {}", reply.text());
        let status = reply.json();
        assert_eq!(status["kind"], "Status", "{path}");
        assert_eq!(status["code"], *code);
        assert!(reply.message().contains(message), "{}", reply.message());
    }
}

#[tokio::test]
async fn bodies_that_are_no_objects() {
    let api = Api::start().await;
    let deep = "[".repeat(20_000);
    let large = "x".repeat(20 << 20);
    let bomb = format!("a: &a [x,x]\nb: &b [{}]\nc: [{}]", "*a,".repeat(500), "*b,".repeat(5000));
    let cases: &[(&str, &str, u16, &str)] = &[
        ("application/json", "{\"metadata\": {\"name\" 1}}", 400, "invalid character '1'"),
        ("application/yaml", "metadata: {name: [", 400, "line"),
        ("application/json", &deep, 400, ""),
        ("application/yaml", &bomb, 400, ""),
        ("application/json", &large, 413, "Request entity too large: limit is 3145728"),
        ("text/html", "<html>", 415, "accepted media types include: application/json"),
        ("application/vnd.kubernetes.protobuf", "k8s\0garbage", 400, ""),
        ("application/json", "", 400, ""),
    ];
    for (content_type, body, code, message) in cases {
        let header = format!("content-type: {content_type}");
        let reply = api.send(&format!("POST {CONFIG_MAPS}"), &[&header], body.to_string()).await;
        let head: String = body.chars().take(30).collect();
        assert_eq!(reply.code, *code, "{head}: {}", reply.text());
        assert_eq!(reply.json()["kind"], "Status");
        assert!(reply.message().contains(message), "{head}: {}", reply.message());
    }
}

#[tokio::test]
async fn unknown_fields_are_refused_warned_of_or_dropped() {
    let api = Api::start().await;
    let mut object = deployment("d");
    object["spec"]["foo"] = 1.into();
    object["spec"]["template"]["spec"]["bar"] = 2.into();
    let path = |mode: &str| format!("{DEPLOYMENTS}?fieldValidation={mode}");
    let refused = api.post(&path("Strict"), object.clone()).await;
    assert_eq!(refused.code, 400);
    assert_eq!(
        refused.message(),
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: \
         unknown field \"spec.foo\", unknown field \"spec.template.spec.bar\""
    );
    let warned = api.post(&path("Warn"), object.clone()).await;
    assert_eq!(
        warned.warnings(),
        [
            "299 - \"unknown field \\\"spec.foo\\\"\"",
            "299 - \"unknown field \\\"spec.template.spec.bar\\\"\"",
        ]
    );
    assert!(warned.expect(201)["spec"].get("foo").is_none());
    object["metadata"]["name"] = "e".into();
    let ignored = api.post(&path("Ignore"), object.clone()).await;
    assert_eq!(ignored.warnings(), Vec::<String>::new());
    assert_eq!(ignored.code, 201);
    assert_eq!(api.post(&path("Other"), object).await.code, 422);
    let twice = "{\"metadata\":{\"name\":\"f\"},\"data\":{},\"data\":{}}";
    let line = format!("POST {CONFIG_MAPS}?fieldValidation=Strict");
    let reply = api.send(&line, &["content-type: application/json"], twice).await;
    assert!(reply.message().contains("duplicate field \"data\""), "{}", reply.text());
}

#[tokio::test]
async fn updates_are_guarded_by_revision_and_uid() {
    let api = Api::start().await;
    let path = format!("{CONFIG_MAPS}/a");
    let first = api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    assert_eq!(api.put(&format!("{CONFIG_MAPS}/b"), config_map("b")).await.code, 404);

    let mut second = first.clone();
    second["data"] = json!({"k": "v"});
    let second = api.put(&path, second).await.expect(200);
    assert_ne!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    assert_eq!(first["metadata"]["uid"], second["metadata"]["uid"]);

    let stale = api.put(&path, first.clone()).await;
    assert_eq!(stale.code, 409);
    assert_eq!(
        stale.message(),
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please \
         apply your changes to the latest version and try again"
    );
    let same = api.put(&path, second.clone()).await.expect(200);
    assert_eq!(same["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);

    let mut unconditional = config_map("a");
    unconditional["data"] = json!({"k": "w"});
    assert_eq!(api.put(&path, unconditional.clone()).await.expect(200)["data"]["k"], "w");
    unconditional["metadata"]["uid"] = "other".into();
    let other = api.put(&path, unconditional).await.expect(409);
    assert!(other["message"].as_str().unwrap().contains("Precondition failed: UID"), "{other}");
    assert_eq!(api.put(&path, config_map("c")).await.code, 400);
}

#[tokio::test]
async fn every_kind_of_patch() {
    let api = Api::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    api.post(DEPLOYMENTS, deployment("d")).await.expect(201);
    let cases = [
        ("merge-patch+json", json!({"spec": {"replicas": 3}}), "/spec/replicas", json!(3)),
        (
            "json-patch+json",
            json!([{"op": "replace", "path": "/spec/replicas", "value": 4}]),
            "/spec/replicas",
            json!(4),
        ),
        (
            "strategic-merge-patch+json",
            json!({"spec": {"template": {"spec": {"containers": [{"name": "b", "image": "j"}]}}}}),
            "/spec/template/spec/containers/1/image",
            json!("i"),
        ),
    ];
    for (kind, patch, pointer, expected) in cases {
        let patched = api.patch(&path, kind, patch).await.expect(200);
        assert_eq!(patched.pointer(pointer), Some(&expected), "{kind}");
    }
    let generation = api.get(&path).await.json()["metadata"]["generation"].as_i64();
    assert_eq!(generation, Some(4));
    let apply = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 9}});
    let apply_path = format!("{path}?fieldManager=me");
    let conflict = api.patch(&apply_path, "apply-patch+yaml", apply.clone()).await.expect(409);
    assert_eq!(conflict["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let forced = api.patch(&format!("{apply_path}&force=true"), "apply-patch+yaml", apply).await;
    assert_eq!(forced.expect(200)["spec"]["replicas"], 9);

    let refused = [
        ("merge-patch+json", json!({"metadata": {"name": "x"}}), 400),
        ("merge-patch+json", json!({"spec": {"replicas": -1}}), 422),
        ("merge-patch+json", json!({"metadata": {"resourceVersion": "1"}}), 409),
        ("merge-patch+json", json!([1]), 400),
        ("json-patch+json", json!({}), 400),
        ("json-patch+json", json!([{"op": "test", "path": "/spec/replicas", "value": 1}]), 422),
        ("json", json!({}), 415),
    ];
    for (kind, patch, code) in refused {
        let reply = api.patch(&path, kind, patch.clone()).await;
        assert_eq!(reply.code, code, "{kind} {patch}: {}", reply.text());
    }
    assert_eq!(api.merge(&format!("{DEPLOYMENTS}/none"), json!({})).await.code, 404);
}

#[tokio::test]
async fn apply_creates_and_needs_a_manager() {
    let api = Api::start().await;
    let mut object = config_map("a");
    object["data"] = json!({"k": "v"});
    let path = format!("{CONFIG_MAPS}/a");
    let unnamed = api.patch(&path, "apply-patch+yaml", object.clone()).await;
    assert_eq!(unnamed.code, 422);
    assert!(unnamed.message().contains("fieldManager: Required value"), "{}", unnamed.text());
    let path = format!("{path}?fieldManager=me");
    let created = api.patch(&path, "apply-patch+yaml", object).await.expect(201);
    assert_eq!(created["metadata"]["managedFields"][0]["operation"], "Apply");
}

/// What has no place in the schema has no owner: no `fieldValidation` lets it through.
#[tokio::test]
async fn applied_fields_must_be_known_and_of_their_type() {
    let api = Api::start().await;
    for (body, problem) in [
        ("data: {a: y}", ".data.a: expected string, got &value.valueUnstructured{Value:true}"),
        (
            "metadata: {name: n}",
            ".metadata.name: expected string, got &value.valueUnstructured{Value:false}",
        ),
        ("dat: {}", ".dat: field not declared in schema"),
    ] {
        let body = format!("apiVersion: v1\nkind: ConfigMap\n{body}\n");
        let line = format!("PATCH {CONFIG_MAPS}/a?fieldManager=me&fieldValidation=Ignore");
        let reply = api.send(&line, &["content-type: application/apply-patch+yaml"], body).await;
        assert_eq!(reply.code, 500, "{}", reply.text());
        let status = reply.json();
        assert_eq!((&status["kind"], status.get("reason")), (&json!("Status"), None));
        let expected =
            format!("failed to create typed patch object (/; /v1, Kind=ConfigMap): {problem}");
        assert_eq!(status["message"], expected);
    }
}

/// What is written twice is counted by its lines, as Go's reader of YAML does; a conflict is told
/// first.
#[tokio::test]
async fn applied_fields_may_not_be_written_twice() {
    let api = Api::start().await;
    let apply = async |manager: &str, mode: &str, value: &str| {
        let body = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  k: x\n  k: {value}\n"
        );
        let query = format!("fieldManager={manager}&fieldValidation={mode}");
        let line = format!("PATCH {CONFIG_MAPS}/a?{query}");
        api.send(&line, &["content-type: application/apply-patch+yaml"], body).await
    };
    let refused = apply("one", "Strict", "v").await;
    assert_eq!(refused.code, 400, "{}", refused.text());
    assert_eq!(
        refused.message(),
        "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line \
         7: key \"k\" already set in map"
    );
    let warned = apply("one", "Warn", "v").await;
    assert_eq!(warned.code, 201, "{}", warned.text());
    assert_eq!(warned.warnings(), [r#"299 - "line 7: key \"k\" already set in map""#]);
    assert_eq!(warned.json()["data"]["k"], "v");
    assert!(apply("one", "Ignore", "v").await.warnings().is_empty());
    assert_eq!(apply("two", "Strict", "w").await.code, 409);
}

/// Of a YAML body duplicates come first, and of a JSON body unknown fields.
#[tokio::test]
async fn a_body_of_yaml_may_not_say_things_twice() {
    let api = Api::start().await;
    let body = "kind: ConfigMap\napiVersion: v1\nmetadata:\n  name: a\n  name: a\nmore: 1\n";
    let line = format!("POST {CONFIG_MAPS}?fieldValidation=Strict");
    let refused = api.send(&line, &["content-type: application/yaml"], body).await;
    assert_eq!(refused.code, 400);
    assert_eq!(
        refused.message(),
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: \
         yaml: unmarshal errors:\n  line 5: key \"name\" already set in map, unknown field \"more\""
    );
}

/// Admission's additions have no owner, on creation or later; defaults are the creator's.
#[tokio::test]
async fn what_admission_adds_belongs_to_nobody() {
    let api = Api::start().await;
    let created = api.post(&format!("{PODS}?fieldManager=me"), pod("p")).await.expect(201);
    assert_eq!(created["spec"]["serviceAccountName"], "default");
    let added = ["tolerations", "serviceAccountName", "serviceAccount", "priority", "volumes"];
    for field in added {
        assert!(created["spec"].get(field).is_some(), "{field}: {created}");
    }
    let owned = |object: &Value, manager: &str| {
        let entries = object["metadata"]["managedFields"].as_array().unwrap();
        let own = entries.iter().find(|entry| entry["manager"] == manager);
        own.map_or(Value::Null, |entry| entry["fieldsV1"]["f:spec"].clone())
    };
    let spec = owned(&created, "me");
    for field in added {
        assert_eq!(spec.get(format!("f:{field}")), None, "{spec}");
    }
    assert!(spec.get("f:restartPolicy").is_some(), "{spec}");
    assert_eq!(spec["f:containers"][r#"k:{"name":"c"}"#].get("f:volumeMounts"), None, "{spec}");

    let path = format!("{PODS}/p?fieldManager=you");
    let patched = api.merge(&path, json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    assert_eq!(owned(&patched, "you"), Value::Null);
    let mut replaced = patched.clone();
    replaced["spec"]["containers"][0]["image"] = "other".into();
    replaced["status"] = json!({"phase": "Running"});
    let replaced = api.put(&path, replaced).await.expect(200);
    let image = json!({"f:containers": {r#"k:{"name":"c"}"#: {"f:image": {}}}});
    assert_eq!(owned(&replaced, "you"), image);
    // What is sent to an endpoint that does not write it is not the sender's.
    let entries = replaced["metadata"]["managedFields"].as_array().unwrap();
    assert!(entries.iter().all(|entry| entry["fieldsV1"].get("f:status").is_none()));
    let mut status = replaced.clone();
    status["status"]["phase"] = "Running".into();
    status["spec"]["containers"][0]["image"] = "ignored".into();
    let told = api.put(&format!("{PODS}/p/status?fieldManager=kubelet"), status).await.expect(200);
    let entries = told["metadata"]["managedFields"].as_array().unwrap();
    let kubelet = entries.iter().find(|entry| entry["manager"] == "kubelet").unwrap();
    assert_eq!(kubelet["fieldsV1"], json!({"f:status": {"f:phase": {}}}));
}

#[tokio::test]
async fn concurrent_patches_all_count() {
    let api = std::sync::Arc::new(Api::start().await);
    api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    let patches = (0..32).map(|n| {
        let api = api.clone();
        tokio::spawn(async move {
            let patch = json!({"data": {format!("k{n}"): "v"}});
            api.merge(&format!("{CONFIG_MAPS}/a"), patch).await.code
        })
    });
    for code in futures::future::join_all(patches).await {
        assert_eq!(code.unwrap(), 200);
    }
    let object = api.get(&format!("{CONFIG_MAPS}/a")).await.json();
    assert_eq!(object["data"].as_object().unwrap().len(), 32);
}

#[tokio::test]
async fn dry_runs_answer_and_change_nothing() {
    let api = Api::start().await;
    let dry = format!("{CONFIG_MAPS}?dryRun=All");
    let created = api.post(&dry, config_map("a")).await.expect(201);
    assert!(created["metadata"].get("uid").is_some());
    assert!(created["metadata"].get("resourceVersion").is_none());
    assert_eq!(api.get(&format!("{CONFIG_MAPS}/a")).await.code, 404);

    api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    assert_eq!(api.post(&dry, config_map("a")).await.code, 409);
    let path = format!("{CONFIG_MAPS}/a?dryRun=All");
    let patched = api.merge(&path, json!({"data": {"k": "v"}})).await.expect(200);
    assert_eq!(patched["data"]["k"], "v");
    api.delete(&path).await.expect(200);
    assert!(api.get(&format!("{CONFIG_MAPS}/a")).await.expect(200).get("data").is_none());
    api.delete(&dry).await.expect(200);
    assert_eq!(api.get(&format!("{CONFIG_MAPS}/a")).await.code, 200);
}

#[tokio::test]
async fn status_and_spec_keep_apart() {
    let api = Api::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    let created = api.post(DEPLOYMENTS, deployment("d")).await.expect(201);
    assert_eq!(created["metadata"]["generation"], 1);
    let mut changed = created.clone();
    changed["spec"]["replicas"] = 7.into();
    changed["status"] = json!({"replicas": 2, "observedGeneration": 1});
    let status = api.put(&format!("{path}/status"), changed.clone()).await.expect(200);
    assert_eq!(
        (&status["spec"]["replicas"], &status["status"]["replicas"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(status["metadata"]["generation"], 1);

    changed["metadata"] = status["metadata"].clone();
    changed["status"] = json!({});
    let spec = api.put(&path, changed).await.expect(200);
    assert_eq!((&spec["spec"]["replicas"], &spec["status"]["replicas"]), (&json!(7), &json!(2)));
    assert_eq!(spec["metadata"]["generation"], 2);
}

#[tokio::test]
async fn scale_is_a_view_of_replicas() {
    let api = Api::start().await;
    api.post(DEPLOYMENTS, deployment("d")).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d/scale");
    let mut scale = api.get(&path).await.expect(200);
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    assert_eq!(scale["status"]["selector"], "app=d");
    scale["spec"]["replicas"] = 5.into();
    assert_eq!(api.put(&path, scale.clone()).await.expect(200)["spec"]["replicas"], 5);
    assert_eq!(api.put(&path, scale.clone()).await.code, 409, "its revision is stale now");
    let patched = api.merge(&path, json!({"spec": {"replicas": 6}})).await.expect(200);
    assert_eq!(patched["spec"]["replicas"], 6);
    let negative = api.merge(&path, json!({"spec": {"replicas": -1}})).await;
    assert_eq!(negative.code, 422);
    assert_eq!(
        negative.message(),
        "Scale.autoscaling \"d\" is invalid: spec.replicas: Invalid value: -1: must be greater \
         than or equal to 0"
    );
    assert_eq!(api.get(&format!("{DEPLOYMENTS}/d")).await.json()["spec"]["replicas"], 6);
}

#[tokio::test]
async fn deletion_with_preconditions_and_finalizers() {
    let api = Api::start().await;
    let path = format!("{CONFIG_MAPS}/a");
    let mut object = config_map("a");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let created = api.post(CONFIG_MAPS, object).await.expect(201);
    let line = format!("DELETE {path}");
    let json_type = ["content-type: application/json"];
    let wrong = json!({"preconditions": {"uid": "other"}}).to_string();
    assert_eq!(api.send(&line, &json_type, wrong).await.code, 409);

    let held = api.delete(&path).await.expect(200);
    assert!(held["metadata"]["deletionTimestamp"].is_string(), "{held}");
    assert_eq!(held["metadata"]["uid"], created["metadata"]["uid"]);
    let released = api.merge(&path, json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert_eq!(released["metadata"]["name"], "a");
    assert_eq!(api.get(&path).await.code, 404);

    api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    let status = api.delete(&path).await.expect(200);
    assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(status["details"]["kind"], "configmaps");
    assert_eq!(api.delete(&path).await.code, 404);
}

#[tokio::test]
async fn propagation_becomes_finalizers() {
    let api = Api::start().await;
    for (name, how, held, code, finalizers) in [
        ("orphan", "propagationPolicy=Orphan", None, 200, "orphan"),
        ("foreground", "propagationPolicy=Foreground", None, 200, "foregroundDeletion"),
        ("held", "orphanDependents=false", Some("example.com/a"), 202, "example.com/a"),
    ] {
        let mut object = deployment(name);
        object["metadata"]["finalizers"] = json!(held.into_iter().collect::<Vec<_>>());
        api.post(DEPLOYMENTS, object).await.expect(201);
        let deleted = api.delete(&format!("{DEPLOYMENTS}/{name}?{how}")).await.expect(code);
        assert_eq!(deleted["metadata"]["finalizers"], json!([finalizers]));
        assert_eq!(deleted["metadata"]["generation"], 2);
    }
    assert_eq!(api.delete(&format!("{DEPLOYMENTS}/orphan?propagationPolicy=x")).await.code, 422);
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let api = Api::start().await;
    for (name, app) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut object = config_map(name);
        object["metadata"]["labels"] = json!({"app": app});
        api.post(CONFIG_MAPS, object).await.expect(201);
    }
    let deleted = api.delete(&format!("{CONFIG_MAPS}?labelSelector=app%3Dx")).await.expect(200);
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = api.get(CONFIG_MAPS).await.expect(200);
    assert_eq!(left["items"][0]["metadata"]["name"], "c");
}

#[tokio::test]
async fn a_pod_is_bound_once_and_deleted_with_grace() {
    let api = Api::start().await;
    let pods = PODS;
    let created = api.post(pods, pod("p")).await.expect(201);
    assert_eq!(created["spec"]["serviceAccountName"], "default");
    let tolerations = created["spec"]["tolerations"].as_array().unwrap();
    assert_eq!(tolerations.len(), 2);
    let binding = json!({"target": {"kind": "Node", "name": "n"}, "metadata": {"name": "p"}});
    let bound = api.post(&format!("{pods}/p/binding"), binding.clone()).await.expect(201);
    assert_eq!(bound["status"], "Success");
    let again = api.post(&format!("{pods}/p/binding"), binding).await.expect(409);
    assert!(
        again["message"].as_str().unwrap().contains("already assigned to node \"n\""),
        "{again}"
    );

    let path = format!("{pods}/p");
    let going = api.delete(&path).await.expect(200);
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = api.delete(&format!("{path}?gracePeriodSeconds=5")).await.expect(200);
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let longer = api.delete(&format!("{path}?gracePeriodSeconds=60")).await.expect(200);
    assert_eq!(longer["metadata"]["deletionGracePeriodSeconds"], 5);
    api.delete(&format!("{path}?gracePeriodSeconds=0")).await.expect(200);
    assert_eq!(api.get(&path).await.code, 404);
}

#[tokio::test]
async fn an_eviction_deletes() {
    let api = Api::start().await;
    api.post(PODS, pod("p")).await.expect(201);
    let eviction = json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "p", "namespace": "default"},
        "deleteOptions": {"gracePeriodSeconds": 0},
    });
    api.post(&format!("{PODS}/p/eviction"), eviction).await.expect(201);
    assert_eq!(api.get(&format!("{PODS}/p")).await.code, 404);
}

#[tokio::test]
async fn namespaces_end_in_order() {
    let api = Api::start().await;
    let namespaces = "/api/v1/namespaces";
    let object = json!({"metadata": {"name": "n"}});
    let created = api.post(namespaces, object).await.expect(201);
    assert_eq!(created["status"]["phase"], "Active");
    assert_eq!(created["spec"]["finalizers"], json!(["kubernetes"]));
    let path = format!("{namespaces}/n");
    let going = api.delete(&path).await.expect(200);
    assert_eq!(going["status"]["phase"], "Terminating");
    let refused = api.post(&format!("{path}/configmaps"), config_map("a")).await.expect(403);
    assert_eq!(refused["details"]["causes"][0]["reason"], "NamespaceTerminating");
    assert_eq!(
        refused["message"],
        "configmaps \"a\" is forbidden: unable to create new content in namespace n because it is \
         being terminated"
    );
    let mut finalized = api.get(&path).await.expect(200);
    finalized["spec"]["finalizers"] = json!([]);
    api.put(&format!("{path}/finalize"), finalized).await.expect(200);
    assert_eq!(api.get(&path).await.code, 404);
    let immortal = api.delete("/api/v1/namespaces/kube-system").await;
    assert_eq!(
        immortal.message(),
        "namespaces \"kube-system\" is forbidden: this namespace may not be deleted"
    );
}

#[tokio::test]
async fn protobuf_and_yaml_bodies() {
    let api = Api::start().await;
    let yaml =
        "kind: ConfigMap\napiVersion: v1\nmetadata:\n  name: yaml\ndata:\n  mode: \"0644\"\n";
    let line = format!("POST {CONFIG_MAPS}");
    let created = api.send(&line, &["content-type: application/yaml"], yaml).await.expect(201);
    assert_eq!(created["data"]["mode"], "0644");
    let path = format!("GET {CONFIG_MAPS}/yaml");
    let shown = api.send(&path, &["accept: application/yaml"], "").await;
    assert_eq!(shown.headers["content-type"], "application/yaml");
    assert!(shown.text().contains("mode: "), "{}", shown.text());
    // k8s\0, Unknown{typeMeta{v1 ConfigMap} raw{metadata{name: "p"}}}
    let raw = b"\x0a\x03\x0a\x01p";
    let mut body = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12".to_vec();
    body.push(raw.len() as u8);
    body.extend_from_slice(raw);
    let protobuf = ["content-type: application/vnd.kubernetes.protobuf"];
    let created = api.send(&line, &protobuf, body).await.expect(201);
    assert_eq!(created["metadata"]["name"], "p");
}
