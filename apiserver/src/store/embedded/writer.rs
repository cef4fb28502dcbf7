//! The store's thread: takes what waits in the queue, commits it as one batch, hands it to the
//! watches, acknowledges it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::log::{Batch, Log, Record, place};
use crate::store::hub::Hub;
use crate::store::index::{Current, Index, Version, Write, evaluate};
use crate::store::{
    Change, Event, Got, KeyValue, Outcome, Page, Range, Revision, Sink, StoreError, Txn, Watch,
};

pub enum Request {
    Transact(Pending),
    Job(Box<dyn FnOnce(&mut Writer) + Send>),
}

pub struct Pending {
    pub txn: Txn,
    pub reply: oneshot::Sender<Result<Outcome, StoreError>>,
}

/// A batch is committed when it is this large, however many wait.
const BATCH: usize = 1024;
const BATCH_BYTES: usize = 8 << 20;
/// Where the last batch acknowledged several writers, they are about to write again: how long the
/// next one may wait for each of them. A lone writer is never waited for.
const LINGER: Duration = Duration::from_micros(100);
/// Forgotten changes that are removed from the file with each batch, or in one go when idle.
const SWEEP: usize = 256;
const SWEEP_IDLE: usize = 4096;
/// Changes that are read back at a time for a watch of the past.
const REPLAY: usize = 512;

pub struct Writer {
    log: Log,
    index: Index<()>,
    hub: Hub,
    acknowledged: Arc<AtomicU64>,
    /// Places in the file that nothing shows any more.
    garbage: VecDeque<u128>,
    /// The file does not know its counters yet: it is new, or the last compaction is.
    uncounted: bool,
    /// How many the last batch acknowledged.
    writers: usize,
}

/// What a batch will have done once it is committed.
struct Plan {
    records: Vec<Record>,
    outcomes: Vec<(oneshot::Sender<Result<Outcome, StoreError>>, Outcome)>,
    /// The state of the keys that the batch has written so far.
    overlay: HashMap<Arc<str>, Option<Current>>,
    revision: Revision,
}

impl Writer {
    pub fn new(log: Log, mut index: Index<()>, acknowledged: Arc<AtomicU64>) -> Self {
        acknowledged.store(index.revision(), Ordering::Release);
        // A crash may have come between a compaction and the sweep.
        let left = index.compact(index.compacted()).unwrap_or_default();
        let garbage = left.into_iter().map(|(revision, sub)| place(revision, sub)).collect();
        let hub = Hub::default();
        let uncounted = index.revision() == 1;
        Self { log, index, hub, acknowledged, garbage, uncounted, writers: 1 }
    }

    /// Until all senders are gone.
    pub fn run(mut self, queue: Receiver<Request>) {
        let mut set_aside = None;
        loop {
            let request = match set_aside.take() {
                Some(request) => request,
                None => match self.next(&queue) {
                    Ok(request) => request,
                    Err(Idle::Sweep) => {
                        self.sweep();
                        continue;
                    }
                    Err(Idle::Closed) => return,
                },
            };
            match request {
                Request::Job(job) => job(&mut self),
                Request::Transact(first) => {
                    let (batch, rest) = self.gather(first, &queue);
                    set_aside = rest;
                    self.commit(batch);
                }
            }
        }
    }

    fn next(&self, queue: &Receiver<Request>) -> Result<Request, Idle> {
        if self.garbage.is_empty() || !self.log.is_open() {
            return queue.recv().map_err(|_| Idle::Closed);
        }
        queue.try_recv().map_err(|error| match error {
            TryRecvError::Empty => Idle::Sweep,
            TryRecvError::Disconnected => Idle::Closed,
        })
    }

