//! Addresses for Services of type LoadBalancer, out of a range that the cluster's machine routes.
//! An address stays with its Service until that is deleted or changes its type.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use client::{Change, Entry, Key};
use proto::kind::SERVICE;
use proto::time::Time;
use proto::view::service::Service;
use serde_json::json;

use crate::plan::{Plan, reference};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Gives addresses of one range.
pub struct LoadBalancers {
    pub range: Range,
}

/// The addresses of a CIDR that hosts may bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: u32,
    last: u32,
}

/// A text that is not a range of addresses.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid CIDR address: {0}")]
pub struct RangeError(String);

impl std::str::FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Range, RangeError> {
        let parse = || {
            let (address, bits) = text.split_once('/')?;
            let address = u32::from(address.parse::<Ipv4Addr>().ok()?);
            let bits: u32 = bits.parse().ok().filter(|bits| *bits <= 32)?;
            let hosts = u32::MAX.checked_shr(bits).unwrap_or(0);
            let network = address & !hosts;
            // Network and broadcast address are no one's, except in the smallest ranges.
            let edge = u32::from(bits < 31);
            Some(Range { first: network + edge, last: (network | hosts) - edge })
        };
        parse().ok_or_else(|| RangeError(text.into()))
    }
}

impl Range {
    fn contains(&self, address: &str) -> bool {
        let address = address.parse::<Ipv4Addr>().map(u32::from);
        address.is_ok_and(|address| (self.first..=self.last).contains(&address))
    }

    fn iter(&self) -> impl Iterator<Item = String> {
        (self.first..=self.last).map(|address| Ipv4Addr::from(address).to_string())
    }
}

impl Controller for LoadBalancers {
    type Object = Service;
    const NAME: &'static str = "service-lb-controller";
    /// One at a time, so that no address is given twice.
    const WORKERS: usize = 1;

    fn watches(watches: &mut Watches<Service>) {
        // A freed address may be what another Service waits for.
        watches.maps::<Service>(|change: &Change<Service>, view| {
            if change.old.as_ref().and_then(|old| address(old)).is_none() {
                return Vec::new();
            }
            let services = view.all::<Service>().into_iter();
            let waiting = services.filter(|service| is_ours(service) && address(service).is_none());
            waiting.map(|service| Key::of(&service.metadata)).collect()
        });
    }

    fn plan(&self, service: &Entry<Service>, view: &View, _: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let meta = &service.metadata;
        let own = address(service);
        if !is_ours(service) {
            // Only what came from our range is ours to take back.
            if service.spec.kind != "LoadBalancer"
                && own.is_some_and(|own| self.range.contains(own))
            {
                plan.status(&SERVICE, meta, json!({ "loadBalancer": { "ingress": null } }));
            }
            return Ok(plan);
        }
        let others = view.all::<Service>();
        let mut holders: HashMap<&str, &Arc<Entry<Service>>> = HashMap::new();
        for other in others.iter().filter(|other| is_ours(other) && other.metadata.uid != meta.uid)
        {
            if let Some(address) = address(other) {
                holders.insert(address, other);
            }
        }
        let regarding = reference(&SERVICE, meta);
        let asked = Some(service.spec.load_balancer_ip.as_str()).filter(|ip| !ip.is_empty());
        let older = |other: &Service| age(other) < age(service);
        let keeps = |own: &str| {
            self.range.contains(own)
                && asked.is_none_or(|asked| asked == own)
                && !holders.get(own).is_some_and(|other| older(other))
        };
        if own.is_some_and(keeps) {
            return Ok(plan);
        }
        let free = |ip: &String| self.range.contains(ip) && !holders.contains_key(ip.as_str());
        let given = match asked {
            Some(asked) => Some(asked.to_string()).filter(free),
            None => self.range.iter().find(free),
        };
        match given {
            Some(ip) => {
                let ingress = json!([{ "ip": ip, "ipMode": "VIP" }]);
                plan.status(&SERVICE, meta, json!({ "loadBalancer": { "ingress": ingress } }));
                let message = "Ensured load balancer".to_string();
                plan.event(&regarding, "Normal", "EnsuredLoadBalancer", message);
            }
            None => {
                let why = match asked {
                    Some(asked) => format!("address {asked} is not available"),
                    None => "no address is left".into(),
                };
                let message =
                    format!("Error syncing load balancer: failed to ensure load balancer: {why}");
                plan.event(&regarding, "Warning", "SyncLoadBalancerFailed", message);
            }
        }
        Ok(plan)
    }
}

