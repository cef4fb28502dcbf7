//! The schema table against the facts of the specification, its check and its defaults.

use std::collections::BTreeSet;
use std::path::Path;

use apiserver::schema::{self, Merging, Shape, Slot, Type, TypeRef};
use proto::kind::{self, ROWS};
use serde_json::{Value, json};

/// A fact of the specification, beside the repository where it is at all.
fn facts(file: &str) -> Option<Value> {
    let below = format!("shared/data/kubernetes-1.36/{file}");
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let Some(path) = above.map(|folder| folder.join(&below)).find(|path| path.exists()) else {
        eprintln!("SKIPPED: no {below} beside the repository to compare with");
        return None;
    };
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

/// Every type that a request can reach.
fn types() -> Vec<TypeRef> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut left: Vec<TypeRef> = ROWS.iter().map(|row| schema::of(row).unwrap()).collect();
    for (group, kind) in [
        ("autoscaling", "Scale"),
        ("", "Binding"),
        ("policy", "Eviction"),
        ("", "Status"),
        ("", "DeleteOptions"),
    ] {
        left.push(schema::kind(group, "v1", kind).unwrap());
    }
    while let Some(ty) = left.pop() {
        if seen.insert(ty.name.clone()) {
            left.extend(ty.fields.iter().filter_map(|field| field.element().cloned()));
            found.push(ty);
        }
    }
    found
}

#[test]
fn every_row_has_a_schema() {
    assert!(types().len() > 150);
    for row in ROWS {
        let ty = schema::of(row).unwrap_or_else(|| panic!("{} has no schema", row.kind));
        assert!(ty.field("metadata").is_some(), "{}", row.kind);
    }
}

