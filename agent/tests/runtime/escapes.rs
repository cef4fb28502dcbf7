//! What a hostile container tries, and what becomes of it.

use proto::cri;

use super::lab::{Lab, context, script, words};

fn resources(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerResources {
    config.linux.as_mut().unwrap().resources.get_or_insert_default()
}

/// The process of a command that is about to be executed is the runtime's own program for a moment.
#[tokio::test]
async fn the_supervisor_cannot_be_overwritten_through_proc() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    // Root with all that helps to look into other processes of its namespace.
    let hunt = "while :; do for p in /proc/[0-9]*; do \
        case $(readlink $p/exe) in *supervisor*) echo caught $p; \
        printf overwritten 2>/dev/null >$p/exe && echo overwritten;; esac; done; done";
    let mut config = script("hunter", hunt);
    context(&mut config).capabilities = Some(cri::Capability {
        add_capabilities: words(&["SYS_PTRACE", "DAC_READ_SEARCH"]),
        ..Default::default()
    });
    let hunter = lab.run(&pod, config).await;
    for _ in 0..50 {
        assert_eq!(lab.output(&hunter, "echo fine").await, "fine");
    }
    assert!(!lab.log("hunter.log").contains("overwritten"), "{}", lab.log("hunter.log"));
    // Even the node's root cannot: it is sealed.
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: true };
    let info = lab.runtime.pod_sandbox_status(request).await.unwrap().into_inner().info;
    let executable = format!("/proc/{}/exe", info["supervisor"]);
    let before = std::fs::read(&executable).unwrap();
    let opened = std::fs::File::options().write(true).open(&executable);
    let wrote = opened.and_then(|mut file| std::io::Write::write_all(&mut file, b"overwritten"));
    assert!(wrote.is_err());
    assert_eq!(std::fs::read(&executable).unwrap(), before);
    lab.finish().await;
}

#[tokio::test]
async fn without_a_wanted_stream_the_nodes_null_stays_the_nodes() {
    use std::os::unix::fs::MetadataExt;
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let mut config = script("main", "sleep 1000");
    context(&mut config).run_as_user = Some(cri::Int64Value { value: 1000 });
    let id = lab.run(&pod, config).await;
    let before = std::fs::metadata("/dev/null").unwrap();
    assert_eq!(lab.output(&id, "id -u; echo x > /dev/stdout").await, "1000\nx");
    let after = std::fs::metadata("/dev/null").unwrap();
    assert_eq!((before.uid(), before.mode()), (after.uid(), after.mode()));
    lab.finish().await;
}

#[tokio::test]
async fn the_nodes_controls_are_out_of_reach() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let id = lab.run(&pod, script("main", "sleep 1000")).await;
    for command in [
        "echo 1 > /sys/fs/cgroup/memory/memory.limit_in_bytes",
        "echo 1 > /sys/fs/cgroup/memory.max",
        "echo $$ > /sys/fs/cgroup/cgroup.procs",
        "mkdir /sys/fs/cgroup/mine",
        "mkdir /sys/fs/cgroup/memory/mine",
        "mount -t cgroup2 none /tmp",
        "mount -o remount,rw /sys",
        "echo x > /proc/sys/kernel/core_pattern",
        // The harmless letter: where this test fails the machine must survive it.
        "echo h > /proc/sysrq-trigger",
        "echo x > /sys/kernel/uevent_helper",
        "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk",
        "chroot /proc/1/root mount -t tmpfs none /",
        "unshare -m true",
    ] {
        let told = lab.exec(&id, &["sh", "-c", command]).await;
        assert_ne!(told.exit_code, 0, "{command}: {told:?}");
    }
    lab.finish().await;
}

/// On the node's network, where names of sockets are the node's, too.
#[tokio::test]
async fn the_nodes_sockets_are_out_of_reach() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let id = lab.run(&pod, script("main", "sleep 1000")).await;
    let socket = lab.folder.path().join("cri.sock");
    assert!(socket.exists());
    for root in ["", "/proc/1/root", "/proc/self/root", "/proc/self/cwd"] {
        let path = format!("{root}{}", socket.display());
        assert_ne!(lab.exec(&id, &["test", "-e", &path]).await.exit_code, 0, "{path}");
    }
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: true };
    let info = lab.runtime.pod_sandbox_status(request).await.unwrap().into_inner().info;
    for process in [lab.process_id().to_string(), info["supervisor"].clone()] {
        // A name without a file would be open to everybody.
        let names = socket_names(&process);
        assert!(names.iter().all(|name| !name.starts_with('@')), "{process}: {names:?}");
    }
    assert!(socket_names(&lab.process_id().to_string()).contains(&socket.display().to_string()));
    lab.finish().await;
}

