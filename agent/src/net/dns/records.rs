//! The cluster's records, and what they answer: pure.
//!
//! Names as in "Kubernetes DNS-Based Service Discovery" 1.1.0 and, where it is silent, as CoreDNS
//! answers them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;

use hickory_proto::rr::rdata::{A, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proto::view::endpoint_slice::{Endpoint, EndpointSlice};
use proto::view::service::Service;

/// What the cluster's names stand for.
pub struct Records {
    /// `cluster.local`.
    domain: Vec<String>,
    services: HashMap<ServiceKey, ServiceRecords>,
    namespaces: HashSet<String>,
    /// The services that an address leads to, with the name to tell.
    reverse: HashMap<Ipv4Addr, BTreeMap<ServiceKey, String>>,
}

/// Namespace and name.
pub type ServiceKey = (String, String);

/// The answer to one question.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Found(Vec<Record>),
    /// Another name: the record that says so, and the name.
    Alias(Box<Record>, Name),
    /// The name exists, without records of this type.
    NoData,
    NoName,
    /// Not a name of the cluster: ask upstream.
    Elsewhere,
}

/// The records of one Service.
#[derive(Debug, Default, PartialEq)]
struct ServiceRecords {
    alias: Option<String>,
    addresses: BTreeSet<Ipv4Addr>,
    /// Endpoints of a headless Service by their host name.
    hosts: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    ports: BTreeSet<Port>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    name: String,
    /// `tcp`, `udp` or `sctp`.
    protocol: String,
    number: u16,
    /// Of the endpoint, in a headless Service.
    host: Option<String>,
}

/// Seconds for which answers may be kept.
const TTL: u32 = 5;
const VERSION: &str = "1.1.0";

impl Records {
    /// No records yet, for names below `domain`.
    pub fn new(domain: &str) -> Self {
        let labels = domain.trim_matches('.').split('.');
        Self {
            domain: labels.map(str::to_ascii_lowercase).collect(),
            services: HashMap::new(),
            namespaces: HashSet::new(),
            reverse: HashMap::new(),
        }
    }

    pub fn set_namespace(&mut self, name: &str, exists: bool) {
        match exists {
            true => self.namespaces.insert(name.to_owned()),
            false => self.namespaces.remove(name),
        };
    }

