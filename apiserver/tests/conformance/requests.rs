//! What requests may say of themselves: timeouts, media types, what is no table.

use std::time::Duration;

use client::Clock;
use proto::time::Time;
use serde_json::{Value, json};

use crate::api::{Api, CONFIG_MAPS, DEPLOYMENTS, PODS, config_map, pod};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

#[tokio::test]
async fn a_timeout_in_the_url_is_checked_and_clamped() {
    let api = Api::start().await;
    for (path, code) in [
        ("/version?timeout=invalid".to_string(), 400),
        ("/version?timeout=3m".into(), 200),
        ("/version?timeout=0s".into(), 200),
        (format!("{PODS}?timeout=5"), 400),
        (format!("{PODS}?timeout=32s"), 200),
    ] {
        let reply = api.get(&path).await;
        assert_eq!(reply.code, code, "{path}: {}", reply.text());
        if code == 400 {
            let status = reply.json();
            assert_eq!(
                (&status["kind"], &status["reason"]),
                (&json!("Status"), &json!("BadRequest"))
            );
            let message = status["message"].as_str().unwrap();
            assert!(
                message.starts_with("invalid timeout specified in the request URL"),
                "{message}"
            );
        }
    }
    // Watches have `timeoutSeconds`, and `timeout` says nothing to them.
    let mut watch = api.watch(&format!("{PODS}?watch=true&timeout=x&timeoutSeconds=1")).await;
    assert_eq!(watch.next().await, Value::Null);
}

/// A body that does not come: the request ends when it has said that it would, or after a minute.
#[tokio::test(start_paused = true)]
async fn a_request_ends_when_its_time_is_over() {
    let start = Time::from_unix(1_800_000_000);
    for (query, seconds) in [("?timeout=3s", 3), ("", 60), ("?timeout=5m", 60)] {
        let clock = Clock::simulated(start);
        let api = Api::start_at(clock.clone(), &[]).await;
        let endless = axum::body::Body::from_stream(futures::stream::pending::<
            Result<Vec<u8>, std::io::Error>,
        >());
        let line = format!("POST {CONFIG_MAPS}{query}");
        let sent = clock.now();
        let reply = api.send(&line, &["content-type: application/json"], endless).await;
        let status = reply.expect(504);
        assert_eq!(status["reason"], "Timeout");
        let message = "Timeout: request did not complete within the allotted timeout";
        assert_eq!(status["message"], message);
        assert_eq!(clock.now().since(sent), Duration::from_secs(seconds), "{query}");
    }
}

/// A watch has an end of its own.
#[tokio::test(start_paused = true)]
async fn a_watch_outlives_the_time_of_a_request() {
    let clock = Clock::simulated(Time::from_unix(1_800_000_000));
    let api = Api::start_at(clock.clone(), &[]).await;
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    clock.sleep(Duration::from_secs(120)).await;
    api.post(CONFIG_MAPS, config_map("late")).await.expect(201);
    assert_eq!(watch.short().await, "ADDED late");
}

#[tokio::test]
async fn what_has_no_table_is_not_acceptable_as_one() {
    let api = Api::start().await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let body = json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}).to_string();
    let ask = async |accept: &str| {
        let headers = ["content-type: application/json", &format!("accept: {accept}")];
        api.send(&format!("POST {review}"), &headers, body.clone()).await
    };
    let refused = ask(table).await.expect(406);
    assert_eq!((&refused["kind"], &refused["reason"]), (&json!("Status"), &json!("NotAcceptable")));
    assert_eq!(refused["code"], 406);
    let answered = ask(&format!("{table},application/json")).await.expect(201);
    assert_eq!(answered["status"]["allowed"], true);

    // A streaming list is one of objects.
    let streaming = format!(
        "{SECRETS}?watch=true&sendInitialEvents=true\
        &resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let header = format!("accept: {table}");
    assert_eq!(api.send(&format!("GET {streaming}"), &[&header], "").await.code, 406);
    let mut falls_back = api.watch_as(&streaming, &format!("{table},application/json")).await;
    let mark = falls_back.next().await;
    assert_eq!((&mark["type"], &mark["object"]["kind"]), (&json!("BOOKMARK"), &json!("Secret")));
    let mut plain = api.watch_as(&format!("{SECRETS}?watch=true"), table).await;
    api.post(SECRETS, json!({"metadata": {"name": "s"}})).await.expect(201);
    assert_eq!(plain.next().await["object"]["kind"], "Table");
}

