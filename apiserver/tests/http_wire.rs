//! What only the wire shows: protobuf, compression, indentation, WebSockets, OpenAPI v2.

#[path = "http/api.rs"]
mod api;
#[path = "http/served.rs"]
mod served;

use std::io::Read;

use api::{Api, CONFIG_MAPS, DEPLOYMENTS, PODS, Reply, config_map, deployment, pod};
use apiserver::codec::{self, Format};
use client::Clock;
use futures::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use proto::kind::{self, ROWS};
use serde_json::{Value, json};
use served::Served;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

const PROTOBUF: &str = "accept: application/vnd.kubernetes.protobuf";
const PREFERS: &str = "accept: application/vnd.kubernetes.protobuf,application/json";

fn decoded(reply: &Reply, group: &str, version: &str, kind: &str) -> Value {
    assert_eq!(reply.headers["content-type"], "application/vnd.kubernetes.protobuf");
    codec::decode_kind(Format::Protobuf, &reply.bytes, (group, version, kind)).unwrap().value
}

#[tokio::test]
async fn protobuf_says_the_same_as_json() {
    let api = Api::start().await;
    api.post(DEPLOYMENTS, deployment("d")).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d");
    let as_json = api.get(&path).await.expect(200);
    for accept in [PROTOBUF, PREFERS] {
        let reply = api.send(&format!("GET {path}"), &[accept], "").await;
        assert_eq!(decoded(&reply, "apps", "v1", "Deployment"), as_json, "{accept}");
    }
    let json_first = "accept: application/json,application/vnd.kubernetes.protobuf";
    let reply = api.send(&format!("GET {path}"), &[json_first], "").await;
    assert_eq!(reply.headers["content-type"], "application/json");

    let headers = [PREFERS, "content-type: application/json"];
    let created =
        api.send(&format!("POST {CONFIG_MAPS}"), &headers, config_map("c").to_string()).await;
    assert_eq!(created.code, 201);
    assert_eq!(decoded(&created, "", "v1", "ConfigMap")["metadata"]["name"], "c");
    let missing = api.send(&format!("GET {CONFIG_MAPS}/none"), &[PREFERS], "").await;
    assert_eq!(missing.code, 404);
    let status = decoded(&missing, "", "v1", "Status");
    assert_eq!(status["message"], "configmaps \"none\" not found");
    assert_eq!((&status["code"], &status["details"]["kind"]), (&json!(404), &json!("configmaps")));
    let scale = api.send(&format!("GET {path}/scale"), &[PREFERS], "").await;
    assert_eq!(decoded(&scale, "autoscaling", "v1", "Scale")["spec"]["replicas"], 2);
}

/// The parts of a message that are messages or texts, by number.
fn parts(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        match tag & 7 {
            0 => drop(varint(&mut bytes)),
            2 => {
                let length = varint(&mut bytes) as usize;
                parts.push((tag >> 3, &bytes[..length]));
                bytes = &bytes[length..];
            }
            other => panic!("wire type {other}"),
        }
    }
    parts
}

fn all(bytes: &[u8], number: u64) -> Vec<&[u8]> {
    parts(bytes).into_iter().filter(|(n, _)| *n == number).map(|(_, part)| part).collect()
}

fn at<'a>(bytes: &'a [u8], path: &[u64]) -> &'a [u8] {
    path.iter().fold(bytes, |bytes, number| {
        all(bytes, *number).first().copied().unwrap_or_else(|| panic!("{path:?}"))
    })
}

#[tokio::test]
async fn lists_and_metadata_as_protobuf() {
    let api = Api::start().await;
    for name in ["a", "b", "c"] {
        api.post(CONFIG_MAPS, config_map(name)).await.expect(201);
    }
    let list = api.send(&format!("GET {CONFIG_MAPS}?limit=2"), &[PROTOBUF], "").await;
    let body = list.bytes.strip_prefix(b"k8s\0").unwrap();
    assert_eq!(at(body, &[1, 1]), b"v1");
    assert_eq!(at(body, &[1, 2]), b"ConfigMapList");
    let raw = at(body, &[2]);
    let revision = std::str::from_utf8(at(raw, &[1, 2])).unwrap();
    assert!(revision.parse::<u64>().unwrap() > 0);
    assert!(!at(raw, &[1, 3]).is_empty(), "a continue token");
    let names: Vec<_> = all(raw, 2).into_iter().map(|item| at(item, &[1, 1])).collect();
    assert_eq!(names, [b"a", b"b"]);

    let partial = "accept: application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;\
                   g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;\
                   g=meta.k8s.io;v=v1,application/json";
    let list = api.send(&format!("GET {CONFIG_MAPS}"), &[partial], "").await;
    let body = list.bytes.strip_prefix(b"k8s\0").unwrap();
    assert_eq!(at(body, &[1, 1]), b"meta.k8s.io/v1");
    assert_eq!(at(body, &[1, 2]), b"PartialObjectMetadataList");
    let items = all(at(body, &[2]), 2);
    assert_eq!(at(items[2], &[1, 1]), b"c");
    assert_eq!(parts(items[2]).len(), 1, "metadata only");
    let one = partial.replace("List", "");
    let one = api.send(&format!("GET {CONFIG_MAPS}/a"), &[&one], "").await;
    let body = one.bytes.strip_prefix(b"k8s\0").unwrap();
    assert_eq!(at(body, &[1, 2]), b"PartialObjectMetadata");
    assert_eq!(at(body, &[2, 1, 1]), b"a");

    // A Table has no protobuf form: the next entry counts.
    let table = "accept: application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,\
                 application/json;as=Table;g=meta.k8s.io;v=v1";
    let table = api.send(&format!("GET {CONFIG_MAPS}"), &[table], "").await;
    assert_eq!(table.headers["content-type"], "application/json");
    assert_eq!(table.expect(200)["kind"], "Table");
}

