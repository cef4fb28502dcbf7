//! From CRI's words to a plan: what a request, its sandbox and its image say together about a
//! container. Looks things up on the node (does a mount's source exist, who is `www-data`), changes
//! nothing.

mod devices;
mod mounts;
mod resources;
mod signal;

use std::fs;
use std::path::{Path, PathBuf};

use proto::cri;

use super::apparmor;
use super::capabilities::Capabilities;
use super::cgroup::devices::Rule;
use super::engine::{Engine, Error};
use super::images::Image;
use super::plan::{Container, Process, Users};
use super::sandbox::namespaces;
use super::seccomp;
use super::state::{ContainerRecord, Environment, SandboxRecord};
use super::userns::Mappings;
use super::users::{Accounts, User};
use mounts::Mounts;
pub use resources::{limits, merge_resources, with_overhead};
use signal::stop_signal;

/// Everything that a container is made of, beside its request.
pub struct Inputs<'a> {
    pub engine: &'a Engine,
    pub sandbox: &'a SandboxRecord,
    pub sandbox_folder: PathBuf,
    pub folder: PathBuf,
    pub image: &'a Image,
    /// The ids of a pod with a user namespace.
    pub users: Option<&'a Mappings>,
}

/// A container's plan, and what must be there for it.
pub struct Blueprint {
    pub container: Container,
    /// User namespaces to make: their descriptors follow the pod's.
    pub users: Vec<Mappings>,
    /// Images to keep, and where they are mounted.
    pub images: Vec<(String, Image)>,
    /// Which devices may be used; `None` is all of them.
    pub devices: Option<Vec<Rule>>,
}

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const OPEN_FILES: u64 = 1_048_576;

/// The plan of a container. Notes in the record what later calls need.
pub fn container(
    inputs: &Inputs<'_>,
    config: &cri::ContainerConfig,
    record: &mut ContainerRecord,
) -> Result<Blueprint, Error> {
    let linux = config.linux.clone().unwrap_or_default();
    let context = linux.security_context.clone().unwrap_or_default();
    refuse_unsupported(inputs, &context)?;
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
    record.seccomp = seccomp::profile(&context)?;
    record.apparmor = apparmor::profile(&context)?.unwrap_or_default();
    let mut process = process(record, config)?;
    process.command = command(config, inputs.image)?;
    process.oom_score_adj = linux.resources.as_ref().map(|resources| resources.oom_score_adj);
    process.pipes = if config.tty { Vec::new() } else { vec![1, 2] };
    if config.stdin && !config.tty {
        process.pipes.push(0);
    }
    let users = inputs.users.map(|mappings| users(mappings, &process.user)).transpose()?;
    let devices = devices::devices(config, context.privileged)?;
    let Mounts { mounts, users: others, images } =
        mounts::mounts(inputs, config, context.readonly_rootfs)?;
    let container = Container {
        process,
        cgroups: Vec::new(),
        layers,
        mapped_layers: inputs.folder.join("layers"),
        lower,
        upper: inputs.folder.join("upper"),
        work: inputs.folder.join("work"),
        root: inputs.folder.join("rootfs"),
        readonly_root: context.readonly_rootfs,
        privileged: context.privileged,
        users,
        mounts,
        devices: devices.bound,
        nodes: devices.made,
        cgroup_controllers: engine.cgroups.visible(),
        cgroup_v2: engine.cgroups.mode() == "v2",
        masked: if context.privileged { Vec::new() } else { context.masked_paths.clone() },
        readonly: if context.privileged { Vec::new() } else { context.readonly_paths.clone() },
    };
    Ok(Blueprint { container, users: others, images, devices: devices.rules })
}

/// What programs need to know of the pod's user namespace, for a process of this user.
pub fn users(mappings: &Mappings, user: &User) -> Result<Users, Error> {
    let missing = |what: &str, id: u32| {
        Error::Invalid(format!("{what} {id} is not mapped in the pod's user namespace"))
    };
    for group in user.groups.iter().chain([&user.gid]) {
        mappings.gid(*group).ok_or_else(|| missing("group", *group))?;
    }
    Ok(Users {
        root: (
            mappings.uid(0).ok_or_else(|| missing("user", 0))?,
            mappings.gid(0).ok_or_else(|| missing("group", 0))?,
        ),
        terminals: mappings.gid(5),
        user: mappings.uid(user.uid).ok_or_else(|| missing("user", user.uid))?,
    })
}

/// The process of a container but for its command: what commands executed in it run as, too.
pub fn process(record: &ContainerRecord, config: &cri::ContainerConfig) -> Result<Process, Error> {
    let context =
        config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default();
    let change = context.capabilities.clone().unwrap_or_default();
    let capabilities = Capabilities::new(context.privileged, &change)
        .map_err(|error| Error::Invalid(error.to_string()))?;
    let seccomp = seccomp::filter(&context, record.seccomp.as_ref(), &capabilities.permitted)?;
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
        apparmor: Some(record.apparmor.clone()).filter(|profile| !profile.is_empty()),
        tty: config.tty,
        pipes: Vec::new(),
        oom_score_adj: None,
        open_files: (limit.min(OPEN_FILES), limit),
    })
}

/// Without SELinux there is nothing that a label could mean, and nothing to refuse.
pub fn refuse_label(label: Option<&cri::SeLinuxOption>) -> Result<(), Error> {
    let labelled = label.is_some_and(|options| *options != cri::SeLinuxOption::default());
    if labelled && Path::new("/sys/fs/selinux/enforce").exists() {
        return Err(Error::Invalid("an SELinux label is not supported".into()));
    }
    Ok(())
}

fn refuse_unsupported(
    inputs: &Inputs<'_>,
    context: &cri::LinuxContainerSecurityContext,
) -> Result<(), Error> {
    refuse_label(context.selinux_options.as_ref())?;
    let asked = context.namespace_options.as_ref().filter(|asked| asked.userns_options.is_some());
    if let Some(asked) = asked {
        let pod = inputs.sandbox.config.as_ref().map(namespaces).unwrap_or_default();
        if Mappings::of_pod(asked)? != Mappings::of_pod(&pod)? {
            return Err(Error::Invalid(
                "the container's user namespace is not the one of its sandbox".into(),
            ));
        }
    }
    Ok(())
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
