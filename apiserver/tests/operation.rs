//! Running a server: metrics, audit, overload, encryption at rest, backup and restore.

use std::path::Path;

use apiserver::store::StoreError;
use apiserver::store::embedded::backup;
use apiserver::{Options, Server, ServerError};
use axum::{Router, body::Body};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use client::{Clock, Rng};
use http::Request;
use http_body_util::BodyExt;
use proto::time::Time;
use proto::user::User;
use serde_json::{Value, json};
use tower::ServiceExt;

#[path = "http/api.rs"]
mod api;

use api::{Api, CONFIG_MAPS, config_map};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

#[tokio::test]
async fn metrics_count_requests_and_objects() {
    let api = Api::start().await;
    let limits = "/api/v1/namespaces/default/limitranges";
    api.post(limits, json!({"metadata": {"name": "a"}, "spec": {"limits": []}})).await.expect(201);
    api.get(&format!("{CONFIG_MAPS}/nothing")).await.expect(404);
    // What clients make up is no label: there would be no end of them.
    for made_up in ["made-ups", "configmaps/a/made-ups"] {
        api.get(&format!("/api/v1/namespaces/default/{made_up}")).await.expect(404);
    }
    let reply = api.get("/metrics").await;
    assert_eq!(reply.code, 200);
    assert!(!reply.text().contains("made-ups"), "{}", reply.text());
    let text = reply.text();
    let line = |start: &str, labels: &[&str]| {
        let found = text.lines().find(|line| {
            line.starts_with(start) && labels.iter().all(|label| line.contains(label))
        });
        found.unwrap_or_else(|| panic!("no {start} {labels:?} in\n{text}")).to_string()
    };
    let create =
        ["verb=\"POST\"", "resource=\"limitranges\"", "code=\"201\"", "scope=\"resource\""];
    assert!(line("apiserver_request_total{", &create).ends_with(" 1"));
    line("apiserver_request_total{", &["verb=\"GET\"", "resource=\"configmaps\"", "code=\"404\""]);
    line("apiserver_request_duration_seconds_bucket{", &["verb=\"POST\"", "le=\"0.1\""]);
    assert!(line("apiserver_storage_objects{", &["resource=\"limitranges\""]).ends_with(" 1"));
    line("apiserver_flowcontrol_nominal_limit_seats{", &["priority_level=\"catch-all\""]);
    line("process_resident_memory_bytes ", &[]);
    line("process_cpu_seconds_total ", &[]);
    let nobody = api.as_user(User::new("nobody", &["system:authenticated"]));
    assert_eq!(nobody.get("/metrics").await.code, 403);
}

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitManagedFields: true
rules:
- level: Metadata
  resources: [{group: "", resources: [secrets]}]
- level: RequestResponse
  users: [admin]
  resources: [{group: "", resources: [configmaps]}]
"#;

