//! Container output into log files of the CRI format: `<RFC 3339> <stream> <F|P> <line>`.

use super::calls::*;

/// Longer lines are written in parts, all but the last tagged P.
const LINE: usize = 16 * 1024;
const TIMESTAMP: usize = 30;
const HEAD: usize = TIMESTAMP + 10;

/// One output stream of a process and what was read of its unfinished line.
#[repr(C)]
pub struct Stream {
    pub fd: i32,
    length: u32,
    line: [u8; LINE],
}

/// Collects entries so that a batch of lines is one write.
pub struct Writer {
    length: usize,
    bytes: [u8; 4 * LINE],
}

impl Stream {
    pub fn open(&mut self, fd: i32) {
        self.fd = fd;
        self.length = 0;
    }

    /// Reads once, writes the lines that are complete. False when there is no more for now.
    pub fn pump(
        &mut self,
        stream: usize,
        log: i32,
        sinks: &mut [(i32, i32)],
        writer: &mut Writer,
    ) -> bool {
        if self.fd <= 0 {
            return false;
        }
        let held = self.length as usize;
        let free = &mut self.line[held..];
        let got =
            call(SYS_READ, [self.fd as u64, free.as_mut_ptr() as u64, free.len() as u64, 0, 0, 0]);
        if got == -EAGAIN || got == -EINTR {
            return false;
        }
        if got <= 0 {
            // The end; a terminal says so with EIO.
            self.finish(stream, log, writer);
            for sink in sinks.iter_mut().filter(|sink| sink.0 > 0 && sink.1 == stream as i32 + 1) {
                take(&mut sink.0);
            }
            return false;
        }
        let end = held + got as usize;
        copy(&self.line[held..end], stream, sinks);
        let full = head(stream, b'F');
        let (mut start, mut seen) = (0, held);
        while let Some(newline) = newline(&self.line[seen..end]) {
            writer.entry(log, &full, &self.line[start..seen + newline]);
            seen += newline + 1;
            start = seen;
        }
        if start == 0 && end == LINE {
            writer.entry(log, &head(stream, b'P'), &self.line);
            start = end;
        }
        self.line.copy_within(start..end, 0);
        self.length = (end - start) as u32;
        writer.flush(log);
        true
    }

    /// Writes what is left, as a part: it has no newline. Closes the stream.
    pub fn finish(&mut self, stream: usize, log: i32, writer: &mut Writer) {
        if self.fd > 0 && self.length > 0 {
            writer.entry(log, &head(stream, b'P'), &self.line[..self.length as usize]);
            writer.flush(log);
        }
        self.length = 0;
        take(&mut self.fd);
    }
}

impl Writer {
    fn entry(&mut self, log: i32, head: &[u8; HEAD], line: &[u8]) {
        if self.bytes.len() - self.length < HEAD + line.len() + 1 {
            self.flush(log);
        }
        self.put(head);
        self.put(line);
        self.put(b"\n");
    }

    #[inline(always)] // What is of one size is copied by a few instructions then.
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    fn flush(&mut self, log: i32) {
        let mut at = 0;
        while at < self.length {
            let rest = &self.bytes[at..self.length];
            let sent =
                call(SYS_WRITE, [log as u64, rest.as_ptr() as u64, rest.len() as u64, 0, 0, 0]);
            if sent == -EINTR {
                continue;
            }
            if sent <= 0 {
                break; // A full disk loses lines rather than stopping the container.
            }
            at += sent as usize;
        }
        self.length = 0;
    }
}

/// Gives the attached a copy. One that does not keep up is let go: a container must not wait.
fn copy(bytes: &[u8], stream: usize, sinks: &mut [(i32, i32)]) {
    for sink in sinks.iter_mut().filter(|sink| sink.0 > 0 && sink.1 == stream as i32 + 1) {
        let sent =
            call(SYS_WRITE, [sink.0 as u64, bytes.as_ptr() as u64, bytes.len() as u64, 0, 0, 0]);
        if sent != bytes.len() as i64 {
            take(&mut sink.0);
        }
    }
}

/// What an entry begins with.
fn head(stream: usize, tag: u8) -> [u8; HEAD] {
    let mut head = *b"0000-00-00T00:00:00.000000000Z stdout F ";
    head[..TIMESTAMP].copy_from_slice(&timestamp(now()));
    if stream == 1 {
        head[TIMESTAMP + 4..TIMESTAMP + 7].copy_from_slice(b"err");
    }
    head[HEAD - 2] = tag;
    head
}

/// Where the first newline is, looked for in eight bytes at a time.
fn newline(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        // A byte that is zero now was a newline.
        let word = u64::from_le_bytes(*word) ^ (ONES * b'\n' as u64);
        let found = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if found != 0 {
            return Some(at * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|byte| *byte == b'\n')?;
    Some(words.len() * 8 + at)
}

/// `2026-01-02T03:04:05.000000006Z`.
fn timestamp(nanoseconds: i64) -> [u8; TIMESTAMP] {
    let mut out = *b"0000-00-00T00:00:00.000000000Z";
    let seconds = (nanoseconds / 1_000_000_000) as u64;
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Eras of 400 years, years that begin in March.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    digits(&mut out[0..4], year);
    digits(&mut out[5..7], month);
    digits(&mut out[8..10], date);
    digits(&mut out[11..13], time / 3_600);
    digits(&mut out[14..16], time / 60 % 60);
    digits(&mut out[17..19], time % 60);
    digits(&mut out[20..29], (nanoseconds % 1_000_000_000) as u64);
    out
}

fn digits(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}
