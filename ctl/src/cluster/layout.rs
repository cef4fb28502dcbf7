//! Where a cluster's things are and what they are called: paths, networks, links. Pure, but for
//! reading and writing the one file that describes the cluster.
//!
//! Everything that a cluster makes on the machine bears its name. Names of links have at most 15
//! characters, so a long cluster name is shortened there, with a hash.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use agent::net::Cidr;
use serde::{Deserialize, Serialize};

use super::Error;

/// The root of all state on this machine.
#[derive(Clone, Debug)]
pub struct StateDir(pub PathBuf);

/// A cluster as it was asked for; `cluster.json` in its directory.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    pub name: String,
    /// Decides all addresses, see [`Networks`].
    pub slot: u8,
    pub nodes: Vec<Node>,
    pub simulated_nodes: u32,
    pub store: Store,
    /// API server, scheduler and controllers in processes of their own.
    pub separate: bool,
    /// There is a configuration for the scheduler.
    #[serde(default)]
    pub scheduler_config: bool,
    /// The kubeconfig that got this cluster's context.
    pub kubeconfig: Option<PathBuf>,
    #[serde(skip)]
    pub dir: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    pub name: String,
    /// From 1.
    pub number: u8,
    /// By `cluster node stop`.
    pub stopped: bool,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Store {
    Embedded,
    Memory,
    /// Client and peer port of each member, on loopback.
    Etcd(Vec<(u16, u16)>),
}

/// The addresses of a cluster: one /16 of the private range per slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Networks {
    second: u8,
}

/// The clusters that one machine can have.
pub const SLOTS: u8 = 64;
/// The nodes that one cluster can have: each takes a /24.
pub const MOST_NODES: u32 = 100;
/// Slot 0 is 10.160.0.0/16: away from what flannel, k3s, kubeadm and most VPNs use.
const FIRST: u8 = 160;
const DESCRIPTION: &str = "cluster.json";
pub const API_PORT: u16 = 6443;

impl Networks {
    pub fn of_slot(slot: u8) -> Self {
        Self { second: FIRST + slot }
    }

    /// Everything below.
    pub fn all(self) -> Cidr {
        Cidr::around(Ipv4Addr::new(10, self.second, 0, 0), 16)
    }

    /// The segment between the machine and its nodes.
    pub fn segment(self) -> Cidr {
        Cidr::around(Ipv4Addr::new(10, self.second, 0, 0), 24)
    }

    /// The machine's own address on the segment, where the API server listens.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.second, 0, 1)
    }

    /// The addresses of LoadBalancer Services: on the segment, so that there is a route to them.
    pub fn load_balancers(self) -> Cidr {
        Cidr::around(Ipv4Addr::new(10, self.second, 0, 128), 25)
    }

    pub fn services(self) -> Cidr {
        Cidr::around(Ipv4Addr::new(10, self.second, 128, 0), 18)
    }

    pub fn node(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.second, 0, 1 + number)
    }

    pub fn pods(self, number: u8) -> Cidr {
        Cidr::around(Ipv4Addr::new(10, self.second, number, 0), 24)
    }
}

impl StateDir {
    pub fn clusters(&self) -> PathBuf {
        self.0.join("clusters")
    }

    /// Shared by all nodes of all clusters of the machine.
    pub fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    pub fn cluster_dir(&self, name: &str) -> PathBuf {
        self.clusters().join(name)
    }

    /// The cluster of this name; `None` where there is none.
    pub fn cluster(&self, name: &str) -> Result<Option<Cluster>, Error> {
        Cluster::read(&self.cluster_dir(name))
    }

    /// All clusters, by name.
    pub fn all(&self) -> Result<Vec<Cluster>, Error> {
        let dir = self.clusters();
        let entries = match std::fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Error::file("read", &dir))?,
        };
        let mut clusters = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::file("read", &dir))?.path();
            clusters.extend(Cluster::read(&path)?);
        }
        clusters.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(clusters)
    }
}

