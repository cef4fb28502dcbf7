//! The container runtime: a CRI v1 server for real containers, a process of its own beside the agent.
//!
//! It may die at any moment: pods are held by their supervisors, everything else is on disk. It never
//! looks at the Kubernetes API. Only `sys` may be unsafe.

mod apparmor;
mod blueprint;
mod capabilities;
mod cdi;
pub(crate) mod cgroup;
mod container;
mod engine;
mod exec;
mod handlers;
pub mod images;
mod metrics;
mod plan;
mod program;
mod recover;
mod sandbox;
mod seccomp;
mod service;
mod state;
mod stats;
mod status;
pub mod streaming;
mod supervisor;
pub mod sys;
mod userns;
mod users;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use client::{Clock, Rng};
use proto::cri::image_service_server::ImageServiceServer;
use proto::cri::runtime_service_server::RuntimeServiceServer;
use tokio::sync::broadcast;

use self::cgroup::Cgroups;
use self::engine::{Engine, Inner};
pub use self::handlers::Handler;
use self::handlers::{Features, Handlers};
use self::images::{ImageStore, Mirror, Proxies, Puller};
use self::service::Service;
use self::state::Root;
use self::streaming::Streams;
use crate::stats::disk::Walks;

/// Where registries are configured, unless told otherwise.
pub const REGISTRIES: &str = "/etc/coracle/certs.d";
/// As containerd's.
pub const CONCURRENT_LAYERS: usize = 3;

/// The runtime's command line.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Directory of pods, containers and their writable layers
    #[arg(long, value_name = "DIR", default_value = "/var/lib/coracle/runtime")]
    pub root: PathBuf,
    /// Socket to serve CRI at
    #[arg(long, value_name = "unix://SOCKET", default_value = "unix:///run/coracle/runtime.sock")]
    pub listen: String,
    /// Directory of images; runtimes of one machine may share it [default: images below the root]
    #[arg(long, value_name = "DIR")]
    pub image_root: Option<PathBuf>,
    /// Pull images of HOST from URL; may be repeated
    #[arg(long = "registry-mirror", value_name = "HOST=URL")]
    pub registry_mirrors: Vec<Mirror>,
    /// Directory of the registries' configuration: HOST/hosts.toml as containerd has it, and
    /// _default. Proxies are those of HTTPS_PROXY, HTTP_PROXY and NO_PROXY
    #[arg(long, value_name = "DIR", default_value = REGISTRIES)]
    pub registry_config_path: PathBuf,
    /// How many layers of an image are fetched at the same time
    #[arg(long, value_name = "N", default_value_t = CONCURRENT_LAYERS)]
    pub max_concurrent_downloads: usize,
    /// An image that garbage collection must leave alone; may be repeated
    #[arg(long = "pinned-image", value_name = "NAME")]
    pub pinned_images: Vec<String>,
    /// The cgroup below which pods are that bring no parent of their own
    #[arg(long, value_name = "NAME", default_value = "coracle")]
    pub cgroup_parent: String,
    /// A name by which a RuntimeClass may call this runtime, and what its pods may ask for (all if
    /// nothing is said: recursive-read-only, user-namespaces); may be repeated
    #[arg(
        long = "handler",
        value_name = "NAME[=FEATURE,…]",
        default_values = ["coracle", "runc"]
    )]
    pub handlers: Vec<Handler>,
    /// The bridge that connects this node's pods
    #[arg(long, value_name = "LINK", default_value = "coracle0")]
    pub pod_bridge: String,
    /// MTU of the pods' links
    #[arg(long, value_name = "BYTES", default_value_t = 1500)]
    pub pod_mtu: u32,
    /// Address of the streaming server, which the agent fetches exec and attach from
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub stream_address: IpAddr,
}

