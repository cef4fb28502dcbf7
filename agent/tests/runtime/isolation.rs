//! What a container sees and may do.

use proto::cri::{self, NamespaceMode};

use super::lab::{Lab, context, script, words};

#[tokio::test]
async fn every_container_has_namespaces_of_its_own() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let first = lab.run(&pod, script("first", "sleep 1000")).await;
    let second = lab.run(&pod, script("second", "sleep 1000")).await;
    let (first, second) = (lab.pid(&first).await, lab.pid(&second).await);
    let namespace =
        |pid: i32, kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    let own = std::process::id() as i32;
    for kind in ["pid", "mnt", "cgroup"] {
        assert_ne!(namespace(first, kind), namespace(second, kind), "{kind}");
        assert_ne!(namespace(first, kind), namespace(own, kind), "{kind}");
    }
    assert_eq!(namespace(first, "ipc"), namespace(second, "ipc"));
    assert_ne!(namespace(first, "ipc"), namespace(own, "ipc"));
    assert_eq!(namespace(first, "net"), namespace(own, "net"), "the pod is on the host's network");
    lab.finish().await;
}

#[tokio::test]
async fn a_pod_may_share_its_processes_or_the_nodes() {
    let Some(mut lab) = Lab::start().await else { return };
    let mut config = lab.sandbox_config("shared");
    let mode = |config: &mut cri::PodSandboxConfig, mode: NamespaceMode| {
        let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        context.namespace_options.as_mut().unwrap().pid = mode as i32;
    };
    mode(&mut config, NamespaceMode::Pod);
    let pod = lab.sandbox_of(config).await;
    let shared = |name: &str, mode: NamespaceMode| {
        let mut config = script(name, "sleep 1000");
        context(&mut config).namespace_options.as_mut().unwrap().pid = mode as i32;
        config
    };
    let first = lab.run(&pod, shared("first", NamespaceMode::Pod)).await;
    let second = lab.run(&pod, shared("second", NamespaceMode::Pod)).await;
    let host = lab.run(&pod, shared("host", NamespaceMode::Node)).await;
    let seen = lab.output(&first, "ps | grep -c '[s]leep 1000'").await;
    assert_eq!(seen, "2", "both containers' processes are there");
    assert_ne!(lab.output(&first, "echo $$").await, "1");
    let pid = lab.pid(&host).await;
    assert_eq!(lab.output(&host, &format!("ls -d /proc/{pid}")).await, format!("/proc/{pid}"));
    // Into another container's namespace, as an ephemeral debug container goes.
    let mut config = shared("debug", NamespaceMode::Target);
    context(&mut config).namespace_options.as_mut().unwrap().target_id = second.clone();
    let debug = lab.run(&pod, config).await;
    assert_eq!(lab.output(&debug, "ps | grep -c '[s]leep 1000'").await, "3");
    let stop = cri::StopContainerRequest { container_id: first, timeout: 1 };
    lab.runtime.stop_container(stop).await.unwrap();
    assert_eq!(lab.output(&second, "ps | grep -c '[s]leep 1000'").await, "2");
    lab.finish().await;
}

#[tokio::test]
async fn the_file_system_is_the_images_and_its_own() {
    let Some(mut lab) = Lab::start().await else { return };
    let data = lab.folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("file"), "from the node").unwrap();
    let pod = lab.sandbox("pod").await;
    let mut config = script("main", "sleep 1000");
    let mount = |target: &str, source: &std::path::Path, readonly: bool| cri::Mount {
        container_path: target.into(),
        host_path: source.display().to_string(),
        readonly,
        ..Default::default()
    };
    config.mounts = vec![
        mount("/data", &data, false),
        mount("/fixed/deep", &data, true),
        mount("/etc/hosts", &data.join("file"), false),
    ];
    let id = lab.run(&pod, config).await;
    assert_eq!(
        lab.output(&id, "cat /etc/hosts /fixed/deep/file").await,
        "from the nodefrom the node"
    );
    lab.output(&id, "echo changed > /data/new; echo mine > /bin/own").await;
    assert_eq!(std::fs::read_to_string(data.join("new")).unwrap(), "changed\n");
    assert_ne!(lab.exec(&id, &["touch", "/fixed/deep/x"]).await.exit_code, 0);
    assert_ne!(lab.exec(&id, &["touch", "/proc/sys/kernel/hostname"]).await.exit_code, 0);
    assert_eq!(lab.output(&id, "cat /proc/kcore; ls /sys/firmware | wc -l").await, "0");
    let root = lab.output(&id, "ls /").await;
    assert_eq!(
        root.split_whitespace().collect::<Vec<_>>(),
        ["bin", "data", "dev", "etc", "fixed", "proc", "sys", "tmp"]
    );
    let devices = lab.output(&id, "ls /dev").await;
    let expected = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    assert_eq!(devices.split_whitespace().collect::<Vec<_>>().join(" "), expected);
    assert_eq!(lab.output(&id, "head -c 3 /dev/zero | wc -c; echo x > /dev/null").await, "3");
    let own_groups = "cat /sys/fs/cgroup/memory/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null | grep -cx 1";
    assert_eq!(lab.output(&id, own_groups).await, "1");

    let mut config = script("readonly", "sleep 1000");
    context(&mut config).readonly_rootfs = true;
    let id = lab.run(&pod, config).await;
    assert_ne!(lab.exec(&id, &["touch", "/bin/x"]).await.exit_code, 0);
    assert_eq!(lab.exec(&id, &["touch", "/dev/shm/x"]).await.exit_code, 0);
    lab.finish().await;
}

