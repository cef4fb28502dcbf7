//! What holds for every patch: nothing panics on any JSON, applying is idempotent, and an applier
//! gets exactly what it applied.

use apiserver::patch::{self, managed_fields};
use apiserver::schema;
use proptest::prelude::*;
use proto::kind::{CONFIG_MAP, DEPLOYMENT, POD};
use proto::time::Time;
use serde_json::{Map, Value, json};

/// Any JSON, with names that mean something to patches and to Pods.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(Value::from),
        "[a-c]{0,3}".prop_map(Value::from),
        Just(Value::from("delete")),
        Just(Value::from("replace")),
    ];
    let name = proptest::sample::select(vec![
        "metadata",
        "spec",
        "status",
        "name",
        "containers",
        "env",
        "ports",
        "containerPort",
        "protocol",
        "labels",
        "finalizers",
        "volumes",
        "emptyDir",
        "resources",
        "limits",
        "cpu",
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$setElementOrder/finalizers",
        "$deleteFromPrimitiveList/finalizers",
        "managedFields",
        "fieldsV1",
        "f:spec",
        "manager",
        "operation",
        "conditions",
        "type",
        "x",
    ]);
    leaf.prop_recursive(6, 48, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((name.clone(), inner), 0..5).prop_map(|pairs| {
                pairs.into_iter().map(|(name, value)| (name.to_string(), value)).collect::<Value>()
            }),
        ]
    })
}

/// A Deployment that somebody applies: some labels, containers in any order, with some fields.
fn applied() -> impl Strategy<Value = Value> {
    let env = proptest::collection::btree_map("[A-C]", "[0-1]", 0..3).prop_map(|env| {
        env.into_iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect::<Value>()
    });
    let container = ("[a-d]", proptest::option::of("[x-z]"), proptest::option::of(env)).prop_map(
        |(name, image, env)| {
            let mut container = json!({"name": name});
            image.into_iter().for_each(|image| container["image"] = image.into());
            env.into_iter().for_each(|env| container["env"] = env);
            container
        },
    );
    let containers = proptest::collection::vec(container, 1..4).prop_map(|mut containers| {
        let mut seen = Vec::new();
        containers.retain(|container| {
            let new = !seen.contains(&container["name"]);
            seen.push(container["name"].clone());
            new
        });
        containers
    });
    let labels = proptest::collection::btree_map("[k-m]", "[0-1]", 0..3);
    (containers, labels, proptest::option::of(0i64..3)).prop_map(
        |(containers, labels, replicas)| {
            let mut object = json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": "web", "namespace": "n", "labels": labels},
                "spec": {"template": {"spec": {"containers": containers}}},
            });
            replicas
                .into_iter()
                .for_each(|replicas: i64| object["spec"]["replicas"] = replicas.into());
            object
        },
    )
}

fn apply(live: Option<&Value>, applied: &Value, manager: &str, time: i64) -> Value {
    let mut new =
        patch::apply(&DEPLOYMENT, live, applied, manager, true, "", Time::from_unix(time)).unwrap();
    schema::check(&DEPLOYMENT, &mut new).unwrap();
    schema::default(&DEPLOYMENT, &mut new);
    new
}

fn owned(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries
        .filter(|entry| entry["manager"] == manager)
        .map(|entry| entry["fieldsV1"].clone())
        .next()
        .unwrap_or_default()
}

/// Everything applied is in the object; lists of containers and env by name.
fn holds(object: &Value, applied: &Value) -> bool {
    match (object, applied) {
        (Value::Object(object), Value::Object(applied)) => applied.iter().all(|(name, value)| {
            let empty = value.as_object().is_some_and(Map::is_empty)
                || value.as_array().is_some_and(Vec::is_empty);
            empty || object.get(name).is_some_and(|own| holds(own, value))
        }),
        (Value::Array(object), Value::Array(applied)) => applied
            .iter()
            .all(|item| object.iter().any(|own| own["name"] == item["name"] && holds(own, item))),
        (object, applied) => object == applied,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_on_any_json(old in anything(), new in anything(), patched in anything()) {
        for row in [&POD, &CONFIG_MAP] {
            let now = Time::from_unix(1);
            let _ = patch::json(&old, &patched);
            let _ = patch::merge(&old, &patched);
            let _ = patch::strategic(row, &old, &patched);
            for force in [true, false] {
                let _ = patch::apply(row, Some(&old), &patched, "m", force, "", now);
                let _ = patch::apply(row, None, &patched, "m", force, "status", now);
            }
            let mut object = new.clone();
            managed_fields::record(row, Some(&old), &mut object, "m", "", &[], now);
            let _ = schema::check(row, &mut object);
            schema::default(row, &mut object);
        }
    }

    #[test]
    fn an_applier_gets_what_it_applies(first in applied(), second in applied(), third in applied()) {
        let mut live = apply(None, &first, "one", 1);
        prop_assert!(holds(&live, &first), "{live}");
        for (config, manager, time) in [(&second, "two", 2), (&third, "one", 3)] {
            let new = apply(Some(&live), config, manager, time);
            prop_assert!(holds(&new, config), "{live}\n{config}\n{new}");
            // Applying again changes nothing.
            prop_assert_eq!(&apply(Some(&new), config, manager, 9), &new);
            // Alone, it would own the same.
            prop_assert_eq!(owned(&new, manager), owned(&apply(None, config, manager, 1), manager));
            live = new;
        }
        // What only the first one had and does not apply any more is gone.
        let replicas = |object: &Value| object["spec"]["replicas"].as_i64();
        if replicas(&third).is_none() && replicas(&second).is_none() {
            prop_assert_eq!(replicas(&live), Some(1), "the default");
        }
    }

    #[test]
    fn a_write_without_a_change_records_nothing(object in applied()) {
        let live = apply(None, &object, "one", 1);
        let mut same = live.clone();
        managed_fields::record(&DEPLOYMENT, Some(&live), &mut same, "two", "", &[], Time::from_unix(2));
        prop_assert_eq!(same, live);
    }
}
