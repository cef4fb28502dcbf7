//! Images from registries: who may have them, where else they come from, and what happens when the
//! way is bad.

use std::path::Path;
use std::sync::atomic::Ordering;

use proto::cri;

use super::images::{oci_image, runs, status};
use super::lab::{Lab, Setup, add, busybox_layer, skipped};
use super::registry::{
    GZIP, Guard, Oci, PASSWORD, Proxy, Registry, TAR, USER, architecture, digest,
};

async fn pull(lab: &mut Lab, name: &str) -> Result<String, tonic::Status> {
    pull_as(lab, name, cri::AuthConfig::default()).await
}

async fn pull_as(
    lab: &mut Lab,
    name: &str,
    auth: cri::AuthConfig,
) -> Result<String, tonic::Status> {
    let image = Some(cri::ImageSpec { image: name.to_owned(), ..Default::default() });
    let request = cri::PullImageRequest { image, auth: Some(auth), ..Default::default() };
    Ok(lab.images.pull_image(request).await?.into_inner().image_ref)
}

fn password(password: &str) -> cri::AuthConfig {
    cri::AuthConfig { username: USER.into(), password: password.into(), ..Default::default() }
}

/// `certs.d/HOST/hosts.toml`.
fn hosts(folder: &Path, host: &str, text: &str) {
    let folder = folder.join("certs.d").join(host);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("hosts.toml"), text).unwrap();
}

async fn lab(folder: &Path) -> Option<Lab> {
    let registries = Some(folder.join("certs.d"));
    Lab::start_with(Setup { registries, ..Setup::default() }).await
}

/// Nothing is left of pulls, and no layer that no image has but the lab's own.
fn nothing_left(lab: &Lab, layers: usize) {
    let images = lab.folder.path().join("images");
    let count = |folder: &str| std::fs::read_dir(images.join(folder)).unwrap().count();
    assert_eq!((count("new"), count("downloads")), (0, 0));
    let folders = std::fs::read_dir(images.join("layers")).unwrap().flatten();
    assert_eq!(folders.filter(|entry| entry.path().is_dir()).count(), layers);
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let rng = client::Rng::seeded(7);
    let mut bytes = vec![0; length];
    rng.fill(&mut bytes);
    bytes
}

fn layer_of(path: &str, bytes: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    add(&mut tar, path, 0o644, bytes);
    tar.into_inner().unwrap()
}

/// Of busybox and one layer of noise.
fn big_image(length: usize) -> Oci {
    let settings = serde_json::json!({ "Cmd": ["sh", "-c", "wc -c < /noise"] });
    Oci::new(&[(GZIP, busybox_layer()), (TAR, layer_of("noise", &noise(length)))], settings)
}

#[tokio::test]
async fn images_come_from_registries_and_their_mirrors() {
    if skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(registry) = Registry::start(folder.path(), Guard::default()).await else { return };
    let image = oci_image();
    registry.push("team/web", "1", &image).await;
    let mirror = format!("mirrored.test=http://{}", registry.address);
    let setup = Setup { mirror: Some(mirror), ..Setup::default() };
    let Some(mut lab) = Lab::start_with(setup).await else { return };
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
    assert_eq!(error.code(), tonic::Code::Unknown);
    let message = error.message();
    assert!(message.starts_with("failed to pull and unpack image"), "{message}");
    assert!(message.contains("failed to reach 127.0.0.1:1"), "{message}");
    let error = pull(&mut lab, "Not A Name").await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    lab.finish().await;
}

