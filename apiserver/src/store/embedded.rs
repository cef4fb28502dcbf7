//! The default store: a log of revisions in one redb file, with its index in memory.
//!
//! One thread owns the file and the index and does everything in the order of its queue, so that
//! there is one order and no lock: transactions that wait together are committed together (one
//! durable redb commit), handed to the watches in revision order, and only then acknowledged.
//! Nothing of redb may run on an async worker.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::{Got, Outcome, Page, Range, Revision, Sink, Store, StoreError, Txn, Watch};
use file::File;
use log::Log;
use writer::{Pending, Request, Writer};

pub mod backup;
pub mod file;
mod log;
mod writer;

pub struct EmbeddedStore {
    requests: Option<mpsc::Sender<Request>>,
    /// Of the last batch that was acknowledged.
    revision: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens the file, or makes it. The store is usable when this returns.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let shown = path.display().to_string();
        Self::open_on(shown, move || File::lock(&path)).await
    }

    /// Opens the store on a device, which is asked for a backend again after each failure, when
    /// the former one has been dropped. `shown` names it in errors.
    pub async fn open_on<D>(
        shown: String,
        lock: impl FnOnce() -> Result<D, StoreError> + Send + 'static,
    ) -> Result<Self, StoreError>
    where
        D: file::Device,
    {
        let (requests, queue) = mpsc::channel();
        let revision = Arc::new(AtomicU64::new(0));
        let (opened, wait) = oneshot::channel();
        let acknowledged = revision.clone();
        let run = move || {
            let writer = lock()
                .and_then(|device| Log::open(shown, Box::new(device)))
                .map(|(log, index)| Writer::new(log, index, acknowledged));
            match writer {
                Ok(writer) => {
                    let _ = opened.send(Ok(()));
                    writer.run(queue);
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        };
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(run)
            .map_err(|source| unavailable("starting the store's thread", source))?;
        let store = Self { requests: Some(requests), revision, thread: Some(thread) };
        wait.await.unwrap_or(Err(StoreError::Closed))?;
        Ok(store)
    }

    /// Runs a job on the store's thread, between two batches.
    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Writer) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Job(Box::new(move |writer| drop(reply.send(job(writer))))))?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    fn send(&self, request: Request) -> Result<(), StoreError> {
        let requests = self.requests.as_ref().ok_or(StoreError::Closed)?;
        requests.send(request).map_err(|_| StoreError::Closed)
    }
}

impl Drop for EmbeddedStore {
    /// Returns when the file is closed, so that it can be opened again.
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Got, StoreError> {
        let key = key.to_owned();
        self.run(move |writer| writer.get(&key, at)).await
    }

    async fn list(&self, range: Range<'_>) -> Result<Page, StoreError> {
        let (prefix, after) = (range.prefix.to_owned(), range.after.map(str::to_owned));
        let Range { at, limit, .. } = range;
        self.run(move |writer| {
            writer.list(Range { prefix: &prefix, after: after.as_deref(), at, limit })
        })
        .await
    }

    async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError> {
        txn.check()?;
        let (reply, answer) = oneshot::channel();
        self.send(Request::Transact(Pending { txn, reply }))?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn watch(
        &self,
        prefix: &str,
        from: Revision,
        sink: Arc<dyn Sink>,
    ) -> Result<Watch, StoreError> {
        let prefix = prefix.to_owned();
        self.run(move |writer| writer.watch(&prefix, from, sink)).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.run(move |writer| writer.compact(revision)).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.revision.load(Ordering::Acquire))
    }
}

fn unavailable(
    operation: &'static str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> StoreError {
    StoreError::Unavailable { operation, source: Arc::new(source) }
}
