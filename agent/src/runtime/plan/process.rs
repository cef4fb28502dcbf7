//! The second half of every program: from "ready" to the command. Also whole programs that need
//! no file system of their own: commands in a running container, and the pod's first process.

use caps::Capability;
use rustix::io::Errno;

use super::super::capabilities::{Capabilities, mask};
use super::super::program::{Adjust, Program, SCRATCH};
use super::super::seccomp::Filter;
use super::super::sys::wire::{EXTRA_FD, MASTER_FD, NR_FAIL, NR_READY};
use super::super::users::User;
use super::users::{Users, enter, own_pipes};
use super::{AT_FDCWD, adjust_oom_score, join_cgroups};

/// A command and what it runs as.
#[derive(Clone, Debug, Default)]
pub struct Process {
    pub command: Vec<String>,
    /// `NAME=value`
    pub environment: Vec<Vec<u8>>,
    pub folder: String,
    pub user: User,
    pub capabilities: Capabilities,
    pub no_new_privileges: bool,
    pub seccomp: Option<Filter>,
    /// The AppArmor profile to execute under.
    pub apparmor: Option<String>,
    pub tty: bool,
    /// Which of the first three descriptors are pipes of the process's own; others may be the node's
    /// /dev/null.
    pub pipes: Vec<u64>,
    pub oom_score_adj: Option<i64>,
    /// Soft and hard limit of open files.
    pub open_files: (u64, u64),
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command in a running container, which comes as a pidfd, the first extra descriptor.
pub fn exec(process: &Process, cgroups: &[std::path::PathBuf], users: Option<&Users>) -> Program {
    let mut program = Program::default();
    join_cgroups(&mut program, cgroups);
    adjust_oom_score(&mut program, process.oom_score_adj);
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP;
    program.step("enter the container", libc::SYS_setns, &[EXTRA_FD as u64, namespaces as u64]);
    program.step("start a session", libc::SYS_setsid, &[]);
    if process.tty {
        open_terminal(&mut program, users.map_or(process.user.uid, |users| users.user));
    }
    if let Some(users) = users {
        enter(&mut program, users, EXTRA_FD, &process.pipes);
    }
    run(&mut program, process);
    program
}

/// The first process of a pod whose containers share a pid namespace: it stays, and lets go of
/// whatever processes are left to it.
/// With `users` the pod has a user namespace, the first extra descriptor.
pub fn pause(users: Option<&Users>) -> Program {
    let mut program = Program::default();
    if let Some(users) = users {
        enter(&mut program, users, EXTRA_FD, &[]);
    }
    program.step("start a session", libc::SYS_setsid, &[]);
    // Ignoring SIGCHLD is how a process says that its children need no waiting for.
    let action = program.words(&[libc::SIG_IGN as u64, 0, 0, 0]);
    program.step("ignore children", libc::SYS_rt_sigaction, &[libc::SIGCHLD as u64, action, 0, 8]);
    program.pseudo("wait for the start", NR_READY);
    // As if it had executed something: the report's end is what says "running".
    program.step("close everything", libc::SYS_close_range, &[3, u64::from(u32::MAX), 0]);
    program.step("stay", libc::SYS_ppoll, &[0, 0, 0, 0, 0]).tolerate_all();
    program
}

/// Opens a terminal in the container: its master side goes to `MASTER_FD`, the other to stdio.
pub fn open_terminal(program: &mut Program, uid: u32) {
    let path = program.text("/dev/pts/ptmx");
    let flags = (libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) as u64;
    let master = program.saved("open a terminal", libc::SYS_openat, &[AT_FDCWD, path, flags]);
    let unlocked = program.words(&[0]);
    let ioctl = libc::SYS_ioctl;
    program.step("unlock the terminal", ioctl, &[0, libc::TIOCSPTLCK, unlocked]).from(0, master);
    let flags = (libc::O_RDWR | libc::O_NOCTTY) as u64;
    let slave = program.saved("open the terminal's end", ioctl, &[0, libc::TIOCGPTPEER, flags]);
    program.last().from(0, master);
    let keep = libc::O_CLOEXEC as u64;
    // Where it belongs it may be already, which dup3 calls invalid.
    program
        .step("keep the terminal", libc::SYS_dup3, &[0, MASTER_FD as u64, keep])
        .from(0, master)
        .tolerate(&[Errno::INVAL]);
    for fd in 0..3 {
        program.step("use the terminal", libc::SYS_dup3, &[0, fd, 0]).from(0, slave);
    }
    program.step("control the terminal", ioctl, &[0, libc::TIOCSCTTY, 0]);
    program
        .step("own the terminal", libc::SYS_fchown, &[0, u64::from(uid), u64::from(u32::MAX)])
        .tolerate_all();
}

/// Waits for the word, takes the user's ids and powers, executes.
pub fn run(program: &mut Program, process: &Process) {
    program.pseudo("wait for the start", NR_READY);
    let folder = program.text(&process.folder);
    program.step(format!("chdir to \"{}\"", process.folder), libc::SYS_chdir, &[folder]);
    let limits = program.words(&[process.open_files.0, process.open_files.1]);
    let nofile = libc::RLIMIT_NOFILE as u64;
    program
        .step("limit open files", libc::SYS_prlimit64, &[0, nofile, limits, 0])
        .tolerate(&[Errno::PERM]);
    if process.user.uid != 0 {
        own_pipes(program, &process.pipes, process.user.uid); // So that /dev/stdout can be opened.
    }
    confine(program, process);
    if !process.no_new_privileges {
        filter(program, process); // Takes a privilege that is about to go.
    }
    credentials(program, process);
    if process.no_new_privileges {
        program.step("set no_new_privs", libc::SYS_prctl, &[libc::PR_SET_NO_NEW_PRIVS as u64, 1]);
        filter(program, process);
    }
    execute(program, process);
}

fn filter(program: &mut Program, process: &Process) {
    let Some(filter) = &process.seccomp else { return };
    let code = program.bytes(&filter.code);
    // struct sock_fprog: a count of 8-byte instructions, then their address.
    let header = program.words(&[filter.code.len() as u64 / 8, code]);
    let (call, mode) = (libc::SYS_seccomp, u64::from(libc::SECCOMP_SET_MODE_FILTER));
    program.step("load the seccomp filter", call, &[mode, filter.flags, header]);
}

/// Says under which AppArmor profile the command is to be executed.
fn confine(program: &mut Program, process: &Process) {
    let Some(profile) = &process.apparmor else { return };
    let value = format!("exec {profile}");
    let (path, text) = (program.text("/proc/thread-self/attr/apparmor/exec"), program.text(&value));
    let flags = (libc::O_WRONLY | libc::O_CLOEXEC) as u64;
    program.scratch("open the AppArmor attribute", libc::SYS_openat, &[AT_FDCWD, path, flags]);
    let name = format!("apply AppArmor profile {profile}");
    program.step(name, libc::SYS_write, &[0, text, value.len() as u64]).from(0, SCRATCH);
    program.step("close the AppArmor attribute", libc::SYS_close, &[0]).from(0, SCRATCH);
}

fn credentials(program: &mut Program, process: &Process) {
    let permitted = mask(&process.capabilities.permitted);
    let prctl = libc::SYS_prctl;
    for capability in 0..64u64 {
        if permitted & (1 << capability) == 0
            && capability <= u64::from(Capability::CAP_CHECKPOINT_RESTORE.index())
        {
            program
                .step("drop a capability", prctl, &[libc::PR_CAPBSET_DROP as u64, capability])
                .tolerate(&[Errno::INVAL]);
        }
    }
    program.step("keep capabilities", prctl, &[libc::PR_SET_KEEPCAPS as u64, 1]);
    let groups: Vec<u8> =
        process.user.groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
    let address = program.bytes(&groups);
    let (uid, gid) = (u64::from(process.user.uid), u64::from(process.user.gid));
    program.step("set groups", libc::SYS_setgroups, &[process.user.groups.len() as u64, address]);
    program.step(format!("set gid {gid}"), libc::SYS_setresgid, &[gid, gid, gid]);
    program.step(format!("set uid {uid}"), libc::SYS_setresuid, &[uid, uid, uid]);
    let ambient = mask(&process.capabilities.ambient);
    let halves = |mask: u64| (mask & 0xffff_ffff, mask >> 32);
    let ((low, high), (inherit_low, inherit_high)) = (halves(permitted), halves(ambient));
    let header = program.words(&[0x2008_0522]);
    // Two of (effective, permitted, inheritable), 32 bits each.
    let data =
        program.words(&[low | low << 32, inherit_low | high << 32, high | inherit_high << 32]);
    program.step("set capabilities", libc::SYS_capset, &[header, data]);
    for capability in &process.capabilities.ambient {
        let args = [
            libc::PR_CAP_AMBIENT as u64,
            libc::PR_CAP_AMBIENT_RAISE as u64,
            u64::from(capability.index()),
            0,
            0,
        ];
        program.step("raise an ambient capability", prctl, &args);
    }
}

/// Executes the command, looked for in the process's own `PATH` unless it names a path.
fn execute(program: &mut Program, process: &Process) {
    let cloexec = 1 << 2;
    program.step("mark descriptors", libc::SYS_close_range, &[3, u64::from(u32::MAX), cloexec]);
    let argv = program.strings(&process.command);
    let environment = program.strings(&process.environment);
    let name = process.command.first().map(String::as_str).unwrap_or_default();
    if name.contains('/') {
        let path = program.text(name);
        program.step(format!("exec: \"{name}\""), libc::SYS_execve, &[path, argv, environment]);
        return;
    }
    let search = process.environment.iter().find_map(|variable| variable.strip_prefix(b"PATH="));
    let search = search.map_or(DEFAULT_PATH.into(), String::from_utf8_lossy);
    for folder in search.split(':') {
        let folder = if folder.is_empty() { "." } else { folder };
        let path = program.text(&format!("{folder}/{name}"));
        program
            .step(format!("exec: \"{name}\""), libc::SYS_execve, &[path, argv, environment])
            .tolerate(&[Errno::NOENT, Errno::NOTDIR, Errno::ACCESS]);
    }
    program.pseudo(format!("exec: \"{name}\""), NR_FAIL);
}

/// What is said when executing `name` failed, in the words that users of Kubernetes know.
pub fn exec_failure(name: &str, error: &std::io::Error) -> Option<String> {
    let reason = match error.raw_os_error()? {
        libc::ENOENT | libc::ENOTDIR if !name.contains('/') => {
            "executable file not found in $PATH".to_owned()
        }
        libc::ENOENT => format!("stat {name}: no such file or directory"),
        libc::EACCES => "permission denied".to_owned(),
        libc::ENOEXEC => "exec format error".to_owned(),
        libc::EISDIR => "is a directory".to_owned(),
        _ => error.to_string(),
    };
    Some(format!("exec: \"{name}\": {reason}"))
}