#[tokio::test]
async fn private_images_need_the_password_and_the_authority() {
    if skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let guard = Guard { tls: true, private: true, ..Guard::default() };
    let Some(registry) = Registry::start(folder.path(), guard).await else { return };
    let image = oci_image();
    registry.push("team/web", "1", &image).await;
    let ca = folder.path().join("ca.pem");
    let server = format!("server = \"https://{}\"\n", registry.address);
    hosts(folder.path(), "reg.test", &format!("{server}ca = {ca:?}\n"));
    hosts(folder.path(), "careless.test", &format!("{server}skip_verify = true\n"));
    hosts(folder.path(), "strict.test", &server);
    hosts(folder.path(), "odd.test", &format!("{server}skip_verfy = true\n"));
    let Some(mut lab) = lab(folder.path()).await else { return };

    let error = pull(&mut lab, "reg.test/team/web:1").await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::PermissionDenied);
    assert!(error.message().contains("pull access denied"), "{}", error.message());
    let error = pull_as(&mut lab, "reg.test/team/web:1", password("wrong")).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::PermissionDenied, "{}", error.message());
    let elsewhere = cri::AuthConfig { server_address: "quay.test".into(), ..password(PASSWORD) };
    let error = pull_as(&mut lab, "reg.test/team/web:1", elsewhere).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::PermissionDenied, "{}", error.message());
    nothing_left(&lab, 1);

    let error = pull_as(&mut lab, "strict.test/team/web:1", password(PASSWORD)).await.unwrap_err();
    assert!(error.message().contains("invalid peer certificate"), "{}", error.message());
    let error = pull_as(&mut lab, "odd.test/team/web:1", password(PASSWORD)).await.unwrap_err();
    assert!(error.message().contains("skip_verfy"), "{}", error.message());

    let id = digest(&image.config);
    for name in ["reg.test/team/web:1", "careless.test/team/web:1"] {
        assert_eq!(pull_as(&mut lab, name, password(PASSWORD)).await.unwrap(), id);
    }
    let known = status(&mut lab, "reg.test/team/web:1").await.unwrap();
    assert_eq!(known.repo_tags, ["careless.test/team/web:1", "reg.test/team/web:1"]);
    // It is there now, and still not everybody's.
    let error = pull(&mut lab, "reg.test/team/web:1").await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::PermissionDenied);
    lab.finish().await;
}

#[tokio::test]
async fn registries_may_ask_for_certificates_and_tokens() {
    if skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let guard = Guard { tls: true, client_certificates: true, ..Guard::default() };
    let Some(registry) = Registry::start(folder.path(), guard).await else { return };
    let image = oci_image();
    registry.push("x", "1", &image).await;
    let ca = format!(
        "server = \"https://{}\"\nca = {:?}\n",
        registry.address,
        folder.path().join("ca.pem")
    );
    let client = format!(
        "client = [[{:?}, {:?}]]\n",
        folder.path().join("client.pem"),
        folder.path().join("client.key")
    );
    hosts(folder.path(), "nobody.test", &ca);
    hosts(folder.path(), "somebody.test", &format!("{ca}{client}"));
    let plain = tempfile::tempdir().unwrap();
    let Some(open) = Registry::start(plain.path(), Guard::default()).await else { return };
    open.push("x", "1", &image).await;
    let proxy = Proxy::start(&open.address, true).await;
    let Some(mut lab) = lab(folder.path()).await else { return };

    let id = digest(&image.config);
    let error = pull(&mut lab, "nobody.test/x:1").await.unwrap_err();
    assert!(error.message().contains("failed to reach"), "{}", error.message());
    assert_eq!(pull(&mut lab, "somebody.test/x:1").await.unwrap(), id);

    let name = format!("{}/x:1", proxy.address);
    for auth in [cri::AuthConfig::default(), password("wrong")] {
        let error = pull_as(&mut lab, &name, auth).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::PermissionDenied, "{}", error.message());
    }
    let identity = cri::AuthConfig { identity_token: PASSWORD.into(), ..Default::default() };
    let bearer =
        cri::AuthConfig { registry_token: "a-token-for-one-pull".into(), ..Default::default() };
    for auth in [password(PASSWORD), identity, bearer] {
        assert_eq!(pull_as(&mut lab, &name, auth).await.unwrap(), id);
    }
    lab.finish().await;
}

#[tokio::test]
async fn what_is_corrupt_is_refused_and_fetched_again() {
    if skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(registry) = Registry::start(folder.path(), Guard::default()).await else { return };
    let image = big_image(100_000);
    registry.push("x", "1", &image).await;
    let proxy = Proxy::start(&registry.address, false).await;
    let Some(mut lab) = lab(folder.path()).await else { return };
    let name = format!("{}/x:1", proxy.address);

    proxy.state.corrupt.store(1000, Ordering::Relaxed);
    let error = pull(&mut lab, &name).await.unwrap_err();
    assert!(error.message().contains("instead of sha256:"), "{}", error.message());
    assert!(status(&mut lab, &name).await.is_none());
    nothing_left(&lab, 1);

    // A document is not fetched twice from one host; a layer is, where it was wrong once.
    proxy.state.corrupt.store(1, Ordering::Relaxed);
    let error = pull(&mut lab, &name).await.unwrap_err();
    assert!(error.message().contains("the configuration has digest"), "{}", error.message());
    pull_lower_first(&mut lab, &registry, &proxy).await;
    *proxy.state.spared.lock() = digest(&image.config);
    proxy.state.corrupt.store(1, Ordering::Relaxed);
    assert_eq!(pull(&mut lab, &name).await.unwrap(), digest(&image.config));
    assert!(proxy.gets(&digest(&image.layers[1].1)) >= 2);
    assert!(runs(&mut lab, &name).await.contains("stdout F 100000"));
    lab.finish().await;
}