fn is_ours(service: &Service) -> bool {
    service.spec.kind == "LoadBalancer"
        && service.spec.load_balancer_class.is_none()
        && service.metadata.deletion_timestamp.is_none()
}

fn address(service: &Service) -> Option<&str> {
    let ingress = service.status.load_balancer.ingress.first()?;
    Some(ingress.ip.as_str()).filter(|ip| !ip.is_empty())
}

fn age(service: &Service) -> (Option<Time>, &str) {
    (service.metadata.creation_timestamp, &service.metadata.uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Step;
    use serde_json::Value;

    fn service(name: &str, kind: &str, ip: &str, asked: &str) -> Value {
        let ingress = if ip.is_empty() { json!([]) } else { json!([{"ip": ip}]) };
        json!({"metadata": {"name": name, "namespace": "a", "uid": name},
            "spec": {"type": kind, "loadBalancerIP": asked},
            "status": {"loadBalancer": {"ingress": ingress}}})
    }

    #[test]
    fn ranges() {
        let hosts =
            |text: &str| text.parse::<Range>().map(|range| range.iter().collect::<Vec<_>>());
        assert_eq!(hosts("10.9.8.7/30").unwrap(), ["10.9.8.5", "10.9.8.6"]);
        assert_eq!(hosts("10.9.8.7/32").unwrap(), ["10.9.8.7"]);
        assert!(
            hosts("10.9.8.7").is_err() && hosts("x/8").is_err() && hosts("1.2.3.4/33").is_err()
        );
    }

    #[test]
    fn addresses_are_unique_and_stable() {
        const LB: &str = "LoadBalancer";
        let controller = LoadBalancers { range: "10.9.8.0/30".parse().unwrap() };
        for (case, own, others, expected) in [
            ("first", service("s", LB, "", ""), vec![], "10.9.8.1"),
            ("next", service("s", LB, "", ""), vec![service("r", LB, "10.9.8.1", "")], "10.9.8.2"),
            ("stable", service("s", LB, "10.9.8.2", ""), vec![], "-"),
            ("asked", service("s", LB, "", "10.9.8.2"), vec![], "10.9.8.2"),
            (
                "taken",
                service("s", LB, "", "10.9.8.1"),
                vec![service("r", LB, "10.9.8.1", "")],
                "SyncLoadBalancerFailed",
            ),
            (
                "twice, the older keeps it",
                service("s", LB, "10.9.8.1", ""),
                vec![service("r", LB, "10.9.8.1", "")],
                "10.9.8.2",
            ),
            (
                "used up",
                service("s", LB, "", ""),
                vec![service("q", LB, "10.9.8.1", ""), service("r", LB, "10.9.8.2", "")],
                "SyncLoadBalancerFailed",
            ),
            ("released", service("s", "ClusterIP", "10.9.8.1", ""), vec![], "null"),
            ("another's", service("s", "ClusterIP", "192.0.2.1", ""), vec![], "-"),
        ] {
            let all: Vec<Value> = others.into_iter().chain([own.clone()]).collect();
            let view = View::default().with::<Service>(&all);
            let entry = Entry::decode(own.to_string().into()).unwrap();
            let plan = controller.plan(&entry, &view, Time::from_unix(0)).unwrap();
            let outcome = match plan.steps.first() {
                None => "-".to_string(),
                Some(Step::Event(event)) => event.reason.into(),
                Some(Step::Patch(patch)) => {
                    let ingress = &patch.body["status"]["loadBalancer"]["ingress"];
                    ingress[0]["ip"].as_str().map_or("null".into(), String::from)
                }
                Some(other) => format!("{other:?}"),
            };
            assert_eq!(outcome, expected, "{case}");
        }
    }
}
