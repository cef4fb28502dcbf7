//! Objects that the server itself keeps in place. They come in few transactions and pass no
//! admission: nobody asked for them.

use std::sync::Arc;

use proto::{
    kind::{self, Row},
    meta::ObjectMeta,
    status::Status,
    time::Time,
};
use serde_json::Value;

use super::{Registry, object, write::ATTEMPTS};
use crate::{
    cache::Entry,
    kinds::{lens::Lens, service::pool},
    patch::managed_fields,
    store::{Guard, Op, Outcome, Txn},
};

/// Objects per transaction; etcd takes 128 operations.
const BATCH: usize = 100;

/// What becomes of an object that is there.
#[derive(Clone, Debug, PartialEq)]
pub enum Completed {
    /// It may stay as it is.
    Keep,
    Write(Value),
    /// It goes, and a new one is made: what differs may not change.
    Replace,
}

/// Compares an object that is there with the one that is wanted.
type Complete = fn(wanted: &Value, existing: &Value) -> Completed;

impl Registry {
    /// Creates what is absent and completes what is there.
    pub async fn seed(
        &self,
        objects: impl Iterator<Item = (&'static Row, Value)>,
        complete: Complete,
        now: Time,
    ) -> Result<(), Status> {
        let objects: Vec<(&Row, Value)> = objects.collect();
        for batch in objects.chunks(BATCH) {
            self.seed_batch(batch, complete, now).await?;
        }
        Ok(())
    }

    async fn seed_batch(
        &self,
        batch: &[(&'static Row, Value)],
        complete: Complete,
        now: Time,
    ) -> Result<(), Status> {
        for _ in 0..ATTEMPTS {
            let mut txn = Txn { guards: Vec::new(), ops: Vec::new() };
            for (row, wanted) in batch {
                if let Some((guard, op)) = self.seeded(row, wanted, complete, now)? {
                    txn.guards.push(guard);
                    txn.ops.push(op);
                }
            }
            if txn.ops.is_empty() {
                return Ok(());
            }
            let last = !txn.ops.iter().any(|op| matches!(op, Op::Delete { .. }));
            // In a conflict another server was faster; the cache has what it wrote.
            if let Outcome::Committed(_) = self.transact(txn).await?
                && last
            {
                return Ok(());
            }
        }
        Err(Status::internal("others keep writing what this server starts with"))
    }

    fn seeded(
        &self,
        row: &'static Row,
        wanted: &Value,
        complete: Complete,
        now: Time,
    ) -> Result<Option<(Guard, Op)>, Status> {
        let cache = &self.of(row).cache;
        let metadata = object::meta(wanted);
        let (namespace, name) = (metadata.text("namespace"), metadata.text("name"));
        let key: Arc<str> = cache.key(namespace, name).into();
        let (old, expected, mut new) = match cache.get(namespace, name) {
            None => {
                let mut new = wanted.clone();
                let metadata = object::meta_mut(&mut new);
                metadata.set("uid", self.0.rng.uuid());
                metadata.set("creationTimestamp", object::time(now));
                (None, 0, new)
            }
            Some(entry) => {
                let old = object::decode(&entry)?;
                let expected = entry.revision;
                match complete(wanted, &old) {
                    Completed::Keep => return Ok(None),
                    Completed::Write(new) => (Some(old), expected, new),
                    Completed::Replace => {
                        let guard = Guard { key: key.clone(), expected };
                        return Ok(Some((guard, Op::Delete { key })));
                    }
                }
            }
        };
        managed_fields::record(row, old.as_ref(), &mut new, "kube-apiserver", "", &[], now);
        let value = object::encode(row, &new);
        Ok(Some((Guard { key: key.clone(), expected }, Op::Put { key, value })))
    }

    /// Sets a label of this very object, where it is still there and nobody writes at the same time.
    pub(crate) async fn label(
        &self,
        row: &'static Row,
        meta: &ObjectMeta,
        (label, value): (&str, &str),
        now: Time,
    ) -> Result<(), Status> {
        let found = self.of(row).cache.get(&meta.namespace, &meta.name);
        let Some(entry) = found.filter(|entry| *entry.uid == *meta.uid) else { return Ok(()) };
        let old = object::decode(&entry)?;
        let mut new = old.clone();
        object::meta_mut(&mut new).section("labels").set(label, value);
        managed_fields::record(row, Some(&old), &mut new, "kube-apiserver", "", &[], now);
        let guards = vec![Guard { key: entry.key.clone(), expected: entry.revision }];
        let ops = vec![Op::Put { key: entry.key.clone(), value: object::encode(row, &new) }];
        self.transact(Txn { guards, ops }).await.map(drop)
    }

    /// Records again which Service holds an address, where somebody deleted the record. Never ends.
    pub async fn keep_addresses(&self) {
        let cache = &self.of(&kind::IP_ADDRESS).cache;
        loop {
            let Ok(mut watcher) = cache.watcher(self.cache().progress()) else {
                tokio::task::yield_now().await;
                continue;
            };
            // What goes by unseen is put right at the next start.
            while let Ok(changes) = watcher.next().await {
                let deleted = changes.iter().filter(|change| change.new.is_none());
                for record in deleted.filter_map(|change| change.old.as_ref()) {
                    if let Err(status) = self.keep_address(record).await {
                        let address = record.name();
                        tracing::warn!(%status, address, "recording the address of a Service");
                    }
                }
            }
        }
    }

    async fn keep_address(&self, record: &Entry) -> Result<(), Status> {
        let address = record.name();
        let key: Arc<str> = self.of(&kind::IP_ADDRESS).cache.key("", address).into();
        let object = object::decode(record)?;
        let parent = object.at("spec").at("parentRef");
        let (namespace, name) = (parent.text("namespace"), parent.text("name"));
        for _ in 0..ATTEMPTS {
            let services = &self.of(&kind::SERVICE).cache;
            let Some(holder) = services.get(namespace, name) else { return Ok(()) };
            let (service, now) = (object::decode(&holder)?, self.clock().now());
            let record = pool::record(address, &service, now, self.random());
            let Some(value) = record else { return Ok(()) };
            let unchanged = Guard { key: holder.key.clone(), expected: holder.revision };
            let absent = Guard { key: key.clone(), expected: 0 };
            let ops = vec![Op::Put { key: key.clone(), value }];
            match self.transact(Txn { guards: vec![unchanged, absent], ops }).await? {
                Outcome::Conflict { found, .. } if found.get(1) == Some(&0) => {}
                _ => return Ok(()),
            }
        }
        Ok(())
    }
}
