//! Putting the API server together: store, registry, identities, router, listener.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use ::http::Request;
use axum::Router;
use bytes::Bytes;
use client::{Clock, Rng};
use http_body_util::{BodyExt, Full};
use proto::{
    kind::{self, SERVED},
    user::User,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{
    admission, audit,
    authn::{Authenticator, AuthnError, Keys},
    discovery::Discovery,
    flow::{self, Flow},
    http::{self, Api, Backup, GIT_VERSION, Health, OpenApi, platform},
    metrics::Metrics,
    node::{Nodes, Usage},
    pki::{Pki, PkiError},
    registry::Registry,
    store::{Store, StoreError, encrypted::ConfigError},
};

mod backend;
mod bootstrap;
mod dangling;
mod descriptors;
mod network;
mod options;
pub mod tls;

pub use crate::http::Check;
pub use options::Options;

use backend::Backend;
use tls::{Tls, TlsError};

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("creating the data directory {path}")]
    DataDir { path: PathBuf, source: std::io::Error },
    #[error(
        "cannot listen on {address}: another program uses this port (choose another with --secure-port)"
    )]
    InUse { address: SocketAddr },
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("preparing certificates")]
    Pki(#[from] PkiError),
    #[error("preparing TLS")]
    Tls(#[from] TlsError),
    #[error("preparing authentication")]
    Authn(#[from] AuthnError),
    #[error("choosing admission plugins")]
    Admission(#[from] admission::ChoiceError),
    #[error("preparing the audit log")]
    AuditPolicy(#[from] audit::PolicyError),
    #[error("preparing the audit log")]
    AuditLog(#[from] audit::LogError),
    #[error("preparing encryption at rest")]
    Encryption(#[source] ConfigError),
    #[error("opening the store")]
    Store(#[source] StoreError),
    #[error("creating what every cluster has: {0}")]
    Bootstrap(proto::status::Status),
}

/// A running API server. It answers as soon as [`Server::start`] has returned through
/// [`Server::router`], and over the network once [`Server::serve`] runs.
pub struct Server {
    options: Options,
    router: Router,
    registry: Registry,
    listener: TcpListener,
    address: SocketAddr,
    pki: Arc<Pki>,
    tls: Tls,
    nodes: Nodes,
    clock: Clock,
    rng: Rng,
    stop: CancellationToken,
    serving: Check,
}

impl Server {
    /// Listens, opens the store, makes certificates and kubeconfigs, and creates what every
    /// cluster has.
    pub async fn start(options: Options, clock: Clock, rng: Rng) -> Result<Server, ServerError> {
        Server::start_with(options, clock, rng, Vec::new()).await
    }

    /// The same, ready only when these hold too: of what else runs in this process.
    pub async fn start_with(
        options: Options,
        clock: Clock,
        rng: Rng,
        checks: Vec<Check>,
    ) -> Result<Server, ServerError> {
        Server::assemble(options, clock, rng, checks, None).await
    }

    /// The same over a store that is open already, whatever the options say of stores: whoever holds
    /// on to it may watch what is written.
    pub async fn start_over(
        store: Arc<dyn Store>,
        options: Options,
        clock: Clock,
        rng: Rng,
    ) -> Result<Server, ServerError> {
        Server::assemble(options, clock, rng, Vec::new(), Some(store)).await
    }

    async fn assemble(
        options: Options,
        clock: Clock,
        rng: Rng,
        checks: Vec<Check>,
        store: Option<Arc<dyn Store>>,
    ) -> Result<Server, ServerError> {
        let (on, off) = (&options.enable_admission_plugins, &options.disable_admission_plugins);
        let admission = admission::Chain::choose(on, off)?;
        tracing::debug!(plugins = admission.names().join(","), "admission");
        std::fs::create_dir_all(&options.data_dir)
            .map_err(|source| ServerError::DataDir { path: options.data_dir.clone(), source })?;
        let (listener, address) = listen(&options).await?;
        let identities = {
            let (options, clock, rng) = (options.clone(), clock.clone(), rng.clone());
            tokio::task::spawn_blocking(move || identities(&options, &clock, &rng))
        };
        let stop = CancellationToken::new();
        let flow = Flow::new(options.seats(), clock.clone());
        let audit = options.audit()?;
        let Backend { store, raw } = backend::open(store, &options, &clock, &rng).await?;
        let pool = options.pool(store.clone());
        pool.repair(clock.now(), rng.u64()).await.map_err(ServerError::Store)?;
        let rules = (admission, &*options.authorization_mode);
        let (inputs, watches) = ((clock.clone(), rng.clone()), stop.clone());
        let registry = Registry::open(store, rules, pool, inputs, watches)
            .await
            .map_err(ServerError::Store)?;
        let (pki, authenticator) =
            identities.await.expect("reading certificates does not panic")?;
        let (tls, nodes) = (Tls::new(&pki)?, Nodes::new(&pki, &clock)?);
        let url = format!("https://{}", SocketAddr::new(options.local(), address.port()));
        pki.write_kubeconfigs(&options.data_dir, &url)?;
        let (serving, bootstrapped) = (Check::new("shutdown"), Check::new("bootstrap"));
        let health = Health::new((registry.cache(), &clock), (&bootstrapped, &serving), checks);
        let advertised = SocketAddr::new(options.advertised(), address.port());
        let api = Arc::new(Api {
            registry: registry.clone(),
            authenticator,
            discovery: Discovery::new(&SERVED, &advertised.to_string()),
            openapi: OpenApi::new(&SERVED),
            health,
            nodes: nodes.clone(),
            usage: Usage::new(nodes.clone(), clock.clone()),
            backup: Backup::new(raw, options.data_dir.clone(), rng.clone()),
            flow: flow.clone(),
            metrics: Metrics::new(&clock, GIT_VERSION, platform()),
            audit,
            address: advertised.to_string(),
            clock: clock.clone(),
            rng: rng.clone(),
        });
        let levels = [&kind::FLOW_SCHEMA, &kind::PRIORITY_LEVEL_CONFIGURATION];
        let levels = levels.map(|row| registry.of(row).cache.clone()).into();
        tokio::spawn(flow::follow(flow, options.seats(), levels, stop.clone()));
        let router = http::router(api);
        let (range, doors) = (&options.service_cluster_ip_range, (&router, &registry));
        bootstrap::run(doors, range, advertised, pki.ca(), clock.now())
            .await
            .map_err(ServerError::Bootstrap)?;
        dangling::sync(&router, &registry, clock.now()).await.map_err(ServerError::Bootstrap)?;
        bootstrapped.pass();
        serving.pass();
        let pki = Arc::new(pki);
        Ok(Server {
            options,
            router,
            registry,
            listener,
            address,
            pki,
            tls,
            nodes,
            clock,
            rng,
            stop,
            serving,
        })
    }

    /// The API without a network: requests carry a [`proto::user::User`] extension. What it hands
    /// out are slices of the cache's bytes.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// A client of this server in the same process, as `user`.
    pub fn client(&self, user: User) -> client::Client {
        let router = self.router.clone();
        let service = tower::service_fn(move |request: Request<Full<Bytes>>| {
            let answer = router.clone().oneshot(request.map(axum::body::Body::new));
            async move {
                let response = answer.await?;
                Ok(response.map(|body| body.map_err(client::BoxError::from).boxed_unsync()))
            }
        });
        client::Client::in_process(client::Service::new(service), user)
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn pki(&self) -> &Arc<Pki> {
        &self.pki
    }

    /// Serves until `shutdown`, then fails `/readyz`, ends watches, lets requests finish (for a
    /// while) and returns.
    pub async fn serve(self, shutdown: CancellationToken) {
        let Server {
            options,
            router,
            registry,
            listener,
            address,
            pki,
            tls,
            nodes,
            clock,
            rng,
            stop,
            serving,
        } = self;
        let range = options.service_cluster_ip_range;
        let kept = bootstrap::built_in::keep(&router, &registry, range, &clock);
        let recorded = registry.keep_addresses();
        let told = dangling::keep(&router, &registry, &clock);
        let url = format!("https://{}", SocketAddr::new(options.local(), address.port()));
        let most = descriptors::room(options.max_connections);
        let renewal = renew(options, url, pki, tls.clone(), nodes, clock.clone(), rng);
        let accepting =
            tls::serve(listener, tls, router.clone(), clock.clone(), stop.clone(), most);
        tokio::pin!(accepting);
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = &mut accepting => return,
            () = renewal => {}
            () = kept => {}
            () = recorded => {}
            () = told => {}
        }
        serving.fail();
        stop.cancel();
        if clock.timeout(GRACE, accepting).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
    }
}

/// How long requests may take to finish at the end.
const GRACE: Duration = Duration::from_secs(10);

/// What vouches for the server, and what it knows others by. Reads and writes files.
fn identities(
    options: &Options,
    clock: &Clock,
    rng: &Rng,
) -> Result<(Pki, Authenticator), ServerError> {
    let dir = options.data_dir.join("pki");
    let pki = Pki::open(&dir, &network::serving_names(options), clock, rng)?;
    let authn = &options.authn;
    let signing = authn.service_account_signing_key_file.as_deref();
    let keys =
        Keys::open(&dir, signing, &authn.service_account_key_file).map_err(AuthnError::Keys)?;
    Ok((pki, Authenticator::new(authn, keys, clock)?))
}

async fn listen(options: &Options) -> Result<(TcpListener, SocketAddr), ServerError> {
    let address = SocketAddr::new(options.bind_address, options.secure_port);
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AddrInUse => ServerError::InUse { address },
        _ => ServerError::Listen { address, source },
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Renews certificates before they expire; connections that begin afterwards meet the new ones.
async fn renew(
    options: Options,
    url: String,
    pki: Arc<Pki>,
    tls: Tls,
    nodes: Nodes,
    clock: Clock,
    rng: Rng,
) {
    let mut at = pki.renew_at();
    loop {
        clock.sleep_until(at).await;
        let renewed = (|| -> Result<_, ServerError> {
            let dir = options.data_dir.join("pki");
            let pki = Pki::open(&dir, &network::serving_names(&options), &clock, &rng)?;
            tls.renew(&pki)?;
            nodes.renew(&pki)?;
            pki.write_kubeconfigs(&options.data_dir, &url)?;
            Ok(pki.renew_at())
        })();
        at = match renewed {
            Ok(next) => {
                tracing::info!("certificates renewed");
                next
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "renewing certificates; trying again in an hour");
                clock.now().plus(Duration::from_secs(3600))
            }
        };
    }
}
