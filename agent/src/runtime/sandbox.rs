//! Pod sandboxes: made, stopped, removed.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use client::error::chain;
use parking_lot::Mutex;
use proto::cri::{self, NamespaceMode};
use rustix::mount::{MountFlags, UnmountFlags};

use super::cgroup::Limits;
use super::engine::{Engine, Error, Sandbox, blocking};
use super::plan;
use super::state::{self, SandboxRecord};
use super::supervisor::{self, Spawn, Supervisor};
use super::sys::{Launch, launch};

/// The supervisor's key for the first process of a shared pid namespace.
pub const PAUSE: u64 = 1;
pub const SOCKET: &str = "socket";
const SHM_SIZE: &str = "size=67108864,mode=1777";

impl Engine {
    /// Makes a sandbox: its cgroup, its supervisor in new namespaces, its network. All or nothing.
    pub async fn run_sandbox(
        &self,
        config: cri::PodSandboxConfig,
        handler: &str,
    ) -> Result<String, Error> {
        let metadata = config
            .metadata
            .clone()
            .ok_or_else(|| Error::Invalid("sandbox config has no metadata".into()))?;
        if !handler.is_empty() {
            return Err(Error::Invalid(format!("no runtime for \"{handler}\" is configured")));
        }
        refuse_unsupported(&config)?;
        let id = self.new_id();
        let parent = config
            .linux
            .as_ref()
            .map(|linux| linux.cgroup_parent.trim_end_matches('/'))
            .unwrap_or_default();
        let parent = if parent.is_empty() { self.cgroup_parent.as_str() } else { parent };
        let record = SandboxRecord {
            id: id.clone(),
            cgroup: format!("{parent}/{id}"),
            config: Some(config),
            handler: handler.to_owned(),
            created_at: self.now(),
            ..SandboxRecord::default()
        };
        let sandbox = Arc::new(Sandbox {
            id: id.clone(),
            record: Mutex::new(record),
            supervisor: Mutex::new(None),
            process: Mutex::new(None),
            busy: tokio::sync::Mutex::new(()),
        });
        {
            let mut sandboxes = self.sandboxes.write();
            let same = |other: &Arc<Sandbox>| {
                let record = other.record.lock();
                record.config.as_ref().and_then(|config| config.metadata.as_ref())
                    == Some(&metadata)
            };
            if let Some(other) = sandboxes.values().find(|other| same(other)) {
                let name = format!(
                    "{}_{}_{}_{}",
                    metadata.name, metadata.namespace, metadata.uid, metadata.attempt
                );
                return Err(Error::AlreadyExists(format!(
                    "sandbox \"{name}\" exists already as {}",
                    other.id
                )));
            }
            sandboxes.insert(id.clone(), sandbox.clone());
        }
        let _busy = sandbox.busy.lock().await;
        match self.build(&sandbox).await {
            Ok(()) => {
                self.emit_sandbox(&sandbox, cri::ContainerEventType::ContainerCreatedEvent);
                self.emit_sandbox(&sandbox, cri::ContainerEventType::ContainerStartedEvent);
                Ok(id)
            }
            Err(error) => {
                if let Err(teardown) = self.tear_down(&sandbox, true).await {
                    tracing::warn!(sandbox = id, error = %chain(&teardown), "cannot clean up after a failure");
                }
                self.sandboxes.write().remove(&id);
                Err(error)
            }
        }
    }

    async fn build(&self, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let record = sandbox.record.lock().clone();
        let config = record.config.clone().unwrap_or_default();
        let options = namespaces(&config);
        let (engine, launched_record) = (self.clone(), record.clone());
        let launched = blocking(move || engine.launch(&launched_record)).await?;
        {
            let mut record = sandbox.record.lock();
            record.supervisor = launched.pid;
            *sandbox.process.lock() = Some(launched.pidfd);
            self.root.save_sandbox(&record)?;
        }
        let folder = self.root.sandbox(&record.id);
        let connect = Supervisor::connect(&folder, SOCKET);
        let attach = async {
            if options.network() == NamespaceMode::Node {
                return Ok(String::new());
            }
            let network = self.pod_network()?;
            let path = format!("/proc/{}/ns/net", launched.pid);
            let netns = fs::File::open(&path).map_err(step(format!("open {path}")))?;
            Ok::<_, Error>(network.attach(&record.id, netns.as_fd()).await?.ip.to_string())
        };
        let (supervisor, ip) = tokio::join!(connect, attach);
        let supervisor = supervisor?;
        *sandbox.supervisor.lock() = Some(supervisor.clone());
        let ip = ip?;
        if options.pid() == NamespaceMode::Pod {
            self.hold_pid_namespace(&supervisor).await?;
        }
        self.watch_supervisor(sandbox, &supervisor);
        let mut record = sandbox.record.lock();
        record.ip = ip;
        record.ready = true;
        Ok(self.root.save_sandbox(&record)?)
    }