#[tokio::test]
async fn a_pull_goes_on_where_it_broke_off() {
    if skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(mut registry) = Registry::start(folder.path(), Guard::default()).await else { return };
    let image = big_image(8 << 20);
    registry.push("x", "1", &image).await;
    let proxy = Proxy::start(&registry.address, false).await;
    let Some(mut lab) = lab(folder.path()).await else { return };
    let (name, id) = (format!("{}/x:1", proxy.address), digest(&image.config));
    let layer = digest(&image.layers[1].1);
    let whole: u64 = image.layers.iter().map(|(_, bytes)| bytes.len() as u64).sum();

    // The registry dies in the middle of the layer, and the pull with it.
    pull_lower_first(&mut lab, &registry, &proxy).await;
    *proxy.state.spared.lock() = digest(&image.config);
    *proxy.state.cut.lock() = vec![3 << 20];
    let cut = async {
        while !proxy.state.cut.lock().is_empty() {
            client::Clock::system().sleep(std::time::Duration::from_millis(2)).await;
        }
        registry.stop();
    };
    let (result, ()) = tokio::join!(pull(&mut lab, &name), cut);
    let error = result.unwrap_err();
    assert!(error.message().starts_with("RegistryUnavailable"), "{}", error.message());
    assert!(status(&mut lab, &name).await.is_none());

    // It comes back, and so does a runtime that was killed meanwhile.
    lab.kill();
    registry.restart().await;
    lab.revive().await;
    proxy.state.bytes.store(0, Ordering::Relaxed);
    assert_eq!(pull(&mut lab, &name).await.unwrap(), id);
    let ranges = proxy.ranges(&layer);
    let resumed = ranges.last().unwrap().as_deref().unwrap_or_default();
    let kept = resumed.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
    let kept: u64 = kept.and_then(|from| from.parse().ok()).unwrap_or_default();
    // How much arrived before the end is a matter of chance; nothing of it is fetched again.
    assert!(kept > 0, "{ranges:?}");
    let rest = proxy.state.bytes.load(Ordering::Relaxed);
    assert!(rest + kept < whole + (64 << 10), "{rest} of {whole} were fetched beside {kept}");
    assert!(runs(&mut lab, &name).await.contains(&format!("stdout F {}", 8 << 20)));
    nothing_left(&lab, 2);
    lab.finish().await;
}

/// An image of the lower layer alone: what goes wrong afterwards is the upper one.
async fn pull_lower_first(lab: &mut Lab, registry: &Registry, proxy: &Proxy) {
    let lower = Oci::new(&[(GZIP, busybox_layer())], serde_json::json!({}));
    registry.push("lower", "1", &lower).await;
    pull(lab, &format!("{}/lower:1", proxy.address)).await.unwrap();
    proxy.state.seen.lock().clear();
}

#[tokio::test]
async fn a_connection_that_breaks_costs_only_what_was_lost() {
    if skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(registry) = Registry::start(folder.path(), Guard::default()).await else { return };
    let image = Oci::new(&[(TAR, layer_of("noise", &noise(4 << 20)))], serde_json::json!({}));
    registry.push("x", "1", &image).await;
    let proxy = Proxy::start(&registry.address, false).await;
    let Some(mut lab) = lab(folder.path()).await else { return };
    *proxy.state.spared.lock() = digest(&image.config);
    *proxy.state.cut.lock() = vec![1 << 20; 3];
    let name = format!("{}/x:1", proxy.address);
    assert_eq!(pull(&mut lab, &name).await.unwrap(), digest(&image.config));
    let ranges = proxy.ranges(&digest(&image.layers[0].1));
    assert_eq!(ranges.len(), 4, "{ranges:?}");
    assert_eq!(ranges[0], None);
    assert!(ranges[1..].iter().all(Option::is_some), "{ranges:?}");
    lab.finish().await;
}

