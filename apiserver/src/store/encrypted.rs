//! Encryption at rest: a store over another that seals the values of chosen resources. What it
//! writes is what kube-apiserver writes with the same EncryptionConfiguration, so that either reads
//! the other's store: `k8s:enc:<provider>:v1:<key name>:` and then the sealed bytes.
//!
//! Values are sealed by the first provider of their resource and opened by whichever fits, so that
//! keys are rotated by putting a new one first and writing the objects again. Nothing outside this
//! module knows of keys.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use client::Rng;

use super::{
    Change, Event, Got, KeyValue, Op, Outcome, Page, Range, Revision, Sink, Store, StoreError, Txn,
    Watch,
};

mod cipher;
mod config;

pub use config::{ConfigError, Encryption};

/// See the module.
pub struct EncryptedStore {
    inner: Arc<dyn Store>,
    encryption: Arc<Encryption>,
    rng: Rng,
}

impl EncryptedStore {
    pub fn new(inner: Arc<dyn Store>, encryption: Encryption, rng: Rng) -> EncryptedStore {
        EncryptedStore { inner, encryption: Arc::new(encryption), rng }
    }

    /// Fails with the first value that no key opens: a server that cannot read what it has stored
    /// must not start and answer that it is not there.
    pub async fn verify(&self) -> Result<(), StoreError> {
        for prefix in self.encryption.prefixes() {
            let mut after: Option<Arc<str>> = None;
            loop {
                let range = Range { prefix, at: None, after: after.as_deref(), limit: PAGE };
                let page = self.list(range).await?;
                after = page.items.last().map(|item| item.key.clone());
                if !page.more {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Whether some provider, of whichever configuration, has sealed this value.
pub fn is_sealed(value: &[u8]) -> bool {
    value.starts_with(cipher::SEALED)
}

/// Values that are opened at a time.
const PAGE: usize = 500;

impl Encryption {
    /// The value as it is stored.
    fn seal(&self, key: &str, value: Bytes, rng: &Rng) -> Result<Bytes, StoreError> {
        let Some(first) = self.providers(key).first() else { return Ok(value) };
        first.seal(key, value, rng).ok_or_else(|| StoreError::Corrupt {
            what: format!("{key} cannot be encrypted with the first provider of its resource"),
        })
    }

    fn open(&self, mut item: KeyValue) -> Result<KeyValue, StoreError> {
        let providers = self.providers(&item.key);
        // A deletion whose value is compacted away has none.
        if providers.is_empty() || item.value.is_empty() {
            return Ok(item);
        }
        let opened = providers.iter().find_map(|provider| provider.open(&item.key, &item.value));
        item.value = opened.ok_or_else(|| StoreError::Corrupt {
            what: format!(
                "{} is encrypted with a key that the encryption configuration does not have, or \
                 is plain and no identity provider admits that",
                item.key
            ),
        })?;
        Ok(item)
    }
}

#[async_trait]
impl Store for EncryptedStore {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Got, StoreError> {
        let got = self.inner.get(key, at).await?;
        let value = got.value.map(|item| self.encryption.open(item)).transpose()?;
        Ok(Got { value, ..got })
    }

    async fn list(&self, range: Range<'_>) -> Result<Page, StoreError> {
        let mut page = self.inner.list(range).await?;
        let opened = page.items.into_iter().map(|item| self.encryption.open(item));
        page.items = opened.collect::<Result<_, _>>()?;
        Ok(page)
    }

    async fn transact(&self, mut txn: Txn) -> Result<Outcome, StoreError> {
        for op in &mut txn.ops {
            if let Op::Put { key, value } = op {
                *value = self.encryption.seal(key, std::mem::take(value), &self.rng)?;
            }
        }
        self.inner.transact(txn).await
    }

    async fn watch(
        &self,
        prefix: &str,
        from: Revision,
        sink: Arc<dyn Sink>,
    ) -> Result<Watch, StoreError> {
        let sink = Arc::new(Opening { sink, encryption: self.encryption.clone() });
        self.inner.watch(prefix, from, sink).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }

    async fn is_stale(&self, key: &str) -> Result<bool, StoreError> {
        let Some(first) = self.encryption.providers(key).first() else { return Ok(false) };
        let stored = self.inner.get(key, None).await?.value;
        Ok(stored.is_some_and(|item| first.open(key, &item.value).is_none()))
    }

    async fn nudge(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.nudge(revision).await
    }
}

/// Opens values on their way to a watch.
struct Opening {
    sink: Arc<dyn Sink>,
    encryption: Arc<Encryption>,
}

impl Opening {
    fn open(&self, item: &KeyValue) -> KeyValue {
        // A watch cannot fail for one value: the reader says that it is no object, with its key.
        self.encryption.open(item.clone()).unwrap_or_else(|error| {
            tracing::error!(%error, "decrypting");
            item.clone()
        })
    }
}

impl Sink for Opening {
    fn apply(&self, events: &[Event], revision: Revision) {
        let opened: Vec<Event> = events
            .iter()
            .map(|event| Event {
                change: match &event.change {
                    Change::Put(item) => Change::Put(self.open(item)),
                    Change::Delete => Change::Delete,
                },
                ..event.clone()
            })
            .collect();
        self.sink.apply(&opened, revision);
    }
}