#[tokio::test]
async fn watches_in_protobuf() {
    let api = Api::start().await;
    api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    let uri = format!(
        "{CONFIG_MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
         &allowWatchBookmarks=true"
    );
    let accept = "application/vnd.kubernetes.protobuf;stream=watch,application/json";
    let request = http::Request::get(uri).header("accept", accept).extension(api.user.clone());
    let response = api.respond(request.body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(
        response.headers()["content-type"],
        "application/vnd.kubernetes.protobuf;stream=watch"
    );
    let mut body = response.into_body();
    let mut rest = Vec::new();
    let mut next = async || {
        loop {
            if rest.len() >= 4 {
                let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
                if rest.len() >= 4 + length {
                    let frame: Vec<u8> = rest.drain(..4 + length).skip(4).collect();
                    let kind = String::from_utf8(at(&frame, &[1]).to_vec()).unwrap();
                    let object = codec::decode(
                        Format::Protobuf,
                        at(&frame, &[2, 1]),
                        Some(&kind::CONFIG_MAP),
                    );
                    return (kind, object.unwrap().value);
                }
            }
            let limit = std::time::Duration::from_secs(10);
            let frame = Clock::system().timeout(limit, body.frame()).await.unwrap();
            rest.extend_from_slice(&frame.unwrap().unwrap().into_data().unwrap());
        }
    };
    let (kind, object) = next().await;
    assert_eq!((kind.as_str(), &object["metadata"]["name"]), ("ADDED", &json!("a")));
    let (kind, mark) = next().await;
    assert_eq!(kind, "BOOKMARK");
    assert_eq!(mark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let changed = api.merge(&format!("{CONFIG_MAPS}/a"), json!({"data": {"k": "v"}})).await;
    assert_eq!(next().await, ("MODIFIED".to_string(), changed.expect(200)));
    api.delete(&format!("{CONFIG_MAPS}/a")).await.expect(200);
    assert_eq!(next().await.0, "DELETED");
    for accept in ["application/yaml", "text/html"] {
        let refused = format!("GET {CONFIG_MAPS}?watch=true");
        let refused = api.send(&refused, &[&format!("accept: {accept}")], "").await;
        assert_eq!(refused.code, 406, "{accept}");
    }
}

#[tokio::test]
async fn large_answers_are_compressed_for_who_takes_it() {
    let api = Api::start().await;
    let mut object = config_map("large");
    object["data"] = json!({"k": "some text ".repeat(20_000)});
    api.post(CONFIG_MAPS, object).await.expect(201);
    api.post(CONFIG_MAPS, config_map("small")).await.expect(201);
    let cases = [
        (format!("{CONFIG_MAPS}/large"), "gzip", true),
        (CONFIG_MAPS.to_string(), "deflate, gzip", true),
        (format!("{CONFIG_MAPS}/large"), "identity", false),
        (format!("{CONFIG_MAPS}/small"), "gzip", false),
    ];
    for (path, accept, packed) in cases {
        let plain = api.get(&path).await;
        let header = format!("accept-encoding: {accept}");
        let reply = api.send(&format!("GET {path}"), &[&header], "").await;
        let encoding = reply.headers.get("content-encoding");
        assert_eq!(encoding.is_some_and(|encoding| encoding == "gzip"), packed, "{path} {accept}");
        if packed {
            assert_eq!(reply.headers["vary"], "Accept-Encoding");
            assert!(reply.bytes.len() < plain.bytes.len() / 10);
            let mut text = Vec::new();
            flate2::read::GzDecoder::new(&*reply.bytes).read_to_end(&mut text).unwrap();
            assert_eq!(text, plain.bytes);
        }
    }
}

#[tokio::test]
async fn indented_for_people_and_yaml() {
    let api = Api::start().await;
    api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    let get = |query: &str| format!("GET {CONFIG_MAPS}/a{query}");
    let plain = api.get(&format!("{CONFIG_MAPS}/a")).await;
    let cases = [
        ("", "user-agent: kubectl/v1", false),
        ("?pretty=true", "user-agent: kubectl/v1", true),
        ("?pretty=false", "user-agent: curl/8", false),
        ("", "user-agent: curl/8", true),
        ("", "user-agent: Mozilla/5.0 (X11)", true),
    ];
    for (query, agent, indented) in cases {
        let reply = api.send(&get(query), &[agent], "").await;
        assert_eq!(reply.text().contains("\n  \"kind\""), indented, "{query} {agent}");
        assert_eq!(reply.json(), plain.json());
    }
    let list = api.send(&format!("GET {CONFIG_MAPS}?pretty=1"), &[], "").await;
    assert!(list.text().starts_with("{\n  \"kind\": \"ConfigMapList\",\n"), "{}", list.text());
    for (line, text) in [(get(""), "kind: ConfigMap\n"), (get("x"), "kind: Status\n")] {
        let yaml = api.send(&line, &["accept: application/yaml"], "").await;
        assert_eq!(yaml.headers["content-type"], "application/yaml");
        assert!(yaml.text().contains(text), "{}", yaml.text());
    }
}

/// Every kind reports fields that it does not have, and fields that come twice.
#[tokio::test]
async fn unknown_and_duplicate_fields_of_every_kind() {
    let api = Api::start().await;
    let kinds = ROWS.iter().filter(|row| row.verbs.iter().any(|verb| verb == "create"));
    let mut tried = 0;
    for row in kinds {
        let path = row.path(if row.namespaced { "default" } else { "" }, "");
        let (kind, version) = (&row.kind, &row.version);
        let body = format!(
            "{{\"apiVersion\":\"{}\",\"kind\":\"{kind}\",\"metadata\":{{\"name\":\"x\",\
             \"name\":\"x\"}},\"bogus\":1}}",
            row.api_version()
        );
        let post = async |validation: &str| {
            let line = format!("POST {path}?dryRun=All&fieldValidation={validation}");
            api.send(&line, &["content-type: application/json"], body.clone()).await
        };
        let strict = post("Strict").await;
        assert_eq!(strict.code, 400, "{kind}: {}", strict.text());
        assert_eq!(
            strict.message(),
            format!(
                "{kind} in version \"{version}\" cannot be handled as a {kind}: strict decoding \
                 error: unknown field \"bogus\", duplicate field \"metadata.name\""
            )
        );
        let warned = [
            "299 - \"unknown field \\\"bogus\\\"\"",
            "299 - \"duplicate field \\\"metadata.name\\\"\"",
        ];
        let warn = post("Warn").await;
        if warn.code == 201 {
            let warnings = warn.warnings();
            warned.iter().for_each(|text| assert!(warnings.contains(&text.to_string()), "{kind}"));
        }
        let ignored = post("Ignore").await;
        assert_eq!(ignored.code, warn.code, "{kind}");
        let warnings = ignored.warnings();
        assert!(!warnings.iter().any(|warning| warning.contains("bogus")), "{kind}: {warnings:?}");
        tried += 1;
    }
    assert!(tried > 50);
}

#[tokio::test]
async fn openapi_version_2() {
    let api = Api::start().await;
    let reply = api.get("/openapi/v2").await;
    assert_eq!(reply.headers["content-type"], "application/json");
    let etag = reply.headers["etag"].to_str().unwrap().to_string();
    let document = reply.expect(200);
    assert_eq!(document["swagger"], "2.0");
    let definitions = &document["definitions"];
    let containers = &definitions["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["items"]["$ref"], "#/definitions/io.k8s.api.core.v1.Container");
    let quantity = &definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"];
    assert_eq!(quantity["type"], "string");
    for row in ROWS.iter().filter(|row| row.verbs.iter().any(|verb| verb == "get")) {
        let path = row.path(if row.namespaced { "{namespace}" } else { "" }, "{name}");
        let get = &document["paths"][&path]["get"];
        assert_eq!(get["x-kubernetes-action"], "get", "{path}");
        let name = get["responses"]["200"]["schema"]["$ref"].as_str().unwrap();
        let name = name.rsplit('/').next().unwrap();
        let gvk = &definitions[name]["x-kubernetes-group-version-kind"][0];
        assert_eq!((&gvk["group"], &gvk["kind"]), (&json!(row.group), &json!(row.kind)));
    }
    let item = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    let patch = item["patch"]["parameters"].as_array().unwrap();
    assert!(patch.iter().any(|parameter| parameter["name"] == "fieldValidation"));
    assert_eq!((&patch[0]["in"], &patch[0]["required"]), (&json!("body"), &json!(true)));
    assert_eq!(item["get"]["operationId"], "readAppsV1NamespacedDeployment");

    let cached = api.send("GET /openapi/v2", &[&format!("if-none-match: {etag}")], "").await;
    assert_eq!((cached.code, cached.bytes.len()), (304, 0));
    let packed = api.send("GET /openapi/v2", &["accept-encoding: gzip"], "").await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&*packed.bytes).read_to_end(&mut text).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), document);

    let gnostic = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    let old = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    for accept in [gnostic, old] {
        let reply = api.send("GET /openapi/v2", &[&format!("accept: {accept}")], "").await;
        assert_eq!(reply.headers["content-type"], gnostic);
        assert_ne!(reply.headers["etag"], etag);
        let body = &*reply.bytes;
        assert_eq!(at(body, &[1]), b"2.0");
        assert_eq!(all(at(body, &[8]), 2).len(), document["paths"].as_object().unwrap().len());
        let found = all(at(body, &[9]), 1);
        assert_eq!(found.len(), definitions.as_object().unwrap().len());
        let pod = found.into_iter().find(|named| at(named, &[1]) == b"io.k8s.api.core.v1.Pod");
        let extension = at(pod.unwrap(), &[2, 31]);
        assert_eq!(at(extension, &[1]), b"x-kubernetes-group-version-kind");
        let kinds: Value = serde_json::from_slice(at(extension, &[2, 2])).unwrap();
        assert_eq!(kinds[0]["kind"], "Pod");
    }
    assert_eq!(api.send("GET /openapi/v2", &["accept: text/html"], "").await.code, 406);
}

