//! What can go wrong with a cluster, in words for its user.

use std::io;
use std::path::{Path, PathBuf};

use agent::net::netlink::NetlinkError;
use agent::net::pod::NetError;
use agent::net::proxy::NftError;

use crate::failure::Failure;

/// Why a `cluster` command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{0:?} cannot be a cluster's name: at most 32 lower-case letters, digits and '-', a letter first"
    )]
    Name(String),
    #[error(
        "cluster {0:?} exists already; delete it with `ctl cluster delete {0}` or choose another name"
    )]
    Exists(String),
    #[error("there is no cluster {0:?}; `ctl cluster list` names those there are")]
    NoCluster(String),
    #[error("cluster {cluster:?} has no node {node:?}; it has {nodes}")]
    NoNode { cluster: String, node: String, nodes: String },
    #[error("a cluster has at most {0} nodes")]
    TooManyNodes(u32),
    #[error("every network that a cluster could use is taken on this machine")]
    NoNetwork,
    #[error("{program} is not installed; install the package {package}")]
    Missing { program: &'static str, package: &'static str },
    #[error("this needs root, and there is no sudo: run it as root")]
    NoRoot(#[source] io::Error),
    #[error("{action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("set up the network")]
    Netlink(#[from] NetlinkError),
    #[error("set up the network")]
    Net(#[from] NetError),
    #[error("remove the rules of Services")]
    Nft(#[from] NftError),
    #[error("make a network namespace")]
    Namespace(#[source] io::Error),
    #[error("make the cluster's certificates")]
    Pki(#[from] apiserver::pki::PkiError),
    #[error(transparent)]
    Scheduler(#[from] scheduler::Error),
    #[error("start {process}")]
    Start {
        process: String,
        #[source]
        source: io::Error,
    },
    #[error("signal process {pid}")]
    Signal {
        pid: u32,
        #[source]
        source: io::Error,
    },
    #[error("{what} did not come about within {seconds} s\n{tails}")]
    Late { what: String, seconds: u64, tails: String },
    #[error("{process} keeps ending; its log {} says:\n{tail}", log.display())]
    Ends { process: String, log: PathBuf, tail: String },
    #[error(transparent)]
    Kubeconfig(#[from] client::kubeconfig::KubeconfigError),
    #[error("connect to the API server")]
    Connect(#[from] client::ConnectError),
    #[error(transparent)]
    Api(#[from] client::Error),
    #[error(transparent)]
    Command(Failure),
    #[error("cluster {0:?} is not running; delete it and create it again")]
    NotRunning(String),
    #[error("start an async runtime")]
    Runtime(#[source] io::Error),
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// `map_err(Error::file("read", &path))`.
    pub fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}
