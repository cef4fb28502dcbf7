//! Polls what is inside only when that has been woken. A task that many things wake (a stream of an
//! HTTP/2 connection by windows, capacity and other requests) would ask each of its parts every time,
//! and to ask a sleeping watch costs more than to send an event.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// For one future or stream, whose every poll goes through it.
pub struct Doze {
    bell: Arc<Bell>,
    waker: Waker,
}

struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, SeqCst);
        self.task.wake();
    }
}

impl Default for Doze {
    fn default() -> Doze {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        Doze { waker: bell.clone().into(), bell }
    }
}

impl Doze {
    /// Pending, unless it was woken since it last was, or was never asked.
    pub fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        ask: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        // Before the look at the bell: what rings after it wakes this task.
        self.bell.task.register(cx.waker());
        if !self.bell.rung.swap(false, SeqCst) {
            return Poll::Pending;
        }
        let answer = ask(&mut Context::from_waker(&self.waker));
        if answer.is_ready() {
            // There may be more.
            self.bell.rung.store(true, SeqCst);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc;
    use futures::task::noop_waker;
    use futures::{FutureExt, StreamExt};

    use super::*;

    #[test]
    fn what_sleeps_is_not_asked() {
        let (sender, mut receiver) = mpsc::unbounded();
        let (doze, waker, mut asked) = (Doze::default(), noop_waker(), 0);
        let mut cx = Context::from_waker(&waker);
        let mut next = || {
            let answer = doze.poll(&mut cx, |cx| {
                asked += 1;
                receiver.next().poll_unpin(cx)
            });
            (answer, asked)
        };
        assert_eq!(next(), (Poll::Pending, 1));
        assert_eq!(next(), (Poll::Pending, 1));
        sender.unbounded_send('a').unwrap();
        sender.unbounded_send('b').unwrap();
        assert_eq!(next(), (Poll::Ready(Some('a')), 2));
        assert_eq!(next(), (Poll::Ready(Some('b')), 3));
        assert_eq!(next(), (Poll::Pending, 4));
        assert_eq!(next(), (Poll::Pending, 4));
        drop(sender);
        assert_eq!(next(), (Poll::Ready(None), 5));
    }
}
