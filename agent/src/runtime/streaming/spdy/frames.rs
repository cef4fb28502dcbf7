//! Frames of SPDY/3.1: read from bytes of strangers, so every length is checked. Streams are opened
//! by clients only.

use std::collections::HashMap;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What a client may send.
#[derive(Debug, PartialEq)]
pub enum Frame {
    Open {
        stream: u32,
        headers: HashMap<String, String>,
    },
    Data {
        stream: u32,
        bytes: Bytes,
        end: bool,
    },
    /// The stream is of no more use to the client.
    Reset(u32),
    Ping(u32),
    GoAway,
    Other,
}

const CONTROL: u32 = 0x8000_0000;
const VERSION: u32 = 3;
const SYN_STREAM: u32 = 1;
const SYN_REPLY: u32 = 2;
const RST_STREAM: u32 = 3;
const PING: u32 = 6;
const GO_AWAY: u32 = 7;
const END: u32 = 1;
/// Larger frames, and headers that unpack to more, end the connection.
const FRAME_LIMIT: usize = 1 << 20;
const HEADER_LIMIT: usize = 64 << 10;

/// Reads frames. Headers share one compression, so none may be left out.
pub struct Reader<R> {
    inner: R,
    headers: Decompress,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(inner: R) -> Self {
        Reader { inner, headers: Decompress::new(true) }
    }

    /// The next frame; `None` at the end, or when what comes is no SPDY.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 8];
        self.inner.read_exact(&mut head).await.ok()?;
        let first = u32::from_be_bytes(head[..4].try_into().ok()?);
        let second = u32::from_be_bytes(head[4..].try_into().ok()?);
        let (flags, length) = (second >> 24, (second & 0xff_ffff) as usize);
        if length > FRAME_LIMIT {
            return None;
        }
        let mut payload = vec![0; length];
        self.inner.read_exact(&mut payload).await.ok()?;
        if first & CONTROL == 0 {
            return Some(Frame::Data {
                stream: first,
                bytes: payload.into(),
                end: flags & END != 0,
            });
        }
        if first >> 16 != (CONTROL >> 16) | VERSION {
            return None;
        }
        let word = |at: usize| Some(u32::from_be_bytes(payload.get(at..at + 4)?.try_into().ok()?));
        match first & 0xffff {
            SYN_STREAM => {
                let stream = word(0)? & !CONTROL;
                let block = self.unpack(payload.get(10..)?)?;
                Some(Frame::Open { stream, headers: parse_headers(&block)? })
            }
            RST_STREAM => Some(Frame::Reset(word(0)? & !CONTROL)),
            PING => Some(Frame::Ping(word(0)?)),
            GO_AWAY => Some(Frame::GoAway),
            _ => Some(Frame::Other),
        }
    }

    fn unpack(&mut self, packed: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(1024);
        let before = self.headers.total_in();
        loop {
            let read = (self.headers.total_in() - before) as usize;
            if out.len() == out.capacity() {
                out.reserve(1024);
            }
            let length = out.len();
            match self.headers.decompress_vec(&packed[read..], &mut out, FlushDecompress::Sync) {
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.headers.set_dictionary(&dictionary()).ok()?;
                    continue;
                }
                Err(_) => return None,
            }
            if out.len() > HEADER_LIMIT {
                return None;
            }
            let read = (self.headers.total_in() - before) as usize;
            if read == packed.len() && out.len() < out.capacity() {
                return Some(out);
            }
            if out.len() == length && read == packed.len() {
                return Some(out);
            }
        }
    }
}

/// A count, then names and values, each with its length before it.
fn parse_headers(block: &[u8]) -> Option<HashMap<String, String>> {
    let mut rest = block;
    let number = |rest: &mut &[u8]| -> Option<usize> {
        let (head, tail) = rest.split_at_checked(4)?;
        *rest = tail;
        Some(u32::from_be_bytes(head.try_into().ok()?) as usize)
    };
    let count = number(&mut rest)?;
    let mut headers = HashMap::new();
    for _ in 0..count {
        let mut text = || -> Option<String> {
            let length = number(&mut rest)?;
            let (head, tail) = rest.split_at_checked(length)?;
            rest = tail;
            Some(String::from_utf8_lossy(head).into_owned())
        };
        let (name, value) = (text()?, text()?);
        headers.insert(name.to_ascii_lowercase(), value);
    }
    Some(headers)
}

