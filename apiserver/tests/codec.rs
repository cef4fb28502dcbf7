//! Bodies of all three formats against Kubernetes' own serialisations of the same objects, and
//! hostile bytes.

use std::path::{Path, PathBuf};

use apiserver::codec::{self, Format};
use apiserver::schema;
use proptest::prelude::*;
use proto::kind::{self, ROWS, Row};
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

fn golden(facts: &Path, group: &str, version: &str, kind: &str, ending: &str) -> Vec<u8> {
    let group = if group.is_empty() { "core" } else { group };
    let file = facts.join(format!("golden/{group}.{version}.{kind}.{ending}"));
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The kinds that requests carry: those of the rows and the ones without.
fn kinds() -> Vec<(String, String, String)> {
    let of = |row: &&Row| (row.group.to_string(), row.version.to_string(), row.kind.to_string());
    let mut kinds: Vec<_> = ROWS.iter().map(of).collect();
    for (group, kind) in [("autoscaling", "Scale"), ("", "Binding"), ("policy", "Eviction")] {
        kinds.push((group.into(), "v1".into(), kind.into()));
    }
    kinds
}

#[test]
fn golden_objects_read_the_same_in_every_format() {
    let Some(facts) = facts() else { return };
    for (group, version, kind) in kinds() {
        let expected: Value =
            serde_json::from_slice(&golden(&facts, &group, &version, &kind, "json")).unwrap();
        for (format, ending) in
            [(Format::Json, "json"), (Format::Yaml, "yaml"), (Format::Protobuf, "pb")]
        {
            let body = golden(&facts, &group, &version, &kind, ending);
            let decoded = codec::decode_kind(format, &body, (&group, &version, &kind))
                .unwrap_or_else(|error| panic!("{group} {kind} {ending}: {error}"));
            assert_eq!(decoded.strict, Vec::<String>::new(), "{group} {kind} {ending}");
            assert_same(&decoded.value, &expected, &format!("{kind}.{ending}"));
        }
    }
}

/// Equal, saying where not.
fn assert_same(found: &Value, expected: &Value, path: &str) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            for (key, value) in expected {
                let path = format!("{path}.{key}");
                assert_same(found.get(key).unwrap_or(&Value::Null), value, &path);
            }
            for key in found.keys() {
                assert!(expected.contains_key(key), "{path}.{key} is too many");
            }
        }
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{path}");
            for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
                assert_same(found, expected, &format!("{path}[{index}]"));
            }
        }
        _ => assert_eq!(found, expected, "{path}"),
    }
}

#[test]
fn errors_in_the_words_of_kubernetes() {
    let deployment = &kind::DEPLOYMENT;
    for (body, message) in [
        (
            r#"{"spec":{"replicas":"3"}}"#,
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot \
             unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"spec":{"replicas":1.5}}"#,
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot \
             unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"spec":{"replicas":99999999999}}"#,
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot \
             unmarshal number 99999999999 into Go struct field DeploymentSpec.spec.replicas of \
             type int32",
        ),
        (
            r#"{"metadata":{"labels":{"a":1}}}"#,
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot \
             unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":"x"}}}}"#,
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot \
             unmarshal string into Go struct field PodSpec.spec.template.spec.containers of type \
             []v1.Container",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":[{"ports":[{"protocol":1}]}]}}}}"#,
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot \
             unmarshal number into Go struct field \
             ContainerPort.spec.template.spec.containers.ports.protocol of type v1.Protocol",
        ),
        (
            r#"{"apiVersion":"apps/v1beta1","kind":"Deployment"}"#,
            "the API version in the data (apps/v1beta1) does not match the expected API version \
             (apps/v1)",
        ),
        (
            r#"{"apiVersion":"v1","kind":"Pod"}"#,
            "Pod in version \"v1\" cannot be handled as a Deployment: converting (v1.Pod) to \
             (v1.Deployment): unknown conversion",
        ),
        (
            r#"{"spec" 1}"#,
            "the object provided is unrecognized (must be of type Deployment): couldn't get \
             version/kind; json parse error: invalid character '1' after object key ({\"spec\" 1})",
        ),
        (
            r#"{"#,
            "the object provided is unrecognized (must be of type Deployment): couldn't get \
             version/kind; json parse error: unexpected end of JSON input ({)",
        ),
    ] {
        let error = codec::decode(Format::Json, body.as_bytes(), Some(deployment)).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (400, message), "{body}");
    }
}

