//! Objects that the server itself keeps in place. They come in few transactions and pass no
//! admission: nobody asked for them.

use proto::{kind::Row, status::Status, time::Time};
use serde_json::Value;

use super::{Registry, object, write::ATTEMPTS};
use crate::{
    kinds::lens::Lens,
    patch::managed_fields,
    store::{Guard, Op, Outcome, Txn},
};

/// Objects per transaction; etcd takes 128 operations.
const BATCH: usize = 100;

/// What an object that is there should become; `None`: it may stay.
type Complete = fn(wanted: &Value, existing: &Value) -> Option<Value>;

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
            // In a conflict another server was faster; the cache has what it wrote.
            if let Outcome::Committed(_) = self.transact(txn).await? {
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
                let Some(new) = complete(wanted, &old) else { return Ok(None) };
                (Some(old), entry.revision, new)
            }
        };
        managed_fields::record(row, old.as_ref(), &mut new, "kube-apiserver", "Update", "", now);
        let key: std::sync::Arc<str> = cache.key(namespace, name).into();
        let value = object::encode(row, &new);
        Ok(Some((Guard { key: key.clone(), expected }, Op::Put { key, value })))
    }
}
