//! `pods/NAME/exec`, `/attach` and `/portforward`: an upgraded connection (WebSocket or SPDY),
//! handed to the agent byte for byte.

use axum::{body::Body, response::Response};
use http::{Request, StatusCode, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use proto::status::Status;

use super::{connect::Agent, container::Pod, log::refusal, passed_on, splice};
use crate::{http::Api, registry::Call};

const OPTIONS: &[&str] = &["command", "stdin", "stdout", "stderr", "tty"];

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
    let path = format!(
        "/{}/{}/{}/{container}?{}",
        call.subresource,
        call.namespace,
        call.name,
        passed_on(call.query, OPTIONS)
    );
    upgraded(api, parts, upgrade, pod, &path).await
}

/// `pods/NAME/portforward`.
pub(super) async fn forward(
    api: &Api,
    call: &Call<'_>,
    parts: &Parts,
    upgrade: Option<OnUpgrade>,
    pod: &Pod,
) -> Result<Response, Status> {
    for port in call.query.all("ports").flat_map(|list| list.split(',')) {
        match port.parse::<u16>() {
            Ok(1..) => {}
            Ok(0) | Err(_) => {
                return Err(Status::bad_request(format!("invalid port value {port:?}")));
            }
        }
    }
    let passed = passed_on(call.query, &["ports"]);
    let path = format!("/portForward/{}/{}?{passed}", call.namespace, call.name);
    upgraded(api, parts, upgrade, pod, &path).await
}

/// Asks the pod's agent for an upgraded connection and joins the client to it.
async fn upgraded(
    api: &Api,
    parts: &Parts,
    upgrade: Option<OnUpgrade>,
    pod: &Pod,
    path: &str,
) -> Result<Response, Status> {
    let agent = Agent::of(&api.registry, pod.node()?)?;
    let Some(upgrade) = upgrade.filter(|_| parts.headers.contains_key(header::UPGRADE)) else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let mut request = Request::new(Body::empty());
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() =
        path.parse().map_err(|error| Status::internal(format!("asking the node: {error}")))?;
    splice::copy(&parts.headers, request.headers_mut());
    let response = api.nodes.send(&agent, request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(response).await);
    }
    Ok(splice::join(upgrade, response))
}