#[tokio::test]
async fn the_audit_log_says_who_did_what() {
    let folder = tempfile::tempdir().unwrap();
    let (policy, log) = (folder.path().join("policy.yaml"), folder.path().join("audit.log"));
    std::fs::write(&policy, POLICY).unwrap();
    let flags = [
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", log.display()),
    ];
    let api = Api::start_with(&flags.each_ref().map(String::as_str)).await;
    let json_body = "content-type: application/json";
    let body = config_map("a").to_string();
    let line = format!("POST {CONFIG_MAPS}");
    let reply = api.send(&line, &[json_body, "audit-id: mine"], body).await;
    assert_eq!(reply.headers["audit-id"], "mine");
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "plain-text"}});
    api.post(SECRETS, secret).await.expect(201);
    api.delete(&format!("{CONFIG_MAPS}/nothing")).await.expect(404);
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    assert_eq!(watch.short().await, "ADDED a");
    drop(watch);
    api.get("/api/v1/namespaces/default/pods").await.expect(200);

    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains("plain-text"), "a Secret's content is nowhere");
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |verb: &str, resource: &str| -> Vec<&Value> {
        let fits =
            |event: &&Value| event["verb"] == verb && event["objectRef"]["resource"] == resource;
        events.iter().filter(fits).collect()
    };
    let stages = |events: &[&Value]| -> Vec<String> {
        events.iter().map(|event| event["stage"].as_str().unwrap().to_string()).collect()
    };
    let created = of("create", "configmaps");
    assert_eq!(stages(&created), ["RequestReceived", "ResponseComplete"]);
    let done = created[1];
    assert_eq!(done["auditID"], "mine");
    assert_eq!(done["user"]["username"], "admin");
    assert_eq!(done["responseStatus"]["code"], 201);
    assert_eq!(done["requestObject"]["metadata"]["name"], "a");
    assert_eq!(done["responseObject"]["metadata"]["namespace"], "default");
    assert!(done["responseObject"]["metadata"].get("managedFields").is_none());
    assert_eq!(done["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!(done["objectRef"]["apiVersion"], "v1");
    let missing = of("delete", "configmaps");
    assert_eq!(missing[1]["responseStatus"]["reason"], "NotFound");
    let watched = stages(&of("watch", "configmaps"));
    assert_eq!(watched, ["RequestReceived", "ResponseStarted", "ResponseComplete"]);
    let secret = of("create", "secrets")[1];
    assert!(secret.get("requestObject").is_none() && secret["level"] == "Metadata");
    assert!(of("list", "pods").is_empty(), "no rule speaks of pods");
}

#[tokio::test(start_paused = true)]
async fn overload_refuses_some_and_keeps_the_system_going() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--max-requests-inflight=4", "--max-mutating-requests-inflight=4"];
    let options = api::options(folder.path(), &flags);
    let clock = Clock::simulated(Time::from_unix(1_700_000_000));
    let server = Server::start(options, clock, Rng::seeded(1)).await.unwrap();
    let router = server.router();
    let ask = |user: User, body: Body| {
        let path = "/api/v1/namespaces/default/events";
        let request = Request::post(path).header("content-type", "application/json");
        router.clone().oneshot(request.extension(user).body(body).unwrap())
    };
    // Bodies that do not end hold their seats.
    let node = || User::new("system:node:n1", &["system:nodes", "system:authenticated"]);
    let mut held = Vec::new();
    for _ in 0..200 {
        let endless =
            Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
        held.push(tokio::spawn(ask(node(), endless)));
    }
    let refused = loop {
        let answered = ask(node(), Body::empty()).await.unwrap();
        // Until all of them have come so far.
        if answered.status() != 400 {
            break answered;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    let status = refused.into_body().collect().await.unwrap().to_bytes();
    let status: Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["reason"], "TooManyRequests");
    // Who may do everything, and asks how the server is, is not made to wait.
    let admin = User::new("admin", &["system:masters"]);
    let event = json!({"metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}});
    let answered = ask(admin, Body::from(event.to_string())).await.unwrap();
    assert_eq!(answered.status(), 201);
    let health = Request::get("/livez").body(Body::empty()).unwrap();
    assert_eq!(router.clone().oneshot(health).await.unwrap().status(), 200);
    held.iter().for_each(tokio::task::JoinHandle::abort);
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: Options,
}

/// A server over a store on disk.
async fn on_disk(folder: &Path, flags: &[&str]) -> Server {
    let folder = folder.display().to_string();
    let line = [&["", "--secure-port=0", "--data-dir", &folder], flags].concat();
    let options = Flags::parse_from(line).options;
    loop {
        match Server::start(options.clone(), Clock::system(), Rng::from_os()).await {
            Ok(server) => return server,
            // The one before is still closing it.
            Err(ServerError::Store(StoreError::Locked { .. })) => tokio::task::yield_now().await,
            Err(error) => panic!("{}", client::error::chain(&error)),
        }
    }
}

async fn send(router: &Router, line: &str, body: Value) -> (u16, bytes::Bytes) {
    let (method, path) = line.split_once(' ').unwrap();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .extension(User::new("admin", &["system:masters"]));
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let response = router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let code = response.status().as_u16();
    (code, response.into_body().collect().await.unwrap().to_bytes())
}

fn encryption(folder: &Path, keys: &[&str]) -> String {
    let path = folder.join("encryption.yaml");
    let keys: Vec<Value> = keys
        .iter()
        .map(|name| {
            let secret = STANDARD.encode(format!("{name:x<32}"));
            json!({"name": name, "secret": secret})
        })
        .collect();
    let text = json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"],
            "providers": [{"aesgcm": {"keys": keys}}, {"identity": {}}]}],
    });
    std::fs::write(&path, text.to_string()).unwrap();
    format!("--encryption-provider-config={}", path.display())
}

