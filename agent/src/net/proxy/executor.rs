//! Gives transactions to nftables and forgets connections to endpoints that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::process::{ExitStatus, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::service_port::{Protocol, ServicePort};

#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("run nft (package nftables)")]
    Run(#[source] io::Error),
    #[error("nft refused the rules ({status}): {stderr}")]
    Refused { status: ExitStatus, stderr: String },
}

/// Connections of UDP to forget: it has no handshake by which a client would learn that the
/// endpoint went.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stale {
    /// To this endpoint, which is gone.
    Endpoint(Ipv4Addr),
    /// To this address of a Service, which until now had no endpoint.
    Service(Ipv4Addr, u16),
}

/// Runs one transaction: all of it or nothing.
pub async fn apply(transaction: &str) -> Result<(), NftError> {
    let mut child = command("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(NftError::Run)?;
    if let Some(mut stdin) = child.stdin.take() {
        // nft reads everything before it answers; if it ended early its status says more.
        let _ = stdin.write_all(transaction.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(NftError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(NftError::Refused { status: output.status, stderr })
}

/// What the change from `old` to `new` leaves behind.
pub fn stale(
    old: &BTreeMap<String, ServicePort>,
    new: &BTreeMap<String, ServicePort>,
) -> BTreeSet<Stale> {
    let mut stale = BTreeSet::new();
    for (id, before) in old.iter().filter(|(_, port)| port.protocol == Protocol::Udp) {
        let after = new.get(id).map_or(&[][..], |port| &port.endpoints);
        let gone = before.endpoints.iter().filter(|endpoint| !after.contains(endpoint));
        stale.extend(gone.map(|(ip, _)| Stale::Endpoint(*ip)));
    }
    for (id, after) in new.iter().filter(|(_, port)| port.protocol == Protocol::Udp) {
        let served = old.get(id).is_some_and(|before| !before.endpoints.is_empty());
        if !served && !after.endpoints.is_empty() {
            let addresses = after.cluster_ips.iter().chain(&after.external_ips);
            let addresses = addresses.chain(&after.load_balancer_ips);
            stale.extend(addresses.map(|ip| Stale::Service(*ip, after.port)));
        }
    }
    stale
}

/// Removes the entries of connection tracking. Where there is no `conntrack` program they expire by
/// themselves: after 30 s without traffic.
pub async fn forget(stale: &BTreeSet<Stale>) -> io::Result<()> {
    for stale in stale {
        let mut conntrack = command("conntrack");
        conntrack.args(["-D", "-p", "udp"]);
        match stale {
            Stale::Endpoint(ip) => conntrack.args(["--dst-nat", &ip.to_string()]),
            Stale::Service(ip, port) => conntrack
                .args(["--orig-dst", &ip.to_string()])
                .args(["--orig-port-dst", &port.to_string()]),
        };
        let quiet = conntrack.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Its status also says "nothing found".
        quiet.kill_on_drop(true).status().await?;
    }
    Ok(())
}

/// A program of the system administrator's directories, which may not be in PATH.
fn command(program: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_udp_leaves_something_behind() {
        let ip = |last| Ipv4Addr::new(10, 0, 0, last);
        let port = |protocol, endpoints: &[u8]| {
            let endpoints = endpoints.iter().map(|last| (ip(*last), 53)).collect();
            let cluster_ips = vec![ip(100)];
            let port =
                ServicePort { protocol, port: 53, cluster_ips, endpoints, ..Default::default() };
            BTreeMap::from([("a".to_owned(), port)])
        };
        let (udp, tcp, none) = (Protocol::Udp, Protocol::Tcp, BTreeMap::new());
        for (old, new, expected) in [
            (port(udp, &[1, 2]), port(udp, &[2, 3]), vec![Stale::Endpoint(ip(1))]),
            (port(udp, &[1]), none.clone(), vec![Stale::Endpoint(ip(1))]),
            (port(udp, &[]), port(udp, &[1]), vec![Stale::Service(ip(100), 53)]),
            (none.clone(), port(udp, &[1]), vec![Stale::Service(ip(100), 53)]),
            (port(tcp, &[1]), port(tcp, &[2]), vec![]),
            (port(udp, &[1]), port(udp, &[1]), vec![]),
        ] {
            assert_eq!(stale(&old, &new), BTreeSet::from_iter(expected));
        }
    }
}
