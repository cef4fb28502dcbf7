//! The web server of `manifests/hello.yaml`, linked statically so that it is an image by itself.
//!
//! It answers every request with the name of its host (in a pod: the pod's name) and writes a line
//! per request to stdout. After SIGTERM it goes on serving for a moment, because the other nodes
//! learn only then that it is leaving, and ends with code 0.
//!
//! `hello [PORT [LINGER_SECONDS]]`

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

const PORT: u16 = 80;
const LINGER_SECONDS: u64 = 3;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().map_or(Ok(PORT), |text| text.parse())?;
    let linger = arguments.next().map_or(Ok(LINGER_SECONDS), |text| text.parse())?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_string();

    let mut terminated = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await?;
    println!("{host}: listening on port {port}");
    tokio::select! {
        never = serve(&listener, &host) => return never,
        _ = terminated.recv() => println!("{host}: SIGTERM, leaving in {linger} s"),
    }
    tokio::select! {
        never = serve(&listener, &host) => never,
        () = pause(linger) => Ok(()),
    }
}

async fn serve(listener: &TcpListener, host: &str) -> Result<(), Box<dyn std::error::Error>> {
    loop {
        let (stream, _) = listener.accept().await?;
        let host = host.to_string();
        let answer = service_fn(move |request: Request<Incoming>| {
            println!("{host}: {} {}", request.method(), request.uri());
            let body = Full::new(Bytes::from(format!("Hello from {host}\n")));
            async { Ok::<_, Infallible>(Response::new(body)) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), answer);
        tokio::spawn(async {
            if let Err(error) = connection.await {
                eprintln!("connection ended early: {error}");
            }
        });
    }
}

/// This program stands alone and has no virtual clock to follow.
#[expect(clippy::disallowed_methods, reason = "a program of its own, outside virtual time")]
async fn pause(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}