    /// Replaces what is known of one Service; `None` if it is gone.
    pub fn set_service<'a>(
        &mut self,
        key: &ServiceKey,
        service: Option<&Service>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
    ) {
        if let Some(old) = self.services.remove(key) {
            for ip in old.addresses {
                if let Entry::Occupied(mut names) = self.reverse.entry(ip) {
                    names.get_mut().remove(key);
                    if names.get().is_empty() {
                        names.remove();
                    }
                }
            }
        }
        let Some(service) = service else { return };
        let records = service_records(service, slices);
        let (namespace, name) = key;
        let full = format!("{name}.{namespace}.svc.{}.", self.domain.join("."));
        for ip in &records.addresses {
            let host = records.hosts.iter().find(|(_, ips)| ips.contains(ip));
            let told = host.map_or(full.clone(), |(host, _)| format!("{host}.{full}"));
            self.reverse.entry(*ip).or_default().insert(key.clone(), told);
        }
        self.services.insert(key.clone(), records);
    }

    /// Answers one question; records bear the name as it was asked.
    pub fn answer(&self, name: &Name, wanted: RecordType) -> Answer {
        let labels: Vec<String> =
            name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        if let [reversed @ .., "in-addr", "arpa"] = labels.as_slice() {
            return self.answer_reverse(name, reversed, wanted);
        }
        let inside = labels.len().checked_sub(self.domain.len());
        let inside = inside.filter(|at| labels[*at..].iter().eq(self.domain.iter()));
        let Some(path) = inside.map(|at| &labels[..at]) else { return Answer::Elsewhere };
        match path {
            [] => self.answer_domain(name, wanted),
            ["dns-version"] => only(wanted, RecordType::TXT, || {
                vec![record(name, RData::TXT(TXT::new(vec![VERSION.to_owned()])))]
            }),
            ["ns", "dns"] | ["dns"] | ["svc"] | ["pod"] => Answer::NoData,
            [namespace, "svc"] | [namespace, "pod"] => match self.namespaces.contains(*namespace) {
                true => Answer::NoData,
                false => Answer::NoName,
            },
            [ip, namespace, "pod"] if self.namespaces.contains(*namespace) => {
                match ip.replace('-', ".").parse() {
                    Ok(ip) => only(wanted, RecordType::A, || vec![address(name, ip)]),
                    Err(_) => Answer::NoName,
                }
            }
            [path @ .., service, namespace, "svc"] => {
                let key = (namespace.to_string(), service.to_string());
                let records = self.services.get(&key);
                records.map_or(Answer::NoName, |found| {
                    self.answer_service(name, &key, found, path, wanted)
                })
            }
            _ => Answer::NoName,
        }
    }

    /// The record that goes with "no such name" and "no such record".
    pub fn authority(&self) -> Option<Record> {
        let domain = self.name("")?;
        let (server, keeper) = (self.name("ns.dns.")?, self.name("hostmaster.")?);
        // Nobody transfers the zone: the serial says nothing.
        Some(record(&domain, RData::SOA(SOA::new(server, keeper, 1, 7200, 1800, 86400, TTL))))
    }

    fn answer_domain(&self, name: &Name, wanted: RecordType) -> Answer {
        match (wanted, self.authority(), self.name("ns.dns.")) {
            (RecordType::SOA, Some(authority), _) => Answer::Found(vec![authority]),
            (RecordType::NS, _, Some(server)) => {
                Answer::Found(vec![record(name, RData::NS(NS(server)))])
            }
            _ => Answer::NoData,
        }
    }

    fn answer_service(
        &self,
        name: &Name,
        key: &ServiceKey,
        records: &ServiceRecords,
        path: &[&str],
        wanted: RecordType,
    ) -> Answer {
        if let Some(target) = records.alias.as_ref().filter(|_| path.is_empty()) {
            return match Name::from_ascii(target) {
                Ok(mut target) => {
                    target.set_fqdn(true);
                    let alias = record(name, RData::CNAME(CNAME(target.clone())));
                    Answer::Alias(Box::new(alias), target)
                }
                Err(_) => Answer::NoData,
            };
        }
        let addresses = |ips: &BTreeSet<Ipv4Addr>| {
            only(wanted, RecordType::A, || ips.iter().map(|ip| address(name, *ip)).collect())
        };
        match path {
            [] if wanted == RecordType::SRV => self.answer_ports(name, key, records, |_| true),
            // A headless Service without endpoints exists all the same.
            [] => addresses(&records.addresses),
            [host] if records.hosts.contains_key(*host) => addresses(&records.hosts[*host]),
            [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
                let matches = |p: &Port| p.name == port[1..] && p.protocol == protocol[1..];
                match (records.ports.iter().any(matches), wanted) {
                    (false, _) => Answer::NoName,
                    (true, RecordType::SRV) => self.answer_ports(name, key, records, matches),
                    (true, _) => Answer::NoData,
                }
            }
            _ => Answer::NoName,
        }
    }

    fn answer_ports(
        &self,
        name: &Name,
        (namespace, service): &ServiceKey,
        records: &ServiceRecords,
        chosen: impl Fn(&Port) -> bool,
    ) -> Answer {
        let ports = records.ports.iter().filter(|port| chosen(port));
        let found: Vec<_> = ports
            .filter_map(|port| {
                let host = port.host.as_ref().map_or(String::new(), |host| format!("{host}."));
                let target = self.name(&format!("{host}{service}.{namespace}.svc."))?;
                Some(record(name, RData::SRV(SRV::new(0, 100, port.number, target))))
            })
            .collect();
        if found.is_empty() { Answer::NoData } else { Answer::Found(found) }
    }

    fn answer_reverse(&self, name: &Name, reversed: &[&str], wanted: RecordType) -> Answer {
        let dotted = reversed.iter().rev().copied().collect::<Vec<_>>().join(".");
        let names = dotted.parse().ok().and_then(|ip: Ipv4Addr| self.reverse.get(&ip));
        let Some(names) = names else { return Answer::Elsewhere };
        only(wanted, RecordType::PTR, || {
            let names = names.values().filter_map(|name| Name::from_ascii(name).ok());
            names.map(|target| record(name, RData::PTR(PTR(target)))).collect()
        })
    }

    /// A name below the domain; `prefix` ends in a dot or is empty.
    fn name(&self, prefix: &str) -> Option<Name> {
        Name::from_ascii(format!("{prefix}{}.", self.domain.join("."))).ok()
    }
}