#[tokio::test]
async fn ten_pulls_at_once_are_one_download() {
    if skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(registry) = Registry::start(folder.path(), Guard::default()).await else { return };
    let image = big_image(1 << 20);
    // Another image with the same layers.
    let twin = Oci::new(
        &[(GZIP, busybox_layer()), (TAR, layer_of("noise", &noise(1 << 20)))],
        serde_json::json!({ "Cmd": ["true"] }),
    );
    registry.push("x", "1", &image).await;
    registry.push("twin", "1", &twin).await;
    let proxy = Proxy::start(&registry.address, false).await;
    let Some(lab) = lab(folder.path()).await else { return };
    let pulls = (0..10).map(|number| {
        let repository = if number % 2 == 0 { "x" } else { "twin" };
        let image = format!("{}/{repository}:1", proxy.address);
        let image = Some(cri::ImageSpec { image, ..Default::default() });
        let request = cri::PullImageRequest { image, ..Default::default() };
        let mut images = lab.images.clone();
        async move { images.pull_image(request).await.unwrap().into_inner().image_ref }
    });
    let ids = futures::future::join_all(pulls).await;
    assert!(ids.iter().step_by(2).all(|id| *id == digest(&image.config)), "{ids:?}");
    assert!(ids.iter().skip(1).step_by(2).all(|id| *id == digest(&twin.config)), "{ids:?}");
    // The lower layer is the lab's own; the other came once for both images.
    assert_eq!(proxy.gets(&digest(&image.layers[1].1)), 1);
    nothing_left(&lab, 2);
    lab.finish().await;
}

#[tokio::test]
async fn mirrors_come_first_and_the_server_when_they_fail() {
    if skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(registry) = Registry::start(folder.path(), Guard::default()).await else { return };
    let image = oci_image();
    registry.push("team/web", "1", &image).await;
    let cache = tempfile::tempdir().unwrap();
    let Some(mirror) = Registry::start(cache.path(), Guard::default()).await else { return };
    mirror.push("team/web", "1", &image).await;
    let (origin, first) =
        (Proxy::start(&registry.address, false).await, Proxy::start(&mirror.address, false).await);
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://127.0.0.1:1\"]\n[host.\"http://{}\"]\n",
        origin.address, first.address
    );
    hosts(folder.path(), "_default", &text);
    let Some(mut lab) = lab(folder.path()).await else { return };
    let id = digest(&image.config);
    assert_eq!(pull(&mut lab, "any.test/team/web:1").await.unwrap(), id);
    assert_eq!(origin.state.seen.lock().len(), 0, "the mirror has it");
    assert_eq!(first.gets(&digest(&image.layers[1].1)), 1);

    // What the mirror has not, or has wrongly, comes from the server.
    let other = Oci::new(&[(TAR, layer_of("noise", &noise(100)))], serde_json::json!({}));
    registry.push("other", "1", &other).await;
    assert_eq!(pull(&mut lab, "any.test/other:1").await.unwrap(), digest(&other.config));
    let third = Oci::new(&[(TAR, layer_of("noise", &noise(200)))], serde_json::json!({}));
    registry.push("third", "1", &third).await;
    mirror.push("third", "1", &third).await;
    first.state.corrupt.store(u32::MAX, Ordering::Relaxed);
    assert_eq!(pull(&mut lab, "any.test/third:1").await.unwrap(), digest(&third.config));
    assert!(origin.gets(&digest(&third.layers[0].1)) >= 1);
    lab.finish().await;
}

#[tokio::test]
async fn the_right_image_of_an_index_is_taken() {
    if skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(registry) = Registry::start(folder.path(), Guard::default()).await else { return };
    let image = oci_image();
    let other = Oci::new(&[(TAR, layer_of("other", b"x"))], serde_json::json!({}));
    registry.push("multi", "ours", &image).await;
    registry.push("multi", "other", &other).await;
    let entry = |image: &Oci, architecture: &str| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&image.manifest), "size": image.manifest.len(),
            "platform": { "os": "linux", "architecture": architecture },
        })
    };
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry(&other, "s390x"), entry(&image, architecture())],
    });
    let list = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
        "manifests": [entry(&other, "s390x")],
    });
    let index = serde_json::to_vec(&index).unwrap();
    registry.push_manifest("multi", "1", &index).await;
    registry.push_manifest("multi", "foreign", &serde_json::to_vec(&list).unwrap()).await;
    let Some(mut lab) = lab(folder.path()).await else { return };
    let name = |tag: &str| format!("{}/multi:{tag}", registry.address);
    assert_eq!(pull(&mut lab, &name("1")).await.unwrap(), digest(&image.config));
    let known = status(&mut lab, &name("1")).await.unwrap();
    let by_digest = format!("{}/multi@{}", registry.address, digest(&index));
    assert_eq!(known.repo_digests, std::slice::from_ref(&by_digest));
    assert_eq!(pull(&mut lab, &by_digest).await.unwrap(), digest(&image.config));
    let error = pull(&mut lab, &name("foreign")).await.unwrap_err();
    assert!(error.message().contains("no image for linux/"), "{}", error.message());
    lab.finish().await;
}

