//! The node: agent, pod network and container runtime.

pub mod backoff;
pub mod cri;
pub mod net;
pub mod observed;
pub mod plan;
pub mod pod;
pub mod report;
pub mod runtime;
