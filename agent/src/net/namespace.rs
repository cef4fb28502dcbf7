//! Network namespaces: making one, and acting inside one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use tokio::sync::oneshot;

/// A new network namespace with nothing but a loopback link that is down. It lives as long as the
/// descriptor, or a process or socket in it.
pub fn create() -> io::Result<OwnedFd> {
    let thread = std::thread::Builder::new().name("new-netns".into()).spawn(|| {
        // Deprecated because other flags make threads share or lose memory-related state. A
        // network namespace is the thread's own, and this thread ends here.
        #[allow(deprecated)]
        rustix::thread::unshare(UnshareFlags::NEWNET)?;
        Ok(File::open("/proc/thread-self/ns/net")?.into())
    })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

/// Runs `act` on a thread of its own that has entered the network namespace; sockets it opens stay
/// there. A thread that has entered a namespace is not given back to a pool.
pub async fn within<T: Send + 'static>(
    namespace: BorrowedFd<'_>,
    act: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let namespace = namespace.try_clone_to_owned()?;
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new().name("in-netns".into()).spawn(move || {
        let entered =
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
        let _ = sender.send(entered.map(|()| act()).map_err(io::Error::from));
    })?;
    receiver.await.unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}