/// By which names others could reach the Unix sockets of a process.
fn socket_names(process: &str) -> Vec<String> {
    let open = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten();
    let open: Vec<_> = open.flat_map(|file| std::fs::read_link(file.path())).collect();
    let table = std::fs::read_to_string(format!("/proc/{process}/net/unix")).unwrap();
    let named = table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace().skip(6);
        let (inode, name) = (words.next()?, words.next()?);
        let link = std::path::PathBuf::from(format!("socket:[{inode}]"));
        open.contains(&link).then(|| name.to_owned())
    });
    named.collect()
}

#[tokio::test]
async fn pods_do_not_see_each_others_processes() {
    let Some(mut lab) = Lab::start().await else { return };
    let (first, second) = (lab.sandbox("first").await, lab.sandbox("second").await);
    let victim = lab.run(&first, script("victim", "sleep 1000")).await;
    let pid = lab.pid(&victim).await;
    let mut config = script("attacker", "sleep 1000");
    context(&mut config).capabilities = Some(cri::Capability {
        add_capabilities: words(&["SYS_PTRACE", "KILL"]),
        ..Default::default()
    });
    let attacker = lab.run(&second, config).await;
    assert_eq!(lab.output(&attacker, "ps | grep -c '[s]leep 1000'").await, "1");
    for command in [
        format!("ls /proc/{pid}/root"),
        format!("kill -9 {pid}"),
        format!("cat /proc/{pid}/environ"),
    ] {
        assert_ne!(lab.exec(&attacker, &["sh", "-c", &command]).await.exit_code, 0, "{command}");
    }
    assert_eq!(lab.status(&victim).await.state(), cri::ContainerState::ContainerRunning);
    lab.finish().await;
}

#[tokio::test]
async fn hogs_hurt_nobody_else() {
    let Some(mut lab) = Lab::start().await else { return };
    let quiet = lab.sandbox("quiet").await;
    let quiet = lab.run(&quiet, script("quiet", "sleep 1000")).await;
    let pod = lab.sandbox("pod").await;

    let mut bomb =
        script("bomb", "f() { f | f & }; echo lit; f; while :; do sleep 0.01 || :; done");
    resources(&mut bomb).unified.insert("pids.max".into(), "50".into());
    resources(&mut bomb).cpu_quota = 20_000;
    resources(&mut bomb).cpu_period = 100_000;
    let bomb = lab.run(&pod, bomb).await;
    lab.log_until("bomb.log", |log| log.contains("lit")).await;
    let cgroup = lab.cgroup_of(&bomb).await;
    let current = super::lab::cgroup_file("pids", &cgroup, "pids.current", "pids.current");
    assert!(current.parse::<u32>().unwrap() <= 50, "{current}");
    assert_eq!(lab.output(&quiet, "echo fine").await, "fine");
    let stop = cri::StopContainerRequest { container_id: bomb.clone(), timeout: 0 };
    lab.runtime.stop_container(stop).await.unwrap();
    assert_eq!(super::lab::cgroup_file("pids", &cgroup, "pids.current", "pids.current"), "0");

    let mut hog = script("hog", "exec dd if=/dev/zero of=/dev/null bs=300M count=1");
    resources(&mut hog).memory_limit_in_bytes = 32 << 20;
    let hog = lab.run(&pod, hog).await;
    assert_eq!(lab.exited(&hog).await.reason, "OOMKilled");

    let open = "i=3; while [ $i -lt 3000 ]; do eval \"exec $i</dev/null\" || break; i=$((i+1)); done; echo opened; sleep 1000";
    let mut files = script("files", open);
    resources(&mut files).unified.insert("pids.max".into(), "10".into());
    lab.run(&pod, files).await;
    lab.log_until("files.log", |log| log.contains("opened") || log.contains("Too many")).await;
    assert_eq!(lab.output(&quiet, "exec 3</dev/null; echo fine").await, "fine");
    lab.finish().await;
}

