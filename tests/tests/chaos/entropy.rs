//! Randomness that is the same in every run. What std's maps hash with, and by that the order of
//! their keys, and what tokio chooses by among branches that are ready, come from the kernel
//! elsewhere: the same seed would not give the same history.

#![allow(unsafe_code, reason = "it takes the place of a function of the C library")]

use std::cell::Cell;

thread_local! {
    /// Each thread has its own: what others draw, and when, is of no account.
    static DRAWN: Cell<u64> = const { Cell::new(0) };
}

/// In the place of the C library's, which std and the crates that ask the kernel call.
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: by the function's contract these bytes are the caller's to be written.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    for byte in buffer {
        let drawn = DRAWN.replace(DRAWN.get() + 1);
        *byte = (drawn.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    }
    length.cast_signed()
}
