//! Keeps the configuration as the objects say.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::Flow;
use super::config::Config;
use crate::cache::KindCache;

/// Until `stop`: reads both kinds anew whenever one of their objects changes.
pub async fn follow(
    flow: Arc<Flow>,
    total: u32,
    (schemas, levels): (Arc<KindCache>, Arc<KindCache>),
    stop: CancellationToken,
) {
    loop {
        let (some, others) = (schemas.snapshot(), levels.snapshot());
        let watchers = (schemas.watcher(some.revision), levels.watcher(others.revision));
        let (Ok(mut one), Ok(mut other)) = watchers else { continue };
        flow.configure(Config::new(total, &read(&schemas), &read(&levels)));
        // What a watcher says does not matter, only that it does.
        tokio::select! {
            _ = one.next() => {}
            _ = other.next() => {}
            () = stop.cancelled() => return,
        }
    }
}

fn read<T: DeserializeOwned>(kind: &KindCache) -> Vec<T> {
    let snapshot = kind.snapshot();
    let entries = snapshot.list("", None);
    entries.filter_map(|entry| serde_json::from_slice(&entry.bytes()).ok()).collect()
}
