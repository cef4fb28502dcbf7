//! A command's connection to its cluster: which kubeconfig, context and namespace, and the API
//! behind them.

use std::ops::ControlFlow;
use std::path::PathBuf;

use bytes::Bytes;
use client::error::chain;
use client::{Client, Config, Kubeconfig};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::failure::{Failure, Result};
use crate::resources::{Resources, text};

/// Which cluster a command speaks to.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Connection {
    /// Path of the kubeconfig (default: $KUBECONFIG, then ~/.kube/config)
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig to use
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// Namespace to work in
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
}

/// An open connection.
pub struct Session {
    pub client: Client,
    /// Where commands work that name no namespace.
    pub namespace: String,
    /// Whether `-n` named it.
    pub namespace_was_asked: bool,
    resources: OnceCell<Resources>,
}

impl Connection {
    /// Resolves kubeconfig and context; the network is first used by the first request.
    pub fn open(&self) -> Result<Session> {
        let config = self.config()?;
        let client = Client::connect(&config).map_err(|error| Failure::said(chain(&error)))?;
        let namespace = match (&self.namespace, config.namespace.as_str()) {
            (Some(namespace), _) => namespace.clone(),
            (None, "") => "default".into(),
            (None, namespace) => namespace.into(),
        };
        Ok(Session {
            client: client.named("ctl"),
            namespace,
            namespace_was_asked: self.namespace.is_some(),
            resources: OnceCell::new(),
        })
    }

    fn config(&self) -> Result<Config> {
        let explain = |error: client::kubeconfig::KubeconfigError| match error {
            client::kubeconfig::KubeconfigError::Empty => Failure::said(
                "there is no cluster to speak to: neither $KUBECONFIG nor ~/.kube/config names \
                 one; \"ctl cluster create\" starts one",
            ),
            error => Failure::said(chain(&error)),
        };
        let kubeconfig = Kubeconfig::load(self.kubeconfig.as_deref()).map_err(explain)?;
        kubeconfig.config(self.context.as_deref()).map_err(explain)
    }
}

impl Session {
    /// What the server serves, asked once.
    pub async fn resources(&self) -> Result<&Resources> {
        self.resources.get_or_try_init(|| Resources::discover(&self.client)).await
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        self.send(Method::GET, path, "", None).await
    }

    /// One request with JSON out and in; warnings of the server go to stderr.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<Value> {
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let response = self.client.open(method, path, content_type, body).await?;
        print_warnings(&response);
        let bytes = response
            .into_body()
            .collect()
            .await
            .map_err(|error| Failure::said(format!("{path}: the answer broke off: {error}")))?;
        serde_json::from_slice(&bytes.to_bytes())
            .map_err(|error| Failure::said(format!("{path}: the answer is not JSON: {error}")))
    }

    /// The same with another Accept header.
    pub async fn get_as(&self, path: &str, accept: &str) -> Result<Response<client::Body>> {
        let request = Request::get(path)
            .header(http::header::ACCEPT, accept)
            .body(Bytes::new())
            .map_err(|error| Failure::said(format!("{path}: {error}")))?;
        let response = self.client.request(request).await?;
        match response.status().as_u16() {
            ..400 => Ok(response),
            _ => {
                // The client words refusals; let it ask again.
                self.client.open(Method::GET, path, "", Bytes::new()).await?;
                Err(Failure::said(format!("{path}: the server cannot answer as {accept}")))
            }
        }
    }
}

impl Session {
    /// Calls `seen` with type and object of every change at a watch's path, until it breaks or the
    /// server ends the watch.
    pub async fn watch(
        &self,
        path: &str,
        accept: &str,
        mut seen: impl FnMut(&str, &Value) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut body = self.get_as(path, accept).await?.into_body();
        let mut buffer = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|why| Failure::said(format!("the watch broke off: {why}")))?;
            buffer.extend_from_slice(frame.data_ref().map(AsRef::as_ref).unwrap_or_default());
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line)
                    .map_err(|why| Failure::said(format!("the watch sent no JSON: {why}")))?;
                match text(&event["type"]) {
                    "BOOKMARK" => {}
                    "ERROR" => return Err(Failure::said(text(&event["object"]["message"]))),
                    kind => {
                        if seen(kind, &event["object"])?.is_break() {
                            return Ok(());
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn print_warnings(response: &Response<client::Body>) {
    for warning in response.headers().get_all(http::header::WARNING) {
        let text = warning.to_str().unwrap_or_default();
        // 299 - "text"
        let text = text.splitn(3, ' ').nth(2).unwrap_or(text);
        let text: String = serde_json::from_str(text).unwrap_or_else(|_| text.to_string());
        anstream::eprintln!("Warning: {text}");
    }
}

/// Percent-encodes a query from pairs; empty values are left out.
pub fn query(path: &str, pairs: &[(&str, &str)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        query.append_pair(name, value);
    }
    match query.finish() {
        query if query.is_empty() => path.to_string(),
        query => format!("{path}?{query}"),
    }
}
