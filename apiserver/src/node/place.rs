//! Where a proxied request goes: `[SCHEME:]NAME[:PORT]` of a pod, a Service or a node, as a host
//! and a port.

use std::net::IpAddr;

use proto::{kind, status::Status};
use serde_json::Value;

use super::connect::{Agent, Security};
use crate::{
    kinds::lens::Lens,
    registry::{Call, Registry},
};

/// A server that a request is passed to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub host: String,
    pub port: u16,
    pub security: Security,
}

/// A name as the URL has it, taken apart. Empty parts were left out.
#[derive(Debug, PartialEq, Eq)]
struct Id<'a> {
    security: Security,
    name: &'a str,
    port: &'a str,
}

impl Place {
    /// `random` picks among the endpoints of a Service.
    pub(super) fn of(registry: &Registry, call: &Call, random: u64) -> Result<Place, Status> {
        let resource = &*call.kind.row.resource;
        let id = Id::parse(call.name).ok_or_else(|| {
            let kind = &call.kind.row.singular;
            Status::bad_request(format!("invalid {kind} request {:?}", call.name))
        })?;
        let (host, port) = match resource {
            "nodes" => return node(registry, &id),
            "services" => service(registry, call.namespace, &id, random)?,
            _ => pod(registry, call.namespace, &id)?,
        };
        proxyable(&host)?;
        Ok(Place { host, port, security: id.security })
    }
}

impl<'a> Id<'a> {
    fn parse(text: &'a str) -> Option<Id<'a>> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        let security = match scheme {
            "" | "http" => Security::Plain,
            "https" => Security::Blind,
            _ => return None,
        };
        (!name.is_empty()).then_some(Id { security, name, port })
    }

    /// The port as a number; what HTTP means without one.
    fn number(&self) -> Result<u16, Status> {
        match (self.port, self.security) {
            ("", Security::Plain) => Ok(80),
            ("", _) => Ok(443),
            (port, _) => port.parse().map_err(|_| {
                Status::unavailable(format!(
                    "error trying to reach service: dial tcp: lookup tcp/{port}: unknown port"
                ))
            }),
        }
    }
}

/// Without a port, or with that of the agent, the agent itself.
fn node(registry: &Registry, id: &Id) -> Result<Place, Status> {
    let agent = Agent::of(registry, id.name)?;
    if id.port.is_empty() || id.port == agent.port.to_string() {
        return Ok(Place { host: agent.host, port: agent.port, security: Security::Agent });
    }
    proxyable(&agent.host)?;
    Ok(Place { host: agent.host, port: id.number()?, security: id.security })
}

/// Without a port, the first that a container declares.
fn pod(registry: &Registry, namespace: &str, id: &Id) -> Result<(String, u16), Status> {
    let pod = read(registry, &kind::POD, namespace, id.name)?;
    let declared = pod.at("spec").items("containers").iter().find_map(|container| {
        let port = container.items("ports").first()?.int("containerPort")?;
        u16::try_from(port).ok()
    });
    let port = match (id.port, declared) {
        ("", Some(port)) => port,
        _ => id.number()?,
    };
    Ok((pod.at("status").text("podIP").to_string(), port))
}

/// One of the Service's ready pods that has the port named or numbered.
fn service(
    registry: &Registry,
    namespace: &str,
    id: &Id,
    random: u64,
) -> Result<(String, u16), Status> {
    let service = read(registry, &kind::SERVICE, namespace, id.name)?;
    let mut port = id.port;
    if let Ok(number) = id.port.parse::<i64>() {
        let mut ports = service.at("spec").items("ports").iter();
        let found = ports.find(|port| port.int("port") == Some(number)).ok_or_else(|| {
            let name = id.name;
            Status::unavailable(format!("no service port {number} found for service {name:?}"))
        })?;
        port = found.text("name");
    }
    let slices = registry.of(&kind::ENDPOINT_SLICE).cache.snapshot();
    let mut found: Vec<(String, u16)> = Vec::new();
    for entry in slices.list(namespace, None) {
        let service = entry.labels.get("kubernetes.io/service-name");
        if service.is_some_and(|service| **service == *id.name)
            && let Ok(slice) = serde_json::from_slice::<Value>(&entry.bytes())
        {
            found.extend(endpoints(&slice, port));
        }
    }
    match found.len() {
        0 => Err(Status::unavailable(format!("no endpoints available for service {:?}", id.name))),
        count => Ok(found.swap_remove((random % count as u64) as usize)),
    }
}

/// The addresses of ready pods in a slice that has the port of this name.
fn endpoints(slice: &Value, name: &str) -> Vec<(String, u16)> {
    let port = slice.items("ports").iter().find(|port| port.text("name") == name);
    let port = port.and_then(|port| u16::try_from(port.int("port")?).ok());
    let Some(port) = port else { return Vec::new() };
    let ready = slice.items("endpoints").iter().filter(|endpoint| {
        endpoint.at("conditions").flag("ready").unwrap_or(true)
            // Only what is a pod: an address that somebody wrote may be any.
            && endpoint.at("targetRef").text("kind") == "Pod"
    });
    let address =
        |endpoint: &Value| endpoint.items("addresses").first()?.as_str().map(String::from);
    ready.filter_map(address).map(|address| (address, port)).collect()
}

/// Never the API server's own host or what only it can reach.
fn proxyable(host: &str) -> Result<(), Status> {
    let allowed = match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => {
            !(ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_unspecified())
        }
        Ok(IpAddr::V6(ip)) => {
            !(ip.is_loopback()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
                || ip.is_unspecified())
        }
        Err(_) => false,
    };
    if allowed { Ok(()) } else { Err(Status::bad_request("address not allowed")) }
}

fn read(
    registry: &Registry,
    row: &'static kind::Row,
    namespace: &str,
    name: &str,
) -> Result<Value, Status> {
    let entry = registry.of(row).cache.get(namespace, name);
    let entry = entry.ok_or_else(|| Status::not_found(&row.group, &row.resource, name))?;
    serde_json::from_slice(&entry.bytes())
        .map_err(|error| Status::internal(format!("reading {} {name}: {error}", row.singular)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_with_schemes_and_ports() {
        let id = |security, name, port| Some(Id { security, name, port });
        let cases = [
            ("p", id(Security::Plain, "p", "")),
            ("p:80", id(Security::Plain, "p", "80")),
            ("http:p:web", id(Security::Plain, "p", "web")),
            ("https:p:", id(Security::Blind, "p", "")),
            ("ftp:p:21", None),
            ("a:b:c:d", None),
            (":80", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Id::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn only_ready_pods_are_endpoints() {
        let slice = json!({
            "ports": [{"name": "web", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod"}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false},
                 "targetRef": {"kind": "Pod"}},
                {"addresses": ["127.0.0.1"]},
            ],
        });
        assert_eq!(endpoints(&slice, "web"), [("10.0.0.1".to_string(), 8080)]);
        assert_eq!(endpoints(&slice, ""), []);
    }

    #[test]
    fn where_no_request_is_passed() {
        let hosts = ["127.0.0.1", "169.254.169.254", "::1", "fe80::1", "0.0.0.0", "host", ""];
        for host in hosts {
            let why = proxyable(host).map_err(|status| (status.code, status.message));
            assert_eq!(why, Err((400, "address not allowed".to_string())), "{host}");
        }
        assert!(proxyable("10.1.2.3").is_ok());
    }
}
