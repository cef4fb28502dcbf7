//! The room where the kernel is spoken to without a net: the repository's only `unsafe`. Called by
//! the runtime alone. What has a safe wrapper in rustix is not here.
//!
//! `supervisor.rs` and what is below it is a program of its own, compiled by the build script.

mod launch;
pub mod wire;

pub use launch::{Launch, LaunchError, Launched, launch};

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
pub static SUPERVISOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/supervisor"));
