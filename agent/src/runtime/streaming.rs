//! The streaming server: where Exec, Attach and PortForward say that streams are to be had. It listens
//! on this node alone; the agent passes through what comes from the API server. A URL is good once
//! and for a minute.

mod session;
pub mod spdy;
pub mod websocket;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::engine::{Engine, Error};
use super::exec::Wanted;

/// What a URL is good for.
#[derive(Clone, Debug)]
pub enum Offer {
    Exec { container: String, words: Vec<String>, wanted: Wanted },
    Attach { container: String, wanted: Wanted },
    PortForward { sandbox: String, ports: Vec<i32> },
}

/// Open offers. Cheap to clone.
#[derive(Clone)]
pub struct Streams {
    address: SocketAddr,
    offers: Arc<Mutex<HashMap<String, (tokio::time::Instant, Offer)>>>,
}

/// What comes from the client.
#[derive(Debug, PartialEq)]
pub enum Input {
    Stdin(Bytes),
    StdinEnd,
    Resize { columns: u16, rows: u16 },
}

/// What goes to the client; a status is the last.
#[derive(Debug)]
pub enum Output {
    Stdout(Bytes),
    Stderr(Bytes),
    Status(serde_json::Value),
}

/// A session's two directions, whatever protocol carries them.
pub struct Channels {
    pub input: mpsc::Receiver<Input>,
    pub output: mpsc::Sender<Output>,
}

const LIFETIME: Duration = Duration::from_secs(60);
/// Messages in flight; a slow client slows the command down.
const DEPTH: usize = 16;
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

impl Streams {
    pub fn new(address: SocketAddr) -> Streams {
        Streams { address, offers: Arc::default() }
    }
}

impl Engine {
    pub fn offer_exec(
        &self,
        container: &str,
        words: Vec<String>,
        wanted: Wanted,
    ) -> Result<String, Error> {
        check(wanted)?;
        Ok(self.offer("exec", Offer::Exec { container: container.to_owned(), words, wanted }))
    }

    pub fn offer_attach(&self, container: &str, wanted: Wanted) -> Result<String, Error> {
        check(wanted)?;
        Ok(self.offer("attach", Offer::Attach { container: container.to_owned(), wanted }))
    }

    pub fn offer_port_forward(&self, sandbox: &str, ports: Vec<i32>) -> Result<String, Error> {
        Ok(self.offer("portforward", Offer::PortForward { sandbox: sandbox.to_owned(), ports }))
    }

    fn offer(&self, kind: &str, offer: Offer) -> String {
        let (token, now) = (self.new_id(), self.clock.instant());
        let mut offers = self.streams.offers.lock();
        offers.retain(|_, (made, _)| now.duration_since(*made) < LIFETIME);
        offers.insert(token.clone(), (now, offer));
        format!("http://{}/{kind}/{token}", self.streams.address)
    }
}

/// As CRI demands of Exec and Attach.
fn check(wanted: Wanted) -> Result<(), Error> {
    if wanted.tty && wanted.stderr {
        return Err(Error::Invalid("tty and stderr cannot both be true".into()));
    }
    if !wanted.stdin && !wanted.stdout && !wanted.stderr {
        return Err(Error::Invalid("one of stdin, stdout, or stderr must be set".into()));
    }
    Ok(())
}

/// Serves open offers until the task is aborted.
pub async fn serve(engine: Engine, listener: tokio::net::TcpListener) {
    let router =
        Router::new().route("/{kind}/{token}", axum::routing::any(accept)).with_state(engine);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the streaming server has ended");
    }
}

async fn accept(
    State(engine): State<Engine>,
    Path((_, token)): Path<(String, String)>,
    mut request: Request,
) -> Response {
    let now = engine.clock.instant();
    let offer = engine.streams.offers.lock().remove(&token);
    let Some((_, offer)) = offer.filter(|(made, _)| now.duration_since(*made) < LIFETIME) else {
        return (StatusCode::NOT_FOUND, "no such token, or it was used before\n").into_response();
    };
    let upgrade = header_of(request.headers(), header::UPGRADE.as_str()).to_ascii_lowercase();
    match upgrade.as_str() {
        "websocket" => websocket::accept(engine, offer, request).await,
        "spdy/3.1" => {
            let protocols: Vec<String> = all_of(request.headers(), STREAM_PROTOCOL);
            let ours = match &offer {
                Offer::PortForward { .. } => "portforward.k8s.io",
                _ => "v4.channel.k8s.io",
            };
            if !protocols.iter().any(|protocol| protocol == ours) {
                return (
                    StatusCode::FORBIDDEN,
                    format!("only the stream protocol {ours} is spoken\n"),
                )
                    .into_response();
            }
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                if let Ok(connection) = upgraded.await {
                    spdy::serve(engine, offer, hyper_util::rt::TokioIo::new(connection)).await;
                }
            });
            let response = Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header(header::CONNECTION, "Upgrade")
                .header(header::UPGRADE, "SPDY/3.1")
                .header(STREAM_PROTOCOL, ours);
            response.body(Body::empty()).expect("a response of constants")
        }
        _ => {
            (StatusCode::BAD_REQUEST, "you must upgrade to WebSocket or SPDY/3.1\n").into_response()
        }
    }
}

fn header_of<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn all_of(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|value| value.trim().to_owned()).collect()
}
