//! The DNS server over real sockets on loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use agent::net::dns::{Records, Sockets, Upstream, serve};
use client::{Clock, Rng};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use parking_lot::RwLock;
use proto::view::endpoint_slice::EndpointSlice;
use proto::view::service::Service;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// A server for `domain` with Services `web`, `many` (headless, 200 endpoints) and `out` (alias).
async fn start(domain: &str, upstream: Vec<SocketAddr>, alias: &str) -> SocketAddr {
    let mut records = Records::new(domain);
    records.set_namespace("default", true);
    let service = |value| serde_json::from_value::<Service>(value).unwrap();
    let key = |name: &str| ("default".to_owned(), name.to_owned());
    let web = service(json!({"spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]}}));
    records.set_service(&key("web"), Some(&web), []);
    let endpoints: Vec<_> =
        (0..200).map(|n| json!({"addresses": [format!("10.1.0.{n}")]})).collect();
    let slice: EndpointSlice =
        serde_json::from_value(json!({"addressType": "IPv4", "endpoints": endpoints})).unwrap();
    let headless = service(json!({"spec": {"clusterIP": "None"}}));
    records.set_service(&key("many"), Some(&headless), [&slice]);
    let out = service(json!({"spec": {"type": "ExternalName", "externalName": alias}}));
    records.set_service(&key("out"), Some(&out), []);
    let address = free_port().await;
    let sockets = Sockets::bind(address).unwrap();
    let upstream = Upstream::new(upstream, Clock::system(), Rng::seeded(1));
    tokio::spawn(serve(sockets, Arc::new(RwLock::new(records)), upstream));
    address
}

async fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = 4242;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.send_to(&query(name, kind), server).await.unwrap();
    let mut buffer = vec![0; 65535];
    let receive = socket.recv_from(&mut buffer);
    let (length, _) =
        Clock::system().timeout(Duration::from_secs(10), receive).await.unwrap().unwrap();
    let message = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(message.metadata.id, 4242);
    assert!(length <= 512, "no EDNS was offered");
    message
}

async fn ask_tcp(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let query = query(name, kind);
    stream.write_u16(query.len() as u16).await.unwrap();
    stream.write_all(&query).await.unwrap();
    let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

fn answers(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[tokio::test]
async fn answers_over_udp_and_tcp() {
    let server = start("cluster.local", Vec::new(), "web.default.svc.cluster.local").await;
    let found = ask(server, "web.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(answers(&found), ["10.96.0.10"]);
    assert!(found.metadata.authoritative && found.metadata.recursion_available);
    let none = ask(server, "web.default.svc.cluster.local.", RecordType::AAAA).await;
    assert_eq!((none.metadata.response_code, none.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(none.authorities[0].record_type(), RecordType::SOA);
    let absent =
        ask(server, "web.default.svc.cluster.local.default.svc.cluster.local.", RecordType::A);
    let absent = absent.await;
    assert_eq!(absent.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(absent.authorities[0].record_type(), RecordType::SOA);
    let alias = ask(server, "out.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(answers(&alias), ["web.default.svc.cluster.local.", "10.96.0.10"]);

    // 200 addresses do not fit in a datagram.
    let cut = ask(server, "many.default.svc.cluster.local.", RecordType::A).await;
    assert!(cut.metadata.truncation);
    let first = ask_tcp(server, "many.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(first.answers.len(), 200);
    let second = ask_tcp(server, "many.default.svc.cluster.local.", RecordType::A).await;
    assert_ne!(answers(&first)[0], answers(&second)[0], "the order turns");
    // Without an upstream a foreign name is refused at once.
    let foreign = ask(server, "example.org.", RecordType::A).await;
    assert_eq!(foreign.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn foreign_names_go_upstream() {
    let upstream = start("example.org", Vec::new(), "x").await;
    let dead = free_port().await;
    let name = "web.default.svc.example.org";
    let server = start("cluster.local", vec![dead, upstream], name).await;
    let found = ask(server, &format!("{name}."), RecordType::A).await;
    assert_eq!(answers(&found), ["10.96.0.10"]);
    let absent = ask(server, "none.default.svc.example.org.", RecordType::A).await;
    assert_eq!(absent.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(absent.authorities[0].record_type(), RecordType::SOA);
    let alias = ask(server, "out.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(answers(&alias), [format!("{name}."), "10.96.0.10".into()]);
    assert!(ask(server, "many.default.svc.example.org.", RecordType::A).await.metadata.truncation);
    let many = ask_tcp(server, "many.default.svc.example.org.", RecordType::A).await;
    assert_eq!(many.answers.len(), 200);
}

#[tokio::test]
async fn a_silent_upstream_is_waited_for_once() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let server = start("cluster.local", vec![silent.local_addr().unwrap()], "x").await;
    let clock = Clock::system();
    let failed = ask(server, "example.org.", RecordType::A).await;
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    let started = clock.instant();
    let failed = ask(server, "example.org.", RecordType::A).await;
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}
