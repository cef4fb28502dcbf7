//! A cluster's network on the machine: a bridge, and for each node a network namespace with a link
//! to it, like separate hosts on one segment.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use agent::net::netlink::{Netlink, Request, Route, Veth};
use agent::net::{Cidr, namespace, pod, routes};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};

use super::Error;
use super::layout::{Cluster, Networks, Node, SLOTS};

const MTU: u32 = 1500;
const NODE_LINK: &str = "eth0";
/// rtm_protocol of routes that belong to the link as such.
const BOOT: u8 = 3;

/// The first slot whose network nothing on this machine uses.
pub fn free_slot(taken: &[u8]) -> Result<u8, Error> {
    let netlink = Netlink::open()?;
    let mut used: Vec<Cidr> = netlink.routes(None)?.into_iter().map(|r| r.destination).collect();
    used.retain(|cidr| cidr.length() > 0);
    let address = |(_, ip, length): (u32, Ipv4Addr, u8)| Cidr::around(ip, length);
    used.extend(netlink.addresses()?.into_iter().map(address));
    let free = |slot: &u8| {
        let network = Networks::of_slot(*slot).all();
        !taken.contains(slot) && !used.iter().any(|used| used.overlaps(&network))
    };
    (0..SLOTS).find(free).ok_or(Error::NoNetwork)
}

/// The bridge with the machine's address, and forwarding.
pub fn make_bridge(cluster: &Cluster) -> Result<(), Error> {
    let networks = cluster.networks();
    let (bridge, gateway) = (cluster.bridge(), networks.gateway());
    let netlink = Netlink::open()?;
    netlink.apply(vec![Request::bridge(&bridge, pod::mac_of(gateway), MTU)])?;
    let index = netlink.link(&bridge)?.map(|link| link.index);
    let services = Route { destination: networks.services(), gateway: None, link: index };
    netlink.apply(vec![
        Request::address(index.unwrap_or_default(), gateway, networks.segment().length()),
        // Without a route to it an address is not even looked at by the proxy's rules.
        Request::route(&services, BOOT),
    ])?;
    // Nodes reach image registries through the machine.
    pod::sysctl("net/ipv4/ip_forward", "1")?;
    Ok(())
}

/// The node's namespace with its link, address and default route.
pub async fn make_node(cluster: &Cluster, node: &Node) -> Result<(), Error> {
    let networks = cluster.networks();
    let namespace = namespace::create().map_err(Error::Namespace)?;
    let address = networks.node(node.number);
    let bridge = cluster.bridge();
    let netlink = Netlink::open()?;
    let bridge = netlink.link(&bridge)?.map(|link| link.index);
    let name = cluster.link(node);
    let veth = Veth {
        name: &name,
        bridge,
        peer: NODE_LINK,
        peer_namespace: Some(namespace.as_fd()),
        peer_mac: Some(pod::mac_of(address)),
        mtu: MTU,
    };
    netlink.apply(vec![Request::veth(&veth)])?;
    keep(&namespace, &cluster.namespace(node))?;
    let gateway = networks.gateway();
    let inside = move || {
        // Before the link comes up: a redirect would use up the budget of ICMP errors.
        pod::sysctl("net/ipv4/conf/all/send_redirects", "0")?;
        pod::sysctl(&format!("net/ipv4/conf/{NODE_LINK}/send_redirects"), "0")?;
        let netlink = Netlink::open()?;
        netlink.apply(vec![Request::up("lo"), Request::up(NODE_LINK)])?;
        let link = netlink.link(NODE_LINK)?.map(|link| link.index);
        let everything = Cidr::around(Ipv4Addr::UNSPECIFIED, 0);
        netlink.apply(vec![
            Request::address(link.unwrap_or_default(), address, networks.segment().length()),
            Request::route(&Route { destination: everything, gateway: Some(gateway), link }, BOOT),
        ])?;
        Ok::<_, Error>(())
    };
    namespace::within(namespace.as_fd(), inside).await.map_err(Error::Namespace)?
}

/// Cuts a stopped node off, or connects it again.
pub fn set_link(cluster: &Cluster, node: &Node, up: bool) -> Result<(), Error> {
    let name = cluster.link(node);
    let request = if up { Request::up(&name) } else { Request::down(&name) };
    Ok(Netlink::open()?.apply(vec![request])?)
}

/// Removes everything the other functions made; what is not there is no error. Errors are
/// collected, so that one does not keep the rest.
pub async fn remove(cluster: &Cluster) -> Vec<Error> {
    let mut errors = Vec::new();
    for node in &cluster.nodes {
        let path = cluster.namespace(node);
        errors.extend(delete_link(&cluster.link(node)).err());
        match unmount(&path, UnmountFlags::DETACH) {
            Ok(()) | Err(Errno::NOENT | Errno::INVAL) => {}
            Err(errno) => errors.push(Error::file("unmount", &path)(errno.into())),
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                errors.push(Error::file("remove", &path)(error));
            }
            _ => {}
        }
    }
    let all = cluster.networks().all();
    errors.extend(routes::apply(&Default::default(), Some(all)).err().map(Error::from));
    errors.extend(delete_link(&cluster.bridge()).err());
    errors.extend(agent::net::proxy::remove(&cluster.table()).await.err().map(Error::from));
    errors
}

fn delete_link(name: &str) -> Result<(), Error> {
    match Netlink::open()?.apply(vec![Request::delete_link(name)]) {
        Err(error) if error.errno() != Some(Errno::NODEV) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Binds the namespace to a path, as `ip netns add` does: it lives until the path is unmounted.
fn keep(namespace: &OwnedFd, path: &Path) -> Result<(), Error> {
    use std::os::fd::AsRawFd;
    let folder = path.parent().unwrap_or(Path::new("/run/netns"));
    std::fs::create_dir_all(folder).map_err(Error::file("make", folder))?;
    File::create(path).map_err(Error::file("make", path))?;
    let source = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    mount_bind(source, path).map_err(|errno| Error::file("mount", path)(errno.into()))?;
    // Not copied into every mount namespace that is made from now on.
    let private = mount_change(path, MountPropagationFlags::PRIVATE);
    private.map_err(|errno| Error::file("mount", path)(errno.into()))
}
