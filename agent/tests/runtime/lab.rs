//! A runtime process with a directory, a cgroup and an image of its own, and a CRI client to it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use client::Clock;
use proto::cri::{
    self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tonic::transport::{Channel, Endpoint};

pub const IMAGE: &str = "example.test/busybox:1";
const BUSYBOX: &str = "/bin/busybox";
static NUMBER: AtomicU32 = AtomicU32::new(0);

pub struct Lab {
    pub folder: tempfile::TempDir,
    pub cgroup: String,
    pub runtime: RuntimeServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
    pub clock: Clock,
    process: Child,
    number: u32,
    setup: Setup,
}

/// How a runtime is started.
#[derive(Default)]
pub struct Setup {
    /// The file of a network namespace to run in.
    pub namespace: Option<String>,
    /// As `--registry-mirror` takes it.
    pub mirror: Option<String>,
    /// As `--registry-config-path` takes it.
    pub registries: Option<PathBuf>,
    /// Further arguments of the runtime.
    pub arguments: Vec<String>,
    /// Further variables of its environment.
    pub environment: Vec<(&'static str, String)>,
}

/// Says why tests cannot run here.
pub fn skipped() -> bool {
    let missing = if !rustix::process::geteuid().is_root() {
        "root"
    } else if !Path::new(BUSYBOX).exists() {
        "/bin/busybox (package busybox-static)"
    } else {
        return false;
    };
    eprintln!("SKIPPED: this test needs {missing}");
    true
}

impl Lab {
    /// A runtime that serves, with the image imported; `None` where tests cannot run.
    pub async fn start() -> Option<Lab> {
        Lab::start_with(Setup::default()).await
    }

    pub async fn start_with(setup: Setup) -> Option<Lab> {
        if skipped() {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("coracle-runtime-").tempdir().unwrap();
        let archive = folder.path().join("image.tar");
        std::fs::write(&archive, image_archive(IMAGE, &[busybox_layer()], serde_json::json!({})))
            .unwrap();
        agent::runtime::images::import(&folder.path().join("images"), &archive).unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("coracle-test-{}-{number}", std::process::id());
        let process = spawn(folder.path(), &cgroup, &setup);
        let (runtime, images) = connect(folder.path()).await;
        Some(Lab {
            folder,
            cgroup,
            runtime,
            images,
            clock: Clock::system(),
            process,
            number,
            setup,
        })
    }

    /// The runtime dies as by `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// The runtime comes back.
    pub async fn revive(&mut self) {
        self.process = spawn(self.folder.path(), &self.cgroup, &self.setup);
        (self.runtime, self.images) = connect(self.folder.path()).await;
    }

    /// Of the runtime.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    pub fn log_folder(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    /// The configuration of a sandbox on the host's network.
    pub fn sandbox_config(&self, name: &str) -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}-{}", self.number),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.log_folder().display().to_string(),
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(cri::NamespaceOption {
                        network: cri::NamespaceMode::Node as i32,
                        pid: cri::NamespaceMode::Container as i32,
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub async fn sandbox(&mut self, name: &str) -> String {
        let config = self.sandbox_config(name);
        self.sandbox_of(config).await
    }

    pub async fn sandbox_of(&mut self, config: cri::PodSandboxConfig) -> String {
        let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        self.runtime.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
    }

    pub async fn create(&mut self, sandbox: &str, config: cri::ContainerConfig) -> String {
        self.try_create(sandbox, config).await.unwrap()
    }

    pub async fn try_create(
        &mut self,
        sandbox: &str,
        config: cri::ContainerConfig,
    ) -> Result<String, tonic::Status> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: None,
        };
        Ok(self.runtime.create_container(request).await?.into_inner().container_id)
    }

    pub async fn start_container(&mut self, id: &str) -> Result<(), tonic::Status> {
        let request = cri::StartContainerRequest { container_id: id.to_owned() };
        self.runtime.start_container(request).await.map(|_| ())
    }

    /// Creates and starts.
    pub async fn run(&mut self, sandbox: &str, config: cri::ContainerConfig) -> String {
        let id = self.create(sandbox, config).await;
        self.start_container(&id).await.unwrap();
        id
    }

    pub async fn status(&mut self, id: &str) -> cri::ContainerStatus {
        self.verbose_status(id).await.0
    }

    pub async fn verbose_status(
        &mut self,
        id: &str,
    ) -> (cri::ContainerStatus, std::collections::HashMap<String, String>) {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let response = self.runtime.container_status(request).await.unwrap().into_inner();
        (response.status.unwrap(), response.info)
    }

    pub async fn pid(&mut self, id: &str) -> i32 {
        self.verbose_status(id).await.1["pid"].parse().unwrap()
    }

    pub async fn cgroup_of(&mut self, id: &str) -> String {
        self.verbose_status(id).await.1["cgroup"].clone()
    }

    /// Waits until the container has exited. To look at a million files takes a while.
    pub async fn exited(&mut self, id: &str) -> cri::ContainerStatus {
        for _ in 0..12_000 {
            let status = self.status(id).await;
            if status.state() == cri::ContainerState::ContainerExited {
                return status;
            }
            self.clock.sleep(Duration::from_millis(10)).await;
        }
        panic!("container {id} did not exit in time");
    }

    pub async fn exec(&mut self, id: &str, command: &[&str]) -> cri::ExecSyncResponse {
        let request =
            cri::ExecSyncRequest { container_id: id.to_owned(), cmd: words(command), timeout: 20 };
        self.runtime.exec_sync(request).await.unwrap().into_inner()
    }

    /// What a command in the container prints.
    pub async fn output(&mut self, id: &str, script: &str) -> String {
        let response = self.exec(id, &["sh", "-c", script]).await;
        assert_eq!(
            response.exit_code,
            0,
            "{script}: {}",
            String::from_utf8_lossy(&response.stderr)
        );
        String::from_utf8(response.stdout.to_vec()).unwrap().trim_end().to_owned()
    }

    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_folder().join(name)).unwrap_or_default()
    }

    /// Waits until the log satisfies.
    pub async fn log_until(&self, name: &str, enough: impl Fn(&str) -> bool) -> String {
        for _ in 0..2000 {
            let log = self.log(name);
            if enough(&log) {
                return log;
            }
            self.clock.sleep(Duration::from_millis(10)).await;
        }
        panic!("the log {name} has only: {}", self.log(name));
    }

    pub async fn remove_sandbox(&mut self, id: &str) {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime.remove_pod_sandbox(request).await.unwrap();
    }

    /// Removes every sandbox and sees that nothing is left of them on the machine.
    pub async fn finish(mut self) {
        let list =
            self.runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap();
        for sandbox in list.into_inner().items {
            self.remove_sandbox(&sandbox.id).await;
        }
        let path = self.folder.path().display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&path), "mounts are left: {mounts}");
        assert_eq!(cgroups_left(&self.cgroup), Vec::<PathBuf>::new(), "cgroups are left");
        assert_eq!(processes_with(&path), Vec::<String>::new(), "processes are left");
        for folder in ["sandboxes", "containers"] {
            let left: Vec<_> =
                std::fs::read_dir(self.root().join(folder)).unwrap().flatten().collect();
            assert!(left.is_empty(), "files are left: {left:?}");
        }
        let pins: Vec<_> =
            std::fs::read_dir(self.folder.path().join("images/pins")).unwrap().flatten().collect();
        assert!(pins.is_empty(), "pins are left: {pins:?}");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // After a failed assertion: end what the test has made, and nothing else.
        for folder in cgroups_left(&self.cgroup) {
            let _ = std::fs::write(folder.join("cgroup.kill"), "1");
        }
        let sandboxes =
            std::fs::read_dir(self.root().join("sandboxes")).into_iter().flatten().flatten();
        for sandbox in sandboxes {
            let _ = rustix::mount::unmount(
                sandbox.path().join("shm"),
                rustix::mount::UnmountFlags::DETACH,
            );
        }
        for _ in 0..3 {
            for folder in cgroups_left(&self.cgroup) {
                remove_groups(&folder);
            }
        }
    }
}

