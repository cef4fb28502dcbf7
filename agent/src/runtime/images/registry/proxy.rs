//! Which proxy leads to a registry, as the environment says it: HTTP_PROXY, HTTPS_PROXY and
//! NO_PROXY, or the same in lower case, as containerd reads them
//! (<https://pkg.go.dev/golang.org/x/net/http/httpproxy>). Pure.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};
use url::Url;

/// A proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct Proxy {
    /// It is itself spoken to by TLS.
    pub tls: bool,
    /// A name or an address, without the brackets of IPv6.
    pub host: String,
    pub port: u16,
    /// What it is to be told in `Proxy-Authorization`.
    pub credentials: Option<HeaderValue>,
}

/// The proxies of the environment. One that makes no sense is an error where it would be used.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    http: Option<Result<Proxy, BadProxy>>,
    https: Option<Result<Proxy, BadProxy>>,
    exceptions: Vec<Exception>,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("invalid proxy address {address:?}: {problem}")]
pub struct BadProxy {
    /// Without a password.
    address: String,
    problem: String,
}

/// What is reached without a proxy, of this port if one is named.
#[derive(Clone, Debug, PartialEq)]
enum Exception {
    All,
    Network(IpAddr, u8),
    Address(IpAddr, Option<u16>),
    /// What ends with the suffix, which begins with a dot; and `whole`: what is after the dot.
    Domain {
        suffix: String,
        whole: bool,
        port: Option<u16>,
    },
}

impl Proxies {
    /// Of the environment's variables.
    pub fn new(get: impl Fn(&str) -> Option<String>) -> Proxies {
        let any = |name: &str| {
            let set = |name: &str| get(name).filter(|value| !value.is_empty());
            set(name).or_else(|| set(&name.to_lowercase()))
        };
        let exceptions = any("NO_PROXY").unwrap_or_default();
        Proxies {
            http: any("HTTP_PROXY").map(|text| proxy(&text)),
            https: any("HTTPS_PROXY").map(|text| proxy(&text)),
            exceptions: exceptions.split(',').filter_map(exception).collect(),
        }
    }

    /// The proxy that leads to this URL; `None`: it is reached directly.
    pub fn of(&self, uri: &Uri) -> Result<Option<&Proxy>, BadProxy> {
        let (set, port) = match uri.scheme_str() {
            Some("https") => (&self.https, 443),
            _ => (&self.http, 80),
        };
        let (Some(set), Some(host)) = (set, uri.host()) else { return Ok(None) };
        let port = uri.port_u16().unwrap_or(port);
        match self.is_direct(&host.to_lowercase(), port) {
            true => Ok(None),
            false => set.as_ref().map(Some).map_err(BadProxy::clone),
        }
    }

    /// Whether any proxy is spoken to by TLS.
    pub fn need_tls(&self) -> bool {
        self.http.iter().chain(&self.https).flatten().any(|proxy| proxy.tls)
    }

    fn is_direct(&self, host: &str, port: u16) -> bool {
        let host = plain(host);
        let address = host.parse::<IpAddr>().ok();
        host == "localhost"
            || address.is_some_and(|address| address.is_loopback())
            || self.exceptions.iter().any(|exception| exception.covers(host, address, port))
    }
}

impl Exception {
    fn covers(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        let meant = |only: &Option<u16>| only.is_none_or(|only| only == port);
        match self {
            Exception::All => true,
            Exception::Network(network, length) => {
                address.is_some_and(|address| is_within(address, *network, *length))
            }
            Exception::Address(one, only) => address == Some(*one) && meant(only),
            Exception::Domain { suffix, whole, port: only } => {
                (host.ends_with(suffix.as_str()) || *whole && host == &suffix[1..]) && meant(only)
            }
        }
    }
}

/// One entry of NO_PROXY.
fn exception(text: &str) -> Option<Exception> {
    let text = text.trim().to_lowercase();
    if text == "*" {
        return Some(Exception::All);
    }
    if let Some((network, length)) = text.split_once('/') {
        let (network, length) = (network.parse::<IpAddr>().ok()?, length.parse().ok()?);
        let longest = if network.is_ipv4() { 32 } else { 128 };
        return (length <= longest).then_some(Exception::Network(network, length));
    }
    let (host, port) = match text.rsplit_once(':') {
        // An address of IPv6 has colons of its own.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (plain(host), Some(port.parse().ok()?))
        }
        _ => (plain(&text), None),
    };
    if let Ok(address) = host.parse() {
        return Some(Exception::Address(address, port));
    }
    let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
    match host.strip_prefix('.') {
        _ if host.is_empty() => None,
        Some(_) => Some(Exception::Domain { suffix: host.to_owned(), whole: false, port }),
        None => Some(Exception::Domain { suffix: format!(".{host}"), whole: true, port }),
    }
}