impl Cluster {
    /// Reads the description; `None` where there is none.
    pub fn read(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(DESCRIPTION);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(Error::file("read", &path))?,
        };
        let mut cluster: Self = serde_json::from_slice(&text)
            .map_err(|error| Error::file("understand", &path)(error.into()))?;
        cluster.dir = dir.to_owned();
        Ok(Some(cluster))
    }

    /// Writes the description in one step.
    pub fn write(&self) -> Result<(), Error> {
        let path = self.dir.join(DESCRIPTION);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::file("write", &path)(error.into()))?;
        write_whole(&path, &text).map_err(Error::file("write", &path))
    }

    pub fn networks(&self) -> Networks {
        Networks::of_slot(self.slot)
    }

    /// The context in the user's kubeconfig.
    pub fn context(&self) -> String {
        format!("coracle-{}", self.name)
    }

    pub fn url(&self) -> String {
        format!("https://{}:{API_PORT}", self.networks().gateway())
    }

    /// The machine's bridge.
    pub fn bridge(&self) -> String {
        format!("cor-{}", short(&self.name))
    }

    /// The nftables table, on the machine and in each node.
    pub fn table(&self) -> String {
        format!("coracle-{}", self.name)
    }

    /// The top-level cgroup of all its pods, in every hierarchy.
    pub fn cgroup(&self) -> String {
        format!("coracle-{}", self.name)
    }

    pub fn server_dir(&self) -> PathBuf {
        self.dir.join("server")
    }

    pub fn scheduler_config(&self) -> PathBuf {
        self.dir.join("scheduler.yaml")
    }

    pub fn log(&self, process: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{process}.log"))
    }

    pub fn node_dir(&self, node: &Node) -> PathBuf {
        self.dir.join("nodes").join(&node.name)
    }

    /// The machine's end of the node's link.
    pub fn link(&self, node: &Node) -> String {
        format!("{}-n{}", short(&self.name), node.number)
    }

    /// The node's network namespace, as `ip netns` knows it.
    pub fn namespace(&self, node: &Node) -> PathBuf {
        Path::new("/run/netns").join(format!("coracle-{}-{}", self.name, node.name))
    }

    /// The cgroup of the node's pods.
    pub fn node_cgroup(&self, node: &Node) -> String {
        format!("{}/{}", self.cgroup(), node.name)
    }
}

/// Nodes 1 to `count`.
pub fn nodes(count: u32) -> Vec<Node> {
    let numbers = 1..=u8::try_from(count).unwrap_or(u8::MAX);
    numbers.map(|number| Node { name: format!("node{number}"), number, stopped: false }).collect()
}

/// Whether a cluster may be called so: a DNS label, because links, contexts and paths bear it.
pub fn check_name(name: &str) -> Result<(), Error> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let label = !name.is_empty()
        && name.len() <= 32
        && name.chars().all(good)
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-');
    if label { Ok(()) } else { Err(Error::Name(name.to_owned())) }
}

/// Writes beside the file and renames.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, bytes)?;
    std::fs::rename(&beside, path)
}

/// At most 8 characters that tell clusters apart.
fn short(name: &str) -> String {
    if name.len() <= 8 {
        return name.to_owned();
    }
    // FNV-1a: short, and the same on every machine.
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(16_777_619);
    let hash = name.bytes().fold(2_166_136_261, step);
    format!("{}{:04x}", &name[..4], hash & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_do_not_overlap() {
        for slot in [0, 7, SLOTS - 1] {
            let networks = Networks::of_slot(slot);
            let mut parts = vec![networks.segment(), networks.services()];
            parts.extend(nodes(MOST_NODES).iter().map(|node| networks.pods(node.number)));
            for (n, part) in parts.iter().enumerate() {
                assert!(networks.all().overlaps(part));
                assert!(parts[n + 1..].iter().all(|other| !part.overlaps(other)), "{part}");
            }
            let last = networks.node(u8::try_from(MOST_NODES).unwrap());
            assert!(networks.segment().contains(last));
            assert!(!networks.load_balancers().contains(last));
            assert!(networks.segment().overlaps(&networks.load_balancers()));
        }
        assert!(!Networks::of_slot(0).all().overlaps(&Networks::of_slot(1).all()));
    }

    #[test]
    fn names() {
        for good in ["a", "default", "test-1", "a-rather-long-name-for-a-cluster"] {
            check_name(good).unwrap();
            let cluster = Cluster {
                name: good.into(),
                slot: 0,
                nodes: nodes(100),
                simulated_nodes: 0,
                store: Store::Embedded,
                separate: false,
                scheduler_config: false,
                kubeconfig: None,
                dir: PathBuf::new(),
            };
            assert!(cluster.bridge().len() <= 15);
            assert!(cluster.nodes.iter().all(|node| cluster.link(node).len() <= 15));
        }
        for bad in ["", "A", "1a", "-a", "a-", "a/b", "..", "a-rather-long-name-for-a-cluster-x"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert_ne!(short("test-cluster-1"), short("test-cluster-2"));
    }
}
