//! One suite over all stores.

use std::sync::Arc;

use apiserver::store::embedded::EmbeddedStore;
use apiserver::store::encrypted::{EncryptedStore, Encryption};
use apiserver::store::memory::MemoryStore;
use client::Rng;

#[path = "store/suite.rs"]
mod suite;

#[tokio::test]
async fn memory() {
    suite::run(Arc::new(MemoryStore::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&folder.path().join("store.redb")).await.unwrap();
    suite::run(Arc::new(store)).await;
}

#[tokio::test]
async fn encrypted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("encryption.yaml");
    let text = "
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: ['*.*']
  providers:
  - aescbc: {keys: [{name: a, secret: MDEyMzQ1Njc4OWFiY2RlZg==}]}
";
    std::fs::write(&path, text).unwrap();
    let encryption = Encryption::read(&path).unwrap();
    let memory = Arc::new(MemoryStore::new());
    suite::run(Arc::new(EncryptedStore::new(memory, encryption, Rng::seeded(1)))).await;
}
