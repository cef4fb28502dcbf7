//! Wakes readers when something happens in a folder of logs. One inotify instance serves all
//! readers of the process: the kernel allows a user but 128 of them.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// Watches folders. Clones share it.
#[derive(Clone)]
pub struct Watcher(Arc<Inside>);

struct Inside {
    fd: Arc<AsyncFd<OwnedFd>>,
    /// By watch descriptor.
    readers: Arc<Mutex<HashMap<i32, Vec<Weak<Notify>>>>>,
    _task: AbortOnDropHandle<()>,
}

impl Watcher {
    #[allow(
        deprecated,
        reason = "an OwnedFd is what AsyncFd wants; its newer constructor is unsafe"
    )]
    pub fn new() -> io::Result<Watcher> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let fd = Arc::new(AsyncFd::new(fd)?);
        let readers: Arc<Mutex<HashMap<i32, Vec<Weak<Notify>>>>> = Arc::default();
        let task = tokio::spawn(follow(fd.clone(), readers.clone()));
        Ok(Watcher(Arc::new(Inside { fd, readers, _task: AbortOnDropHandle::new(task) })))
    }

    /// Notified whenever a file in the folder is written, made, moved or removed; as long as it is held.
    pub fn watch(&self, folder: &Path) -> io::Result<Arc<Notify>> {
        let what =
            WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE;
        let mut readers = self.0.readers.lock();
        let watch = inotify::add_watch(self.0.fd.get_ref(), folder, what)?;
        let notify = Arc::new(Notify::new());
        readers.entry(watch).or_default().push(Arc::downgrade(&notify));
        Ok(notify)
    }
}

async fn follow(fd: Arc<AsyncFd<OwnedFd>>, readers: Arc<Mutex<HashMap<i32, Vec<Weak<Notify>>>>>) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    while let Ok(mut ready) = fd.readable().await {
        let mut reader = Reader::new(fd.get_ref(), &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => tell(&fd, &readers, event.wd()),
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        ready.clear_ready();
    }
}

fn tell(fd: &AsyncFd<OwnedFd>, readers: &Mutex<HashMap<i32, Vec<Weak<Notify>>>>, watch: i32) {
    let mut readers = readers.lock();
    let Some(list) = readers.get_mut(&watch) else { return };
    list.retain(|reader| match reader.upgrade() {
        Some(reader) => {
            reader.notify_one();
            true
        }
        None => false,
    });
    if list.is_empty() {
        readers.remove(&watch);
        // A folder that is gone has lost its watch by itself.
        let _ = inotify::remove_watch(fd.get_ref(), watch);
    }
}
