//! The ranges that Services take their addresses and node ports from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A network of Service addresses, as `10.96.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    base: IpAddr,
    prefix: u8,
}

/// The networks of Service addresses: one, or one of each family. The first is the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Networks {
    pub first: Addresses,
    pub second: Option<Addresses>,
}

/// A range of node ports, as `30000-32767`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(pub RangeInclusive<u16>);

/// Why a flag's text is not a range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    #[error("{0:?} is not an IP network, as 10.96.0.0/16")]
    Network(String),
    #[error("the network {0} has no room for Services: its prefix must be at most {1}")]
    Small(String, u8),
    #[error("{0:?} is not a range of ports, as 30000-32767")]
    Ports(String),
    #[error("--service-cluster-ip-range must not contain more than two entries")]
    TooMany,
    #[error(
        "--service-cluster-ip-range[0] and --service-cluster-ip-range[1] must be of different IP \
         family"
    )]
    SameFamily,
}

impl Addresses {
    /// How many addresses can be given out: not the network's own, and for IPv4 not the last.
    pub fn count(&self) -> u64 {
        let bits = u32::from(self.width() - self.prefix).min(62);
        let all = 1u64 << bits;
        all - if self.base.is_ipv4() { 2 } else { 1 }
    }

    /// The nth address, from 0; the first one is the Service `kubernetes`.
    pub fn nth(&self, index: u64) -> IpAddr {
        let index = u128::from(index) + 1;
        match self.base {
            IpAddr::V4(base) => {
                let number = u128::from(u32::from(base)) + index;
                IpAddr::V4(Ipv4Addr::from(number as u32))
            }
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base) + index)),
        }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let (number, base) = match (address, self.base) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(u32::from(a)), u128::from(u32::from(b))),
            (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a), u128::from(b)),
            _ => return false,
        };
        number > base && number - base <= u128::from(self.count())
    }

    /// Where the addresses begin that are given out when none is asked for; those below are left
    /// to whoever asks for one (KEP 3070).
    pub fn static_band(&self) -> u64 {
        let count = self.count();
        if count < 16 { 0 } else { (count / 16).clamp(16, 256).min(count) }
    }

    pub fn is_ipv6(&self) -> bool {
        self.base.is_ipv6()
    }

    /// `IPv4` or `IPv6`.
    pub fn family(&self) -> &'static str {
        super::families::of(self.base)
    }

    fn width(&self) -> u8 {
        if self.base.is_ipv4() { 32 } else { 128 }
    }
}

impl FromStr for Addresses {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Addresses, RangeError> {
        let bad = || RangeError::Network(text.into());
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        if prefix > width {
            return Err(bad());
        }
        if prefix > width - 2 {
            return Err(RangeError::Small(text.into(), width - 2));
        }
        let shift = u32::from(width - prefix);
        let base = match address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(a) & mask))
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(a) & mask))
            }
        };
        Ok(Addresses { base, prefix })
    }
}

impl std::fmt::Display for Addresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl Networks {
    pub fn all(&self) -> impl Iterator<Item = Addresses> {
        [self.first].into_iter().chain(self.second)
    }

    /// The network of a family.
    pub fn of(&self, family: &str) -> Option<Addresses> {
        self.all().find(|network| network.family() == family)
    }

    /// The families that there are, the default first.
    pub fn families(&self) -> Vec<&'static str> {
        self.all().map(|network| network.family()).collect()
    }
}

impl From<Addresses> for Networks {
    fn from(first: Addresses) -> Networks {
        Networks { first, second: None }
    }
}

impl FromStr for Networks {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Networks, RangeError> {
        let parts: Vec<&str> = text.split(',').collect();
        let [first, rest @ ..] = parts.as_slice() else {
            return Err(RangeError::Network(text.into()));
        };
        let first: Addresses = first.trim().parse()?;
        let second = match rest {
            [] => None,
            [second] => Some(second.trim().parse::<Addresses>()?),
            _ => return Err(RangeError::TooMany),
        };
        if second.is_some_and(|second| second.family() == first.family()) {
            return Err(RangeError::SameFamily);
        }
        Ok(Networks { first, second })
    }
}

impl Ports {
    pub fn contains(&self, port: i64) -> bool {
        u16::try_from(port).is_ok_and(|port| self.0.contains(&port))
    }

    pub fn count(&self) -> u64 {
        u64::from(self.0.end() - self.0.start()) + 1
    }
}