/// A container that runs a shell script.
pub fn script(name: &str, script: &str) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: IMAGE.to_owned(), ..Default::default() }),
        command: words(&["sh", "-c", script]),
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig {
            resources: None,
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(cri::NamespaceOption {
                    network: cri::NamespaceMode::Node as i32,
                    pid: cri::NamespaceMode::Container as i32,
                    ..Default::default()
                }),
                masked_paths: words(&[
                    "/proc/kcore",
                    "/proc/acpi",
                    "/sys/firmware",
                    "/proc/absent",
                ]),
                readonly_paths: words(&["/proc/sys", "/proc/sysrq-trigger", "/proc/absent"]),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

pub fn context(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A file of a v1 controller, or of v2, of a group.
pub fn cgroup_file(controller: &str, cgroup: &str, v1: &str, v2: &str) -> String {
    let hybrid =
        PathBuf::from("/sys/fs/cgroup").join(controller).join(cgroup.trim_start_matches('/'));
    let path = match hybrid.exists() {
        true => hybrid.join(v1),
        false => PathBuf::from("/sys/fs/cgroup").join(cgroup.trim_start_matches('/')).join(v2),
    };
    std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .trim()
        .to_owned()
}

/// Whether the machine has cgroup v2 alone.
pub fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// What the files of these names hold, of a group in whatever hierarchies it is.
pub fn group_files(cgroup: &str, names: &[&str]) -> Vec<String> {
    let inside = cgroup.trim_start_matches('/');
    let folders = cgroups_left(inside);
    let files = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
    files
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .map(|text| text.trim().to_owned())
        .collect()
}

/// A `docker save` archive.
pub fn image_archive(name: &str, layers: &[Vec<u8>], config: serde_json::Value) -> Vec<u8> {
    use sha2::Digest;
    let digest = |bytes: &[u8]| hex::encode(sha2::Sha256::digest(bytes));
    let ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", digest(layer))).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": config,
        "rootfs": { "type": "layers", "diff_ids": ids },
    });
    let config = serde_json::to_vec(&config).unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let mut files = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        add(&mut tar, &format!("{number}/layer.tar"), 0o644, layer);
        files.push(format!("{number}/layer.tar"));
    }
    let config_name = format!("{}.json", digest(&config));
    add(&mut tar, &config_name, 0o644, &config);
    let manifest =
        serde_json::json!([{ "Config": config_name, "RepoTags": [name], "Layers": files }]);
    add(&mut tar, "manifest.json", 0o644, &serde_json::to_vec(&manifest).unwrap());
    tar.into_inner().unwrap()
}

