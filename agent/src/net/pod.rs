//! The pods' network on one node: a bridge with the first address of the pod CIDR and a veth pair
//! per pod. Called by the runtime; it never looks at the API.
//!
//! A pod has its address as a /32 and reaches everything through the bridge's address, so that all
//! its traffic is routed and Services work whether or not bridged frames pass netfilter.

mod addresses;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;
use sha2::{Digest, Sha256};

use self::addresses::{AddressError, Addresses};
use super::bandwidth::{Bandwidth, Bucket};
use super::netlink::{Netlink, NetlinkError, Request, Route, Veth};
use super::{Cidr, namespace};

/// The pod network of this node. Cheap to clone.
#[derive(Clone)]
pub struct PodNetwork {
    node: Arc<Node>,
}

/// How the node's pods are connected.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// At most 15 characters.
    pub bridge: String,
    pub pod_cidr: Cidr,
    /// Where the addresses in use are kept; it must survive restarts of the process.
    pub state_dir: PathBuf,
    pub mtu: u32,
}

/// What a pod got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodAddress {
    pub ip: Ipv4Addr,
    /// Of the address on the pod's link: always 32.
    pub prefix: u8,
    pub gateway: Ipv4Addr,
}

/// Why a pod could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("give an address")]
    Address(#[from] AddressError),
    #[error("set up the pod network")]
    Netlink(#[from] NetlinkError),
    #[error("bridge {0} is missing")]
    NoBridge(String),
    #[error("enter the pod's network namespace")]
    Namespace(#[source] io::Error),
    #[error("set {path}")]
    Sysctl {
        path: String,
        #[source]
        source: io::Error,
    },
}

struct Node {
    config: NetworkConfig,
    gateway: Ipv4Addr,
    bridge: u32,
    addresses: Addresses,
}

/// The pod's link, as the CRI calls it.
const POD_LINK: &str = "eth0";
/// Routes inside a pod's namespace bear the number of `boot`, as `ip route add` gives them.
const BOOT: u8 = 3;

impl PodNetwork {
    /// Makes the bridge, unless it is there, and turns forwarding on.
    pub async fn open(config: NetworkConfig) -> Result<Self, NetError> {
        let gateway = super::gateway(config.pod_cidr);
        let addresses = Addresses::open(config.pod_cidr, &config.state_dir)?;
        let bridge = open_bridge(&config, gateway)?;
        sysctl("net/ipv4/ip_forward", "1")?;
        for scope in ["all", &config.bridge] {
            // A pod reaches its neighbours through the gateway on purpose.
            sysctl(&format!("net/ipv4/conf/{scope}/send_redirects"), "0")?;
        }
        Ok(Self { node: Arc::new(Node { config, gateway, bridge, addresses }) })
    }

    /// Connects the namespace: link, address, default route, loopback. Done again for the same
    /// sandbox it yields the same address.
    pub async fn attach(
        &self,
        sandbox_id: &str,
        netns: BorrowedFd<'_>,
    ) -> Result<PodAddress, NetError> {
        let ip = self.node.addresses.claim(sandbox_id)?;
        let node = self.node.clone();
        let (link, peer_namespace) = (link_name(sandbox_id), netns.try_clone_to_owned());
        let peer_namespace = peer_namespace.map_err(NetError::Namespace)?;
        let node_end = Netlink::open()?;
        namespace::within(netns, move || node.connect(&node_end, &link, ip, &peer_namespace))
            .await
            .map_err(NetError::Namespace)??;
        Ok(self.node.pod_address(ip))
    }

    /// Limits how fast the pod receives and sends: at both ends of its link, each where the packets
    /// leave it. Buckets go with the link.
    pub async fn shape(
        &self,
        sandbox_id: &str,
        netns: BorrowedFd<'_>,
        bandwidth: &Bandwidth,
    ) -> Result<(), NetError> {
        if let Some(bits) = bandwidth.ingress {
            limit(&Netlink::open()?, &link_name(sandbox_id), bits)?;
        }
        if let Some(bits) = bandwidth.egress {
            namespace::within(netns, move || limit(&Netlink::open()?, POD_LINK, bits))
                .await
                .map_err(NetError::Namespace)??;
        }
        Ok(())
    }

    /// The limits as the kernel has them.
    pub async fn shaped(
        &self,
        sandbox_id: &str,
        netns: BorrowedFd<'_>,
    ) -> Result<Bandwidth, NetError> {
        let read = |netlink: Netlink, name: &str| -> Result<Option<u64>, NetError> {
            let Some(link) = netlink.link(name)? else { return Ok(None) };
            Ok(netlink.bucket_rate(link.index)?.map(|bytes| bytes * 8))
        };
        let ingress = read(Netlink::open()?, &link_name(sandbox_id))?;
        let egress = namespace::within(netns, move || read(Netlink::open()?, POD_LINK))
            .await
            .map_err(NetError::Namespace)??;
        Ok(Bandwidth { ingress, egress })
    }

    /// Frees the sandbox's address; the link goes with the namespace, which is much cheaper than
    /// deleting it. Unknown sandboxes are no error.
    pub async fn detach(&self, sandbox_id: &str) -> Result<(), NetError> {
        Ok(self.node.addresses.release(sandbox_id)?)
    }

    /// The address that the sandbox has.
    pub fn address(&self, sandbox_id: &str) -> Option<PodAddress> {
        Some(self.node.pod_address(self.node.addresses.of(sandbox_id)?))
    }

    /// The bridge's address: the pods' gateway.
    pub fn gateway(&self) -> Ipv4Addr {
        self.node.gateway
    }
}

impl Node {
    fn pod_address(&self, ip: Ipv4Addr) -> PodAddress {
        PodAddress { ip, prefix: 32, gateway: self.gateway }
    }

    /// Runs in the pod's namespace; `node` is a socket in the node's.
    fn connect(
        &self,
        node: &Netlink,
        link: &str,
        ip: Ipv4Addr,
        netns: &OwnedFd,
    ) -> Result<(), NetError> {
        let veth = Veth {
            name: link,
            bridge: Some(self.bridge),
            peer: POD_LINK,
            peer_namespace: Some(netns.as_fd()),
            peer_mac: Some(mac_of(ip)),
            mtu: self.config.mtu,
        };
        let create = || node.apply(vec![Request::veth(&veth), Request::hairpin(link)]);
        match create() {
            Err(error) if error.errno() == Some(Errno::EXIST) => {
                node.apply(vec![Request::delete_link(link)])?;
                create()?;
            }
            result => result?,
        }
        let pod = Netlink::open()?;
        pod.apply(vec![Request::up("lo"), Request::up(POD_LINK)])?;
        let index = pod.link(POD_LINK)?.map(|link| link.index);
        let route = |destination, gateway| Route { destination, gateway, link: index };
        let everything = Cidr::around(Ipv4Addr::UNSPECIFIED, 0);
        pod.apply(vec![
            Request::address(index.unwrap_or_default(), ip, 32),
            Request::route(&route(Cidr::around(self.gateway, 32), None), BOOT),
            Request::route(&route(everything, Some(self.gateway)), BOOT),
        ])?;
        Ok(())
    }
}

fn open_bridge(config: &NetworkConfig, gateway: Ipv4Addr) -> Result<u32, NetError> {
    let netlink = Netlink::open()?;
    match netlink.apply(vec![Request::bridge(&config.bridge, mac_of(gateway), config.mtu)]) {
        Err(error) if error.errno() == Some(Errno::EXIST) => {}
        result => result?,
    }
    let missing = || NetError::NoBridge(config.bridge.clone());
    let index = netlink.link(&config.bridge)?.ok_or_else(missing)?.index;
    let length = config.pod_cidr.length();
    let mut requests = vec![Request::up(&config.bridge)];
    let mut present = false;
    for (_, ip, other) in netlink.addresses()?.into_iter().filter(|(link, ..)| *link == index) {
        match (ip, other) == (gateway, length) {
            true => present = true,
            false => requests.push(Request::delete_address(index, ip, other)),
        }
    }
    if !present {
        requests.push(Request::address(index, gateway, length));
    }
    netlink.apply(requests)?;
    Ok(index)
}

/// Sets a kernel parameter of the current network namespace, unless it has that value: /proc/sys
/// may be read-only.
pub fn sysctl(name: &str, value: &str) -> Result<(), NetError> {
    let path = format!("/proc/sys/{name}");
    if std::fs::read_to_string(&path).is_ok_and(|old| old.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|source| NetError::Sysctl { path, source })
}

fn limit(netlink: &Netlink, name: &str, bits: u64) -> Result<(), NetError> {
    let index = netlink.link(name)?.map(|link| link.index).unwrap_or_default();
    Ok(netlink.apply(vec![Request::bucket(index, &Bucket::of(bits))])?)
}

/// Derived from the address, so that a neighbour's table stays right when an address is reused.
pub fn mac_of(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x0a, 0x58, a, b, c, d]
}

fn link_name(sandbox_id: &str) -> String {
    format!("veth{}", hex::encode(&Sha256::digest(sandbox_id)[..5]))
}
