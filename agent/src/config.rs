//! What a pod's spec means in CRI v1's words: the configurations of its sandbox and of its
//! containers. Pure.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use proto::cri::{self, MountPropagation, NamespaceMode, security_profile::ProfileType};
use proto::meta::Labels;

use crate::cpu_manager::Cpus;
use crate::cri::labels;
use crate::environment::expand;
use crate::plan::Retention;
use crate::pod::{Container, Pod, Profile, Qos};
use crate::userns::Ranges;

mod resources;

pub use resources::{
    applied, applied_to_pod, container_resources, observed, overhead, pod_resources,
};

/// The same for every pod of a node.
#[derive(Clone, Debug, Default)]
pub struct NodeConfig {
    /// `--root-dir`.
    pub root: PathBuf,
    /// Where the folders of logs are.
    pub logs: PathBuf,
    /// `--cgroup-root`, the parent of `kubepods`.
    pub cgroup_root: String,
    /// `--cluster-domain`.
    pub domain: String,
    /// Of the machine, in bytes.
    pub memory: i64,
    /// `--seccomp-profile-root`.
    pub seccomp: PathBuf,
    /// The ids of pods with user namespaces.
    pub users: Ranges,
    pub retention: Retention,
}

/// Everything a container is made from beside its pod.
#[derive(Debug, Default)]
pub struct Parts {
    pub attempt: u32,
    pub image: cri::ImageSpec,
    pub environment: BTreeMap<String, String>,
    pub mounts: Vec<cri::Mount>,
    pub devices: Vec<cri::Device>,
    /// The user of the image, where it names one: a number or a name.
    pub image_user: Option<Result<i64, String>>,
    /// The id of the container whose processes an ephemeral one sees.
    pub target: Option<String>,
    /// On what it runs, where that is not the kernel's to say.
    pub cpus: Option<Cpus>,
    /// For the runtime, from plugins of devices.
    pub annotations: BTreeMap<String, String>,
    pub cdi_devices: Vec<String>,
}

/// `CreateContainerConfigError`: the container's own settings contradict its image.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    #[error(
        "container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})"
    )]
    Root { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: {pod:?}, container: {container})"
    )]
    NamedUser { user: String, pod: String, container: String },
    #[error("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")]
    RootUser { pod: String, container: String },
}

impl NodeConfig {
    /// `<root>/pods/<uid>`.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }

    /// `<logs>/<namespace>_<name>_<uid>`.
    pub fn log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.logs.join(format!("{namespace}_{name}_{uid}"))
    }

    /// The file in which a container's termination message is found.
    pub fn message_file(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod_dir(uid).join("containers").join(container).join(format!("message.{attempt}"))
    }

    /// The pod's cgroup, as kubelet's cgroupfs driver names it.
    pub fn cgroup(&self, pod: &Pod) -> String {
        let class = match pod.qos() {
            Qos::Guaranteed => "",
            Qos::Burstable => "/burstable",
            Qos::BestEffort => "/besteffort",
        };
        let root = self.cgroup_root.trim_matches('/');
        let root = if root.is_empty() { String::new() } else { format!("/{root}") };
        format!("{root}/kubepods{class}/pod{}", pod.metadata.uid)
    }
}

/// The sandbox of a pod.
pub fn sandbox(
    pod: &Pod,
    attempt: u32,
    node: &NodeConfig,
    dns: cri::DnsConfig,
) -> cri::PodSandboxConfig {
    let meta = &pod.metadata;
    let spec = &pod.spec;
    let full = spec.set_hostname_as_fqdn == Some(true);
    let hostname = match crate::resolv::fqdn(pod, &node.domain).filter(|_| full) {
        _ if spec.host_network => String::new(),
        Some(fqdn) => fqdn,
        None => pod.hostname().into(),
    };
    let ports = spec.containers.iter().chain(&spec.init_containers).flat_map(|c| &c.ports);
    let port_mappings = ports
        .filter(|port| port.host_port != 0 && !spec.host_network)
        .map(|port| cri::PortMapping {
            protocol: protocol(port.protocol.as_deref()) as i32,
            container_port: port.container_port,
            host_port: port.host_port,
            host_ip: port.host_ip.clone(),
        })
        .collect();
    let security = &spec.security_context;
    let privileged = spec
        .containers
        .iter()
        .chain(&spec.init_containers)
        .any(|container| container.security_context.privileged == Some(true));
    let security_context = cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        run_as_user: security.run_as_user.map(|value| cri::Int64Value { value }),
        run_as_group: security.run_as_group.map(|value| cri::Int64Value { value }),
        supplemental_groups: groups(pod),
        privileged,
        seccomp: Some(seccomp(node, None, security.seccomp_profile.as_ref(), false)),
        ..Default::default()
    };
    let sysctls = security.sysctls.iter().map(|one| (one.name.clone(), one.value.clone()));
    let linux = cri::LinuxPodSandboxConfig {
        cgroup_parent: node.cgroup(pod),
        security_context: Some(security_context),
        sysctls: sysctls.collect(),
        overhead: (!spec.overhead.is_empty()).then(|| overhead(pod)),
        resources: Some(pod_resources(pod)),
    };
    let mut all = pod_labels(pod);
    all.extend(meta.labels.iter().map(|(key, value)| (key.clone(), value.clone())));
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            namespace: meta.namespace.clone(),
            attempt,
        }),
        hostname,
        log_directory: path(&node.log_dir(&meta.namespace, &meta.name, &meta.uid)),
        dns_config: Some(dns),
        port_mappings,
        labels: all,
        annotations: map(&meta.annotations),
        linux: Some(linux),
        ..Default::default()
    }
}

