//! The supervisor: the one process that stays with a pod. It holds the pod's namespaces, makes the
//! containers' processes from programs the runtime compiled, reaps them, writes their output into
//! log files and their exits into record files.
//!
//! A program of its own without libc: a few pages of memory, no allocation, no threads, no paths
//! but one. It knows nothing of containers: what a process is comes as a program of system calls.
//! It must never block on the runtime, nor end because the runtime did.

#![no_std]
#![no_main]

#[path = "wire.rs"]
mod wire;

#[path = "supervisor/calls.rs"]
mod calls;
#[path = "supervisor/child.rs"]
mod child;
#[path = "supervisor/log.rs"]
mod log;

use core::{mem::size_of, ptr::addr_of_mut};

use calls::*;
use wire::{Event, Request, flag, kind, op, phase};

/// Processes of a pod at one time, commands executed in containers included.
const SLOTS: usize = 128;
const SINKS: usize = 4;
/// The socket that the runtime connects to; opened for us.
const LISTEN_FD: i32 = 3;

/// One process. Descriptors are 0 when absent: 0 itself is always /dev/null.
#[repr(C)]
struct Slot {
    state: Event,
    flags: u32,
    status: i32,
    go: i32,
    record: i32,
    log: i32,
    sinks: [(i32, i32); SINKS],
    streams: [log::Stream; 2],
}

/// Everything that is remembered. Lives in .bss: what is never touched costs nothing.
struct Pod {
    used: [bool; SLOTS],
    slots: [Slot; SLOTS],
    connection: i32,
    signals: i32,
    own_pidns: i32,
    writer: log::Writer,
}

static mut POD: core::mem::MaybeUninit<Pod> = core::mem::MaybeUninit::zeroed();

#[unsafe(no_mangle)]
extern "C" fn supervisor_main() -> ! {
    // SAFETY: the only reference ever made, in the only thread; all-zero is a valid Pod.
    let pod = unsafe { &mut *addr_of_mut!(POD).cast::<Pod>() };
    // Blocked, not ignored: an ignored signal would stay ignored in the containers.
    let mask: u64 = (1 << (SIGCHLD - 1)) | (1 << (SIGPIPE - 1));
    call(SYS_RT_SIGPROCMASK, [0, addr(&mask), 0, 8, 0, 0]);
    let watched: u64 = 1 << (SIGCHLD - 1);
    pod.signals =
        call(SYS_SIGNALFD4, [-1i64 as u64, addr(&watched), 8, CLOEXEC | NONBLOCK, 0, 0]) as i32;
    // What runs of us in a container, until it is its command, is nothing for the container to look
    // into: neither its memory nor its executable or descriptors through /proc. Its children inherit
    // this; executing a command ends it.
    call(SYS_PRCTL, [4, 0, 0, 0, 0, 0]);
    call(SYS_PRCTL, [15, addr(b"supervisor\0"), 0, 0, 0, 0]);
    // Orphans of containers without a pid namespace come to us instead of to init.
    call(SYS_PRCTL, [36, 1, 0, 0, 0, 0]);
    pod.own_pidns =
        call(SYS_OPENAT, [AT_FDCWD, addr(b"/proc/self/ns/pid\0"), CLOEXEC, 0, 0, 0]) as i32;
    loop {
        pod.turn();
    }
}

impl Pod {
    /// Waits until something can be done, and does it.
    fn turn(&mut self) {
        let mut polls = [PollFd { fd: -1, events: POLLIN, revents: 0 }; 3 + 3 * SLOTS];
        let mut owners = [0u16; 3 + 3 * SLOTS];
        polls[0].fd = self.signals;
        polls[1].fd = LISTEN_FD;
        polls[2].fd = if self.connection > 0 { self.connection } else { -1 };
        let mut count = 3;
        for index in 0..SLOTS {
            if !self.used[index] {
                continue;
            }
            let slot = &self.slots[index];
            for (part, fd) in
                [slot.status, slot.streams[0].fd, slot.streams[1].fd].into_iter().enumerate()
            {
                if fd > 0 {
                    polls[count].fd = fd;
                    owners[count] = (index * 4 + part) as u16;
                    count += 1;
                }
            }
        }
        if call(SYS_PPOLL, [addr_of_mut!(polls) as u64, count as u64, 0, 0, 0, 0]) < 0 {
            return;
        }
        for at in 3..count {
            if polls[at].revents == 0 {
                continue;
            }
            let (index, part) = (owners[at] as usize / 4, owners[at] % 4);
            match part {
                0 => self.read_status(index),
                stream => self.pump(index, stream as usize - 1, false),
            }
        }
        if polls[0].revents != 0 {
            self.reap();
        }
        if polls[2].revents != 0 {
            self.serve();
        }
        if polls[1].revents != 0 {
            let fd = call(SYS_ACCEPT4, [LISTEN_FD as u64, 0, 0, CLOEXEC | NONBLOCK, 0, 0]) as i32;
            if fd > 0 {
                // Only a new runtime connects: the old one is gone.
                close(self.connection);
                self.connection = fd;
            }
        }
    }

