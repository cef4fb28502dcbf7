//! Pod sandboxes: made, stopped, removed.

mod limits;

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use client::error::chain;
use parking_lot::Mutex;
use proto::cri::{self, NamespaceMode};
use rustix::mount::{MountFlags, UnmountFlags};

use super::blueprint::{self, limits, with_overhead};
use super::engine::{Engine, Error, Sandbox, blocking};
use super::handlers::Features;
use super::plan;
use super::state::{self, SandboxRecord};
use super::supervisor::{self, Spawn, Supervisor};
use super::sys::{Launch, launch, make_user_namespace, owner_of};
use super::userns::Mappings;
use super::users::User;
use crate::net::bandwidth::Bandwidth;

/// The supervisor's key for the first process of a shared pid namespace.
pub const PAUSE: u64 = 1;
pub const SOCKET: &str = "socket";
const SHM_SIZE: &str = "size=67108864,mode=1777";

/// The user namespace of a pod.
pub struct PodUsers {
    pub namespace: OwnedFd,
    pub mappings: Mappings,
}

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
        let features = self.handlers.find(handler)?;
        refuse_unsupported(&config, &features, handler)?;
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
            let address = network.attach(&record.id, netns.as_fd()).await?;
            if let Some(bandwidth) = Bandwidth::of(&config.annotations)? {
                network.shape(&record.id, netns.as_fd(), &bandwidth).await?;
            }
            Ok::<_, Error>(address.ip.to_string())
        };
        let (supervisor, ip) = tokio::join!(connect, attach);
        let supervisor = supervisor?;
        *sandbox.supervisor.lock() = Some(supervisor.clone());
        let ip = ip?;
        if options.pid() == NamespaceMode::Pod {
            let users = self.pod_users(sandbox)?;
            self.hold_pid_namespace(&supervisor, users.as_ref()).await?;
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
        if let Some(linux) = config.linux.as_ref()
            && let Some(resources) = &linux.resources
        {
            let overhead = linux.overhead.clone().unwrap_or_default();
            self.cgroups.limit(&record.cgroup, &limits(&with_overhead(resources, &overhead))?)?;
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
        let mut join = Vec::new();
        if let Some(mappings) = Mappings::of_pod(&options)? {
            let made = make_user_namespace(flags, &mappings.uid_map(), &mappings.gid_map());
            join = made.map_err(step("make the pod's user namespace"))?.others;
            flags = 0;
        }
        let path = |path: &Path| text(&path.to_string_lossy());
        let metadata = config.metadata.clone().unwrap_or_default();
        let request = Launch {
            executable: self.supervisor.as_fd(),
            name: text(&format!("coracle-pod {}/{}", metadata.namespace, metadata.name))?,
            listen: socket.as_fd(),
            namespaces: flags,
            join,
            hostname,
            writes: sysctls(config, private_network)?,
            cgroups: cgroups.iter().map(|file| path(file)).collect::<Result<_, _>>()?,
        };
        Ok(launch(&request)?)
    }

    /// The user namespace of a pod that has its own, and the ids in it.
    pub fn pod_users(&self, sandbox: &Sandbox) -> Result<Option<PodUsers>, Error> {
        let record = sandbox.record.lock();
        let options = record.config.as_ref().map(namespaces).unwrap_or_default();
        let Some(mappings) = Mappings::of_pod(&options)? else { return Ok(None) };
        // The supervisor is in the node's user namespace, the pod's other ones belong to the pod's.
        let path = format!("/proc/{}/ns/ipc", record.supervisor);
        let owner = fs::File::open(&path).and_then(|namespace| owner_of(namespace.as_fd()));
        let namespace = owner.map_err(step(format!("find the owner of {path}")))?;
        Ok(Some(PodUsers { namespace, mappings }))
    }

    async fn hold_pid_namespace(
        &self,
        supervisor: &Supervisor,
        users: Option<&PodUsers>,
    ) -> Result<(), Error> {
        let ids = users.map(|users| blueprint::users(&users.mappings, &User::default()));
        let program = plan::pause(ids.transpose()?.as_ref());
        let (program, size, _) = program.finish().map_err(step("write the program"))?;
        let spawn = Spawn {
            key: PAUSE,
            clone_flags: libc::CLONE_NEWPID as u64,
            extras: users.iter().map(|users| users.namespace.as_fd()).collect(),
            ..Spawn::default()
        };
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
                engine.cgroups.release_devices(&engine.cgroup_parent);
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

fn refuse_unsupported(
    config: &cri::PodSandboxConfig,
    features: &Features,
    handler: &str,
) -> Result<(), Error> {
    let options = namespaces(config);
    if Mappings::of_pod(&options)?.is_some() && !features.user_namespaces {
        return Err(Error::Invalid(format!(
            "runtime handler \"{handler}\" does not support user namespaces"
        )));
    }
    Bandwidth::of(&config.annotations)?;
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    blueprint::refuse_label(context.and_then(|context| context.selinux_options.as_ref()))?;
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
