//! Pods with a user namespace of their own.

use proto::cri::{self, NamespaceMode};

use super::lab::{Lab, context, script, words};
use super::network;

const FIRST: u32 = 65_536 * 3;

fn range(host_id: u32) -> cri::IdMapping {
    cri::IdMapping { host_id, container_id: 0, length: 65_536 }
}

fn options(pid: NamespaceMode) -> cri::NamespaceOption {
    cri::NamespaceOption {
        pid: pid as i32,
        userns_options: Some(cri::UserNamespace {
            mode: NamespaceMode::Pod as i32,
            uids: vec![range(FIRST)],
            gids: vec![range(FIRST)],
        }),
        ..Default::default()
    }
}

fn sandbox_config(lab: &Lab, name: &str, pid: NamespaceMode) -> cri::PodSandboxConfig {
    let mut config = lab.sandbox_config(name);
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options = Some(options(pid));
    config
}

fn container(name: &str, pid: NamespaceMode) -> cri::ContainerConfig {
    let mut config = script(name, "echo started; sleep 1000");
    context(&mut config).namespace_options = Some(options(pid));
    config
}

fn status(pid: i32, key: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned()
}

fn namespace(pid: i32, kind: &str) -> String {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    link.display().to_string()
}

/// Whether this machine's pods can have users of their own; where they cannot, asking for some is
/// refused.
async fn can_have_users(lab: &mut Lab) -> bool {
    let status = lab.runtime.status(cri::StatusRequest::default()).await.unwrap().into_inner();
    if status.runtime_handlers[0].features.unwrap().user_namespaces {
        return true;
    }
    let config = Some(sandbox_config(lab, "refused", NamespaceMode::Container));
    let request = cri::RunPodSandboxRequest { config, ..Default::default() };
    let error = lab.runtime.run_pod_sandbox(request).await.unwrap_err();
    assert!(error.message().contains("not support user namespaces"), "{}", error.message());
    eprintln!("SKIPPED: the rest of this test needs Linux 6.3 with user namespaces");
    false
}

#[tokio::test]
async fn root_in_the_pod_is_nobody_on_the_node() {
    let Some((mut lab, _namespace)) = network::lab().await else { return };
    if !can_have_users(&mut lab).await {
        return;
    }
    let data = lab.folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let config = sandbox_config(&lab, "pod", NamespaceMode::Container);
    let pod = lab.sandbox_of(config).await;
    let mut config = container("main", NamespaceMode::Container);
    config.mounts = vec![cri::Mount {
        container_path: "/data".into(),
        host_path: data.display().to_string(),
        uid_mappings: vec![range(FIRST)],
        gid_mappings: vec![range(FIRST)],
        ..Default::default()
    }];
    config.mounts.push(cri::Mount {
        container_path: "/image".into(),
        readonly: true,
        image: Some(cri::ImageSpec { image: super::lab::IMAGE.into(), ..Default::default() }),
        uid_mappings: vec![range(FIRST)],
        gid_mappings: vec![range(FIRST)],
        ..Default::default()
    });
    let id = lab.run(&pod, config).await;
    lab.log_until("main.log", |log| log.contains("started")).await;
    let pid = lab.pid(&id).await;
    let first = FIRST.to_string();
    assert_eq!(status(pid, "Uid:"), [first.as_str(); 4].join("\t"));
    assert_eq!(status(pid, "Gid:"), [first.as_str(); 4].join("\t"));
    let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", first.as_str(), "65536"]);
    assert_ne!(namespace(pid, "user"), namespace(std::process::id() as i32, "user"));
    assert_eq!(lab.output(&id, "id -u; cat /proc/self/uid_map | wc -l").await, "0\n1");
    // The image's files and the volume's belong to the pod's root, on the disk to the node's.
    assert_eq!(
        lab.output(&id, "stat -c %u /bin/busybox /image/bin/busybox /data /tmp / /dev").await,
        "0\n".repeat(6).trim_end()
    );
    lab.output(&id, "touch /data/new /tmp/new /own; echo x > /dev/stdout; echo y >/dev/null").await;
    let owner = |path: std::path::PathBuf| {
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path).unwrap())
    };
    assert_eq!(owner(data.join("new")), 0);
    assert_eq!(owner(lab.root().join("containers").join(&id).join("upper/own")), FIRST);
    assert_ne!(lab.exec(&id, &["touch", "/image/new"]).await.exit_code, 0);
    // The kernel's file systems are the pod's.
    assert_eq!(
        lab.output(&id, "ls -d /proc/1 /sys/class/net/eth0; cat /proc/1/comm").await,
        "/proc/1\n/sys/class/net/eth0\nsleep"
    );
    assert_ne!(lab.exec(&id, &["sh", "-c", "echo 1 > /proc/sys/vm/swappiness"]).await.exit_code, 0);
    assert_eq!(lab.output(&id, "ls /dev/pts; cat /proc/kcore; hostname").await, "ptmx\npod");

    // Another user, by name; a second container has the same namespace; a restart keeps all that.
    let mut config = container("web", NamespaceMode::Container);
    context(&mut config).run_as_username = "web".into();
    let web = lab.run(&pod, config).await;
    lab.log_until("web.log", |log| log.contains("started")).await;
    let web_pid = lab.pid(&web).await;
    assert_eq!(status(web_pid, "Uid:").split('\t').next().unwrap(), (FIRST + 101).to_string());
    assert_eq!(namespace(web_pid, "user"), namespace(pid, "user"));
    assert_eq!(lab.output(&web, "id -u; echo x > /dev/stdout").await, "101\nx");
    lab.kill();
    lab.revive().await;
    assert_eq!(lab.output(&id, "id -u").await, "0");
    let later = lab.run(&pod, container("later", NamespaceMode::Container)).await;
    let later = lab.pid(&later).await;
    assert_eq!(namespace(later, "user"), namespace(pid, "user"));
    lab.finish().await;
}