fn service_records<'a>(
    service: &Service,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
) -> ServiceRecords {
    let mut records = ServiceRecords::default();
    if service.spec.kind == "ExternalName" {
        records.alias = Some(service.spec.external_name.clone());
    } else if service.is_headless() {
        for slice in slices.into_iter().filter(|slice| slice.address_type == "IPv4") {
            add_endpoints(&mut records, slice, service.spec.publish_not_ready_addresses);
        }
    } else {
        let ips = service.spec.cluster_ips.iter().chain([&service.spec.cluster_ip]);
        records.addresses = ips.filter_map(|ip| ip.parse().ok()).collect();
        records.ports = (service.spec.ports.iter())
            .filter_map(|port| port_of(&port.name, &port.protocol, port.port, None))
            .collect();
    }
    records
}

fn add_endpoints(records: &mut ServiceRecords, slice: &EndpointSlice, not_ready: bool) {
    let usable = |endpoint: &&Endpoint| not_ready || endpoint.conditions.is_ready();
    for endpoint in slice.endpoints.iter().filter(usable) {
        for ip in endpoint.addresses.iter().filter_map(|ip| ip.parse::<Ipv4Addr>().ok()) {
            let named = endpoint.hostname.clone().filter(|name| !name.is_empty());
            let host = named.unwrap_or_else(|| ip.to_string().replace('.', "-"));
            records.addresses.insert(ip);
            records.hosts.entry(host.clone()).or_default().insert(ip);
            records.ports.extend(slice.ports.iter().filter_map(|port| {
                let name = port.name.as_deref().unwrap_or_default();
                let protocol = port.protocol.as_deref().unwrap_or_default();
                port_of(name, protocol, port.port?, Some(host.clone()))
            }));
        }
    }
}

fn port_of(name: &str, protocol: &str, number: i32, host: Option<String>) -> Option<Port> {
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_lowercase() };
    Some(Port { name: name.to_owned(), protocol, number: u16::try_from(number).ok()?, host })
}

/// The records, if they are of the type that was asked for.
fn only(wanted: RecordType, have: RecordType, records: impl FnOnce() -> Vec<Record>) -> Answer {
    if wanted != have && wanted != RecordType::ANY {
        return Answer::NoData;
    }
    let records = records();
    if records.is_empty() { Answer::NoData } else { Answer::Found(records) }
}

