//! Images: archives, registries, names, removal.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use proto::cri;
use sha2::Digest;

use super::lab::{IMAGE, Lab, Setup, add, busybox_layer, image_archive, script, skipped};

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

/// A layer over busybox that adds a file and removes another.
fn upper_layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    add(&mut tar, "added", 0o644, b"by the second layer");
    add(&mut tar, "etc/.wh.group", 0o644, b"");
    tar.into_inner().unwrap()
}

/// The blobs of an OCI image, and its manifest: config first, then layers as (media type, bytes).
struct Oci {
    config: Vec<u8>,
    layers: Vec<(&'static str, Vec<u8>)>,
    manifest: Vec<u8>,
}

fn oci_image() -> Oci {
    let (lower, upper) = (busybox_layer(), upper_layer());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&lower).unwrap();
    let layers = vec![
        ("application/vnd.oci.image.layer.v1.tar+gzip", gzip.finish().unwrap()),
        ("application/vnd.oci.image.layer.v1.tar+zstd", zstd::encode_all(&upper[..], 1).unwrap()),
    ];
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Entrypoint": ["sh", "-c"], "Cmd": ["echo from the image $WHO"], "Env": ["WHO=you"], "User": "web" },
        "rootfs": { "type": "layers", "diff_ids": [digest(&lower), digest(&upper)] },
    });
    let config = serde_json::to_vec(&config).unwrap();
    let described: Vec<_> = layers
        .iter()
        .map(|(kind, bytes)| serde_json::json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() }))
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len(),
        },
        "layers": described,
    });
    Oci { config, layers, manifest: serde_json::to_vec(&manifest).unwrap() }
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

async fn status(lab: &mut Lab, name: &str) -> Option<cri::Image> {
    let image = Some(cri::ImageSpec { image: name.to_owned(), ..Default::default() });
    lab.images
        .image_status(cri::ImageStatusRequest { image, verbose: false })
        .await
        .unwrap()
        .into_inner()
        .image
}

async fn remove(lab: &mut Lab, name: &str) {
    let image = Some(cri::ImageSpec { image: name.to_owned(), ..Default::default() });
    lab.images.remove_image(cri::RemoveImageRequest { image }).await.unwrap();
}

/// Runs the image's own command and answers with the log.
async fn runs(lab: &mut Lab, name: &str) -> String {
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

/// Debian's docker-registry on a free port of the loopback.
struct Registry {
    process: Child,
    address: String,
}

impl Registry {
    async fn start(folder: &Path) -> Option<Registry> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let config = folder.join("registry.yml");
        let storage = folder.join("registry").display().to_string();
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {storage}}}}}\nhttp: {{addr: {address}}}\n"
        );
        std::fs::write(&config, text).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(process) = process else {
            eprintln!("SKIPPED: this test needs docker-registry");
            return None;
        };
        for _ in 0..1000 {
            if tokio::net::TcpStream::connect(&address).await.is_ok() {
                return Some(Registry { process, address });
            }
            client::Clock::system().sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("docker-registry does not serve");
    }

    async fn push(&self, repository: &str, tag: &str, image: &Oci) {
        let config = oci_client::client::ClientConfig {
            protocol: oci_client::client::ClientProtocol::Http,
            ..Default::default()
        };
        let client = oci_client::Client::new(config);
        let name = oci_client::Reference::with_tag(
            self.address.clone(),
            repository.to_owned(),
            tag.to_owned(),
        );
        client
            .auth(
                &name,
                &oci_client::secrets::RegistryAuth::Anonymous,
                oci_client::RegistryOperation::Push,
            )
            .await
            .unwrap();
        let layers = image.layers.iter().map(|(_, bytes)| bytes);
        for blob in layers.chain([&image.config]) {
            client.push_blob(&name, blob.clone(), &digest(blob)).await.unwrap();
        }
        let kind = "application/vnd.oci.image.manifest.v1+json".parse().unwrap();
        client.push_manifest_raw(&name, image.manifest.clone(), kind).await.unwrap();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn pull(lab: &mut Lab, name: &str) -> Result<String, tonic::Status> {
    let image = Some(cri::ImageSpec { image: name.to_owned(), ..Default::default() });
    let request = cri::PullImageRequest { image, ..Default::default() };
    Ok(lab.images.pull_image(request).await?.into_inner().image_ref)
}

#[tokio::test]
async fn images_come_from_registries_and_their_mirrors() {
    if skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(registry) = Registry::start(folder.path()).await else { return };
    let image = oci_image();
    registry.push("team/web", "1", &image).await;
    let mirror = format!("mirrored.test=http://{}", registry.address);
    let Some(mut lab) = Lab::start_with(Setup { mirror: Some(mirror), ..Setup::default() }).await
    else {
        return;
    };
    let by_digest = format!("{}/team/web@{}", registry.address, digest(&image.manifest));
    for name in
        [&format!("{}/team/web:1", registry.address), "mirrored.test/team/web:1", &by_digest]
    {
        assert_eq!(pull(&mut lab, name).await.unwrap(), digest(&image.config), "{name}");
        assert!(runs(&mut lab, name).await.contains("from the image you"));
    }
    let known = status(&mut lab, "mirrored.test/team/web:1").await.unwrap();
    assert!(
        known.repo_digests.contains(&format!("mirrored.test/team/web@{}", digest(&image.manifest)))
    );

    let error = pull(&mut lab, "mirrored.test/team/absent:1").await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);
    assert!(
        error.message().contains("mirrored.test/team/absent:1: not found"),
        "{}",
        error.message()
    );
    let error = pull(&mut lab, "127.0.0.1:1/team/web:1").await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unavailable);
    assert!(error.message().contains("failed to reach 127.0.0.1:1"), "{}", error.message());
    let error = pull(&mut lab, "Not A Name").await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    lab.finish().await;
}
