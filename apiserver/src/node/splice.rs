//! Two upgraded connections made one.

use axum::{body::Body, response::Response};
use http::{HeaderMap, HeaderName, header};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

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

/// The answer to the client's upgrade, from a server that has agreed to one; from then on bytes
/// flow both ways until either side ends.
pub(super) fn join(client: OnUpgrade, mut response: http::Response<Incoming>) -> Response {
    let mut switched = Response::new(Body::empty());
    *switched.status_mut() = response.status();
    copy(response.headers(), switched.headers_mut());
    let server = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        // The client's side is upgraded once it has the answer.
        let (Ok(client), Ok(server)) = tokio::join!(client, server) else { return };
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        // However one side ended, the other is told in order.
        let _ = tokio::join!(client.shutdown(), server.shutdown());
    });
    switched
}

/// The headers of an upgrade, and none of the others.
pub(super) fn copy(from: &HeaderMap, to: &mut HeaderMap) {
    for name in &PASSED {
        for value in from.get_all(name) {
            to.append(name.clone(), value.clone());
        }
    }
}
