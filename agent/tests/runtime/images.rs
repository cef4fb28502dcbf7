//! Images: archives, registries, names, removal.

use std::path::Path;

use proto::cri;

use super::lab::{IMAGE, Lab, add, busybox_layer, image_archive, script, skipped};
use super::registry::{GZIP, Oci, ZSTD, digest};

/// A layer over busybox that adds a file and removes another.
fn upper_layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    add(&mut tar, "added", 0o644, b"by the second layer");
    add(&mut tar, "etc/.wh.group", 0o644, b"");
    tar.into_inner().unwrap()
}

pub fn oci_image() -> Oci {
    let settings = serde_json::json!({
        "Entrypoint": ["sh", "-c"], "Cmd": ["echo from the image $WHO"], "Env": ["WHO=you"],
        "User": "web",
    });
    Oci::new(&[(GZIP, busybox_layer()), (ZSTD, upper_layer())], settings)
}

/// Writes an OCI layout.
fn layout(folder: &Path, image: &Oci, name: &str) {
    let blobs = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let layers = image.layers.iter().map(|(_, bytes)| bytes);
    for blob in layers.chain([&image.config, &image.manifest]) {
        std::fs::write(blobs.join(digest(blob).trim_start_matches("sha256:")), blob).unwrap();
    }
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(&image.manifest), "size": image.manifest.len(),
        "annotations": { "io.containerd.image.name": name },
    }]});
    std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
    std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

pub async fn status(lab: &mut Lab, name: &str) -> Option<cri::Image> {
    let image = Some(cri::ImageSpec { image: name.to_owned(), ..Default::default() });
    lab.images
        .image_status(cri::ImageStatusRequest { image, verbose: false })
        .await
        .unwrap()
        .into_inner()
        .image
}

pub async fn remove(lab: &mut Lab, name: &str) {
    let image = Some(cri::ImageSpec { image: name.to_owned(), ..Default::default() });
    lab.images.remove_image(cri::RemoveImageRequest { image }).await.unwrap();
}

/// Runs the image's own command and answers with the log.
pub async fn runs(lab: &mut Lab, name: &str) -> String {
    let pod = lab.sandbox("image").await;
    let mut config = script("main", "");
    config.command.clear();
    config.image.as_mut().unwrap().image = name.to_owned();
    let id = lab.run(&pod, config).await;
    assert_eq!(lab.exited(&id).await.exit_code, 0);
    let log = lab.log("main.log");
    lab.remove_sandbox(&pod).await;
    log
}

#[tokio::test]
async fn a_layout_is_known_at_once_to_everyone() {
    let Some(mut lab) = Lab::start().await else { return };
    assert!(status(&mut lab, "my-app").await.is_none());
    let folder = lab.folder.path().join("layout");
    let image = oci_image();
    layout(&folder, &image, "my-app:latest");
    agent::runtime::images::import(&lab.folder.path().join("images"), &folder).unwrap();
    let known = status(&mut lab, "docker.io/library/my-app:latest").await.unwrap();
    assert_eq!(known.repo_tags, ["docker.io/library/my-app:latest"]);
    assert_eq!(
        known.repo_digests,
        [format!("docker.io/library/my-app@{}", digest(&image.manifest))]
    );
    assert_eq!((known.id.clone(), known.username.as_str()), (digest(&image.config), "web"));
    for name in ["my-app", &known.id, &known.id[7..], &known.repo_digests[0]] {
        assert_eq!(status(&mut lab, name).await.unwrap().id, known.id, "{name}");
    }
    assert!(runs(&mut lab, "my-app").await.contains("stdout F from the image you"));

    let pod = lab.sandbox("pod").await;
    let mut config = script("files", "cat /added; ls /etc");
    config.image.as_mut().unwrap().image = "my-app".into();
    let id = lab.run(&pod, config).await;
    lab.exited(&id).await;
    let log = lab.log("files.log");
    assert!(
        log.contains("by the second layer") && log.contains("passwd") && !log.contains("F group"),
        "{log}"
    );

    // What a container uses stays until it goes; shared layers stay for the other image.
    remove(&mut lab, "my-app").await;
    remove(&mut lab, "my-app").await;
    assert!(status(&mut lab, "my-app").await.is_none());
    let layers = || {
        let entries = std::fs::read_dir(lab.folder.path().join("images/layers")).unwrap().flatten();
        entries.filter(|entry| entry.path().is_dir()).count()
    };
    assert_eq!(layers(), 2);
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: pod };
    lab.runtime.remove_pod_sandbox(request).await.unwrap();
    let again = lab.folder.path().join("image.tar");
    agent::runtime::images::import(&lab.folder.path().join("images"), &again).unwrap();
    assert_eq!(layers(), 1);
    assert!(status(&mut lab, IMAGE).await.is_some());
    let filesystem =
        lab.images.image_fs_info(cri::ImageFsInfoRequest {}).await.unwrap().into_inner();
    assert!(filesystem.image_filesystems[0].used_bytes.unwrap().value > 1 << 20);
    lab.finish().await;
}

