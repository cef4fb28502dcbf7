//! The store of a cluster of API servers: etcd, 3.4 or newer, with its objects where an upstream
//! kube-apiserver keeps them.
//!
//! A call that a member does not answer is made again, on another member. That is safe for reads,
//! and for transactions because of their guards: one that was written and whose answer was lost
//! meets itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use client::Clock;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, GetOptions, GetResponse, Identity,
    KvClient, TlsOptions, TxnOp, TxnOpResponse, TxnResponse,
};
use tokio::sync::Mutex;

use super::{
    Got, KeyValue, Op, Outcome, Page, Range, Revision, Sink, Store, StoreError, Txn, Watch,
};

mod failure;
mod follow;

use failure::{Failure, classify};

/// Where etcd is, by the names of kube-apiserver's flags.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct EtcdOptions {
    /// etcd's client URLs, separated by commas
    #[arg(id = "etcd-servers", long, value_delimiter = ',', value_name = "URL")]
    pub servers: Vec<String>,
    /// certificate authority of etcd's servers
    #[arg(id = "etcd-cafile", long, value_name = "FILE", requires = "etcd-servers")]
    pub cafile: Option<PathBuf>,
    /// client certificate for etcd
    #[arg(id = "etcd-certfile", long, value_name = "FILE", requires = "etcd-keyfile")]
    pub certfile: Option<PathBuf>,
    /// key of the client certificate for etcd
    #[arg(id = "etcd-keyfile", long, value_name = "FILE", requires = "etcd-certfile")]
    pub keyfile: Option<PathBuf>,
}

/// One call to a member.
const CALL: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(2);
/// A dead member is noticed after both.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// How long a call is made again before it fails, and the first and longest pause between.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Messages from etcd have no useful bound: a page of the largest objects is what it is.
const MESSAGE: usize = 1 << 30;

/// Written to make watches arrive at a revision that came from elsewhere: progress requests, made
/// for it, run ahead of events before etcd 3.4.25 and 3.5.8.
const MARKER: &str = "/registry/coracle/revision";

pub struct EtcdStore {
    client: Client,
    clock: Clock,
    barrier: Barrier,
    marked: Mutex<Revision>,
}

/// Reads of the revision that wait at the same time share one. A read may serve only callers who
/// came before it began.
#[derive(Default)]
struct Barrier {
    begun: AtomicU64,
    /// The number of the last read, and what it read.
    last: Mutex<(u64, Revision)>,
}

impl EtcdStore {
    /// Connects and asks for the revision once, so that a wrong address is found here.
    pub async fn connect(options: &EtcdOptions, clock: Clock) -> Result<Self, StoreError> {
        let mut connect = ConnectOptions::new()
            .with_timeout(CALL)
            .with_connect_timeout(CONNECT)
            .with_keep_alive(PING.0, PING.1)
            .with_require_leader(true);
        if let Some(tls) = tls(options)? {
            connect = connect.with_tls(tls);
        }
        let client = Client::connect(&options.servers, Some(connect)).await;
        let client = client.map_err(|source| unavailable("connecting to etcd", source))?;
        let (barrier, marked) = (Barrier::default(), Mutex::new(0));
        let store = Self { client, clock, barrier, marked };
        store.revision().await?;
        Ok(store)
    }

    fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MESSAGE)
    }

    /// Makes a call that changes nothing, or may happen twice.
    async fn call<T, F>(
        &self,
        operation: &'static str,
        attempt: impl FnMut(KvClient) -> F,
    ) -> Result<Result<T, Failure>, StoreError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        self.call_uncertain(operation, attempt).await.map_err(|error| match error {
            StoreError::Uncertain { source } => StoreError::Unavailable { operation, source },
            error => error,
        })
    }

    /// Makes a call until a member answers it. `Ok(Err)` is etcd's own refusal.
    async fn call_uncertain<T, F>(
        &self,
        operation: &'static str,
        mut attempt: impl FnMut(KvClient) -> F,
    ) -> Result<Result<T, Failure>, StoreError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = self.clock.instant() + PATIENCE;
        let mut pause = PAUSE.0;
        loop {
            let error = match attempt(self.kv()).await {
                Ok(answer) => return Ok(Ok(answer)),
                Err(error) => error,
            };
            match classify(&error) {
                Failure::Unanswered if self.clock.instant() < deadline => {
                    tracing::debug!(operation, %error, "etcd did not answer; trying again");
                    self.clock.sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
                Failure::Unanswered => {
                    return Err(StoreError::Uncertain { source: Arc::new(error) });
                }
                Failure::Refused => return Err(unavailable(operation, error)),
                failure => return Ok(Err(failure)),
            }
        }
    }

    async fn range(
        &self,
        operation: &'static str,
        key: &str,
        options: GetOptions,
        at: Option<Revision>,
    ) -> Result<(GetResponse, Revision), StoreError> {
        let options = match at {
            // 0 would mean now; both are before the first write.
            Some(at) => options.with_revision(at.max(1) as i64),
            None => options,
        };
        let get = |mut kv: KvClient| {
            let options = options.clone();
            async move { kv.get(key, Some(options)).await }
        };
        match self.call(operation, get).await? {
            Ok(answer) => {
                let current = revision_of(answer.header());
                Ok((answer, at.unwrap_or(current)))
            }
            Err(Failure::Future) => {
                let current = self.current().await?;
                Err(StoreError::Future { requested: at.unwrap_or(0), current })
            }
            Err(failure) => Err(failure.explain(at.unwrap_or(0))),
        }
    }

    /// One linearizable read of the revision.
    async fn current(&self) -> Result<Revision, StoreError> {
        let read = |mut kv: KvClient| async move {
            kv.get(MARKER, Some(GetOptions::new().with_count_only())).await
        };
        let answer = self.call("read the revision", read).await?;
        answer.map(|answer| revision_of(answer.header())).map_err(|failure| failure.explain(0))
    }

    /// Whether a transaction that met a conflict on a later attempt met itself: what it was to
    /// write is there.
    async fn is_written(&self, txn: &Txn) -> Result<Option<Revision>, StoreError> {
        let mut written = 0;
        for op in &txn.ops {
            // That a key is absent may be another's doing.
            let Op::Put { value, .. } = op else { return Ok(None) };
            let (mut got, _) = self.range("get", op.key(), GetOptions::new(), None).await?;
            match got.take_kvs().pop() {
                Some(kv) if kv.value() == &value[..] => {
                    written = written.max(kv.mod_revision() as Revision);
                }
                _ => return Ok(None),
            }
        }
        Ok((!txn.ops.is_empty()).then_some(written))
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Got, StoreError> {
        let (mut answer, revision) = self.range("get", key, GetOptions::new(), at).await?;
        Ok(Got { value: answer.take_kvs().pop().map(key_value), revision })
    }

    async fn list(&self, range: Range<'_>) -> Result<Page, StoreError> {
        let start = match range.after {
            // The next key after it.
            Some(after) if after >= range.prefix => format!("{after}\0"),
            _ => range.prefix.to_owned(),
        };
        let options =
            GetOptions::new().with_range(end_of(range.prefix)).with_limit(range.limit as i64);
        let (mut answer, revision) = self.range("list", &start, options, range.at).await?;
        let more = answer.more();
        Ok(Page { items: answer.take_kvs().into_iter().map(key_value).collect(), revision, more })
    }

    async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError> {
        txn.check()?;
        let mut attempts = 0;
        let answer = self
            .call_uncertain("transact", |mut kv| {
                attempts += 1;
                let request = request(&txn);
                async move { kv.txn(request).await }
            })
            .await;
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(failure)) => return Err(failure.explain(0)),
            // An attempt before the one that was refused may have been written.
            Err(StoreError::Unavailable { source, .. }) if attempts > 1 => {
                return Err(StoreError::Uncertain { source });
            }
            Err(error) => return Err(error),
        };
        let revision = revision_of(answer.header());
        if answer.succeeded() {
            return Ok(Outcome::Committed(revision));
        }
        if attempts > 1 {
            // The conflict may be with what an attempt before has written. Where that has been
            // overwritten since, nobody can tell.
            let why = "an attempt without an answer, and then a conflict";
            let source = Arc::new(std::io::Error::other(why));
            let written = self.is_written(&txn).await?;
            return written.map(Outcome::Committed).ok_or(StoreError::Uncertain { source });
        }
        Ok(Outcome::Conflict { revision, found: found(&answer) })
    }

    async fn watch(
        &self,
        prefix: &str,
        from: Revision,
        sink: Arc<dyn Sink>,
    ) -> Result<Watch, StoreError> {
        let watch = self.client.watch_client().max_decoding_message_size(MESSAGE);
        Ok(follow::start(watch, self.clock.clone(), prefix.to_owned(), from, sink))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let compact = |mut kv: KvClient| async move { kv.compact(revision as i64, None).await };
        match self.call("compact", compact).await? {
            // Another API server was faster.
            Ok(_) | Err(Failure::Compacted) => Ok(()),
            Err(failure) => Err(failure.explain(revision)),
        }
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        let begun = self.barrier.begun.load(Ordering::SeqCst);
        let mut last = self.barrier.last.lock().await;
        if last.0 <= begun {
            let number = self.barrier.begun.fetch_add(1, Ordering::SeqCst) + 1;
            *last = (number, self.current().await?);
        }
        Ok(last.1)
    }

    async fn nudge(&self, revision: Revision) -> Result<(), StoreError> {
        let mut marked = self.marked.lock().await;
        if *marked < revision {
            let put = |mut kv: KvClient| async move { kv.put(MARKER, "", None).await };
            match self.call("mark the revision", put).await? {
                Ok(answer) => *marked = revision_of(answer.header()),
                Err(failure) => return Err(failure.explain(revision)),
            }
        }
        Ok(())
    }
}

