//! What parses strangers' bytes, as functions of bytes. Each may refuse its input; none may panic,
//! and what is taken apart and put together again must mean the same. `cargo xtask fuzz` runs each
//! under libFuzzer; a test runs them over damaged seeds.

use std::sync::LazyLock;
use std::time::Duration;

use agent::runtime::streaming::spdy::frames::{Frame, Reader, Writer};
use apiserver::codec::{self, Format};
use apiserver::{kinds, patch, schema};
use axum::Router;
use axum::body::Body;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use clap::Parser;
use client::{Clock, Rng};
use futures::executor::block_on;
use http::{HeaderName, HeaderValue, Request};
use proto::exposition;
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
    Target { name: "apply", run: applies, seeds: &[
        br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":"1000m"}}}]}}
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"a":"c"}},"spec":{"containers":[{"name":"d","image":"i","ports":[{"containerPort":80},{"containerPort":80,"protocol":"UDP"}]}]}}
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"tolerations":[{"key":"k","operator":"Exists"}]}}"#,
        br#"{"metadata":{"name":"p","managedFields":[{"manager":"a","operation":"Apply","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{}}},"f:x":{"v:1":{},"i:0":{}}}}}]},"spec":{"containers":[{"name":"c","image":"i"}]}}
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"}}"#,
    ] },
    Target { name: "selector", run: selectors, seeds: &[b"a=b,c!=d,e in (f,g),h notin (i),j,!k", b"metadata.name=x,spec.nodeName!=y"] },
    Target { name: "quantity", run: quantities, seeds: &[b"1.5Gi", b"-250m", b"1e3", b"0.000001"] },
    Target { name: "request", run: requests, seeds: &[
        b"/api/v1/namespaces/default/pods?limit=1&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiJhXHUwMDAwIn0",
        b"/apis/apps/v1/deployments?labelSelector=a%3Db&fieldSelector=metadata.name%3Dx&resourceVersion=0",
        b"/api/v1/namespaces/a%2fb/pods/..?watch=1&timeoutSeconds=0&sendInitialEvents=true",
        b"/api/v1/nodes?limit=5\naccept: application/json;as=Table;v=v1;g=meta.k8s.io, application/yaml;q=0.5, */*\nimpersonate-user: u",
    ] },
    Target { name: "continue", run: continue_tokens, seeds: &[
        br#"{"v":"meta.k8s.io/v1","rv":1,"after":"kube-system"}"#,
        br#"{"v":"meta.k8s.io/v1","rv":0,"after":"../x/\u0000"}"#,
    ] },
    Target { name: "spdy", run: spdy_frames, seeds: &[
        b"\x80\x03\0\x01\0\0\x001\0\0\0\x01\0\0\0\0\0\0x \xe3\xc6\xa7\xc2\0\x1c\0\xe3\xff\0\0\0\x01\0\0\0\x0astreamtype\0\0\0\x06stdout\0\0\0\x01\x01\0\0\x05hello",
        b"\x80\x03\0\x01\0\0\0*\0\0\0\x03\0\0\0\0\0\0x\xbb\xe3\xc6\xa7\xc2\x02\xa6#Fp:+)JM\xcc\x85\x16%\xc0\x14\x9b\x92_Z\x02\0\0\0\xff\xff\x80\x03\0\x03\0\0\0\x08\0\0\0\x03\0\0\0\x05\x80\x03\0\x06\0\0\0\x04\0\0\0\x01\x80\x03\0\x07\0\0\0\x08\0\0\0\0\0\0\0\0",
    ] },
    Target { name: "metrics", run: metrics, seeds: &[
        b"# TYPE a counter\na{b=\"c\\\"\\n\",d=\"\"} 1.5e3 1700000000000\na +Inf\n",
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

/// Objects that two managers apply in turn, over a first one that says itself whose fields are
/// whose.
fn applies(data: &[u8]) {
    let now = Time::from_unix(0);
    let objects = serde_json::Deserializer::from_slice(data).into_iter::<Value>();
    let mut live: Option<Value> = None;
    for (turn, object) in objects.map_while(Result::ok).take(6).enumerate() {
        if turn == 0 && object.pointer("/metadata/managedFields").is_some() {
            let mut stored = object.clone();
            patch::managed_fields::record(&POD, None, &mut stored, "c", "", &[], now);
            live = Some(stored);
            continue;
        }
        let manager = ["a", "b"][turn % 2];
        let new = patch::apply(&POD, live.as_ref(), &object, manager, turn % 3 == 2, "", now);
        let Ok(new) = new else { continue };
        let again = patch::apply(&POD, Some(&new), &object, manager, false, "", now);
        assert_eq!(again.expect("what was applied can be applied again"), new);
        live = Some(new);
    }
}

/// What a client sends on a SPDY connection; what it said, said again by our writer, is the same.
fn spdy_frames(data: &[u8]) {
    // As bounded in the reader: headers that unpack to more end the connection.
    const MOST: usize = 64 << 10;
    let mut reader = Reader::new(data);
    let mut writer = Writer::new();
    let (mut said, mut again) = (Vec::new(), Vec::new());
    while let Some(frame) = block_on(reader.next()) {
        match &frame {
            Frame::Open { stream, headers } => {
                let headers: Vec<(&str, &str)> =
                    headers.iter().map(|(name, value)| (&**name, &**value)).collect();
                let size: usize =
                    headers.iter().map(|(name, value)| name.len() + value.len()).sum();
                // A byte that is no text becomes three.
                assert!(size <= 3 * MOST, "{size} bytes of headers");
                // Such headers may be too long to be said again.
                if size + 8 * headers.len() + 4 <= MOST {
                    again.extend(writer.open(*stream, &headers));
                    said.push(frame);
                }
            }
            // The first bit tells data from control.
            Frame::Data { stream, bytes, end } => {
                again.extend(writer.data(*stream, bytes, *end));
                said.push(frame);
            }
            Frame::Ping(id) => {
                again.extend(writer.ping(*id));
                said.push(frame);
            }
            Frame::Reset(_) | Frame::GoAway | Frame::Other => {}
        }
    }
    let mut reader = Reader::new(&again[..]);
    for frame in said {
        assert_eq!(block_on(reader.next()), Some(frame));
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

fn metrics(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(parsed) = exposition::parse(text) else { return };
    for sample in parsed.samples.iter().filter(|sample| sample.value.is_finite()) {
        let labels: Vec<(&str, &str)> =
            sample.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut text = exposition::Text::default();
        text.gauge("again", "[ALPHA] The same again").sample(&labels, sample.value);
        let again = exposition::parse(&text.finish()).expect("what was read is written");
        assert_eq!(
            (&again.samples[0].labels, again.samples[0].value),
            (&sample.labels, sample.value)
        );
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

/// A URL, and a line per header, to a whole server.
fn requests(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let uri = lines.next().unwrap_or_default();
    let headers = lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
    });
    let Ok(uri) = http::Uri::try_from(uri) else { return };
    let headers: http::HeaderMap = headers.collect();
    for method in ["GET", "DELETE"] {
        ask(method, &uri, &headers);
    }
}

/// What a continue token holds, in front of objects of both scopes.
fn continue_tokens(data: &[u8]) {
    let token = BASE64_URL_SAFE_NO_PAD.encode(data);
    for path in ["/api/v1/namespaces", "/apis/rbac.authorization.k8s.io/v1/roles"] {
        let uri = format!("{path}?limit=1&continue={token}");
        let Ok(uri) = http::Uri::try_from(uri) else { return };
        ask("GET", &uri, &http::HeaderMap::new());
    }
}

/// Whatever is asked, the answer is no failure of ours.
fn ask(method: &str, uri: &http::Uri, headers: &http::HeaderMap) {
    /// For what waits for a revision that never comes.
    const PATIENCE: Duration = Duration::from_millis(200);
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
    let (runtime, router) = &*SERVER;
    let request = Request::builder().method(method).uri(uri.clone());
    let mut request = request.extension(User::new("admin", &["system:masters"]));
    request.headers_mut().expect("so far it is well").extend(headers.clone());
    let body = match method {
        "DELETE" => json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]}),
        _ => Value::Null,
    };
    let Ok(request) = request.body(Body::from(body.to_string())) else { return };
    // A watch goes on for ever; its head is enough.
    let answered = router.clone().oneshot(request);
    let answered = runtime.block_on(async { Clock::system().timeout(PATIENCE, answered).await });
    let Ok(response) = answered else { return };
    let code = response.expect("it never fails").status().as_u16();
    assert!(code < 500 || matches!(code, 501 | 503 | 504), "{method} {uri} {headers:?}: {code}");
}
