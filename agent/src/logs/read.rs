//! Reads one container's log as a client wants it: the end of it, from a time on, with times, and
//! on as it grows, through rotations, until the container has ended.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use proto::time::Time;
use tokio::sync::{Notify, mpsc};

use super::line;

/// PodLogOptions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogOptions {
    pub follow: bool,
    pub timestamps: bool,
    pub tail_lines: Option<usize>,
    pub since: Option<Time>,
    pub limit_bytes: Option<usize>,
    /// `stdout` or `stderr` alone.
    pub stream: Option<String>,
}

/// A log, and how to wait for more of it.
pub struct Source {
    pub file: PathBuf,
    /// Something has been written into the file's folder.
    pub written: Option<Arc<Notify>>,
    /// The container has ended: what is in the file is all there will be.
    pub ended: tokio::sync::watch::Receiver<bool>,
}

const CHUNK: usize = 64 << 10;

/// Sends the log into `out` until it is at its end, or for ever with `follow`.
pub async fn stream(mut source: Source, options: LogOptions, out: mpsc::Sender<io::Result<Bytes>>) {
    let result = copy(&mut source, &options, &out).await;
    if let Err(error) = result {
        // A client that has gone away hears nothing.
        let _ = out.send(Err(error)).await;
    }
}

async fn copy(
    source: &mut Source,
    options: &LogOptions,
    out: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut file = File::open(&source.file)?;
    if let Some(lines) = options.tail_lines {
        let start = tail_start(&mut file, lines)?;
        file.seek(SeekFrom::Start(start))?;
    }
    let mut left = options.limit_bytes.unwrap_or(usize::MAX);
    let mut pending = Vec::new();
    loop {
        // Asked before reading: what is written before the end is then read for certain.
        let ended = *source.ended.borrow_and_update();
        while read_some(&mut file, &mut pending)? {
            let mut text = take_lines(&mut pending, options);
            text.truncate(left);
            left -= text.len();
            if !text.is_empty() && out.send(Ok(text.into())).await.is_err() || left == 0 {
                return Ok(());
            }
        }
        if let Some(next) = rotated(&file, &source.file) {
            // The runtime may have written into the old file between our read and its reopening.
            if !read_some(&mut file, &mut pending)? {
                file = next;
                pending.clear();
            }
            continue;
        }
        if !options.follow || ended {
            return Ok(());
        }
        let written = source.written.clone();
        tokio::select! {
            () = wait(written) => {}
            changed = source.ended.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            () = out.closed() => return Ok(()),
        }
    }
}

async fn wait(written: Option<Arc<Notify>>) {
    match written {
        Some(written) => written.notified().await,
        None => std::future::pending().await,
    }
}

/// False at the end of the file.
fn read_some(file: &mut File, pending: &mut Vec<u8>) -> io::Result<bool> {
    let read = file.take(CHUNK as u64).read_to_end(pending)?;
    Ok(read > 0)
}

/// The whole lines of `pending` as the client wants them; what is unfinished stays.
fn take_lines(pending: &mut Vec<u8>, options: &LogOptions) -> Vec<u8> {
    let end = pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut text = Vec::with_capacity(end);
    for line in pending[..end].split_inclusive(|byte| *byte == b'\n').filter_map(line::parse) {
        let early = options.since.is_some_and(|since| line.at().is_some_and(|at| at < since));
        let other = options.stream.as_ref().is_some_and(|stream| stream != line.stream);
        if early || other {
            continue;
        }
        if options.timestamps {
            text.extend_from_slice(line.time.as_bytes());
            text.push(b' ');
        }
        line.write(&mut text);
    }
    pending.drain(..end);
    text
}

/// The file that now has the log's name, if it is another one.
fn rotated(file: &File, path: &Path) -> Option<File> {
    let next = File::open(path).ok()?;
    let (old, new) = (file.metadata().ok()?, next.metadata().ok()?);
    ((old.dev(), old.ino()) != (new.dev(), new.ino())).then_some(next)
}