#[test]
fn broken_archives_are_refused() {
    if skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (root, file) = (folder.path().join("images"), folder.path().join("image"));
    let message = |error: agent::runtime::images::ImageError| {
        use std::error::Error;
        format!("{error}: {:?}", error.source())
    };
    let mut tar = tar::Builder::new(Vec::new());
    add(&mut tar, "hello", 0o644, b"");
    std::fs::write(&file, tar.into_inner().unwrap()).unwrap();
    let error = message(agent::runtime::images::import(&root, &file).unwrap_err());
    assert!(error.contains("neither index.json nor manifest.json"), "{error}");

    let mut bytes = image_archive(IMAGE, &[upper_layer()], serde_json::json!({}));
    let at = bytes.windows(6).position(|window| window == b"second").unwrap();
    bytes[at] = b'S';
    std::fs::write(&file, bytes).unwrap();
    let error = message(agent::runtime::images::import(&root, &file).unwrap_err());
    assert!(error.contains("instead of sha256:"), "{error}");

    let image = oci_image();
    let broken = folder.path().join("layout");
    layout(&broken, &image, "x");
    let blob =
        broken.join("blobs/sha256").join(digest(&image.manifest).trim_start_matches("sha256:"));
    std::fs::write(blob, b"{}").unwrap();
    let error = message(agent::runtime::images::import(&root, &broken).unwrap_err());
    assert!(error.contains("instead of sha256:"), "{error}");
    let left: Vec<_> = std::fs::read_dir(root.join("new")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_is_saved_is_what_was_loaded() {
    if skipped() {
        return;
    }
    use agent::runtime::images::{ImageStore, import, save};
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let image = oci_image();
    let source = folder.path().join("layout");
    layout(&source, &image, "reg.test/web:1");
    import(&first, &source).unwrap();
    let store = ImageStore::open(&first).unwrap();
    let archive = folder.path().join("saved.tar");
    let names = ["reg.test/web:1".to_owned(), digest(&image.config)];
    save(&store, &names, std::fs::File::create(&archive).unwrap()).unwrap();
    let loaded = import(&second, &archive).unwrap();
    assert_eq!((loaded.len(), loaded[0].id.as_str()), (1, digest(&image.config).as_str()));
    assert_eq!(loaded[0].tags, ["reg.test/web:1"]);
    let missing = save(&store, &["reg.test/absent:1".to_owned()], Vec::new()).unwrap_err();
    assert!(missing.to_string().contains("no such image"), "{missing}");

    // One name of two goes, then the image; what a container has stays until it goes.
    store.add_names(&loaded[0].id, &["reg.test/other:2".to_owned()]).unwrap();
    assert_eq!(store.untag("reg.test/web:1").unwrap().unwrap(), ["reg.test/other:2"]);
    assert!(store.find("reg.test/other:2").unwrap().is_some());
    let holder = folder.path().join("holder");
    std::fs::write(&holder, "").unwrap();
    store.pin("container", &loaded[0].id, &holder).unwrap();
    let now = client::Clock::system().now();
    assert_eq!(store.prune(now).unwrap().images.len(), 0);
    let before = store.usage().unwrap();
    store.unpin("container").unwrap();
    let freed = store.prune(now).unwrap();
    assert_eq!(freed.images.len(), 1);
    let after = store.usage().unwrap();
    assert!(freed.bytes > 1 << 20 && after.bytes + (1 << 20) < before.bytes, "{freed:?} {after:?}");
    assert_eq!(std::fs::read_dir(first.join("layers")).unwrap().count(), 0);
}

#[test]
fn what_a_dead_process_left_is_swept_away() {
    if skipped() {
        return;
    }
    use agent::runtime::images::ImageStore;
    let folder = tempfile::tempdir().unwrap();
    let store = ImageStore::open(folder.path()).unwrap();
    std::fs::create_dir_all(folder.path().join("new/4711-0/root/deep")).unwrap();
    let part = folder.path().join("downloads").join("a".repeat(64));
    std::fs::write(&part, "half").unwrap();
    let lone = folder.path().join("layers/AAAAAAAAAAAAAAAAAAAAAA");
    std::fs::create_dir(&lone).unwrap();
    std::fs::write(lone.with_extension("json"), "{}").unwrap();
    let now = client::Clock::system().now();
    store.sweep(now).unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("new")).unwrap().count(), 0);
    assert!(part.exists() && lone.exists(), "a pull may still come back for them");
    store.sweep(now.plus(std::time::Duration::from_secs(25 * 3600))).unwrap();
    assert!(!part.exists() && !lone.exists());
    assert_eq!(std::fs::read_dir(folder.path().join("layers")).unwrap().count(), 0);
}