fn request(txn: &Txn) -> etcd_client::Txn {
    let guards = txn.guards.iter();
    let compares = guards
        .clone()
        .map(|guard| Compare::mod_revision(&*guard.key, CompareOp::Equal, guard.expected as i64));
    let ops = txn.ops.iter().map(|op| match op {
        Op::Put { key, value } => TxnOp::put(&**key, &value[..], None),
        Op::Delete { key } => TxnOp::delete(&**key, None),
    });
    let reads =
        guards.map(|guard| TxnOp::get(&*guard.key, Some(GetOptions::new().with_keys_only())));
    etcd_client::Txn::new()
        .when(compares.collect::<Vec<_>>())
        .and_then(ops.collect::<Vec<_>>())
        .or_else(reads.collect::<Vec<_>>())
}

/// The mod revisions that the guards found.
fn found(answer: &TxnResponse) -> Vec<Revision> {
    let reads = answer.op_responses().into_iter();
    reads
        .map(|read| match read {
            TxnOpResponse::Get(got) => {
                got.kvs().first().map_or(0, |kv| kv.mod_revision() as Revision)
            }
            _ => 0,
        })
        .collect()
}

fn key_value(kv: etcd_client::KeyValue) -> KeyValue {
    let (create_revision, mod_revision) = (kv.create_revision(), kv.mod_revision());
    let (key, value) = kv.into_key_value();
    KeyValue {
        key: String::from_utf8_lossy(&key).into(),
        value: value.into(),
        create_revision: create_revision as Revision,
        mod_revision: mod_revision as Revision,
    }
}

fn revision_of(header: Option<&etcd_client::ResponseHeader>) -> Revision {
    header.map_or(0, |header| header.revision() as Revision)
}

/// The first key behind all that begin with the prefix.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // No byte of UTF-8 is 255.
    match end.last_mut() {
        Some(last) => *last += 1,
        None => end.push(0),
    }
    end
}

fn tls(options: &EtcdOptions) -> Result<Option<TlsOptions>, StoreError> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|source| unavailable("reading the files for etcd", source))
    };
    if options.cafile.is_none() && options.certfile.is_none() {
        return Ok(None);
    }
    let mut tls = TlsOptions::new();
    if let Some(ca) = &options.cafile {
        tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
    }
    if let (Some(certificate), Some(key)) = (&options.certfile, &options.keyfile) {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(Some(tls))
}

fn unavailable(
    operation: &'static str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> StoreError {
    StoreError::Unavailable { operation, source: Arc::new(source) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        etcd: EtcdOptions,
    }

    #[test]
    fn flags_are_upstreams() {
        let flags = ["x", "--etcd-servers=http://a,http://b", "--etcd-cafile=ca"];
        let etcd = Program::try_parse_from(flags).unwrap().etcd;
        assert_eq!(etcd.servers, ["http://a", "http://b"]);
        assert_eq!(etcd.cafile, Some("ca".into()));
        for alone in ["--etcd-cafile=ca", "--etcd-certfile=c", "--etcd-keyfile=k"] {
            assert!(Program::try_parse_from(["x", alone]).is_err(), "{alone}");
        }
    }

    #[test]
    fn ranges_end_behind_their_prefix() {
        assert_eq!(end_of("/registry/"), b"/registry0");
        assert_eq!(end_of(""), [0], "all keys");
    }
}