/// An address of IPv6 without its brackets.
fn plain(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn is_within(address: IpAddr, network: IpAddr, length: u8) -> bool {
    // The bits from the first one on.
    let bits = |address| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let other = 128_u32.saturating_sub(u32::from(length));
    let same = (bits(address) ^ bits(network)).checked_shr(other).unwrap_or(0) == 0;
    same && address.is_ipv4() == network.is_ipv4()
}

fn proxy(text: &str) -> Result<Proxy, BadProxy> {
    // Without a scheme it is HTTP.
    let url = match Url::parse(text) {
        Ok(url) if url.has_host() => Ok(url),
        _ => Url::parse(&format!("http://{text}")),
    };
    let shown = text.rsplit_once('@').map_or(text, |(_, host)| host);
    let bad = |problem: String| BadProxy { address: shown.to_owned(), problem };
    let url = url.map_err(|error| bad(error.to_string()))?;
    let tls = match url.scheme() {
        "http" => false,
        "https" => true,
        other => return Err(bad(format!("a proxy of the scheme {other} is not supported"))),
    };
    let host = url.host_str().filter(|host| !host.is_empty());
    let host = plain(host.ok_or_else(|| bad("it has no host".into()))?).to_owned();
    let port = url.port_or_known_default().unwrap_or(80);
    let credentials = match (url.username(), url.password()) {
        ("", None) => None,
        (user, password) => {
            let mut pair = decoded(user);
            pair.push(b':');
            pair.extend(decoded(password.unwrap_or_default()));
            // Base64 is always a header's value.
            let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).ok();
            value.iter_mut().for_each(|value| value.set_sensitive(true));
            value
        }
    };
    Ok(Proxy { tls, host, port, credentials })
}

/// Without percent-encoding (RFC 3986, 2.1).
fn decoded(text: &str) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%');
        let code = code.and_then(|two| std::str::from_utf8(two).ok());
        match code.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &after[2..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)], url: &str) -> String {
        let get = |name: &str| {
            let set = variables.iter().find(|(key, _)| *key == name);
            set.map(|(_, value)| value.to_string())
        };
        match Proxies::new(get).of(&url.parse().unwrap()) {
            Ok(Some(proxy)) => format!("{}:{}", proxy.host, proxy.port),
            Ok(None) => "direct".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_scheme_of_the_registry_decides() {
        let both = [("HTTP_PROXY", "http://plain:1"), ("https_proxy", "safe")];
        assert_eq!(of(&both, "http://r.test/v2/"), "plain:1");
        assert_eq!(of(&both, "https://r.test/v2/"), "safe:80");
        assert_eq!(of(&both[..1], "https://r.test/v2/"), "direct");
        let upper = [("HTTPS_PROXY", "https://upper"), ("https_proxy", "lower")];
        assert_eq!(of(&upper, "https://r.test/"), "upper:443");
        // Nobody is asked about what is here.
        for url in ["http://localhost:5000/", "http://127.0.0.1/", "http://[::1]:5000/"] {
            assert_eq!(of(&both, url), "direct");
        }
        let bad = of(&[("HTTP_PROXY", "socks5://user:secret@p:1080")], "http://r.test/");
        let why = "invalid proxy address \"p:1080\": a proxy of the scheme socks5 is not supported";
        assert_eq!(bad, why);
    }

    #[test]
    fn what_is_reached_without_a_proxy() {
        for (exceptions, url, direct) in [
            ("*", "https://r.test/", true),
            ("r.test", "https://r.test/", true),
            ("r.test", "https://R.test/", true),
            ("r.test", "https://a.r.test/", true),
            ("r.test", "https://other.test/", false),
            ("r.test", "https://bar.test/", false),
            (".r.test", "https://r.test/", false),
            (".r.test", "https://a.r.test/", true),
            (" x , *.r.test,", "https://a.r.test/", true),
            ("*.r.test", "https://r.test/", false),
            ("r.test:5000", "https://r.test:5000/", true),
            ("r.test:5000", "https://r.test/", false),
            ("r.test:443", "https://r.test/", true),
            ("10.0.0.0/8", "https://10.9.8.7/", true),
            ("10.0.0.0/8", "https://11.9.8.7/", false),
            ("10.0.0.0/8", "https://[a00::1]/", false),
            ("fd00::/16", "https://[fd00::7]:5000/", true),
            ("10.0.0.1", "https://10.0.0.1:5000/", true),
            ("10.0.0.1:80", "https://10.0.0.1:5000/", false),
            ("[fd00::7]:5000", "https://[fd00::7]:5000/", true),
            ("fd00::7", "https://[fd00::7]:5000/", true),
            ("0.0.0.0/0", "https://10.0.0.1/", true),
            ("", "https://r.test/", false),
        ] {
            let set = [("HTTPS_PROXY", "p:1"), ("NO_PROXY", exceptions)];
            let expected = if direct { "direct" } else { "p:1" };
            assert_eq!(of(&set, url), expected, "{exceptions} {url}");
        }
    }

    #[test]
    fn credentials_are_decoded_and_not_shown() {
        let known = proxy("http://us%65r:p%40ss:%zz@[fd00::1]:3128").unwrap();
        assert_eq!((known.host.as_str(), known.port, known.tls), ("fd00::1", 3128, false));
        let value = known.credentials.clone().unwrap();
        let expected = format!("Basic {}", STANDARD.encode("user:p@ss:%zz"));
        assert_eq!(value.to_str().unwrap(), expected);
        assert!(!format!("{known:?}").contains("Basic"));
        assert_eq!(proxy("http://p:1").unwrap().credentials, None);
    }
}
