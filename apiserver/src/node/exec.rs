//! `pods/NAME/exec` and `/attach`: an upgraded connection (WebSocket or SPDY), handed to the agent
//! byte for byte.

use axum::{body::Body, response::Response};
use http::{HeaderMap, HeaderName, Request, StatusCode, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use proto::status::Status;
use tokio::io::AsyncWriteExt;

use super::{connect::Agent, container::Pod, log::refusal, passed_on};
use crate::{http::Api, registry::Call};

const OPTIONS: &[&str] = &["command", "stdin", "stdout", "stderr", "tty"];

/// The headers of an upgrade, in both directions.
static PASSED: [HeaderName; 8] = [
    header::UPGRADE,
    header::CONNECTION,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::SEC_WEBSOCKET_ACCEPT,
    HeaderName::from_static("x-stream-protocol-version"),
];

pub(super) async fn connect(
    api: &Api,
    call: &Call<'_>,
    parts: &Parts,
    upgrade: Option<OnUpgrade>,
    pod: &Pod,
) -> Result<Response, Status> {
    let container = pod.container(call.query.text("container"))?;
    if call.subresource == "exec" && call.query.text("command").is_empty() {
        return Err(Status::bad_request("you must specify at least 1 command for the container"));
    }
    if matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
        let act = if call.subresource == "exec" { "exec into" } else { "attach to" };
        return Err(Status::bad_request(format!(
            "cannot {act} a container in a completed pod; current phase is {}",
            pod.status.phase
        )));
    }
    let agent = Agent::of(&api.registry, pod.node()?)?;
    let Some(upgrade) = upgrade.filter(|_| parts.headers.contains_key(header::UPGRADE)) else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let path = format!(
        "/{}/{}/{}/{container}?{}",
        call.subresource,
        call.namespace,
        call.name,
        passed_on(call.query, OPTIONS)
    );
    let mut request = Request::new(Body::empty());
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() =
        path.parse().map_err(|error| Status::internal(format!("asking the node: {error}")))?;
    copy(&parts.headers, request.headers_mut());
    let mut response = api.nodes.send(&agent, request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(response).await);
    }
    let mut switched = Response::new(Body::empty());
    *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    copy(response.headers(), switched.headers_mut());
    let from_agent = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        // The client's side is upgraded once it has the answer.
        let (Ok(client), Ok(agent)) = tokio::join!(upgrade, from_agent) else { return };
        let (mut client, mut agent) = (TokioIo::new(client), TokioIo::new(agent));
        let _ = tokio::io::copy_bidirectional(&mut client, &mut agent).await;
        // However one side ended, the other is told in order.
        let _ = tokio::join!(client.shutdown(), agent.shutdown());
    });
    Ok(switched)
}

fn copy(from: &HeaderMap, to: &mut HeaderMap) {
    for name in &PASSED {
        for value in from.get_all(name) {
            to.append(name.clone(), value.clone());
        }
    }
}
