//! `/exec`, `/attach`, `/portForward` and `/run`: the runtime is asked where the streams are, and the
//! upgraded connection (WebSocket or SPDY) is passed through to there, byte for byte; a WebSocket to
//! a runtime that is not ours is translated.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use client::Entry;
use http::header::{CONTENT_TYPE, HOST};
use http::{StatusCode, Uri};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use proto::cri::{AttachRequest, ExecRequest, PortForwardRequest};
use proto::view::pod::Pod;
use tokio::net::TcpStream;

use super::translate::{self, Wanted};
use super::{Shared, refuse};
use crate::cri::Output;

/// What the runtime of this crate calls itself: it knows every protocol.
const OWN: &str = "coracle";
/// What CRI takes for: as long as it takes.
const UNLIMITED: Duration = Duration::ZERO;

/// Namespace and pod, perhaps the pod's uid, and the container.
type Names = Path<Vec<(String, String)>>;

/// The parts of a path by name; absent ones are empty.
struct Named(Vec<(String, String)>);

impl Named {
    fn part(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str())
    }
}

pub(super) async fn exec(
    State(shared): State<Shared>,
    Path(names): Names,
    request: Request,
) -> Response {
    let query = Query::of(&request);
    if query.all("command").next().is_none() {
        let why = "you must specify at least 1 command for the container";
        return refuse(StatusCode::BAD_REQUEST, why);
    }
    let id = match running(&shared, &Named(names)).await {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    let tty = query.flag("tty", "tty");
    let asked = ExecRequest {
        container_id: id,
        cmd: query.all("command").map(String::from).collect(),
        tty,
        stdin: query.flag("stdin", "input"),
        stdout: query.flag("stdout", "output"),
        // A terminal has but one output.
        stderr: query.flag("stderr", "error") && !tty,
    };
    let ExecRequest { stdin, stdout, stderr, .. } = asked;
    let wanted = Wanted { stdin, stdout, stderr, tty };
    match shared.pods.context().runtime.exec_url(asked).await {
        Ok(url) => join(&shared, request, &url, Some(wanted)).await,
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

pub(super) async fn attach(
    State(shared): State<Shared>,
    Path(names): Names,
    request: Request,
) -> Response {
    let query = Query::of(&request);
    let id = match running(&shared, &Named(names)).await {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    let tty = query.flag("tty", "tty");
    let asked = AttachRequest {
        container_id: id,
        tty,
        stdin: query.flag("stdin", "input"),
        stdout: query.flag("stdout", "output"),
        stderr: query.flag("stderr", "error") && !tty,
    };
    let AttachRequest { stdin, stdout, stderr, .. } = asked;
    let wanted = Wanted { stdin, stdout, stderr, tty };
    match shared.pods.context().runtime.attach_url(asked).await {
        Ok(url) => join(&shared, request, &url, Some(wanted)).await,
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

pub(super) async fn port_forward(
    State(shared): State<Shared>,
    Path(names): Names,
    request: Request,
) -> Response {
    let entry = match find(&shared, &Named(names)) {
        Ok(entry) => entry,
        Err(refusal) => return refusal,
    };
    let runtime = &shared.pods.context().runtime;
    let observed = match runtime.observe(&shared.pods.runtime_uid(&entry.view)).await {
        Ok(observed) => observed,
        Err(error) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let Some(sandbox) = observed.current() else {
        let why = format!(
            "unable to forward port because pod is not running. Current status={}",
            entry.view.status.phase
        );
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, why);
    };
    let query = Query::of(&request);
    let lists = query.all("ports").chain(query.all("port"));
    let port = lists.flat_map(|list| list.split(',')).filter_map(|port| port.parse().ok());
    let asked = PortForwardRequest { pod_sandbox_id: sandbox.id.clone(), port: port.collect() };
    match runtime.port_forward_url(asked).await {
        Ok(url) => join(&shared, request, &url, None).await,
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// The pod that a path names.
fn find(shared: &Shared, names: &Named) -> Result<Arc<Entry<Pod>>, Response> {
    let entry = shared.informer.get(names.part("namespace"), names.part("pod"));
    let entry = entry.ok_or_else(|| refuse(StatusCode::NOT_FOUND, "pod does not exist"))?;
    let uid = names.part("uid");
    match uid.is_empty() || entry.view.metadata.uid == uid {
        true => Ok(entry),
        // The same name, another pod.
        false => Err(refuse(StatusCode::NOT_FOUND, "pod not found")),
    }
}

/// The id of the container's current run.
async fn running(shared: &Shared, names: &Named) -> Result<String, Response> {
    let uid = shared.pods.runtime_uid(&find(shared, names)?.view);
    let container = names.part("container");
    let observed = shared.pods.context().runtime.observe(&uid).await;
    let observed =
        observed.map_err(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let run = observed.running().find(|run| run.name == container);
    let missing = || refuse(StatusCode::NOT_FOUND, format!("container not found ({container:?})"));
    run.map(|run| run.id.clone()).ok_or_else(missing)
}

/// A command without streams: its output is the answer, and that it failed is an error.
pub(super) async fn run(
    State(shared): State<Shared>,
    Path(names): Names,
    request: Request,
) -> Response {
    let id = match running(&shared, &Named(names)).await {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    let query = Query::of(&request);
    let command = query.all("cmd").next().unwrap_or_default();
    let command: Vec<String> = command.split(' ').map(String::from).collect();
    let failed = |why: String| refuse(StatusCode::INTERNAL_SERVER_ERROR, why);
    match shared.pods.context().runtime.exec(&id, &command, UNLIMITED).await {
        Ok(Output { code: 0, mut stdout, stderr }) => {
            stdout.extend(stderr);
            ([(CONTENT_TYPE, "application/json")], stdout).into_response()
        }
        Ok(Output { code, stdout, stderr }) => {
            let said = [stdout, stderr].concat();
            let said = String::from_utf8_lossy(&said);
            failed(format!("command {command:?} exited with {code}: {said}"))
        }
        Err(error) => failed(error.to_string()),
    }
}

/// Joins the caller to the runtime's streams.
async fn join(shared: &Shared, request: Request, url: &str, wanted: Option<Wanted>) -> Response {
    let own = shared.pods.context().host.runtime_name == OWN;
    match !own && translate::is_understood(&request) {
        true => translate::translate(request, url, wanted).await,
        false => pass(request, url).await,
    }
}

/// Sends the request to the runtime's `url`; else what the caller is to be told.
pub(super) async fn ask(
    url: &str,
    mut request: http::Request<Body>,
) -> Result<http::Response<Incoming>, Response> {
    let gateway = |why: String| refuse(StatusCode::BAD_GATEWAY, why);
    let Ok(url) = url.parse::<Uri>() else {
        return Err(gateway(format!("the runtime's streaming URL {url:?} is none")));
    };
    let Some(authority) = url.authority() else {
        return Err(gateway(format!("the runtime's streaming URL {url} names no server")));
    };
    let port = authority.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((authority.host(), port)).await;
    let stream = stream.map_err(|error| gateway(format!("dial {authority}: {error}")))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) =
        handshake.map_err(|error| gateway(format!("dial {authority}: {error}")))?;
    tokio::spawn(connection.with_upgrades());
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|_| gateway(format!("{url} has no path")))?;
    if let Ok(host) = authority.as_str().parse() {
        request.headers_mut().insert(HOST, host);
    }
    let answer = sender.send_request(request).await;
    answer.map_err(|error| gateway(format!("ask {authority}: {error}")))
}

async fn pass(mut request: Request, url: &str) -> Response {
    let from_caller = hyper::upgrade::on(&mut request);
    let mut onward = http::Request::new(Body::empty());
    *onward.method_mut() = request.method().clone();
    *onward.headers_mut() = std::mem::take(request.headers_mut());
    let mut answer = match ask(url, onward).await {
        Ok(answer) => answer,
        Err(refusal) => return refusal,
    };
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return answer.map(Body::new);
    }
    let mut switched = Response::new(Body::empty());
    *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *switched.headers_mut() = std::mem::take(answer.headers_mut());
    let from_runtime = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        // The caller's side is upgraded once it has our answer.
        let (Ok(caller), Ok(runtime)) = tokio::join!(from_caller, from_runtime) else { return };
        let (mut caller, mut runtime) = (TokioIo::new(caller), TokioIo::new(runtime));
        // Either side may hang up at any time: that is how it ends.
        let _ = tokio::io::copy_bidirectional(&mut caller, &mut runtime).await;
    });
    switched
}

/// Query parameters, of which `command` comes many times.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(request: &Request) -> Query {
        let text = request.uri().query().unwrap_or_default();
        Query(url::form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// By the API's name or by the kubelet's.
    fn flag(&self, name: &str, kubelet: &str) -> bool {
        self.all(name).chain(self.all(kubelet)).any(|value| matches!(value, "true" | "1"))
    }
}
