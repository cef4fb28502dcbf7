//! Endpoints and EndpointSlices.

use std::collections::HashSet;
use std::net::IpAddr;

use proto::status::{FieldError, Problem};
use proto::time::Time;
use serde_json::Value;

use super::check::{self, Errors};
use super::lens::Lens;
use super::metadata::immutable;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Strategy};

/// How many addresses or ports a cell lists before it says how many more there are.
const SHOWN: usize = 3;
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

pub struct Endpoints;

impl Strategy for Endpoints {
    fn create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let path = Path::root("subsets");
        for (index, subset) in object.items("subsets").iter().enumerate() {
            let path = path.index(index);
            if subset.vacant("addresses") && subset.vacant("notReadyAddresses") {
                let detail = "must specify `addresses` or `notReadyAddresses`";
                errors.push(FieldError::required(path, detail));
            }
            for field in ["addresses", "notReadyAddresses"] {
                let path = path.field(field);
                for (index, address) in subset.items(field).iter().enumerate() {
                    endpoint_address(&path.index(index), address, &mut errors);
                }
            }
            let ports = subset.items("ports");
            let path = path.field("ports");
            for (index, port) in ports.iter().enumerate() {
                let path = path.index(index);
                match port.text("name") {
                    "" if ports.len() > 1 => {
                        errors.push(FieldError::required(path.field("name"), ""));
                    }
                    "" => {}
                    name => check::label(&path.field("name"), name, &mut errors),
                }
                let number = port.int("port").unwrap_or(0);
                check::port_number(&path.field("port"), number, &mut errors);
                let protocol = port.text("protocol");
                check::one_of(&path.field("protocol"), protocol, &PROTOCOLS, &mut errors);
            }
        }
        errors
    }

    fn warnings(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        let deprecated =
            "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";
        vec![deprecated.into()]
    }

    fn columns(&self) -> &'static [Column] {
        const ENDPOINTS: Column = column(
            "Endpoints",
            "string",
            0,
            "The set of all endpoints is the union of all subsets. Sets of addresses and ports \
             that comprise a service.",
        );
        &[table::NAME, ENDPOINTS, table::AGE]
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let mut all = Vec::new();
        for subset in object.items("subsets") {
            let addresses = || subset.items("addresses").iter().map(|address| address.text("ip"));
            if subset.vacant("ports") {
                all.extend(addresses().map(String::from));
            }
            for port in subset.items("ports") {
                let number = port.int("port").unwrap_or(0);
                all.extend(addresses().map(|ip| match ip.contains(':') {
                    true => format!("[{ip}]:{number}"),
                    false => format!("{ip}:{number}"),
                }));
            }
        }
        vec![table::name(object), shortened(all, "<none>").into(), table::age(object, now)]
    }
}