    /// The transactions that wait, and the first request behind them that is none.
    fn gather(&self, first: Pending, queue: &Receiver<Request>) -> (Vec<Pending>, Option<Request>) {
        let mut bytes = first.txn.bytes();
        let mut batch = vec![first];
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let request = match queue.try_recv() {
                Ok(request) => request,
                Err(_) if batch.len() >= self.writers => break,
                Err(_) => match queue.recv_timeout(LINGER) {
                    Ok(request) => request,
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                },
            };
            match request {
                Request::Transact(pending) => {
                    bytes += pending.txn.bytes();
                    batch.push(pending);
                }
                job => return (batch, Some(job)),
            }
        }
        (batch, None)
    }

    fn commit(&mut self, batch: Vec<Pending>) {
        self.writers = batch.len();
        let plan = self.plan(batch);
        let events = match self.write(&plan) {
            Ok(events) => events,
            Err(error) => {
                // Conflicts may have been with transactions of this batch: all have failed.
                for (reply, _) in plan.outcomes {
                    let _ = reply.send(Err(error.clone()));
                }
                return;
            }
        };
        for (record, event) in plan.records.iter().zip(&events) {
            let version = Version {
                mod_revision: event.revision,
                create_revision: record.create_revision,
                sub: record.place as u32,
                value: (),
            };
            self.index.push(event.key.clone(), version);
        }
        if !events.is_empty() {
            self.hub.publish(&events, plan.revision);
            self.acknowledged.store(plan.revision, Ordering::Release);
        }
        for (reply, outcome) in plan.outcomes {
            let _ = reply.send(Ok(outcome));
        }
    }

    /// Evaluates the transactions one after the other, each on what those before it leave.
    fn plan(&self, batch: Vec<Pending>) -> Plan {
        let mut plan = Plan {
            records: Vec::with_capacity(batch.len()),
            outcomes: Vec::with_capacity(batch.len()),
            overlay: HashMap::new(),
            revision: self.index.revision(),
        };
        for Pending { txn, reply } in batch {
            let outcome = match evaluate(&txn, plan.revision + 1, |key| self.current(&plan, key)) {
                Ok(writes) => plan.add(&self.index, writes),
                Err(found) => Outcome::Conflict { revision: plan.revision, found },
            };
            plan.outcomes.push((reply, outcome));
        }
        plan
    }

    fn current(&self, plan: &Plan, key: &str) -> Option<Current> {
        plan.overlay.get(key).copied().unwrap_or_else(|| self.index.current(key))
    }

    /// Makes the plan durable and tells what changed.
    fn write(&mut self, plan: &Plan) -> Result<Vec<Event>, StoreError> {
        if plan.records.is_empty() {
            return Ok(Vec::new());
        }
        self.log.recover(self.index.revision())?;
        self.append(&plan.records, SWEEP, plan.revision)?;
        let event = |record: &Record| {
            let revision = (record.place >> 32) as Revision;
            let change = match &record.value {
                None => Change::Delete,
                Some(value) => Change::Put(KeyValue {
                    key: record.key.clone(),
                    value: value.clone(),
                    create_revision: record.create_revision,
                    mod_revision: revision,
                }),
            };
            Event { key: record.key.clone(), revision, change }
        };
        Ok(plan.records.iter().map(event).collect())
    }

    /// Appends records, removes some garbage along with them.
    fn append(
        &mut self,
        records: &[Record],
        sweep: usize,
        revision: Revision,
    ) -> Result<(), StoreError> {
        let forget: Vec<u128> = self.garbage.iter().take(sweep).copied().collect();
        // Only in the log's own entries is the counter kept otherwise.
        let counters =
            (self.uncounted || !forget.is_empty()).then(|| (self.index.compacted(), revision));
        self.log.commit(&Batch { append: records, forget: &forget, counters })?;
        self.garbage.drain(..forget.len());
        self.uncounted = false;
        Ok(())
    }

    fn sweep(&mut self) {
        if let Err(error) = self.append(&[], SWEEP_IDLE, self.index.revision()) {
            // The next write tries again.
            tracing::warn!(%error, "cannot remove old revisions from the store");
        }
    }

    pub fn get(&mut self, key: &str, at: Option<Revision>) -> Result<Got, StoreError> {
        let revision = self.index.readable(at)?;
        let found =
            self.index.get(key, revision).map(|(key, version)| (key.clone(), version.clone()));
        let value = self.values(found.into_iter().collect())?.pop();
        Ok(Got { value, revision })
    }

    pub fn list(&mut self, range: Range<'_>) -> Result<Page, StoreError> {
        let revision = self.index.readable(range.at)?;
        let limit = if range.limit == 0 { usize::MAX } else { range.limit };
        let mut rest = self.index.range(range.prefix, revision, range.after);
        let found = rest.by_ref().take(limit).map(|(key, version)| (key.clone(), version.clone()));
        let found = found.collect();
        let more = rest.next().is_some();
        drop(rest);
        Ok(Page { items: self.values(found)?, revision, more })
    }

    pub fn watch(
        &mut self,
        prefix: &str,
        from: Revision,
        sink: Arc<dyn Sink>,
    ) -> Result<Watch, StoreError> {
        let current = self.index.revision();
        self.index.readable(Some(from.min(current)))?;
        let past: Vec<_> = self
            .index
            .since(from)
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, version)| (key.clone(), version.clone()))
            .collect();
        let mut rest = &past[..];
        while !rest.is_empty() {
            // Whole revisions only.
            let last = rest[REPLAY.min(rest.len()) - 1].1.mod_revision;
            let (chunk, behind) = rest.split_at(rest.partition_point(|c| c.1.mod_revision <= last));
            let put = chunk.iter().filter(|(_, version)| !version.is_deletion());
            let mut values = self.values(put.cloned().collect())?.into_iter();
            let event = |(key, version): &(Arc<str>, Version<()>)| Event {
                key: key.clone(),
                revision: version.mod_revision,
                change: match version.is_deletion() {
                    true => Change::Delete,
                    false => Change::Put(values.next().expect("as many values as versions")),
                },
            };
            let events: Vec<Event> = chunk.iter().map(event).collect();
            sink.apply(&events, last);
            rest = behind;
        }
        sink.apply(&[], current);
        Ok(self.hub.add(prefix, from, sink))
    }

    pub fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        let garbage = self.index.compact(revision)?;
        self.garbage.extend(garbage.into_iter().map(|(revision, sub)| place(revision, sub)));
        self.uncounted = true;
        Ok(())
    }

    /// The stored values of versions, none of them a deletion.
    fn values(
        &mut self,
        versions: Vec<(Arc<str>, Version<()>)>,
    ) -> Result<Vec<KeyValue>, StoreError> {
        if versions.is_empty() {
            return Ok(Vec::new());
        }
        self.log.recover(self.index.revision())?;
        let places = versions.iter().map(|(_, version)| place(version.mod_revision, version.sub));
        let values: Vec<Option<Bytes>> = self.log.read(places)?;
        versions
            .into_iter()
            .zip(values)
            .map(|((key, version), value)| {
                let Some(value) = value else {
                    let what = format!("revision {} of {key} is missing", version.mod_revision);
                    return Err(StoreError::Corrupt { what });
                };
                let Version { mod_revision, create_revision, .. } = version;
                Ok(KeyValue { key, value, create_revision, mod_revision })
            })
            .collect()
    }
}

impl Plan {
    fn add(&mut self, index: &Index<()>, writes: Vec<Write>) -> Outcome {
        if writes.is_empty() {
            return Outcome::Committed(self.revision);
        }
        self.revision += 1;
        for (sub, Write { key, value, create_revision }) in writes.into_iter().enumerate() {
            let key = index.intern(&key);
            let current =
                value.is_some().then_some(Current { mod_revision: self.revision, create_revision });
            self.overlay.insert(key.clone(), current);
            let place = place(self.revision, sub as u32);
            self.records.push(Record { place, key, create_revision, value });
        }
        Outcome::Committed(self.revision)
    }
}

enum Idle {
    Sweep,
    Closed,
}
