//! The node: agent, pod network and container runtime.

pub mod net;
pub mod runtime;