/// One container of a pod.
pub fn container(
    pod: &Pod,
    container: &Container,
    node: &NodeConfig,
    parts: Parts,
) -> Result<cri::ContainerConfig, Error> {
    let user = check_user(pod, container, parts.image_user.as_ref())?;
    let variables = &parts.environment;
    let expand = |texts: &[String]| -> Vec<String> {
        texts.iter().map(|text| expand(text, |name| variables.get(name).cloned())).collect()
    };
    let mut labels_map = pod_labels(pod);
    labels_map.insert(labels::CONTAINER_NAME.into(), container.name.clone());
    let policy = container.termination_message_policy.as_deref().unwrap_or("File");
    let mut annotations: HashMap<String, String> = parts.annotations.into_iter().collect();
    annotations.extend([
        (labels::HASH.to_string(), container.hash()),
        (labels::RESTART_COUNT.to_string(), parts.attempt.to_string()),
        (labels::MESSAGE_PATH.to_string(), container.termination_message_path().to_string()),
        (labels::MESSAGE_POLICY.to_string(), policy.to_string()),
        (labels::GRACE.to_string(), pod.grace().to_string()),
    ]);
    let mut resources = container_resources(pod, container, node.memory);
    if let Some(cpus) = &parts.cpus {
        resources.cpuset_cpus = cpus.set.to_string();
        if cpus.exclusive {
            resources.cpu_quota = NO_QUOTA;
        }
    }
    let linux = cri::LinuxContainerConfig {
        resources: Some(resources),
        security_context: Some(security(node, pod, container, user, parts.target)),
    };
    let signal = container.lifecycle.stop_signal.as_deref();
    let signal = signal.and_then(cri::Signal::from_str_name);
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: container.name.clone(),
            attempt: parts.attempt,
        }),
        image: Some(parts.image),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone(),
        envs: variables
            .iter()
            .map(|(key, value)| cri::KeyValue { key: key.clone(), value: value.clone().into() })
            .collect(),
        mounts: parts.mounts,
        devices: parts.devices,
        cdi_devices: parts.cdi_devices.into_iter().map(|name| cri::CdiDevice { name }).collect(),
        labels: labels_map,
        annotations,
        log_path: format!("{}/{}.log", container.name, parts.attempt),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        linux: Some(linux),
        stop_signal: signal.unwrap_or(cri::Signal::RuntimeDefault) as i32,
        ..Default::default()
    })
}

/// As much time as there is.
pub const NO_QUOTA: i64 = -1;

/// A bind mount.
pub fn mount(
    host: &Path,
    container: &str,
    readonly: bool,
    propagation: Option<&str>,
) -> cri::Mount {
    let propagation = match propagation {
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        _ => MountPropagation::PropagationPrivate,
    };
    cri::Mount {
        container_path: container.into(),
        host_path: path(host),
        readonly,
        propagation: propagation as i32,
        ..Default::default()
    }
}

/// With runAsNonRoot the user must be known not to be root.
fn check_user(
    pod: &Pod,
    container: &Container,
    image_user: Option<&Result<i64, String>>,
) -> Result<Option<i64>, Error> {
    let (own, of_pod) = (&container.security_context, &pod.spec.security_context);
    let user = own.run_as_user.or(of_pod.run_as_user);
    if own.run_as_non_root.or(of_pod.run_as_non_root) != Some(true) {
        return Ok(user);
    }
    let meta = &pod.metadata;
    let pod = format!("{}_{}({})", meta.name, meta.namespace, meta.uid);
    let container = container.name.clone();
    match (user, image_user) {
        (Some(0), _) => Err(Error::RootUser { pod, container }),
        (Some(user), _) => Ok(Some(user)),
        (None, None | Some(Ok(0))) => Err(Error::Root { pod, container }),
        (None, Some(Ok(_))) => Ok(None),
        (None, Some(Err(user))) => Err(Error::NamedUser { user: user.clone(), pod, container }),
    }
}

