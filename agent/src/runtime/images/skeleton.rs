//! The skeleton of a layer: what its tar has beside the contents of files. With it an unpacked layer
//! becomes the same tar again, byte for byte, and nothing is stored twice.
//!
//! A compressed list of records: bytes as they are, or a file whose contents belong there.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

const RAW: u8 = 0;
const FILE: u8 = 1;
/// Raw bytes are written in pieces of this size.
const PIECE: usize = 64 * 1024;
/// More than this between two entries is no name and no attribute.
const HEADERS: u64 = 4 << 20;
const LEVEL: i32 = 1;

type Output = zstd::Encoder<'static, BufWriter<File>>;

/// What a recorder and the reader of the tar behind it both know.
pub struct Recording {
    output: RefCell<Option<Output>>,
    raw: RefCell<Vec<u8>>,
    /// Bytes of a file's contents that come next.
    contents: Cell<u64>,
    /// Raw bytes that may come before the next entry.
    budget: Cell<u64>,
}

/// Passes a tar on and notes its skeleton.
pub struct Recorder<R> {
    inner: R,
    recording: Rc<Recording>,
}

impl<R: Read> Recorder<R> {
    pub fn new(inner: R, path: &Path) -> io::Result<(Recorder<R>, Rc<Recording>)> {
        let output = zstd::Encoder::new(BufWriter::new(File::create(path)?), LEVEL)?;
        let recording = Rc::new(Recording {
            output: RefCell::new(Some(output)),
            raw: RefCell::default(),
            contents: Cell::new(0),
            budget: Cell::new(HEADERS),
        });
        Ok((Recorder { inner, recording: recording.clone() }, recording))
    }

    pub fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for Recorder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let recording = &self.recording;
        let contents = recording.contents.get().min(read as u64);
        recording.contents.set(recording.contents.get() - contents);
        let raw = &buffer[contents as usize..read];
        let budget = recording.budget.get().checked_sub(raw.len() as u64);
        let too_much =
            || io::Error::new(io::ErrorKind::InvalidData, "an entry's header is too long");
        recording.budget.set(budget.ok_or_else(too_much)?);
        recording.raw.borrow_mut().extend_from_slice(raw);
        if recording.raw.borrow().len() >= PIECE {
            recording.flush()?;
        }
        Ok(read)
    }
}

impl Recording {
    /// The next bytes are the contents of a file of the layer.
    pub fn file(&self, path: &Path, size: u64) -> io::Result<()> {
        self.budget.set(HEADERS);
        if size == 0 {
            return Ok(());
        }
        self.flush()?;
        let name = path.as_os_str().as_bytes();
        let mut output = self.output.borrow_mut();
        let output = output.as_mut().expect("recording goes on");
        output.write_all(&[FILE])?;
        output.write_all(&(name.len() as u32).to_le_bytes())?;
        output.write_all(name)?;
        output.write_all(&size.to_le_bytes())?;
        self.contents.set(size);
        Ok(())
    }

    /// The next bytes, however many the entry has, are noted as they are.
    pub fn bytes(&self, size: u64) {
        self.budget.set(HEADERS.saturating_add(size));
    }

    /// Everything has been read. From now on nothing may be.
    pub fn finish(&self) -> io::Result<()> {
        self.flush()?;
        let output = self.output.borrow_mut().take().expect("finished once");
        output.finish()?.flush()
    }

    fn flush(&self) -> io::Result<()> {
        let mut raw = self.raw.borrow_mut();
        if raw.is_empty() {
            return Ok(());
        }
        let mut output = self.output.borrow_mut();
        let output = output.as_mut().expect("recording goes on");
        output.write_all(&[RAW])?;
        output.write_all(&(raw.len() as u32).to_le_bytes())?;
        output.write_all(&raw)?;
        raw.clear();
        Ok(())
    }
}

/// Writes the tar of which the skeleton is. `open` gives the files of the layer.
pub fn assemble(
    skeleton: &Path,
    open: impl Fn(&Path) -> io::Result<File>,
    output: &mut impl Write,
) -> io::Result<()> {
    let mut input = BufReader::new(zstd::Decoder::new(File::open(skeleton)?)?);
    loop {
        let mut tag = [0];
        if input.read(&mut tag)? == 0 {
            return Ok(());
        }
        let mut length = [0; 4];
        input.read_exact(&mut length)?;
        let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
        input.read_exact(&mut bytes)?;
        match tag[0] {
            RAW => output.write_all(&bytes)?,
            FILE => {
                let mut size = [0; 8];
                input.read_exact(&mut size)?;
                let size = u64::from_le_bytes(size);
                let path = PathBuf::from(std::ffi::OsStr::from_bytes(&bytes));
                let copied = io::copy(&mut open(&path)?.take(size), output)?;
                if copied != size {
                    let what = format!("{} has {copied} bytes instead of {size}", path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
            }
            other => {
                let what = format!("record {other} of the layer's skeleton means nothing");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }
    }
}
