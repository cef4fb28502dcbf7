//! The scheduler: gives every pod that has none a node. It talks to the API server only; what it
//! decides it decides from a snapshot, by pure plugins (`plugins`), and `run` is the only place
//! that waits or writes.

pub mod config;
pub mod cycle;
pub mod devices;
pub mod explanation;
mod metrics;
pub mod plugins;
mod prebind;
pub mod preemption;
pub mod profile;
pub mod queue;
mod reservation;
pub mod resources;
pub mod snapshot;
pub mod storage;

mod run;

pub use run::{Error, Options, run};
