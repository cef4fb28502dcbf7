//! Histories as tables, and revisions as kube-controller-manager wrote them.

use proto::view::stateful_set::StatefulSet;

use super::*;
use crate::plan::{Patch, Step};

fn template(image: &str) -> Value {
    json!({
        "metadata": {"annotations": {"test": "value"}, "labels": {"app": "foo"}},
        "spec": {
            "containers": [{"image": image, "imagePullPolicy": "Always", "name": "test",
                "resources": {}, "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File"}],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always",
            "schedulerName": "default-scheduler", "securityContext": {},
            "terminationGracePeriodSeconds": 30,
        },
    })
}

fn owner(image: &str) -> Entry<StatefulSet> {
    let object = json!({
        "metadata": {"name": "test", "namespace": "a", "uid": "u", "annotations": {"why": "so"}},
        "spec": {"selector": {"matchLabels": {"app": "foo"}}, "template": template(image)},
    });
    Entry::decode(object.to_string().into()).unwrap()
}

fn stored(name: &str, number: i64, mut template: Value, owner: Option<&str>) -> Value {
    template["$patch"] = "replace".into();
    let owners: Vec<Value> = owner
        .into_iter()
        .map(|uid| json!({"kind": "StatefulSet", "uid": uid, "controller": true}))
        .collect();
    json!({
        "metadata": {"name": name, "namespace": "a", "uid": name, "resourceVersion": "7",
            "labels": {"app": "foo"}, "ownerReferences": owners},
        "data": {"spec": {"template": template}},
        "revision": number,
    })
}

/// The present revision's name, the collisions and the steps: `+name=number` created, `name=number`
/// made the newest, `-name` deleted, `adopt name`.
fn histories(image: &str, stored: &[Value], limit: i32) -> (String, i32, Vec<String>) {
    let owner = owner(image);
    let selector = owner.spec.selector.selector().unwrap();
    let view = View::default().with::<ControllerRevision>(stored);
    let mut plan = Plan::default();
    let template = template(image);
    let history =
        history(&owner, &template, &selector, Some(0), REVISION_HASH, &view, &mut plan).unwrap();
    history.truncate(Some(limit), |_| false, |_| true, &mut plan);
    let one = |step: &Step| match step {
        Step::Create(create) => {
            let object = &create.object;
            assert_eq!(object["metadata"]["annotations"]["why"], "so");
            assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "u");
            assert_eq!(object["data"]["spec"]["template"]["$patch"], "replace");
            format!("+{}={}", object["metadata"]["name"].as_str().unwrap(), object["revision"])
        }
        Step::Patch(Patch { target, body, .. }) => {
            assert_eq!(body["metadata"]["resourceVersion"], "7");
            format!("{}={}", target.name, body["revision"])
        }
        Step::Delete(delete) => format!("-{}", delete.target.name),
        Step::Adopt { patch, .. } => format!("adopt {}", patch.target.name),
        other => format!("{other:?}"),
    };
    let steps = plan.steps.iter().map(one).collect();
    (history.update().name.clone(), history.collisions, steps)
}

/// The names of the StatefulSet `test` in kube-controller-manager 1.34 and 1.33, which wrote the
/// null that a template's creation time is.
#[test]
fn names_are_those_of_kubernetes() {
    let new = template("test");
    let mut old = new.clone();
    old["metadata"]["creationTimestamp"] = Value::Null;
    for (template, expected) in [(new, "776999688b"), (old, "c77f6d978")] {
        assert_eq!(hash(&data(&template), 0), expected);
    }
    let (name, _, steps) = histories("test", &[], 10);
    assert_eq!(
        (name.as_str(), &steps[..]),
        ("test-776999688b", &["+test-776999688b=1".into()][..])
    );
}

#[test]
fn data_is_written_as_go_writes_it() {
    let template = json!({"spec": {"a": "<b> & c\u{2028}\n"}, "metadata": {}});
    assert_eq!(
        data(&template),
        r#"{"spec":{"template":{"$patch":"replace","metadata":{},"spec":{"a":"\u003cb\u003e \u0026 c\u2028\n"}}}}"#
    );
}

#[test]
fn plans() {
    let ours = |name, number, image| stored(name, number, template(image), Some("u"));
    let mut null = template("two");
    null["metadata"]["creationTimestamp"] = Value::Null;
    for (case, image, before, limit, name, steps) in [
        ("unchanged", "two", vec![ours("a", 1, "one"), ours("b", 2, "two")], 9, "b", vec![]),
        (
            "written by an older version",
            "two",
            vec![ours("a", 1, "one"), stored("b", 2, null, Some("u"))],
            9,
            "b",
            vec![],
        ),
        (
            "as it was before",
            "one",
            vec![ours("a", 1, "one"), ours("b", 2, "two")],
            9,
            "a",
            vec!["a=3"],
        ),
        (
            "someone's orphan",
            "two",
            vec![stored("b", 2, template("two"), None)],
            9,
            "b",
            vec!["adopt b"],
        ),
        (
            "too many",
            "four",
            vec![
                ours("a", 3, "one"),
                ours("b", 1, "two"),
                ours("c", 2, "three"),
                ours("d", 4, "four"),
            ],
            1,
            "d",
            vec!["-b", "-c"],
        ),
    ] {
        let expected: Vec<String> = steps.into_iter().map(String::from).collect();
        assert_eq!(histories(image, &before, limit), (name.into(), 0, expected), "{case}");
    }
}

#[test]
fn names_that_others_took_are_left_to_them() {
    let taken = |image| stored("test-776999688b", 1, template(image), Some("other"));
    let (name, collisions, steps) = histories("test", &[taken("another")], 10);
    assert_eq!(collisions, 1);
    assert_eq!((name.as_str(), steps), ("test-776999688c", vec!["+test-776999688c=1".into()]));
    // The same template under that name is as good as one's own.
    let (name, collisions, steps) = histories("test", &[taken("test")], 10);
    assert_eq!((name.as_str(), collisions, steps), ("test-776999688b", 0, vec![]));
}
