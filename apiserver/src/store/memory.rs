//! The store of an ephemeral cluster: the index with the values in it. Nothing survives the
//! process. It has no task and no thread: a transaction is done when the call returns.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::hub::Hub;
use super::index::{Index, Version, evaluate};
use super::{
    Change, Event, Got, KeyValue, Outcome, Page, Range, Revision, Sink, Store, StoreError, Txn,
    Watch,
};

pub struct MemoryStore {
    inner: Mutex<Inner>,
}

struct Inner {
    index: Index<Bytes>,
    hub: Hub,
}

impl MemoryStore {
    #[expect(clippy::new_without_default, reason = "a store is opened, not defaulted")]
    pub fn new() -> Self {
        Self { inner: Mutex::new(Inner { index: Index::new(), hub: Hub::default() }) }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Got, StoreError> {
        let inner = self.inner.lock();
        let revision = inner.index.readable(at)?;
        let value = inner.index.get(key, revision).map(|(key, version)| key_value(key, version));
        Ok(Got { value, revision })
    }

    async fn list(&self, range: Range<'_>) -> Result<Page, StoreError> {
        let inner = self.inner.lock();
        let revision = inner.index.readable(range.at)?;
        let limit = if range.limit == 0 { usize::MAX } else { range.limit };
        let mut rest = inner.index.range(range.prefix, revision, range.after);
        let items =
            rest.by_ref().take(limit).map(|(key, version)| key_value(key, version)).collect();
        Ok(Page { items, revision, more: rest.next().is_some() })
    }

    async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError> {
        txn.check()?;
        let mut inner = self.inner.lock();
        let Inner { index, hub } = &mut *inner;
        let revision = index.revision() + 1;
        let writes = match evaluate(&txn, revision, |key| index.current(key)) {
            Ok(writes) => writes,
            Err(found) => return Ok(Outcome::Conflict { revision: index.revision(), found }),
        };
        if writes.is_empty() {
            return Ok(Outcome::Committed(index.revision()));
        }
        let mut events = Vec::with_capacity(writes.len());
        for (sub, write) in writes.into_iter().enumerate() {
            let key = index.intern(&write.key);
            let version = Version {
                mod_revision: revision,
                create_revision: write.create_revision,
                sub: sub as u32,
                value: write.value.unwrap_or_default(),
            };
            events.push(event(&key, &version));
            index.push(key, version);
        }
        hub.publish(&events, revision);
        Ok(Outcome::Committed(revision))
    }

    async fn watch(
        &self,
        prefix: &str,
        from: Revision,
        sink: Arc<dyn Sink>,
    ) -> Result<Watch, StoreError> {
        let mut inner = self.inner.lock();
        let Inner { index, hub } = &mut *inner;
        let current = index.revision();
        index.readable(Some(from.min(current)))?;
        let past: Vec<Event> = index
            .since(from)
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, version)| event(key, version))
            .collect();
        sink.apply(&past, current);
        Ok(hub.add(prefix, from, sink))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.lock().index.compact(revision).map(drop)
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.inner.lock().index.revision())
    }
}

fn key_value(key: &Arc<str>, version: &Version<Bytes>) -> KeyValue {
    KeyValue {
        key: key.clone(),
        value: version.value.clone(),
        create_revision: version.create_revision,
        mod_revision: version.mod_revision,
    }
}

fn event(key: &Arc<str>, version: &Version<Bytes>) -> Event {
    let change = match version.is_deletion() {
        true => Change::Delete,
        false => Change::Put(key_value(key, version)),
    };
    Event { key: key.clone(), revision: version.mod_revision, change }
}
