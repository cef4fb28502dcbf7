//! The web server of `manifests/hello.yaml`, linked statically so that it is an image by itself.
//!
//! It answers every request with the name of its host (in a pod: the pod's name) and writes a line
//! per request to stdout. After SIGTERM it goes on serving for a moment, because the other nodes
//! learn only then that it is leaving, and ends with code 0.
//!
//! `hello [PORT [LINGER_SECONDS]]` serves; `hello get HOST PORT` asks such a server, from inside an
//! image that has nothing else; `hello count MILLISECONDS` writes 0, 1, 2 … a line each, for whoever
//! wants to know whether a line of a log was lost.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

const PORT: u16 = 80;
const LINGER_SECONDS: u64 = 3;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, host, port] = arguments.as_slice()
        && verb == "get"
    {
        return get(host, port.parse()?).await;
    }
    if let [verb, milliseconds] = arguments.as_slice()
        && verb == "count"
    {
        return count(milliseconds.parse()?).await;
    }
    let mut arguments = arguments.into_iter();
    let port = arguments.next().map_or(Ok(PORT), |text| text.parse())?;
    let linger = arguments.next().map_or(Ok(LINGER_SECONDS), |text| text.parse())?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_string();

    let mut terminated = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await?;
    println!("{host}: listening on port {}", listener.local_addr()?.port());
    tokio::select! {
        never = serve(&listener, &host) => return never,
        _ = terminated.recv() => println!("{host}: SIGTERM, leaving in {linger} s"),
    }
    tokio::select! {
        never = serve(&listener, &host) => never,
        () = pause(linger * 1000) => Ok(()),
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
            .half_close(true)
            .serve_connection(TokioIo::new(stream), answer);
        tokio::spawn(async {
            if let Err(error) = connection.await {
                eprintln!("connection ended early: {error}");
            }
        });
    }
}

async fn get(host: &str, port: u16) -> Result<(), Box<dyn std::error::Error>> {
    let mut stream = TcpStream::connect((host, port)).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("the answer has no body")?;
    print!("{body}");
    Ok(())
}

async fn count(milliseconds: u64) -> Result<(), Box<dyn std::error::Error>> {
    let mut terminated = signal(SignalKind::terminate())?;
    for number in 0_u64.. {
        println!("{number}");
        tokio::select! {
            () = pause(milliseconds) => {}
            _ = terminated.recv() => break,
        }
    }
    Ok(())
}

/// This program stands alone and has no virtual clock to follow.
#[expect(clippy::disallowed_methods, reason = "a program of its own, outside virtual time")]
async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}
