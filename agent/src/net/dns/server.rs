//! The DNS server: the cluster's records, or the node's own name servers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use parking_lot::RwLock;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use super::records::{Answer, Records};
use super::upstream::Upstream;

/// Both sockets of a DNS server.
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

struct Handler {
    records: Arc<RwLock<Records>>,
    upstream: Upstream,
    /// Turns the order of addresses from answer to answer: many clients take the first.
    turn: AtomicUsize,
}

/// A response but for the question.
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    /// Upstream had more to say than fits in a datagram: ask again over TCP.
    truncated: bool,
    answers: Vec<Record>,
    authority: Option<Record>,
}

/// How long a TCP connection may be silent.
const IDLE: Duration = Duration::from_secs(10);
const BACKLOG: i32 = 128;
const RESPONSES_PER_CONNECTION: usize = 32;
/// Fits any path's packets (DNS flag day 2020).
const LARGEST_UDP: u16 = 1232;
/// How many aliases within the cluster are followed.
const MOST_ALIASES: usize = 8;

impl Sockets {
    /// Binds UDP and TCP; the address may be one that this machine does not have yet.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let bind = |kind| {
            let socket = Socket::new(Domain::for_address(address), kind, None)?;
            socket.set_reuse_address(true)?;
            socket.set_freebind_v4(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            Ok::<_, io::Error>(socket)
        };
        let tcp = bind(Type::STREAM)?;
        tcp.listen(BACKLOG)?;
        Ok(Self {
            udp: UdpSocket::from_std(bind(Type::DGRAM)?.into())?,
            tcp: TcpListener::from_std(tcp.into())?,
        })
    }
}

/// Answers until the future is dropped or a socket fails.
pub async fn serve(
    sockets: Sockets,
    records: Arc<RwLock<Records>>,
    upstream: Upstream,
) -> io::Result<()> {
    let mut server = Server::new(Handler { records, upstream, turn: AtomicUsize::new(0) });
    server.register_socket(sockets.udp);
    server.register_listener(sockets.tcp, IDLE, RESPONSES_PER_CONNECTION);
    server.block_until_done().await.map_err(io::Error::other)
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let reply = self.reply(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.truncation = reply.truncated;
        metadata.recursion_available = true;
        let mut edns = Edns::new();
        edns.set_max_payload(request.max_payload().min(LARGEST_UDP));
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if request.edns.is_some() {
            builder.edns(&edns);
        }
        let response = builder.build(metadata, &reply.answers, [], &reply.authority, []);
        let sent = response_handle.send_response(response).await;
        sent.unwrap_or_else(|error| {
            tracing::debug!(%error, "answer a DNS query");
            ResponseInfo::from(hickory_proto::op::Header { metadata, counts: Default::default() })
        })
    }
}

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        let Ok(info) = request.request_info() else { return Reply::only(ResponseCode::FormErr) };
        if request.metadata.op_code != OpCode::Query {
            return Reply::only(ResponseCode::NotImp);
        }
        let query = info.query.original();
        let over_tcp = info.protocol != Protocol::Udp;
        let mut name = query.name().clone();
        let mut aliases = Vec::new();
        loop {
            // The lock is not held over any await.
            let answer = self.records.read().answer(&name, query.query_type());
            let (code, mut answers) = match answer {
                Answer::Found(answers) => (ResponseCode::NoError, answers),
                Answer::NoData => (ResponseCode::NoError, Vec::new()),
                Answer::NoName => (ResponseCode::NXDomain, Vec::new()),
                Answer::Alias(record, _) if query.query_type() == RecordType::CNAME => {
                    (ResponseCode::NoError, vec![*record])
                }
                Answer::Alias(record, target) if aliases.len() < MOST_ALIASES => {
                    aliases.push(*record);
                    name = target;
                    continue;
                }
                Answer::Alias(..) => return Reply::only(ResponseCode::ServFail),
                Answer::Elsewhere if aliases.is_empty() => {
                    return self.forward(request.as_slice(), over_tcp).await;
                }
                Answer::Elsewhere => {
                    return self.follow(aliases, &name, query.query_type(), over_tcp).await;
                }
            };
            let authority = answers.is_empty().then(|| self.records.read().authority()).flatten();
            if !answers.is_empty() {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed) % answers.len();
                answers.rotate_left(turn);
            }
            answers.splice(0..0, aliases);
            return Reply { code, authoritative: true, truncated: false, answers, authority };
        }
    }

    /// Asks upstream as we were asked. Without an upstream that is a refusal: we have no other
    /// way to answer.
    async fn forward(&self, query: &[u8], over_tcp: bool) -> Reply {
        if self.upstream.is_empty() {
            return Reply::only(ResponseCode::Refused);
        }
        let answer = self.upstream.ask(query, over_tcp).await;
        let Some(message) = answer.and_then(|answer| Message::from_vec(&answer).ok()) else {
            return Reply::only(ResponseCode::ServFail);
        };
        Reply {
            code: message.metadata.response_code,
            authoritative: false,
            truncated: message.metadata.truncation,
            answers: message.answers,
            authority: message.authorities.into_iter().next(),
        }
    }

    /// Completes an alias that leads out of the cluster. The alias alone is still an answer.
    async fn follow(
        &self,
        mut aliases: Vec<Record>,
        target: &Name,
        wanted: RecordType,
        over_tcp: bool,
    ) -> Reply {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(target.clone(), wanted));
        if let Ok(query) = message.to_vec() {
            aliases.extend(self.forward(&query, over_tcp).await.answers);
        }
        Reply {
            code: ResponseCode::NoError,
            authoritative: true,
            truncated: false,
            answers: aliases,
            authority: None,
        }
    }
}

impl Reply {
    fn only(code: ResponseCode) -> Self {
        Self { code, authoritative: false, truncated: false, answers: Vec::new(), authority: None }
    }
}
