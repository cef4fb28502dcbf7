//! The agent's flags; upstream's names where the kubelet has the same thing.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgAction;
use proto::meta::Labels;
use proto::view::node::Taint;

use crate::cpu_manager::{self, CpuSet};
use crate::images::records::Policy as Verification;
use crate::manifest::page;
use crate::node::reserved::Reserved;
use crate::{certificates, eviction};

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
    /// The range from which this node's pods get their addresses; where absent, the podCIDRs that
    /// the Node is given.
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
    /// The port on which logs, exec, figures and health are served.
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
    #[command(flatten)]
    pub certificates: certificates::Flags,
    /// Whose client certificates are believed; without it only tokens are.
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// Whether callers of this node that say nothing of themselves are system:anonymous; what they
    /// may is then up to the API server.
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = false,
        action = ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub anonymous_auth: bool,
    #[arg(long, default_value_t = 110)]
    pub max_pods: i64,
    /// A folder, or a file, of pods that this node runs without being told by the API server.
    #[arg(long, visible_alias = "static-pod-path", value_name = "PATH")]
    pub pod_manifest_path: Option<PathBuf>,
    /// Where further such pods are asked for: one, or a PodList.
    #[arg(long, value_name = "URL")]
    pub manifest_url: Option<http::Uri>,
    /// What is sent along: NAME:VALUE. Of the same name there may be several.
    #[arg(long, value_name = "HEADERS", value_delimiter = ',', value_parser = page::header)]
    pub manifest_url_header: Vec<(http::HeaderName, http::HeaderValue)>,
    /// How often it is.
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = duration)]
    pub http_check_frequency: Duration,
    /// Sysctls, or patterns as net.core.*, that pods may set although they are not safe.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub allowed_unsafe_sysctls: Vec<String>,
    #[command(flatten)]
    pub eviction: eviction::Flags,
    /// What is kept from pods for the node's own daemons: cpu=100m,memory=100Mi,ephemeral-storage=1Gi.
    #[arg(long, value_name = "RESOURCE=QUANTITY,…", default_value = "")]
    pub kube_reserved: Reserved,
    /// The same for what else runs on the machine.
    #[arg(long, value_name = "RESOURCE=QUANTITY,…", default_value = "")]
    pub system_reserved: Reserved,
    /// Which CPUs are kept from pods; it takes the place of what the two above say of cpu.
    #[arg(long, value_name = "CPUS")]
    pub reserved_cpus: Option<CpuSet>,
    /// Whether containers of Guaranteed pods have the whole CPUs that they ask for to themselves.
    #[arg(long, value_name = "POLICY", value_enum, default_value = "none")]
    pub cpu_manager_policy: cpu_manager::Policy,
    /// Options of that policy: full-pcpus-only=true, strict-cpu-reservation=true,
    /// distribute-cpus-across-numa=true, prefer-align-cpus-by-uncorecache=true.
    #[arg(long, value_name = "OPTION=BOOL,…", value_delimiter = ',',
          value_parser = cpu_manager::options::choice)]
    pub cpu_manager_policy_options: Vec<cpu_manager::options::Choice>,
    /// Whether this node registers itself; else it waits until somebody has.
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        action = ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub register_node: bool,
    /// Taints with which the node is registered: KEY=VALUE:EFFECT,KEY:EFFECT.
    #[arg(long, value_name = "TAINTS", value_delimiter = ',', value_parser = taint)]
    pub register_with_taints: Vec<Taint>,
    /// Labels with which the node is registered: a=b,c=d.
    #[arg(long, value_name = "LABELS", value_parser = labels, default_value = "")]
    pub node_labels: Labels,
    /// How many images the node's status names, the largest first; -1 is all.
    #[arg(long, value_name = "N", default_value_t = 50, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-1..))]
    pub node_status_max_images: i64,
    /// The nftables table in which Services are; one per cluster where several share a network
    /// namespace.
    #[arg(long, value_name = "NAME", default_value = "coracle")]
    pub nftables_table: String,
    /// How many ended runs of a container stay beside the current one.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub maximum_dead_containers_per_container: usize,
    /// How many ended runs stay on the node as a whole; -1 is any number.
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    pub maximum_dead_containers: i64,
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

