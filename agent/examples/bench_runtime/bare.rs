//! What the kernel takes for a pod, and nothing else: namespaces by clone3, the mounts of a
//! container, a veth pair and exec.

#![allow(unsafe_code, reason = "clone3 and execve have no safe wrapper")]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use agent::net::netlink::{Netlink, Request, Veth};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use rustix::process::{Pid, Signal, WaitOptions, chdir, kill_process, pivot_root, waitpid};

pub struct Bare {
    process: Pid,
    link: String,
}

const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWCGROUP;

/// Returns when it runs: a process that sleeps over the files of `bundle`. `folder` is its own.
pub fn start(bundle: &Path, folder: &Path, link: String) -> Bare {
    for name in ["upper", "work", "root"] {
        std::fs::create_dir_all(folder.join(name)).expect("a directory");
    }
    let text = |text: String| CString::new(text).expect("no zero byte");
    let root = text(folder.join("root").display().to_string());
    let overlay = text(format!(
        "lowerdir={},upperdir={},workdir={}",
        bundle.join("rootfs").display(),
        folder.join("upper").display(),
        folder.join("work").display()
    ));
    let (runs, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    let process = fork_into(&root, &overlay);
    drop(end);
    let namespace = File::open(format!("/proc/{}/ns/net", process.as_raw_pid()));
    let veth = Veth {
        name: &link,
        bridge: None,
        peer: "eth0",
        peer_namespace: Some(namespace.as_ref().expect("it has a network").as_fd()),
        peer_mac: None,
        mtu: 1500,
    };
    let netlink = Netlink::open().expect("netlink");
    netlink.apply(vec![Request::veth(&veth)]).expect("a veth pair");
    until_exec(&runs);
    Bare { process, link }
}

impl Bare {
    pub fn end(self) {
        kill_process(self.process, Signal::KILL).expect("it is there");
        waitpid(Some(self.process), WaitOptions::empty()).expect("it ends");
        let netlink = Netlink::open().expect("netlink");
        // It goes with its namespace, now or a moment later.
        let _ = netlink.apply(vec![Request::delete_link(&self.link)]);
    }
}

/// The last copy of the pipe's other end is closed by exec, without a word.
fn until_exec(runs: &OwnedFd) {
    let mut word = [0; 1];
    let said = rustix::io::read(runs, &mut word).expect("a pipe can be read");
    assert_eq!(said, 0);
}

fn fork_into(root: &CStr, overlay: &CStr) -> Pid {
    // SAFETY: clone3 with an empty stack is a fork; the child makes system calls on memory that was
    // there before, takes no lock and allocates nothing.
    unsafe {
        let mut args: libc::clone_args = std::mem::zeroed();
        args.flags = NAMESPACES as u32 as u64;
        args.exit_signal = libc::SIGCHLD as u64;
        let pid =
            libc::syscall(libc::SYS_clone3, &raw mut args, std::mem::size_of_val(&args)) as i32;
        if pid == 0 {
            let ended = mounts(root, overlay).is_ok();
            let arguments = [c"sleep".as_ptr(), c"1000".as_ptr(), std::ptr::null()];
            let environment = [std::ptr::null()];
            if ended {
                libc::execve(c"/bin/sleep".as_ptr(), arguments.as_ptr(), environment.as_ptr());
            }
            libc::_exit(1);
        }
        Pid::from_raw(pid).expect("clone3 makes a process")
    }
}

/// Those that every container has.
fn mounts(root: &CStr, overlay: &CStr) -> rustix::io::Result<()> {
    let (none, read_only) = (MountFlags::empty(), MountFlags::RDONLY);
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount(c"overlay", root, c"overlay", none, overlay)?;
    chdir(root)?;
    for (kind, place, flags) in
        [(c"proc", c"proc", none), (c"tmpfs", c"dev", none), (c"sysfs", c"sys", read_only)]
    {
        // The image may have them.
        let _ = rustix::fs::mkdir(place, rustix::fs::Mode::RWXU);
        mount(kind, place, kind, flags, None)?;
    }
    for (kind, place) in
        [(c"devpts", c"dev/pts"), (c"tmpfs", c"dev/shm"), (c"mqueue", c"dev/mqueue")]
    {
        rustix::fs::mkdir(place, rustix::fs::Mode::RWXU)?;
        mount(kind, place, kind, none, None)?;
    }
    pivot_root(c".", c".")?;
    unmount(c".", UnmountFlags::DETACH)
}
