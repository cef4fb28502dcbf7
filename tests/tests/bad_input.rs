//! Bad input over the wire: each gets a clear error and loses nothing.

use bytes::Bytes;
use client::{Client, Kubeconfig};
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tests::server::Server;
use tests::{needs, program};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// Code, Warning headers and body of one request.
async fn send(
    client: &Client,
    method: Method,
    path: &str,
    kind: &str,
    body: impl Into<Bytes>,
) -> (u16, Vec<String>, Value) {
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    let response = client.request(request.body(body.into()).unwrap()).await.unwrap();
    let code = response.status().as_u16();
    let warnings = response.headers().get_all("warning").iter();
    let warnings = warnings.map(|value| value.to_str().unwrap().to_string()).collect();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, warnings, serde_json::from_slice(&body).expect("every answer is JSON"))
}

fn client(server: &Server) -> Client {
    let config = Kubeconfig::read(&server.kubeconfig()).unwrap().config(None).unwrap();
    Client::connect(&config).unwrap()
}

fn deployment(spec: Value) -> String {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web"}]}},
        },
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refused_body_says_why() {
    let server = Server::start(&["--ephemeral"]);
    let client = client(&server);
    let (yaml, json) = ("application/yaml", "application/json");
    let deep = format!("{}{}", r#"{"a":"#.repeat(20_000), "1".to_string() + &"}".repeat(20_000));
    let bomb: String = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_string()
        + &(1..12).map(|n| {
            let (this, last) = ((b'a' + n) as char, (b'a' + n - 1) as char);
            format!("{this}: &{this} [*{last},*{last},*{last},*{last},*{last},*{last},*{last},*{last},*{last}]\n")
        }).collect::<String>();
    let huge = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"huge"}},"data":{{"x":"{}"}}}}"#,
        "x".repeat(20 << 20)
    );
    let cases: Vec<(&str, &str, String, u16, &str, &str)> = vec![
        (MAPS, yaml, "kind: [ConfigMap\n".into(), 400, "BadRequest", ""),
        (MAPS, json, "{\"kind\": ".into(), 400, "BadRequest", "unexpected"),
        (MAPS, yaml, bomb, 400, "BadRequest", ""),
        (MAPS, json, deep, 400, "BadRequest", "depth"),
        (MAPS, json, huge, 413, "RequestEntityTooLarge", "limit is 3145728"),
        (
            MAPS,
            "text/plain",
            "{}".into(),
            415,
            "UnsupportedMediaType",
            "accepted media types include",
        ),
        (
            DEPLOYMENTS,
            json,
            deployment(json!({"replicas": "three"})),
            400,
            "BadRequest",
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            DEPLOYMENTS,
            json,
            deployment(json!({"replicas": -1})),
            422,
            "Invalid",
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            DEPLOYMENTS,
            json,
            deployment(json!({"selector": {"matchLabels": {"app": "other"}}})),
            422,
            "Invalid",
            "`selector` does not match template `labels`",
        ),
        (
            MAPS,
            json,
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"Not_A_Name"}}"#.into(),
            422,
            "Invalid",
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'",
        ),
        (
            PODS,
            json,
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"empty"},"spec":{}}"#.into(),
            422,
            "Invalid",
            "spec.containers: Required value",
        ),
        (
            "/api/v1/namespaces/nowhere/configmaps",
            json,
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#.into(),
            404,
            "NotFound",
            "namespaces \"nowhere\" not found",
        ),
        (
            MAPS,
            json,
            r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}"#.into(),
            400,
            "BadRequest",
            "Secret",
        ),
        (
            "/api/v1/namespaces/default/gadgets",
            json,
            "{}".into(),
            404,
            "NotFound",
            "could not find the requested resource",
        ),
    ];
    for (path, kind, body, code, reason, words) in cases {
        let head: String = body.chars().take(80).collect();
        let (said, _, status) = send(&client, Method::POST, path, kind, body).await;
        assert_eq!((said, status["kind"].as_str()), (code, Some("Status")), "{head}: {status}");
        assert_eq!(status["reason"], reason, "{head}: {status}");
        let message = status["message"].as_str().unwrap();
        assert!(message.contains(words), "{head}: {message}");
    }
    let (code, _, list) = send(&client, Method::GET, MAPS, json, "").await;
    assert_eq!(code, 200, "it lives on");
    let names: Vec<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|map| map["metadata"]["name"].as_str().unwrap())
        .collect();
    assert!(
        names.iter().all(|name| *name == "kube-root-ca.crt"),
        "nothing refused was stored: {names:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_errors_warnings_or_nothing() {
    let server = Server::start(&["--ephemeral"]);
    let client = client(&server);
    let body = |name: &str| {
        format!(
            r#"{{"apiVersion":"apps/v1","kind":"Deployment","metadata":{{"name":"{name}"}},"spec":{{"foo":1,"replicas":0,"replicas":0,
            "selector":{{"matchLabels":{{"app":"web"}}}},"template":{{"metadata":{{"labels":{{"app":"web"}}}},
            "spec":{{"containers":[{{"name":"web","image":"web","imagee":"x"}}]}}}}}}}}"#
        )
    };
    let create = |name: &'static str, validation: &str| {
        let path = format!("{DEPLOYMENTS}?fieldValidation={validation}");
        let (client, body) = (client.clone(), body(name));
        async move { send(&client, Method::POST, &path, "application/json", body).await }
    };
    let (code, _, status) = create("strict", "Strict").await;
    assert_eq!(code, 400);
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("strict decoding error: "), "{message}");
    for part in [
        r#"unknown field "spec.foo""#,
        r#"duplicate field "spec.replicas""#,
        r#"unknown field "spec.template.spec.containers[0].imagee""#,
    ] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    let (code, warnings, _) = create("warn", "Warn").await;
    assert_eq!(code, 201);
    assert!(
        warnings.iter().any(|warning| warning.starts_with("299 - ")
            && warning.contains(r#"unknown field \"spec.foo\""#)),
        "{warnings:?}"
    );
    let (code, warnings, stored) = create("ignore", "Ignore").await;
    assert_eq!((code, warnings.len()), (201, 0));
    assert!(stored["spec"].get("foo").is_none(), "an unknown field is dropped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_write_is_a_conflict() {
    let server = Server::start(&["--ephemeral"]);
    let client = client(&server);
    let map = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"1"}}"#;
    let (_, _, mut first) = send(&client, Method::POST, MAPS, "application/json", map).await;
    first["data"]["k"] = "2".into();
    let path = format!("{MAPS}/a");
    let (code, ..) = send(&client, Method::PUT, &path, "application/json", first.to_string()).await;
    assert_eq!(code, 200);
    let (code, _, status) =
        send(&client, Method::PUT, &path, "application/json", first.to_string()).await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
    assert_eq!(
        status["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please \
         apply your changes to the latest version and try again"
    );
}

/// What a user of the command line sees.
#[test]
fn ctl_says_one_clear_line() {
    let server = Server::start(&["--ephemeral"]);
    for (input, words) in [
        ("kind: [", "error parsing STDIN"),
        (
            "apiVersion: v1\nkind: Gadget\nmetadata: {name: a}",
            "no matches for kind \"Gadget\" in version \"v1\"",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\nspec: {}",
            ".spec: field not declared in schema",
        ),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {}", "resource name may not be empty"),
        ("just text", "a manifest is a mapping"),
    ] {
        let said = server.ctl_with(&["apply", "-f", "-"], input).fails();
        assert!(said.contains(words), "{input}: {said}");
        assert_eq!(said.trim().lines().count(), 1, "{said}");
    }
    let said = server.ctl(&["get", "gadgets"]).fails();
    assert_eq!(said, "error: the server doesn't have a resource type \"gadgets\"\n");
    let said = server.ctl(&["get", "pod", "none"]).fails();
    assert_eq!(said, "Error from server (NotFound): pods \"none\" not found\n");
    let said = server.ctl(&["apply", "-f", "/no/such.yaml"]).fails();
    assert_eq!(said, "error: the path \"/no/such.yaml\" does not exist\n");
}

#[test]
fn without_a_cluster_ctl_says_what_to_do() {
    let run = |kubeconfig: &str| {
        let mut ctl = std::process::Command::new(program::built("ctl"));
        program::run(
            ctl.env("KUBECONFIG", kubeconfig).env("HOME", "/nonexistent").args(["get", "pods"]),
        )
    };
    let said = run("").fails();
    assert!(said.contains("\"ctl cluster create\" starts one"), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    std::fs::write(&file, "clusters: [broken").unwrap();
    let said = run(&file.to_string_lossy()).fails();
    assert!(said.contains("is not valid"), "{said}");
    let mut server = Server::start(&["--ephemeral"]);
    server.terminate();
    let said = run(&server.kubeconfig().to_string_lossy()).fails();
    assert!(said.contains("does not answer") && said.trim().lines().count() == 1, "{said}");
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let server = Server::start(&["--ephemeral"]);
    let folder = tempfile::tempdir().unwrap();
    let mut second = std::process::Command::new(program::built("ctl"));
    second.args(["server", "--ephemeral", "--secure-port", &server.port.to_string(), "--data-dir"]);
    let said = program::run(second.arg(folder.path())).fails();
    let port = server.port;
    assert!(
        said.contains(&format!(
            "cannot listen on 127.0.0.1:{port}: another program uses this port"
        )),
        "{said}"
    );
}

/// Writes fail with a reason, reads go on, and once there is room again so do writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing() {
    needs!(root);
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = |arguments: &[&str]| {
        program::run(std::process::Command::new("mount").args(arguments).arg(&disk)).ok()
    };
    mount(&["-t", "tmpfs", "-o", "size=24m", "tmpfs"]);
    let server = Server::at(&disk.join("data"), &[]);
    let client = client(&server);
    let ballast = disk.join("ballast");
    std::fs::write(&ballast, vec![0; 8 << 20]).unwrap();
    let map = |index: usize| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{index}")},
               "data": {"x": "x".repeat(500_000)}})
        .to_string()
    };
    let mut stored = 0;
    let refused = loop {
        let (code, _, answer) =
            send(&client, Method::POST, MAPS, "application/json", map(stored)).await;
        if code != 201 {
            break (code, answer);
        }
        stored += 1;
        assert!(stored < 100, "a disk of 24 MiB cannot hold 50 MB");
    };
    assert!(matches!(refused.0, 500 | 507), "{refused:?}");
    assert_eq!(refused.1["kind"], "Status");
    assert!(!refused.1["message"].as_str().unwrap().is_empty());
    for index in 0..stored {
        let (code, ..) =
            send(&client, Method::GET, &format!("{MAPS}/m{index}"), "application/json", "").await;
        assert_eq!(code, 200, "m{index} can still be read");
    }
    std::fs::remove_file(&ballast).unwrap();
    let (code, _, answer) =
        send(&client, Method::POST, MAPS, "application/json", map(stored)).await;
    assert_eq!(code, 201, "there is room again: {answer}");
    drop(server);
    program::run(std::process::Command::new("umount").arg(&disk)).ok();
}
