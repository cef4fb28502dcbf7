//! Other people's clients against `ctl server`, as their users use them: kube-rs here, those in
//! Python and JavaScript as the programs in `tests/clients`, where `cargo xtask test` installed them.
//! And a client of CRI against `ctl runtime`.

#[path = "clients/kube_rs.rs"]
mod kube_rs;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tests::program::{built, run};
use tests::server::Server;
use tests::wait::until;
use tests::{image, machine, needs};

/// A file of an installed client; `None`, said loudly, where it was not installed.
fn installed(name: &str) -> Option<PathBuf> {
    let profile = built("ctl");
    let target = profile.ancestors().nth(2).expect("target/PROFILE/ctl");
    let file = target.join("clients").join(name);
    if !file.exists() {
        eprintln!("SKIPPED: needs {}; `cargo xtask test` installs it", file.display());
        return None;
    }
    Some(file)
}

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

#[test]
fn python() {
    let Some(python) = installed("python/bin/python") else { return };
    let server = Server::start(&["--ephemeral"]);
    let mut command = Command::new(python);
    command.arg(program("python_client.py")).env("KUBECONFIG", server.kubeconfig());
    let said = run(&mut command).ok();
    assert_eq!(said.lines().count(), 7, "every case says its name\n{said}");
}

#[test]
fn javascript() {
    let Some(modules) = installed("javascript/node_modules") else { return };
    let server = Server::start(&["--ephemeral"]);
    // Modules are looked for beside the program.
    let beside = modules.with_file_name("javascript_client.js");
    std::fs::copy(program("javascript_client.js"), &beside).expect("a copy of the program");
    let mut command = Command::new("node");
    let said = run(command.arg(beside).env("KUBECONFIG", server.kubeconfig())).ok();
    assert_eq!(said.lines().count(), 5, "every case says its name\n{said}");
}

/// The runtime's socket, with a client that shares no code with it.
#[test]
fn cri() {
    needs!(root);
    needs!("busybox");
    needs!("protoc");
    let Some(python) = installed("python/bin/python") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let mut protoc = Command::new("protoc");
    protoc
        .arg("--include_imports")
        .arg("--descriptor_set_out")
        .arg(path("cri"))
        .arg("cri/api.proto");
    run(protoc.arg("--proto_path").arg(".").current_dir(root)).ok();
    let archive = image::shell(folder.path(), &machine::find("busybox").unwrap(), &[]);
    let mut load = Command::new(built("ctl"));
    load.args(["image", "load"]).arg(archive).env("CORACLE_STATE_DIR", path("state"));
    run(&mut load).ok();
    let mut runtime = Command::new(built("ctl"));
    runtime
        .args(["runtime", "--root", &path("root"), "--image-root", &path("state/images")])
        .args(["--listen", &format!("unix://{}", path("cri.sock"))])
        .args(["--cgroup-parent", &format!("coracle-test-cri-{}", std::process::id())])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(path("log")).expect("a log file"));
    let runtime = Daemon { child: runtime.spawn().expect("it starts"), log: path("log").into() };
    until("the runtime to listen", 30, || Path::new(&path("cri.sock")).exists().then_some(()));
    let mut client = Command::new(python);
    client.arg(program("cri_client.py")).args([path("cri.sock"), path("cri"), path("logs")]);
    let said = run(client.arg("test/shell:1")).ok();
    assert_eq!(said.lines().count(), 4, "every case says its name\n{said}");
    drop(runtime);
}

/// An operator in Python: it copies ConfigMaps into Secrets, follows their changes and says goodbye.
#[test]
fn kopf() {
    let Some(kopf) = installed("python/bin/kopf") else { return };
    let server = Server::start(&["--ephemeral"]);
    let log = server.kubeconfig().with_extension("kopf");
    let child = Command::new(kopf)
        .args(["run", "--namespace=default"])
        .arg(program("kopf_operator.py"))
        .env("KUBECONFIG", server.kubeconfig())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).expect("a log file"))
        .spawn()
        .expect("kopf starts");
    let operator = Daemon { child, log };
    let apply = |data: &str| {
        let map = format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: a, labels: {{copy: \"1\"}}}}, \
             data: {data}}}"
        );
        server.ctl_with(&["apply", "-f", "-"], &map).ok();
    };
    let data = || server.ctl(&["get", "secret", "a", "-o", "jsonpath={.data}"]).out;
    apply("{x: b}");
    until("the Secret of the ConfigMap", 60, || data().contains("\"x\":\"Yg==\"").then_some(()));
    apply("{x: c}");
    until("its change", 60, || data().contains("\"x\":\"Yw==\"").then_some(()));
    server.ctl(&["delete", "configmap", "a"]).ok();
    until("its goodbye", 60, || {
        (server.ctl(&["get", "configmap", "was-a"]).code == 0
            && server.ctl(&["get", "secret", "a"]).code == 1)
            .then_some(())
    });
    drop(operator);
}

struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("our own child can be awaited");
        if std::thread::panicking() {
            eprintln!("--- its log\n{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}
