//! Links, addresses and routes through rtnetlink: requests as values, sent in one batch.
//!
//! Blocking, because every call is a few microseconds; a socket stays in the network namespace in
//! which it was opened, so a short-lived thread may enter a namespace, act and end.

mod qdisc;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::Cidr;

/// A request that the kernel refused, or a socket that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct NetlinkError {
    /// What was asked, with its object: `create veth veth0`.
    pub operation: String,
    #[source]
    pub source: io::Error,
}

impl NetlinkError {
    fn of(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let operation = operation.into();
        move |source| Self { operation, source }
    }

    /// The kernel's error number, where it is one.
    pub fn errno(&self) -> Option<rustix::io::Errno> {
        rustix::io::Errno::from_io_error(&self.source)
    }
}

/// One change, to be sent by [`Netlink::apply`].
pub struct Request {
    operation: String,
    flags: u16,
    message: RouteNetlinkMessage,
}

/// A pair of links of which one end lies in another network namespace.
pub struct Veth<'a> {
    pub name: &'a str,
    /// The index of the bridge that the near end joins.
    pub bridge: Option<u32>,
    pub peer: &'a str,
    pub peer_namespace: Option<BorrowedFd<'a>>,
    pub peer_mac: Option<[u8; 6]>,
    pub mtu: u32,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub destination: Cidr,
    pub gateway: Option<Ipv4Addr>,
    /// The outgoing link; with a gateway it may be left to the kernel.
    pub link: Option<u32>,
}

/// A link as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub index: u32,
    pub mac: Option<[u8; 6]>,
}

/// An rtnetlink socket.
pub struct Netlink {
    socket: Socket,
}

