//! Bytes on their way: digests of what passes, and compression by its first bytes.

use std::io::{self, BufReader, Read};

use aws_lc_rs::digest::{Context, SHA256, digest};

/// `sha256:…` of bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(digest(&SHA256, bytes)))
}

/// Passes bytes on and knows their digest and number.
pub struct Hashing<T> {
    inner: T,
    context: Context,
    pub bytes: u64,
}

impl<T> Hashing<T> {
    pub fn new(inner: T) -> Self {
        Hashing { inner, context: Context::new(&SHA256), bytes: 0 }
    }

    pub fn into_inner(self) -> T {
        self.inner
    }

    /// `sha256:…` of what went through.
    pub fn digest(&self) -> String {
        format!("sha256:{}", hex::encode(self.context.clone().finish()))
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.context.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

impl<T: io::Write> io::Write for Hashing<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.context.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Reads gzip, zstd or plain, by the first bytes.
pub fn decompress<'a>(input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut input = BufReader::with_capacity(256 * 1024, input);
    let start = io::BufRead::fill_buf(&mut input)?;
    let reader: Box<dyn Read + 'a> = match start {
        [0x1f, 0x8b, ..] => {
            let reader = flate2::bufread::MultiGzDecoder::new(input);
            // A tar is read in blocks of 512 bytes: larger pieces are cheaper to unpack and to hash.
            Box::new(BufReader::with_capacity(256 * 1024, reader))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let reader = zstd::Decoder::with_buffer(input)?;
            Box::new(BufReader::with_capacity(256 * 1024, reader))
        }
        _ => Box::new(input),
    };
    Ok(reader)
}
