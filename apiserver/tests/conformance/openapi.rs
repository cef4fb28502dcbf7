//! OpenAPI version 3 as client-go reads it.

use client::Clock;
use proto::time::Time;
use serde_json::Value;

use crate::api::Api;

/// Go writes what it has read, reads that, and compares: a list or map that is there but empty
/// would be another than one that is not there.
#[tokio::test]
async fn every_document_survives_go() {
    let api = Api::start().await;
    let index = api.get("/openapi/v3").await.expect(200);
    for (name, entry) in index["paths"].as_object().unwrap() {
        let document = api.get(entry["serverRelativeURL"].as_str().unwrap()).await.expect(200);
        let mut empty = Vec::new();
        find_empty(&document, name.clone(), &mut empty);
        assert_eq!(empty, [""; 0], "{name}");
    }
}

fn find_empty(value: &Value, path: String, empty: &mut Vec<String>) {
    match value {
        Value::Object(map) if map.is_empty() => empty.push(path),
        Value::Array(items) if items.is_empty() => empty.push(path),
        Value::Object(map) => {
            // A default is any value to Go.
            for (key, value) in map.iter().filter(|(key, _)| *key != "default") {
                find_empty(value, format!("{path}/{key}"), empty);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                find_empty(value, format!("{path}/{index}"), empty);
            }
        }
        Value::Null => empty.push(path),
        _ => {}
    }
}

#[tokio::test(start_paused = true)]
async fn the_form_is_negotiated_and_the_hash_is_followed() {
    // 2026-01-15T08:00:00Z.
    let clock = Clock::simulated(Time::from_unix(1_768_464_000));
    let api = Api::start_at(clock, &[]).await;
    let path = "/openapi/v3/apis/apps/v1";
    let get = async |accept: &str| {
        api.send(&format!("GET {path}"), &[&format!("accept: {accept}")], "").await
    };
    let protobuf = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";
    let old = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
    for (accept, content) in [
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        (protobuf, protobuf),
        (old, protobuf),
        ("text/html,application/json;q=0.5", "application/json"),
    ] {
        let reply = get(accept).await;
        assert_eq!((reply.code, &reply.headers["content-type"]), (200, &content.parse().unwrap()));
        assert!(reply.headers.get_all("vary").iter().any(|it| it == "Accept"), "{accept}");
    }
    assert_eq!(get("text/html").await.code, 406);
    let document = get(protobuf).await.bytes;
    // openapi = 1.
    for text in
        ["\x0a\x053.0.0", "io.k8s.api.apps.v1.Deployment", "#/components/schemas/", "BearerToken"]
    {
        let found = document.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(found, "{text}");
    }
    let moved = api.get(&format!("{path}?hash=OLD")).await;
    assert_eq!(moved.code, 301);
    let url = moved.headers["location"].to_str().unwrap();
    assert!(url.starts_with(&format!("{path}?hash=")), "{url}");
    let hashed = api.get(url).await;
    assert_eq!(hashed.headers["cache-control"], "public, immutable");
    let hash = url.split_once("?hash=").unwrap().1;
    assert_eq!(hashed.headers["etag"], format!("\"{hash}\""));
    assert_eq!(hashed.headers["expires"], "Fri, 15 Jan 2027 08:00:00 UTC");
    // Whoever has it learns for how long, too.
    let tag = format!("if-none-match: \"{hash}\"");
    let kept = api.send(&format!("GET {url}"), &[&tag], "").await;
    assert_eq!((kept.code, &kept.headers["expires"]), (304, &hashed.headers["expires"]));
    // Without the hash it may be another one tomorrow.
    assert!(!api.get(path).await.headers.contains_key("expires"));
}
