//! What strangers may not do to the listener: smuggle, dawdle, flood.

#[path = "http/api.rs"]
mod api;
#[path = "http/connection.rs"]
mod connection;
#[path = "http/served.rs"]
mod served;

use std::time::Duration;

use api::PODS;
use apiserver::server::tls::SPARE;
use bytes::Bytes;
use client::Clock;
use http_body_util::BodyExt;
use served::Served;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What comes before the connection ends, or within ten seconds.
async fn rest(mut stream: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    let _ = Clock::system().timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The codes of the answers on one connection to these bytes.
async fn answers(served: &Served, bytes: &[u8]) -> Vec<String> {
    let mut stream = served.raw().await;
    stream.write_all(bytes).await.unwrap();
    let text = rest(stream).await;
    let codes = text.split("HTTP/1.1 ").skip(1);
    codes.map(|answer| answer.split(' ').next().unwrap_or_default().to_string()).collect()
}

#[tokio::test]
async fn a_request_is_one_request() {
    let served = Served::start(&[]).await;
    let hidden = "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
    let end = "GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let length = hidden.len();
    let chunk = format!("{length:x}\r\n{hidden}\r\n0\r\n\r\n");
    let cases: [(&str, String, &[&str]); 7] = [
        (
            "a body is not a request",
            format!("content-length: {length}\r\n\r\n{hidden}"),
            &["403", "200"],
        ),
        // The chunks count and the length does not, and the connection ends (RFC 9112, 6.3).
        (
            "both lengths",
            format!("content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n{chunk}"),
            &["403"],
        ),
        (
            "two lengths",
            format!("content-length: 4\r\ncontent-length: {length}\r\n\r\n{hidden}"),
            &["400"],
        ),
        ("no length", format!("content-length: -1\r\n\r\n{hidden}"), &["400"]),
        ("a signed length", format!("content-length: +4\r\n\r\n{hidden}"), &["400"]),
        ("another coding", format!("transfer-encoding: chunked, x\r\n\r\n{chunk}"), &["400"]),
        ("a folded name", format!("content-length : 4\r\n\r\n{hidden}"), &["400"]),
    ];
    for (what, rest, expected) in cases {
        let bytes = format!("POST {PODS} HTTP/1.1\r\nhost: x\r\n{rest}{end}");
        assert_eq!(answers(&served, bytes.as_bytes()).await, expected, "{what}");
    }
}

#[tokio::test]
async fn large_heads_are_refused() {
    let served = Served::start(&[]).await;
    let large = "x".repeat(400 << 10);
    let bytes = format!("GET /version HTTP/1.1\r\nhost: x\r\nx: {large}\r\n\r\n");
    let mut stream = served.raw().await;
    let _ = stream.write_all(bytes.as_bytes()).await;
    let text = rest(stream).await;
    assert!(text.starts_with("HTTP/1.1 431 Request Header Fields Too Large"), "{text}");

    // HTTP/2, as the client speaks it.
    let request = http::Request::get("/version").header("x", "x".repeat(100 << 10));
    let response = served.admin().request(request.body(Bytes::new()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 431);
}

#[tokio::test]
async fn who_dawdles_is_disconnected() {
    let served = Served::start(&[]).await;
    let silent = TcpStream::connect(served.address).await.unwrap();
    let mut slow = served.raw().await;
    slow.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    // After its handshake, and in the middle of what tells HTTP/2 from HTTP/1.1.
    let (mute, mut stammers) = (served.raw().await, served.raw().await);
    stammers.write_all(b"PRI * HT").await.unwrap();
    let finished = tokio::spawn(async move {
        (rest(silent).await, rest(slow).await, rest(mute).await, rest(stammers).await)
    });
    // Let the server see the bytes before its time passes.
    let admin = served.admin();
    let request = http::Request::get("/version").body(Bytes::new()).unwrap();
    assert_eq!(admin.request(request).await.unwrap().status(), 200);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    let (silent, slow, mute, stammers) = finished.await.unwrap();
    assert_eq!([silent, mute, stammers], [""; 3]);
    // Who has asked something may rest.
    let request = http::Request::get("/version").body(Bytes::new()).unwrap();
    assert_eq!(admin.request(request).await.unwrap().status(), 200);
    assert!(slow.is_empty() || slow.starts_with("HTTP/1.1 408"), "{slow}");
}

#[tokio::test]
async fn a_body_that_trickles_costs_its_request() {
    let served = Served::start(&[]).await;
    let door = connection::Door::of(&served.dir.path().join("admin.kubeconfig"));
    let mut slow = door.silent(connection::Version::One).await.unwrap();
    let head = format!(
        "POST {PODS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: 100\r\n\r\n"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let admin = served.admin();
    for _ in 0..4 {
        slow.write_all(b" ").await.unwrap();
        let request = http::Request::get("/version").body(Bytes::new()).unwrap();
        assert_eq!(admin.request(request).await.unwrap().status(), 200);
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(20)).await;
        tokio::time::resume();
    }
    let text = rest(slow).await;
    assert!(text.starts_with("HTTP/1.1 504 Gateway Timeout"), "{text}");
    assert!(text.contains("request did not complete within the allotted timeout"), "{text}");
}

#[tokio::test]
async fn connections_are_bounded() {
    const PROBE: &[u8] = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let served = Served::start(&["--max-connections=3"]).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = served.raw().await;
        stream.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        open.push(stream);
    }
    // A probe still comes through, on one of the spare connections.
    let mut probe = served.raw().await;
    probe.write_all(PROBE).await.unwrap();
    assert!(rest(probe).await.starts_with("HTTP/1.1 200"));
    let mut spare = Vec::new();
    for _ in 0..SPARE {
        spare.push(served.raw().await);
    }
    for _ in 0..5 {
        let refused = TcpStream::connect(served.address).await.unwrap();
        assert_eq!(rest(refused).await, "", "closed without a word");
    }
    // Spare connections are soon over; those that were there before go on.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(6)).await;
    tokio::time::resume();
    for stream in spare {
        assert_eq!(rest(stream).await, "");
    }
    for mut stream in open {
        stream.write_all(PROBE).await.unwrap();
        assert!(rest(stream).await.ends_with("ok"));
    }
    let request = http::Request::get("/version").body(Bytes::new()).unwrap();
    assert_eq!(served.admin().request(request).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_thousand_watches_share_a_connection() {
    let served = Served::start(&[]).await;
    let admin = served.admin();
    let mut watches = Vec::new();
    for _ in 0..1100 {
        let request = http::Request::get(format!("{PODS}?watch=true")).body(Bytes::new()).unwrap();
        let response = admin.request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        watches.push(response.into_body());
    }
    let request = http::Request::post(PODS).header("content-type", "application/json");
    let body = Bytes::from(api::pod("p").to_string());
    assert_eq!(admin.request(request.body(body).unwrap()).await.unwrap().status(), 201);
    for mut watch in watches {
        let frame = Clock::system().timeout(Duration::from_secs(10), watch.frame()).await;
        let data = frame.unwrap().unwrap().unwrap().into_data().unwrap();
        assert!(data.starts_with(b"{\"type\":\"ADDED\""));
    }
}
