//! Starting a supervisor in new namespaces, without copying the memory of this process.

#![allow(unsafe_code, reason = "clone with shared memory has no safe wrapper")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What a supervisor is started with.
pub struct Launch<'a> {
    pub executable: BorrowedFd<'a>,
    /// What `ps` shows.
    pub name: CString,
    /// The listening socket that it serves.
    pub listen: BorrowedFd<'a>,
    /// `CLONE_NEW…` of the pod's namespaces.
    pub namespaces: i32,
    /// Namespaces of the pod that are there already.
    pub join: Vec<OwnedFd>,
    /// Set in a new UTS namespace.
    pub hostname: Option<CString>,
    /// Files to write within the new namespaces (sysctls); failures are errors.
    pub writes: Vec<(CString, Vec<u8>)>,
    /// `cgroup.procs` files to enter, before the namespaces are left alone.
    pub cgroups: Vec<CString>,
}

pub struct Launched {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("clone the supervisor")]
    Clone(#[source] io::Error),
    #[error("{step} for the supervisor")]
    Prepare {
        step: String,
        #[source]
        source: io::Error,
    },
}

/// What the child reads, and where it says how it failed: the memory is shared.
struct Child<'a> {
    launch: &'a Launch<'a>,
    argv: [*const c_char; 2],
    environment: [*const c_char; 1],
    failed: Option<(&'static CStr, *const CStr, c_int)>,
}

const STACK: usize = 64 * 1024;

/// Starts the supervisor and returns once it executes. Takes as long as making the namespaces
/// does, so it is called where blocking is allowed.
pub fn launch(launch: &Launch<'_>) -> Result<Launched, LaunchError> {
    let mut child = Child {
        launch,
        argv: [launch.name.as_ptr(), std::ptr::null()],
        environment: [std::ptr::null()],
        failed: None,
    };
    let mut stack = vec![0u128; STACK / 16];
    let flags =
        libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD | launch.namespaces;
    let mut pidfd: c_int = -1;
    // SAFETY: the child runs on a stack of its own; CLONE_VFORK suspends this thread until the child
    // has executed or exited, so the stack and `child` outlive its use of them, and with all signals
    // blocked no handler of ours runs in it. It calls only async-signal-safe functions.
    let pid = unsafe {
        let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let top = stack.as_mut_ptr().add(stack.len()).cast::<c_void>();
        let argument = (&raw mut child).cast::<c_void>();
        let pid = libc::clone(enter, top, flags, argument, &raw mut pidfd);
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        if pid < 0 {
            return Err(LaunchError::Clone(error));
        }
        pid
    };
    // SAFETY: clone succeeded and stored a descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    match child.failed {
        None => Ok(Launched { pid, pidfd }),
        Some((step, object, errno)) => {
            // SAFETY: it points to a string literal or into `launch`, which lives.
            let object = unsafe { (*object).to_string_lossy() };
            let step = format!("{} {object}", step.to_string_lossy());
            let _ = rustix::process::waitid(
                rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)),
                rustix::process::WaitIdOptions::EXITED,
            );
            Err(LaunchError::Prepare { step, source: io::Error::from_raw_os_error(errno) })
        }
    }
}

extern "C" fn enter(argument: *mut c_void) -> c_int {
    // SAFETY: `launch` passes its own `Child` and is suspended while this runs.
    let child = unsafe { &mut *argument.cast::<Child>() };
    if let Err((step, object)) = prepare_and_execute(child) {
        // SAFETY: errno of this thread, which is the suspended parent's as well.
        let errno = unsafe { *libc::__errno_location() };
        child.failed = Some((step, object, errno));
    }
    // SAFETY: ends the child without running the parent's exit handlers.
    unsafe { libc::_exit(127) }
}

/// In the child: no allocation, no locks. Returns only to say what failed.
fn prepare_and_execute(child: &Child) -> Result<(), (&'static CStr, *const CStr)> {
    let launch = child.launch;
    let nothing: *const CStr = c"";
    // SAFETY: plain system calls on live, NUL-terminated strings and owned descriptors.
    unsafe {
        for path in &launch.cgroups {
            write_file(path, b"0")
                .map_err(|()| (c"enter cgroup", path.as_c_str() as *const CStr))?;
        }
        for namespace in &launch.join {
            if libc::setns(namespace.as_raw_fd(), 0) != 0 {
                return Err((c"enter a namespace", nothing));
            }
        }
        if let Some(name) = &launch.hostname
            && libc::sethostname(name.as_ptr(), name.as_bytes().len()) != 0
        {
            return Err((c"set hostname", name.as_c_str()));
        }
        for (path, value) in &launch.writes {
            write_file(path, value)
                .map_err(|()| (c"set sysctl", path.as_c_str() as *const CStr))?;
        }
        // A handler is reset by execve, an ignored signal is not: containers must not inherit it.
        // By the bare call: libc keeps two signals for itself.
        let default = [0u64; 4];
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), 0, 8);
        }
        libc::setsid();
        libc::umask(0o022);
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        if null < 0 {
            return Err((c"open", c"/dev/null"));
        }
        // Out of the way of what comes next.
        let executable = libc::fcntl(launch.executable.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10);
        if executable < 0 {
            return Err((c"pass the executable", nothing));
        }
        if launch.listen.as_raw_fd() == 3 {
            libc::fcntl(3, libc::F_SETFD, 0);
        } else if libc::dup2(launch.listen.as_raw_fd(), 3) < 0 {
            return Err((c"pass the socket", nothing));
        }
        for fd in 0..3 {
            libc::dup2(null, fd);
        }
        libc::syscall(libc::SYS_close_range, 4, executable - 1, 0);
        libc::syscall(libc::SYS_close_range, executable + 1, u32::MAX, 0);
        libc::chdir(c"/".as_ptr());
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        let (argv, environment) = (child.argv.as_ptr(), child.environment.as_ptr());
        let (path, empty) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
        libc::syscall(libc::SYS_execveat, executable, path, argv, environment, empty);
    }
    Err((c"execute", nothing))
}

/// # Safety
/// To be called in the child only.
unsafe fn write_file(path: &CStr, value: &[u8]) -> Result<(), ()> {
    // SAFETY: a live string and a live buffer.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return Err(());
        }
        let written = libc::write(fd, value.as_ptr().cast(), value.len());
        libc::close(fd);
        if written < 0 { Err(()) } else { Ok(()) }
    }
}
