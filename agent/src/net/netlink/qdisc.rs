//! Queueing disciplines: the token bucket of a link.

use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use super::super::bandwidth::Bucket;
use super::{NLM_F_CREATE, NLM_F_REPLACE, Netlink, NetlinkError, Request};

const TBF: &str = "tbf";
/// Attributes of TCA_OPTIONS (linux/pkt_sched.h).
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// `struct tc_tbf_qopt`: two `struct tc_ratespec` of 12 bytes, then limit, buffer, mtu.
const PARMS: usize = 36;
const LINKLAYER_ETHERNET: u8 = 1;

impl Request {
    /// Puts a token bucket at a link's way out, in place of what is there.
    pub fn bucket(link: u32, bucket: &Bucket) -> Request {
        let mut parms = [0; PARMS];
        parms[1] = LINKLAYER_ETHERNET;
        let slow = u32::try_from(bucket.rate).unwrap_or(u32::MAX);
        parms[8..12].copy_from_slice(&slow.to_ne_bytes());
        parms[24..28].copy_from_slice(&bucket.limit.to_ne_bytes());
        let mut options =
            vec![option(TCA_TBF_PARMS, &parms), option(TCA_TBF_BURST, &bucket.burst.to_ne_bytes())];
        if slow == u32::MAX {
            options.push(option(TCA_TBF_RATE64, &bucket.rate.to_ne_bytes()));
        }
        let mut message = TcMessage::with_index(link as i32);
        message.header.parent = TcHandle::ROOT;
        message.header.handle = TcHandle { major: 1, minor: 0 };
        message.attributes = vec![TcAttribute::Kind(TBF.into()), TcAttribute::Options(options)];
        Request {
            operation: "limit a link's bandwidth".into(),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
            message: RouteNetlinkMessage::NewQueueDiscipline(message),
        }
    }
}

impl Netlink {
    /// The rate of a link's token bucket, in bytes per second; `None` without one.
    pub fn bucket_rate(&self, link: u32) -> Result<Option<u64>, NetlinkError> {
        let mut rate = None;
        let ask = TcMessage::with_index(link as i32);
        self.dump(RouteNetlinkMessage::GetQueueDiscipline(ask), |message| {
            if let RouteNetlinkMessage::NewQueueDiscipline(qdisc) = message
                && qdisc.header.index == link as i32
            {
                rate = rate.or(rate_of(&qdisc));
            }
        })?;
        Ok(rate)
    }
}

fn option(kind: u16, value: &[u8]) -> TcOption {
    TcOption::Other(DefaultNla::new(kind, value.to_vec()))
}

fn rate_of(qdisc: &TcMessage) -> Option<u64> {
    let is_bucket =
        |attribute: &TcAttribute| matches!(attribute, TcAttribute::Kind(kind) if kind == TBF);
    qdisc.attributes.iter().find(|attribute| is_bucket(attribute))?;
    let options = qdisc.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.first(),
        _ => None,
    })?;
    // Kinds that the crate does not know come as one piece.
    let TcOption::Other(whole) = options else { return None };
    use rtnetlink::packet_core::Nla;
    let mut bytes = vec![0; whole.value_len()];
    whole.emit_value(&mut bytes);
    let parms = attribute(&bytes, TCA_TBF_PARMS)?;
    let slow = u32::from_ne_bytes(parms.get(8..12)?.try_into().ok()?);
    let fast = attribute(&bytes, TCA_TBF_RATE64)
        .and_then(|value| Some(u64::from_ne_bytes(value.get(..8)?.try_into().ok()?)));
    Some(fast.unwrap_or(u64::from(slow)))
}

/// The value of a nested attribute: length (its four bytes included), kind, value.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        if kind & 0x3fff == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}
