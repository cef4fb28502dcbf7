//! Files with holes. GNU's old format the tar reader knows itself; that of POSIX archives (GNU tar
//! 1.0: a map before the data) is read here. Its forerunners 0.0 and 0.1 are refused.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use tar::Entry;

use super::os;

const BLOCK: usize = 512;
/// Numbers in a map are short, and maps are as long as they are useful.
const MAP: u64 = 1_000_000;

/// A file in parts.
#[derive(Debug, Default, PartialEq)]
pub struct Sparse {
    /// The file's own name; the entry's is made up.
    pub name: Option<PathBuf>,
    size: u64,
}

impl Sparse {
    /// What the entry says of holes; `None` where it is an ordinary one.
    pub fn of(entry: &mut Entry<'_, impl Read>) -> io::Result<Option<Sparse>> {
        let Some(extensions) = entry.pax_extensions()? else { return Ok(None) };
        let (mut sparse, mut major, mut found) = (Sparse::default(), 0, false);
        for extension in extensions.flatten() {
            let Some(key) = extension.key().ok().and_then(|key| key.strip_prefix("GNU.sparse."))
            else {
                continue;
            };
            found = true;
            let number = || extension.value().ok().and_then(|text| text.parse().ok());
            match key {
                "major" => major = number().unwrap_or(0),
                "name" => sparse.name = Some(os(extension.value_bytes()).into()),
                "realsize" => sparse.size = number().unwrap_or(0),
                _ => {}
            }
        }
        match (found, major) {
            (false, _) => Ok(None),
            (true, 1) => Ok(Some(sparse)),
            (true, _) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a sparse file of format 0.x: pack it with --sparse-version=1.0",
            )),
        }
    }

    /// Writes the parts where they belong.
    pub fn write(&self, entry: &mut impl Read, file: &mut File) -> io::Result<()> {
        let mut map = Map { input: entry, block: [0; BLOCK], at: BLOCK };
        let count = map.number()?;
        if count > MAP {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a sparse file in too many parts",
            ));
        }
        let mut parts = Vec::new();
        for _ in 0..count {
            parts.push((map.number()?, map.number()?));
        }
        file.set_len(self.size)?;
        for (offset, length) in parts {
            let end = offset.checked_add(length).filter(|end| *end <= self.size);
            end.ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "a part beyond the file's end")
            })?;
            file.seek(SeekFrom::Start(offset))?;
            if io::copy(&mut entry.take(length), file)? != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        file.flush()
    }
}

/// Decimal numbers on lines of their own, padded to a block.
struct Map<'a, R> {
    input: &'a mut R,
    block: [u8; BLOCK],
    at: usize,
}

impl<R: Read> Map<'_, R> {
    fn number(&mut self) -> io::Result<u64> {
        let mut value: u64 = 0;
        loop {
            if self.at == BLOCK {
                self.input.read_exact(&mut self.block)?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            let digit = match byte {
                b'\n' => return Ok(value),
                b'0'..=b'9' => u64::from(byte - b'0'),
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the map of a sparse file is broken",
                    ));
                }
            };
            let next = value.checked_mul(10).and_then(|value| value.checked_add(digit));
            value = next.ok_or(io::ErrorKind::InvalidData)?;
        }
    }
}

/// Copies, leaving holes where there are only zeros.
pub fn without_zeros(input: &mut impl Read, file: &File) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut at = 0;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match input.read(&mut buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        if filled == 0 {
            return file.set_len(at);
        }
        for piece in buffer[..filled].chunks(4096) {
            if piece.iter().any(|byte| *byte != 0) {
                file.write_all_at(piece, at)?;
            }
            at += piece.len() as u64;
        }
    }
}