#[tokio::test]
async fn users_groups_and_powers() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let plain = lab.run(&pod, script("plain", "sleep 1000")).await;
    let status = |pid: i32, key: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        text.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned()
    };
    let pid = lab.pid(&plain).await;
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(status(pid, set), "00000000a80425fb", "{set}");
    }
    assert_eq!((status(pid, "CapInh:"), status(pid, "NoNewPrivs:")), ("0".repeat(16), "0".into()));
    assert_eq!(status(pid, "Seccomp:"), "2");
    // A node made with CAP_MKNOD opens nothing.
    let disk =
        lab.output(&plain, "mknod /tmp/disk b 254 0; head -c 1 /tmp/disk 2>&1 | tail -1").await;
    assert!(disk.contains("Permission denied"), "{disk}");
    assert_ne!(lab.exec(&plain, &["unshare", "-m", "true"]).await.exit_code, 0);

    let mut config = script("web", "sleep 1000");
    let security = context(&mut config);
    security.run_as_username = "web".into();
    security.supplemental_groups = vec![7];
    security.no_new_privs = true;
    security.capabilities = Some(cri::Capability {
        add_capabilities: words(&["NET_ADMIN"]),
        drop_capabilities: words(&["ALL"]),
        ..Default::default()
    });
    let web = lab.run(&pod, config).await;
    let pid = lab.pid(&web).await;
    assert_eq!(status(pid, "Uid:"), "101\t101\t101\t101");
    assert_eq!(
        (status(pid, "Groups:"), status(pid, "NoNewPrivs:")),
        ("7 102 200".into(), "1".into())
    );
    assert_eq!(
        (status(pid, "CapBnd:"), status(pid, "CapEff:")),
        ("0000000000001000".into(), "0".repeat(16))
    );
    assert_eq!(lab.output(&web, "id -u; echo $HOME; echo x > /dev/stdout").await, "101\n/srv\nx");

    let mut config = script("strong", "sleep 1000");
    context(&mut config).privileged = true;
    let strong = lab.run(&pod, config).await;
    let pid = lab.pid(&strong).await;
    assert_eq!(status(pid, "CapEff:"), status(std::process::id() as i32, "CapEff:"));
    assert_eq!(status(pid, "Seccomp:"), "0");
    lab.output(&strong, "mount -t tmpfs none /tmp && ls /dev/kmsg /dev/null").await;
    lab.finish().await;
}

#[tokio::test]
async fn groups_are_merged_or_strict() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    for (name, policy, groups) in [
        ("merge", cri::SupplementalGroupsPolicy::Merge, "7 200 3000"),
        ("strict", cri::SupplementalGroupsPolicy::Strict, "7 3000"),
    ] {
        let mut config = script(name, "sleep 1000");
        let security = context(&mut config);
        security.run_as_user = Some(cri::Int64Value { value: 101 });
        security.run_as_group = Some(cri::Int64Value { value: 3000 });
        security.supplemental_groups = vec![7];
        security.supplemental_groups_policy = policy as i32;
        let id = lab.run(&pod, config).await;
        let pid = lab.pid(&id).await;
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let found = text.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap().trim();
        assert_eq!(found, groups, "{name}");
        assert!(text.contains("Gid:\t3000\t3000\t3000\t3000"), "{text}");
        let user = lab.status(&id).await.user.unwrap().linux.unwrap();
        assert_eq!((user.uid, user.gid), (101, 3000));
    }
    lab.finish().await;
}

#[tokio::test]
async fn a_pod_may_unmask_proc_and_share_the_nodes_ipc() {
    let Some(mut lab) = Lab::start().await else { return };
    let mut config = lab.sandbox_config("open");
    let linux = config.linux.as_mut().unwrap();
    let security = linux.security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().ipc = NamespaceMode::Node as i32;
    let pod = lab.sandbox_of(config).await;
    let mut config = script("main", "sleep 1000");
    context(&mut config).masked_paths.clear();
    context(&mut config).readonly_paths.clear();
    let id = lab.run(&pod, config).await;
    let pid = lab.pid(&id).await;
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/ipc")).unwrap();
    assert_eq!(namespace(pid), namespace(std::process::id() as i32));
    let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    assert!(!table.lines().any(|line| line.split(' ').nth(4).unwrap().starts_with("/proc/")));
    assert!(table.lines().any(|line| line.split(' ').nth(4) == Some("/dev/shm")));
    lab.finish().await;
}

#[tokio::test]
async fn only_three_descriptors_reach_a_container() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let id = lab.run(&pod, script("main", "exec sleep 1000")).await;
    let pid = lab.pid(&id).await;
    let descriptors = |pid: i32| {
        let mut names: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(descriptors(pid), ["0", "1", "2"]);
    // The shell's own listing has one more: that of the directory it reads.
    assert_eq!(lab.output(&id, "exec ls /proc/self/fd").await.split_whitespace().count(), 4);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"] {
        assert!(status.contains(line), "{status}");
    }
    lab.finish().await;
}

#[tokio::test]
async fn a_pod_network_has_its_own_hostname_and_sysctls() {
    let Some(mut lab) = Lab::start().await else { return };
    let mut config = lab.sandbox_config("net");
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().network = NamespaceMode::Pod as i32;
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let error = lab.runtime.run_pod_sandbox(request).await.unwrap_err();
    assert!(error.message().contains("pod CIDR"), "{}", error.message());
    lab.finish().await;
}
