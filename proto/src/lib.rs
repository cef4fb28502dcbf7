//! What two components must agree on, and nothing else: the kind table, metadata, quantities,
//! selectors, time, schedules, Status errors and the messages of CRI, CSI and of the kubelet's own
//! sockets. Anyone may use it; no I/O may happen here.

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

/// How plugins offer a node's devices (device plugin API `v1beta1`).
pub mod device_plugin {
    #![allow(clippy::all, missing_docs)]
    tonic::include_proto!("v1beta1");
}

/// How drivers get the devices of ResourceClaims ready (kubelet DRA plugin API `v1`).
pub mod dra {
    #![allow(clippy::all, missing_docs)]
    tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1");
}

/// How drivers tell of the health of such devices (kubelet DRA health API `v1alpha1`).
pub mod dra_health {
    #![allow(clippy::all, missing_docs)]
    tonic::include_proto!("v1alpha1");
}

/// What pods have of a node's devices and CPUs (pod resources API `v1`).
pub mod pod_resources {
    #![allow(clippy::all, missing_docs)]
    tonic::include_proto!("v1");
}

pub mod cel;
pub mod cron;
pub mod device_selector;
pub mod exposition;
pub mod health;
pub mod indexes;
pub mod json;
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