/// Labels of kubernetes.io that a node may give itself (Kubernetes: NodeRestriction); besides these
/// any below `kubelet.kubernetes.io` and `node.kubernetes.io`.
const OWN_LABELS: [&str; 10] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Runtime {
    Cri,
    Simulated,
}

fn labels(text: &str) -> Result<Labels, String> {
    let pairs = text.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').ok_or(format!("{pair:?} is not KEY=VALUE"))?;
        let (key, value) = (key.trim(), value.trim());
        match is_own(key) {
            true => Ok((key.to_string(), value.to_string())),
            false => Err(format!(
                "a node may not give itself the label {key:?}: in the kubernetes.io namespace its \
                 labels begin with kubelet.kubernetes.io/ or node.kubernetes.io/, or are of these: {}",
                OWN_LABELS.join(", ")
            )),
        }
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

fn is_own(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return true };
    let below = |suffix: &str| domain == suffix || domain.ends_with(&format!(".{suffix}"));
    !(below("kubernetes.io") || below("k8s.io"))
        || below("kubelet.kubernetes.io")
        || below("node.kubernetes.io")
        || OWN_LABELS.contains(&key)
}

/// `KEY=VALUE:EFFECT` or `KEY:EFFECT`.
fn taint(text: &str) -> Result<Taint, String> {
    let bad = || format!("{text:?} is not KEY=VALUE:EFFECT");
    let (name, effect) = text.rsplit_once(':').ok_or_else(bad)?;
    let (key, value) = name.split_once('=').unwrap_or((name, ""));
    if key.is_empty() {
        return Err(bad());
    }
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(format!("invalid taint effect: {effect}, unsupported taint effect"));
    }
    let (key, value, effect) = (key.into(), value.into(), effect.into());
    Ok(Taint { key, value, effect, time_added: None })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn read(arguments: &[&str]) -> Result<Options, String> {
        let all = ["agent", "--kubeconfig=/k"].iter().chain(arguments);
        Line::try_parse_from(all).map(|line| line.options).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_node_says_of_itself() {
        let options = read(&[
            "--node-labels=topology.kubernetes.io/zone=z,node.kubernetes.io/x=1,a/b=c,d=",
            "--register-with-taints=a=b:NoSchedule,c:NoExecute",
            "--kube-reserved=cpu=100m,memory=1Gi",
            "--node-status-max-images=-1",
            "--register-node=false",
        ]);
        let options = options.unwrap();
        assert_eq!(options.node_labels.len(), 4);
        let taints = options.register_with_taints.iter();
        let taints: Vec<_> =
            taints.map(|it| (it.key.as_str(), it.value.as_str(), it.effect.as_str())).collect();
        assert_eq!(taints, [("a", "b", "NoSchedule"), ("c", "", "NoExecute")]);
        assert_eq!(options.node_status_max_images, -1);
        assert!(!options.register_node && !options.anonymous_auth);
        assert!(read(&["--anonymous-auth"]).unwrap().anonymous_auth);
        for bad in [
            "--node-labels=kubernetes.io/role=x",
            "--node-labels=node-role.kubernetes.io/worker=",
            "--node-labels=x.k8s.io/a=b",
            "--register-with-taints=a=b",
            "--register-with-taints=a=b:Never",
            "--kube-reserved=gpu=1",
            "--node-status-max-images=-2",
            "--reserved-cpus=1-",
            "--cpu-manager-policy=dynamic",
            "--cpu-manager-policy-options=odd=true",
        ] {
            assert!(read(&[bad]).is_err(), "{bad}");
        }
    }

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
