//! What parses strangers' bytes, as functions of bytes. Each may refuse its input; none may panic,
//! and what is taken apart and put together again must mean the same. `cargo xtask fuzz` runs each
//! under libFuzzer; a test runs them over damaged seeds.

use std::sync::LazyLock;

use apiserver::codec::{self, Format};
use apiserver::{kinds, patch, schema};
use axum::Router;
use axum::body::Body;
use clap::Parser;
use client::{Clock, Rng};
use http::Request;
use proto::kind::{DEPLOYMENT, POD, ROWS, SERVICE};
use proto::quantity::Quantity;
use proto::selector::{FieldSelector, Selector};
use proto::time::Time;
use proto::user::User;
use serde_json::{Value, json};
use tower::ServiceExt;

/// A name, the function, and inputs to begin with.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub seeds: &'static [&'static [u8]],
}

pub const TARGETS: &[Target] = &[
    Target { name: "json", run: json_object, seeds: &[POD_JSON, br#"{"a":[1,2.5e3,"\u00e9",null]}"#] },
    Target { name: "yaml", run: yaml_object, seeds: &[MANIFEST, b"a: &x [1, 2]\nb: *x\n--- \nc: |\n  t\n"] },
    Target { name: "protobuf", run: protobuf_object, seeds: &[b"k8s\0\n\x0f\n\x02v1\x12\x09ConfigMap\x12\x09\n\x07\n\x01a\x1a\0*\0"] },
    Target { name: "patch", run: patches, seeds: &[
        br#"{"spec":{"containers":[{"name":"c","image":"b"},{"$patch":"delete","name":"d"}]}}"#,
        br#"[{"op":"add","path":"/metadata/labels","value":{"a":"b"}},{"op":"test","path":"/kind","value":"Pod"}]"#,
    ] },
    Target { name: "selector", run: selectors, seeds: &[b"a=b,c!=d,e in (f,g),h notin (i),j,!k", b"metadata.name=x,spec.nodeName!=y"] },
    Target { name: "quantity", run: quantities, seeds: &[b"1.5Gi", b"-250m", b"1e3", b"0.000001"] },
    Target { name: "request", run: requests, seeds: &[
        b"/api/v1/namespaces/default/pods?limit=1&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiJhXHUwMDAwIn0",
        b"/apis/apps/v1/deployments?labelSelector=a%3Db&fieldSelector=metadata.name%3Dx&resourceVersion=0",
        b"/api/v1/namespaces/a%2fb/pods/..?watch=1&timeoutSeconds=0&sendInitialEvents=true",
    ] },
    Target { name: "time", run: times, seeds: &[b"2024-02-29T12:00:00Z", b"2024-02-29T12:00:00.123456+02:00"] },
];

const POD_JSON: &[u8] = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"a":"b"}},
"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}],"resources":{"limits":{"cpu":"1"}},
"env":[{"name":"A","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}]}],"volumes":[{"name":"v","emptyDir":{}}]}}"#;
const MANIFEST: &[u8] = include_bytes!("../../manifests/my-app.yaml");

/// What a write does with a body before the store, for some kinds.
fn accepted(format: Format, data: &[u8]) {
    let _ = codec::parse(format, data);
    for row in [&POD, &DEPLOYMENT, &SERVICE] {
        let Ok(decoded) = codec::decode(format, data, Some(row)) else { continue };
        let mut value = decoded.value;
        schema::default(row, &mut value);
        let strategy = kinds::strategy(row);
        strategy.default(&mut value);
        let before = value.clone();
        strategy.default(&mut value);
        assert_eq!(value, before, "defaults of defaults change nothing");
        strategy.validate(&value);
        strategy.warnings(&value, None);
        strategy.cells(&value, Time::from_unix(0));
        let text = value.to_string();
        let again = codec::decode(Format::Json, text.as_bytes(), Some(row));
        assert_eq!(again.expect("what was accepted is accepted").value, value);
    }
}

fn json_object(data: &[u8]) {
    accepted(Format::Json, data);
}

fn yaml_object(data: &[u8]) {
    accepted(Format::Yaml, data);
}

fn protobuf_object(data: &[u8]) {
    accepted(Format::Protobuf, data);
    for row in ROWS {
        let _ = codec::decode(Format::Protobuf, data, Some(row));
    }
}

fn patches(data: &[u8]) {
    let Ok(decoded) = codec::parse(Format::Json, data) else { return };
    let body = decoded.value;
    let old: Value = serde_json::from_slice(POD_JSON).expect("it is JSON");
    let _ = patch::json(&old, &body);
    let merged = patch::merge(&old, &body);
    assert_eq!(patch::merge(&merged, &body), merged, "a merge patch done twice is done once");
    let _ = patch::strategic(&POD, &old, &body);
    let now = Time::from_unix(0);
    if let Ok(new) = patch::apply(&POD, Some(&old), &body, "a", true, "", now) {
        let again = patch::apply(&POD, Some(&new), &body, "a", true, "", now);
        assert!(again.is_ok(), "what was applied can be applied again");
    }
}

fn selectors(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(selector) = Selector::parse(text) {
        let shown = selector.to_string();
        let again = Selector::parse(&shown).expect("what is shown can be read");
        assert_eq!(again.to_string(), shown);
        let labels = [("a".to_string(), "b".to_string())].into();
        assert_eq!(selector.matches(&labels), again.matches(&labels), "{text:?}");
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        selector.matches(|field| field.to_string());
    }
}

fn quantities(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(quantity) = text.parse::<Quantity>() {
        let shown = quantity.to_string();
        let again: Quantity = shown.parse().expect("what is shown can be read");
        assert_eq!(again, quantity, "{text:?} is shown as {shown}");
        assert_eq!(again.to_string(), shown, "the canonical form is canonical");
        let _ = (quantity.value(), quantity.milli());
    }
}

fn times(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(time) = text.parse::<Time>() {
        let again: Time = time.to_string().parse().expect("what is shown can be read");
        assert_eq!(again.to_string(), time.to_string());
    }
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: apiserver::Options,
}

/// A URL, to a whole server: whatever it is, the answer is no failure of ours.
fn requests(data: &[u8]) {
    static SERVER: LazyLock<(tokio::runtime::Runtime, Router)> = LazyLock::new(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let folder = tempfile::tempdir().expect("a temporary directory").keep();
        let path = folder.display().to_string();
        let line = ["", "--ephemeral", "--secure-port=0", "--data-dir", &path];
        let options = Flags::parse_from(line).options;
        let server = apiserver::Server::start(options, Clock::system(), Rng::seeded(1));
        let router = runtime.block_on(server).expect("a server").router();
        (runtime, router)
    });
    let Ok(uri) = http::Uri::try_from(data) else { return };
    let (runtime, router) = &*SERVER;
    for method in ["GET", "DELETE"] {
        // A watch goes on for ever; its head is enough.
        let request = Request::builder().method(method).uri(uri.clone());
        let request = request.extension(User::new("admin", &["system:masters"]));
        let body = Body::from(
            json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]}).to_string(),
        );
        let Ok(request) = request.body(body) else { return };
        let response = runtime.block_on(router.clone().oneshot(request)).expect("it never fails");
        let code = response.status().as_u16();
        assert!(code < 500 || matches!(code, 501 | 503 | 504), "{method} {uri}: {code}");
    }
}
