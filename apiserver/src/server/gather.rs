//! Writes of one HTTP/2 connection, gathered before they are encrypted. The HTTP/2 library flushes
//! every frame, so that a hundred watches of one connection would cost a hundred TLS records and
//! system calls for one event. Here a flush waits until the connection's task has had its next turn:
//! the streams that are ready at that time have put their frames in by then.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Some full TLS records.
const ROOM: usize = 64 << 10;
/// What fills a record nearly by itself, as the frames of a list do, is not worth a copy.
const LARGE: usize = 8 << 10;

/// Relies on its user to read at the beginning of every turn, as an HTTP/2 connection does: that is
/// where a flush that was put off is made up for.
pub struct Gather<T> {
    inner: T,
    /// Whether it does so at all.
    gathers: bool,
    /// Given back when it is empty: an idle connection holds no memory.
    held: Vec<u8>,
    /// How much of it the inner stream has taken.
    taken: usize,
    /// A flush was asked for and put off.
    put_off: bool,
}

impl<T: AsyncWrite + Unpin> Gather<T> {
    /// `is_http2`: everything else is written as it comes.
    pub fn new(inner: T, is_http2: bool) -> Gather<T> {
        Gather { inner, gathers: is_http2, held: Vec::new(), taken: 0, put_off: false }
    }

    fn pass_on(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.taken < self.held.len() {
            let rest = &self.held[self.taken..];
            match ready!(Pin::new(&mut self.inner).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.taken += count,
            }
        }
        (self.held, self.taken) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.pass_on(cx))?;
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.put_off = false;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gather<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A reader that does not take its answers may still ask.
        if self.put_off
            && let Poll::Ready(Err(error)) = self.flush(cx)
        {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gather<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        if length > LARGE || self.held.len() + length > ROOM {
            ready!(self.pass_on(cx))?;
        }
        if !self.gathers || length > LARGE {
            return Pin::new(&mut self.inner).poll_write_vectored(cx, pieces);
        }
        pieces.iter().for_each(|piece| self.held.extend_from_slice(piece));
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            return self.flush(cx);
        }
        if !self.put_off {
            self.put_off = true;
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.flush(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures::task::noop_waker;

    use super::*;

    /// Takes what it has room for.
    #[derive(Default)]
    struct Wire {
        writes: Vec<Vec<u8>>,
        room: usize,
        flushes: usize,
    }

    impl AsyncWrite for Wire {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Poll::Pending;
            }
            self.room -= count;
            self.writes.push(bytes[..count].to_vec());
            Poll::Ready(Ok(count))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for Wire {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    fn turn(gather: &mut Gather<Wire>, waker: &Waker) {
        let (mut room, mut cx) = ([0; 8], Context::from_waker(waker));
        let read = Pin::new(gather).poll_read(&mut cx, &mut ReadBuf::new(&mut room));
        assert!(read.is_pending());
    }

    #[test]
    fn frames_of_one_turn_leave_together_in_the_next() {
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let wire = Wire { room: usize::MAX, ..Wire::default() };
        let mut gather = Gather::new(wire, true);
        for frame in [&b"a"[..], b"bc", b"d"] {
            assert!(Pin::new(&mut gather).poll_write(&mut cx, frame).is_ready());
            assert!(Pin::new(&mut gather).poll_flush(&mut cx).is_ready());
        }
        assert!(gather.inner.writes.is_empty());
        turn(&mut gather, &waker);
        assert_eq!((&*gather.inner.writes, gather.inner.flushes), (&[b"abcd".to_vec()][..], 1));
        assert_eq!(gather.held.capacity(), 0);
    }

    #[test]
    fn a_slow_wire_holds_the_writer_and_loses_nothing() {
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let mut gather = Gather::new(Wire::default(), true);
        let bytes: Vec<u8> = (0..1_000_000u32).map(|at| (at % 251) as u8).collect();
        let mut given = 0;
        while given < bytes.len() {
            let end = bytes.len().min(given + 1 + given % 70_001);
            match Pin::new(&mut gather).poll_write(&mut cx, &bytes[given..end]) {
                Poll::Ready(count) => given += count.unwrap(),
                Poll::Pending => gather.inner.room += 30_000,
            }
            assert!(gather.held.len() <= ROOM);
        }
        gather.inner.room = bytes.len();
        assert!(Pin::new(&mut gather).poll_shutdown(&mut cx).is_ready());
        assert!(gather.inner.writes.concat() == bytes);
    }
}
