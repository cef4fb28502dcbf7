//! `ctl proxy`: the API on a local port, for programs that have no credentials of their own.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use client::{Body, BoxError, Client};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::failure::{Failure, Result};
use crate::session::Session;

#[derive(clap::Args)]
pub struct Proxy {
    /// Port to listen on; 0: any
    #[arg(short, long, default_value_t = 8001)]
    port: u16,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    address: IpAddr,
}

/// By what names a browser on this machine may call us; a stranger's page comes with another.
const HOSTS: &[&str] = &["localhost", "127.0.0.1", "[::1]"];
/// What concerns a connection and not the request on it.
static HOP: [HeaderName; 4] =
    [header::CONNECTION, header::HOST, header::TRANSFER_ENCODING, header::UPGRADE];

impl Proxy {
    /// Serves until it is interrupted.
    pub async fn run(&self, session: &Session) -> Result<()> {
        let address = SocketAddr::from((self.address, self.port));
        let listener = TcpListener::bind(address)
            .await
            .map_err(|why| Failure::said(format!("cannot listen on {address}: {why}")))?;
        let bound = listener.local_addr().map_err(Failure::said)?;
        anstream::println!("Starting to serve on {bound}");
        tokio::select! {
            () = serve(&session.client, listener) => Ok(()),
            end = tokio::signal::ctrl_c() => end.map_err(Failure::said),
        }
    }
}

async fn serve(client: &Client, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let client = client.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(client.clone(), request));
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.half_close(true);
            // Clients leave when they like.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    client: Client,
    request: Request<Incoming>,
) -> std::result::Result<Response<Body>, Infallible> {
    if let Some(why) = refusal(request.uri().path(), request.headers()) {
        return Ok(plain(StatusCode::FORBIDDEN, why));
    }
    Ok(match pass(&client, request).await {
        Ok(response) => response,
        Err(why) => plain(StatusCode::BAD_GATEWAY, &format!("{why}\n")),
    })
}

async fn pass(
    client: &Client,
    request: Request<Incoming>,
) -> std::result::Result<Response<Body>, BoxError> {
    let (mut parts, body) = request.into_parts();
    for name in &HOP {
        parts.headers.remove(name);
    }
    let body = body.collect().await?.to_bytes();
    let mut response = client.request(Request::from_parts(parts, body)).await?;
    for name in &HOP {
        response.headers_mut().remove(name);
    }
    Ok(response)
}

/// Why a request is not passed on: a stranger's page may make a browser send it.
fn refusal(path: &str, headers: &HeaderMap) -> Option<&'static str> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let shell = path.starts_with("/api/")
        && path.contains("/pods/")
        && (path.ends_with("/exec") || path.ends_with("/attach"));
    match () {
        () if !HOSTS.contains(&name) || shell => Some("Forbidden\n"),
        () if headers.contains_key(header::UPGRADE) => {
            Some("this proxy does not pass upgraded connections on\n")
        }
        () => None,
    }
}

fn plain(code: StatusCode, text: &str) -> Response<Body> {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes()));
    let mut response = Response::new(Body::new(body.map_err(|never| match never {})));
    *response.status_mut() = code;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_refused() {
        let cases = [
            ("/api/v1/pods", "localhost:8001", "", true),
            ("/api/v1/pods", "[::1]:8001", "", true),
            ("/api/v1/pods", "127.0.0.1", "", true),
            ("/api/v1/pods", "evil.example:8001", "", false),
            ("/api/v1/namespaces/a/pods/p/exec", "localhost:8001", "", false),
            ("/api/v1/namespaces/a/pods/p/log", "localhost:8001", "", true),
            ("/api/v1/namespaces/a/pods/p/portforward", "localhost:8001", "websocket", false),
        ];
        for (path, host, upgrade, passed) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if !upgrade.is_empty() {
                headers.insert(header::UPGRADE, upgrade.parse().unwrap());
            }
            assert_eq!(refusal(path, &headers).is_none(), passed, "{path} {host}");
        }
    }
}
