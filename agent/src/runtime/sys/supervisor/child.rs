//! Making a process, and what it does until it is its command.

use core::ptr::addr_of_mut;

use super::{Slot, calls::*};
use crate::wire::{self, Request, Step, flag, phase};

/// The report of a process that waits for the word; other reports name the failed step.
pub const READY: u32 = u32::MAX;

const CLONE_PIDNS: u64 = 0x2000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The descriptors of a request, by meaning; 0 when absent.
struct Given<'a> {
    program: i32,
    record: i32,
    log: i32,
    pidns: i32,
    cgroup: i32,
    stdio: [i32; 3],
    extras: &'a [i32],
}

/// Makes a process from the request and fills the slot. On error nothing is left open.
pub fn spawn(request: &Request, fds: &[i32], slot: &mut Slot, own_pidns: i32) -> Result<(), i64> {
    let announced = 1 + (request.flags & 0x7f).count_ones() as usize;
    if fds.len() != announced + request.extras as usize {
        fds.iter().for_each(|fd| close(*fd));
        return Err(22);
    }
    let mut at = 1;
    let mut next = |bit: u32| {
        let present = request.flags & bit != 0;
        at += usize::from(present);
        if present { fds[at - 1] } else { 0 }
    };
    let mut given = Given {
        program: fds[0],
        record: next(flag::RECORD),
        log: next(flag::LOG),
        pidns: next(flag::PIDNS),
        cgroup: next(flag::CGROUP),
        stdio: [next(flag::STDIN), next(flag::STDOUT), next(flag::STDERR)],
        extras: &fds[announced..],
    };

    let (mut status, mut go, mut input) = ([0i32; 2], [0i32; 2], [0i32; 2]);
    let mut output = [[0i32; 2]; 2];
    let mut failed = pipe(&mut status) | pipe(&mut go);
    if request.flags & flag::STDIN_PIPE != 0 {
        failed |= pipe(&mut input);
        given.stdio[0] = input[0];
    }
    if request.flags & (flag::LOG | flag::TTY) == flag::LOG {
        for (index, ends) in output.iter_mut().enumerate() {
            failed |= pipe(ends);
            given.stdio[index + 1] = ends[1];
        }
    }
    let pid = if failed < 0 {
        failed
    } else {
        if given.pidns > 0 {
            call(SYS_SETNS, [given.pidns as u64, CLONE_PIDNS, 0, 0, 0, 0]);
        }
        let pid = fork(request.clone_flags, given.cgroup);
        if given.pidns > 0 && pid != 0 {
            call(SYS_SETNS, [own_pidns as u64, CLONE_PIDNS, 0, 0, 0, 0]);
        }
        pid
    };
    if pid == 0 {
        run(request, &given, status[1], go[0]);
    }

    let mut spare = [given.program, given.pidns, given.cgroup, status[1], go[0], 0, 0, 0];
    spare[5..8].copy_from_slice(&given.stdio);
    spare.iter().chain(given.extras).for_each(|fd| close(*fd));
    if pid < 0 {
        for fd in [given.record, given.log, status[0], go[1], input[1], output[0][0], output[1][0]]
        {
            close(fd);
        }
        return Err(-pid);
    }
    nonblocking(status[0]);
    slot.state = super::EVENT;
    slot.state.phase = phase::SPAWNED;
    slot.state.key = request.key;
    slot.state.pid = pid as i32;
    slot.state.stdin_fd = input[1];
    slot.flags = request.flags;
    (slot.status, slot.go) = (status[0], go[1]);
    (slot.record, slot.log) = (given.record, given.log);
    slot.sinks = [(0, 0); super::SINKS];
    for (index, ends) in output.iter().enumerate() {
        if ends[0] > 0 {
            nonblocking(ends[0]);
        }
        slot.streams[index].open(ends[0]);
    }
    Ok(())
}

/// A copy of a descriptor of another process, or 0.
pub fn fetch(pid: i32, fd: i32) -> i32 {
    let process = call(SYS_PIDFD_OPEN, [pid as u64, 0, 0, 0, 0, 0]);
    if process < 0 {
        return 0;
    }
    let copy = call(SYS_PIDFD_GETFD, [process as u64, fd as u64, 0, 0, 0, 0]);
    close(process as i32);
    copy.max(0) as i32
}

fn pipe(ends: &mut [i32; 2]) -> i64 {
    call(SYS_PIPE2, [addr_of_mut!(*ends) as u64, CLOEXEC, 0, 0, 0, 0])
}