fn address(name: &Name, ip: Ipv4Addr) -> Record {
    record(name, RData::A(A(ip)))
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn records() -> Records {
        let mut records = Records::new("cluster.local");
        records.set_namespace("default", true);
        let view = |value| serde_json::from_value::<Service>(value).unwrap();
        let key = |name: &str| ("default".to_owned(), name.to_owned());
        let web = view(json!({"spec": {"clusterIP": "10.96.0.10",
            "ports": [{"name": "http", "port": 80}, {"name": "dns", "protocol": "UDP", "port": 53}]}}));
        records.set_service(&key("web"), Some(&web), []);
        let slice: EndpointSlice = serde_json::from_value(json!({"addressType": "IPv4",
            "ports": [{"name": "db", "port": 5432, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.1.0.2"], "hostname": "db-0"},
                {"addresses": ["10.1.0.3"], "conditions": {"ready": true}},
                {"addresses": ["10.1.0.4"], "conditions": {"ready": false}}]}))
        .unwrap();
        let db =
            view(json!({"spec": {"clusterIP": "None", "ports": [{"name": "db", "port": 5432}]}}));
        records.set_service(&key("db"), Some(&db), [&slice]);
        let all = view(json!({"spec": {"clusterIP": "None", "publishNotReadyAddresses": true}}));
        records.set_service(&key("all"), Some(&all), [&slice]);
        records.set_service(&key("empty"), Some(&db), []);
        let out = view(json!({"spec": {"type": "ExternalName", "externalName": "example.org"}}));
        records.set_service(&key("out"), Some(&out), []);
        records
    }

    fn ask(records: &Records, name: &str, wanted: RecordType) -> String {
        let name = Name::from_ascii(name).unwrap();
        match records.answer(&name, wanted) {
            Answer::Found(found) => {
                found.iter().map(|record| record.data.to_string()).collect::<Vec<_>>().join(", ")
            }
            Answer::Alias(_, target) => format!("-> {target}"),
            Answer::NoData => "no data".into(),
            Answer::NoName => "no name".into(),
            Answer::Elsewhere => "elsewhere".into(),
        }
    }

    #[test]
    fn names_of_the_specification() {
        use RecordType::{A, AAAA, PTR, SRV, TXT};
        let records = records();
        for (name, wanted, answer) in [
            ("web.default.svc.cluster.local.", A, "10.96.0.10"),
            ("WEB.Default.svc.CLUSTER.local.", A, "10.96.0.10"),
            ("web.default.svc.cluster.local.", AAAA, "no data"),
            (
                "_http._tcp.web.default.svc.cluster.local.",
                SRV,
                "0 100 80 web.default.svc.cluster.local.",
            ),
            (
                "_dns._udp.web.default.svc.cluster.local.",
                SRV,
                "0 100 53 web.default.svc.cluster.local.",
            ),
            ("_http._tcp.web.default.svc.cluster.local.", A, "no data"),
            ("_http._udp.web.default.svc.cluster.local.", SRV, "no name"),
            ("x.web.default.svc.cluster.local.", A, "no name"),
            ("none.default.svc.cluster.local.", A, "no name"),
            ("web.other.svc.cluster.local.", A, "no name"),
            ("default.svc.cluster.local.", A, "no data"),
            ("other.svc.cluster.local.", A, "no name"),
            ("svc.cluster.local.", A, "no data"),
            ("cluster.local.", A, "no data"),
            ("nothing.cluster.local.", A, "no name"),
            ("dns-version.cluster.local.", TXT, "1.1.0"),
            ("db.default.svc.cluster.local.", A, "10.1.0.2, 10.1.0.3"),
            ("db-0.db.default.svc.cluster.local.", A, "10.1.0.2"),
            ("10-1-0-3.db.default.svc.cluster.local.", A, "10.1.0.3"),
            ("10-1-0-4.db.default.svc.cluster.local.", A, "no name"),
            (
                "_db._tcp.db.default.svc.cluster.local.",
                SRV,
                "0 100 5432 10-1-0-3.db.default.svc.cluster.local., \
              0 100 5432 db-0.db.default.svc.cluster.local.",
            ),
            ("all.default.svc.cluster.local.", A, "10.1.0.2, 10.1.0.3, 10.1.0.4"),
            ("empty.default.svc.cluster.local.", A, "no data"),
            ("out.default.svc.cluster.local.", A, "-> example.org."),
            ("10-1-2-3.default.pod.cluster.local.", A, "10.1.2.3"),
            ("10-1-2.default.pod.cluster.local.", A, "no name"),
            ("10-1-2-3.other.pod.cluster.local.", A, "no name"),
            ("10.0.96.10.in-addr.arpa.", PTR, "web.default.svc.cluster.local."),
            ("10.0.96.10.in-addr.arpa.", A, "no data"),
            ("11.0.96.10.in-addr.arpa.", PTR, "elsewhere"),
            ("example.org.", A, "elsewhere"),
            ("web.default.svc.cluster.local.example.org.", A, "elsewhere"),
        ] {
            assert_eq!(ask(&records, name, wanted), answer, "{name} {wanted}");
        }
        assert_eq!(
            ask(&records, "2.0.1.10.in-addr.arpa.", PTR),
            "db-0.all.default.svc.cluster.local., db-0.db.default.svc.cluster.local."
        );
    }

    #[test]
    fn what_is_gone_is_gone() {
        let mut records = records();
        records.set_service(&("default".into(), "web".into()), None, []);
        assert_eq!(ask(&records, "web.default.svc.cluster.local.", RecordType::A), "no name");
        assert_eq!(ask(&records, "10.0.96.10.in-addr.arpa.", RecordType::PTR), "elsewhere");
    }
}