impl Netlink {
    /// A socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(Self { socket })
        };
        open().map_err(NetlinkError::of("open an rtnetlink socket"))
    }

    /// Sends all requests at once; the kernel does them in order. Returns the first error; later
    /// requests are tried nevertheless.
    pub fn apply(&self, requests: Vec<Request>) -> Result<(), NetlinkError> {
        let mut failed = None;
        for (request, result) in self.try_each(requests)? {
            if let (Err(source), None) = (result, &failed) {
                failed = Some(NetlinkError { operation: request, source });
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// As [`Self::apply`], with the outcome of every request.
    pub fn try_each(
        &self,
        requests: Vec<Request>,
    ) -> Result<Vec<(String, io::Result<()>)>, NetlinkError> {
        let mut batch = Vec::new();
        let mut outcomes = Vec::new();
        for (number, request) in (1..).zip(requests) {
            encode(&mut batch, number, request.flags | NLM_F_REQUEST | NLM_F_ACK, request.message);
            outcomes.push((request.operation, Ok(())));
        }
        if outcomes.is_empty() {
            return Ok(outcomes);
        }
        self.socket.send(&batch, 0).map_err(NetlinkError::of("send to rtnetlink"))?;
        let mut pending = outcomes.len();
        while pending > 0 {
            self.receive(|header, payload| {
                if let NetlinkPayload::Error(error) = payload {
                    pending -= 1;
                    let slot = (header.sequence_number as usize).checked_sub(1);
                    if let Some((_, result)) = slot.and_then(|slot| outcomes.get_mut(slot))
                        && error.code.is_some()
                    {
                        *result = Err(error.to_io());
                    }
                }
            })?;
        }
        Ok(outcomes)
    }

    /// The link of this name, if there is one.
    pub fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let message = named_link(name);
        let mut batch = Vec::new();
        encode(&mut batch, 1, NLM_F_REQUEST, RouteNetlinkMessage::GetLink(message));
        let operation = || format!("look up link {name}");
        self.socket.send(&batch, 0).map_err(NetlinkError::of(operation()))?;
        let mut found = Ok(None);
        self.receive(|_, payload| match payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                found = Ok(Some(link_of(link)));
            }
            NetlinkPayload::Error(error) => found = Err(error.to_io()),
            _ => {}
        })?;
        match found {
            Err(error) if error.raw_os_error() == Some(NO_SUCH_DEVICE) => Ok(None),
            found => found.map_err(NetlinkError::of(operation())),
        }
    }

    /// All links of the namespace.
    pub fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let mut links = Vec::new();
        self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |message| {
            if let RouteNetlinkMessage::NewLink(link) = message {
                links.push(link_of(link));
            }
        })?;
        Ok(links)
    }

    /// The IPv4 addresses of the namespace with the index of their link.
    pub fn addresses(&self) -> Result<Vec<(u32, Ipv4Addr, u8)>, NetlinkError> {
        let mut addresses = Vec::new();
        let mut ask = AddressMessage::default();
        ask.header.family = AddressFamily::Inet;
        self.dump(RouteNetlinkMessage::GetAddress(ask), |message| {
            if let RouteNetlinkMessage::NewAddress(address) = message {
                let local = address.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Local(IpAddr::V4(ip)) => Some(*ip),
                    _ => None,
                });
                let header = address.header;
                addresses.extend(local.map(|ip| (header.index, ip, header.prefix_len)));
            }
        })?;
        Ok(addresses)
    }

    /// The IPv4 unicast routes of the main table, of one protocol number or of all.
    pub fn routes(&self, protocol: Option<u8>) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        let mut ask = RouteMessage::default();
        ask.header.address_family = AddressFamily::Inet;
        self.dump(RouteNetlinkMessage::GetRoute(ask), |message| {
            if let RouteNetlinkMessage::NewRoute(route) = message
                && route.header.table == RouteHeader::RT_TABLE_MAIN
                && route.header.kind == RouteType::Unicast
                && protocol.is_none_or(|protocol| u8::from(route.header.protocol) == protocol)
            {
                routes.push(route_of(&route));
            }
        })?;
        Ok(routes)
    }

    fn dump(
        &self,
        message: RouteNetlinkMessage,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> Result<(), NetlinkError> {
        let mut batch = Vec::new();
        encode(&mut batch, 1, NLM_F_REQUEST | NLM_F_DUMP, message);
        self.socket.send(&batch, 0).map_err(NetlinkError::of("send to rtnetlink"))?;
        let mut done = false;
        let mut failed = None;
        while !done {
            self.receive(|_, payload| match payload {
                NetlinkPayload::InnerMessage(message) => each(message),
                NetlinkPayload::Error(error) => {
                    failed = Some(error.to_io());
                    done = true;
                }
                _ => done = true,
            })?;
        }
        failed.map_or(Ok(()), |error| Err(NetlinkError::of("dump rtnetlink")(error)))
    }

    /// Reads one datagram and hands over its messages.
    fn receive(
        &self,
        mut each: impl FnMut(NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>),
    ) -> Result<(), NetlinkError> {
        let (datagram, _) =
            self.socket.recv_from_full().map_err(NetlinkError::of("receive from rtnetlink"))?;
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::deserialize(rest).map_err(|error| NetlinkError {
                operation: "decode from rtnetlink".into(),
                source: io::Error::new(io::ErrorKind::InvalidData, error),
            })?;
            let length = (message.header.length as usize).next_multiple_of(4).max(16);
            each(message.header, message.payload);
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(())
    }
}

const NO_SUCH_DEVICE: i32 = rustix::io::Errno::NODEV.raw_os_error();

impl Request {
    /// Creates a bridge that is up; fails with EEXIST where there is one.
    pub fn bridge(name: &str, mac: [u8; 6], mtu: u32) -> Self {
        let mut message = named_link(name);
        up(&mut message);
        message.attributes.extend([
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ]);
        Self::create(format!("create bridge {name}"), RouteNetlinkMessage::NewLink(message))
    }

