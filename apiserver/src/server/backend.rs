//! Which store the options ask for.

use std::sync::Arc;

use client::Clock;

use super::{Options, ServerError};
use crate::store::{Store, embedded::EmbeddedStore, etcd::EtcdStore, memory::MemoryStore};

pub(super) async fn open(options: &Options, clock: &Clock) -> Result<Arc<dyn Store>, ServerError> {
    if options.ephemeral {
        return Ok(Arc::new(MemoryStore::new()));
    }
    if !options.etcd.servers.is_empty() {
        let store = EtcdStore::connect(&options.etcd, clock.clone()).await;
        return Ok(Arc::new(store.map_err(ServerError::Store)?));
    }
    let path = options.data_dir.join("store.redb");
    Ok(Arc::new(EmbeddedStore::open(&path).await.map_err(ServerError::Store)?))
}
