//! The room where the kernel is spoken to without a net: the repository's only `unsafe`. Called by
//! the runtime alone. What has a safe wrapper in rustix is not here.
//!
//! `supervisor.rs` and what is below it is a program of its own, compiled by the build script.

mod bpf;
mod launch;
mod namespaces;
pub mod wire;

pub use bpf::{attach_device_filter, load_device_filter};
pub use launch::{Launch, LaunchError, Launched, launch};
pub use namespaces::{UserNamespace, make_user_namespace, owner_of};

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Makes a non-blocking descriptor one that tasks can wait for.
#[allow(unsafe_code, reason = "registering asks that the descriptor stays what it is")]
pub fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and nobody else's, and AsyncFd owns it from here on.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}

/// The supervisor's executable.
static SUPERVISOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/supervisor"));

/// The supervisor's executable in memory that nobody can write to, whatever he may do: a container's
/// process is the supervisor's for a moment, and what it executes must not be for it to change.
/// `name` is what `/proc/PID/exe` shows.
pub fn supervisor_executable(name: &str) -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 there is no such flag, and no need of it.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags)?,
        result => result?,
    };
    let mut written = 0;
    while written < SUPERVISOR.len() {
        written += rustix::io::write(&file, &SUPERVISOR[written..])?;
    }
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}