fn security(
    node: &NodeConfig,
    pod: &Pod,
    container: &Container,
    user: Option<i64>,
    target: Option<String>,
) -> cri::LinuxContainerSecurityContext {
    let mut namespaces = namespaces(pod);
    if let Some(target_id) = target.filter(|_| namespaces.pid() == NamespaceMode::Container) {
        (namespaces.pid, namespaces.target_id) = (NamespaceMode::Target as i32, target_id);
    }
    let (own, of_pod) = (&container.security_context, &pod.spec.security_context);
    let privileged = own.privileged == Some(true);
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |all: &[&str]| match unmasked {
        true => Vec::new(),
        false => all.iter().map(|path| path.to_string()).collect(),
    };
    let group = own.run_as_group.or(of_pod.run_as_group);
    let selinux = own.se_linux_options.as_ref().or(of_pod.se_linux_options.as_ref());
    let apparmor = own.app_armor_profile.as_ref().or(of_pod.app_armor_profile.as_ref());
    cri::LinuxContainerSecurityContext {
        capabilities: Some(cri::Capability {
            add_capabilities: own.capabilities.add.clone(),
            drop_capabilities: own.capabilities.drop.clone(),
            ..Default::default()
        }),
        privileged,
        namespace_options: Some(namespaces),
        selinux_options: selinux.map(|options| cri::SeLinuxOption {
            user: options.user.clone(),
            role: options.role.clone(),
            r#type: options.kind.clone(),
            level: options.level.clone(),
        }),
        run_as_user: user.map(|value| cri::Int64Value { value }),
        run_as_group: group.map(|value| cri::Int64Value { value }),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: match of_pod.supplemental_groups_policy.as_deref() {
            Some("Strict") => cri::SupplementalGroupsPolicy::Strict as i32,
            _ => cri::SupplementalGroupsPolicy::Merge as i32,
        },
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(MASKED),
        readonly_paths: paths(READ_ONLY),
        seccomp: Some(seccomp(
            node,
            own.seccomp_profile.as_ref(),
            of_pod.seccomp_profile.as_ref(),
            privileged,
        )),
        apparmor: apparmor.map(profile),
        ..Default::default()
    }
}

/// Unless told otherwise a container runs under the runtime's default profile, a privileged one
/// under none.
fn seccomp(
    node: &NodeConfig,
    own: Option<&Profile>,
    of_pod: Option<&Profile>,
    privileged: bool,
) -> cri::SecurityProfile {
    let mut chosen = match own.or(of_pod) {
        _ if privileged => unconfined(),
        Some(chosen) => profile(chosen),
        None => cri::SecurityProfile::default(),
    };
    if chosen.profile_type() == ProfileType::Localhost {
        chosen.localhost_ref = path(&node.seccomp.join(&chosen.localhost_ref));
    }
    chosen
}

fn profile(profile: &Profile) -> cri::SecurityProfile {
    match profile.kind.as_str() {
        "Unconfined" => unconfined(),
        "Localhost" => cri::SecurityProfile {
            profile_type: ProfileType::Localhost as i32,
            localhost_ref: profile.localhost_profile.clone().unwrap_or_default(),
        },
        _ => cri::SecurityProfile::default(),
    }
}

fn unconfined() -> cri::SecurityProfile {
    cri::SecurityProfile { profile_type: ProfileType::Unconfined as i32, ..Default::default() }
}

fn namespaces(pod: &Pod) -> cri::NamespaceOption {
    let spec = &pod.spec;
    let own = |host: bool| if host { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = match spec.share_process_namespace {
        _ if spec.host_pid => NamespaceMode::Node,
        Some(true) => NamespaceMode::Pod,
        _ => NamespaceMode::Container,
    };
    cri::NamespaceOption {
        network: own(spec.host_network) as i32,
        pid: pid as i32,
        ipc: own(spec.host_ipc) as i32,
        ..Default::default()
    }
}

fn groups(pod: &Pod) -> Vec<i64> {
    let security = &pod.spec.security_context;
    security.supplemental_groups.iter().copied().chain(security.fs_group).collect()
}

fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    HashMap::from([
        (labels::POD_NAME.into(), pod.metadata.name.clone()),
        (labels::POD_NAMESPACE.into(), pod.metadata.namespace.clone()),
        (labels::POD_UID.into(), pod.metadata.uid.clone()),
    ])
}

fn protocol(name: Option<&str>) -> cri::Protocol {
    match name {
        Some("UDP") => cri::Protocol::Udp,
        Some("SCTP") => cri::Protocol::Sctp,
        _ => cri::Protocol::Tcp,
    }
}

fn map(labels: &Labels) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Of /proc and /sys, hidden from containers (kubelet's default, as the OCI runtimes').
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

#[cfg(test)]
mod tests;
