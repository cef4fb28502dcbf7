//! The protobuf that we write is upstream's, byte for byte, and reads back as the same object.

use std::path::{Path, PathBuf};

use apiserver::codec::{self, Format, protobuf::encode};
use proto::kind::ROWS;
use serde_json::{Value, json};

/// Facts of the specification, beside the repository where they are at all.
fn facts() -> Option<PathBuf> {
    let below = "shared/data/kubernetes-1.36";
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let found = above.map(|folder| folder.join(below)).find(|path| path.is_dir());
    if found.is_none() {
        eprintln!("SKIPPED: no {below} beside the repository to compare with");
    }
    found
}

/// The kinds that requests carry: those of the rows and the ones without.
fn kinds() -> Vec<[String; 3]> {
    let rows = ROWS.iter().map(|row| [&row.group, &row.version, &row.kind].map(|x| x.to_string()));
    let others = [
        ["autoscaling", "v1", "Scale"],
        ["", "v1", "Binding"],
        ["policy", "v1", "Eviction"],
        ["", "v1", "ComponentStatus"],
        ["", "v1", "DeleteOptions"],
        ["", "v1", "Status"],
        ["authentication.k8s.io", "v1", "SelfSubjectReview"],
        ["authentication.k8s.io", "v1", "TokenRequest"],
        ["authentication.k8s.io", "v1", "TokenReview"],
        ["authorization.k8s.io", "v1", "LocalSubjectAccessReview"],
        ["authorization.k8s.io", "v1", "SelfSubjectAccessReview"],
        ["authorization.k8s.io", "v1", "SelfSubjectRulesReview"],
        ["authorization.k8s.io", "v1", "SubjectAccessReview"],
    ];
    let mut kinds: Vec<_> = rows.chain(others.map(|kind| kind.map(String::from))).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

#[test]
fn golden_json_becomes_golden_protobuf_and_back() {
    let Some(facts) = facts() else { return };
    let mut wrong = Vec::new();
    let mut compared = 0;
    for [group, version, kind] in kinds() {
        let folder = if group.is_empty() { "core" } else { &group };
        let read = |ending: &str| {
            std::fs::read(facts.join(format!("golden/{folder}.{version}.{kind}.{ending}"))).unwrap()
        };
        let (json, theirs) = (read("json"), read("pb"));
        let object: Value = serde_json::from_slice(&json).unwrap();
        let Some(ours) = encode::object(&object) else {
            wrong.push(format!("{group}/{version} {kind}: no protobuf"));
            continue;
        };
        compared += 1;
        if ours != theirs {
            let at = ours.iter().zip(&theirs).position(|(a, b)| a != b);
            let at = at.unwrap_or(ours.len().min(theirs.len()));
            let show = |bytes: &[u8]| {
                let end = bytes.len().min(at + 40);
                String::from_utf8_lossy(&bytes[at.saturating_sub(40)..end]).into_owned()
            };
            wrong.push(format!("{kind} at {at}: {:?} for {:?}", show(&ours), show(&theirs)));
        }
        let back = codec::decode_kind(Format::Protobuf, &ours, (&group, &version, &kind)).unwrap();
        let again = encode::object(&back.value).unwrap();
        if again != ours {
            wrong.push(format!("{kind} does not survive"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > ROWS.len());
}

#[test]
fn what_has_no_protobuf_form_has_none() {
    for (api_version, kind) in [("meta.k8s.io/v1", "Table"), ("example.com/v1", "Widget")] {
        assert!(encode::object(&json!({"apiVersion": api_version, "kind": kind})).is_none());
    }
}
