//! The Pod as the node reads it: every field of the spec that a node acts on (Kubernetes API
//! reference, Pod v1). Decoded once per change, by the pod's worker; caches keep bytes.

use std::collections::BTreeMap;

use proto::meta::{Labels, ObjectMeta, or_default};
use proto::quantity::Quantity;
use proto::view::pod::{Affinity, RequestMapping, Toleration};
use proto::view::resource_claim::NamedClaim;
use serde::Deserialize;
use serde_json::Value;

mod requests;
pub mod restart;
pub mod status;
pub mod volume;

pub use restart::{OnExit, RestartPolicy, RestartRule};
pub use status::PodStatus;
pub use volume::{Volume, VolumeSource};

/// A Pod object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    pub metadata: ObjectMeta,
    pub spec: PodSpec,
    #[serde(deserialize_with = "or_default")]
    pub status: PodStatus,
    /// A static pod: from a file of the node. An annotation may say so, too, but anybody can write
    /// annotations.
    #[serde(skip)]
    pub is_static: bool,
    /// Its ResourceClaims, as spec and status name them; none where one is not made yet.
    #[serde(skip)]
    pub resource_claims: Option<Vec<NamedClaim>>,
    /// What of its extended resources it has by a claim, and by which of its requests.
    #[serde(skip)]
    pub claimed: Vec<RequestMapping>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    #[serde(deserialize_with = "or_default")]
    pub volumes: Vec<Volume>,
    #[serde(deserialize_with = "or_default")]
    pub init_containers: Vec<Container>,
    #[serde(deserialize_with = "or_default")]
    pub containers: Vec<Container>,
    #[serde(deserialize_with = "or_default")]
    pub ephemeral_containers: Vec<Container>,
    pub restart_policy: RestartPolicy,
    pub termination_grace_period_seconds: Option<i64>,
    pub active_deadline_seconds: Option<i64>,
    pub dns_policy: Option<String>,
    pub node_name: String,
    #[serde(deserialize_with = "or_default")]
    pub node_selector: Labels,
    pub affinity: Option<Box<Affinity>>,
    #[serde(deserialize_with = "or_default")]
    pub tolerations: Vec<Toleration>,
    pub os: Option<Os>,
    pub service_account_name: String,
    #[serde(rename = "hostNetwork")]
    pub host_network: bool,
    #[serde(rename = "hostPID")]
    pub host_pid: bool,
    #[serde(rename = "hostIPC")]
    pub host_ipc: bool,
    pub share_process_namespace: Option<bool>,
    pub host_users: Option<bool>,
    #[serde(deserialize_with = "or_default")]
    pub security_context: PodSecurityContext,
    #[serde(deserialize_with = "or_default")]
    pub image_pull_secrets: Vec<LocalReference>,
    pub hostname: String,
    pub hostname_override: Option<String>,
    pub subdomain: String,
    #[serde(rename = "setHostnameAsFQDN")]
    pub set_hostname_as_fqdn: Option<bool>,
    #[serde(deserialize_with = "or_default")]
    pub host_aliases: Vec<HostAlias>,
    pub dns_config: Option<DnsConfig>,
    pub enable_service_links: Option<bool>,
    pub runtime_class_name: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub readiness_gates: Vec<ReadinessGate>,
    /// Of the pod as a whole.
    pub resources: Option<Resources>,
    pub priority: Option<i32>,
    #[serde(deserialize_with = "or_default")]
    pub overhead: BTreeMap<String, Quantity>,
}

impl Pod {
    /// All its containers: init, regular and ephemeral.
    pub fn containers(&self) -> impl Iterator<Item = &Container> {
        let spec = &self.spec;
        spec.init_containers.iter().chain(&spec.containers).chain(&spec.ephemeral_containers)
    }