    /// Takes one request.
    fn serve(&mut self) {
        let mut bytes = [0u64; size_of::<Request>() / 8];
        let mut fds = [0i32; MAX_FDS];
        let (length, received) =
            receive(self.connection, addr_of_mut!(bytes) as u64, size_of::<Request>(), &mut fds);
        let fds = &fds[..received];
        if length == -EAGAIN {
            return;
        }
        if length != size_of::<Request>() as i64 {
            close(self.connection);
            self.connection = 0;
            fds.iter().for_each(|fd| close(*fd));
            return;
        }
        // SAFETY: as many bytes as a request has were received, and every pattern is valid.
        let request = unsafe { *(addr_of_mut!(bytes) as *const Request) };
        if request.op == op::SPAWN {
            self.spawn(&request, fds);
            return;
        }
        if request.op == op::LIST {
            for index in 0..SLOTS {
                if self.used[index] {
                    self.tell(index);
                }
            }
            self.send(&Event { kind: kind::END, ..EVENT });
            return;
        }
        if request.op == op::QUIT {
            exit(0);
        }
        let Some(index) =
            (0..SLOTS).find(|i| self.used[*i] && self.slots[*i].state.key == request.key)
        else {
            fds.iter().for_each(|fd| close(*fd));
            return;
        };
        self.act(index, &request, fds);
    }

    /// A request that concerns one process.
    fn act(&mut self, index: usize, request: &Request, fds: &[i32]) {
        let slot = &mut self.slots[index];
        let mut taken = false;
        match request.op {
            op::START if slot.state.phase == phase::READY => {
                slot.state.phase = phase::STARTED;
                slot.state.started = now();
                call(SYS_WRITE, [slot.go as u64, addr(b"g"), 1, 0, 0, 0]);
                take(&mut slot.go);
            }
            op::KILL if slot.state.phase < phase::EXITED => {
                call(SYS_KILL, [slot.state.pid as u64, request.number as u64, 0, 0, 0, 0]);
            }
            op::LOG if fds.len() == 1 => {
                close(slot.log);
                slot.log = fds[0];
                taken = true;
            }
            op::SINK if fds.len() == 1 => {
                if let Some(free) = slot.sinks.iter_mut().find(|sink| sink.0 == 0) {
                    *free = (fds[0], request.number);
                    taken = true;
                }
            }
            op::CLOSE_STDIN => take(&mut slot.state.stdin_fd),
            op::FORGET if slot.state.phase == phase::EXITED => self.release(index),
            _ => {}
        }
        if !taken {
            fds.iter().for_each(|fd| close(*fd));
        }
        if request.op == op::SINK {
            self.tell(index); // From here on nothing is missed.
        }
    }

    fn spawn(&mut self, request: &Request, fds: &[i32]) {
        let free = (0..SLOTS).find(|index| !self.used[*index]);
        let outcome = match free {
            Some(index) => child::spawn(request, fds, &mut self.slots[index], self.own_pidns),
            None => Err(EAGAIN),
        };
        match (outcome, free) {
            (Ok(()), Some(index)) => {
                self.used[index] = true;
                self.tell(index);
            }
            (Err(errno), _) => {
                let refusal =
                    Event { kind: kind::REJECTED, key: request.key, errno: errno as i32, ..EVENT };
                self.send(&refusal);
            }
            _ => {}
        }
    }