#[test]
fn unknown_and_duplicate_fields_are_noted_and_dropped() {
    let body = r#"{"spec":{"replicas":1,"replicas":2,"foo":1,
        "template":{"spec":{"containers":[{"name":"a","imagee":"b"}]}}},
        "metadata":{"labels":{"x":"1","x":"2"},"creationTimestamp":null,"finalizers":[]}}"#;
    let decoded = codec::decode(Format::Json, body.as_bytes(), Some(&kind::DEPLOYMENT)).unwrap();
    assert_eq!(
        decoded.strict,
        [
            "unknown field \"spec.foo\"",
            "unknown field \"spec.template.spec.containers[0].imagee\"",
            "duplicate field \"spec.replicas\"",
            "duplicate field \"metadata.labels.x\"",
        ]
    );
    assert_eq!(
        decoded.value,
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"labels": {"x": "2"}},
            "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "a"}]}}},
        })
    );
    assert_eq!(
        codec::strict_error("Deployment", "v1", &decoded.strict[..1]).message,
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: \
         unknown field \"spec.foo\""
    );
}

#[test]
fn delete_options_of_any_version() {
    for api_version in ["v1", "apps/v1", "meta.k8s.io/v1", ""] {
        let body = json!({"apiVersion": api_version, "kind": "DeleteOptions",
            "propagationPolicy": "Orphan", "gracePeriodSeconds": 0});
        let options = ("", "v1", "DeleteOptions");
        let decoded =
            codec::decode_kind(Format::Json, body.to_string().as_bytes(), options).unwrap();
        assert_eq!(decoded.value["gracePeriodSeconds"], 0);
    }
}

#[test]
fn zero_values_of_go_are_dropped_and_pointers_kept() {
    // ReplicaSet {metadata {name "a", generation 0}, spec {replicas 0, minReadySeconds 0}}.
    let meta = [&[0x0a, 1, b'a', 0x12, 0][..], &[0x38, 0]].concat();
    let spec = [0x08, 0, 0x20, 0];
    let object = [&[0x0a, meta.len() as u8][..], &meta, &[0x12, spec.len() as u8], &spec].concat();
    let types = [&[0x0a, 7][..], b"apps/v1", &[0x12, 10], b"ReplicaSet"].concat();
    let body = [
        b"k8s\0",
        &[0x0a, types.len() as u8][..],
        &types,
        &[0x12, object.len() as u8],
        &object,
        &[0x1a, 0, 0x22, 0],
    ]
    .concat();
    let decoded = codec::decode(Format::Protobuf, &body, Some(&kind::REPLICA_SET)).unwrap();
    assert_eq!(decoded.value["spec"], json!({"replicas": 0}));
    assert_eq!(decoded.value["metadata"], json!({"name": "a"}));
}

#[test]
fn deep_nesting_is_an_error() {
    for text in ["[", "{\"a\":"] {
        let body = text.repeat(200_000);
        let error = codec::decode(Format::Json, body.as_bytes(), Some(&kind::POD)).unwrap_err();
        assert!(error.message.contains("exceeded max depth"), "{}", &error.message[..200]);
    }
}

#[test]
fn checked_objects_stay_as_they_are() {
    let Some(facts) = facts() else { return };
    for (group, version, kind) in kinds() {
        let body = golden(&facts, &group, &version, &kind, "json");
        let mut object: Value = serde_json::from_slice(&body).unwrap();
        let ty = schema::kind(&group, &version, &kind).unwrap();
        schema::check_type(&ty, &mut object).unwrap();
        schema::default_type(&ty, &mut object);
        let once = object.clone();
        schema::check_type(&ty, &mut object).unwrap();
        schema::default_type(&ty, &mut object);
        assert_eq!(object, once, "{kind}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_protobuf_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let types = [&[0x0a, 9, 0x0a, 2][..], b"v1", &[0x12, 3], b"Pod"].concat();
        let mut whole = [b"k8s\0", &types[..], &[0x12, 0x80 | (body.len() & 0x7f) as u8, (body.len() >> 7) as u8]].concat();
        whole.extend_from_slice(&body);
        let _ = codec::decode(Format::Protobuf, &whole, Some(&kind::POD));
        let _ = codec::decode(Format::Protobuf, &body, Some(&kind::POD));
        let _ = codec::decode(Format::Json, &body, Some(&kind::POD));
        let _ = codec::decode(Format::Yaml, &body, Some(&kind::POD));
    }

    #[test]
    fn no_damage_to_a_real_body_makes_protobuf_panic(at in 0usize..20_000, byte in any::<u8>()) {
        if let Some(facts) = facts() {
            let mut body = golden(&facts, "", "v1", "Pod", "pb");
            let at = at % body.len();
            body[at] = byte;
            let _ = codec::decode(Format::Protobuf, &body, Some(&kind::POD));
            let _ = codec::decode(Format::Protobuf, &body[..at], Some(&kind::POD));
        }
    }
}