#[tokio::test]
async fn images_are_shown_in_full() {
    let Some(mut lab) = Lab::start().await else { return };
    let folder = lab.folder.path().join("layout");
    let image = oci_image();
    layout(&folder, &image, "my-app:latest");
    agent::runtime::images::import(&lab.folder.path().join("images"), &folder).unwrap();
    let spec = |name: &str| Some(cri::ImageSpec { image: name.to_owned(), ..Default::default() });
    let request = cri::ImageStatusRequest { image: spec("my-app"), verbose: true };
    let status = lab.images.image_status(request).await.unwrap().into_inner();
    let info: serde_json::Value = serde_json::from_str(&status.info["info"]).unwrap();
    assert_eq!(info["imageSpec"]["config"]["User"], "web");
    assert!(info["chainID"].as_str().unwrap().starts_with("sha256:"), "{info}");
    let count = async |lab: &mut Lab, name: &str| {
        let filter = Some(cri::ImageFilter { image: spec(name) });
        let request = cri::ListImagesRequest { filter };
        lab.images.list_images(request).await.unwrap().into_inner().images.len()
    };
    assert_eq!(count(&mut lab, "").await, 2);
    assert_eq!(count(&mut lab, "docker.io/library/my-app:latest").await, 1);
    assert_eq!(count(&mut lab, "my-app:other").await, 0);
    let request = cri::StreamImagesRequest::default();
    let mut stream = lab.images.stream_images(request).await.unwrap().into_inner();
    let mut streamed = 0;
    while let Some(part) = stream.message().await.unwrap() {
        streamed += part.images.len();
    }
    assert_eq!(streamed, 2);
    lab.finish().await;
}

#[tokio::test]
async fn unused_images_make_room() {
    use agent::images::garbage::{Collector, Error, Memory, Policy};
    let Some(mut lab) = Lab::start().await else { return };
    let folder = lab.folder.path().join("layout");
    layout(&folder, &oci_image(), "my-app:latest");
    agent::runtime::images::import(&lab.folder.path().join("images"), &folder).unwrap();
    let pod = lab.sandbox("pod").await;
    lab.run(&pod, script("main", "sleep 1000")).await;
    let endpoint = format!("unix://{}", lab.folder.path().join("cri.sock").display());
    let runtime =
        agent::cri::grpc::Grpc::new(&endpoint, Default::default(), client::Clock::system())
            .unwrap();
    // On whatever disk, more is wanted than there are images: all go that no container has.
    let policy =
        |high| Policy { high, low: 0, minimum_age: std::time::Duration::ZERO, maximum_age: None };
    let clock = lab.clock.clone();
    let mut memory = Memory::new(clock.now());
    let collector =
        |high| Collector { runtime: &runtime, clock: &clock, policy: policy(high), records: None };
    collector(100).once(&mut memory).await.unwrap();
    assert!(status(&mut lab, "my-app").await.is_some());
    let error = collector(1).once(&mut memory).await.unwrap_err();
    assert!(matches!(error, Error::TooLittle { freed: 1.., .. }), "{error}");
    assert!(status(&mut lab, "my-app").await.is_none());
    assert!(status(&mut lab, IMAGE).await.is_some());
    lab.finish().await;
}