impl FromStr for Ports {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Ports, RangeError> {
        let bad = || RangeError::Ports(text.into());
        let (low, high) = text.split_once('-').ok_or_else(bad)?;
        let (low, high) = (low.parse().map_err(|_| bad())?, high.parse().map_err(|_| bad())?);
        if low == 0 || low > high { Err(bad()) } else { Ok(Ports(low..=high)) }
    }
}

impl std::fmt::Display for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

/// Which ports of a range are taken, as upstream's RangeAllocation keeps it: the bytes of a big
/// number, most significant first, in which bit n is the nth port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmap(Vec<u8>);

impl Bitmap {
    pub fn decode(text: &str) -> Option<Bitmap> {
        STANDARD.decode(text).ok().map(|mut bytes| {
            bytes.reverse();
            Bitmap(bytes)
        })
    }

    pub fn encode(&self) -> String {
        let mut bytes = self.0.clone();
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        bytes.reverse();
        STANDARD.encode(bytes)
    }

    pub fn contains(&self, bit: u64) -> bool {
        self.0.get(bit as usize / 8).is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
    }

    pub fn set(&mut self, bit: u64, taken: bool) {
        let (index, mask) = (bit as usize / 8, 1u8 << (bit % 8));
        if self.0.len() <= index {
            self.0.resize(index + 1, 0);
        }
        if taken {
            self.0[index] |= mask;
        } else {
            self.0[index] &= !mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let range: Addresses = "10.96.3.4/16".parse().unwrap();
        assert_eq!(range.to_string(), "10.96.0.0/16");
        assert_eq!(range.count(), 65534);
        assert_eq!(range.nth(0).to_string(), "10.96.0.1");
        assert_eq!(range.nth(9).to_string(), "10.96.0.10");
        assert_eq!(range.nth(65533).to_string(), "10.96.255.254");
        let inside = |ip: &str| range.contains(ip.parse().unwrap());
        assert!(inside("10.96.0.1") && inside("10.96.255.254"));
        assert!(!inside("10.96.0.0") && !inside("10.96.255.255") && !inside("10.97.0.1"));
        assert!(!inside("fd00::1"));
        assert_eq!(range.static_band(), 256);
        let small: Addresses = "10.0.0.0/28".parse().unwrap();
        assert_eq!((small.count(), small.static_band()), (14, 0));
        let six: Addresses = "fd00::/108".parse().unwrap();
        assert_eq!(six.nth(0).to_string(), "fd00::1");
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/31", "x/8"] {
            assert!(bad.parse::<Addresses>().is_err(), "{bad}");
        }
    }

    #[test]
    fn one_network_or_one_of_each_family() {
        let both: Networks = "10.0.0.0/16,fd00::/108".parse().unwrap();
        assert_eq!(both.families(), ["IPv4", "IPv6"]);
        assert_eq!(both.of("IPv6").unwrap().to_string(), "fd00::/108");
        let one: Networks = "fd00::/108".parse().unwrap();
        assert_eq!((one.families(), one.of("IPv4")), (vec!["IPv6"], None));
        for (text, error) in [
            ("10.0.0.0/16,10.1.0.0/16", RangeError::SameFamily),
            ("10.0.0.0/16,fd00::/108,fd01::/108", RangeError::TooMany),
            ("10.0.0.0/16,", RangeError::Network(String::new())),
        ] {
            assert_eq!(text.parse::<Networks>(), Err(error), "{text}");
        }
    }

    #[test]
    fn ports_and_their_bitmap() {
        let ports: Ports = "30000-32767".parse().unwrap();
        assert_eq!(ports.count(), 2768);
        assert!(ports.contains(30000) && ports.contains(32767) && !ports.contains(32768));
        assert!("1-0".parse::<Ports>().is_err() && "0-1".parse::<Ports>().is_err());
        let mut bitmap = Bitmap::default();
        bitmap.set(0, true);
        bitmap.set(9, true);
        assert_eq!(bitmap.encode(), STANDARD.encode([2, 1]));
        assert_eq!(Bitmap::decode(&bitmap.encode()), Some(bitmap.clone()));
        bitmap.set(9, false);
        assert_eq!(bitmap.encode(), STANDARD.encode([1]));
        assert!(bitmap.contains(0) && !bitmap.contains(9) && !bitmap.contains(999));
    }
}
