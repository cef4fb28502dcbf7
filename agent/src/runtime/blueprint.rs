//! From CRI's words to a plan: what a request, its sandbox and its image say together about a
//! container. Looks things up on the node (does a mount's source exist, who is `www-data`), changes
//! nothing.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use proto::cri::{self, NamespaceMode};

use super::capabilities::Capabilities;
use super::engine::{Engine, Error};
use super::images::Image;
use super::plan::{Container, Mount, Process};
use super::sandbox::namespaces;
use super::seccomp;
use super::state::{ContainerRecord, Environment, SandboxRecord};
use super::users::{Accounts, User};

/// Everything that a container is made of, beside its request.
pub struct Inputs<'a> {
    pub engine: &'a Engine,
    pub sandbox: &'a SandboxRecord,
    pub sandbox_folder: PathBuf,
    pub folder: PathBuf,
    pub image: &'a Image,
}

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const OPEN_FILES: u64 = 1_048_576;
/// A program keeps a register for each, and has fewer than 255.
const MOUNTS: usize = 200;

/// The plan of a container. Notes in the record what later calls need.
pub fn container(
    inputs: &Inputs<'_>,
    config: &cri::ContainerConfig,
    record: &mut ContainerRecord,
) -> Result<Container, Error> {
    let linux = config.linux.clone().unwrap_or_default();
    let context = linux.security_context.clone().unwrap_or_default();
    refuse_unsupported(config, &context)?;
    let engine = inputs.engine;
    let (layers, lower) = engine.images.lower(inputs.image);
    let accounts = Accounts::read(&layers, &lower);
    let user = accounts
        .resolve(&context, &inputs.image.config.user)
        .map_err(|error| Error::Invalid(format!("{error}")))?;
    let folder = [&config.working_dir, &inputs.image.config.working_dir];
    let folder =
        folder.into_iter().find(|folder| !folder.is_empty()).map_or("/", String::as_str).to_owned();
    if !folder.starts_with('/') {
        return Err(Error::Invalid(format!("working directory \"{folder}\" is not absolute")));
    }
    record.environment = Some(Environment {
        variables: environment(inputs, config, &user),
        folder,
        home: user.home.clone(),
    });
    record.user = Some(cri::LinuxContainerUser {
        uid: i64::from(user.uid),
        gid: i64::from(user.gid),
        supplemental_groups: user.groups.iter().map(|group| i64::from(*group)).collect(),
    });
    record.stop_signal = stop_signal(config.stop_signal(), &inputs.image.config.stop_signal);
    let mut process = process(record, config)?;
    process.command = command(config, inputs.image)?;
    process.oom_score_adj = linux.resources.as_ref().map(|resources| resources.oom_score_adj);
    let (devices, nodes) = devices(config, context.privileged)?;
    Ok(Container {
        process,
        cgroups: Vec::new(),
        layers,
        lower,
        upper: inputs.folder.join("upper"),
        work: inputs.folder.join("work"),
        root: inputs.folder.join("rootfs"),
        readonly_root: context.readonly_rootfs,
        privileged: context.privileged,
        mounts: mounts(inputs, config, &context)?,
        devices,
        nodes,
        cgroup_controllers: engine.cgroups.visible(),
        cgroup_v2: engine.cgroups.mode() == "v2",
        masked: if context.privileged { Vec::new() } else { context.masked_paths.clone() },
        readonly: if context.privileged { Vec::new() } else { context.readonly_paths.clone() },
    })
}

/// The process of a container but for its command: what commands executed in it run as, too.
pub fn process(record: &ContainerRecord, config: &cri::ContainerConfig) -> Result<Process, Error> {
    let context =
        config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default();
    let change = context.capabilities.clone().unwrap_or_default();
    let capabilities = Capabilities::new(context.privileged, &change)
        .map_err(|error| Error::Invalid(error.to_string()))?;
    let filtered = !context.privileged && !unconfined(&context);
    let seccomp =
        if filtered { seccomp::default_profile(&capabilities.permitted) } else { Vec::new() };
    let environment = record.environment.clone().unwrap_or_default();
    let user = record.user.clone().unwrap_or_default();
    let limit =
        rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(OPEN_FILES);
    Ok(Process {
        command: Vec::new(),
        environment: environment.variables,
        folder: environment.folder,
        user: User {
            uid: user.uid as u32,
            gid: user.gid as u32,
            groups: user.supplemental_groups.iter().map(|group| *group as u32).collect(),
            home: environment.home,
        },
        capabilities,
        no_new_privileges: context.no_new_privs,
        seccomp,
        tty: config.tty,
        oom_score_adj: None,
        open_files: (limit.min(OPEN_FILES), limit),
    })
}

