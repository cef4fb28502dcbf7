//! Container logs: reading the runtime's files (CRI log format), serving them, rotating them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

mod line;
mod read;
mod rotate;
mod watch;

pub use read::{LogOptions, Source, stream};
pub use rotate::{Limits, grown, rotate};
pub use watch::Watcher;

/// The last `lines` lines of a log, without times and streams, at most `bytes` long: the
/// termination message of a container that left none.
pub fn tail(file: &Path, lines: usize, bytes: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(file)?;
        // Times, streams and tags take room, too.
        let back = file.metadata()?.len().min(bytes * 4 + 64 * lines as u64);
        file.seek(SeekFrom::End(-i64::try_from(back).unwrap_or(0)))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok(text)
    };
    let text = read().unwrap_or_default();
    let parsed: Vec<line::Line<'_>> =
        text.split_inclusive(|byte| *byte == b'\n').filter_map(line::parse).collect();
    let mut message: Vec<u8> = Vec::new();
    for line in &parsed[parsed.len().saturating_sub(lines)..] {
        line.write(&mut message);
    }
    let limit = usize::try_from(bytes).unwrap_or(usize::MAX);
    let start = message.len().saturating_sub(limit);
    String::from_utf8_lossy(&message[start..]).into_owned()
}
