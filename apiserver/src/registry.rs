//! The one pipeline that every kind and every verb passes: what a kind does differently comes from
//! its [`Strategy`]. The edge calls it with a request that is authenticated and authorized; only
//! this module writes objects, and only through the cache's transaction. No HTTP in here beyond
//! the bytes of bodies, and no kind's name where a strategy can tell.

use std::{collections::HashMap, sync::Arc, time::Duration};

use client::{Clock, Rng};
use proto::{kind::Row, status::Status, time::Time, user::User};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    admission,
    audit::Notes,
    authz::{self, Authorizer},
    cache::{self, Cache, Entry, KindCache, KindSpec},
    codec,
    http::{accept::Wanted, query::Query},
    kinds::{self, Context, Strategy, service::pool::Pool},
    store::{Revision, Store, StoreError},
};

mod cluster;
mod create;
pub mod delete;
mod evict;
mod get;
mod list;
mod object;
mod options;
mod patch;
mod render;
pub mod review;
mod seed;
mod select;
mod subresource;
pub mod token;
mod update;
mod watch;
mod write;

pub use list::List;
pub use object::{decode, encode};
pub use render::{Renderer, protobuf};
pub use seed::Completed;
pub use select::Selection;

/// The kinds that are served, over one cache.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    cache: Cache,
    /// By `group/version/resource`.
    kinds: HashMap<String, Arc<Kind>>,
    admission: admission::Chain,
    authorizer: Authorizer,
    /// Service addresses and node ports.
    pool: Pool,
    clock: Clock,
    rng: Rng,
    /// Watches end when it is cancelled.
    stop: CancellationToken,
}

/// A kind as it is served: its row, what it does differently, and where its objects are.
pub struct Kind {
    pub row: &'static Row,
    pub strategy: &'static dyn Strategy,
    pub cache: Arc<KindCache>,
}

/// One request to the pipeline.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub kind: &'a Arc<Kind>,
    /// `get`, `list`, … `deletecollection`, as authorization names it.
    pub verb: &'a str,
    /// Empty: all namespaces, or a cluster-scoped kind.
    pub namespace: &'a str,
    pub name: &'a str,
    pub subresource: &'a str,
    pub user: &'a User,
    pub query: &'a Query<'a>,
    pub user_agent: &'a str,
    pub content_type: &'a str,
    pub wanted: Wanted,
    pub now: Time,
    /// For the audit log; absent where it wants nothing of the request.
    pub notes: Option<&'a Notes>,
}

impl<'a> Call<'a> {
    /// `random` is drawn for every attempt.
    fn context(&self, random: u64) -> Context<'a> {
        let Call { user, subresource, .. } = *self;
        Context { row: self.kind.row, now: self.now, random, user, subresource }
    }

    /// The body as JSON, whatever it came as, for the audit log; nothing where it is neither.
    pub fn value(&self, body: &[u8]) -> Option<Value> {
        match write::format(self) {
            Ok(format) => codec::parse(format, body).ok().map(|decoded| decoded.value),
            Err(_) => serde_json::from_slice(body).ok(),
        }
    }

    fn not_found(&self) -> Status {
        Status::not_found(&self.kind.row.group, &self.kind.row.resource, self.name)
    }

    fn modified(&self) -> Status {
        Status::modified(&self.kind.row.group, &self.kind.row.resource, self.name)
    }
}

/// What the pipeline hands back to the edge.
pub struct Answer {
    pub code: u16,
    pub content: Content,
    /// Sentences for `Warning: 299` headers.
    pub warnings: Vec<String>,
}

pub enum Content {
    /// An object as it is in the cache, or was when it was deleted.
    Entry(Arc<Entry>),
    /// An object of the kind that is in no cache (dry runs).
    Object(Value),
    /// Objects of the kind that are in no cache, as a list.
    Made(Vec<Value>),
    /// Something of another kind (Status, Scale), which has no table.
    Other(Value),
    List(List),
}

impl Answer {
    fn ok(content: Content) -> Answer {
        Answer { code: 200, content, warnings: Vec::new() }
    }
}

/// How long a reader that asks for a revision of the future waits for it.
const FUTURE: Duration = Duration::from_secs(3);