/// Why the runtime could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{0} is not unix://PATH")]
    Listen(String),
    #[error("the runtime needs root")]
    NotRoot,
    #[error("{action} {object}")]
    Io {
        action: &'static str,
        object: String,
        #[source]
        source: io::Error,
    },
    #[error("start the runtime")]
    Engine(#[source] engine::Error),
    #[error("serve CRI")]
    Serve(#[source] tonic::transport::Error),
}

/// Serves CRI until `shutdown`. Pods go on without it.
pub async fn serve(
    options: Options,
    clock: Clock,
    rng: Rng,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    if !rustix::process::geteuid().is_root() {
        return Err(ServeError::NotRoot);
    }
    let socket = options.listen.strip_prefix("unix://").filter(|path| path.starts_with('/'));
    let socket = PathBuf::from(socket.ok_or_else(|| ServeError::Listen(options.listen.clone()))?);
    let address = SocketAddr::new(options.stream_address, 0);
    let streaming =
        tokio::net::TcpListener::bind(address).await.map_err(failed("bind", address))?;
    let address = streaming.local_addr().map_err(failed("bind", address))?;

    let engine = open(&options, clock, rng, address).map_err(ServeError::Engine)?;
    engine.recover().await.map_err(ServeError::Engine)?;
    warn_of_missing_privileges();

    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder).map_err(failed("create", folder.display()))?;
    }
    // The lock on the root says that no other runtime serves it.
    let _ = std::fs::remove_file(&socket);
    let listener =
        tokio::net::UnixListener::bind(&socket).map_err(failed("bind", socket.display()))?;
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&socket, owner_only).map_err(failed("restrict", socket.display()))?;
    tracing::info!(socket = %socket.display(), cgroups = engine.cgroups.mode(), "serving CRI");

    let streams = tokio::spawn(streaming::serve(engine.clone(), streaming));
    let service = Service { engine };
    let served = tonic::transport::Server::builder()
        .add_service(RuntimeServiceServer::new(service.clone()).max_decoding_message_size(16 << 20))
        .add_service(ImageServiceServer::new(service).max_decoding_message_size(16 << 20))
        .serve_with_incoming_shutdown(
            tokio_stream::wrappers::UnixListenerStream::new(listener),
            shutdown,
        )
        .await;
    streams.abort();
    let _ = std::fs::remove_file(&socket);
    served.map_err(ServeError::Serve)
}

fn open(
    options: &Options,
    clock: Clock,
    rng: Rng,
    address: SocketAddr,
) -> Result<Engine, engine::Error> {
    let (root, lock) = Root::open(&options.root)?;
    let images = options.image_root.clone().unwrap_or_else(|| root.file("images"));
    std::fs::create_dir_all(&images).map_err(state::failed("create", &images))?;
    let images = images.canonicalize().map_err(state::failed("resolve", &images))?;
    let images = ImageStore::open(&images)?;
    // What died half done costs room; the store is as good with it.
    if let Err(error) = images.sweep(clock.now()) {
        tracing::warn!(error = client::error::chain(&error), "cannot sweep the content store");
    }
    let puller = Puller::new(
        images.clone(),
        options.registry_config_path.clone(),
        options.registry_mirrors.clone(),
        Proxies::new(|name| std::env::var(name).ok()),
        options.max_concurrent_downloads,
        clock.clone(),
    );
    Ok(Engine::new(Inner {
        images,
        puller,
        pinned_images: options.pinned_images.clone(),
        cgroups: Cgroups::detect()?,
        supervisor: supervisor_executable(&options.root)?,
        handlers: Handlers::new(&options.handlers, Features::of_machine()),
        cgroup_parent: format!("/{}", options.cgroup_parent.trim_matches('/')),
        bridge: options.pod_bridge.clone(),
        mtu: options.pod_mtu,
        clock,
        rng,
        network: Default::default(),
        sandboxes: Default::default(),
        containers: Default::default(),
        events: broadcast::Sender::new(1024),
        streams: Streams::new(address),
        walks: Walks::default(),
        root,
        _lock: lock,
    }))
}

/// The name tells which runtime a supervisor belongs to.
fn supervisor_executable(root: &std::path::Path) -> Result<std::os::fd::OwnedFd, engine::Error> {
    sys::supervisor_executable(&root.join("supervisor").display().to_string())
        .map_err(|source| engine::Error::Step { step: "make the supervisor".into(), source })
}

/// Said once, instead of failing every pod for it.
fn warn_of_missing_privileges() {
    let resource = caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_RESOURCE);
    if !resource.unwrap_or(false) {
        tracing::warn!(
            "without CAP_SYS_RESOURCE negative oom_score_adj and more open files than the runtime's own are left out"
        );
    }
}

fn failed(
    action: &'static str,
    object: impl std::fmt::Display,
) -> impl FnOnce(io::Error) -> ServeError {
    let object = object.to_string();
    move |source| ServeError::Io { action, object, source }
}
