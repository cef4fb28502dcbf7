//! What watching costs the server, which is a process of its own: processor time per watcher and
//! event and the time until everybody has the event, over TLS and HTTP/2, with a thousand watchers on
//! ten connections and on a thousand; and what a watcher costs while something else is written.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use client::{BoxError, Clock};
use connection::{Connection, Door, Version};
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tests::server::Server;
use tokio::time::Instant;

#[path = "../../../apiserver/tests/http/connection.rs"]
mod connection;

const WATCHERS: usize = 1000;
const WRITES: usize = 400;
/// A write in this time.
const PACE: Duration = Duration::from_millis(20);
const DATA: usize = 1000;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

type Result<T> = std::result::Result<T, BoxError>;

fn main() -> Result<()> {
    println!("{:<66} {:>10} {:>8} {:>6}", "what", "measured", "bar", "ratio");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for connections in [10, WATCHERS] {
        let server = Server::start(&["--ephemeral"]);
        runtime.block_on(fan_out(&server, connections))?;
    }
    Ok(())
}

fn row(what: &str, measured: f64, bar: f64, unit: &str) {
    let ratio = measured / bar;
    let (measured, bar) = (format!("{measured:.2} {unit}"), format!("{bar} {unit}"));
    println!("{what:<66} {measured:>10} {bar:>8} {ratio:>6.2}");
}

async fn fan_out(server: &Server, connections: usize) -> Result<()> {
    let door = Door::of(&server.kubeconfig());
    let writer = Writer { connection: door.open(Version::Two).await?, server: server.pid() };
    // Everything is used once before it is measured.
    writer.write(MAPS, "warm", |_| {}).await?;
    let alone = [writer.write(MAPS, "a", |_| {}).await?, writer.write(SECRETS, "a", |_| {}).await?];

    let watched = Arc::new(Watched::new());
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(door.open(Version::Two).await?);
    }
    let list = writer.ask("GET", MAPS, Bytes::new()).await?;
    let revision = list["metadata"]["resourceVersion"].as_str().ok_or("no revision")?;
    let path = format!("{MAPS}?watch=1&resourceVersion={revision}");
    for number in 0..WATCHERS {
        let response = open[number % connections].get(&path).await?;
        let watched = watched.clone();
        tokio::spawn(async move { watched.follow(response.into_body()).await });
    }
    let elsewhere = writer.write(SECRETS, "b", |_| {}).await?;
    let used = writer.write(MAPS, "b", |turn| watched.sent(turn)).await?;
    let events = (WRITES * WATCHERS) as u64;
    let clock = Clock::system();
    let all = clock.timeout(Duration::from_secs(60), async {
        while watched.seen.load(Ordering::Relaxed) < events {
            clock.sleep(Duration::from_millis(5)).await;
        }
    });
    all.await?;
    let each = |used: Duration, alone: Duration| {
        used.saturating_sub(alone).as_secs_f64() * 1e6 / events as f64
    };
    let on = format!("{WATCHERS} watchers on {connections} connections");
    row(&format!("{on}: processor time, each event"), each(used, alone[0]), 3.0, "µs");
    row(&format!("{on}: p99 from write to event"), watched.percentile(99), 20.0, "ms");
    row(&format!("{on}: and while another kind is written"), each(elsewhere, alone[1]), 0.1, "µs");
    println!(
        "  (median {:.2} ms; a write alone {:?}; objects of {DATA} bytes)",
        watched.percentile(50),
        alone[0] / WRITES as u32
    );
    Ok(())
}

struct Writer {
    connection: Arc<Connection>,
    server: u32,
}

impl Writer {
    /// Creates objects, one after the other; the processor time that the server used meanwhile and
    /// until it rested.
    async fn write(&self, path: &str, name: &str, sent: impl Fn(usize)) -> Result<Duration> {
        let clock = Clock::system();
        let (before, began) = (processor(self.server)?, clock.instant());
        for turn in 0..WRITES {
            clock.sleep_until_instant(began + PACE * turn as u32).await;
            let object = json!({
                "metadata": {"name": format!("{name}-{turn}")},
                "data": {"text": "A".repeat(DATA)},
            });
            sent(turn);
            let created = self.ask("POST", path, object.to_string().into()).await?;
            if created["metadata"]["uid"].is_null() {
                return Err(format!("{created}").into());
            }
        }
        // What is still on its way to the watchers.
        clock.sleep(Duration::from_millis(500)).await;
        Ok(processor(self.server)?.saturating_sub(before))
    }

    async fn ask(&self, method: &str, path: &str, body: Bytes) -> Result<Value> {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", "application/json").body(body)?;
        let response = self.connection.send(request).await?;
        Ok(serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?)
    }
}

/// What all watchers have seen.
struct Watched {
    start: Instant,
    /// When each write began, in nanoseconds from the start.
    sent: Vec<AtomicU64>,
    seen: AtomicU64,
    /// How many events took so many tenths of a millisecond.
    delays: Vec<AtomicU64>,
}

impl Watched {
    fn new() -> Watched {
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        let start = Clock::system().instant();
        Watched { start, sent: zeros(WRITES), seen: AtomicU64::new(0), delays: zeros(100_000) }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn sent(&self, turn: usize) {
        self.sent[turn].store(self.now(), Ordering::SeqCst);
    }

    async fn follow(&self, mut body: hyper::body::Incoming) {
        let mut turn = 0;
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            let now = self.now();
            for _ in data.iter().filter(|byte| **byte == b'\n') {
                let took = now.saturating_sub(self.sent[turn].load(Ordering::SeqCst)) / 100_000;
                let place = (took as usize).min(self.delays.len() - 1);
                self.delays[place].fetch_add(1, Ordering::Relaxed);
                self.seen.fetch_add(1, Ordering::Relaxed);
                turn += 1;
            }
        }
    }

    /// In milliseconds.
    fn percentile(&self, percent: u64) -> f64 {
        let all: u64 = self.delays.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        let mut below = 0;
        let place = self.delays.iter().position(|count| {
            below += count.load(Ordering::Relaxed);
            below * 100 >= all * percent
        });
        place.unwrap_or(self.delays.len()) as f64 / 10.0
    }
}

/// Processor time of all of a process's threads (proc(5), schedstat).
fn processor(pid: u32) -> Result<Duration> {
    let mut all = 0;
    for task in std::fs::read_dir(PathBuf::from(format!("/proc/{pid}/task")))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        all += text.split_whitespace().next().ok_or("schedstat is empty")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(all))
}