/// A root file system of busybox and nothing else.
pub fn busybox_layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for folder in ["bin", "etc", "tmp", "proc"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if folder == "tmp" { 0o1777 } else { 0o755 });
        header.set_size(0);
        tar.append_data(&mut header, format!("{folder}/"), &b""[..]).unwrap();
    }
    add(&mut tar, "bin/busybox", 0o755, &std::fs::read(BUSYBOX).unwrap());
    for applet in [
        "sh", "cat", "echo", "sleep", "id", "ls", "true", "false", "tail", "head", "grep", "kill",
        "dd", "mknod", "mkdir", "mount", "hostname", "ps", "stat", "touch", "rm", "wc", "chroot",
        "env", "readlink", "pwd", "nc", "seq", "tty", "test", "tr", "printf", "mkfifo", "httpd",
        "unshare", "chmod", "chown", "cp", "umount", "ln", "mv", "timeout",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/srv:/bin/sh\n";
    add(&mut tar, "etc/passwd", 0o644, passwd.as_bytes());
    add(&mut tar, "etc/group", 0o644, b"root:x:0:\nweb:x:102:\nextra:x:200:web\n");
    tar.into_inner().unwrap()
}

pub fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    tar.append_data(&mut header, path, bytes).unwrap();
}

fn spawn(folder: &Path, cgroup: &str, setup: &Setup) -> Child {
    let mut command = match &setup.namespace {
        Some(file) => {
            // The streaming server listens on the loopback.
            let up = ["ip", "link", "set", "lo", "up"];
            let done = Command::new("nsenter").arg(format!("--net={file}")).args(up).status();
            assert!(done.unwrap().success());
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={file}")).arg(runtime_path());
            command
        }
        None => Command::new(runtime_path()),
    };
    command
        .args(["--root".as_ref(), folder.join("root").as_os_str()])
        .args(["--image-root".as_ref(), folder.join("images").as_os_str()])
        .arg("--listen")
        .arg(format!("unix://{}", folder.join("cri.sock").display()))
        .args(["--cgroup-parent", cgroup])
        .args(&setup.arguments)
        .args(setup.mirror.iter().flat_map(|mirror| ["--registry-mirror", mirror]))
        .arg("--registry-config-path")
        .arg(setup.registries.clone().unwrap_or_else(|| folder.join("certs.d")))
        .env("RUST_LOG", "warn")
        .envs(setup.environment.iter().cloned())
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// The runtime's executable: beside the tests, or of the examples' parent directory.
fn runtime_path() -> PathBuf {
    if let Some(path) = option_env!("CARGO_BIN_EXE_runtime") {
        return PathBuf::from(path);
    }
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(2).unwrap().join("runtime")
}

pub async fn connect(
    folder: &Path,
) -> (RuntimeServiceClient<Channel>, ImageServiceClient<Channel>) {
    let socket = folder.join("cri.sock");
    let clock = Clock::system();
    for _ in 0..2000 {
        let path = socket.clone();
        let connector = tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move {
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(
                    tokio::net::UnixStream::connect(path).await?,
                ))
            }
        });
        if let Ok(channel) =
            Endpoint::from_static("http://runtime").connect_with_connector(connector).await
        {
            return (RuntimeServiceClient::new(channel.clone()), ImageServiceClient::new(channel));
        }
        clock.sleep(Duration::from_millis(5)).await;
    }
    panic!("the runtime does not serve");
}

/// Directories of groups below the lab's parent, or that itself.
pub fn cgroups_left(parent: &str) -> Vec<PathBuf> {
    let hierarchies =
        std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let candidates =
        hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|root| root.join(parent));
    candidates.filter(|path| path.exists()).collect()
}

fn remove_groups(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(folder);
}

/// Processes whose executable bears the path in its name: supervisors.
fn processes_with(path: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let executable = std::fs::read_link(entry.path().join("exe")).unwrap_or_default();
        let name = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if executable.to_string_lossy().contains(&format!("{path}/root/supervisor")) {
            found.push(format!("{}: {name}", entry.path().display()));
        }
    }
    found
}
