//! A connection to a node's agent or to a server in a pod: HTTP/1.1, one per request, so that it
//! can be upgraded.

use std::{io, net::IpAddr, time::Duration};

use axum::body::Body;
use client::websocket::Stream;
use http::{Request, Response, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use proto::{kind, status::Status};
use rustls_pki_types::ServerName;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Nodes;
use crate::registry::Registry;

/// How long a node may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a node's agent listens.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Agent {
    pub host: String,
    pub port: u16,
}

/// How a connection is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Security {
    Plain,
    /// TLS with whoever answers.
    Blind,
    /// TLS with an agent of this cluster, which learns who we are.
    Agent,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Node {
    status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeStatus {
    addresses: Vec<Address>,
    daemon_endpoints: Endpoints,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    r#type: String,
    address: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Endpoints {
    kubelet_endpoint: Endpoint,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Endpoint {
    #[serde(rename = "Port")]
    port: u16,
}

impl Agent {
    /// From the node's status.
    pub(super) fn of(registry: &Registry, name: &str) -> Result<Agent, Status> {
        let nodes = &registry.of(&kind::NODE).cache;
        let node = nodes.get("", name).ok_or_else(|| Status::not_found("", "nodes", name))?;
        let node: Node = serde_json::from_slice(&node.bytes())
            .map_err(|error| Status::internal(format!("reading node {name}: {error}")))?;
        node.agent().ok_or_else(|| {
            Status::internal(format!(
                "no preferred addresses found; known addresses of node {name}: []"
            ))
        })
    }
}

impl Node {
    fn agent(&self) -> Option<Agent> {
        let find = |kind: &str| self.status.addresses.iter().find(|address| address.r#type == kind);
        let address = ["InternalIP", "ExternalIP", "Hostname"].into_iter().find_map(find)?;
        let port = self.status.daemon_endpoints.kubelet_endpoint.port;
        Some(Agent { host: address.address.clone(), port: if port == 0 { 10250 } else { port } })
    }
}

impl Nodes {
    /// Sends one request to an agent. The response may be upgraded.
    pub(super) async fn send(
        &self,
        agent: &Agent,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, Status> {
        if let Ok(host) = format!("{}:{}", agent.host, agent.port).parse() {
            request.headers_mut().insert(header::HOST, host);
        }
        let answer = self.open(&agent.host, agent.port, Security::Agent, request).await;
        answer.map_err(|why| Status::internal(format!("error dialing backend: {why}")))
    }

    /// Sends one request to a server; an error is why it cannot be reached.
    pub(super) async fn open(
        &self,
        host: &str,
        port: u16,
        security: Security,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, String> {
        let shown = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
        let failed = |why: &str| format!("dial tcp {shown}:{port}: {why}");
        let dial = async {
            let stream = TcpStream::connect((host, port)).await?;
            let _ = stream.set_nodelay(true);
            let config = match security {
                Security::Plain => return Ok(Box::new(stream) as Box<dyn Stream>),
                Security::Blind => self.blind.clone(),
                Security::Agent => self.tls.load_full(),
            };
            let name = match host.parse::<IpAddr>() {
                Ok(address) => ServerName::from(address),
                Err(_) => ServerName::try_from(host.to_string()).map_err(io::Error::other)?,
            };
            let stream = TlsConnector::from(config).connect(name, stream).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        };
        let stream = match self.clock.timeout(PATIENCE, dial).await {
            Ok(result) => result.map_err(|error| failed(&reason(&error)))?,
            Err(_) => return Err(failed("i/o timeout")),
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error.to_string()))?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(|error| match error.is_incomplete_message() {
            true => "EOF".to_string(),
            false => error.to_string(),
        })
    }
}

/// As Go says why a connection was not made.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        io::ErrorKind::TimedOut => "i/o timeout".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_an_agent_listens() {
        let node: Node = serde_json::from_str(
            r#"{"status":{"addresses":[{"type":"Hostname","address":"n1"},
                {"type":"InternalIP","address":"10.0.0.1"}],
                "daemonEndpoints":{"kubeletEndpoint":{"Port":1234}}}}"#,
        )
        .unwrap();
        assert_eq!(node.agent(), Some(Agent { host: "10.0.0.1".into(), port: 1234 }));
        assert_eq!(Node::default().agent(), None);
    }
}