#[tokio::test]
async fn a_flood_of_logs_is_one_pods_own_matter() {
    let Some(mut lab) = Lab::start().await else { return };
    let noisy = lab.sandbox("noisy").await;
    let calm = lab.sandbox("calm").await;
    let flood =
        lab.run(&noisy, script("flood", "while :; do head -c 1000000 /dev/zero; done")).await;
    lab.log_until("flood.log", |log| log.len() > 4 << 20).await;
    let id = lab.run(&calm, script("calm", "echo heard; sleep 1000")).await;
    lab.log_until("calm.log", |log| log.contains("heard")).await;
    assert_eq!(lab.output(&id, "echo fine").await, "fine");
    // Whoever watches over the size of logs moves the file away: the flood goes on in a new one.
    let log = lab.log_folder().join("flood.log");
    std::fs::rename(&log, log.with_extension("old")).unwrap();
    let request = cri::ReopenContainerLogRequest { container_id: flood.clone() };
    lab.runtime.reopen_container_log(request).await.unwrap();
    lab.log_until("flood.log", |log| !log.is_empty()).await;
    // Zeros without a line's end come in parts, none longer than 16 KiB.
    let text = lab.log("flood.log");
    let longest = text.lines().map(str::len).max().unwrap();
    assert!(longest < 17 << 10, "{longest}");
    let stop = cri::StopContainerRequest { container_id: flood, timeout: 0 };
    lab.runtime.stop_container(stop).await.unwrap();
    lab.finish().await;
}

/// One container of a pod swaps links in a volume while others that mount below it are made.
#[tokio::test]
async fn links_that_change_lead_no_mount_astray() {
    let Some(mut lab) = Lab::start().await else { return };
    let shared = lab.folder.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let secret = lab.folder.path().join("secret");
    std::fs::create_dir(&secret).unwrap();
    let marker = lab.folder.path().join("node");
    std::fs::create_dir(&marker).unwrap();
    let mount = |target: &str, source: &std::path::Path| cri::Mount {
        container_path: target.into(),
        host_path: source.display().to_string(),
        ..Default::default()
    };
    let pod = lab.sandbox("pod").await;
    let outside = marker.display();
    let swap = format!(
        "cd /shared; while :; do rm -rf a; mkdir a; rm -rf a; ln -s {outside} a; rm -f a; ln -s / a; \
         rm -f a; ln -s /proc a; done"
    );
    let mut config = script("swapper", &swap);
    config.mounts = vec![mount("/shared", &shared)];
    let swapper = lab.run(&pod, config).await;
    let path = lab.folder.path().display().to_string();
    let mounted = || {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().filter(|line| line.contains(&path)).count()
    };
    let before = mounted();
    for round in 0..20 {
        let mut config = script(&format!("victim-{round}"), "sleep 1000");
        config.mounts = vec![mount("/shared", &shared), mount("/shared/a/inner", &secret)];
        // It may fail, as somebody pulls the path away; it may not succeed elsewhere.
        if let Ok(id) = lab.try_create(&pod, config).await
            && lab.start_container(&id).await.is_ok()
        {
            let hidden = lab.exec(&id, &["sh", "-c", "cat /proc/kcore | wc -c"]).await;
            assert_eq!(String::from_utf8_lossy(&hidden.stdout).trim(), "0");
        }
        let left: Vec<_> = std::fs::read_dir(&marker).unwrap().flatten().collect();
        assert!(left.is_empty(), "on the node: {left:?}");
    }
    assert_eq!(mounted(), before);
    let stop = cri::StopContainerRequest { container_id: swapper, timeout: 0 };
    lab.runtime.stop_container(stop).await.unwrap();
    lab.finish().await;
}

/// An image whose /proc is a link would have what is masked looked for elsewhere.
#[tokio::test]
async fn an_image_does_not_decide_where_proc_is() {
    let Some(mut lab) = Lab::start().await else { return };
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "proc", "tmp").unwrap();
    let layers = [tar.into_inner().unwrap()];
    let archive = lab.folder.path().join("odd.tar");
    std::fs::write(
        &archive,
        super::lab::image_archive("example.test/odd:1", &layers, serde_json::json!({})),
    )
    .unwrap();
    agent::runtime::images::import(&lab.folder.path().join("images"), &archive).unwrap();
    let pod = lab.sandbox("pod").await;
    let mut config = script("main", "true");
    config.image.as_mut().unwrap().image = "example.test/odd:1".into();
    let error = lab.try_create(&pod, config).await.unwrap_err();
    assert!(error.message().contains("its /proc is no directory"), "{}", error.message());
    lab.finish().await;
}