/// Makes frames.
pub struct Writer {
    headers: Compress,
}

impl Default for Writer {
    fn default() -> Self {
        Writer::new()
    }
}

impl Writer {
    pub fn new() -> Self {
        let mut headers = Compress::new(Compression::fast(), true);
        headers.set_dictionary(&dictionary()).expect("a fresh compressor takes a dictionary");
        Writer { headers }
    }

    /// Opens a stream with these headers.
    pub fn open(&mut self, stream: u32, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut block = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend((text.len() as u32).to_be_bytes());
            block.extend(text.as_bytes());
        }
        let mut packed = Vec::with_capacity(block.len() + 256);
        self.headers
            .compress_vec(&block, &mut packed, FlushCompress::Sync)
            .expect("a few words can be compressed");
        let payload = [&stream.to_be_bytes()[..], &[0; 6], &packed].concat();
        control(SYN_STREAM, &payload)
    }

    /// Accepts a stream, with no headers.
    pub fn reply(&mut self, stream: u32) -> Vec<u8> {
        let mut packed = Vec::with_capacity(256);
        let none = 0u32.to_be_bytes();
        self.headers
            .compress_vec(&none, &mut packed, FlushCompress::Sync)
            .expect("four bytes can be compressed");
        let payload = [&stream.to_be_bytes()[..], &packed].concat();
        control(SYN_REPLY, &payload)
    }

    pub fn data(&mut self, stream: u32, bytes: &[u8], end: bool) -> Vec<u8> {
        let flags = if end { END << 24 } else { 0 };
        let head = [stream.to_be_bytes(), (flags | bytes.len() as u32).to_be_bytes()].concat();
        [&head, bytes].concat()
    }

    pub fn ping(&mut self, id: u32) -> Vec<u8> {
        control(PING, &id.to_be_bytes())
    }

    pub fn go_away(&mut self) -> Vec<u8> {
        control(GO_AWAY, &[0; 8])
    }
}

fn control(kind: u32, payload: &[u8]) -> Vec<u8> {
    let head =
        [(CONTROL | VERSION << 16 | kind).to_be_bytes(), (payload.len() as u32).to_be_bytes()]
            .concat();
    [&head, payload].concat()
}

/// Words that headers are made of; both sides begin with them (SPDY/3, section 2.6.10.1).
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host \
    if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";
const PHRASES: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 \
    Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept \
    Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,\
    sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut out = Vec::with_capacity(1423);
    for word in WORDS.split_whitespace() {
        let word = word.replace('_', " ");
        out.extend((word.len() as u32).to_be_bytes());
        out.extend(word.as_bytes());
    }
    out.extend(PHRASES.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_standards() {
        let bytes = dictionary();
        let (mut a, mut b) = (1u32, 0u32);
        for byte in &bytes {
            a = (a + u32::from(*byte)) % 65_521;
            b = (b + a) % 65_521;
        }
        assert_eq!((bytes.len(), b << 16 | a), (1423, 0xe3c6_a7c2));
    }

    #[tokio::test]
    async fn streams_are_opened_with_their_headers() {
        let mut writer = Writer::new();
        let mut bytes = Vec::new();
        for (stream, kind) in [(1, "error"), (3, "stdout")] {
            bytes.extend(writer.open(stream, &[("streamtype", kind)]));
        }
        bytes.extend(Writer::new().data(3, b"hello", true));
        bytes.extend(control(RST_STREAM, &[0, 0, 0, 3, 0, 0, 0, 5]));
        let mut reader = Reader::new(&bytes[..]);
        for (stream, kind) in [(1, "error"), (3, "stdout")] {
            let headers = HashMap::from([("streamtype".to_owned(), kind.to_owned())]);
            assert_eq!(reader.next().await, Some(Frame::Open { stream, headers }));
        }
        let data = Frame::Data { stream: 3, bytes: Bytes::from_static(b"hello"), end: true };
        assert_eq!(reader.next().await, Some(data));
        assert_eq!(reader.next().await, Some(Frame::Reset(3)));
        assert_eq!(reader.next().await, None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut reader = Reader::new(&bytes[..]);
                while reader.next().await.is_some() {}
            });
        }
    }
}
