//! Entering a pod's user namespace: the last thing that happens with the node's powers.

use super::super::program::{Adjust, Program};

/// What a program needs to know of the pod's user namespace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Users {
    /// The pod's root on the node.
    pub root: (u32, u32),
    /// The group of terminals on the node, if the pod has it.
    pub terminals: Option<u32>,
    /// The process's own user on the node.
    pub user: u32,
}

/// Enters the user namespace that `fd` refers to. A pipe belongs to who made it: the process gets its
/// own, so that it can open `/dev/stdout`.
pub fn enter(program: &mut Program, users: &Users, fd: i32, pipes: &[u64]) {
    own_pipes(program, pipes, users.user);
    let kind = libc::CLONE_NEWUSER as u64;
    program.step("enter the user namespace", libc::SYS_setns, &[fd as u64, kind]);
}

/// Gives pipes to a user (of the user namespace the process is in).
pub fn own_pipes(program: &mut Program, pipes: &[u64], user: u32) {
    let nobody = u64::from(u32::MAX);
    for pipe in pipes {
        let args = [*pipe, u64::from(user), nobody];
        program.step("own the output", libc::SYS_fchown, &args).tolerate_all();
    }
}