    /// Everything before the supervisor answers: files, cgroups, the process.
    fn launch(&self, record: &SandboxRecord) -> Result<super::sys::Launched, Error> {
        let config = record.config.as_ref().expect("a sandbox has a configuration");
        let options = namespaces(config);
        let folder = self.root.sandbox(&record.id);
        fs::create_dir_all(&folder).map_err(state::failed("create", &folder))?;
        self.root.save_sandbox(record)?;
        write_files(config, &folder)?;
        if options.ipc() != NamespaceMode::Node {
            mount_shm(&folder.join("shm"))?;
        }
        let own = format!("{}/supervisor", record.cgroup);
        self.cgroups.create(&record.cgroup)?;
        if let Some(resources) = config.linux.as_ref().and_then(|linux| linux.resources.as_ref()) {
            self.cgroups.limit(&record.cgroup, &limits(resources))?;
        }
        let cgroups = self.cgroups.create_supervisor(&own)?;
        let socket =
            supervisor::listen(&folder, SOCKET).map_err(step("listen for the supervisor"))?;
        let private_network = options.network() != NamespaceMode::Node;
        let mut flags = 0;
        let mut hostname = None;
        if private_network {
            flags |= libc::CLONE_NEWNET | libc::CLONE_NEWUTS;
            hostname = Some(&config.hostname)
                .filter(|name| !name.is_empty())
                .map(|name| text(name))
                .transpose()?;
        }
        if options.ipc() != NamespaceMode::Node {
            flags |= libc::CLONE_NEWIPC;
        }
        let path = |path: &Path| text(&path.to_string_lossy());
        let metadata = config.metadata.clone().unwrap_or_default();
        let request = Launch {
            executable: path(&self.supervisor_path())?,
            name: text(&format!("coracle-pod {}/{}", metadata.namespace, metadata.name))?,
            listen: socket.as_fd(),
            namespaces: flags,
            hostname,
            writes: sysctls(config, private_network)?,
            cgroups: cgroups.iter().map(|file| path(file)).collect::<Result<_, _>>()?,
        };
        Ok(launch(&request)?)
    }

    async fn hold_pid_namespace(&self, supervisor: &Supervisor) -> Result<(), Error> {
        let (program, size, _) = plan::pause().finish().map_err(step("write the program"))?;
        let spawn =
            Spawn { key: PAUSE, clone_flags: libc::CLONE_NEWPID as u64, ..Spawn::default() };
        supervisor.spawn(program.as_fd(), size, &spawn).await?.start().await?;
        Ok(())
    }

    /// When a supervisor dies, its pod is over: nobody would see its containers' exits.
    pub fn watch_supervisor(&self, sandbox: &Arc<Sandbox>, supervisor: &Supervisor) {
        let (engine, sandbox, supervisor) =
            (self.clone(), Arc::downgrade(sandbox), supervisor.clone());
        tokio::spawn(async move {
            supervisor.lost().await;
            let Some(sandbox) = sandbox.upgrade() else { return };
            let _busy = sandbox.busy.lock().await;
            if sandbox.record.lock().ready {
                tracing::warn!(
                    sandbox = sandbox.id,
                    "the pod's supervisor is gone: stopping the pod"
                );
                if let Err(error) = engine.tear_down(&sandbox, false).await {
                    tracing::warn!(sandbox = sandbox.id, error = %chain(&error), "cannot stop the pod");
                }
            }
        });
    }

