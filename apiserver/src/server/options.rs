//! The command line of the API server. Flags bear upstream's names where the same thing exists.

use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    path::PathBuf,
    sync::Arc,
};

use super::ServerError;
use crate::{
    audit::{Audit, Log, LogOptions, Policy},
    authn::AuthnOptions,
    authz::Mode,
    kinds::service::{
        pool::Pool,
        range::{Networks, Ports},
    },
    store::{Store, etcd::EtcdOptions},
};

/// Flags of `apiserver` and `ctl apiserver`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where certificates, kubeconfigs and the embedded store live.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/coracle/server")]
    pub data_dir: PathBuf,

    /// The address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub bind_address: IpAddr,

    /// The port to serve HTTPS on; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub secure_port: u16,

    /// The address members of the cluster reach this server at [default: the bind address].
    #[arg(long, value_name = "ADDRESS")]
    pub advertise_address: Option<IpAddr>,

    /// A further name or address for the serving certificate (repeatable).
    #[arg(long, value_name = "NAME")]
    pub tls_san: Vec<String>,

    /// Keep everything in memory; it is gone when the server ends.
    #[arg(long, conflicts_with = "etcd-servers")]
    pub ephemeral: bool,

    #[command(flatten)]
    pub etcd: EtcdOptions,

    #[command(flatten)]
    pub authn: AuthnOptions,

    /// Requests that only read, in flight at a time; with the next one, the seats that priority
    /// levels share.
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub max_requests_inflight: u32,

    /// Requests that change something, in flight at a time.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub max_mutating_requests_inflight: u32,

    /// An audit.k8s.io/v1 Policy: what of which requests the audit log keeps.
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    pub audit_policy_file: Option<PathBuf>,

    #[command(flatten)]
    pub audit_log: LogOptions,

    /// An EncryptionConfiguration: which resources are encrypted in the store, and with which keys.
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,

    /// Who decides what is allowed, in the order in which they are asked (comma-separated).
    #[arg(long, value_name = "MODES", value_delimiter = ',', default_value = "Node,RBAC")]
    pub authorization_mode: Vec<Mode>,

    /// The addresses Services get theirs from; with two networks, one of IPv4 and one of IPv6
    /// (comma-separated), Services may have addresses of both.
    #[arg(long, value_name = "CIDRS", default_value = "10.96.0.0/12")]
    pub service_cluster_ip_range: Networks,

    /// The ports NodePort Services get theirs from.
    #[arg(long, value_name = "FIRST-LAST", default_value = "30000-32767")]
    pub service_node_port_range: Ports,

    /// How many connections may be open at once; more are closed as they come.
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    pub max_connections: usize,

    /// Admission plugins to add to those that are on by default (comma-separated).
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,

    /// Admission plugins to leave out (comma-separated).
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
}

impl Options {
    /// What priority levels share.
    pub(super) fn seats(&self) -> u32 {
        self.max_requests_inflight + self.max_mutating_requests_inflight
    }

    /// What Services get their addresses and ports from.
    pub(super) fn pool(&self, store: Arc<dyn Store>) -> Pool {
        Pool::new(store, self.service_cluster_ip_range, self.service_node_port_range.clone())
    }

    pub(super) fn audit(&self) -> Result<Option<Arc<Audit>>, ServerError> {
        let (Some(policy), Some(path)) = (&self.audit_policy_file, &self.audit_log.audit_log_path)
        else {
            return Ok(None);
        };
        Ok(Some(Audit::new(Policy::read(policy)?, Log::open(path, &self.audit_log)?)))
    }

    /// The address that Endpoints and kubeconfigs name.
    pub fn advertised(&self) -> IpAddr {
        match self.advertise_address {
            Some(address) => address,
            None if self.bind_address.is_unspecified() => outgoing().unwrap_or(LOCALHOST),
            None => self.bind_address,
        }
    }

    /// The address at which this machine's own programs reach the server.
    pub fn local(&self) -> IpAddr {
        if self.bind_address.is_unspecified() { LOCALHOST } else { self.bind_address }
    }
}

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The address this machine would speak to others from. Nothing is sent.
fn outgoing() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}
