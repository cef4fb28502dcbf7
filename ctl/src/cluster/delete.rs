//! `ctl cluster delete`: nothing that the cluster made is left. Works on what there is, so it also
//! removes the half of a cluster, and may be repeated.

use std::io;
use std::time::Duration;

use client::{Clock, Kubeconfig};
use rustix::process::Signal;

use super::layout::Cluster;
use super::process::{Process, Processes};
use super::{Error, cgroups, network, privilege};

const PATIENCE: Duration = Duration::from_secs(10);

/// Removes the cluster. Everything is tried; what could not be removed is returned, and then the
/// description stays, so that deleting can be repeated.
pub async fn remove(cluster: &Cluster, clock: &Clock) -> Vec<Error> {
    let mut errors = Vec::new();
    errors.extend(end_processes(cluster, clock).await.err());
    errors.extend(cgroups::kill(&cluster.cgroup(), clock).await.err());
    errors.extend(network::remove(cluster).await);
    errors.extend(cgroups::remove(&cluster.cgroup()));
    if let Some(path) = &cluster.kubeconfig {
        errors.extend(remove_context(cluster, path).err());
    }
    if errors.is_empty() {
        match std::fs::remove_dir_all(&cluster.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                errors.push(Error::file("remove", &cluster.dir)(error));
            }
            _ => {}
        }
    }
    errors
}

/// The supervisor first: it ends the others, at once, because what they keep goes too. Whoever is left after it is ended directly.
async fn end_processes(cluster: &Cluster, clock: &Clock) -> Result<(), Error> {
    if let Some(handle) =
        Processes::read(&cluster.dir).supervisor().as_ref().and_then(Process::open)
    {
        handle.end(Signal::QUIT, clock, PATIENCE).await?;
    }
    let rest = Processes::read(&cluster.dir);
    let handles: Vec<_> = rest.0.values().filter_map(Process::open).collect();
    let ending = handles.iter().map(|handle| handle.end(Signal::KILL, clock, PATIENCE));
    futures::future::try_join_all(ending).await.map(drop)
}

fn remove_context(cluster: &Cluster, path: &std::path::Path) -> Result<(), Error> {
    let had = Kubeconfig::read(path).is_ok_and(|kubeconfig| {
        kubeconfig.contexts.iter().any(|named| named.name == cluster.context())
    });
    if had {
        Kubeconfig::remove_from(path, &cluster.context())?;
        privilege::give(path, &[])?;
    }
    Ok(())
}
