//! A node's namespaces, held open by the supervisor, and starting processes in them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command};

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// Network, mount and UTS namespace of one node.
pub struct Namespaces {
    network: OwnedFd,
    mount: OwnedFd,
    uts: OwnedFd,
}

impl Namespaces {
    /// The network namespace at `network`, and new mount and UTS namespaces in which the host's
    /// name is `hostname`.
    pub fn make(network: &Path, hostname: &str) -> io::Result<Self> {
        let (path, hostname) = (network.to_owned(), hostname.to_owned());
        on_thread(move || {
            let network: OwnedFd = File::open(&path)?.into();
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
            unshare(UnshareFlags::FS | UnshareFlags::NEWNS | UnshareFlags::NEWUTS)?;
            rustix::system::sethostname(hostname.as_bytes())?;
            // What the node mounts stays in the node; what the machine unmounts goes here too.
            mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
            forget_networks(path.parent().unwrap_or(Path::new("/run/netns")))?;
            let namespace =
                |kind| File::open(format!("/proc/thread-self/ns/{kind}")).map(OwnedFd::from);
            Ok(Self { network, mount: namespace("mnt")?, uts: namespace("uts")? })
        })
    }

    /// Starts a process in them.
    pub fn spawn(&self, mut command: Command) -> io::Result<Child> {
        let copy = |fd: &OwnedFd| fd.try_clone();
        let (network, mount, uts) = (copy(&self.network)?, copy(&self.mount)?, copy(&self.uts)?);
        on_thread(move || {
            // A thread may enter a mount namespace once its working directory is its own.
            unshare(UnshareFlags::FS)?;
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
            move_into_link_name_space(
                uts.as_fd(),
                Some(LinkNameSpaceType::HostNameAndNISDomainName),
            )?;
            move_into_link_name_space(mount.as_fd(), Some(LinkNameSpaceType::Mount))?;
            command.spawn()
        })
    }
}

/// Runs `act` on a thread that ends with it, so that what it did to its namespaces stays there.
fn on_thread<T: Send + 'static>(
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let thread = std::thread::Builder::new().name("namespaces".into()).spawn(act)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

/// Deprecated because other flags let a thread lose what safe code relies on: its descriptors.
/// Working directory, mounts and host name are no such thing.
#[allow(deprecated)]
fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    rustix::thread::unshare(flags)
}

/// The mount namespace began as a copy of the machine's, with all network namespaces that are
/// bound to a path: they would live as long as this node.
fn forget_networks(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        match unmount(entry?.path(), UnmountFlags::DETACH) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