#[tokio::test]
async fn version_3_is_for_ever_where_its_hash_is_named() {
    let api = Api::start().await;
    let index = api.get("/openapi/v3").await.expect(200);
    for (_, entry) in index["paths"].as_object().unwrap() {
        let url = entry["serverRelativeURL"].as_str().unwrap();
        let hashed = api.get(url).await;
        assert_eq!(hashed.headers["cache-control"], "public, immutable", "{url}");
        let (path, hash) = url.split_once("?hash=").unwrap();
        assert_eq!(hashed.headers["etag"], format!("\"{hash}\"").as_str());
        let bare = api.get(path).await;
        assert_eq!(bare.headers["cache-control"], "no-cache, private", "{path}");
        assert_eq!(bare.bytes, hashed.bytes);
    }
}

/// What was written with `<` is served as Go's encoder writes it: controllers compare such bytes.
#[tokio::test]
async fn text_is_escaped_as_go_does() {
    let api = Api::start().await;
    let revisions = "/apis/apps/v1/namespaces/default/controllerrevisions";
    let object = json!({"metadata": {"name": "a"}, "revision": 1, "data": {"x": "<&>\u{2028}é"}});
    let escaped = r#""data":{"x":"\u003c\u0026\u003e\u2028é"}"#;
    let created = api.post(revisions, object.clone()).await;
    let read = api.get(&format!("{revisions}/a")).await;
    let list = api.get(revisions).await;
    for reply in [created, read, list] {
        assert!(reply.text().contains(escaped), "{}", reply.text());
    }
    let data = api.get(&format!("{revisions}/a")).await.expect(200)["data"].clone();
    assert_eq!(data, object["data"]);
}

#[tokio::test]
async fn watches_over_websocket() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens.csv");
    std::fs::write(&file, "secret,root,1,\"system:masters\"\n").unwrap();
    let served = Served::start(&[&format!("--token-auth-file={}", file.display())]).await;
    let admin = served.admin();
    let request = http::Request::post(PODS).header("content-type", "application/json");
    let created = admin.request(request.body(pod("p").to_string().into()).unwrap()).await;
    assert_eq!(created.unwrap().status(), 201);

    let url = format!("wss://localhost{PODS}?watch=true");
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("authorization", "Bearer secret".parse().unwrap());
    let (mut socket, response) =
        tokio_tungstenite::client_async(request, served.raw().await).await.unwrap();
    assert_eq!(response.status(), 101);
    let Message::Text(text) = socket.next().await.unwrap().unwrap() else { panic!("no text") };
    let event: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(event["type"], "ADDED");
    assert_eq!(event["object"]["metadata"]["name"], "p");
    socket.send(Message::Close(None)).await.unwrap();
    while socket.next().await.is_some_and(|message| message.is_ok()) {}
    served.stop.cancel();
    served.task.await.unwrap();
}
