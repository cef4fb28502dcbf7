//! OpenAPI version 3 as client-go reads it.

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

#[tokio::test]
async fn the_form_is_negotiated_and_the_hash_is_followed() {
    let api = Api::start().await;
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
    assert_eq!(api.get(url).await.headers["cache-control"], "public, immutable");
}