    /// Reads what the process reports before it is its command.
    fn read_status(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let mut report = [0u32; 2];
        let got = call(SYS_READ, [slot.status as u64, addr_of_mut!(report) as u64, 8, 0, 0, 0]);
        if got == -EAGAIN {
            return;
        }
        if got == 8 && report[0] == child::READY {
            if slot.flags & flag::TTY != 0 && slot.flags & flag::LOG != 0 {
                slot.state.master_fd = child::fetch(slot.state.pid, wire::MASTER_FD);
                // A description of our own to read from: the runtime writes through the other.
                slot.streams[0].fd = duplicate(slot.state.master_fd);
                nonblocking(slot.streams[0].fd);
            }
            slot.state.phase = phase::READY;
        } else {
            take(&mut slot.status);
            take(&mut slot.go);
            if got == 8 {
                (slot.state.step, slot.state.errno) = (report[0], report[1] as i32);
            } else if slot.state.phase == phase::STARTED {
                slot.state.phase = phase::RUNNING;
            } else {
                return;
            }
        }
        self.tell(index);
    }

    fn pump(&mut self, index: usize, stream: usize, all: bool) {
        let slot = &mut self.slots[index];
        loop {
            let more =
                slot.streams[stream].pump(stream, slot.log, &mut slot.sinks, &mut self.writer);
            if !all || !more {
                break;
            }
        }
    }

    /// Collects every child that has exited.
    fn reap(&mut self) {
        let mut ignored = [0u64; 16];
        call(SYS_READ, [self.signals as u64, addr_of_mut!(ignored) as u64, 128, 0, 0, 0]);
        loop {
            let mut status = 0i32;
            let pid = call(SYS_WAIT4, [-1i64 as u64, addr_of_mut!(status) as u64, 1, 0, 0, 0]);
            if pid <= 0 {
                return;
            }
            let found = (0..SLOTS).find(|i| {
                self.used[*i]
                    && self.slots[*i].state.pid == pid as i32
                    && self.slots[*i].state.phase < phase::EXITED
            });
            if let Some(index) = found {
                self.exited(index, status);
            }
        }
    }

    fn exited(&mut self, index: usize, status: i32) {
        let time = now();
        // What it said before it went comes first.
        if self.slots[index].status > 0 {
            self.read_status(index);
            if self.slots[index].status > 0 {
                self.read_status(index);
            }
        }
        self.pump(index, 0, true);
        self.pump(index, 1, true);
        let slot = &mut self.slots[index];
        slot.state.phase = phase::EXITED;
        slot.state.time = time;
        slot.state.signal = status & 0x7f;
        slot.state.code = if slot.state.signal == 0 { (status >> 8) & 0xff } else { 0 };
        take(&mut slot.state.stdin_fd);
        take(&mut slot.state.master_fd);
        take(&mut slot.go);
        if slot.record > 0 {
            call(
                SYS_PWRITE64,
                [slot.record as u64, addr(&slot.state), size_of::<Event>() as u64, 0, 0, 0],
            );
            take(&mut slot.record);
        }
        self.tell(index);
        if self.slots[index].flags & flag::TRANSIENT != 0 {
            self.release(index);
        }
    }

    /// Gives a slot back with all it holds.
    fn release(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        for stream in 0..2 {
            slot.streams[stream].finish(stream, slot.log, &mut self.writer);
        }
        slot.sinks.iter_mut().for_each(|sink| take(&mut sink.0));
        for fd in [&mut slot.status, &mut slot.go, &mut slot.record, &mut slot.log] {
            take(fd);
        }
        self.used[index] = false;
    }

    fn tell(&mut self, index: usize) {
        let state = self.slots[index].state;
        self.send(&state);
    }

    /// Sends an event if a runtime listens. One that does not read is cut off: it will connect
    /// again and ask for everything.
    fn send(&mut self, event: &Event) {
        if self.connection <= 0 {
            return;
        }
        let sent = call(
            SYS_SENDTO,
            [self.connection as u64, addr(event), size_of::<Event>() as u64, 0x4040, 0, 0],
        );
        if sent < 0 {
            close(self.connection);
            self.connection = 0;
        }
    }
}

const EVENT: Event = Event {
    kind: kind::STATE,
    phase: 0,
    key: 0,
    time: 0,
    started: 0,
    pid: 0,
    code: 0,
    signal: 0,
    errno: 0,
    step: 0,
    stdin_fd: 0,
    master_fd: 0,
    unused: 0,
};

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(101)
}
