//! What two components must agree on, and nothing else: the kind table, metadata, quantities,
//! selectors, time, schedules, Status errors and the messages of CRI and CSI. Anyone may use it; no I/O may happen here.

/// The Container Runtime Interface v1 (`runtime.v1`), generated from `cri/`: messages, clients
/// and servers.
pub mod cri {
    #![allow(clippy::all, missing_docs)]
    tonic::include_proto!("runtime.v1");
}

/// The Container Storage Interface v1 (`csi.v1`), the part that concerns nodes.
pub mod csi {
    #![allow(clippy::all, missing_docs)]
    tonic::include_proto!("csi.v1");
}

/// How plugins make themselves known to a node's agent (`pluginregistration`).
pub mod registration {
    #![allow(clippy::all, missing_docs)]
    tonic::include_proto!("pluginregistration");
}

pub mod cron;
pub mod exposition;
pub mod indexes;
pub mod kind;
pub mod meta;
pub mod quantity;
pub mod quota;
pub mod selector;
pub mod status;
pub mod time;
pub mod user;
pub mod view;
pub mod volume;
