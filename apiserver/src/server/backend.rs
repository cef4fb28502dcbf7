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

/// What is written through it is encrypted where the options say so. The store below is what backups
/// are made of.
pub(super) async fn encrypt(
    options: &Options,
    store: Arc<dyn Store>,
    rng: &Rng,
) -> Result<Arc<dyn Store>, ServerError> {
    let Some(config) = options.encryption_provider_config.as_deref() else { return Ok(store) };
    let encryption = Encryption::read(config).map_err(ServerError::Encryption)?;
    let store = EncryptedStore::new(store, encryption, rng.clone());
    store.verify().await.map_err(ServerError::Store)?;
    Ok(Arc::new(store))
}

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
