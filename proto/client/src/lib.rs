//! The API client: how every component speaks to the API server, over mutual TLS or, in one
//! process, straight into its router; informers, work queue, leader election and events on top
//! of it; a component's own HTTPS endpoint, for whose callers the API server vouches; and time and
//! randomness, which come in as inputs. Nothing else opens a socket to an API server.

pub mod clock;
pub mod daemon;
pub mod endpoint;
pub mod error;
pub mod informer;
pub mod kubeconfig;
pub mod lead;
pub mod object;
pub mod queue;
pub mod recorder;
pub mod request;
pub mod rng;
pub mod transport;
mod watch;
pub mod websocket;

pub use clock::Clock;
pub use error::Error;
pub use informer::{Change, Changes, Feed, Informer, Informers, Snapshot, in_namespace};
pub use kubeconfig::{Config, Kubeconfig};
pub use lead::{Candidate, LeaseName, Standing, lead};
pub use object::{
    DeleteOptions, Entry, Key, List, ListOptions, Object, Patch, Propagation, WatchEvent,
};
pub use queue::{Queues, WorkQueue};
pub use recorder::Recorder;
pub use request::{Body, BoxError, Client, Service};
pub use rng::Rng;
/// Cancelled when the program is to end.
pub use tokio_util::sync::CancellationToken;
pub use transport::{AnyCertificate, ConnectError};
