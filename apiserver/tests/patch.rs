//! The four patches and managedFields, on real kinds.

use apiserver::patch::{self, managed_fields};
use apiserver::schema;
use proto::kind::{self, Row};
use proto::status::Status;
use proto::time::Time;
use serde_json::{Value, json};

fn at(seconds: i64) -> Time {
    Time::from_unix(seconds)
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "nginx:1",
                    "ports": [{"containerPort": 80}]}]},
            },
        },
    })
}

/// What the registry does around a write.
fn stored(row: &Row, mut object: Value) -> Value {
    assert_eq!(schema::check(row, &mut object), Ok(vec![]));
    schema::default(row, &mut object);
    object
}

fn update(row: &Row, old: Option<&Value>, new: Value, manager: &str, time: i64) -> Value {
    let mut new = stored(row, new);
    managed_fields::record(row, old, &mut new, manager, "", &[], at(time));
    new
}

fn apply(
    row: &Row,
    live: Option<&Value>,
    applied: Value,
    manager: &str,
    force: bool,
    time: i64,
) -> Result<Value, Status> {
    patch::apply(row, live, &applied, manager, force, "", at(time)).map(|new| stored(row, new))
}

/// The fields of one manager's entry.
fn owned<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    entries
        .iter()
        .find(|entry| entry["manager"] == manager)
        .map_or(&Value::Null, |e| &e["fieldsV1"])
}

#[test]
fn a_create_is_recorded_as_kubernetes_records_it() {
    let object = update(&kind::DEPLOYMENT, None, deployment(), "kubectl-create", 100);
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{
            "manager": "kubectl-create", "operation": "Update", "apiVersion": "apps/v1",
            "time": "1970-01-01T00:01:40Z", "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:progressDeadlineSeconds": {},
                    "f:replicas": {},
                    "f:revisionHistoryLimit": {},
                    "f:selector": {},
                    "f:strategy": {
                        "f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}},
                        "f:type": {},
                    },
                    "f:template": {
                        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                        "f:spec": {
                            "f:containers": {"k:{\"name\":\"web\"}": {
                                ".": {},
                                "f:image": {},
                                "f:name": {},
                                "f:ports": {
                                    ".": {},
                                    "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                                        ".": {}, "f:containerPort": {}, "f:protocol": {},
                                    },
                                },
                                "f:resources": {},
                                "f:terminationMessagePath": {},
                                "f:terminationMessagePolicy": {},
                            }},
                            "f:dnsPolicy": {},
                            "f:restartPolicy": {},
                            "f:schedulerName": {},
                            "f:securityContext": {},
                            "f:terminationGracePeriodSeconds": {},
                        },
                    },
                },
            },
        }])
    );
}

#[test]
fn an_update_takes_what_it_changes_and_nothing_else() {
    let row = &kind::CONFIG_MAP;
    let first =
        update(row, None, json!({"metadata": {"name": "a"}, "data": {"a": "1", "b": "1"}}), "x", 1);
    let mut next = first.clone();
    next["data"]["a"] = "2".into();
    next["data"]["c"] = "2".into();
    let second = update(row, Some(&first), next, "y", 2);
    assert_eq!(owned(&second, "x"), &json!({"f:data": {".": {}, "f:b": {}}}));
    assert_eq!(owned(&second, "y"), &json!({"f:data": {"f:a": {}, "f:c": {}}}));
    // No change: nobody's time moves.
    let third = update(row, Some(&second), second.clone(), "y", 3);
    assert_eq!(third, second);
    // A field that goes is nobody's.
    let mut next = third.clone();
    next["data"].as_object_mut().unwrap().remove("a");
    let fourth = update(row, Some(&third), next, "z", 4);
    assert_eq!(owned(&fourth, "y"), &json!({"f:data": {"f:c": {}}}));
    assert_eq!(owned(&fourth, "z"), &Value::Null);
    // A client that does not know managedFields does not lose them; an empty entry clears them.
    let mut next = fourth.clone();
    next["metadata"].as_object_mut().unwrap().remove("managedFields");
    assert_eq!(update(row, Some(&fourth), next, "z", 5), fourth);
    let mut next = fourth.clone();
    next["metadata"]["managedFields"] = json!([{}]);
    assert!(update(row, Some(&fourth), next, "z", 5)["metadata"]["managedFields"].is_null());
}

