//! The agent's flags; upstream's names where the kubelet has the same thing.

use std::net::IpAddr;
use std::path::PathBuf;

use proto::meta::Labels;

use crate::node::facts::Thresholds;

/// The node agent.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How to reach the API server, and as whom.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// The Unix socket of the container runtime (CRI v1).
    #[arg(long, value_name = "unix://SOCKET", default_value = "unix:///run/coracle/runtime.sock")]
    pub runtime_endpoint: String,
    /// The name of this node; the host's name where absent.
    #[arg(long, visible_alias = "hostname-override", value_name = "NAME")]
    pub node_name: Option<String>,
    /// The address of this node; that of the route to the API server where absent.
    #[arg(long, value_name = "ADDRESS")]
    pub node_ip: Option<IpAddr>,
    /// The range from which this node's pods get their addresses.
    #[arg(long, value_name = "CIDR")]
    pub pod_cidr: Option<String>,
    /// The name servers of pods; the node's own DNS where absent.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub cluster_dns: Vec<IpAddr>,
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Where the files of pods are kept.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet")]
    pub root_dir: PathBuf,
    /// Below which seccomp profiles of type Localhost are [default: seccomp below the root-dir].
    #[arg(long, value_name = "DIR")]
    pub seccomp_profile_root: Option<PathBuf>,
    /// Where the logs of pods are kept.
    #[arg(long, value_name = "DIR", default_value = "/var/log/pods")]
    pub pod_logs_dir: PathBuf,
    /// The cgroup below which those of pods are made.
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub cgroup_root: String,
    /// The resolv.conf whose name servers are asked about names that are not the cluster's.
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// The port on which logs and exec are served.
    #[arg(long, default_value_t = 10250)]
    pub port: u16,
    /// The address on which they are; the node's own where absent.
    #[arg(long, visible_alias = "address", value_name = "ADDRESS")]
    pub bind_address: Option<IpAddr>,
    /// The certificate shown to those who ask for logs and exec; made anew where absent.
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Whose client certificates are believed; without it nobody is served logs and exec.
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    #[arg(long, default_value_t = 110)]
    pub max_pods: i64,
    /// Below what is left of memory.available, nodefs.available and pid.available the node is under
    /// pressure; so much is kept from pods.
    #[arg(
        long,
        value_name = "SIGNAL<LIMIT,…",
        default_value = "memory.available<100Mi,nodefs.available<10%"
    )]
    pub eviction_hard: Thresholds,
    /// Labels with which the node is registered: a=b,c=d.
    #[arg(long, value_name = "LABELS", value_parser = labels, default_value = "")]
    pub node_labels: Labels,
    /// The nftables table in which Services are; one per cluster where several share a network
    /// namespace.
    #[arg(long, value_name = "NAME", default_value = "coracle")]
    pub nftables_table: String,
    /// A log file is rotated when it is larger, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 10 << 20)]
    pub container_log_max_size: u64,
    /// How many files of a container's log are kept.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub container_log_max_files: usize,
}

fn labels(text: &str) -> Result<Labels, String> {
    let pairs = text.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').ok_or(format!("{pair:?} is not KEY=VALUE"))?;
        Ok((key.trim().to_string(), value.trim().to_string()))
    });
    pairs.collect()
}
