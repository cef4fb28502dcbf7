//! Which store the options ask for.

use std::sync::Arc;

use client::{Clock, Rng};

use super::{Options, ServerError};
use crate::store::{
    Store,
    embedded::EmbeddedStore,
    encrypted::{EncryptedStore, Encryption},
    etcd::EtcdStore,
    memory::MemoryStore,
};

/// One that is open already stays as it is.
pub(super) async fn open(
    opened: Option<Arc<dyn Store>>,
    options: &Options,
    clock: &Clock,
    rng: &Rng,
) -> Result<Backend, ServerError> {
    if let Some(store) = opened {
        return Ok(Backend { store: store.clone(), raw: store });
    }
    let encryption = options.encryption_provider_config.as_deref().map(Encryption::read);
    let encryption = encryption.transpose().map_err(ServerError::Encryption)?;
    let raw = plain(options, clock).await?;
    let store: Arc<dyn Store> = match encryption {
        Some(encryption) => {
            let store = EncryptedStore::new(raw.clone(), encryption, rng.clone());
            store.verify().await.map_err(ServerError::Store)?;
            Arc::new(store)
        }
        None => raw.clone(),
    };
    Ok(Backend { store, raw })
}

pub(super) struct Backend {
    pub store: Arc<dyn Store>,
    /// The same below encryption.
    pub raw: Arc<dyn Store>,
}

async fn plain(options: &Options, clock: &Clock) -> Result<Arc<dyn Store>, ServerError> {
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