#[tokio::test]
async fn tables_of_pods_and_pages_of_tables() {
    let api = Api::start().await;
    api.post(PODS, pod("pod-1")).await.expect(201);
    let accept = "accept: application/json;as=Table;v=v1beta1;g=meta.k8s.io";
    let table = api.send(&format!("GET {PODS}/pod-1"), &[accept], "").await.expect(200);
    let columns = table["columnDefinitions"].as_array().unwrap();
    assert!(columns.len() > 2 && columns[0]["name"] == "Name");
    assert_eq!(table["rows"].as_array().unwrap().len(), 1);
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap().len(), columns.len());
    let templates = "/api/v1/namespaces/default/podtemplates";
    for n in 0..5 {
        let template = json!({"metadata": {"name": format!("template-{n:04}")},
            "template": {"spec": {"containers": [{"name": "test", "image": "test2"}]}}});
        api.post(templates, template).await.expect(201);
    }
    let page = api.send(&format!("GET {templates}?limit=2"), &[accept], "").await.expect(200);
    let names = |page: &Value| -> Vec<String> {
        let rows = page["rows"].as_array().unwrap().iter();
        rows.map(|row| row["cells"][0].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(names(&page), ["template-0000", "template-0001"]);
    assert_ne!(page["metadata"]["resourceVersion"], "");
    let token = page["metadata"]["continue"].as_str().unwrap();
    let rest = api.send(&format!("GET {templates}?continue={token}"), &[accept], "").await;
    assert_eq!(names(&rest.expect(200))[0], "template-0002");
    let empty = format!("GET {templates}?labelSelector=none");
    assert_eq!(api.send(&empty, &[accept], "").await.expect(200)["rows"], json!([]));
}

/// 400 templates in the suite; here fewer, in pages of every size.
/// The suite asks for the second page for ten minutes, every twenty seconds, until it is told that
/// the token has expired, and goes on with the token in that answer.
#[tokio::test(start_paused = true)]
async fn a_token_expires_within_ten_minutes_and_another_takes_its_place() {
    let clock = Clock::simulated(Time::from_unix(1_800_000_000));
    let api = Api::start_at(clock.clone(), &[]).await;
    // Wherever between two compactions it is asked for.
    clock.sleep(Duration::from_secs(3)).await;
    const TEMPLATES: &str = "/api/v1/namespaces/default/podtemplates";
    for number in 0..40 {
        let template = json!({"metadata": {"name": format!("template-{number:04}")},
            "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}});
        api.post(TEMPLATES, template).await.expect(201);
    }
    let page = async |token: &str| {
        let token = token.replace('=', "%3D");
        api.get(&format!("{TEMPLATES}?limit=4&continue={token}")).await
    };
    let first = page("").await.expect(200);
    let token = first["metadata"]["continue"].as_str().unwrap().to_string();
    let mut expired = None;
    for turn in 0..30 {
        // The cluster never rests.
        let beat = config_map(&format!("beat-{turn}"));
        api.post(CONFIG_MAPS, beat).await.expect(201);
        let reply = page(&token).await;
        if reply.code != 200 {
            expired = Some(reply.expect(410));
            break;
        }
        clock.sleep(Duration::from_secs(20)).await;
    }
    let expired = expired.expect("the token expires");
    assert_eq!(expired["reason"], "Expired");
    let mut token = expired["metadata"]["continue"].as_str().unwrap().to_string();
    let mut found = 4;
    while !token.is_empty() {
        let next = page(&token).await.expect(200);
        assert_ne!(next["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        let items = next["items"].as_array().unwrap();
        assert_eq!(items.len(), 4);
        for item in items {
            assert_eq!(item["metadata"]["name"], format!("template-{found:04}"));
            found += 1;
        }
        token = next["metadata"]["continue"].as_str().unwrap_or_default().to_string();
    }
    assert_eq!(found, 40);
}

#[tokio::test]
async fn pages_of_any_size_show_the_same_list() {
    let api = Api::start().await;
    for n in 0..23 {
        api.post(CONFIG_MAPS, config_map(&format!("template-{n:04}"))).await.expect(201);
    }
    for limit in [1, 2, 7, 22, 23, 24] {
        let (mut found, mut token, mut revision) = (0, String::new(), Value::Null);
        loop {
            let path = format!("{CONFIG_MAPS}?limit={limit}&continue={token}");
            let page = api.get(&path).await.expect(200);
            let (items, metadata) = (page["items"].as_array().unwrap(), &page["metadata"]);
            assert!(items.len() <= limit);
            if revision.is_null() {
                revision = metadata["resourceVersion"].clone();
            }
            assert_eq!(metadata["resourceVersion"], revision);
            for item in items {
                assert_eq!(item["metadata"]["name"], format!("template-{found:04}"));
                found += 1;
            }
            match metadata.get("continue") {
                None => {
                    assert!(metadata.get("remainingItemCount").is_none());
                    break;
                }
                Some(next) => {
                    assert_eq!(metadata["remainingItemCount"], 23 - found);
                    token = next.as_str().unwrap().to_string();
                }
            }
        }
        assert_eq!(found, 23, "{limit}");
    }
}

/// The bodies of the suite on field validation, to the letter.
#[tokio::test]
async fn unknown_and_duplicate_fields_of_a_typed_object() {
    let api = Api::start().await;
    let body = |metadata: &str, spec: &str| {
        format!(
            r#"{{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {{"name": "my-dep",
            {metadata} "labels": {{"app": "nginx"}}}}, "spec": {{{spec}
            "selector": {{"matchLabels": {{"app": "nginx"}}}}, "template": {{
            "metadata": {{"labels": {{"app": "nginx"}}}},
            "spec": {{"containers": [{{"name": "nginx", "image": "nginx:latest"}}]}}}}}}}}"#
        )
    };
    let fields = r#""unknownField": "foo", "replicas": 2, "replicas": 3,"#;
    for (body, problem) in [
        (body("", fields), r#"unknown field "spec.unknownField", duplicate field "spec.replicas""#),
        (body(r#""unknownMeta": "foo","#, ""), r#"unknown field "metadata.unknownMeta""#),
    ] {
        let line = format!("POST {DEPLOYMENTS}?fieldManager=mgr&fieldValidation=Strict");
        // Bytes of client-go's Body() come without a type.
        for header in ["content-type: application/json", "accept: application/json"] {
            let reply = api.send(&line, &[header], body.clone()).await;
            let message = reply.message();
            assert_eq!(reply.code, 400, "{message}");
            assert!(message.contains(&format!("strict decoding error: {problem}")), "{message}");
        }
    }
}

#[tokio::test]
async fn clients_negotiate_watches_and_errors() {
    let api = Api::start().await;
    let before = api.get(CONFIG_MAPS).await.expect(200)["metadata"]["resourceVersion"].clone();
    api.post(CONFIG_MAPS, config_map("e2e-client-go-test-negotiation")).await.expect(201);
    let path = format!(
        "{CONFIG_MAPS}?watch=true&resourceVersion={}\
        &fieldSelector=metadata.name%3De2e-client-go-test-negotiation&timeoutSeconds=1",
        before.as_str().unwrap()
    );
    for (accept, content) in [
        ("application/json", "application/json"),
        ("application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf;stream=watch"),
        (
            "application/vnd.kubernetes.protobuf,application/json",
            "application/vnd.kubernetes.protobuf;stream=watch",
        ),
        ("application/json,application/vnd.kubernetes.protobuf", "application/json"),
    ] {
        let reply = api.send(&format!("GET {path}"), &[&format!("accept: {accept}")], "").await;
        assert_eq!((reply.code, &reply.headers["content-type"]), (200, &content.parse().unwrap()));
        let text = b"e2e-client-go-test-negotiation";
        assert!(reply.bytes.windows(text.len()).any(|part| part == text), "{accept}");
    }
    let refused = api
        .send(&format!("POST {CONFIG_MAPS}"), &["content-type: text/plain"], "x")
        .await
        .expect(415);
    assert_eq!(
        (&refused["kind"], &refused["reason"], &refused["code"]),
        (&json!("Status"), &json!("UnsupportedMediaType"), &json!(415))
    );
}
