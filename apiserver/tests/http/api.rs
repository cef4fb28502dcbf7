//! A whole API server for one test: in memory, on a free port, called through its router.

#![allow(dead_code, reason = "every test program uses a part of it")]

use std::sync::Arc;

use apiserver::{Options, Server, ServerError, store::StoreError};
use axum::{Router, body::Body};
use bytes::Bytes;
use clap::Parser;
use client::{Clock, Rng};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use proto::user::User;
use serde_json::{Value, json};
use tower::ServiceExt;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: Options,
}

pub fn options(dir: &std::path::Path, flags: &[&str]) -> Options {
    let dir = dir.display().to_string();
    let mut line = vec!["apiserver", "--secure-port=0", "--ephemeral", "--data-dir", &dir];
    line.extend(flags);
    Flags::parse_from(line).options
}

pub struct Api {
    pub server: Option<Server>,
    router: Router,
    pub dir: tempfile::TempDir,
    pub user: User,
}

/// An answer, read to its end.
pub struct Reply {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub bytes: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_string()
    }

    pub fn warnings(&self) -> Vec<String> {
        let values = self.headers.get_all("warning").iter();
        values.map(|value| value.to_str().unwrap().to_string()).collect()
    }

    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text());
        self.json()
    }
}

impl Api {
    pub async fn start() -> Api {
        Api::start_with(&[]).await
    }

    pub async fn start_with(flags: &[&str]) -> Api {
        Api::start_at(Clock::system(), flags).await
    }

    pub async fn start_at(clock: Clock, flags: &[&str]) -> Api {
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path(), flags);
        let server = Server::start(options, clock, Rng::seeded(7)).await.unwrap();
        let user = User::new("admin", &["system:masters"]);
        let api = Api { router: server.router(), server: Some(server), dir, user };
        api.account("default").await;
        api
    }

    /// The default ServiceAccount that every namespace has where the controllers run; pods of a
    /// namespace without one are refused.
    pub async fn account(&self, namespace: &str) {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        self.post(&path, json!({"metadata": {"name": "default"}})).await.expect(201);
    }

    /// A namespace with these labels and its default ServiceAccount.
    pub async fn namespace(&self, name: &str, labels: Value) {
        let namespace = json!({"metadata": {"name": name, "labels": labels}});
        self.post("/api/v1/namespaces", namespace).await.expect(201);
        self.account(name).await;
    }

    /// A server that the test has started itself.
    pub fn of(server: Server) -> Api {
        let dir = tempfile::tempdir().unwrap();
        let user = User::new("admin", &["system:masters"]);
        Api { router: server.router(), server: Some(server), dir, user }
    }

    /// Another user of the same server.
    pub fn as_user(&self, user: User) -> Api {
        let dir = tempfile::tempdir().unwrap();
        Api { router: self.router.clone(), server: None, dir, user }
    }

    pub async fn respond(&self, request: Request<Body>) -> http::Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// `METHOD /path`, headers as `name: value`.
    pub async fn send(&self, line: &str, headers: &[&str], body: impl Into<Body>) -> Reply {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path);
        if self.user != User::default() {
            request = request.extension(self.user.clone());
        }
        for header in headers {
            let (name, value) = header.split_once(": ").unwrap();
            request = request.header(name, value);
        }
        let response = self.respond(request.body(body.into()).unwrap()).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Reply { code: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path}"), &[], "").await
    }

    pub async fn post(&self, path: &str, object: Value) -> Reply {
        let json = "content-type: application/json";
        self.send(&format!("POST {path}"), &[json], object.to_string()).await
    }

    pub async fn put(&self, path: &str, object: Value) -> Reply {
        let json = "content-type: application/json";
        self.send(&format!("PUT {path}"), &[json], object.to_string()).await
    }

    pub async fn merge(&self, path: &str, patch: Value) -> Reply {
        self.patch(path, "merge-patch+json", patch).await
    }

    pub async fn patch(&self, path: &str, kind: &str, patch: Value) -> Reply {
        let header = format!("content-type: application/{kind}");
        self.send(&format!("PATCH {path}"), &[&header], patch.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send(&format!("DELETE {path}"), &[], "").await
    }

    pub async fn watch(&self, path: &str) -> Watch {
        self.watch_as(path, "application/json").await
    }

    pub async fn watch_as(&self, path: &str, accept: &str) -> Watch {
        let request = Request::get(path).header("accept", accept).extension(self.user.clone());
        let response = self.respond(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
        Watch { body: response.into_body(), rest: Vec::new() }
    }
}

/// A server on a store that the former one is just letting go of.
pub async fn reopened(options: &Options) -> Server {
    let again = async {
        loop {
            match Server::start(options.clone(), Clock::system(), Rng::seeded(9)).await {
                Ok(server) => return server,
                Err(ServerError::Store(StoreError::Locked { .. })) => {
                    tokio::task::yield_now().await
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    let limit = std::time::Duration::from_secs(10);
    Clock::system().timeout(limit, again).await.expect("the store is let go of")
}

/// The events of a watch, one line each.
pub struct Watch {
    body: Body,
    rest: Vec<u8>,
}

impl Watch {
    /// The next event; null at the end.
    pub async fn next(&mut self) -> Value {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).unwrap();
            }
            let limit = std::time::Duration::from_secs(10);
            let frame = Clock::system().timeout(limit, self.body.frame()).await;
            match frame.expect("an event within ten seconds") {
                Some(frame) => self.rest.extend_from_slice(&frame.unwrap().into_data().unwrap()),
                None => return Value::Null,
            }
        }
    }

    /// `ADDED a`, `BOOKMARK `.
    pub async fn short(&mut self) -> String {
        let event = self.next().await;
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap_or("end"))
    }
}

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

pub fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    })
}

pub fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    })
}

pub type Shared = Arc<Api>;