#[tokio::test]
async fn images_have_as_many_layers_as_docker_allows() {
    if skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(registry) = Registry::start(folder.path(), Guard::default()).await else { return };
    let mut layers = vec![(GZIP, busybox_layer())];
    for number in 1..127 {
        // Each hides the file of the one before, and none mentions the directory.
        let mut tar = tar::Builder::new(Vec::new());
        add(&mut tar, &format!("tmp/{number}"), 0o644, b"x");
        if number > 1 {
            add(&mut tar, &format!("tmp/.wh.{}", number - 1), 0o644, b"");
        }
        layers.push((GZIP, tar.into_inner().unwrap()));
    }
    let command = "ls /tmp; stat -c %a /tmp";
    let image = Oci::new(&layers, serde_json::json!({ "Cmd": ["sh", "-c", command] }));
    registry.push("deep", "1", &image).await;
    let Some(mut lab) = lab(folder.path()).await else { return };
    let name = format!("{}/deep:1", registry.address);
    pull(&mut lab, &name).await.unwrap();
    let log = runs(&mut lab, &name).await;
    let lines: Vec<&str> = log.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(lines, ["126", "1777"], "{log}");
    lab.finish().await;
}

/// How many files a layer of the test has; a million, which `cargo xtask soak` asks for, take minutes
/// instead of seconds.
fn many() -> usize {
    let asked = std::env::var("CORACLE_MANY_FILES").ok();
    asked.map_or(20_000, |number| number.parse().expect("CORACLE_MANY_FILES is a number"))
}

#[tokio::test]
async fn many_files_take_little_memory() {
    if skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(registry) = Registry::start(folder.path(), Guard::default()).await else { return };
    let many = many();
    let mut tar = tar::Builder::new(Vec::new());
    for number in 0..many {
        add(&mut tar, &format!("data/{}/{number}", number / 1000), 0o644, b"");
    }
    let layers = [(GZIP, busybox_layer()), (GZIP, tar.into_inner().unwrap())];
    let command = "ls -R /data | grep -c '^[0-9]'";
    let image = Oci::new(&layers, serde_json::json!({ "Cmd": ["sh", "-c", command] }));
    registry.push("many", "1", &image).await;
    let Some(mut lab) = lab(folder.path()).await else { return };
    let name = format!("{}/many:1", registry.address);
    pull(&mut lab, &name).await.unwrap();
    let peak = std::fs::read_to_string(format!("/proc/{}/status", lab.process_id())).unwrap();
    let peak = peak.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 200 * 1024, "the runtime took {peak} KiB for {many} files");
    let shown = many + many.div_ceil(1000);
    assert!(runs(&mut lab, &name).await.contains(&format!("stdout F {shown}")));
    let info = lab.images.image_fs_info(cri::ImageFsInfoRequest {}).await.unwrap().into_inner();
    let inodes = info.image_filesystems[0].inodes_used.unwrap().value;
    assert!(inodes > many as u64, "{inodes}");
    lab.finish().await;
}

/// 2 GB take minutes in a debug build: `cargo xtask soak` pulls them in a release build.
#[tokio::test]
async fn an_image_of_two_gigabytes() {
    if skipped() {
        return;
    }
    if std::env::var_os("CORACLE_BIG_IMAGE").is_none() {
        eprintln!("SKIPPED: this test takes long; cargo xtask soak runs it (CORACLE_BIG_IMAGE=1)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(registry) = Registry::start(folder.path(), Guard::default()).await else { return };
    let block = noise(1 << 20);
    let mut tar = tar::Builder::new(Vec::new());
    for number in 0..2048 {
        add(&mut tar, &format!("big/{number}"), 0o644, &block);
    }
    let layers = [(GZIP, busybox_layer()), (TAR, tar.into_inner().unwrap())];
    let image = Oci::new(&layers, serde_json::json!({ "Cmd": ["sh", "-c", "cat /big/* | wc -c"] }));
    registry.push("big", "1", &image).await;
    let Some(mut lab) = lab(folder.path()).await else { return };
    let name = format!("{}/big:1", registry.address);
    pull(&mut lab, &name).await.unwrap();
    assert!(runs(&mut lab, &name).await.contains(&format!("stdout F {}", 2u64 << 30)));
    lab.finish().await;
}
