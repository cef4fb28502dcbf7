//! Mounts: propagation, read-only trees, ids, images, links.

use std::path::{Path, PathBuf};

use proto::cri::{self, MountPropagation};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::lab::{IMAGE, Lab, add, image_archive, script};

/// A mount of the test's own, gone with it.
struct Own(PathBuf);

impl Own {
    fn tmpfs(path: &Path, propagation: MountPropagationFlags) -> Own {
        std::fs::create_dir_all(path).unwrap();
        rustix::mount::mount("test", path, "tmpfs", MountFlags::empty(), None).unwrap();
        rustix::mount::mount_change(path, propagation).unwrap();
        Own(path.to_owned())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn mount(target: &str, source: &Path) -> cri::Mount {
    cri::Mount {
        container_path: target.into(),
        host_path: source.display().to_string(),
        ..Default::default()
    }
}

fn image_mount(target: &str, image: &str, inside: &str) -> cri::Mount {
    cri::Mount {
        container_path: target.into(),
        readonly: true,
        image: Some(cri::ImageSpec { image: image.into(), ..Default::default() }),
        image_sub_path: inside.into(),
        ..Default::default()
    }
}

async fn refusal(lab: &mut Lab, pod: &str, mount: cri::Mount) -> String {
    let mut config = script("refused", "true");
    config.mounts = vec![mount];
    lab.try_create(pod, config).await.unwrap_err().message().to_owned()
}

#[tokio::test]
async fn mounts_travel_as_far_as_they_are_told() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let shared = Own::tmpfs(&lab.folder.path().join("shared"), MountPropagationFlags::SHARED);
    let plain = lab.folder.path().join("plain");
    std::fs::create_dir(&plain).unwrap();
    for folder in ["before", "after", "inner"] {
        std::fs::create_dir(shared.0.join(folder)).unwrap();
    }
    let with = |target: &str, propagation: MountPropagation| {
        let mut mount = mount(target, &shared.0);
        mount.propagation = propagation as i32;
        mount
    };
    let mut config = script("main", "sleep 1000");
    super::lab::context(&mut config).privileged = true;
    config.mounts = vec![
        with("/private", MountPropagation::PropagationPrivate),
        with("/down", MountPropagation::PropagationHostToContainer),
        with("/both", MountPropagation::PropagationBidirectional),
    ];
    let id = lab.run(&pod, config).await;
    let pid = lab.pid(&id).await;
    let fields = |target: &str| {
        let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let line = table.lines().find(|line| line.split(' ').nth(4) == Some(target)).unwrap();
        line.split(" - ").next().unwrap().split(' ').skip(6).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(fields("/private"), "");
    assert!(fields("/down").starts_with("master:"), "{}", fields("/down"));
    assert!(fields("/both").starts_with("shared:"), "{}", fields("/both"));

    // What the node mounts later.
    let later = Own::tmpfs(&shared.0.join("after"), MountPropagationFlags::SHARED);
    std::fs::write(later.0.join("file"), "").unwrap();
    let seen = "for i in private down both; do test -e /$i/after/file && echo $i; done; true";
    assert_eq!(lab.output(&id, seen).await, "down\nboth");
    drop(later);
    // What the container mounts.
    lab.output(&id, "mount -t tmpfs none /both/inner; touch /both/inner/file").await;
    assert!(shared.0.join("inner/file").exists());
    lab.output(&id, "mount -t tmpfs none /down/before; touch /down/before/file").await;
    assert!(!shared.0.join("before/file").exists());

    let mut wrong = mount("/data", &plain);
    wrong.propagation = MountPropagation::PropagationBidirectional as i32;
    let told = refusal(&mut lab, &pod, wrong.clone()).await;
    assert!(told.contains("it is not a shared mount"), "{told}");
    wrong.propagation = MountPropagation::PropagationHostToContainer as i32;
    let told = refusal(&mut lab, &pod, wrong).await;
    assert!(told.contains("it is not a shared or slave mount"), "{told}");
    lab.remove_sandbox(&pod).await;
    let _ = rustix::mount::unmount(shared.0.join("inner"), UnmountFlags::DETACH);
    drop(shared);
    lab.finish().await;
}

#[tokio::test]
async fn read_only_goes_as_deep_as_asked() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let data = lab.folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let below = Own::tmpfs(&data.join("below"), MountPropagationFlags::PRIVATE);
    let mut config = script("main", "sleep 1000");
    config.mounts = vec![mount("/top", &data), mount("/all", &data)];
    config.mounts.iter_mut().for_each(|mount| mount.readonly = true);
    config.mounts[1].recursive_read_only = true;
    let id = lab.run(&pod, config).await;
    for (path, writable) in
        [("/top/x", false), ("/top/below/x", true), ("/all/x", false), ("/all/below/x", false)]
    {
        assert_eq!(lab.exec(&id, &["touch", path]).await.exit_code == 0, writable, "{path}");
    }
    let mut config = script("options", "sleep 1000");
    config.mounts = vec![mount("/data", &data)];
    config.mounts[0].mount_options = super::lab::words(&["noexec", "nosuid", "nodev"]);
    let id = lab.run(&pod, config).await;
    lab.output(&id, "cp /bin/busybox /data/busybox").await;
    assert_eq!(lab.exec(&id, &["/bin/busybox", "true"]).await.exit_code, 0);
    let request = cri::ExecSyncRequest {
        container_id: id,
        cmd: super::lab::words(&["/data/busybox", "true"]),
        timeout: 5,
    };
    let error = lab.runtime.exec_sync(request).await.unwrap_err();
    assert!(error.message().contains("permission denied"), "{}", error.message());
    let mut wrong = mount("/data", &data);
    wrong.mount_options = vec!["bind".into()];
    let told = refusal(&mut lab, &pod, wrong).await;
    assert!(told.contains("mount option \"bind\""), "{told}");
    let mut wrong = mount("/data", &data);
    wrong.recursive_read_only = true;
    let told = refusal(&mut lab, &pod, wrong.clone()).await;
    assert!(told.contains("recursive read-only needs readonly"), "{told}");
    wrong.readonly = true;
    wrong.propagation = MountPropagation::PropagationHostToContainer as i32;
    let told = refusal(&mut lab, &pod, wrong).await;
    assert!(told.contains("private propagation"), "{told}");
    drop(below);
    lab.finish().await;
}

#[tokio::test]
async fn a_mount_may_show_other_ids() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let data = lab.folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("file"), "").unwrap();
    std::os::unix::fs::chown(data.join("file"), Some(7), Some(8)).unwrap();
    let range = |host_id| cri::IdMapping { host_id, container_id: 0, length: 1000 };
    let mut config = script("main", "sleep 1000");
    config.mounts = vec![mount("/data", &data), mount("/moved", &data)];
    config.mounts[1].uid_mappings = vec![range(100_000)];
    config.mounts[1].gid_mappings = vec![range(200_000)];
    let id = lab.run(&pod, config).await;
    assert_eq!(lab.output(&id, "stat -c %u:%g /data/file").await, "7:8");
    assert_eq!(lab.output(&id, "stat -c %u:%g /moved/file").await, "100007:200008");
    let mut wrong = mount("/data", &data);
    wrong.uid_mappings = vec![range(1)];
    let told = refusal(&mut lab, &pod, wrong).await;
    assert!(told.contains("gid mappings: none are given"), "{told}");
    lab.finish().await;
}