#[tokio::test]
async fn powers_end_at_the_pod() {
    let Some((mut lab, _namespace)) = network::lab().await else { return };
    if !can_have_users(&mut lab).await {
        return;
    }
    let config = sandbox_config(&lab, "pod", NamespaceMode::Pod);
    let pod = lab.sandbox_of(config).await;
    let readonly = lab.folder.path().join("readonly");
    std::fs::create_dir(&readonly).unwrap();
    let mut config = container("strong", NamespaceMode::Pod);
    let security = context(&mut config);
    security.capabilities = Some(cri::Capability {
        add_capabilities: words(&["SYS_ADMIN", "NET_ADMIN", "MKNOD", "SYS_PTRACE", "SYS_TIME"]),
        ..Default::default()
    });
    config.mounts = vec![cri::Mount {
        container_path: "/fixed".into(),
        host_path: readonly.display().to_string(),
        readonly: true,
        uid_mappings: vec![range(FIRST)],
        gid_mappings: vec![range(FIRST)],
        ..Default::default()
    }];
    let id = lab.run(&pod, config).await;
    // What it may in its own namespaces ...
    lab.output(&id, "mount -t tmpfs none /tmp; hostname other; hostname | grep other").await;
    // ... and what it may not: nothing of the node, nothing that was locked for it.
    for command in [
        "mount -o remount,bind,rw /fixed",
        "mknod /tmp/disk b 254 0",
        "umount /proc/kcore",
        "mount -o remount,rw /proc/sys",
        "echo 3 > /proc/sys/vm/drop_caches",
        "echo $$ > /sys/fs/cgroup/pids/cgroup.procs",
        "chown 70000 /tmp",
    ] {
        let code = lab.exec(&id, &["sh", "-c", command]).await.exit_code;
        assert_ne!(code, 0, "{command}");
    }
    // The pod's processes are shared.
    let second = lab.run(&pod, container("second", NamespaceMode::Pod)).await;
    lab.log_until("second.log", |log| log.contains("started")).await;
    assert_eq!(lab.output(&second, "ps | grep -c '[s]leep 1000'").await, "2");
    lab.finish().await;
}

#[tokio::test]
async fn what_no_pod_can_have_is_refused() {
    let Some((mut lab, _namespace)) = network::lab().await else { return };
    if !can_have_users(&mut lab).await {
        return;
    }
    let config = sandbox_config(&lab, "host", NamespaceMode::Node);
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let error = lab.runtime.run_pod_sandbox(request).await.unwrap_err();
    assert!(error.message().contains("node's PID namespace"), "{}", error.message());

    let config = sandbox_config(&lab, "pod", NamespaceMode::Container);
    let pod = lab.sandbox_of(config).await;
    let mut config = container("other", NamespaceMode::Container);
    let options = context(&mut config).namespace_options.as_mut().unwrap();
    options.userns_options.as_mut().unwrap().uids = vec![range(FIRST + 65_536)];
    let error = lab.try_create(&pod, config).await.unwrap_err();
    assert!(error.message().contains("not the one of its sandbox"), "{}", error.message());
    let mut config = container("far", NamespaceMode::Container);
    context(&mut config).run_as_user = Some(cri::Int64Value { value: 70_000 });
    let error = lab.try_create(&pod, config).await.unwrap_err();
    assert!(error.message().contains("70000 is not mapped"), "{}", error.message());
    lab.finish().await;
}

#[tokio::test]
async fn the_nodes_network_gives_no_power_over_it() {
    let Some(mut lab) = Lab::start().await else { return };
    if !can_have_users(&mut lab).await {
        return;
    }
    let node = |options: &mut Option<cri::NamespaceOption>| {
        options.as_mut().unwrap().network = NamespaceMode::Node as i32;
    };
    let mut config = sandbox_config(&lab, "host", NamespaceMode::Container);
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    node(&mut security.namespace_options);
    let pod = lab.sandbox_of(config).await;
    let mut config = container("main", NamespaceMode::Container);
    node(&mut context(&mut config).namespace_options);
    context(&mut config).capabilities = Some(cri::Capability {
        add_capabilities: words(&["NET_ADMIN", "SYS_ADMIN"]),
        ..Default::default()
    });
    let id = lab.run(&pod, config).await;
    let pid = lab.pid(&id).await;
    let own = std::process::id() as i32;
    assert_eq!(namespace(pid, "net"), namespace(own, "net"));
    assert_ne!(namespace(pid, "user"), namespace(own, "user"));
    for command in
        ["hostname changed", "echo 1 > /proc/sys/net/ipv4/ip_forward", "mount -o remount,rw /sys"]
    {
        assert_ne!(lab.exec(&id, &["sh", "-c", command]).await.exit_code, 0, "{command}");
    }
    lab.finish().await;
}
