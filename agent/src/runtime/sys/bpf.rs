//! bpf(2), as far as the device filter of cgroup v2 needs it.

#![allow(unsafe_code, reason = "bpf has no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// The filters of the groups above go on deciding as well.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// `union bpf_attr` of BPF_PROG_LOAD, up to the fields that a kernel of 4.15 knows.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
struct Attach {
    group: i32,
    program: i32,
    kind: u32,
    flags: u32,
}

/// Loads a device filter: instructions of 8 bytes each.
pub fn load_device_filter(instructions: &[u8]) -> io::Result<OwnedFd> {
    let attribute = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: (instructions.len() / 8) as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    let fd = call(BPF_PROG_LOAD, &attribute)?;
    // SAFETY: the kernel made this descriptor for us just now.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets a filter decide over the devices of a group (a directory of cgroup v2) and those below it.
pub fn attach_device_filter(program: BorrowedFd<'_>, group: BorrowedFd<'_>) -> io::Result<()> {
    let attribute = Attach {
        group: group.as_raw_fd(),
        program: program.as_raw_fd(),
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    call(BPF_PROG_ATTACH, &attribute).map(|_| ())
}

fn call<T>(command: libc::c_long, attribute: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads as many bytes as it is told the attribute has, and what the
    // attribute points at is alive.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attribute),
            std::mem::size_of::<T>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
