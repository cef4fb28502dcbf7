//! User namespaces, and the namespaces that belong to one: made by a child that does nothing else.

#![allow(unsafe_code, reason = "clone3 and the ioctls of namespaces have no safe wrapper")]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A user namespace and the namespaces that were made with it.
pub struct UserNamespace {
    pub user: OwnedFd,
    /// In the order of [`KINDS`], those that were asked for.
    pub others: Vec<OwnedFd>,
}

/// What a user namespace may be made with: the clone flag and the name in /proc.
pub const KINDS: [(i32, &str); 3] =
    [(libc::CLONE_NEWNET, "net"), (libc::CLONE_NEWUTS, "uts"), (libc::CLONE_NEWIPC, "ipc")];

/// `_IO(0xb7, 1)`: the user namespace that a namespace belongs to.
const NS_GET_USERNS: libc::c_ulong = 0xb701;

/// Makes a user namespace with these maps (lines of `/proc/PID/uid_map`) and the namespaces of
/// `others` (`CLONE_NEW…`) in it. They live as long as the descriptors, or a process in them.
pub fn make_user_namespace(others: i32, uid_map: &str, gid_map: &str) -> io::Result<UserNamespace> {
    let (wait, hold) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let child = fork_into(libc::CLONE_NEWUSER | others, &wait, &hold)?;
    let made = open(&child, others, uid_map, gid_map);
    drop(hold); // The child ends.
    let _ = rustix::process::waitid(
        rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&child.pidfd)),
        rustix::process::WaitIdOptions::EXITED,
    );
    made
}

/// The user namespace that another namespace belongs to.
pub fn owner_of(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the ioctl takes no argument and answers with a new descriptor, which is nobody else's.
    unsafe {
        let fd = libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

struct Child {
    pid: libc::pid_t,
    pidfd: OwnedFd,
}

/// A copy of this process that waits until the last copy of `hold` but its own is closed, and ends.
fn fork_into(flags: i32, wait: &OwnedFd, hold: &OwnedFd) -> io::Result<Child> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: clone3 with an empty stack is a fork. The child makes four system calls on memory of
    // its own, by the bare call: no lock of the parent's threads matters to it.
    unsafe {
        let mut args: libc::clone_args = std::mem::zeroed();
        args.flags = (flags | libc::CLONE_PIDFD) as u32 as u64;
        args.pidfd = (&raw mut pidfd) as u64;
        args.exit_signal = libc::SIGCHLD as u64;
        let pid =
            libc::syscall(libc::SYS_clone3, &raw mut args, std::mem::size_of_val(&args)) as i32;
        if pid == 0 {
            let mut byte = 0u8;
            libc::syscall(libc::SYS_close, hold.as_raw_fd());
            libc::syscall(libc::SYS_read, wait.as_raw_fd(), &raw mut byte, 1);
            loop {
                libc::syscall(libc::SYS_exit_group, 0);
            }
        }
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Child { pid, pidfd: OwnedFd::from_raw_fd(pidfd) })
    }
}

fn open(child: &Child, others: i32, uid_map: &str, gid_map: &str) -> io::Result<UserNamespace> {
    let process = format!("/proc/{}", child.pid);
    fs::write(format!("{process}/uid_map"), uid_map)?;
    fs::write(format!("{process}/gid_map"), gid_map)?;
    let namespace = |kind: &str| Ok(File::open(format!("{process}/ns/{kind}"))?.into());
    let wanted = KINDS.iter().filter(|(flag, _)| others & flag != 0);
    Ok(UserNamespace {
        user: namespace("user")?,
        others: wanted.map(|(_, kind)| namespace(kind)).collect::<io::Result<_>>()?,
    })
}