#[test]
fn status_is_owned_apart() {
    let row = &kind::POD;
    let old = update(
        row,
        None,
        json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "a"}]}}),
        "x",
        1,
    );
    let mut new = old.clone();
    new["status"] = json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}],
        "conditions": [{"type": "Ready", "status": "True"}]});
    managed_fields::record(row, Some(&old), &mut new, "kubelet", "status", &[], at(2));
    assert_eq!(
        owned(&new, "kubelet"),
        &json!({"f:status": {
            "f:conditions": {".": {}, "k:{\"type\":\"Ready\"}": {".": {}, "f:status": {}, "f:type": {}}},
            "f:phase": {},
            "f:podIPs": {".": {}, "k:{\"ip\":\"10.0.0.1\"}": {".": {}, "f:ip": {}}},
        }})
    );
    assert_eq!(new["metadata"]["managedFields"][1]["subresource"], "status");
}

#[test]
fn old_update_entries_are_merged() {
    let row = &kind::CONFIG_MAP;
    let mut object = update(row, None, json!({"metadata": {"name": "a"}}), "m", 0);
    for n in 0..14 {
        let mut next = object.clone();
        next["data"][format!("k{n}")] = "v".into();
        object = update(row, Some(&object), next, &format!("m{n}"), n);
    }
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 10);
    assert_eq!(
        owned(&object, "ancient-changes"),
        &json!({"f:data": {".": {}, "f:k0": {}, "f:k1": {}, "f:k2": {}, "f:k3": {}, "f:k4": {}}})
    );
}

#[test]
fn leaves_have_owners_of_their_own() {
    let row = &kind::CONFIG_MAP;
    let config = |data: Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "a", "namespace": "n"}, "data": data})
    };
    let one = apply(row, None, config(json!({"a": "1"})), "one", false, 1).unwrap();
    assert_eq!(owned(&one, "one"), &json!({"f:data": {"f:a": {}}}));
    let two = apply(row, Some(&one), config(json!({"b": "2"})), "two", false, 2).unwrap();
    assert_eq!(two["data"], json!({"a": "1", "b": "2"}));
    // The same value is shared ownership.
    let both =
        apply(row, Some(&two), config(json!({"a": "1", "b": "2"})), "two", false, 3).unwrap();
    // Another one is a conflict.
    let error =
        apply(row, Some(&both), config(json!({"a": "9", "b": "2"})), "two", false, 4).unwrap_err();
    assert_eq!(
        (error.code, error.reason.as_str(), error.message.as_str()),
        (409, "Conflict", "Apply failed with 1 conflict: conflict with \"one\": .data.a")
    );
    let causes = error.details.unwrap().causes;
    assert_eq!(
        (causes[0].reason.as_str(), causes[0].message.as_str(), causes[0].field.as_str()),
        ("FieldManagerConflict", "conflict with \"one\"", ".data.a")
    );
    let forced = apply(row, Some(&both), config(json!({"a": "9"})), "two", true, 5).unwrap();
    assert_eq!(forced["data"], json!({"a": "9"}));
    assert_eq!(owned(&forced, "one"), &Value::Null);
    // What is not applied any more goes, unless it is somebody else's.
    let less = apply(row, Some(&both), config(json!({"b": "2"})), "two", false, 6).unwrap();
    assert_eq!(less["data"], json!({"a": "1", "b": "2"}));
    let none = apply(row, Some(&less), config(json!({})), "two", false, 7).unwrap();
    assert_eq!(none["data"], json!({"a": "1"}));
    assert_eq!(none["metadata"]["name"], "a");
    // Applying the same again changes nothing, not even the time.
    assert_eq!(
        apply(row, Some(&both), config(json!({"a": "1", "b": "2"})), "two", false, 9).unwrap(),
        both
    );
}

