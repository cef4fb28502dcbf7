//! The node: agent, pod network and container runtime.
//!
//! The agent registers its node and runs one worker per pod: observe, plan, execute. It speaks
//! with the API server through `client` and with a container runtime over CRI v1, and with nobody
//! else. [`runtime`] is such a runtime, in a process of its own.

pub mod admission;
pub mod allocation;
mod authorities;
pub mod backoff;
pub mod certificates;
mod cgroups;
mod checkpoint;
pub mod config;
pub mod cpu_manager;
pub mod cri;
pub mod csi;
pub mod devices;
pub mod downward;
pub mod dra;
pub mod ended;
pub mod environment;
pub mod events;
pub mod eviction;
pub mod images;
pub mod logs;
pub mod manifest;
pub mod metrics;
pub mod net;
pub mod node;
pub mod observed;
mod options;
pub mod plan;
pub mod plugins;
pub mod pod;
mod pod_resources;
pub mod pods;
pub mod probe;
pub mod reference;
pub mod report;
pub mod resize;
pub mod resolv;
mod run;
pub mod runtime;
pub mod server;
pub mod shutdown;
pub mod simulated;
pub mod stats;
pub mod userns;
pub mod volume;
pub mod worker;

pub use options::Options;
pub use run::{Error, connect, run};
