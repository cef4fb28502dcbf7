//! Questions that are not the cluster's go to the node's own name servers, bytes as they came.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use client::{Clock, Rng};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::Instant;

/// The name servers of the node, asked in order.
pub struct Upstream {
    servers: Vec<Server>,
    clock: Clock,
    rng: Rng,
}

struct Server {
    address: SocketAddr,
    /// It did not answer: not asked again before, so that nobody waits for it twice.
    silent_until: Mutex<Option<Instant>>,
}

const PATIENCE: Duration = Duration::from_secs(2);
const REST: Duration = Duration::from_secs(5);
/// As /etc/resolv.conf, no more.
const MOST_SERVERS: usize = 3;

impl Upstream {
    pub fn new(servers: impl IntoIterator<Item = SocketAddr>, clock: Clock, rng: Rng) -> Self {
        let server = |address| Server { address, silent_until: Mutex::default() };
        let servers = servers.into_iter().take(MOST_SERVERS).map(server).collect();
        Self { servers, clock, rng }
    }

    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// The first answer to `query`, a whole message; `None` if no server gives one.
    pub async fn ask(&self, query: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        for server in &self.servers {
            let silent_until = *server.silent_until.lock();
            if silent_until.is_some_and(|until| self.clock.instant() < until) {
                continue;
            }
            let asking = self.ask_one(server.address, query, over_tcp);
            let (answer, silent_until) = match self.clock.timeout(PATIENCE, asking).await {
                Ok(Ok(answer)) => (Some(answer), None),
                // Refused or unreachable: known at once, so worth asking again.
                Ok(Err(_)) => (None, None),
                Err(_) => (None, Some(self.clock.instant() + REST)),
            };
            *server.silent_until.lock() = silent_until;
            if answer.is_some() {
                return answer;
            }
        }
        None
    }

    async fn ask_one(&self, to: SocketAddr, query: &[u8], over_tcp: bool) -> io::Result<Vec<u8>> {
        let mut query = query.to_vec();
        let (Some(old), [new_0, new_1, ..]) =
            (query.first_chunk::<2>().copied(), self.rng.u64().to_be_bytes())
        else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let new = [new_0, new_1];
        query[..2].copy_from_slice(&new);
        let mut answer = match over_tcp {
            true => ask_tcp(to, &query).await?,
            false => ask_udp(to, &query, new).await?,
        };
        if answer.first_chunk() != Some(&new) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        answer[..2].copy_from_slice(&old);
        Ok(answer)
    }
}

/// The name servers that a resolv.conf(5) names, but for `own`, our own address.
pub fn servers(resolv_conf: &str, own: Ipv4Addr) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let ip: IpAddr = line.trim().strip_prefix("nameserver")?.trim().parse().ok()?;
        (ip != own).then_some(SocketAddr::new(ip, 53))
    };
    resolv_conf.lines().filter_map(server).collect()
}

async fn ask_udp(to: SocketAddr, query: &[u8], id: [u8; 2]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Anything else is late, or not from there.
        if length >= 12 && buffer[..2] == id {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(to: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(to).await?;
    let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_resolv_conf() {
        let text = "# x\nsearch a b\nnameserver 10.0.0.1\n nameserver\t1.1.1.1\nnameserver fd00::1\n\
                    nameserver bad\noptions ndots:5\n";
        let found = servers(text, Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(found, ["1.1.1.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()]);
    }
}