/// Takes over what a change sets.
pub fn merge_resources(
    into: &mut cri::LinuxContainerResources,
    change: &cri::LinuxContainerResources,
) {
    let number = |into: &mut i64, change: i64| {
        if change != 0 {
            *into = change;
        }
    };
    number(&mut into.cpu_period, change.cpu_period);
    number(&mut into.cpu_quota, change.cpu_quota);
    number(&mut into.cpu_shares, change.cpu_shares);
    number(&mut into.memory_limit_in_bytes, change.memory_limit_in_bytes);
    number(&mut into.memory_swap_limit_in_bytes, change.memory_swap_limit_in_bytes);
    for (into, change) in
        [(&mut into.cpuset_cpus, &change.cpuset_cpus), (&mut into.cpuset_mems, &change.cpuset_mems)]
    {
        if !change.is_empty() {
            change.clone_into(into);
        }
    }
    into.unified.extend(change.unified.clone());
}

fn refuse_unsupported(
    config: &cri::ContainerConfig,
    context: &cri::LinuxContainerSecurityContext,
) -> Result<(), Error> {
    let refuse = |what: &str| Err(Error::Invalid(format!("{what} is not supported")));
    let localhost = |profile: &Option<cri::SecurityProfile>| {
        profile
            .as_ref()
            .is_some_and(|p| p.profile_type() == cri::security_profile::ProfileType::Localhost)
    };
    if localhost(&context.seccomp) {
        return refuse("a seccomp profile of type Localhost");
    }
    if localhost(&context.apparmor) || context.apparmor_profile.starts_with("localhost/") {
        return refuse("an AppArmor profile of type Localhost");
    }
    if context
        .selinux_options
        .as_ref()
        .is_some_and(|options| *options != cri::SeLinuxOption::default())
    {
        return refuse("an SELinux label");
    }
    if !config.cdi_devices.is_empty() {
        return refuse("a CDI device");
    }
    if config.mounts.iter().any(|mount| mount.image.is_some()) {
        return refuse("an image volume");
    }
    if config
        .mounts
        .iter()
        .any(|mount| !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty())
    {
        return refuse("an id-mapped mount");
    }
    let hugepages = config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    if hugepages
        .is_some_and(|resources| resources.hugepage_limits.iter().any(|limit| limit.limit > 0))
    {
        return refuse("a limit of huge pages");
    }
    if config.mounts.len() > MOUNTS {
        return Err(Error::Invalid(format!("more than {MOUNTS} mounts")));
    }
    Ok(())
}

fn unconfined(context: &cri::LinuxContainerSecurityContext) -> bool {
    match &context.seccomp {
        Some(profile) => profile.profile_type() == cri::security_profile::ProfileType::Unconfined,
        None => context.seccomp_profile_path == "unconfined",
    }
}

/// The request's command replaces the image's entrypoint and arguments, its args only the latter.
fn command(config: &cri::ContainerConfig, image: &Image) -> Result<Vec<String>, Error> {
    let mut command = config.command.clone();
    let mut args = config.args.clone();
    if command.is_empty() {
        command.clone_from(&image.config.entrypoint);
        if args.is_empty() {
            args.clone_from(&image.config.cmd);
        }
    }
    command.extend(args);
    if command.is_empty() || command[0].is_empty() {
        return Err(Error::Invalid("no command specified".into()));
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err(Error::Invalid("the command contains a NUL".into()));
    }
    Ok(command)
}