#[tokio::test]
async fn images_are_read_only_volumes() {
    let Some(mut lab) = Lab::start().await else { return };
    let layer = |files: &[(&str, &str)]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, text) in files {
            add(&mut tar, path, 0o644, text.as_bytes());
        }
        tar.into_inner().unwrap()
    };
    let lower = layer(&[("models/a", "old a"), ("models/b", "b")]);
    let mut upper = tar::Builder::new(Vec::new());
    add(&mut upper, "models/a", 0o644, b"new a");
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    upper.append_link(&mut header, "out", "/../../../../etc").unwrap();
    let upper = upper.into_inner().unwrap();
    let import = |name: &str, layers: &[Vec<u8>]| {
        let archive = lab.folder.path().join("volume.tar");
        std::fs::write(&archive, image_archive(name, layers, serde_json::json!({}))).unwrap();
        agent::runtime::images::import(&lab.folder.path().join("images"), &archive).unwrap();
    };
    import("example.test/models:1", &[lower.clone(), upper]);
    import("example.test/flat:1", &[lower]);
    let pod = lab.sandbox("pod").await;
    let mut config = script("main", "sleep 1000");
    config.mounts = vec![
        image_mount("/whole", "example.test/models:1", ""),
        image_mount("/part", "example.test/models:1", "models"),
        image_mount("/etc/one", "example.test/models:1", "models/b"),
        image_mount("/flat", "example.test/flat:1", "/models/"),
        image_mount("/busy", IMAGE, ""),
    ];
    let id = lab.run(&pod, config).await;
    assert_eq!(
        lab.output(&id, "cat /whole/models/a /whole/models/b /part/a /etc/one /flat/a").await,
        "new abnew abold a"
    );
    assert_eq!(lab.output(&id, "/busy/bin/busybox echo runs").await, "runs");
    for path in ["/whole/x", "/part/a", "/etc/one", "/flat/a", "/busy/bin/sh"] {
        let wrote = lab.exec(&id, &["sh", "-c", &format!("echo x > {path}")]).await;
        assert_ne!(wrote.exit_code, 0, "{path}");
    }
    // In use, it stays although its name goes.
    let remove = cri::RemoveImageRequest {
        image: Some(cri::ImageSpec { image: "example.test/flat:1".into(), ..Default::default() }),
    };
    lab.images.remove_image(remove).await.unwrap();
    assert_eq!(lab.output(&id, "cat /flat/a").await, "old a");

    for (image, inside, expected) in [
        ("example.test/absent:1", "", "not found"),
        ("example.test/models:1", "nothing/there", "nothing/there"),
        // Links of the image lead nowhere but into it.
        ("example.test/models:1", "out/passwd", "out/passwd"),
    ] {
        let told = refusal(&mut lab, &pod, image_mount("/x", image, inside)).await;
        assert!(told.contains(expected), "{told}");
    }
    lab.finish().await;
}

