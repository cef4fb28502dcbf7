//! System calls without libc.

use core::arch::asm;

pub const AT_FDCWD: u64 = -100i64 as u64;
pub const CLOEXEC: u64 = 0o2000000;
pub const NONBLOCK: u64 = 0o4000;
pub const SIGCHLD: u64 = 17;
pub const SIGPIPE: u64 = 13;
pub const POLLIN: i16 = 1;
pub const EAGAIN: i64 = 11;
pub const EINTR: i64 = 4;
pub const ENOENT: i64 = 2;
/// Descriptors that one request may carry (the kernel's limit is 253).
pub const MAX_FDS: usize = 64;

macro_rules! numbers {
    ($($name:ident $x86:literal $arm:literal;)*) => { $(
        #[cfg(target_arch = "x86_64")]
        pub const $name: u64 = $x86;
        #[cfg(target_arch = "aarch64")]
        pub const $name: u64 = $arm;
    )* };
}

numbers! {
    SYS_READ 0 63;
    SYS_WRITE 1 64;
    SYS_CLOSE 3 57;
    SYS_MMAP 9 222;
    SYS_RT_SIGPROCMASK 14 135;
    SYS_PWRITE64 18 68;
    SYS_SENDTO 44 206;
    SYS_RECVMSG 47 212;
    SYS_EXECVE 59 221;
    SYS_EXIT_GROUP 231 94;
    SYS_WAIT4 61 260;
    SYS_KILL 62 129;
    SYS_FCNTL 72 25;
    SYS_PRCTL 157 167;
    SYS_CLOCK_GETTIME 228 113;
    SYS_OPENAT 257 56;
    SYS_PPOLL 271 73;
    SYS_ACCEPT4 288 242;
    SYS_SIGNALFD4 289 74;
    SYS_DUP3 292 24;
    SYS_PIPE2 293 59;
    SYS_SETNS 308 268;
    SYS_PIDFD_OPEN 434 434;
    SYS_CLONE3 435 435;
    SYS_CLOSE_RANGE 436 436;
    SYS_PIDFD_GETFD 438 438;
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct PollFd {
    pub fd: i32,
    pub events: i16,
    pub revents: i16,
}

/// One system call; a negative result is an error number.
pub fn call(nr: u64, args: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: the kernel checks what it is given; callers pass addresses of live memory.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") nr as i64 => result, in("rdi") args[0], in("rsi") args[1],
            in("rdx") args[2], in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", in("x8") nr, inlateout("x0") args[0] as i64 => result, in("x1") args[1],
            in("x2") args[2], in("x3") args[3], in("x4") args[4], in("x5") args[5], options(nostack));
    }
    result
}

pub fn addr<T>(value: &T) -> u64 {
    value as *const T as u64
}

pub fn close(fd: i32) {
    if fd > 2 {
        call(SYS_CLOSE, [fd as u64, 0, 0, 0, 0, 0]);
    }
}

/// Closes a descriptor and forgets it.
pub fn take(fd: &mut i32) {
    close(*fd);
    *fd = 0;
}

/// A copy of a descriptor above all that a program may name.
pub fn duplicate(fd: i32) -> i32 {
    call(SYS_FCNTL, [fd as u64, 1030, 100, 0, 0, 0]) as i32
}

pub fn nonblocking(fd: i32) {
    let flags = call(SYS_FCNTL, [fd as u64, 3, 0, 0, 0, 0]) as u64;
    call(SYS_FCNTL, [fd as u64, 4, flags | NONBLOCK, 0, 0, 0]);
}

/// Nanoseconds since 1970.
pub fn now() -> i64 {
    let mut time = [0i64; 2];
    call(SYS_CLOCK_GETTIME, [0, core::ptr::addr_of_mut!(time) as u64, 0, 0, 0, 0]);
    time[0] * 1_000_000_000 + time[1]
}

pub fn exit(code: u64) -> ! {
    loop {
        call(SYS_EXIT_GROUP, [code, 0, 0, 0, 0, 0]);
    }
}

/// Receives a packet and the descriptors with it: its length (or error) and their number.
pub fn receive(socket: i32, buffer: u64, size: usize, fds: &mut [i32; MAX_FDS]) -> (i64, usize) {
    let part = [buffer, size as u64];
    let mut control = [0u64; 2 + MAX_FDS / 2];
    let control_at = core::ptr::addr_of_mut!(control) as u64;
    let mut message: [u64; 7] = [0, 0, addr(&part), 1, control_at, size_of_val(&control) as u64, 0];
    let message_at = core::ptr::addr_of_mut!(message) as u64;
    let got = call(SYS_RECVMSG, [socket as u64, message_at, 0x4000_0000, 0, 0, 0]);
    // The kernel wrote through the addresses above.
    let message = core::hint::black_box(message);
    let control = core::hint::black_box(control);
    if got < 0 || message[5] < 16 {
        return (got, 0);
    }
    let count = ((control[0] as usize).saturating_sub(16) / 4).min(MAX_FDS);
    for (index, fd) in fds.iter_mut().enumerate().take(count) {
        let word = control[2 + index / 2];
        *fd = if index % 2 == 0 { word as i32 } else { (word >> 32) as i32 };
    }
    (got, count)
}

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call supervisor_main",
    "ud2"
);
#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(".globl _start", "_start:", "bl supervisor_main", "brk #1");

// The compiler calls these by name. Byte loops, kept from being recognised as themselves.

/// # Safety
/// As C's memcpy.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _, options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    for at in 0..count {
        // SAFETY: the caller's promise.
        unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
    }
    to
}

/// # Safety
/// As C's memmove.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize) <= from as usize || to as usize >= from as usize + count {
        // SAFETY: copied upwards, nothing is overwritten before it is read.
        return unsafe { memcpy(to, from, count) };
    }
    for at in (0..count).rev() {
        // SAFETY: the caller's promise; downwards for the same reason.
        unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
    }
    to
}

/// # Safety
/// As C's memset.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") byte as u8, options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    for at in 0..count {
        // SAFETY: the caller's promise.
        unsafe { to.add(at).write_volatile(byte as u8) };
    }
    to
}

/// # Safety
/// As C's memcmp.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    for at in 0..count {
        // SAFETY: the caller's promise.
        let (x, y) = unsafe { (a.add(at).read_volatile(), b.add(at).read_volatile()) };
        if x != y {
            return x as i32 - y as i32;
        }
    }
    0
}

/// # Safety
/// As C's bcmp.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(a, b, count) }
}

/// The precompiled core library names it; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