/// The image's variables, overridden by the request's, with what every process expects.
fn environment(inputs: &Inputs<'_>, config: &cri::ContainerConfig, user: &User) -> Vec<Vec<u8>> {
    let mut variables: Vec<Vec<u8>> = Vec::new();
    let name =
        |variable: &[u8]| variable.iter().position(|byte| *byte == b'=').unwrap_or(variable.len());
    let mut set = |variable: Vec<u8>, keep: bool| {
        let at = name(&variable);
        match variables.iter_mut().find(|other| other[..name(other)] == variable[..at]) {
            Some(_) if keep => {}
            Some(other) => *other = variable,
            None => variables.push(variable),
        }
    };
    set(DEFAULT_PATH.into(), false);
    if config.tty {
        set("TERM=xterm".into(), false);
    }
    let hostname = fs::read_to_string(inputs.sandbox_folder.join("hostname")).unwrap_or_default();
    set(format!("HOSTNAME={}", hostname.trim()).into(), false);
    for variable in &inputs.image.config.env {
        set(variable.clone().into(), false);
    }
    for variable in &config.envs {
        set([variable.key.as_bytes(), b"=", &variable.value].concat(), false);
    }
    set(format!("HOME={}", user.home).into(), true);
    variables.retain(|variable| !variable.contains(&0));
    variables
}

/// The pod's own files, then the request's mounts; these win.
fn mounts(
    inputs: &Inputs<'_>,
    config: &cri::ContainerConfig,
    context: &cri::LinuxContainerSecurityContext,
) -> Result<Vec<Mount>, Error> {
    let given = |target: &str| {
        config.mounts.iter().any(|mount| mount.container_path.trim_end_matches('/') == target)
    };
    let pod = |name: &str| inputs.sandbox_folder.join(name).display().to_string();
    let sandbox = inputs.sandbox.config.clone().unwrap_or_default();
    let host_ipc = namespaces(&sandbox).ipc() == NamespaceMode::Node;
    let shm = if host_ipc { "/dev/shm".to_owned() } else { pod("shm") };
    let own = [
        (pod("resolv.conf"), "/etc/resolv.conf", false),
        (pod("hostname"), "/etc/hostname", false),
        (shm, "/dev/shm", true),
    ];
    let mut mounts: Vec<Mount> = own
        .into_iter()
        .filter(|(_, target, _)| !given(target))
        .map(|(source, target, folder)| Mount {
            source,
            target: target.to_owned(),
            folder,
            readonly: context.readonly_rootfs && !folder,
            propagation: cri::MountPropagation::PropagationPrivate,
            ..Mount::default()
        })
        .collect();
    for mount in &config.mounts {
        if !mount.container_path.starts_with('/') {
            return Err(Error::Invalid(format!(
                "mount path \"{}\" is not absolute",
                mount.container_path
            )));
        }
        // Resolved here: a link on the node must not be followed within the container.
        let source = fs::canonicalize(&mount.host_path).map_err(|error| {
            Error::Invalid(format!("mount source \"{}\": {error}", mount.host_path))
        })?;
        let mut no_exec = false;
        for option in &mount.mount_options {
            match option.as_str() {
                "noexec" => no_exec = true,
                other => {
                    return Err(Error::Invalid(format!(
                        "mount option \"{other}\" is not supported"
                    )));
                }
            }
        }
        mounts.push(Mount {
            folder: source.is_dir(),
            source: source.display().to_string(),
            target: clean(&mount.container_path),
            readonly: mount.readonly,
            recursive_readonly: mount.recursive_read_only,
            propagation: mount.propagation(),
            no_exec,
        });
    }
    Ok(mounts)
}

/// Without empty parts, `.` and `..`, which a path within a container has no use for.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

type Devices = (Vec<(String, String)>, Vec<(String, u32, u64)>);

/// The request's devices to bind; for a privileged container, all of the node's to make.
fn devices(config: &cri::ContainerConfig, privileged: bool) -> Result<Devices, Error> {
    let mut bound = Vec::new();
    for device in &config.devices {
        let source = fs::canonicalize(&device.host_path)
            .map_err(|error| Error::Invalid(format!("device \"{}\": {error}", device.host_path)))?;
        if !matches!(device.permissions.as_str(), "" | "rw" | "rwm" | "wr") {
            return Err(Error::Invalid(format!(
                "device permissions \"{}\" are not supported",
                device.permissions
            )));
        }
        let target = if device.container_path.is_empty() {
            &device.host_path
        } else {
            &device.container_path
        };
        bound.push((source.display().to_string(), clean(target)));
    }
    let mut made = Vec::new();
    if privileged {
        nodes_below(Path::new("/dev"), &mut made);
    }
    Ok((bound, made))
}

