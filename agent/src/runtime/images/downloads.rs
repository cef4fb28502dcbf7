//! Compressed layers as far as they have arrived. They outlive the connection and the process that
//! fetches them, and are fetched by one at a time, of all processes that share the store.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

use bytes::{Buf, Bytes};
use rustix::fs::FlockOperation;
use tokio::sync::mpsc;

use super::layers::Pending;
use super::stream::Hashing;
use super::{ImageError, ImageStore, failed, same};

/// As much of a blob as is there. Nobody else touches it while this lives.
pub struct Download {
    file: File,
    path: PathBuf,
    /// Bytes that are there.
    pub length: u64,
}

/// What comes from the registry.
pub enum Arrival {
    Bytes(Bytes),
    /// That was all. Without it the connection is lost for good.
    End,
}

/// How it went, beside what is wrong with the store.
pub enum Received {
    Layer(Pending),
    /// The end did not come; what has arrived is kept.
    Interrupted,
    /// The bytes are not those of the digest, and are gone.
    Corrupt(ImageError),
}

impl ImageStore {
    /// The download of a blob; waits until nobody else is at it.
    pub fn download(&self, digest: &str) -> Result<Download, ImageError> {
        super::check_digest(digest)?;
        let path = self.root.join("downloads").join(digest.trim_start_matches("sha256:"));
        loop {
            let mut options = File::options();
            options.create(true).read(true).append(true);
            let file = options.open(&path).map_err(failed("open", &path))?;
            rustix::fs::flock(&file, FlockOperation::LockExclusive)
                .map_err(|error| failed("lock", &path)(error.into()))?;
            if same(&file, &path) {
                let length = file.metadata().map_err(failed("read", &path))?.len();
                return Ok(Download { file, path, length });
            }
            // Whoever had it has finished and removed it.
        }
    }

    /// Unpacks a layer while it arrives, after what is there of it already. `layer` is its digest as
    /// fetched, `diff` that of its tar; both are checked.
    pub fn receive(
        &self,
        download: &mut Download,
        (layer, size): (&str, u64),
        diff: &str,
        arrivals: mpsc::Receiver<Arrival>,
    ) -> Result<Received, ImageError> {
        let failed = || failed("download to", &download.path);
        let mut file = download.file.try_clone().map_err(failed())?;
        file.rewind().map_err(failed())?;
        let left = download.length;
        let mut content = Hashing::new(Arriving {
            file,
            left,
            arrivals,
            current: Bytes::new(),
            ended: false,
            interrupted: false,
        });
        let result = self.unpack_layer(diff, &mut content);
        // A tar may end before its file does, and a broken one much sooner.
        let rest = io::copy(&mut content, &mut io::sink());
        let (found, bytes) = (content.digest(), content.bytes);
        let arriving = content.into_inner();
        if arriving.interrupted {
            return Ok(Received::Interrupted);
        }
        rest.map_err(failed())?;
        if found != layer || bytes != size {
            download.clear()?;
            let (what, expected) = ("a layer".to_owned(), layer.to_owned());
            return Ok(Received::Corrupt(ImageError::Digest { what, expected, found }));
        }
        // Nobody needs it any more; the disk is spared what has not reached it yet.
        download.clear()?;
        result.map(Received::Layer)
    }
}

impl Download {
    /// Begins anew.
    pub fn clear(&mut self) -> Result<(), ImageError> {
        self.file.set_len(0).map_err(failed("empty", &self.path))?;
        self.length = 0;
        Ok(())
    }

    /// The layer is in the store.
    pub fn finish(self) -> Result<(), ImageError> {
        super::remove_file(&self.path)
    }

    /// What has arrived by now.
    pub fn measure(&mut self) -> Result<(), ImageError> {
        self.length = self.file.metadata().map_err(failed("read", &self.path))?.len();
        Ok(())
    }
}

impl ImageStore {
    /// Removes downloads that nobody is at and that `old` says are given up.
    pub(super) fn sweep_downloads(&self, old: impl Fn(&fs::Metadata) -> bool) -> io::Result<u64> {
        let mut freed = 0;
        for entry in fs::read_dir(self.root.join("downloads"))?.flatten() {
            let Ok(file) = File::open(entry.path()) else { continue };
            let metadata = file.metadata()?;
            let idle = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
            if idle && same(&file, &entry.path()) && old(&metadata) {
                fs::remove_file(entry.path())?;
                freed += metadata.len();
            }
        }
        Ok(freed)
    }
}

/// What is in the file, then what comes, which is added to it.
struct Arriving {
    file: File,
    /// Of the file.
    left: u64,
    arrivals: mpsc::Receiver<Arrival>,
    current: Bytes,
    ended: bool,
    interrupted: bool,
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left > 0 {
            let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let read = self.file.read(&mut buffer[..most])?;
            self.left -= read as u64;
            return if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) };
        }
        if self.current.is_empty() && !self.ended {
            match self.arrivals.blocking_recv() {
                Some(Arrival::Bytes(bytes)) => {
                    self.file.write_all(&bytes)?;
                    self.current = bytes;
                }
                Some(Arrival::End) => self.ended = true,
                None => {
                    self.interrupted = true;
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
        }
        let most = buffer.len().min(self.current.len());
        buffer[..most].copy_from_slice(&self.current[..most]);
        self.current.advance(most);
        Ok(most)
    }
}
