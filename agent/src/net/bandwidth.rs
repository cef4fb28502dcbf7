//! How fast a pod may send and receive: what its annotations say, and the token buckets for it. Pure.
//! (Kubernetes: Network Plugins, Support traffic shaping.)

use std::collections::HashMap;

use proto::quantity::Quantity;

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// Bits per second.
const LEAST: i64 = 1_000;
const MOST: i64 = 1_000_000_000_000_000;

/// Limits of a pod, in bits per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// To the pod.
    pub ingress: Option<u64>,
    /// From the pod.
    pub egress: Option<u64>,
}

/// A token bucket, as the qdisc `tbf` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Bytes per second.
    pub rate: u64,
    /// Bytes that may go at once.
    pub burst: u32,
    /// Bytes that may wait.
    pub limit: u32,
}

/// Why an annotation is no bandwidth; the sentences are upstream's.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum BandwidthError {
    #[error("annotation {annotation}: {source}")]
    Quantity { annotation: &'static str, source: proto::quantity::ParseError },
    #[error("annotation {0}: resource is unreasonably small (< 1kbit)")]
    Small(&'static str),
    #[error("annotation {0}: resource is unreasonably large (> 1Pbit)")]
    Large(&'static str),
}

impl Bandwidth {
    /// What a pod's annotations ask for; `None` is no limit at all.
    pub fn of(annotations: &HashMap<String, String>) -> Result<Option<Bandwidth>, BandwidthError> {
        let read =
            |annotation| annotations.get(annotation).map(|text| rate(annotation, text)).transpose();
        let (ingress, egress) = (read(INGRESS)?, read(EGRESS)?);
        Ok((ingress.is_some() || egress.is_some()).then_some(Bandwidth { ingress, egress }))
    }
}

fn rate(annotation: &'static str, text: &str) -> Result<u64, BandwidthError> {
    let quantity: Quantity =
        text.parse().map_err(|source| BandwidthError::Quantity { annotation, source })?;
    match quantity.value() {
        ..LEAST => Err(BandwidthError::Small(annotation)),
        bits if bits > MOST => Err(BandwidthError::Large(annotation)),
        bits => Ok(bits.unsigned_abs()),
    }
}

impl Bucket {
    /// For so many bits per second: bursts of 20 ms, but at least the largest packet that a link hands
    /// over in one piece; 25 ms more may wait.
    pub fn of(bits: u64) -> Bucket {
        let rate = (bits / 8).max(1);
        let share = |part: u64| u32::try_from(rate / part).unwrap_or(u32::MAX / 4);
        let burst = share(50).clamp(64 << 10, u32::MAX / 4);
        Bucket { rate, burst, limit: burst.saturating_add(share(40).max(64 << 10)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ingress: &str) -> Result<Option<Bandwidth>, String> {
        let annotations = HashMap::from([(INGRESS.to_owned(), ingress.to_owned())]);
        Bandwidth::of(&annotations).map_err(|error| error.to_string())
    }

    #[test]
    fn annotations_are_bits_per_second() {
        assert_eq!(Bandwidth::of(&HashMap::new()), Ok(None));
        assert_eq!(of("10M"), Ok(Some(Bandwidth { ingress: Some(10_000_000), egress: None })));
        let told = |text| of(text).unwrap_err();
        assert!(told("999").ends_with("resource is unreasonably small (< 1kbit)"));
        assert!(told("2P").ends_with("resource is unreasonably large (> 1Pbit)"));
        assert!(told("fast").contains("quantities must match"));
    }

    #[test]
    fn buckets_hold_a_moment() {
        let small = Bucket::of(8_000);
        assert_eq!((small.rate, small.burst, small.limit), (1000, 65_536, 131_072));
        let large = Bucket::of(8_000_000_000);
        assert_eq!((large.rate, large.burst), (1_000_000_000, 20_000_000));
        assert_eq!(Bucket::of(1_000_000_000_000_000).burst, u32::MAX / 4);
    }
}