fn nodes_below(folder: &Path, made: &mut Vec<(String, u32, u64)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
        let shown = path.display().to_string();
        if metadata.is_dir() && !["/dev/pts", "/dev/shm", "/dev/mqueue"].contains(&shown.as_str()) {
            nodes_below(&path, made);
        }
        let device =
            metadata.file_type().is_char_device() || metadata.file_type().is_block_device();
        if device && !["/dev/console", "/dev/ptmx"].contains(&shown.as_str()) {
            made.push((shown, metadata.mode(), metadata.rdev()));
        }
    }
}

/// The number of the signal that stops a container: the request's, the image's, or TERM.
fn stop_signal(asked: cri::Signal, image: &str) -> i32 {
    let named = match asked {
        cri::Signal::RuntimeDefault => image.to_owned(),
        signal => signal.as_str_name().trim_start_matches("SIGNAL_").to_owned(),
    };
    if let Ok(number) = named.parse() {
        return number;
    }
    let name = named.to_ascii_uppercase().replace("MINUS", "-").replace("PLUS", "+");
    let name = name.trim_start_matches("SIG");
    let table = [
        ("ABRT", libc::SIGABRT),
        ("ALRM", libc::SIGALRM),
        ("BUS", libc::SIGBUS),
        ("CHLD", libc::SIGCHLD),
        ("CLD", libc::SIGCHLD),
        ("CONT", libc::SIGCONT),
        ("FPE", libc::SIGFPE),
        ("HUP", libc::SIGHUP),
        ("ILL", libc::SIGILL),
        ("INT", libc::SIGINT),
        ("IO", libc::SIGIO),
        ("IOT", libc::SIGIOT),
        ("KILL", libc::SIGKILL),
        ("PIPE", libc::SIGPIPE),
        ("POLL", libc::SIGPOLL),
        ("PROF", libc::SIGPROF),
        ("PWR", libc::SIGPWR),
        ("QUIT", libc::SIGQUIT),
        ("SEGV", libc::SIGSEGV),
        ("STKFLT", libc::SIGSTKFLT),
        ("STOP", libc::SIGSTOP),
        ("SYS", libc::SIGSYS),
        ("TERM", libc::SIGTERM),
        ("TRAP", libc::SIGTRAP),
        ("TSTP", libc::SIGTSTP),
        ("TTIN", libc::SIGTTIN),
        ("TTOU", libc::SIGTTOU),
        ("URG", libc::SIGURG),
        ("USR1", libc::SIGUSR1),
        ("USR2", libc::SIGUSR2),
        ("VTALRM", libc::SIGVTALRM),
        ("WINCH", libc::SIGWINCH),
        ("XCPU", libc::SIGXCPU),
        ("XFSZ", libc::SIGXFSZ),
    ];
    if let Some((_, number)) = table.iter().find(|(known, _)| *known == name) {
        return *number;
    }
    let offset = |rest: &str| if rest.is_empty() { Some(0) } else { rest[1..].parse::<i32>().ok() };
    let realtime = |prefix: &str, base: i32, sign: i32| {
        Some(base + sign * offset(name.strip_prefix(prefix)?)?)
    };
    realtime("RTMIN", 34, 1).or_else(|| realtime("RTMAX", 64, -1)).unwrap_or(libc::SIGTERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        let none = cri::Signal::RuntimeDefault;
        let table =
            [("", 15), ("SIGQUIT", 3), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)];
        for (name, number) in table {
            assert_eq!(stop_signal(none, name), number, "{name}");
        }
        assert_eq!(stop_signal(cri::Signal::Sigusr1, "SIGQUIT"), 10);
        assert_eq!(stop_signal(cri::Signal::Sigrtminplus3, ""), 37);
        assert_eq!(stop_signal(cri::Signal::Sigrtmaxminus14, ""), 50);
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, expected) in [("/a//b/./c/", "/a/b/c"), ("/a/../../b", "/b"), ("/", "/")] {
            assert_eq!(clean(path), expected);
        }
    }
}
