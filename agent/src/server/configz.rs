//! `/configz`: with what the agent runs, as a KubeletConfiguration (kubelet.config.k8s.io/v1beta1).
//! Only fields that are what they say.

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::Shared;
use crate::Options;
use crate::cpu_manager;

pub(super) async fn get(State(shared): State<Shared>) -> Response {
    super::json(&*shared.configuration)
}

/// The document of a command line.
pub fn document(options: &Options) -> Value {
    let path =
        |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let text = |path: &std::path::Path| path.display().to_string();
    let mut configuration = json!({
        "enableServer": true,
        "address": options.bind_address.or(options.node_ip).map(|address| address.to_string()),
        "port": options.port,
        "tlsCertFile": path(&options.tls_cert_file),
        "tlsPrivateKeyFile": path(&options.tls_private_key_file),
        "authentication": {
            "x509": {"clientCAFile": path(&options.client_ca_file)},
            "webhook": {"enabled": true, "cacheTTL": "2m0s"},
            "anonymous": {"enabled": options.anonymous_auth},
        },
        "authorization": {
            "mode": "Webhook",
            "webhook": {"cacheAuthorizedTTL": "5m0s", "cacheUnauthorizedTTL": "30s"},
        },
        "enableDebuggingHandlers": true,
        "enableSystemLogHandler": true,
        "enableSystemLogQuery": false,
        "clusterDomain": options.cluster_domain,
        "clusterDNS": options.cluster_dns.iter().map(|it| it.to_string()).collect::<Vec<_>>(),
        "nodeStatusUpdateFrequency": "10s",
        "nodeStatusReportFrequency": "5m0s",
        "nodeLeaseDurationSeconds": 40,
        "nodeStatusMaxImages": options.node_status_max_images,
        "cgroupRoot": options.cgroup_root,
        "cgroupDriver": "cgroupfs",
        "podCIDR": options.pod_cidr,
        "maxPods": options.max_pods,
        "resolvConf": text(&options.resolv_conf),
        "evictionHard": options.eviction.hard.signals(),
        "evictionSoft": options.eviction.soft.signals(),
        "evictionSoftGracePeriod": options.eviction.soft_grace.signals(),
        "evictionMinimumReclaim": options.eviction.minimum_reclaim.signals(),
        "evictionMaxPodGracePeriod": options.eviction.max_pod_grace,
        "evictionPressureTransitionPeriod":
            format!("{}s", options.eviction.transition.as_secs_f64()),
        "rotateCertificates": options.certificates.rotate_certificates,
        "serverTLSBootstrap": options.certificates.rotate_server_certificates,
        "kubeReserved": options.kube_reserved,
        "systemReserved": options.system_reserved,
        "cpuManagerPolicy": options.cpu_manager_policy,
        "reservedSystemCPUs": options.reserved_cpus,
        "registerNode": options.register_node,
        "registerWithTaints": options.register_with_taints,
        "containerLogMaxSize": options.container_log_max_size.to_string(),
        "containerLogMaxFiles": options.container_log_max_files,
        "containerLogMonitorInterval": "10s",
        "containerRuntimeEndpoint": options.runtime_endpoint,
        "podLogsDir": text(&options.pod_logs_dir),
    });
    let more = json!({
        "cpuManagerPolicyOptions":
            cpu_manager::options::shown(&options.cpu_manager_policy_options),
        "staticPodPath": path(&options.pod_manifest_path),
        "staticPodURL": options.manifest_url.as_ref().map(|url| url.to_string()),
        "httpCheckFrequency": format!("{}s", options.http_check_frequency.as_secs_f64()),
    });
    if let (Some(fields), Value::Object(more)) = (configuration.as_object_mut(), more) {
        fields.extend(more);
        let empty = |value: &Value| {
            value.is_null()
                || value.as_array().is_some_and(|list| list.is_empty())
                || value.as_object().is_some_and(|map| map.is_empty())
        };
        fields.retain(|_, value| !empty(value));
    }
    json!({ "kubeletconfig": configuration })
}
