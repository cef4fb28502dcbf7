//! `pods/NAME/log`: the agent's text, as it comes.

use axum::{body::Body, response::Response};
use http::{Request, header};
use http_body_util::BodyExt;
use proto::status::{FieldError, Status};

use super::{connect::Agent, container::Pod, passed_on};
use crate::{http::Api, registry::Call};

/// PodLogOptions that the agent reads.
const OPTIONS: &[&str] = &[
    "follow",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "timestamps",
    "tailLines",
    "limitBytes",
    "stream",
];

pub(super) async fn stream(api: &Api, call: &Call<'_>, pod: &Pod) -> Result<Response, Status> {
    check(call)?;
    let container = pod.container(call.query.text("container"))?;
    // Without a node there is nothing to say yet, and no failure either.
    let Ok(node) = pod.node() else { return Ok(text(Body::empty())) };
    let agent = Agent::of(&api.registry, node)?;
    let path = format!(
        "/containerLogs/{}/{}/{container}?{}",
        call.namespace,
        call.name,
        passed_on(call.query, OPTIONS)
    );
    let request = Request::get(path)
        .body(Body::empty())
        .map_err(|error| Status::internal(format!("asking for logs: {error}")))?;
    let response = api.nodes.send(&agent, request).await?;
    if !response.status().is_success() {
        return Err(refusal(response).await);
    }
    Ok(text(Body::new(response.into_body())))
}

fn text(body: Body) -> Response {
    let mut response = Response::new(body);
    let plain = http::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// What the agent refuses, as the client is told: its own Status, or its text as a 400.
pub(super) async fn refusal(response: http::Response<hyper::body::Incoming>) -> Status {
    let code = response.status().as_u16();
    let limited = http_body_util::Limited::new(response.into_body(), 64 << 10);
    let body = match limited.collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => bytes::Bytes::new(),
    };
    if let Ok(status) = serde_json::from_slice::<Status>(&body)
        && status.kind == "Status"
    {
        return status;
    }
    let message = String::from_utf8_lossy(&body).trim().to_string();
    match code {
        404 => Status::failure(404, "NotFound", message),
        code if code < 500 => Status::bad_request(message),
        _ => Status::internal(message),
    }
}

fn check(call: &Call) -> Result<(), Status> {
    let mut errors = Vec::new();
    let query = call.query;
    for (name, least) in [("tailLines", 0), ("sinceSeconds", 1), ("limitBytes", 1)] {
        let Some(number) = query.number(name)? else { continue };
        if number < least {
            let detail = match least {
                0 => "must be greater than or equal to 0",
                _ => "must be greater than 0",
            };
            errors.push(FieldError::invalid(name, number, detail));
        }
    }
    if query.find("sinceSeconds").is_some() && query.find("sinceTime").is_some() {
        let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(FieldError::forbidden("", why));
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid("", "PodLogOptions", call.name, &errors)),
    }
}
