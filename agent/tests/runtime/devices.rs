//! Which devices containers may use, whatever nodes they have.

use proto::cri;

use super::lab::{Lab, context, script, words};

fn device(host: &str, inside: &str, permissions: &str) -> cri::Device {
    cri::Device {
        host_path: host.into(),
        container_path: inside.into(),
        permissions: permissions.into(),
    }
}

#[tokio::test]
async fn devices_are_used_as_far_as_asked() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let mut config = script("main", "sleep 1000");
    // Full answers every write with ENOSPC, every read with zeros.
    config.devices =
        vec![device("/dev/full", "/dev/mine", "r"), device("/dev/kmsg", "/dev/log/k", "rw")];
    let id = lab.run(&pod, config).await;
    assert_eq!(
        lab.output(&id, "head -c 3 /dev/mine | wc -c; stat -c %F /dev/log/k").await,
        "3\ncharacter special file"
    );
    for (name, letters, path) in [
        ("permissions", "x", "/dev/full"),
        ("file", "r", "/etc/passwd"),
        ("none", "r", "/dev/none"),
    ] {
        let mut config = script(name, "true");
        config.devices = vec![device(path, path, letters)];
        let error = lab.try_create(&pod, config).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument, "{}", error.message());
    }
    lab.finish().await;
}

/// With CAP_SYS_ADMIN a container can mount where nodes open: then only the rules are between it and
/// the node's devices.
#[tokio::test]
async fn rules_hold_where_mounts_do_not() {
    if !std::path::Path::new("/dev/fuse").exists() {
        eprintln!("SKIPPED: this test needs /dev/fuse, a device that no container has by default");
        return;
    }
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let admin = |name: &str| {
        let mut config = script(name, "sleep 1000");
        context(&mut config).capabilities = Some(cri::Capability {
            add_capabilities: words(&["SYS_ADMIN", "MKNOD"]),
            ..Default::default()
        });
        config
    };
    let try_nodes = "mkdir -p /n; mount -t tmpfs none /n; mknod /n/fuse c 10 229; mknod /n/null c 1 3; \
        mknod /n/zero c 1 5; head -c 1 /n/zero | wc -c; echo x > /n/null && echo null; \
        exec 3</n/fuse && echo fuse";
    let plain = lab.run(&pod, admin("plain")).await;
    let told = lab.exec(&plain, &["sh", "-c", try_nodes]).await;
    assert_eq!(String::from_utf8_lossy(&told.stdout), "1\nnull\n");
    assert!(String::from_utf8_lossy(&told.stderr).contains("not permitted"), "{told:?}");
    // Read only, as the rule says.
    let mut config = admin("reader");
    config.devices = vec![device("/dev/fuse", "/dev/fuse", "r")];
    let reader = lab.run(&pod, config).await;
    let told = lab.exec(&reader, &["sh", "-c", try_nodes]).await;
    assert_eq!(String::from_utf8_lossy(&told.stdout), "1\nnull\nfuse\n");
    let wrote = lab.exec(&reader, &["sh", "-c", "exec 3>/n/fuse"]).await;
    assert_ne!(wrote.exit_code, 0);
    // All of the node's.
    let mut config = script("strong", "sleep 1000");
    context(&mut config).privileged = true;
    let strong = lab.run(&pod, config).await;
    let told = lab.exec(&strong, &["sh", "-c", try_nodes]).await;
    assert_eq!(String::from_utf8_lossy(&told.stdout), "1\nnull\nfuse\n");
    lab.finish().await;
}