    /// Ends the sandbox's processes and gives back what it holds, but for its records.
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let _busy = sandbox.busy.lock().await;
        self.tear_down(&sandbox, false).await
    }

    pub async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let _busy = sandbox.busy.lock().await;
        if !self.sandboxes.read().contains_key(&sandbox.id) {
            return Ok(());
        }
        self.tear_down(&sandbox, false).await?;
        for container in self.containers_of(&sandbox.id) {
            self.remove_container(&container.id).await?;
        }
        self.tear_down(&sandbox, true).await?;
        self.sandboxes.write().remove(&sandbox.id);
        self.emit_sandbox(&sandbox, cri::ContainerEventType::ContainerDeletedEvent);
        Ok(())
    }

    pub async fn update_sandbox_resources(
        &self,
        id: &str,
        change: &cri::LinuxContainerResources,
    ) -> Result<(), Error> {
        let sandbox = self.sandbox(id)?;
        let (engine, change) = (self.clone(), limits(change));
        blocking(move || {
            let cgroup = sandbox.record.lock().cgroup.clone();
            Ok(engine.cgroups.limit(&cgroup, &change)?)
        })
        .await
    }

    /// In steps that can be repeated: each finds done what an earlier call did.
    async fn tear_down(&self, sandbox: &Arc<Sandbox>, forget: bool) -> Result<(), Error> {
        let record = sandbox.record.lock().clone();
        for container in self.containers_of(&sandbox.id) {
            self.kill_container(&container).await?;
        }
        let supervisor = sandbox.supervisor.lock().take();
        if let Some(supervisor) = supervisor {
            if let Some(mut pause) = supervisor.process(PAUSE) {
                pause.kill(libc::SIGKILL).await?;
                let _ = pause.exited().await;
            }
            supervisor.quit().await;
        }
        let process = sandbox.process.lock().take();
        let (engine, cgroup) = (self.clone(), record.cgroup.clone());
        let folder = self.root.sandbox(&record.id);
        blocking(move || {
            // Whatever is left: the supervisor too, if it did not answer.
            engine.cgroups.kill(&cgroup)?;
            if let Some(process) = process {
                wait_for(&process);
            }
            match rustix::mount::unmount(folder.join("shm"), UnmountFlags::DETACH) {
                Err(error)
                    if !matches!(error, rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) =>
                {
                    return Err(step("unmount the pod's /dev/shm")(error.into()));
                }
                _ => {}
            }
            // Containers keep their groups until they are removed: figures and OOM counts are there.
            engine.cgroups.remove(&format!("{cgroup}/supervisor"), None)?;
            Ok(())
        })
        .await?;
        if !record.ip.is_empty()
            && let Ok(network) = self.pod_network()
        {
            network.detach(&record.id).await?;
        }
        if forget {
            let (engine, folder) = (self.clone(), self.root.sandbox(&record.id));
            let cgroup = record.cgroup.clone();
            return blocking(move || {
                let ours = Path::new(&cgroup).starts_with(&engine.cgroup_parent);
                engine.cgroups.remove(&cgroup, ours.then_some(engine.cgroup_parent.as_str()))?;
                Ok(state::remove_folder(&folder)?)
            })
            .await;
        }
        let mut now = sandbox.record.lock();
        if now.ready {
            now.ready = false;
            self.root.save_sandbox(&now)?;
            drop(now);
            self.emit_sandbox(sandbox, cri::ContainerEventType::ContainerStoppedEvent);
        }
        Ok(())
    }
}

/// Waits for the end of a supervisor that is ending, and reaps it if it is our child.
fn wait_for(process: &std::os::fd::OwnedFd) {
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    while poll(&mut [PollFd::new(process, PollFlags::IN)], None) == Err(rustix::io::Errno::INTR) {}
    let _ = waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
}

/// The namespace options of a pod; without any they are all the pod's.
pub fn namespaces(config: &cri::PodSandboxConfig) -> cri::NamespaceOption {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    context.and_then(|context| context.namespace_options.clone()).unwrap_or_default()
}