    /// Creates a pair of which the near end is up. The far end cannot be created up.
    pub fn veth(veth: &Veth<'_>) -> Self {
        let mut peer = named_link(veth.peer);
        peer.attributes.push(LinkAttribute::Mtu(veth.mtu));
        peer.attributes.extend(veth.peer_mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        peer.attributes
            .extend(veth.peer_namespace.map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())));
        let mut message = named_link(veth.name);
        up(&mut message);
        message.attributes.push(LinkAttribute::Mtu(veth.mtu));
        message.attributes.extend(veth.bridge.map(LinkAttribute::Controller));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let operation = format!("create veth {}", veth.name);
        Self::create(operation, RouteNetlinkMessage::NewLink(message))
    }

    /// Lets a bridge port send a frame back where it came from: a pod reaches itself through its
    /// own Service also where bridged frames pass netfilter.
    pub fn hairpin(port: &str) -> Self {
        let mut message = named_link(port);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
        ]));
        let operation = format!("set hairpin mode of {port}");
        Self { operation, flags: 0, message: RouteNetlinkMessage::NewLink(message) }
    }

    /// Sets a link up.
    pub fn up(name: &str) -> Self {
        let mut message = named_link(name);
        up(&mut message);
        let message = RouteNetlinkMessage::SetLink(message);
        Self { operation: format!("set {name} up"), flags: 0, message }
    }

    /// Sets a link down.
    pub fn down(name: &str) -> Self {
        let mut message = named_link(name);
        message.header.change_mask = LinkFlags::Up;
        let message = RouteNetlinkMessage::SetLink(message);
        Self { operation: format!("set {name} down"), flags: 0, message }
    }

    /// Removes a link.
    pub fn delete_link(name: &str) -> Self {
        let message = RouteNetlinkMessage::DelLink(named_link(name));
        Self { operation: format!("delete link {name}"), flags: 0, message }
    }

    /// Adds an address to a link; the same address again is no error.
    pub fn address(link: u32, address: Ipv4Addr, length: u8) -> Self {
        let message = RouteNetlinkMessage::NewAddress(address_message(link, address, length));
        let operation = format!("add address {address}/{length}");
        Self { operation, flags: NLM_F_CREATE | NLM_F_REPLACE, message }
    }

    /// Removes an address from a link.
    pub fn delete_address(link: u32, address: Ipv4Addr, length: u8) -> Self {
        let message = RouteNetlinkMessage::DelAddress(address_message(link, address, length));
        Self { operation: format!("delete address {address}/{length}"), flags: 0, message }
    }

    /// Adds a route to the main table, in place of one to the same destination.
    pub fn route(route: &Route, protocol: u8) -> Self {
        let message = RouteNetlinkMessage::NewRoute(route_message(route, protocol));
        let operation = format!("add route to {}", route.destination);
        Self { operation, flags: NLM_F_CREATE | NLM_F_REPLACE, message }
    }

    /// Removes a route of this protocol number.
    pub fn delete_route(route: &Route, protocol: u8) -> Self {
        let message = RouteNetlinkMessage::DelRoute(route_message(route, protocol));
        Self { operation: format!("delete route to {}", route.destination), flags: 0, message }
    }

    fn create(operation: String, message: RouteNetlinkMessage) -> Self {
        Self { operation, flags: NLM_F_CREATE | NLM_F_EXCL, message }
    }
}

fn named_link(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn up(message: &mut LinkMessage) {
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
}

fn address_message(link: u32, address: Ipv4Addr, length: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = length;
    message.header.index = link;
    message.attributes.extend([
        AddressAttribute::Local(IpAddr::V4(address)),
        AddressAttribute::Address(IpAddr::V4(address)),
    ]);
    message
}

fn route_message(route: &Route, protocol: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = route.destination.length();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(protocol);
    message.header.kind = RouteType::Unicast;
    message.header.scope = match route.gateway {
        Some(_) => RouteScope::Universe,
        None => RouteScope::Link,
    };
    if route.destination.length() > 0 {
        let destination = RouteAddress::Inet(route.destination.address());
        message.attributes.push(RouteAttribute::Destination(destination));
    }
    message
        .attributes
        .extend(route.gateway.map(|gateway| RouteAttribute::Gateway(RouteAddress::Inet(gateway))));
    message.attributes.extend(route.link.map(RouteAttribute::Oif));
    message
}

fn link_of(message: LinkMessage) -> Link {
    let mut link = Link { name: String::new(), index: message.header.index, mac: None };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac.try_into().ok(),
            _ => {}
        }
    }
    link
}

fn route_of(message: &RouteMessage) -> Route {
    let length = message.header.destination_prefix_length;
    let mut route = Route {
        destination: Cidr::around(Ipv4Addr::UNSPECIFIED, length),
        gateway: None,
        link: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => {
                route.destination = Cidr::around(*ip, length);
            }
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => route.gateway = Some(*ip),
            RouteAttribute::Oif(index) => route.link = Some(*index),
            _ => {}
        }
    }
    route
}

fn encode(batch: &mut Vec<u8>, number: u32, flags: u16, message: RouteNetlinkMessage) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = number;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let start = batch.len();
    batch.resize((start + message.buffer_len()).next_multiple_of(4), 0);
    message.serialize(&mut batch[start..]);
}