#[tokio::test]
async fn links_in_images_lead_nowhere_else() {
    let Some(mut lab) = Lab::start().await else { return };
    let mut tar = tar::Builder::new(Vec::new());
    let mut link = |path: &str, target: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, path, target).unwrap();
    };
    link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf");
    link("escape", "/../../../../..");
    link("file-link", "etc/passwd");
    link("folder-link", "tmp");
    let layers = [super::lab::busybox_layer(), tar.into_inner().unwrap()];
    let archive = lab.folder.path().join("links.tar");
    std::fs::write(&archive, image_archive("example.test/links:1", &layers, serde_json::json!({})))
        .unwrap();
    agent::runtime::images::import(&lab.folder.path().join("images"), &archive).unwrap();
    let data = lab.folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("file"), "mounted").unwrap();
    // A link as source is resolved on the node.
    std::os::unix::fs::symlink(data.join("file"), lab.folder.path().join("source-link")).unwrap();
    let pod = lab.sandbox("pod").await;
    let mut config = script("main", "sleep 1000");
    config.image.as_mut().unwrap().image = "example.test/links:1".into();
    config.mounts = vec![
        mount("/escape/inside/deep", &data),
        mount("/file-link", &data.join("file")),
        mount("/folder-link", &data),
        mount("/from-link", &lab.folder.path().join("source-link")),
    ];
    let id = lab.run(&pod, config).await;
    assert_eq!(
        lab.output(&id, "cat /inside/deep/file /etc/passwd /tmp/file /from-link").await,
        "mounted".repeat(4)
    );
    assert_eq!(lab.exec(&id, &["cat", "/etc/resolv.conf"]).await.exit_code, 0);
    assert!(!Path::new("/inside").exists());

    for (target, expected) in [
        ("/", "root is its image"),
        ("/proc", "only a proc file system"),
        ("/proc/sys/kernel", "inside /proc"),
        ("relative", "not absolute"),
    ] {
        let told = refusal(&mut lab, &pod, mount(target, &data)).await;
        assert!(told.contains(expected), "{told}");
    }
    lab.finish().await;
}