/// Where the last `lines` lines begin.
fn tail_start(file: &mut File, lines: usize) -> io::Result<u64> {
    let mut at = file.metadata()?.len();
    let mut found = 0;
    let mut chunk = vec![0; CHUNK];
    // The newline at the end of the last line begins no line.
    let mut last = true;
    while at > 0 {
        let size = at.min(CHUNK as u64);
        at -= size;
        file.seek(SeekFrom::Start(at))?;
        let part = &mut chunk[..usize::try_from(size).unwrap_or(CHUNK)];
        file.read_exact(part)?;
        for (index, byte) in part.iter().enumerate().rev() {
            if *byte == b'\n' && !std::mem::take(&mut last) {
                found += 1;
                if found == lines {
                    return Ok(at + index as u64 + 1);
                }
            }
        }
        last = false;
    }
    match lines {
        0 => file.metadata().map(|metadata| metadata.len()),
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;

    use super::*;
    use crate::logs::Watcher;

    const TEXT: &str = "2024-01-01T00:00:01Z stdout F one\n\
        2024-01-01T00:00:02Z stderr F two\n\
        2024-01-01T00:00:03Z stdout P thr\n\
        2024-01-01T00:00:03Z stdout F ee\n";

    async fn read(options: LogOptions) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("0.log");
        fs::write(&file, TEXT).unwrap();
        let (_ended, receiver) = tokio::sync::watch::channel(true);
        let (sender, mut out) = mpsc::channel(16);
        stream(Source { file, written: None, ended: receiver }, options, sender).await;
        let mut text = Vec::new();
        while let Some(part) = out.recv().await {
            text.extend_from_slice(&part.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn parts_of_a_log() {
        let all = LogOptions::default;
        let table = [
            (all(), "one\ntwo\nthree\n"),
            (LogOptions { tail_lines: Some(2), ..all() }, "three\n"),
            (LogOptions { tail_lines: Some(3), ..all() }, "two\nthree\n"),
            (LogOptions { tail_lines: Some(99), ..all() }, "one\ntwo\nthree\n"),
            (LogOptions { tail_lines: Some(0), ..all() }, ""),
            (LogOptions { stream: Some("stderr".into()), ..all() }, "two\n"),
            (LogOptions { limit_bytes: Some(5), ..all() }, "one\nt"),
            (
                LogOptions { since: Some("2024-01-01T00:00:02Z".parse().unwrap()), ..all() },
                "two\nthree\n",
            ),
            (
                LogOptions { timestamps: true, tail_lines: Some(1), ..all() },
                "2024-01-01T00:00:03Z ee\n",
            ),
        ];
        for (options, expected) in table {
            assert_eq!(read(options.clone()).await, expected, "{options:?}");
        }
    }

    #[tokio::test]
    async fn follows_through_rotation_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("0.log");
        fs::write(&file, "").unwrap();
        let watcher = Watcher::new().unwrap();
        let written = Some(watcher.watch(dir.path()).unwrap());
        let (ended, receiver) = tokio::sync::watch::channel(false);
        let (sender, mut out) = mpsc::channel(16);
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let source = Source { file: file.clone(), written, ended: receiver };
        let reader = tokio::spawn(stream(source, options, sender));
        let append = |text: &str| {
            let mut log = OpenOptions::new().append(true).create(true).open(&file).unwrap();
            writeln!(log, "2024-01-01T00:00:01Z stdout F {text}").unwrap();
        };
        append("one");
        assert_eq!(out.recv().await.unwrap().unwrap(), "one\n");
        fs::rename(&file, dir.path().join("0.log.1")).unwrap();
        append("two");
        assert_eq!(out.recv().await.unwrap().unwrap(), "two\n");
        append("three");
        ended.send_replace(true);
        assert_eq!(out.recv().await.unwrap().unwrap(), "three\n");
        assert!(out.recv().await.is_none());
        reader.await.unwrap();
    }
}
