//! What the runtime and a supervisor say to each other, and the form of a program. Compiled into
//! both: into the runtime as a module, into the supervisor (`no_std`) through `#[path]`.
//! Nothing here may allocate.

/// Where a program is mapped in the process that runs it, so that it can hold plain addresses.
pub const PROGRAM_BASE: u64 = 0x2000_0000_0000;
/// The process writes its reports here; closing it by `execve` says that it runs.
pub const STATUS_FD: i32 = 3;
/// The process waits here for the word to go.
pub const GO_FD: i32 = 4;
/// A program that opens a terminal leaves its master side here.
pub const MASTER_FD: i32 = 5;
/// The first of the descriptors that came with the request for the program's own use.
pub const EXTRA_FD: i32 = 6;

/// In place of a system call: report "ready", wait for the word.
pub const NR_READY: u32 = 0xffff_0001;
/// In place of a system call: fail with the error of the `execve`s that were tolerated.
pub const NR_FAIL: u32 = 0xffff_0002;
/// Tolerates every error.
pub const ANY_ERROR: u8 = 0xff;

/// One system call of a program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Step {
    pub nr: u32,
    /// Error numbers after which the program goes on with the next step.
    pub tolerate: [u8; 4],
    /// Bit n: `args[n]` is the number of a register.
    pub registers: u8,
    /// The register, plus one, that takes the result.
    pub save: u8,
    /// How many steps a success leaves out.
    pub skip: u8,
    pub unused: [u8; 5],
    pub args: [u64; 6],
}

pub const STEP_SIZE: usize = 64;
pub const REGISTERS: usize = 256;

impl Step {
    /// The step as it lies in a program.
    pub fn to_bytes(self) -> [u8; STEP_SIZE] {
        let mut out = [0; STEP_SIZE];
        out[0..4].copy_from_slice(&self.nr.to_ne_bytes());
        out[4..8].copy_from_slice(&self.tolerate);
        out[8] = self.registers;
        out[9] = self.save;
        out[10] = self.skip;
        let mut at = 16;
        for arg in self.args {
            out[at..at + 8].copy_from_slice(&arg.to_ne_bytes());
            at += 8;
        }
        out
    }
}

/// Operations of a request.
pub mod op {
    /// Make a process from a program; the descriptors come in the order of the flags.
    pub const SPAWN: u32 = 1;
    /// Give a ready process the word.
    pub const START: u32 = 2;
    /// Send a signal to a process.
    pub const KILL: u32 = 3;
    /// Go on logging to this file.
    pub const LOG: u32 = 4;
    /// Copy one stream to this descriptor as well.
    pub const SINK: u32 = 5;
    /// Close the writing side of the process's standard input.
    pub const CLOSE_STDIN: u32 = 6;
    /// Forget a process that has exited.
    pub const FORGET: u32 = 7;
    /// Tell the state of every process, then `END`.
    pub const LIST: u32 = 8;
    /// End the supervisor.
    pub const QUIT: u32 = 9;
}

/// Flags of `SPAWN`. The first seven announce a descriptor each, after the program's.
pub mod flag {
    /// The file that takes the record of the exit.
    pub const RECORD: u32 = 1 << 0;
    /// The log file: standard output and error are read and logged.
    pub const LOG: u32 = 1 << 1;
    /// The pid namespace to be born into.
    pub const PIDNS: u32 = 1 << 2;
    /// The cgroup to be born into.
    pub const CGROUP: u32 = 1 << 3;
    pub const STDIN: u32 = 1 << 4;
    pub const STDOUT: u32 = 1 << 5;
    pub const STDERR: u32 = 1 << 6;
    /// Standard input is a pipe that the supervisor keeps open.
    pub const STDIN_PIPE: u32 = 1 << 7;
    /// The program opens a terminal; with `LOG` the supervisor keeps its master side.
    pub const TTY: u32 = 1 << 8;
    /// Nobody asks for this process after its exit.
    pub const TRANSIENT: u32 = 1 << 9;
}

/// How far a process is.
pub mod phase {
    /// It runs the first half of its program.
    pub const SPAWNED: u32 = 1;
    /// It waits for the word.
    pub const READY: u32 = 2;
    /// It has the word.
    pub const STARTED: u32 = 3;
    /// It has executed its command.
    pub const RUNNING: u32 = 4;
    pub const EXITED: u32 = 5;
}

/// Kinds of an event.
pub mod kind {
    /// The state of a process changed (or was asked for).
    pub const STATE: u32 = 1;
    /// A process could not be made; `errno` says why.
    pub const REJECTED: u32 = 2;
    /// All states have been told.
    pub const END: u32 = 3;
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Request {
    pub op: u32,
    pub flags: u32,
    pub key: u64,
    pub clone_flags: u64,
    /// The size of the program.
    pub size: u64,
    /// Signal of `KILL`, stream (1, 2) of `SINK`.
    pub number: i32,
    /// How many descriptors of the program's own follow the announced ones.
    pub extras: u32,
}

pub const REQUEST_SIZE: usize = 40;

impl Request {
    pub fn to_bytes(self) -> [u8; REQUEST_SIZE] {
        let mut out = [0; REQUEST_SIZE];
        out[0..4].copy_from_slice(&self.op.to_ne_bytes());
        out[4..8].copy_from_slice(&self.flags.to_ne_bytes());
        out[8..16].copy_from_slice(&self.key.to_ne_bytes());
        out[16..24].copy_from_slice(&self.clone_flags.to_ne_bytes());
        out[24..32].copy_from_slice(&self.size.to_ne_bytes());
        out[32..36].copy_from_slice(&self.number.to_ne_bytes());
        out[36..40].copy_from_slice(&self.extras.to_ne_bytes());
        out
    }
}

/// The state of one process; also the record of an exit.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Event {
    pub kind: u32,
    pub phase: u32,
    pub key: u64,
    /// Nanoseconds since 1970: when it exited, or else when it started.
    pub time: i64,
    pub started: i64,
    pub pid: i32,
    /// The exit code, when it was not a signal.
    pub code: i32,
    pub signal: i32,
    /// The error of the step at which the program failed, or 0.
    pub errno: i32,
    pub step: u32,
    /// The writing side of standard input, among the supervisor's descriptors, or 0.
    pub stdin_fd: i32,
    /// The master side of the terminal, among the supervisor's descriptors, or 0.
    pub master_fd: i32,
    pub unused: i32,
}

pub const EVENT_SIZE: usize = 64;

impl Event {
    /// Reads an event or a record; `None` when it is not whole.
    pub fn from_bytes(bytes: &[u8]) -> Option<Event> {
        let u32_at = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        if bytes.len() < EVENT_SIZE {
            return None;
        }
        Some(Event {
            kind: u32_at(0)?,
            phase: u32_at(4)?,
            key: u64_at(8)?,
            time: u64_at(16)? as i64,
            started: u64_at(24)? as i64,
            pid: u32_at(32)? as i32,
            code: u32_at(36)? as i32,
            signal: u32_at(40)? as i32,
            errno: u32_at(44)? as i32,
            step: u32_at(48)?,
            stdin_fd: u32_at(52)? as i32,
            master_fd: u32_at(56)? as i32,
            unused: 0,
        })
    }
}
