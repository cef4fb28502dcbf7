//! `kill -9` in the middle of ten thousand concurrent creates, ten times: everything acknowledged
//! is there, revisions go on increasing, watches resume or are told to start again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use client::{Client, Kubeconfig, ListOptions, WatchEvent};
use futures::StreamExt;
use parking_lot::Mutex;
use proto::view::config_map::ConfigMap;
use serde_json::json;
use tests::server::Server;

const CREATES: usize = 10_000;
const WRITERS: usize = 32;

fn client(server: &Server) -> Client {
    let config = Kubeconfig::read(&server.kubeconfig()).unwrap().config(None).unwrap();
    Client::connect(&config).unwrap()
}

/// `CORACLE_KILLS=2` for a short form.
fn kills() -> usize {
    std::env::var("CORACLE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost() {
    let mut server = Server::start(&[]);
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    let mut highest = 0;
    for round in 0..kills() {
        let client = client(&server);
        let written = Arc::new(Mutex::new(Vec::new()));
        let started = Arc::new(AtomicUsize::new(0));
        let mut writers = Vec::new();
        for _ in 0..WRITERS {
            let (client, written, started) = (client.clone(), written.clone(), started.clone());
            writers.push(tokio::spawn(async move {
                loop {
                    let number = started.fetch_add(1, Ordering::Relaxed);
                    if number >= CREATES {
                        return;
                    }
                    let name = format!("r{round}-{number}");
                    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": name}});
                    match client.create::<ConfigMap>("default", &map).await {
                        Ok(made) => written.lock().push((name, made.metadata.revision())),
                        Err(_) => return,
                    }
                }
            }));
        }
        // Somewhere in the middle, at another place each time.
        let target = CREATES / 20 * (round % 10 + 1);
        while written.lock().len() < target.min(CREATES - WRITERS) {
            tokio::task::yield_now().await;
        }
        server.kill();
        for writer in writers {
            writer.await.unwrap();
        }
        let written = std::mem::take(&mut *written.lock());
        assert!(written.len() >= target.min(CREATES - WRITERS));
        for (name, revision) in written {
            assert!(revision > highest, "round {round}: {name} at {revision}, after {highest}");
            acknowledged.insert(name, revision);
        }
        highest = *acknowledged.values().max().unwrap();
        server.restart();
        check(&server, &acknowledged, highest).await;
    }
}

/// All is there as it was acknowledged, and a watch from an old revision tells the rest or 410.
async fn check(server: &Server, acknowledged: &BTreeMap<String, u64>, highest: u64) {
    let client = client(server);
    let mut found = BTreeMap::new();
    let mut options =
        ListOptions { namespace: "default".into(), limit: 2000, ..ListOptions::default() };
    let revision = loop {
        let page = client.list::<ConfigMap>(&options).await.unwrap();
        for map in &page.items {
            found.insert(map.metadata.name.clone(), map.metadata.revision());
        }
        options.continue_token = page.continue_token;
        if options.continue_token.is_empty() {
            break page.revision;
        }
    };
    for (name, revision) in acknowledged {
        assert_eq!(found.get(name), Some(revision), "{name} was acknowledged");
    }
    assert!(revision >= highest, "revisions go on from {highest}, not {revision}");

    let from = highest - 100;
    let options = ListOptions {
        namespace: "default".into(),
        resource_version: from.to_string(),
        timeout_seconds: 5,
        ..ListOptions::default()
    };
    let later: Vec<u64> = found.values().copied().filter(|revision| *revision > from).collect();
    let mut seen = Vec::new();
    let mut events = client.watch::<ConfigMap>(&options);
    while seen.len() < later.len() {
        match events.next().await {
            Some(Ok(WatchEvent::Added(map))) => seen.push(map.metadata.revision()),
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                assert!(error.is_expired(), "a watch resumes or is told to start again: {error}");
                return;
            }
            None => panic!("the watch ended after {} of {} events", seen.len(), later.len()),
        }
    }
    assert!(seen.is_sorted(), "events come in order");
}
