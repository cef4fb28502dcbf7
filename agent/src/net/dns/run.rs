//! Keeps the records current from the informers, and serves them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use client::{Change, Clock, Informers, Key, Rng};
use parking_lot::RwLock;
use proto::view::endpoint_slice::EndpointSlice;
use proto::view::namespace::Namespace;
use proto::view::service::Service;
use tokio::sync::oneshot;

use super::records::{Records, ServiceKey};
use super::server::{Sockets, serve};
use super::upstream::Upstream;

/// Where and for what a DNS server answers.
#[derive(Clone, Debug)]
pub struct Config {
    /// UDP and TCP; the address need not exist yet.
    pub listen: SocketAddr,
    /// `cluster.local`.
    pub domain: String,
    pub upstream: Vec<SocketAddr>,
}

const RETRY: Duration = Duration::from_secs(1);

/// Answers DNS. Never returns; drop it to end it.
pub async fn run(informers: Informers, config: Config, clock: Clock, rng: Rng) {
    let records = Arc::new(RwLock::new(Records::new(&config.domain)));
    let (complete, completed) = oneshot::channel();
    let keep = keep(informers, records.clone(), complete);
    let listen = async {
        // Before, a name could only seem not to exist. Questions wait in the socket.
        let mut first = Sockets::bind(config.listen).ok();
        let _ = completed.await;
        loop {
            let upstream = Upstream::new(config.upstream.clone(), clock.clone(), rng.clone());
            let sockets = first.take().map_or_else(|| Sockets::bind(config.listen), Ok);
            let served = match sockets {
                Ok(sockets) => serve(sockets, records.clone(), upstream).await,
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::error!(%error, address = %config.listen, "serve DNS");
            }
            clock.sleep(RETRY).await;
        }
    };
    tokio::join!(keep, listen);
}

/// Follows Services, slices and namespaces; says when the records are complete.
async fn keep(informers: Informers, records: Arc<RwLock<Records>>, complete: oneshot::Sender<()>) {
    let services = informers.of::<Service>();
    let slices = informers.of::<EndpointSlice>();
    let namespaces = informers.of::<Namespace>();
    let mut service_changes = services.changes();
    let mut slice_changes = slices.changes();
    let mut namespace_changes = namespaces.changes();
    services.synced().await;
    slices.synced().await;
    namespaces.synced().await;
    let mut slices_of: HashMap<ServiceKey, BTreeSet<Key>> = HashMap::new();
    let mut complete = Some(complete);
    loop {
        let mut dirty = HashSet::new();
        tokio::select! {
            biased;
            change = service_changes.next() => {
                dirty.insert((change.key.namespace.to_string(), change.key.name.to_string()));
            }
            change = slice_changes.next() => index(&change, &mut slices_of, &mut dirty),
            change = namespace_changes.next() => {
                records.write().set_namespace(&change.key.name, change.new.is_some());
            }
            // Nothing is pending any more.
            () = std::future::ready(()), if complete.is_some() => {
                let _ = complete.take().map(|complete| complete.send(()));
            }
        }
        for key in dirty {
            let service = services.get(&key.0, &key.1);
            let names = slices_of.get(&key).into_iter().flatten();
            let slices: Vec<_> =
                names.filter_map(|key| slices.get(&key.namespace, &key.name)).collect();
            let service = service.as_ref().map(|entry| &entry.view);
            let slices = slices.iter().map(|entry| &entry.view);
            records.write().set_service(&key, service, slices);
        }
    }
}

/// Notes to which Service a slice belongs, and that the Service changed.
fn index(
    change: &Change<EndpointSlice>,
    slices_of: &mut HashMap<ServiceKey, BTreeSet<Key>>,
    dirty: &mut HashSet<ServiceKey>,
) {
    let key =
        |slice: &EndpointSlice| (change.key.namespace.to_string(), slice.service().to_owned());
    if let Some(old) = &change.old {
        let service = key(&old.view);
        if let Some(slices) = slices_of.get_mut(&service) {
            slices.remove(&change.key);
            if slices.is_empty() {
                slices_of.remove(&service);
            }
        }
        dirty.insert(service);
    }
    if let Some(new) = &change.new {
        let service = key(&new.view);
        slices_of.entry(service.clone()).or_default().insert(change.key.clone());
        dirty.insert(service);
    }
}