/// A plain fork (this process is a few pages) into new namespaces and a cgroup.
fn fork(flags: u64, cgroup: i32) -> i64 {
    let mut args = [0u64; 11];
    args[0] = flags | if cgroup > 0 { CLONE_INTO_CGROUP } else { 0 };
    args[4] = SIGCHLD;
    args[10] = cgroup as u64;
    call(SYS_CLONE3, [addr(&args), 88, 0, 0, 0, 0])
}

/// In the new process: put the descriptors where programs expect them, then run the program.
fn run(request: &Request, given: &Given, status: i32, go: i32) -> ! {
    // High copies first, so that no target overwrites a source.
    let mut moves = [(0i32, 0i32); 5 + MAX_FDS];
    let mut count = 0;
    let mut place = |from: i32, to: i32| {
        if from > 0 {
            moves[count] = (duplicate(from), to);
            count += 1;
        }
    };
    place(status, wire::STATUS_FD);
    place(go, wire::GO_FD);
    for (target, fd) in given.stdio.iter().enumerate() {
        place(*fd, target as i32);
    }
    for (index, fd) in given.extras.iter().enumerate() {
        place(*fd, wire::EXTRA_FD + index as i32);
    }
    // Private and writable: the program's buffers are its own.
    let mapped =
        call(SYS_MMAP, [wire::PROGRAM_BASE, request.size, 3, 0x10_0002, given.program as u64, 0]);
    for (from, to) in &moves[..count] {
        let keep = if *to <= 2 { 0 } else { CLOEXEC };
        call(SYS_DUP3, [*from as u64, *to as u64, keep, 0, 0, 0]);
    }
    close(wire::MASTER_FD);
    let first = wire::EXTRA_FD as u64 + given.extras.len() as u64;
    call(SYS_CLOSE_RANGE, [first, u32::MAX as u64, 0, 0, 0, 0]);
    let none = 0u64;
    call(SYS_RT_SIGPROCMASK, [2, addr(&none), 0, 8, 0, 0]);
    if mapped < 0 {
        fail(0, -mapped);
    }
    interpret()
}

/// Runs the mapped program: its first word is the number of steps, which begin at 64.
fn interpret() -> ! {
    let mut registers = [0u64; wire::REGISTERS];
    // The error to report when no execve succeeded: the most telling, not the last.
    let mut refused = ENOENT;
    // SAFETY: the mapping succeeded; the runtime wrote a count and as many steps.
    let (count, steps) = unsafe {
        (*(wire::PROGRAM_BASE as *const u32) as usize, (wire::PROGRAM_BASE as *const Step).add(1))
    };
    let mut at = 0;
    while at < count {
        // SAFETY: at is below the count.
        let step = unsafe { *steps.add(at) };
        match step.nr {
            wire::NR_READY => wait_for_word(),
            wire::NR_FAIL => fail(at as u32, refused),
            _ => {}
        }
        if step.nr == wire::NR_READY {
            at += 1;
            continue;
        }
        let mut args = step.args;
        for (index, arg) in args.iter_mut().enumerate() {
            if step.registers & (1 << index) != 0 {
                *arg = registers[*arg as usize % wire::REGISTERS];
            }
        }
        let result = call(step.nr as u64, args);
        if result >= 0 {
            if step.save > 0 {
                registers[step.save as usize - 1] = result as u64;
            }
            at += 1 + step.skip as usize;
            continue;
        }
        let errno = -result;
        if !step.tolerate.iter().any(|t| *t == wire::ANY_ERROR || (*t != 0 && *t as i64 == errno)) {
            fail(at as u32, errno);
        }
        if step.nr as u64 == SYS_EXECVE && errno != ENOENT {
            refused = errno;
        }
        at += 1;
    }
    exit(0)
}

fn wait_for_word() {
    report(READY, 0);
    let mut word = 0u8;
    loop {
        let got = call(SYS_READ, [wire::GO_FD as u64, addr_of_mut!(word) as u64, 1, 0, 0, 0]);
        if got == 1 {
            return;
        }
        if got != -EINTR {
            exit(127);
        }
    }
}

fn fail(step: u32, errno: i64) -> ! {
    report(step, errno as u32);
    exit(127)
}

fn report(step: u32, errno: u32) {
    let words = [step, errno];
    call(SYS_WRITE, [wire::STATUS_FD as u64, addr(&words), 8, 0, 0, 0]);
}
