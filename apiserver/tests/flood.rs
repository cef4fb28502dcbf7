//! More connections than a server takes, to a server of its own: what it holds is bounded, and those
//! who are in, and who looks whether it lives, are answered.
//!
//! The long form: `CORACLE_CONNECTIONS=100000 cargo test --release -p apiserver --test flood --
//! --nocapture`; with more than a process may have files open, most of them one after the other.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use apiserver::server::tls::SPARE;
use client::Clock;
use connection::{Connection, Version};
use process::Process;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;

#[path = "http/connection.rs"]
mod connection;
#[path = "http/process.rs"]
mod process;

/// What a server has open that is no connection.
const OTHERS: usize = 100;
/// Connections that come from one address: a machine has so many ports.
const PORTS: usize = 20_000;
/// Begun at a time.
const AT_ONCE: usize = 200;

/// Raises the limit of open files as far as it may be; what it is then.
fn files() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(1 << 20);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20) as usize
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_there_is_room_for() {
    let total = std::env::var("CORACLE_CONNECTIONS").ok().and_then(|text| text.parse().ok());
    let total: usize = total.unwrap_or(600);
    let most = (total / 2).min(files() - 1000).min(10_000);
    let server = Process::start(&["--max-connections", &most.to_string()]).await;
    let (clock, address) = (Clock::system(), SocketAddr::from(([127, 0, 0, 1], server.port)));
    let bounded = || {
        let open = server.files();
        assert!(open <= most + SPARE + OTHERS, "{open} files");
    };
    let before = server.memory("VmRSS");

    // As many as there is room for, each of somebody who has asked something.
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let door = Arc::new(server.door());
    let began = clock.instant();
    let entering = (0..most).map(|_| {
        let (door, room) = (door.clone(), room.clone());
        tokio::spawn(async move {
            let _turn = room.acquire_owned().await.unwrap();
            let connection = door.open(Version::Two).await.unwrap();
            assert_eq!(connection.get("/livez").await.unwrap().status(), 200);
            connection
        })
    });
    let entering = entering.collect::<Vec<_>>();
    let mut inside: Vec<Arc<Connection>> = Vec::new();
    for connection in entering {
        inside.push(connection.await.unwrap());
    }
    let each = server.memory("VmRSS").saturating_sub(before) / most;
    eprintln!("{most} connections in {:?}, {} KiB each", began.elapsed(), each >> 10);
    bounded();

    // The rest, who say nothing, each until the server ends it.
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let crowd: Vec<_> = (most..total)
        .map(|number| {
            let room = room.clone();
            tokio::spawn(async move {
                let _place = room.acquire_owned().await.unwrap();
                let socket = TcpSocket::new_v4().unwrap();
                let from = Ipv4Addr::new(127, 0, 1 + (number / PORTS) as u8, 1);
                socket.bind((from, 0).into()).unwrap();
                let Ok(mut stream) = socket.connect(address).await else { return };
                let mut answer = Vec::new();
                // Closed, or reset.
                let _ = stream.read_to_end(&mut answer).await;
                assert!(answer.is_empty());
            })
        })
        .collect();

    // Who is in, and who comes to look.
    let mut looked = 0;
    let looking = clock.timeout(Duration::from_secs(60), async {
        while looked < 3 {
            for connection in [&inside[0], &inside[most / 2], &inside[most - 1]] {
                assert_eq!(connection.get("/readyz").await.unwrap().status(), 200);
            }
            bounded();
            // Places for a moment become free within seconds.
            if let Ok(connection) = door.open(Version::One).await
                && let Ok(response) = connection.get("/livez").await
            {
                assert_eq!(response.status(), 200);
                looked += 1;
            }
            clock.sleep(Duration::from_millis(20)).await;
        }
    });
    looking.await.expect("a probe comes through");
    for (number, one) in crowd.into_iter().enumerate() {
        let ended = clock.timeout(Duration::from_secs(120), one).await;
        ended.expect("nobody may stay in a full house").unwrap();
        // Counting ten thousand files takes longer than turning somebody away.
        if number % AT_ONCE == 0 {
            bounded();
        }
    }
    eprintln!("{} more were turned away in {:?}", total - most, began.elapsed());

    // All who were in still are, and room that becomes free is taken.
    for connection in &inside {
        assert_eq!(connection.get("/livez").await.unwrap().status(), 200);
    }
    drop(inside);
    let again = clock.timeout(Duration::from_secs(20), async {
        while server.files() > OTHERS {
            clock.sleep(Duration::from_millis(20)).await;
        }
        door.open(Version::Two).await.unwrap()
    });
    let again = again.await.expect("who leaves leaves room");
    assert_eq!(again.get("/livez").await.unwrap().status(), 200);
}
