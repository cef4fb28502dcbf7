//! Where a probe goes: the action of its spec with port names and defaults resolved. Pure.

use serde_json::Value;

use crate::pod::{Container, HttpGet, Probe};

/// Host, port and what to ask there.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    Http { tls: bool, host: String, port: u16, path: String, headers: Vec<(String, String)> },
    Tcp { host: String, port: u16 },
    Grpc { host: String, port: u16, service: String },
}

impl Target {
    /// The probe's network action; `ip` is the pod's.
    pub fn of(probe: &Probe, container: &Container, ip: &str) -> Result<Target, String> {
        if let Some(http) = &probe.http_get {
            return Target::http(http, container, ip);
        }
        if let Some(tcp) = &probe.tcp_socket {
            let host = if tcp.host.is_empty() { ip } else { &tcp.host };
            return Ok(Target::Tcp { host: host.into(), port: port(&tcp.port, container)? });
        }
        if let Some(grpc) = &probe.grpc {
            let (host, service) = (ip.to_string(), grpc.service.clone());
            return Ok(Target::Grpc { host, port: grpc.port, service });
        }
        Err("missing probe handler".into())
    }

    pub fn http(http: &HttpGet, container: &Container, ip: &str) -> Result<Target, String> {
        let host = if http.host.is_empty() { ip } else { &http.host };
        let path = match http.path.as_str() {
            "" => "/".to_string(),
            path if path.starts_with('/') => path.to_string(),
            path => format!("/{path}"),
        };
        let headers = http.http_headers.iter();
        Ok(Target::Http {
            tls: http.scheme.eq_ignore_ascii_case("https"),
            host: host.into(),
            port: port(&http.port, container)?,
            path,
            headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
        })
    }

    /// As Go's HTTP client names it.
    pub fn url(&self) -> String {
        let authority = self.authority();
        match self {
            Target::Http { tls, path, .. } => {
                let scheme = if *tls { "https" } else { "http" };
                format!("{scheme}://{authority}{path}")
            }
            Target::Tcp { .. } | Target::Grpc { .. } => authority,
        }
    }

    pub fn host(&self) -> &str {
        let (Target::Http { host, .. } | Target::Tcp { host, .. } | Target::Grpc { host, .. }) =
            self;
        host
    }

    pub fn authority(&self) -> String {
        let (Target::Http { host, port, .. }
        | Target::Tcp { host, port }
        | Target::Grpc { host, port, .. }) = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    pub fn timed_out(&self) -> String {
        match self {
            Target::Http { .. } => format!(
                "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                self.url()
            ),
            Target::Tcp { .. } => format!("dial tcp {}: i/o timeout", self.authority()),
            Target::Grpc { .. } => {
                format!("timeout: failed to connect service {:?} within 1s", self.authority())
            }
        }
    }
}

/// A number, or the name of one of the container's ports.
fn port(port: &Value, container: &Container) -> Result<u16, String> {
    let number = match port {
        Value::Number(number) => number.as_u64(),
        Value::String(name) => {
            let named = container.ports.iter().find(|port| port.name == *name);
            let named = named.and_then(|port| u64::try_from(port.container_port).ok());
            named.or_else(|| name.parse().ok())
        }
        _ => None,
    };
    let number = number.and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0);
    number.ok_or_else(|| format!("invalid port number: {port}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn resolved() {
        let container: Container = serde_json::from_value(
            json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}),
        )
        .unwrap();
        let table = [
            (json!({"httpGet": {"port": "web"}}), Ok("http://10.0.0.1:8080/")),
            (
                json!({"httpGet": {"port": 1, "host": "h", "scheme": "HTTPS", "path": "x?y"}}),
                Ok("https://h:1/x?y"),
            ),
            (json!({"tcpSocket": {"port": "web"}}), Ok("10.0.0.1:8080")),
            (json!({"grpc": {"port": 9}}), Ok("10.0.0.1:9")),
            (json!({"tcpSocket": {"port": "none"}}), Err("invalid port number: \"none\"")),
            (json!({}), Err("missing probe handler")),
        ];
        for (probe, expected) in table {
            let probe: Probe = serde_json::from_value(probe).unwrap();
            let target = Target::of(&probe, &container, "10.0.0.1").map(|target| target.url());
            assert_eq!(target.as_deref().map_err(String::as_str), expected);
        }
    }
}
