//! What the agent is put together from, as the options say it.

use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};

use client::Clock;
use proto::quantity::Quantity;

use super::Error;
use crate::config::NodeConfig;
use crate::cpu_manager::{self, CpuManager, Topology};
use crate::devices::Devices;
use crate::dra::Dra;
use crate::images::garbage::Policy;
use crate::images::providers::Providers;
use crate::images::records::Records;
use crate::net;
use crate::node::pod_range::PodRange;
use crate::node::reserved::Reserved;
use crate::node::{Identity, facts};
use crate::options::{self, Options};
use crate::plan::Retention;
use crate::server::{self, Endpoint};
use crate::userns::Ranges;
use crate::worker::{NodeCredentials, Pulls};

/// Where the machine keeps its logs.
const NODE_LOGS: &str = "/var/log";

pub fn node_config(options: &Options) -> NodeConfig {
    NodeConfig {
        root: options.root_dir.clone(),
        logs: options.pod_logs_dir.clone(),
        cgroup_root: options.cgroup_root.clone(),
        domain: options.cluster_domain.clone(),
        memory: i64::try_from(facts::memory("MemTotal:")).unwrap_or(i64::MAX),
        retention: Retention {
            runs: options.maximum_dead_containers_per_container,
            least: options.minimum_container_ttl_duration,
        },
        seccomp: match &options.seccomp_profile_root {
            Some(root) => root.clone(),
            None => options.root_dir.join("seccomp"),
        },
        users: Ranges::open(&options.root_dir.join("pods"), options.max_pods),
    }
}

pub fn check_images(options: &Options) -> Result<(), Error> {
    let parallel = options.max_parallel_image_pulls.is_some_and(|number| number > 1);
    if options.serialize_image_pulls && parallel {
        return Err(Error::ParallelPulls);
    }
    let (low, high) = (options.image_gc_low_threshold, options.image_gc_high_threshold);
    if low >= high { Err(Error::Thresholds { low, high }) } else { Ok(()) }
}

pub fn pulls(options: &Options, clock: &Clock) -> Result<Pulls, Error> {
    let parallel = match options.serialize_image_pulls {
        true => Some(1),
        false => options.max_parallel_image_pulls.map(|number| number as usize),
    };
    let policy = options.image_pull_credentials_verification_policy;
    let allowed = options.preloaded_images_verification_allowlist.clone();
    let records = Records::open(&options.root_dir, policy, allowed).map_err(|source| {
        Error::Folder { path: options.root_dir.join("image_manager").display().to_string(), source }
    })?;
    let config = options.image_credential_provider_config.as_ref();
    let providers = config.zip(options.image_credential_provider_bin_dir.as_ref());
    let open =
        |(config, folder): (&PathBuf, &PathBuf)| Providers::open(config, folder, clock.clone());
    let providers = providers.map(open).transpose()?;
    let file = Some(options.root_dir.join("config.json"));
    Ok(Pulls::new(parallel, records, NodeCredentials { file, providers }))
}

pub fn policy(options: &Options) -> Policy {
    let age = options.image_maximum_gc_age;
    Policy {
        high: options.image_gc_high_threshold,
        low: options.image_gc_low_threshold,
        minimum_age: options.minimum_image_ttl_duration,
        maximum_age: (!age.is_zero()).then_some(age),
    }
}

/// The node's devices; a simulated node has none.
pub fn devices(options: &Options) -> Devices {
    match options.runtime {
        options::Runtime::Cri => Devices::open(&options.root_dir.join("device-plugins")),
        options::Runtime::Simulated => Devices::default(),
    }
}

/// The node's claims; a simulated node has nothing to get ready.
pub fn dra(options: &Options) -> Dra {
    match options.runtime {
        options::Runtime::Cri => Dra::open(&options.root_dir.join("dra_manager_state")),
        options::Runtime::Simulated => Dra::default(),
    }
}

/// Who hands out the CPUs; those of a simulated node are nobody's.
pub fn cpus(options: &Options, identity: &Identity) -> Result<CpuManager, cpu_manager::StartError> {
    let (root, chosen) = (&options.root_dir, &options.cpu_manager_policy_options);
    match (options.runtime, options.cpu_manager_policy) {
        (options::Runtime::Simulated, _) => Ok(CpuManager::default()),
        (_, cpu_manager::Policy::None) => match cpu_manager::options::shown(chosen) {
            named if named.is_empty() => CpuManager::none(root),
            named => Err(cpu_manager::StartError::Options(format!("{named:?}"))),
        },
        (_, cpu_manager::Policy::Static) => {
            let topology = Topology::read(Path::new(cpu_manager::SYS))
                .map_err(cpu_manager::StartError::Topology)?;
            let amount = |reserved: &Reserved| reserved.0.get("cpu").copied().unwrap_or_default();
            let amount = amount(&identity.kube_reserved) + amount(&identity.system_reserved);
            let reserved = options.reserved_cpus.clone().ok_or(amount);
            let chosen = cpu_manager::options::Options::new(chosen)
                .map_err(cpu_manager::StartError::Contradiction)?;
            CpuManager::fixed(root, topology, reserved, chosen)
        }
    }
}

pub fn endpoint(options: &Options, identity: &Identity) -> Endpoint {
    let own = identity.ips.first().and_then(|ip| ip.parse().ok());
    let address = options.bind_address.or(own).unwrap_or(IpAddr::from([127, 0, 0, 1]));
    let pair = options.tls_cert_file.clone().zip(options.tls_private_key_file.clone());
    Endpoint {
        address: (address, options.port).into(),
        identity: pair,
        client_ca: options.client_ca_file.clone(),
        names: identity.ips.iter().cloned().chain([identity.name.clone()]).collect(),
        node: identity.name.clone(),
        anonymous: options.anonymous_auth,
        logs: NODE_LOGS.into(),
        configuration: server::configuration(options),
    }
}

pub fn pod_range(options: &Options) -> Result<PodRange, Error> {
    let named = options.pod_cidr.as_deref();
    match named {
        Some(text) if text.parse::<net::Cidr>().is_err() => Err(Error::PodCidr(text.into())),
        _ => Ok(PodRange::new(named)),
    }
}

pub fn identity(options: &Options) -> Result<Identity, Error> {
    let ip = match options.node_ip {
        Some(ip) => ip,
        None => route_address().map_err(Error::NodeIp)?,
    };
    let (mut kube_reserved, mut system_reserved) =
        (options.kube_reserved.clone(), options.system_reserved.clone());
    if let Some(cpus) = &options.reserved_cpus {
        let count = i64::try_from(cpus.len()).unwrap_or(i64::MAX);
        kube_reserved.0.remove("cpu");
        system_reserved.0.insert("cpu".into(), Quantity::new(count));
    }
    Ok(Identity {
        name: node_name(options),
        ips: vec![ip.to_string()],
        labels: options.node_labels.clone(),
        taints: options.register_with_taints.clone(),
        pod_cidr: options.pod_cidr.clone().unwrap_or_default(),
        port: options.port,
        max_pods: options.max_pods,
        thresholds: options.eviction.hard.clone(),
        kube_reserved,
        system_reserved,
        most_images: usize::try_from(options.node_status_max_images).ok(),
        awaits_registration: !options.register_node,
    })
}

/// The name of this node.
pub fn node_name(options: &Options) -> String {
    let host = || rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    options.node_name.clone().unwrap_or_else(host)
}

/// The address from which this machine speaks to the world. Nothing is sent.
fn route_address() -> std::io::Result<IpAddr> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect(("192.0.2.1", 9))?;
    Ok(socket.local_addr()?.ip())
}