#[test]
fn conflicts_with_updates_name_the_version() {
    let row = &kind::DEPLOYMENT;
    let live = update(row, None, deployment(), "kubectl", 1);
    let applied = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": 5}});
    let error = apply(row, Some(&live), applied.clone(), "hpa", false, 2).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"kubectl\" using apps/v1: .spec.replicas"
    );
    let new = apply(row, Some(&live), applied, "hpa", true, 2).unwrap();
    assert_eq!(new["spec"]["replicas"], 5);
    assert_eq!(owned(&new, "hpa"), &json!({"f:spec": {"f:replicas": {}}}));
    assert!(owned(&new, "kubectl")["f:spec"].get("f:replicas").is_none());
    let applied = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web"}, "spec": {"replicas": 7, "template": {"spec": {"containers": [
            {"name": "web", "image": "nginx:2"}]}}}});
    let error = apply(row, Some(&live), applied, "x", false, 2).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl\" using apps/v1:\n\
         - .spec.replicas\n- .spec.template.spec.containers[name=\"web\"].image"
    );
}

#[test]
fn items_that_are_not_applied_any_more_go() {
    let row = &kind::DEPLOYMENT;
    let with = |containers: Value| {
        let mut applied = deployment();
        applied["spec"]["template"]["spec"]["containers"] = containers;
        applied
    };
    let two = json!([{"name": "a", "image": "a"}, {"name": "b", "image": "b", "env": [{"name": "X", "value": "1"}]}]);
    let live = apply(row, None, with(two), "x", false, 1).unwrap();
    // Someone adds a container of their own in front.
    let mut next = live.clone();
    let containers = next["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap();
    containers.insert(0, json!({"name": "sidecar", "image": "s"}));
    let live = update(row, Some(&live), next, "injector", 2);
    let new = apply(row, Some(&live), with(json!([{"name": "a", "image": "a2"}])), "x", false, 3)
        .unwrap();
    let names: Vec<&str> = new["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|container| container["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["sidecar", "a"]);
    let a = &new["spec"]["template"]["spec"]["containers"][1];
    assert_eq!(
        (a["image"].as_str(), a["terminationMessagePath"].as_str()),
        (Some("a2"), Some("/dev/termination-log"))
    );
}

/// Nobody owns a name, but who says it keeps it.
#[test]
fn who_applies_nothing_but_a_name_keeps_the_name() {
    let row = &kind::CONFIG_MAP;
    let labelled = json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"k": "v"}});
    let live = apply(row, None, labelled, "x", false, 1).unwrap();
    let bare = apply(row, Some(&live), json!({"metadata": {"name": "a"}}), "x", false, 2).unwrap();
    assert_eq!(bare["metadata"]["name"], "a");
    assert_eq!((&bare["metadata"]["labels"], &bare["data"]), (&Value::Null, &Value::Null));
}

#[test]
fn items_with_the_same_keys_keep_their_owner() {
    let row = &kind::DEPLOYMENT;
    let dns = json!({"containerPort": 53});
    for others in [0, 20] {
        let mut object = deployment();
        let ports: Vec<Value> = (0..others).map(|n| json!({"containerPort": 100 + n})).collect();
        let ports = [vec![dns.clone(), dns.clone()], ports].concat();
        let container = "/spec/template/spec/containers/0";
        object.pointer_mut(container).unwrap()["ports"] = json!(ports);
        let live = update(row, None, object, "a", 1);
        let set = "/f:spec/f:template/f:spec/f:containers/k:{\"name\":\"web\"}/f:ports\
                   /k:{\"containerPort\":53,\"protocol\":\"TCP\"}";
        assert!(owned(&live, "a").pointer(set).is_some());

        // Another field changes: the ports are as they were.
        let mut other = live.clone();
        other.pointer_mut(container).unwrap()["image"] = json!("nginx:2");
        let other = update(row, Some(&live), other, "b", 2);
        assert!(owned(&other, "a").pointer(set).is_some());
        assert!(owned(&other, "b").pointer(set).is_none());

        // One of the two goes: who took it away owns the item that is left.
        let mut fewer = live.clone();
        let list = &mut fewer.pointer_mut(container).unwrap()["ports"];
        list.as_array_mut().unwrap().remove(0);
        let fewer = update(row, Some(&live), fewer, "b", 2);
        assert!(owned(&fewer, "a").pointer(set).unwrap().get(".").is_none());
        assert_eq!(owned(&fewer, "b").pointer(set), Some(&json!({})));
    }
}