pub struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn counted(&self) -> &'static [&'static str] {
        &["/addressType", "/endpoints", "/ports"]
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let kind = object.text("addressType");
        let supported = ["FQDN", "IPv4", "IPv6"];
        check::one_of(&Path::root("addressType"), kind, &supported, &mut errors);
        let path = Path::root("endpoints");
        at_most(&path, object.items("endpoints"), 1000, &mut errors);
        for (index, endpoint) in object.items("endpoints").iter().enumerate() {
            slice_endpoint(&path.index(index), kind, endpoint, &mut errors);
        }
        slice_ports(object.items("ports"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        let path = Path::root("addressType");
        immutable(&path, new.at("addressType"), old.at("addressType"), &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const TYPE: Column = column(
            "AddressType",
            "string",
            0,
            "addressType specifies the type of address carried by this EndpointSlice.",
        );
        const PORTS: Column = column(
            "Ports",
            "string",
            0,
            "ports specifies the list of network ports exposed by each endpoint in this slice.",
        );
        const ENDPOINTS: Column = column(
            "Endpoints",
            "string",
            0,
            "endpoints is a list of unique endpoints in this slice.",
        );
        &[table::NAME, TYPE, PORTS, ENDPOINTS, table::AGE]
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let ports = object.items("ports").iter().map(|port| match port.int("port") {
            Some(number) => number.to_string(),
            None if port.text("name").is_empty() => "*".into(),
            None => port.text("name").into(),
        });
        let addresses = object
            .items("endpoints")
            .iter()
            .flat_map(|endpoint| check::texts(endpoint, "addresses").map(String::from));
        vec![
            table::name(object),
            object.text("addressType").into(),
            shortened(ports.collect(), "<unset>").into(),
            shortened(addresses.collect(), "<unset>").into(),
            table::age(object, now),
        ]
    }
}

fn slice_endpoint(path: &Path, kind: &str, endpoint: &Value, errors: &mut Errors) {
    let path_addresses = path.field("addresses");
    if endpoint.vacant("addresses") {
        let detail = "must contain at least 1 address";
        errors.push(FieldError::required(path_addresses, detail));
    }
    at_most(&path_addresses, endpoint.items("addresses"), 100, errors);
    for (index, text) in check::texts(endpoint, "addresses").enumerate() {
        let path = path_addresses.index(index);
        match (kind, text.parse::<IpAddr>()) {
            ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => {
                usable(&path, text, errors);
            }
            ("IPv4" | "IPv6", _) => {
                let detail = format!("must be a valid {kind} address");
                errors.push(FieldError::invalid(path, text, detail));
            }
            ("FQDN", _) => {
                let name = text.strip_suffix('.').unwrap_or(text);
                check::subdomain(&path, name, errors);
                if !name.contains('.') {
                    let detail = "should be a domain with at least two segments separated by dots";
                    errors.push(FieldError::invalid(path, text, detail));
                }
            }
            _ => {}
        }
    }
    if !endpoint.vacant("nodeName") {
        check::subdomain(&path.field("nodeName"), endpoint.text("nodeName"), errors);
    }
    if !endpoint.vacant("hostname") {
        check::label(&path.field("hostname"), endpoint.text("hostname"), errors);
    }
}

fn slice_ports(ports: &[Value], errors: &mut Errors) {
    let path = Path::root("ports");
    at_most(&path, ports, 20000, errors);
    let mut names = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = port.text("name");
        if !name.is_empty() {
            check::label(&path.field("name"), name, errors);
        }
        if !names.insert(name) {
            errors.push(FieldError::duplicate(path.field("name"), name));
        }
        check::one_of(&path.field("protocol"), port.text("protocol"), &PROTOCOLS, errors);
        if let Some(number) = port.int("port") {
            check::port_number(&path.field("port"), number, errors);
        }
        if !port.vacant("appProtocol") {
            check::qualified(&path.field("appProtocol"), port.text("appProtocol"), errors);
        }
    }
}

fn endpoint_address(path: &Path, address: &Value, errors: &mut Errors) {
    let ip = address.text("ip");
    check::ip(&path.field("ip"), ip, errors);
    usable(&path.field("ip"), ip, errors);
    if !address.text("hostname").is_empty() {
        check::label(&path.field("hostname"), address.text("hostname"), errors);
    }
    if !address.text("nodeName").is_empty() {
        check::subdomain(&path.field("nodeName"), address.text("nodeName"), errors);
    }
}

/// Not an address that means this machine or this link.
fn usable(path: &Path, text: &str, errors: &mut Errors) {
    if let Some(detail) = text.parse().ok().and_then(check::special_address) {
        errors.push(FieldError::invalid(path, text, detail));
    }
}

fn at_most(path: &Path, items: &[Value], most: usize, errors: &mut Errors) {
    if items.len() > most {
        let detail = format!("must have at most {most} items");
        errors.push(FieldError::new(path, Problem::TooMany(items.len()), detail));
    }
}

fn shortened(mut all: Vec<String>, none: &str) -> String {
    let more = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    let text = all.join(",");
    match (more, text.as_str()) {
        (0, "") => none.into(),
        (0, _) => text,
        (more, _) => format!("{text} + {more} more..."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn as_kubectl_shows_them() {
        let addresses = json!([{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}]);
        let endpoints = json!({"metadata": {"name": "e"}, "subsets": [
            {"addresses": addresses, "ports": [{"port": 80}, {"port": 443}]},
        ]});
        let cells = Endpoints.cells(&endpoints, Time::from_unix(0));
        assert_eq!(cells[1], "1.1.1.1:80,1.1.1.2:80,1.1.1.1:443 + 1 more...");
        let cells = Endpoints.cells(&json!({}), Time::from_unix(0));
        assert_eq!(cells[1], "<none>");
        let slice = json!({
            "metadata": {"name": "s"}, "addressType": "IPv4", "ports": [{"port": 80}, {}],
            "endpoints": [{"addresses": ["1.1.1.1"]}],
        });
        let cells = EndpointSlice.cells(&slice, Time::from_unix(0));
        assert_eq!(cells[1..4], [json!("IPv4"), json!("80,*"), json!("1.1.1.1")]);
    }

    #[test]
    fn refused_slices() {
        let sentences = |slice: Value| {
            let errors = EndpointSlice.validate(&slice);
            errors.iter().map(FieldError::to_string).collect::<Vec<_>>()
        };
        let slice = json!({
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["fd00::1"]}, {"addresses": []}, {"addresses": ["127.0.0.1"]}],
            "ports": [{"name": "a", "protocol": "TCP"}, {"name": "a", "protocol": "X", "port": 0}],
        });
        assert_eq!(
            sentences(slice),
            [
                "endpoints[0].addresses[0]: Invalid value: \"fd00::1\": must be a valid IPv4 address",
                "endpoints[1].addresses: Required value: must contain at least 1 address",
                "endpoints[2].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the \
                 loopback range (127.0.0.0/8, ::1/128)",
                "ports[1].name: Duplicate value: \"a\"",
                "ports[1].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \
                 \"TCP\", \"UDP\"",
                "ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ]
        );
        assert_eq!(sentences(json!({})), ["addressType: Required value"]);
        let many = json!({"addressType": "IPv4", "ports": [],
            "endpoints": vec![json!({"addresses": ["1.1.1.1"]}); 1001]});
        assert_eq!(sentences(many), ["endpoints: Too many: 1001: must have at most 1000 items"]);
    }
}
