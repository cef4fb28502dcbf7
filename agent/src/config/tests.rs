use serde_json::{Value, json};

use super::*;

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "a"}},
        "spec": spec,
    }))
    .unwrap()
}

fn made(spec: Value, parts: Parts) -> Result<cri::ContainerConfig, Error> {
    let pod = pod(spec);
    container(&pod, &pod.spec.containers[0], &NodeConfig::default(), parts)
}

#[test]
fn resources_become_cgroup_settings() {
    let node = NodeConfig { memory: 1000 << 20, ..NodeConfig::default() };
    // requests, limits → shares, quota, memory, oom score, cgroup
    let table = [
        (json!({}), (2, 0, 0, 1000), "/kubepods/besteffort/podu"),
        (
            json!({"requests": {"cpu": "250m", "memory": "100Mi"}, "limits": {"cpu": "1500m"}}),
            (256, 150_000, 0, 900),
            "/kubepods/burstable/podu",
        ),
        (
            json!({"requests": {"cpu": "1", "memory": "64Mi"},
                   "limits": {"cpu": "1", "memory": "64Mi"}}),
            (1024, 100_000, 64 << 20, -997),
            "/kubepods/podu",
        ),
        (json!({"limits": {"cpu": "1m"}}), (2, 1000, 0, 999), "/kubepods/burstable/podu"),
    ];
    for (resources, expected, cgroup) in table {
        let pod = pod(json!({"containers": [{"name": "c", "resources": resources}]}));
        let got = container_resources(&pod, &pod.spec.containers[0], node.memory);
        let got = (got.cpu_shares, got.cpu_quota, got.memory_limit_in_bytes, got.oom_score_adj);
        assert_eq!(got, expected, "{resources}");
        assert_eq!(node.cgroup(&pod), cgroup);
    }
}

#[test]
fn a_pod_has_the_sum_of_its_limits_or_none() {
    let limited =
        |memory: &str| json!({"name": memory, "resources": {"limits": {"memory": memory}}});
    let both = pod(json!({"containers": [limited("1Mi"), limited("2Mi")],
        "initContainers": [limited("5Mi")]}));
    assert_eq!(pod_resources(&both).memory_limit_in_bytes, 5 << 20);
    let one = pod(json!({"containers": [limited("1Mi"), {"name": "free"}]}));
    assert_eq!(pod_resources(&one).memory_limit_in_bytes, 0);
}

#[test]
fn security_contexts() {
    let config = made(
        json!({"securityContext": {"runAsUser": 7, "fsGroup": 9, "supplementalGroups": [8]},
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
                "runAsGroup": 3}}]}),
        Parts::default(),
    );
    let security = config.unwrap().linux.unwrap().security_context.unwrap();
    assert_eq!(security.run_as_user.unwrap().value, 7);
    assert_eq!(security.run_as_group.unwrap().value, 3);
    assert_eq!(security.supplemental_groups, [8, 9]);
    assert!(security.no_new_privs && security.readonly_rootfs);
    assert_eq!(security.capabilities.unwrap().drop_capabilities, ["ALL"]);
    assert_eq!(security.seccomp.unwrap().profile_type, ProfileType::RuntimeDefault as i32);
    assert!(security.masked_paths.contains(&"/proc/kcore".to_string()));
    let privileged =
        json!({"containers": [{"name": "c", "securityContext": {"privileged": true}}]});
    let config = made(privileged, Parts::default()).unwrap();
    let security = config.linux.unwrap().security_context.unwrap();
    assert!(security.privileged && security.masked_paths.is_empty());
    assert_eq!(security.seccomp.unwrap().profile_type, ProfileType::Unconfined as i32);
}

#[test]
fn profiles_of_the_node_are_below_one_folder() {
    let pod = pod(json!({"containers": [{"name": "c", "securityContext": {"seccompProfile":
        {"type": "Localhost", "localhostProfile": "profiles/audit.json"}}}]}));
    let node = NodeConfig { seccomp: "/var/lib/kubelet/seccomp".into(), ..NodeConfig::default() };
    let config = container(&pod, &pod.spec.containers[0], &node, Parts::default()).unwrap();
    let seccomp = config.linux.unwrap().security_context.unwrap().seccomp.unwrap();
    assert_eq!(seccomp.profile_type, ProfileType::Localhost as i32);
    assert_eq!(seccomp.localhost_ref, "/var/lib/kubelet/seccomp/profiles/audit.json");
}