#[test]
fn applied_objects_must_fit_the_schema() {
    let row = &kind::DEPLOYMENT;
    for (spec, problem) in [
        (json!({"foo": 1}), ".spec.foo: field not declared in schema"),
        (
            json!({"template": {"spec": {"containers": [{"name": "a", "foo": 1}]}}}),
            ".spec.template.spec.containers[name=\"a\"].foo: field not declared in schema",
        ),
        (
            json!({"replicas": "1"}),
            ".spec.replicas: expected numeric (int or float), got \
             &value.valueUnstructured{Value:\"1\"}",
        ),
        (json!({"template": []}), ".spec.template: expected map, got list"),
        (
            json!({"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}}),
            ".spec.template.spec.containers: duplicate entries for key [name=\"a\"]",
        ),
        (
            json!({"foo": 1, "paused": "y"}),
            "errors:\n  .spec.foo: field not declared in schema\n  .spec.paused: expected boolean, \
             got &value.valueUnstructured{Value:\"y\"}",
        ),
    ] {
        let applied = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": spec});
        let error = apply(row, None, applied, "x", false, 1).unwrap_err();
        let expected = format!(
            "failed to create typed patch object (n/a; apps/v1, Kind=Deployment): {problem}"
        );
        assert_eq!(error.message, expected);
    }
    let applied = json!({"metadata": {"name": "a", "managedFields": []}});
    assert_eq!(apply(row, None, applied, "x", false, 1).unwrap_err().code, 400);
}

#[test]
fn strategic_merge() {
    let pod = |spec: Value| json!({"metadata": {"name": "a"}, "spec": spec});
    let names = |names: &[&str]| {
        Value::from(names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>())
    };
    for (why, old, patch, new) in [
        (
            "keyed items merge, patch items first",
            json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b"}]}),
            json!({"containers": [{"name": "c"}, {"name": "a", "image": "2"}]}),
            json!({"containers": [{"name": "c"}, {"name": "a", "image": "2", "args": ["x"]}, {"name": "b"}]}),
        ),
        (
            "null deletes",
            json!({"nodeName": "x", "hostname": "y"}),
            json!({"nodeName": null, "subdomain": null}),
            json!({"hostname": "y"}),
        ),
        (
            "$patch: delete of an item",
            json!({"containers": names(&["a", "b"])}),
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": names(&["b"])}),
        ),
        (
            "$patch: replace of a list",
            json!({"containers": names(&["a", "b"])}),
            json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}),
            json!({"containers": names(&["c"])}),
        ),
        (
            "$patch: replace of a struct",
            json!({"securityContext": {"runAsUser": 1, "fsGroup": 2}}),
            json!({"securityContext": {"$patch": "replace", "runAsUser": 3}}),
            json!({"securityContext": {"runAsUser": 3}}),
        ),
        (
            "$patch: delete of a struct",
            json!({"securityContext": {"runAsUser": 1}}),
            json!({"securityContext": {"$patch": "delete"}}),
            json!({"securityContext": {}}),
        ),
        (
            "$setElementOrder",
            json!({"containers": names(&["a", "b", "c"])}),
            json!({"$setElementOrder/containers": names(&["c", "a"]), "containers": [{"name": "a", "image": "i"}]}),
            json!({"containers": [{"name": "b"}, {"name": "c"}, {"name": "a", "image": "i"}]}),
        ),
        (
            "$setElementOrder keeps what only the server has near its neighbours",
            json!({"containers": names(&["1", "2", "3", "x"])}),
            json!({"$setElementOrder/containers": names(&["3", "2", "1"])}),
            json!({"containers": names(&["3", "2", "1", "x"])}),
        ),
        (
            "$retainKeys",
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/x"}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
        ),
        (
            "ports merge by containerPort only",
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 53, "protocol": "UDP"}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 53, "protocol": "TCP"}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 53, "protocol": "TCP"}]}]}),
        ),
        (
            "lists without a key are replaced",
            json!({"containers": [{"name": "a", "args": ["x"]}], "tolerations": [{"key": "a"}]}),
            json!({"containers": [{"name": "a", "args": ["y"]}], "tolerations": [{"key": "b"}]}),
            json!({"containers": [{"name": "a", "args": ["y"]}], "tolerations": [{"key": "b"}]}),
        ),
        (
            "what is new leaves no directive and no null",
            json!({}),
            json!({"containers": [{"name": "a", "image": null, "$patch": "merge"}], "volumes": [{"name": "x", "$patch": "delete"}]}),
            json!({"containers": [{"name": "a"}], "volumes": []}),
        ),
    ] {
        let found = patch::strategic(&kind::POD, &pod(old), &json!({"spec": patch})).unwrap();
        assert_eq!(found, pod(new), "{why}");
    }
}

