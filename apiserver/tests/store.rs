//! One suite over all stores.

use std::sync::Arc;

use apiserver::store::embedded::EmbeddedStore;
use apiserver::store::memory::MemoryStore;

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