    /// The container of this name, of any sort.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers().find(|container| container.name == name)
    }

    /// An init container that runs as long as the pod.
    pub fn is_sidecar(&self, name: &str) -> bool {
        self.spec.init_containers.iter().any(|c| c.name == name && c.is_sidecar())
    }

    pub fn is_ephemeral(&self, name: &str) -> bool {
        self.spec.ephemeral_containers.iter().any(|container| container.name == name)
    }

    pub fn is_init(&self, name: &str) -> bool {
        self.spec.init_containers.iter().any(|c| c.name == name)
    }

    pub fn deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Seconds between TERM and KILL: what the deletion asked for, else the spec's, else 30.
    pub fn grace(&self) -> i64 {
        self.metadata
            .deletion_grace_period_seconds
            .or(self.spec.termination_grace_period_seconds)
            .unwrap_or(30)
    }

    /// Guaranteed, Burstable or BestEffort: from the cpu and memory of the pod as a whole where
    /// these are set, else from its containers' (Kubernetes: Pod Quality of Service Classes).
    pub fn qos(&self) -> Qos {
        let whole = self.level_resources();
        let containers = self.spec.init_containers.iter().chain(&self.spec.containers);
        let all: Vec<&Resources> = match whole {
            Some(whole) => vec![whole],
            None => containers.map(|container| &container.resources).collect(),
        };
        let counts = |map: &BTreeMap<String, Quantity>, name: &str| {
            map.get(name).is_some_and(|quantity| quantity.milli() > 0)
        };
        let any = all.iter().any(|resources| {
            COMPUTE
                .iter()
                .any(|name| counts(&resources.requests, name) || counts(&resources.limits, name))
        });
        if !any {
            return Qos::BestEffort;
        }
        let guaranteed = all.iter().all(|resources| {
            COMPUTE.iter().all(|name| {
                let (request, limit) = (resources.requests.get(*name), resources.limits.get(*name));
                counts(&resources.limits, name) && (request.is_none() || request == limit)
            })
        });
        if guaranteed { Qos::Guaranteed } else { Qos::Burstable }
    }

    /// The node needs it more than others (Kubernetes: Guaranteed Scheduling For Critical Add-On
    /// Pods).
    pub fn is_critical(&self) -> bool {
        self.is_static || self.spec.priority.is_some_and(|priority| priority >= CRITICAL)
    }

    /// What is asked for the pod as a whole, where anything is.
    pub fn level_resources(&self) -> Option<&Resources> {
        let set = |whole: &&Resources| !whole.requests.is_empty() || !whole.limits.is_empty();
        self.spec.resources.as_ref().filter(set)
    }

    /// The name under which the pod's processes know their host.
    pub fn hostname(&self) -> &str {
        let name = match &self.spec.hostname_override {
            Some(name) if !name.is_empty() => name,
            _ if !self.spec.hostname.is_empty() => &self.spec.hostname,
            _ => &self.metadata.name,
        };
        name.get(..63).map_or(name.as_str(), |cut| cut.trim_end_matches(['-', '.']))
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Os {
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub fn name(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

/// From this priority on pods are critical (system-cluster-critical).
pub const CRITICAL: i32 = 2_000_000_000;

/// What decides on the class of a pod, and what can be resized.
pub const COMPUTE: [&str; 2] = ["cpu", "memory"];

/// The annotations of pods that do not come from the API, and of what stands for them there.
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    pub name: String,
    pub image: String,
    #[serde(deserialize_with = "or_default")]
    pub command: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub args: Vec<String>,
    pub working_dir: String,
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<Port>,
    #[serde(deserialize_with = "or_default")]
    pub env_from: Vec<EnvFrom>,
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<EnvVar>,
    #[serde(deserialize_with = "or_default")]
    pub resources: Resources,
    /// Its own, where it has one; `Always` makes an init container a sidecar.
    pub restart_policy: Option<RestartPolicy>,
    #[serde(deserialize_with = "or_default")]
    pub restart_policy_rules: Vec<RestartRule>,
    #[serde(deserialize_with = "or_default")]
    pub resize_policy: Vec<ResizePolicy>,
    #[serde(deserialize_with = "or_default")]
    pub volume_mounts: Vec<VolumeMount>,
    #[serde(deserialize_with = "or_default")]
    pub volume_devices: Vec<VolumeDevice>,
    pub liveness_probe: Option<Probe>,
    pub readiness_probe: Option<Probe>,
    pub startup_probe: Option<Probe>,
    #[serde(deserialize_with = "or_default")]
    pub lifecycle: Lifecycle,
    pub termination_message_path: Option<String>,
    pub termination_message_policy: Option<String>,
    pub image_pull_policy: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub security_context: SecurityContext,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    /// Only on ephemeral containers: whose processes it sees.
    pub target_container_name: String,
}

impl Container {
    /// Of an init container: does it run as long as the pod?
    pub fn is_sidecar(&self) -> bool {
        self.restart_policy == Some(RestartPolicy::Always)
    }

    /// Changes when the container must be made anew: with its name or image, the only mutable
    /// parts of it.
    pub fn hash(&self) -> String {
        let mut hash = 0x811c_9dc5_u32;
        for byte in self.name.bytes().chain([0]).chain(self.image.bytes()) {
            hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
        format!("{hash:08x}")
    }

    pub fn termination_message_path(&self) -> &str {
        match self.termination_message_path.as_deref() {
            None | Some("") => "/dev/termination-log",
            Some(path) => path,
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    #[serde(deserialize_with = "or_default")]
    pub limits: BTreeMap<String, Quantity>,
    #[serde(deserialize_with = "or_default")]
    pub requests: BTreeMap<String, Quantity>,
    #[serde(deserialize_with = "or_default")]
    pub claims: Vec<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResizePolicy {
    pub resource_name: String,
    pub restart_policy: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    pub name: String,
    pub container_port: i32,
    pub host_port: i32,
    #[serde(rename = "hostIP")]
    pub host_ip: String,
    pub protocol: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvVar {
    pub name: String,
    pub value: Option<String>,
    pub value_from: Option<EnvSource>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvSource {
    pub field_ref: Option<FieldRef>,
    pub resource_field_ref: Option<ResourceFieldRef>,
    pub config_map_key_ref: Option<KeyRef>,
    pub secret_key_ref: Option<KeyRef>,
    pub file_key_ref: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvFrom {
    pub prefix: String,
    pub config_map_ref: Option<LocalReference>,
    pub secret_ref: Option<LocalReference>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FieldRef {
    pub field_path: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceFieldRef {
    pub container_name: String,
    pub resource: String,
    pub divisor: Option<Quantity>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeyRef {
    pub name: String,
    pub key: String,
    pub optional: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalReference {
    pub name: String,
    pub optional: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeMount {
    pub name: String,
    pub read_only: bool,
    pub recursive_read_only: Option<String>,
    pub mount_path: String,
    pub sub_path: String,
    pub sub_path_expr: String,
    pub mount_propagation: Option<String>,
}

/// A volume of mode Block, and where the container has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeDevice {
    pub name: String,
    pub device_path: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Probe {
    pub exec: Option<ExecAction>,
    pub http_get: Option<HttpGet>,
    pub tcp_socket: Option<TcpSocket>,
    pub grpc: Option<GrpcAction>,
    pub initial_delay_seconds: i64,
    pub timeout_seconds: i64,
    pub period_seconds: i64,
    pub success_threshold: i64,
    pub failure_threshold: i64,
    pub termination_grace_period_seconds: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExecAction {
    #[serde(deserialize_with = "or_default")]
    pub command: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpGet {
    pub path: String,
    pub port: Value,
    pub host: String,
    pub scheme: String,
    #[serde(deserialize_with = "or_default")]
    pub http_headers: Vec<Header>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Header {
    pub name: String,
    pub value: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TcpSocket {
    pub port: Value,
    pub host: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct GrpcAction {
    pub port: u16,
    #[serde(deserialize_with = "or_default")]
    pub service: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lifecycle {
    pub post_start: Option<Handler>,
    pub pre_stop: Option<Handler>,
    pub stop_signal: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Handler {
    pub exec: Option<ExecAction>,
    pub http_get: Option<HttpGet>,
    pub sleep: Option<SleepAction>,
    pub tcp_socket: Option<TcpSocket>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SleepAction {
    pub seconds: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecurityContext {
    #[serde(deserialize_with = "or_default")]
    pub capabilities: Capabilities,
    pub privileged: Option<bool>,
    pub se_linux_options: Option<SeLinux>,
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub run_as_non_root: Option<bool>,
    pub read_only_root_filesystem: Option<bool>,
    pub allow_privilege_escalation: Option<bool>,
    pub proc_mount: Option<String>,
    pub seccomp_profile: Option<Profile>,
    pub app_armor_profile: Option<Profile>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSecurityContext {
    pub se_linux_options: Option<SeLinux>,
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub run_as_non_root: Option<bool>,
    #[serde(deserialize_with = "or_default")]
    pub supplemental_groups: Vec<i64>,
    pub supplemental_groups_policy: Option<String>,
    pub fs_group: Option<i64>,
    /// `Always` (or absent) or `OnRootMismatch`.
    pub fs_group_change_policy: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub sysctls: Vec<Header>,
    pub seccomp_profile: Option<Profile>,
    pub app_armor_profile: Option<Profile>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SeLinux {
    pub user: String,
    pub role: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub level: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Profile {
    #[serde(rename = "type")]
    pub kind: String,
    pub localhost_profile: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    #[serde(deserialize_with = "or_default")]
    pub add: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub drop: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HostAlias {
    pub ip: String,
    #[serde(deserialize_with = "or_default")]
    pub hostnames: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    #[serde(deserialize_with = "or_default")]
    pub nameservers: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub searches: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub options: Vec<DnsOption>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DnsOption {
    pub name: String,
    pub value: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadinessGate {
    pub condition_type: String,
}