#[test]
fn strategic_merge_of_scalars() {
    let object = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
    for (patch, expected) in [
        (json!({"finalizers": ["c", "a"]}), json!(["c", "a", "b"])),
        (json!({"$deleteFromPrimitiveList/finalizers": ["a"]}), json!(["b"])),
        (json!({"$setElementOrder/finalizers": ["b", "a"]}), json!(["b", "a"])),
        (
            json!({"$deleteFromPrimitiveList/finalizers": ["a"],
                "$setElementOrder/finalizers": ["b", "c"], "finalizers": ["c"]}),
            json!(["b", "c"]),
        ),
    ] {
        let old = object(json!(["a", "b"]));
        let new = patch::strategic(&kind::POD, &old, &json!({"metadata": patch})).unwrap();
        assert_eq!(new, object(expected), "{patch}");
    }
    for patch in [
        json!({"spec": {"containers": [{"image": "x"}]}}),
        json!({"spec": {"$patch": "unknown"}}),
        json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "emptyDir": {}}]}}),
        json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]}}),
        json!([]),
    ] {
        let error = patch::strategic(&kind::POD, &json!({"spec": {}}), &patch).unwrap_err();
        assert_eq!(error.code, 400, "{patch}: {error}");
    }
}

#[test]
fn json_and_merge_patches() {
    let old = json!({"metadata": {"labels": {"a": "1"}}, "list": [1, 2]});
    let new = patch::json(
        &old,
        &json!([
            {"op": "test", "path": "/metadata/labels/a", "value": "1"},
            {"op": "add", "path": "/metadata/labels/b~1c", "value": "2"},
            {"op": "remove", "path": "/list/0"},
        ]),
    );
    assert_eq!(new.unwrap(), json!({"metadata": {"labels": {"a": "1", "b/c": "2"}}, "list": [2]}));
    for (patch, code) in [
        (json!([{"op": "test", "path": "/metadata/labels/a", "value": "2"}]), 422),
        (json!([{"op": "remove", "path": "/metadata/labels/x"}]), 422),
        (json!([{"op": "replace", "path": "/nothing/x", "value": 1}]), 422),
        (json!([{"op": "shuffle", "path": "/a"}]), 400),
        (json!({"op": "remove"}), 400),
        (Value::Array(vec![json!({"op": "test", "path": "/list/0", "value": 1}); 10_001]), 413),
    ] {
        let error = patch::json(&old, &patch).unwrap_err();
        assert_eq!(error.code, code, "{error}");
    }
    // Doubling by copies stops at the limit.
    let double = json!({"op": "copy", "from": "/a", "path": "/a/-"});
    let bomb = Value::Array(vec![double; 60]);
    assert_eq!(patch::json(&json!({"a": ["xxxxxxxxxxxxxxxx"]}), &bomb).unwrap_err().code, 422);
    assert_eq!(
        patch::merge(
            &old,
            &json!({"metadata": {"labels": {"a": null}}, "list": null, "x": {"y": null}})
        ),
        json!({"metadata": {"labels": {}}, "x": {}})
    );
}

#[test]
fn long_lists_cost_no_more_than_their_length() {
    let many = |from: usize| -> Vec<Value> {
        (from..from + 8_000).map(|n| json!({"name": format!("n{n}"), "value": "v"})).collect()
    };
    let pod = |env: Vec<Value>| {
        json!({"metadata": {"finalizers":
        (0..env.len()).map(|n| format!("f{n}")).collect::<Vec<_>>()},
        "spec": {"containers": [{"name": "a", "env": env}]}})
    };
    let (old, patch) = (pod(many(0)), pod(many(4_000)));
    let new = patch::strategic(&kind::POD, &old, &patch).unwrap();
    assert_eq!(new["spec"]["containers"][0]["env"].as_array().unwrap().len(), 12_000);
    let mut recorded = new.clone();
    managed_fields::record(&kind::POD, Some(&old), &mut recorded, "m", "", &[], at(1));
    let applied = patch::apply(&kind::POD, Some(&recorded), &patch, "n", true, "", at(2)).unwrap();
    assert_eq!(applied["spec"]["containers"][0]["env"].as_array().unwrap().len(), 12_000);
}
