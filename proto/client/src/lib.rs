//! The API client: how every component speaks to the API server, over mutual TLS or, in one
//! process, straight into its router; informers, work queue, leader election and events on top
//! of it; and time and randomness, which come in as inputs. Nothing else opens a socket to an
//! API server.

pub mod clock;
pub mod rng;

pub use clock::Clock;
pub use rng::Rng;
