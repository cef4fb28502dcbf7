//! What to run and where, compiled into programs for a supervisor's child. Pure: a plan is made from
//! what the caller looked up, and executes nothing.

mod container;
mod mounts;
mod process;
mod users;

pub use container::{Container, compile as container};
pub use mounts::{Kind, Mount, Source, attribute};
pub use process::{Process, exec, exec_failure, pause};
pub use users::Users;

use super::program::{Adjust, Program, SCRATCH};
use rustix::io::Errno;
use std::path::PathBuf;

const AT_FDCWD: u64 = libc::AT_FDCWD as i64 as u64;

/// Enters v1 groups, which nobody can be born into.
fn join_cgroups(program: &mut Program, procs: &[PathBuf]) {
    for path in procs {
        let path = path.to_string_lossy();
        let address = program.text(&path);
        let zero = program.text("0");
        let flags = (libc::O_WRONLY | libc::O_CLOEXEC) as u64;
        program.scratch(format!("open {path}"), libc::SYS_openat, &[AT_FDCWD, address, flags]);
        program
            .step(format!("enter the cgroup of {path}"), libc::SYS_write, &[0, zero, 1])
            .from(0, SCRATCH);
        program.step("close the cgroup", libc::SYS_close, &[0]).from(0, SCRATCH);
    }
}

/// How soon the kernel kills it for want of memory. Lowering takes a privilege the node may lack.
fn adjust_oom_score(program: &mut Program, score: Option<i64>) {
    let Some(score) = score else { return };
    let path = program.text("/proc/self/oom_score_adj");
    let text = score.to_string();
    let value = program.text(&text);
    let flags = (libc::O_WRONLY | libc::O_CLOEXEC) as u64;
    program.scratch("open oom_score_adj", libc::SYS_openat, &[AT_FDCWD, path, flags]);
    program
        .step("set oom_score_adj", libc::SYS_write, &[0, value, text.len() as u64])
        .from(0, SCRATCH)
        .tolerate(&[Errno::ACCESS, Errno::PERM]);
    program.step("close oom_score_adj", libc::SYS_close, &[0]).from(0, SCRATCH);
}