#[test]
fn lists_merge_as_the_specification_says() {
    let Some(facts) = facts("merge-keys.json") else { return };
    let text = |fact: &Value, name: &str| fact[name].as_str().unwrap_or("").to_string();
    let mut expected = BTreeSet::new();
    let served: BTreeSet<String> = types().iter().map(|ty| ty.name.to_string()).collect();
    for fact in facts["fields"].as_array().unwrap() {
        let keys = fact["listMapKeys"].as_array();
        let keys: Vec<&str> = keys.into_iter().flatten().filter_map(Value::as_str).collect();
        if served.contains(fact["type"].as_str().unwrap()) {
            expected.insert((
                format!("{}.{}", text(fact, "type"), text(fact, "field")),
                text(fact, "listType") + &text(fact, "mapType"),
                keys.join(","),
                text(fact, "patchStrategy"),
                text(fact, "patchMergeKey"),
            ));
        }
    }
    let mut found = BTreeSet::new();
    for ty in types() {
        for field in &ty.fields {
            let (merging, keys) = match &field.merging {
                Merging::Default => ("", String::new()),
                Merging::Atomic => ("atomic", String::new()),
                Merging::Granular => ("granular", String::new()),
                Merging::Set => ("set", String::new()),
                Merging::Map(keys) => ("map", keys.join(",")),
            };
            let strategy = &field.strategy;
            let words = [
                (strategy.merge, "merge"),
                (strategy.retain_keys, "retainKeys"),
                (strategy.replace, "replace"),
            ];
            let words: Vec<&str> =
                words.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect();
            if !merging.is_empty() || !words.is_empty() {
                let key = strategy.key.to_string();
                let name = format!("{}.{}", ty.name, field.name);
                found.insert((name, merging.to_string(), keys, words.join(","), key));
            }
        }
    }
    assert_eq!(found, expected);
    let atomic: BTreeSet<&str> =
        facts["atomicTypes"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for ty in types() {
        assert_eq!(ty.atomic, atomic.contains(&*ty.name), "{}", ty.name);
    }
}

#[test]
fn protobuf_numbers_are_those_of_the_specification() {
    let Some(facts) = facts("protobuf-fields.json") else { return };
    let messages = |name: &str| &facts[name.replacen("io.k8s", "k8s.io", 1)];
    for ty in types() {
        let message = messages(&ty.name);
        assert!(message.is_object(), "{} is unknown to the facts", ty.name);
        check_numbers(&ty, &ty.numbers, message, &facts);
    }
}

/// Compares a message's numbers with the facts, both ways.
fn check_numbers(ty: &Type, slots: &[(u32, Slot)], message: &Value, facts: &Value) {
    let fields = message.as_object().unwrap();
    assert_eq!(slots.len(), fields.len(), "{}: {fields:?}", ty.name);
    for (number, slot) in slots {
        let (name, fact) = fields
            .iter()
            .find(|(_, fact)| fact["number"] == *number)
            .unwrap_or_else(|| panic!("{} has no number {number}", ty.name));
        let told = fact["type"].as_str().unwrap();
        match slot {
            Slot::Inlined(slots) => {
                let package = ty.name.rsplit_once('.').unwrap().0.replacen("io.k8s", "k8s.io", 1);
                let full =
                    if told.contains('.') { told.into() } else { format!("{package}.{told}") };
                check_numbers(ty, slots, &facts[full], facts);
            }
            Slot::Field(index) => {
                let field = &ty.fields[*index];
                assert!(field.name.eq_ignore_ascii_case(name), "{}: {name}", ty.name);
                let repeated = fact["repeated"] == true;
                assert_eq!(matches!(field.shape, Shape::List(_)), repeated, "{}.{name}", ty.name);
                let scalar = match &field.shape {
                    Shape::List(of) => of,
                    shape => shape,
                };
                let last = told.rsplit('.').next().unwrap();
                let fits = match scalar {
                    Shape::String => told == "string",
                    Shape::Bool => told == "bool",
                    Shape::Int32 => told == "int32",
                    Shape::Int64 => told == "int64",
                    Shape::Double => told == "double",
                    Shape::Bytes => told == "bytes",
                    Shape::Time => last == "Time",
                    Shape::MicroTime => last == "MicroTime",
                    Shape::Duration => last == "Duration",
                    Shape::Quantity => last == "Quantity",
                    Shape::IntOrString => last == "IntOrString",
                    Shape::Raw => last == "RawExtension",
                    Shape::Fields => last == "FieldsV1",
                    Shape::Struct(of) => last == of.short(),
                    Shape::Map(_) => told.starts_with("map<string"),
                    Shape::List(_) => false,
                };
                assert!(fits, "{}.{name}: {told} is not {:?}", ty.name, field.shape);
            }
        }
    }
}

#[test]
fn what_is_read_is_written_as_go_writes_it() {
    let mut pod = json!({
        "metadata": {"creationTimestamp": null, "labels": {"a": null}, "annotations": {}},
        "spec": {
            "containers": [null, {
                "name": null,
                "args": ["a", null],
                "resources": {"limits": {"cpu": "1000m", "memory": 1024, "x": 0.5}},
                "livenessProbe": {"httpGet": {"port": "http"}},
            }],
            "activeDeadlineSeconds": null,
            "tolerations": [],
        },
        "status": {"startTime": "2024-01-02T03:04:05.678+02:00"},
    });
    assert_eq!(schema::check(&kind::POD, &mut pod), Ok(vec![]));
    assert_eq!(
        pod,
        json!({
            "metadata": {"labels": {"a": ""}},
            "spec": {"containers": [{}, {
                "args": ["a", ""],
                "resources": {"limits": {"cpu": "1", "memory": "1024", "x": "500m"}},
                "livenessProbe": {"httpGet": {"port": "http"}},
            }]},
            "status": {"startTime": "2024-01-02T01:04:05Z"},
        })
    );
}

#[test]
fn what_go_refuses_is_refused_in_its_words() {
    for (object, error) in [
        (json!([]), "json: cannot unmarshal array into Go value of type v1.Pod"),
        (
            json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1kk"}}}]}}),
            "unable to parse quantity's suffix",
        ),
        (
            json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "abc"}}}]}}),
            "quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            json!({"spec": {"containers": [{"livenessProbe": {"httpGet": {"port": {}}}}]}}),
            "json: cannot unmarshal object into Go value of type int32",
        ),
        (
            json!({"status": {"startTime": "yesterday"}}),
            "parsing time \"yesterday\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \
             \"yesterday\" as \"2006\"",
        ),
        (
            json!({"spec": {"hostNetwork": "yes"}}),
            "json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type \
             bool",
        ),
        (
            json!({"spec": {"volumes": [{"hostPath": 1}]}}),
            "json: cannot unmarshal number into Go struct field Volume.spec.volumes.hostPath of \
             type v1.HostPathVolumeSource",
        ),
        (
            json!({"metadata": {"uid": 1}}),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.uid of type \
             types.UID",
        ),
    ] {
        let found = schema::check(&kind::POD, &mut object.clone());
        assert_eq!(found, Err(error.to_string()), "{object}");
    }
    let mut secret = json!({"data": {"a": "!!"}});
    assert_eq!(
        schema::check(&kind::SECRET, &mut secret),
        Err("illegal base64 data at input byte 0".into())
    );
}

