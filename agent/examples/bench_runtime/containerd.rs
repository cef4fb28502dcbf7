//! The same calls to Debian's containerd with runc, in a folder of its own.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use client::Clock;
use proto::cri::NamespaceMode;

use crate::lab::{self, Lab};
use crate::{median, pod, sandbox};

/// The time until a pod's container runs; nothing where containerd is not installed.
pub async fn pods(lab: &Lab, clock: &Clock, rounds: usize) -> Option<Duration> {
    let folder = tempfile::Builder::new().prefix("coracle-containerd-").tempdir().ok()?;
    let mut containerd = start(folder.path())?;
    let (mut runtime, _) = lab::connect(folder.path()).await;
    load(folder.path());
    let mut times = Vec::new();
    for round in 0..rounds + 1 {
        let config = sandbox(lab, &format!("containerd-{round}"), NamespaceMode::Node);
        times.push(pod(&mut runtime, clock, config).await.started);
    }
    let _ = rustix::process::kill_process(
        rustix::process::Pid::from_child(&containerd),
        rustix::process::Signal::TERM,
    );
    containerd.wait().expect("our own child");
    Some(median(times))
}

fn start(folder: &Path) -> Option<Child> {
    let config = format!(
        r#"
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.internal.v1.restart"]
[grpc]
address = "{folder}/cri.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
restrict_oom_score_adj = true
"#,
        folder = folder.display(),
        image = lab::IMAGE,
    );
    std::fs::write(folder.join("config.toml"), config).ok()?;
    let log = std::fs::File::create(folder.join("containerd.log")).ok()?;
    let mut containerd = Command::new("containerd");
    containerd.arg("--config").arg(folder.join("config.toml")).stdin(Stdio::null());
    match containerd.stdout(log.try_clone().ok()?).stderr(log).spawn() {
        Ok(child) => Some(child),
        Err(_) => {
            println!("(containerd is not installed)");
            None
        }
    }
}

/// The image that the pods are made of; their sandboxes too, with a command that stays.
fn load(folder: &Path) {
    let archive = folder.join("image.tar");
    let config = serde_json::json!({"Entrypoint": ["/bin/sleep", "1000"]});
    let image = lab::image_archive(lab::IMAGE, &[lab::busybox_layer()], config);
    std::fs::write(&archive, image).expect("an archive");
    let mut ctr = Command::new("ctr");
    ctr.arg("--address").arg(folder.join("cri.sock"));
    ctr.args(["--namespace", "k8s.io", "images", "import"]).arg(&archive);
    assert!(ctr.stdout(Stdio::null()).status().expect("ctr").success(), "ctr imports");
}
