//! Writes whose store is lost in the middle: they may have happened, so that each is answered with
//! what is known, and none is tried again.

use std::sync::Arc;

use apiserver::Server;
use apiserver::store::memory::MemoryStore;
use apiserver::store::{Got, Outcome, Page, Range, Revision, Sink, Store, StoreError, Txn, Watch};
use async_trait::async_trait;
use client::{Clock, Rng};
use parking_lot::Mutex;
use serde_json::{Value, json};

#[path = "http/api.rs"]
mod api;

use api::{Api, CONFIG_MAPS, Reply, config_map};

/// What becomes of the next transaction.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// It is written, and nobody hears of it.
    Written,
    /// The same, and somebody else deletes the object at once.
    Overtaken,
    Lost,
}

/// A store that loses its connection when it is told to.
struct Breaking {
    inner: MemoryStore,
    fate: Mutex<Option<Fate>>,
}

#[async_trait]
impl Store for Breaking {
    async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError> {
        let Some(fate) = self.fate.lock().take() else { return self.inner.transact(txn).await };
        let key = txn.guards[0].key.clone();
        if fate != Fate::Lost {
            let outcome = self.inner.transact(txn).await?;
            if let (Fate::Overtaken, Outcome::Committed(revision)) = (fate, outcome) {
                self.inner.transact(Txn::delete(key, revision)).await?;
            }
        }
        Err(StoreError::Uncertain { source: Arc::new(std::io::Error::other("broken")) })
    }

    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Got, StoreError> {
        self.inner.get(key, at).await
    }

    async fn list(&self, range: Range<'_>) -> Result<Page, StoreError> {
        self.inner.list(range).await
    }

    async fn watch(
        &self,
        prefix: &str,
        from: Revision,
        sink: Arc<dyn Sink>,
    ) -> Result<Watch, StoreError> {
        self.inner.watch(prefix, from, sink).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }
}

/// A server on such a store, with the ConfigMap `a`.
async fn start() -> (Api, Arc<Breaking>, String) {
    let store = Arc::new(Breaking { inner: MemoryStore::new(), fate: Mutex::new(None) });
    let folder = tempfile::tempdir().unwrap();
    let options = api::options(folder.path(), &[]);
    let server = Server::start_over(store.clone(), options, Clock::system(), Rng::seeded(7)).await;
    let api = Api::of(server.unwrap());
    api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    (api, store, format!("{CONFIG_MAPS}/a"))
}

impl Breaking {
    /// Calls `write` while the store loses the next transaction so; then the answer says that nobody
    /// knows, and asks for no second try.
    async fn during(&self, fate: Fate, write: impl Future<Output = Reply>) {
        *self.fate.lock() = Some(fate);
        let reply = write.await;
        assert!(!reply.headers.contains_key("retry-after"), "client-go would send it again");
        let status = reply.expect(504);
        assert_eq!(status["reason"], "Timeout");
        let message = "the store was lost during the write; it may or may not have happened";
        assert_eq!(status["message"], message);
        assert!(self.fate.lock().is_none(), "it came to the store");
    }
}

async fn data(api: &Api, path: &str) -> Value {
    api.get(path).await.expect(200)["data"].clone()
}

#[tokio::test]
async fn a_put_that_was_written_is_no_conflict() {
    let (api, store, path) = start().await;
    let mut object = api.get(&path).await.expect(200);
    object["data"] = json!({"turn": "1"});
    store.during(Fate::Written, api.put(&path, object)).await;
    assert_eq!(data(&api, &path).await, json!({"turn": "1"}));
}

#[tokio::test]
async fn what_was_deleted_after_it_does_not_come_back() {
    let (api, store, path) = start().await;
    let mut object = config_map("a");
    object["data"] = json!({"turn": "1"});
    store.during(Fate::Overtaken, api.put(&path, object)).await;
    api.get(&path).await.expect(404);
    api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    let apply = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"turn": "2"}});
    let applied = format!("{path}?fieldManager=test");
    let write = api.patch(&applied, "apply-patch+yaml", apply);
    store.during(Fate::Overtaken, write).await;
    api.get(&path).await.expect(404);
}

#[tokio::test]
async fn a_patch_that_was_written_is_made_once() {
    let (api, store, path) = start().await;
    let finalizers = json!({"metadata": {"finalizers": ["example.com/a"]}});
    api.merge(&path, finalizers).await.expect(200);
    let add = json!([{"op": "add", "path": "/metadata/finalizers/-", "value": "example.com/b"}]);
    store.during(Fate::Written, api.patch(&path, "json-patch+json", add)).await;
    let kept = api.get(&path).await.expect(200)["metadata"]["finalizers"].clone();
    assert_eq!(kept, json!(["example.com/a", "example.com/b"]));
}

#[tokio::test]
async fn a_creation_and_a_deletion_are_made_once() {
    let (api, store, path) = start().await;
    store.during(Fate::Written, api.post(CONFIG_MAPS, config_map("b"))).await;
    api.get(&format!("{CONFIG_MAPS}/b")).await.expect(200);
    store.during(Fate::Written, api.delete(&path)).await;
    api.get(&path).await.expect(404);
    // What is made by a name of the server's choice would be there twice.
    let mut made = config_map("");
    made["metadata"] = json!({"generateName": "made-"});
    store.during(Fate::Written, api.post(CONFIG_MAPS, made)).await;
    let list = api.get(CONFIG_MAPS).await.expect(200);
    let names = list["items"].as_array().unwrap().iter();
    let made = names.filter(|item| item["metadata"]["generateName"] == "made-").count();
    assert_eq!(made, 1);
}

#[tokio::test]
async fn what_was_not_written_is_as_before() {
    let (api, store, path) = start().await;
    let before = api.get(&path).await.expect(200);
    let change = json!({"data": {"turn": "1"}});
    store.during(Fate::Lost, api.merge(&path, change.clone())).await;
    let mut object = before.clone();
    object["data"] = change["data"].clone();
    store.during(Fate::Lost, api.put(&path, object)).await;
    store.during(Fate::Lost, api.delete(&path)).await;
    assert_eq!(api.get(&path).await.expect(200), before);
    api.merge(&path, change).await.expect(200);
    assert_eq!(data(&api, &path).await, json!({"turn": "1"}));
}
