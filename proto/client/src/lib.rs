//! The API client: how every component speaks to the API server, over mutual TLS or, in one
//! process, straight into its router; informers, work queue, leader election and events on top
//! of it; and time and randomness, which come in as inputs. Nothing else opens a socket to an
//! API server.

pub mod clock;
pub mod error;
pub mod kubeconfig;
pub mod object;
pub mod request;
pub mod rng;
pub mod transport;
mod watch;
pub mod websocket;

pub use clock::Clock;
pub use error::Error;
pub use kubeconfig::{Config, Kubeconfig};
pub use object::{
    DeleteOptions, Entry, Key, List, ListOptions, Object, Patch, Propagation, WatchEvent,
};
pub use request::{Body, BoxError, Client, Service};
pub use rng::Rng;
pub use transport::ConnectError;