#[test]
fn non_root_is_verified() {
    let spec = |user: Value| {
        json!({"securityContext": {"runAsNonRoot": true, "runAsUser": user},
        "containers": [{"name": "c"}]})
    };
    let try_with =
        |user: Value, image_user| made(spec(user), Parts { image_user, ..Parts::default() });
    assert!(try_with(json!(5), None).is_ok());
    assert!(try_with(Value::Null, Some(Ok(5))).is_ok());
    assert!(matches!(try_with(json!(0), None), Err(Error::RootUser { .. })));
    let error = try_with(Value::Null, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)"
    );
    assert!(matches!(
        try_with(Value::Null, Some(Err("nobody".into()))),
        Err(Error::NamedUser { .. })
    ));
}

#[test]
fn commands_expand_and_the_run_is_labelled() {
    let parts = Parts {
        attempt: 3,
        environment: [("A".to_string(), "1".to_string())].into(),
        ..Parts::default()
    };
    let config = made(
        json!({"containers": [{"name": "c", "command": ["x", "$(A)"], "args": ["$$(A)"]}]}),
        parts,
    )
    .unwrap();
    assert_eq!(config.command, ["x", "1"]);
    assert_eq!(config.args, ["$(A)"]);
    assert_eq!(config.log_path, "c/3.log");
    assert_eq!(config.annotations[labels::RESTART_COUNT], "3");
    assert_eq!(config.labels[labels::POD_UID], "u");
}

#[test]
fn sandboxes() {
    let node = NodeConfig { logs: "/logs".into(), domain: "d".into(), ..NodeConfig::default() };
    let plain = pod(json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true,
        "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080},
            {"containerPort": 81}]}]}));
    let config = sandbox(&plain, 2, &node, cri::DnsConfig::default());
    assert_eq!(config.hostname, "h.s.n.svc.d");
    assert_eq!(config.log_directory, "/logs/n_p_u");
    assert_eq!(config.port_mappings.len(), 1);
    assert_eq!(config.metadata.unwrap().attempt, 2);
    assert_eq!(config.labels["app"], "a");
    let host = pod(json!({"hostNetwork": true, "hostPID": true, "containers": [{"name": "c"}]}));
    let config = sandbox(&host, 0, &node, cri::DnsConfig::default());
    let options = config.linux.unwrap().security_context.unwrap().namespace_options.unwrap();
    assert_eq!(options.network, NamespaceMode::Node as i32);
    assert_eq!(options.pid, NamespaceMode::Node as i32);
    assert_eq!(options.ipc, NamespaceMode::Pod as i32);
}

#[test]
fn cpus_and_what_plugins_ask_of_the_runtime() {
    let limits = json!({"limits": {"cpu": "2", "memory": "1Mi"}});
    let spec = json!({"containers": [{"name": "c", "resources": limits}]});
    let made = |exclusive| {
        let cpus = Some(Cpus { set: "1-2".parse().unwrap(), exclusive });
        let annotations = [("a.b/c".to_string(), "d".to_string())].into();
        let cdi_devices = vec!["e.com/c=d".to_string()];
        made(spec.clone(), Parts { cpus, annotations, cdi_devices, ..Parts::default() }).unwrap()
    };
    let config = made(false);
    assert_eq!(config.annotations["a.b/c"], "d");
    assert_eq!(config.cdi_devices, [cri::CdiDevice { name: "e.com/c=d".into() }]);
    for (exclusive, quota) in [(false, 200_000), (true, NO_QUOTA)] {
        let resources = made(exclusive).linux.unwrap().resources.unwrap();
        assert_eq!((resources.cpuset_cpus.as_str(), resources.cpu_quota), ("1-2", quota));
    }
}
