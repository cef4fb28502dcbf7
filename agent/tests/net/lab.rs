//! Network namespaces that play nodes and pods.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use agent::net::namespace;
use agent::net::netlink::{Netlink, Request, Veth};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

/// Whether the tests of this file can run here; says so if not.
pub fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root to make network namespaces");
    }
    root
}

/// One namespace.
pub struct Host {
    namespace: OwnedFd,
}

impl Host {
    pub fn new() -> Self {
        Self { namespace: namespace::create().expect("make a network namespace") }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Runs `act` in the namespace.
    pub async fn run<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> T {
        namespace::within(self.fd(), act).await.expect("enter the namespace")
    }

    /// As [`Self::run`], with the runtime entered, so that sockets can be registered with it.
    pub async fn sockets<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> T {
        let handle = tokio::runtime::Handle::current();
        self.run(move || {
            let _entered = handle.enter();
            act()
        })
        .await
    }

    /// A link to `other`: names and addresses of both ends, /24.
    pub async fn connect(&self, name: &str, ip: Ipv4Addr, other: &Host, peer: (&str, Ipv4Addr)) {
        let fd = other.namespace.try_clone().unwrap();
        let (near, (far, far_ip)) = (name.to_owned(), (peer.0.to_owned(), peer.1));
        let far_name = far.clone();
        self.run(move || {
            let netlink = Netlink::open().unwrap();
            let veth = Veth {
                name: &near,
                bridge: None,
                peer: &far_name,
                peer_namespace: Some(fd.as_fd()),
                peer_mac: None,
                mtu: 1500,
            };
            netlink.apply(vec![Request::up("lo"), Request::veth(&veth)]).unwrap();
            let index = netlink.link(&near).unwrap().unwrap().index;
            netlink.apply(vec![Request::address(index, ip, 24)]).unwrap();
        })
        .await;
        other
            .run(move || {
                let netlink = Netlink::open().unwrap();
                netlink.apply(vec![Request::up("lo"), Request::up(&far)]).unwrap();
                let index = netlink.link(&far).unwrap().unwrap().index;
                netlink.apply(vec![Request::address(index, far_ip, 24)]).unwrap();
            })
            .await;
    }

    /// A server that answers every connection with `name` and the peer's address.
    pub async fn serve(&self, port: u16, name: &str) {
        let name = name.to_owned();
        let listener = self
            .sockets(move || {
                let listener = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
                listener.set_nonblocking(true).unwrap();
                TcpListener::from_std(listener).unwrap()
            })
            .await;
        tokio::spawn(async move {
            while let Ok((mut stream, peer)) = listener.accept().await {
                let _ = stream.write_all(format!("{name} {}", peer.ip()).as_bytes()).await;
            }
        });
    }

    /// A server that answers every datagram with `name`.
    pub async fn serve_udp(&self, port: u16, name: &str) {
        let name = name.to_owned();
        let socket = self.udp(port).await;
        tokio::spawn(async move {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer).await {
                let _ = socket.send_to(name.as_bytes(), peer).await;
            }
        });
    }

    /// A UDP socket of the namespace.
    pub async fn udp(&self, port: u16) -> UdpSocket {
        self.sockets(move || {
            let socket = std::net::UdpSocket::bind(("0.0.0.0", port)).unwrap();
            socket.set_nonblocking(true).unwrap();
            UdpSocket::from_std(socket).unwrap()
        })
        .await
    }

    /// What the server at `address` answers, or how the connection failed.
    pub async fn ask(&self, address: (Ipv4Addr, u16)) -> std::io::Result<String> {
        let socket = self.sockets(TcpSocket::new_v4).await?;
        let clock = client::Clock::system();
        let talk = async {
            let mut stream = socket.connect(SocketAddr::from(address)).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        match clock.timeout(Duration::from_secs(2), talk).await {
            Ok(answer) => answer,
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        }
    }
}