/// New values are left as they are, old ones are read.
fn decryption(folder: &Path, key: &str) -> String {
    let flag = encryption(folder, &[key]);
    let path = folder.join("encryption.yaml");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["resources"][0]["providers"].as_array_mut().unwrap().reverse();
    std::fs::write(&path, config.to_string()).unwrap();
    flag
}

/// Why the server does not start.
async fn refusal(folder: &Path, flags: &[&str]) -> String {
    let folder = folder.display().to_string();
    let line = [&["", "--secure-port=0", "--data-dir", &folder], flags].concat();
    let options = Flags::parse_from(line).options;
    loop {
        let options = options.clone();
        let failed = Server::start(options, Clock::system(), Rng::from_os()).await.err().unwrap();
        if !matches!(failed, ServerError::Store(StoreError::Locked { .. })) {
            return client::error::chain(&failed);
        }
        tokio::task::yield_now().await;
    }
}

fn on_file(folder: &Path, text: &str) -> bool {
    let bytes = std::fs::read(folder.join("store.redb")).unwrap();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_encrypted_at_rest_and_keys_rotate() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let secret = |name: &str| {
        json!({"metadata": {"name": name}, "type": "Opaque",
            "data": {"password": STANDARD.encode(format!("the password of {name}"))}})
    };
    let read = async |router: &Router, name: &str| {
        let (code, body) = send(router, &format!("GET {SECRETS}/{name}"), Value::Null).await;
        assert_eq!(code, 200);
        let object: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(object["data"], secret(name)["data"]);
    };
    let line = format!("POST {SECRETS}");
    let plain = on_disk(folder, &[]).await;
    assert_eq!(send(&plain.router(), &line, secret("before")).await.0, 201);
    drop(plain);

    let server = on_disk(folder, &[&encryption(folder, &["one"])]).await;
    read(&server.router(), "before").await;
    assert_eq!(send(&server.router(), &line, secret("after")).await.0, 201);
    read(&server.router(), "after").await;
    drop(server);
    assert!(on_file(folder, secret("before")["data"]["password"].as_str().unwrap()));
    assert!(!on_file(folder, secret("after")["data"]["password"].as_str().unwrap()));
    assert!(on_file(folder, "k8s:enc:aesgcm:v1:one:"));

    let server = on_disk(folder, &[&encryption(folder, &["two", "one"])]).await;
    read(&server.router(), "after").await;
    let path = format!("PUT {SECRETS}/after");
    assert_eq!(send(&server.router(), &path, secret("after")).await.0, 200);
    drop(server);
    let server = on_disk(folder, &[&encryption(folder, &["two"])]).await;
    read(&server.router(), "after").await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_gone_keeps_the_server_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let server = on_disk(folder, &[&encryption(folder, &["one"])]).await;
    let secret = json!({"metadata": {"name": "s"}, "data": {"a": "YQ=="}});
    assert_eq!(send(&server.router(), &format!("POST {SECRETS}"), secret).await.0, 201);
    drop(server);
    let said = refusal(folder, &[&encryption(folder, &["other"])]).await;
    assert!(said.contains("/registry/secrets/default/s is encrypted with a key"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_encrypted_is_not_met_without_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let server = on_disk(folder, &[&encryption(folder, &["one"])]).await;
    let secret = json!({"metadata": {"name": "s"}, "data": {"a": "YQ=="}});
    let line = format!("POST {SECRETS}");
    assert_eq!(send(&server.router(), &line, secret.clone()).await.0, 201);
    drop(server);
    let said = refusal(folder, &[]).await;
    let expected = "opening the store: /registry/secrets/default/s is encrypted in the store, and \
                    no encryption configuration says how to read it: --encryption-provider-config \
                    must name the one it was written with";
    assert_eq!(said, expected);
    // Nor with one that speaks of other kinds.
    let elsewhere = encryption(folder, &["one"]);
    let path = folder.join("encryption.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"secrets\"", "\"configmaps\"")).unwrap();
    assert_eq!(refusal(folder, &[&elsewhere]).await, expected);
    // Written again as it is, it is no one's secret any more, though the past still has one.
    let server = on_disk(folder, &[&decryption(folder, "one")]).await;
    let line = format!("PUT {SECRETS}/s");
    assert_eq!(send(&server.router(), &line, secret.clone()).await.0, 200);
    drop(server);
    let server = on_disk(folder, &[]).await;
    let (code, body) = send(&server.router(), &format!("GET {SECRETS}/s"), Value::Null).await;
    let read: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((code, &read["data"]), (200, &secret["data"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_running_server_is_restored() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    let server = on_disk(&old, &[]).await;
    for n in 0..50 {
        let line = format!("POST {CONFIG_MAPS}");
        assert_eq!(send(&server.router(), &line, config_map(&format!("c{n}"))).await.0, 201);
    }
    assert_eq!(
        send(&server.router(), &format!("DELETE {CONFIG_MAPS}/c7"), Value::Null).await.0,
        200
    );
    let (code, bytes) = send(&server.router(), "GET /coracle/backup", Value::Null).await;
    assert_eq!(code, 200);
    let file = folder.path().join("backup");
    std::fs::write(&file, &bytes).unwrap();
    assert_eq!(
        std::fs::read_dir(&old)
            .unwrap()
            .flatten()
            .filter(|file| { file.file_name().to_string_lossy().starts_with("backup") })
            .count(),
        0
    );
    // What comes after the backup is not in it.
    assert_eq!(
        send(&server.router(), &format!("POST {CONFIG_MAPS}"), config_map("late")).await.0,
        201
    );
    let list = async |server: &Server| -> Value {
        let (_, body) = send(&server.router(), &format!("GET {CONFIG_MAPS}"), Value::Null).await;
        serde_json::from_slice(&body).unwrap()
    };
    let revision = |list: &Value| -> u64 {
        list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    };
    let before = list(&server).await;
    drop(server);

    std::fs::create_dir(&new).unwrap();
    let restored = backup::restore(&file, &new.join("store.redb")).unwrap();
    let server = on_disk(&new, &[]).await;
    let after = list(&server).await;
    assert_eq!(after["items"].as_array().unwrap().len(), 49);
    assert_eq!(after["items"][0], before["items"][0], "objects keep their resourceVersions");
    assert!(revision(&after) > revision(&before) && revision(&after) >= restored.revision);
    let old_watch = format!("GET {CONFIG_MAPS}?watch=1&resourceVersion={}", revision(&before));
    let (_, gone) = send(&server.router(), &old_watch, Value::Null).await;
    assert!(String::from_utf8_lossy(&gone).contains("too old resource version"), "{gone:?}");
    drop(server);

    let again = backup::restore(&file, &new.join("store.redb")).unwrap_err();
    assert!(again.to_string().contains("exists"), "{again}");
    std::fs::write(&file, b"no backup").unwrap();
    assert!(backup::restore(&file, &new.join("other.redb")).is_err());
    assert!(!new.join("other.redb").exists());
}