impl Registry {
    /// Opens the cache over `store` with every built-in kind.
    pub async fn open(
        store: Arc<dyn Store>,
        (admission, modes): (admission::Chain, &[authz::Mode]),
        pool: Pool,
        (clock, rng): (Clock, Rng),
        stop: CancellationToken,
    ) -> Result<Registry, StoreError> {
        let stored = kinds::all().iter().filter(|(row, _)| row.is_stored());
        let specs = stored.map(|(row, strategy)| spec(row, *strategy));
        let cache = Cache::open(store, specs, clock.clone()).await?;
        let kinds: HashMap<String, Arc<Kind>> = kinds::all()
            .iter()
            .map(|(row, strategy)| {
                let cache = match row.is_stored() {
                    true => cache.kind(&row.storage).expect("every row's storage was given"),
                    false => Arc::new(KindCache::unstored()),
                };
                let kind = Arc::new(Kind { row, strategy: *strategy, cache });
                (index(&row.group, &row.version, &row.resource), kind)
            })
            .collect();
        let authorizer = Authorizer::new(modes, |row| {
            cache.kind(&row.storage).expect("it asks for built-in kinds, which are stored")
        });
        let inner = Inner { cache, kinds, admission, authorizer, pool, clock, rng, stop };
        Ok(Registry(Arc::new(inner)))
    }

    pub fn kind(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Kind>> {
        self.0.kinds.get(&index(group, version, resource))
    }

    /// A built-in kind.
    pub fn of(&self, row: &Row) -> &Arc<Kind> {
        self.kind(&row.group, &row.version, &row.resource).expect("built-in rows are always served")
    }

    pub fn authorizer(&self) -> &Authorizer {
        &self.0.authorizer
    }

    pub fn cache(&self) -> &Cache {
        &self.0.cache
    }

    /// How many objects there are of each kind, by `deployments.apps`.
    pub fn counts(&self) -> impl Iterator<Item = (String, usize)> {
        self.0.kinds.values().map(|kind| (kind.row.qualified(), kind.cache.snapshot().len()))
    }

    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Reads after this see every write that was acknowledged before it.
    async fn fresh(&self) -> Result<Revision, Status> {
        self.0.cache.fresh().await.map_err(store_status)
    }

    /// Waits until the cache has `revision`; 504 where that takes too long.
    async fn reach(&self, revision: Revision) -> Result<(), Status> {
        let cache = &self.0.cache;
        if cache.progress() >= revision {
            return Ok(());
        }
        // With a shared store another server may be ahead of what has arrived here.
        let wait = async {
            let current = cache.fresh().await.map_err(store_status)?;
            if current < revision {
                cache.wait(revision).await;
            }
            Ok(())
        };
        match self.0.clock.timeout(FUTURE, wait).await {
            Ok(result) => result,
            Err(_) => {
                let current = cache.progress();
                let message = format!("Too large resource version: {revision}, current: {current}");
                let cause = "Too large resource version";
                let mut status =
                    Status::timeout(message).because("ResourceVersionTooLarge", cause, "");
                status.details.get_or_insert_default().retry_after_seconds = Some(1);
                Err(status)
            }
        }
    }
}

fn index(group: &str, version: &str, resource: &str) -> String {
    [group, version, resource].join("/")
}

fn spec(row: &Row, strategy: &dyn Strategy) -> KindSpec {
    let fields = strategy.fields().iter().map(|field| cache::Field {
        name: field.label.into(),
        path: field.path.into(),
        missing: field.absent,
    });
    KindSpec::new(&row.storage, row.namespaced, fields)
}

/// The answer to a failure of the store.
pub fn store_status(error: StoreError) -> Status {
    tracing::warn!(error = &error as &dyn std::error::Error, "store");
    match error {
        StoreError::NoSpace => Status::insufficient_storage(
            "no space left to store the object; reads go on, and writes will when there is room",
        ),
        StoreError::TooLarge => Status::too_large("etcdserver: request is too large"),
        StoreError::Compacted { .. } => Status::expired(
            "The provided continue parameter is too old to display a consistent list result.",
        ),
        StoreError::Future { requested, current } => {
            Status::timeout(format!("Too large resource version: {requested}, current: {current}"))
        }
        StoreError::Unavailable { .. } | StoreError::Closed => {
            Status::unavailable("the store is not available; try again")
        }
        StoreError::Uncertain { .. } => {
            Status::timeout("the store was lost during the write; it may or may not have happened")
        }
        StoreError::Duplicate { .. }
        | StoreError::Exists { .. }
        | StoreError::Locked { .. }
        | StoreError::Foreign { .. }
        | StoreError::Sealed { .. }
        | StoreError::Corrupt { .. } => Status::internal("the store cannot be used"),
    }
}
