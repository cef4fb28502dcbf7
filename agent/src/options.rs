//! The agent's flags; upstream's names where the kubelet has the same thing.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use proto::meta::Labels;

use crate::images::records::Policy as Verification;
use crate::node::facts::Thresholds;

/// The node agent.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How to reach the API server, and as whom.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Who runs containers: a runtime over CRI, or nobody. Simulated containers behave by
    /// annotations of their pods (simulated.coracle/exit-code and the like).
    #[arg(long, value_enum, default_value_t = Runtime::Cri)]
    pub runtime: Runtime,
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
    /// A folder, or a file, of pods that this node runs without being told by the API server.
    #[arg(long, visible_alias = "static-pod-path", value_name = "PATH")]
    pub pod_manifest_path: Option<PathBuf>,
    /// Sysctls, or patterns as net.core.*, that pods may set although they are not safe.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub allowed_unsafe_sysctls: Vec<String>,
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
    /// How many ended runs of a container stay beside the current one.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub maximum_dead_containers_per_container: usize,
    /// How long they stay at least.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0s")]
    pub minimum_container_ttl_duration: Duration,
    /// How long pods may take to end before the machine shuts down; 0 leaves them to it.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0s")]
    pub shutdown_grace_period: Duration,
    /// Of that, what is for critical pods, after the others.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0s")]
    pub shutdown_grace_period_critical_pods: Duration,
    /// A log file is rotated when it is larger, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 10 << 20)]
    pub container_log_max_size: u64,
    /// Percent of the disk in use at which unused images are removed; 100: never.
    #[arg(long, value_name = "PERCENT", default_value_t = 85, value_parser = percent())]
    pub image_gc_high_threshold: u8,
    /// Percent of the disk in use down to which they are.
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = percent())]
    pub image_gc_low_threshold: u8,
    /// An image younger than this is not removed.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
    pub minimum_image_ttl_duration: Duration,
    /// An image unused for longer is removed in any case; 0: none is.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub image_maximum_gc_age: Duration,
    /// Pull one image at a time.
    #[arg(
        long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set,
        num_args = 0..=1, default_missing_value = "true"
    )]
    pub serialize_image_pulls: bool,
    /// How many images at a time otherwise; without limit where absent.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_parallel_image_pulls: Option<u32>,
    /// Of which images that are there pods must prove that they could pull them.
    #[arg(long, value_name = "POLICY", value_enum, default_value = "NeverVerifyPreloadedImages")]
    pub image_pull_credentials_verification_policy: Verification,
    /// Images of which they need not, without tags, for NeverVerifyAllowlistedImages; a final /*
    /// stands for anything.
    #[arg(long, value_name = "IMAGE", value_delimiter = ',')]
    pub preloaded_images_verification_allowlist: Vec<String>,
    /// Programs that give credentials for images: a CredentialProviderConfig.
    #[arg(long, value_name = "FILE", requires = "image_credential_provider_bin_dir")]
    pub image_credential_provider_config: Option<PathBuf>,
    /// The folder of these programs.
    #[arg(long, value_name = "DIR", requires = "image_credential_provider_config")]
    pub image_credential_provider_bin_dir: Option<PathBuf>,
    /// How many files of a container's log are kept.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub container_log_max_files: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Runtime {
    Cri,
    Simulated,
}

fn labels(text: &str) -> Result<Labels, String> {
    let pairs = text.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').ok_or(format!("{pair:?} is not KEY=VALUE"))?;
        Ok((key.trim().to_string(), value.trim().to_string()))
    });
    pairs.collect()
}

fn percent() -> clap::builder::RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(0..=100)
}

/// Go's durations: `1h30m`, `2m0s`, `500ms`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let problem = || format!("{text:?} is no duration such as 1h30m or 90s");
    let (mut rest, mut whole) = (text, Duration::ZERO);
    if text == "0" {
        return Ok(whole);
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(problem)?;
        let (number, after) = rest.split_at(end);
        let next = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(next);
        let factor = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(problem()),
        };
        let number: f64 = number.parse().map_err(|_| problem())?;
        whole += Duration::try_from_secs_f64(number * factor).map_err(|_| problem())?;
        rest = after;
    }
    if text.is_empty() { Err(problem()) } else { Ok(whole) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let seconds = |text: &str| duration(text).map(|it| it.as_secs_f64());
        for (text, expected) in
            [("2m0s", 120.0), ("1h30m", 5400.0), ("500ms", 0.5), ("0", 0.0), ("1.5h", 5400.0)]
        {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for bad in ["", "5", "m", "1d", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
