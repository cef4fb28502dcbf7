//! `ctl cluster node stop|start`: a node's machine loses power, and gets it back.

use std::time::Duration;

use client::{Client, Clock};
use rustix::process::Signal;

use super::create::{admin, wait_node};
use super::layout::{Cluster, StateDir};
use super::process::{Process, Processes};
use super::{Error, cgroups, network};

const WITHIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Cuts the node off and kills everything that runs on it.
pub async fn stop(name: &str, cluster: Cluster, clock: &Clock) -> Result<(), Error> {
    let (cluster, number) = mark(name, cluster, true)?;
    let node = &cluster.nodes[number];
    network::set_link(&cluster, node, false)?;
    reload(&cluster)?;
    let prefix = format!("{name}/");
    let deadline = clock.instant() + WITHIN;
    while Processes::read(&cluster.dir).0.keys().any(|process| process.starts_with(&prefix)) {
        if clock.instant() > deadline {
            let what = format!("the end of the processes of {name}");
            return Err(Error::Late { what, seconds: WITHIN.as_secs(), tails: String::new() });
        }
        clock.sleep(LOOK_AGAIN).await;
    }
    cgroups::kill(&cluster.node_cgroup(node), clock).await
}

/// Starts it again and waits until it is Ready.
pub async fn start(name: &str, cluster: Cluster, clock: &Clock) -> Result<(), Error> {
    let (cluster, number) = mark(name, cluster, false)?;
    let node = &cluster.nodes[number];
    let client = Client::connect(&admin(&cluster)?)?;
    network::set_link(&cluster, node, true)?;
    reload(&cluster)?;
    wait_node(&cluster, node, &client, clock).await
}

/// The cluster, which must exist.
pub fn find(name: &str, state: &StateDir) -> Result<Cluster, Error> {
    state.cluster(name)?.ok_or_else(|| Error::NoCluster(name.to_owned()))
}

fn mark(name: &str, mut cluster: Cluster, stopped: bool) -> Result<(Cluster, usize), Error> {
    let Some(number) = cluster.nodes.iter().position(|node| node.name == name) else {
        let nodes: Vec<_> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
        let nodes = nodes.join(", ");
        return Err(Error::NoNode { cluster: cluster.name, node: name.to_owned(), nodes });
    };
    cluster.nodes[number].stopped = stopped;
    cluster.write()?;
    Ok((cluster, number))
}

/// Tells the supervisor to read the description again.
fn reload(cluster: &Cluster) -> Result<(), Error> {
    let supervisor = Processes::read(&cluster.dir).supervisor();
    match supervisor.as_ref().and_then(Process::open) {
        Some(supervisor) => supervisor.signal(Signal::HUP),
        None => Err(Error::NotRunning(cluster.name.clone())),
    }
}