#[test]
fn unknown_fields_are_all_named() {
    let mut pod = json!({"foo": 1, "spec": {"bar": 1, "volumes": [{"name": "a"}, {"baz": {}}],
        "nodeSelector": {"any": "key"}}});
    assert_eq!(
        schema::check(&kind::POD, &mut pod).unwrap(),
        [
            "unknown field \"foo\"",
            "unknown field \"spec.bar\"",
            "unknown field \"spec.volumes[1].baz\""
        ]
    );
}

#[test]
fn static_defaults() {
    let mut deployment = json!({
        "metadata": {"name": "a"},
        "spec": {"template": {"spec": {"containers": [{
            "name": "a",
            "ports": [{"containerPort": 80, "protocol": ""}],
            "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 0, "timeoutSeconds": 5},
        }], "volumes": [{"name": "v", "secret": {"secretName": "s"}}]}}},
    });
    schema::default(&kind::DEPLOYMENT, &mut deployment);
    assert_eq!(
        deployment,
        json!({
            "metadata": {"name": "a"},
            "spec": {
                "progressDeadlineSeconds": 600,
                "replicas": 1,
                "revisionHistoryLimit": 10,
                "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
                },
                "template": {
                    "metadata": {},
                    "spec": {
                        "containers": [{
                            "name": "a",
                            "ports": [{"containerPort": 80, "protocol": "TCP"}],
                            "livenessProbe": {
                                "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                                "periodSeconds": 10, "timeoutSeconds": 5, "successThreshold": 1,
                                "failureThreshold": 3,
                            },
                            "resources": {},
                            "terminationMessagePath": "/dev/termination-log",
                            "terminationMessagePolicy": "File",
                        }],
                        "dnsPolicy": "ClusterFirst",
                        "restartPolicy": "Always",
                        "schedulerName": "default-scheduler",
                        "securityContext": {},
                        "terminationGracePeriodSeconds": 30,
                        "volumes": [
                            {"name": "v", "secret": {"secretName": "s", "defaultMode": 420}}
                        ],
                    },
                },
            },
            "status": {},
        })
    );
    let mut zero = json!({"spec": {"replicas": 0, "strategy": {"type": "Recreate"}}});
    schema::default(&kind::DEPLOYMENT, &mut zero);
    assert_eq!(zero["spec"]["replicas"], 0);
    assert_eq!(zero["spec"]["strategy"], json!({"type": "Recreate"}));
    let mut pod = json!({"spec": {"containers": []}});
    schema::default(&kind::POD, &mut pod);
    assert_eq!(pod["spec"]["enableServiceLinks"], true);
    let mut service = json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP"}});
    schema::default(&kind::SERVICE, &mut service);
    assert_eq!(
        service["spec"],
        json!({
            "type": "LoadBalancer",
            "allocateLoadBalancerNodePorts": true,
            "externalTrafficPolicy": "Cluster",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
        })
    );
}
