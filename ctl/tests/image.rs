//! The images of a machine, with the program as its user calls it. Needs root; says so and passes
//! without.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use client::Clock;

fn ctl(folder: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ctl"))
        .args(words)
        .env("CORACLE_STATE_DIR", folder.join("state"))
        .env("DOCKER_CONFIG", folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What a command that must succeed printed.
fn said(folder: &Path, words: &[&str]) -> String {
    let output = ctl(folder, words);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ctl {words:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn file(tar: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, path, bytes).unwrap();
}

/// A `docker save` archive of one layer of one file, which begins like this.
fn archive(path: &Path, name: &str, content: &str) {
    let mut layer = tar::Builder::new(Vec::new());
    file(&mut layer, "file", content.repeat(10_000).as_bytes());
    let layer = layer.into_inner().unwrap();
    let folder = path.with_extension("layer");
    std::fs::write(&folder, &layer).unwrap();
    let digest = Command::new("sha256sum").arg(&folder).output().unwrap().stdout;
    let digest = String::from_utf8(digest).unwrap()[..64].to_owned();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/file"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest = serde_json::json!([
        { "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }
    ]);
    let mut tar = tar::Builder::new(Vec::new());
    file(&mut tar, "layer.tar", &layer);
    file(&mut tar, "config.json", config.to_string().as_bytes());
    file(&mut tar, "manifest.json", manifest.to_string().as_bytes());
    std::fs::write(path, tar.into_inner().unwrap()).unwrap();
}

fn lines(table: &str) -> Vec<Vec<String>> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    table.lines().map(words).collect()
}

fn skipped() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root to unpack images");
    }
    !root
}

#[test]
fn images_come_and_go() {
    if skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (one, two) = (path.join("one.tar"), path.join("two.tar"));
    archive(&one, "one:1", "one");
    archive(&two, "reg.test/two:2", "two");
    assert_eq!(said(path, &["image", "load", one.to_str().unwrap()]), "Loaded image: one:1\n");
    said(path, &["image", "load", two.to_str().unwrap()]);
    let table = lines(&said(path, &["image", "ls"]));
    let names: Vec<_> = table.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    assert_eq!(names[0], ("IMAGE", "TAG"));
    assert!(names.contains(&("one", "1")) && names.contains(&("reg.test/two", "2")), "{names:?}");

    let shown: serde_json::Value =
        serde_json::from_str(&said(path, &["image", "inspect", "one:1"])).unwrap();
    assert_eq!(shown[0]["RepoTags"], serde_json::json!(["one:1"]));
    assert_eq!(shown[0]["Config"]["Cmd"], serde_json::json!(["/file"]));
    let id = shown[0]["Id"].as_str().unwrap().to_owned();

    // What is saved is what was loaded.
    let saved = path.join("saved.tar");
    said(path, &["image", "save", "one:1", "reg.test/two:2", "-o", saved.to_str().unwrap()]);
    let short = &id[7..19];
    assert!(said(path, &["image", "inspect", short]).contains(&id));
    let gone = said(path, &["image", "rm", short]);
    assert_eq!(gone, format!("Untagged: {short}\nDeleted: {id}\n"));
    let failed = ctl(path, &["image", "rm", "one:1"]);
    assert!(!failed.status.success());
    assert!(String::from_utf8_lossy(&failed.stderr).contains("no such image: one:1"));
    assert!(said(path, &["image", "prune"]).contains("Deleted: reg.test/two:2\nTotal reclaimed"));
    assert_eq!(lines(&said(path, &["image", "ls"])).len(), 1);
    let loaded = said(path, &["image", "load", saved.to_str().unwrap()]);
    assert_eq!(loaded, "Loaded image: one:1\nLoaded image: reg.test/two:2\n");
    let again = said(path, &["image", "inspect", "one:1"]);
    assert!(again.contains(&id), "{again}");
}

/// Ends with the test.
struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn what_cannot_be_pulled_is_said() {
    if skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = folder.path().join("registry.yml");
    let storage = folder.path().join("registry");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
        storage.display()
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
        return;
    };
    let _registry = Registry(process);
    let clock = Clock::system();
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        clock.sleep(Duration::from_millis(10)).await;
    }
    let image = format!("127.0.0.1:{port}/absent:1");
    let failed = ctl(folder.path(), &["image", "pull", &image]);
    let error = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success());
    assert!(error.contains(&format!("{image}: not found")), "{error}");
}