/// Limits of a request; 0 is how CRI leaves one out.
pub fn limits(resources: &cri::LinuxContainerResources) -> Limits {
    let set = |value: i64| (value != 0).then_some(value);
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let named = |value: &String| (!value.is_empty()).then(|| value.clone());
    Limits {
        cpu_shares: positive(resources.cpu_shares),
        cpu_quota: set(resources.cpu_quota),
        cpu_period: positive(resources.cpu_period),
        memory: set(resources.memory_limit_in_bytes),
        memory_and_swap: set(resources.memory_swap_limit_in_bytes),
        pids: resources.unified.get("pids.max").and_then(|value| match value.as_str() {
            "max" => Some(-1),
            number => number.parse().ok(),
        }),
        cpus: named(&resources.cpuset_cpus),
        mems: named(&resources.cpuset_mems),
        unified: resources
            .unified
            .iter()
            .filter(|(file, _)| *file != "pids.max")
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
    }
}

fn refuse_unsupported(config: &cri::PodSandboxConfig) -> Result<(), Error> {
    let options = namespaces(config);
    if let Some(user) = options.userns_options.as_ref()
        && user.mode() != NamespaceMode::Node
    {
        return Err(Error::Invalid("user namespaces are not supported".into()));
    }
    if options.pid() == NamespaceMode::Target {
        return Err(Error::Invalid("a sandbox has no target for its pid namespace".into()));
    }
    if let Some(mapping) = config.port_mappings.iter().find(|mapping| mapping.host_port != 0) {
        // The node's service proxy forwards them; the runtime has nothing to do for them.
        tracing::debug!(port = mapping.host_port, "host ports are left to the service proxy");
    }
    Ok(())
}

/// Sysctls as files and values, the defaults of a pod network of its own first.
fn sysctls(
    config: &cri::PodSandboxConfig,
    private_network: bool,
) -> Result<Vec<(CString, Vec<u8>)>, Error> {
    let mut values: Vec<(&str, &str)> = Vec::new();
    if private_network {
        // Ports below 1024 are the pod's own to give: no privilege is needed, as in containerd 2.
        values.push(("net.ipv4.ip_unprivileged_port_start", "0"));
        values.push(("net.ipv4.ping_group_range", "0 2147483647"));
    }
    let asked = config.linux.as_ref().map(|linux| &linux.sysctls);
    for (name, value) in asked.into_iter().flatten() {
        let network = private_network && name.starts_with("net.");
        let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        if !network && !ipc {
            return Err(Error::Invalid(format!(
                "sysctl \"{name}\" is not of a namespace of the pod"
            )));
        }
        if name.contains("..") || (name.contains('/') && name.contains('.')) {
            return Err(Error::Invalid(format!("invalid sysctl \"{name}\"")));
        }
        values.push((name, value));
    }
    let file = |name: &str| text(&format!("/proc/sys/{}", name.replace('.', "/")));
    values.into_iter().map(|(name, value)| Ok((file(name)?, value.as_bytes().to_vec()))).collect()
}

/// The files that containers mount: resolv.conf from the DNS configuration (or the node's), hostname.
fn write_files(config: &cri::PodSandboxConfig, folder: &Path) -> Result<(), Error> {
    let resolv = folder.join("resolv.conf");
    let content = match &config.dns_config {
        Some(dns) => {
            let mut content: String =
                dns.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
            if !dns.searches.is_empty() {
                content.push_str(&format!("search {}\n", dns.searches.join(" ")));
            }
            if !dns.options.is_empty() {
                content.push_str(&format!("options {}\n", dns.options.join(" ")));
            }
            content.into_bytes()
        }
        None => fs::read("/etc/resolv.conf").unwrap_or_default(),
    };
    fs::write(&resolv, content).map_err(state::failed("write", &resolv))?;
    let hostname = folder.join("hostname");
    let name = match config.hostname.as_str() {
        "" => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        name => name.to_owned(),
    };
    Ok(fs::write(&hostname, format!("{name}\n")).map_err(state::failed("write", &hostname))?)
}

fn mount_shm(folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(state::failed("create", folder))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let options = text(SHM_SIZE)?;
    rustix::mount::mount("shm", folder, "tmpfs", flags, options.as_c_str())
        .map_err(|error| step("mount the pod's /dev/shm")(error.into()))
}

fn text(value: &str) -> Result<CString, Error> {
    CString::new(value).map_err(|_| Error::Invalid(format!("{value:?} contains a NUL")))
}

/// Makes an error of the step that failed.
pub fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let step = step.into();
    move |source| Error::Step { step, source }
}
