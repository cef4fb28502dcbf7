//! Endpoints: the older form of EndpointSlices, one object per Service, for those who still read
//! it.

use std::collections::{BTreeMap, BTreeSet};

use client::{Entry, Key};
use proto::kind::{ENDPOINTS, POD};
use proto::time::Time;
use proto::view::ObjectReference;
use proto::view::endpoints::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};
use proto::view::pod::Pod;
use proto::view::service::Service;
use serde_json::{Value, json};

use crate::backends;
use crate::plan::Plan;
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Looks after the Endpoints of Services.
pub struct EndpointsOfServices;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MAX_ADDRESSES: usize = 1000;

/// Ready and other addresses behind one port.
type Behind = (BTreeSet<AddressKey>, BTreeSet<AddressKey>);
/// Address, pod's name: in this order.
type AddressKey = (String, String);
type PortKey = (String, i32, String, Option<String>);

impl Controller for EndpointsOfServices {
    type Object = Service;
    const NAME: &'static str = "endpoints-controller";

    fn watches(watches: &mut Watches<Service>) {
        watches
            .maps::<Pod>(backends::services_of)
            .maps::<Endpoints>(|change, _| vec![change.key.clone()]);
    }

    fn plan(&self, service: &Entry<Service>, view: &View, _: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let meta = &service.metadata;
        if meta.deletion_timestamp.is_some() || !backends::is_selective(service) {
            return Ok(plan);
        }
        let (subsets, truncated) = subsets(service, view);
        let labels = labels(service);
        match view.get::<Endpoints>(&meta.namespace, &meta.name) {
            None => {
                let mut metadata =
                    json!({ "name": meta.name, "namespace": meta.namespace, "labels": labels });
                if truncated {
                    metadata["annotations"][OVER_CAPACITY] = "truncated".into();
                }
                let object = json!({
                    "apiVersion": "v1", "kind": "Endpoints",
                    "metadata": metadata, "subsets": subsets,
                });
                plan.create(&ENDPOINTS, &meta.namespace, object);
            }
            Some(known) => {
                let over = known.metadata.annotations.contains_key(OVER_CAPACITY);
                let labelled = json!(known.metadata.labels) == labels;
                if known.subsets != subsets || !labelled || over != truncated {
                    let mark = if truncated { json!("truncated") } else { Value::Null };
                    let mut body = json!({
                        "metadata": { "labels": labels, "annotations": { OVER_CAPACITY: mark } },
                        "subsets": subsets,
                    });
                    let known_labels = known.metadata.labels.keys();
                    for key in known_labels.filter(|key| labels.get(*key).is_none()) {
                        body["metadata"]["labels"][key] = Value::Null;
                    }
                    plan.patch(&ENDPOINTS, &known.metadata, body);
                }
            }
        }
        Ok(plan)
    }

    /// Only what this controller made goes with the Service.
    fn plan_absent(&self, key: &Key, view: &View) -> Plan {
        let mut plan = Plan::default();
        if let Some(left) = view.get::<Endpoints>(&key.namespace, &key.name)
            && left.metadata.labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
        {
            plan.delete(&ENDPOINTS, &left.metadata);
        }
        plan
    }
}

fn labels(service: &Service) -> Value {
    let mut labels = service.metadata.labels.clone();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels.remove(HEADLESS);
    if service.is_headless() {
        labels.insert(HEADLESS.into(), String::new());
    }
    json!(labels)
}

/// Ports with the same addresses behind them share a subset. Says too whether there were too
/// many addresses.
fn subsets(service: &Service, view: &View) -> (Vec<EndpointSubset>, bool) {
    let family = backends::families(service).first().copied().unwrap_or("IPv4");
    let mut addresses: BTreeMap<AddressKey, EndpointAddress> = BTreeMap::new();
    let mut behind: BTreeMap<Option<PortKey>, Behind> = BTreeMap::new();
    let mut truncated = false;
    for pod in backends::pods(service, view) {
        let Some(ip) = backends::address(&pod, family) else { continue };
        let publish = service.spec.publish_not_ready_addresses;
        if pod.is_terminating() && !publish {
            continue;
        }
        if addresses.len() >= MAX_ADDRESSES {
            truncated = true;
            break;
        }
        let key = (ip.to_string(), pod.metadata.name.clone());
        addresses.insert(key.clone(), address(service, &pod, ip));
        let ready = publish || pod.is_ready();
        for port in ports(service, &pod) {
            let (yes, no) = behind.entry(port).or_default();
            if ready { yes } else { no }.insert(key.clone());
        }
    }
    let mut by_addresses: BTreeMap<Behind, Vec<PortKey>> = BTreeMap::new();
    for (port, behind) in behind {
        by_addresses.entry(behind).or_default().extend(port);
    }
    let look_up = |keys: BTreeSet<AddressKey>| {
        keys.iter().filter_map(|key| addresses.get(key).cloned()).collect()
    };
    let subset = |((ready, not_ready), ports): (Behind, Vec<PortKey>)| EndpointSubset {
        addresses: look_up(ready),
        not_ready_addresses: look_up(not_ready),
        ports: ports
            .into_iter()
            .map(|(name, port, protocol, app_protocol)| EndpointPort {
                name,
                port,
                protocol,
                app_protocol,
            })
            .collect(),
    };
    (by_addresses.into_iter().map(subset).collect(), truncated)
}

/// The pod's ports that the Service leads to; one `None` for a headless Service without ports.
fn ports(service: &Service, pod: &Pod) -> Vec<Option<PortKey>> {
    if service.spec.ports.is_empty() {
        return if service.is_headless() { vec![None] } else { Vec::new() };
    }
    let port = |port: &proto::view::service::ServicePort| {
        let number = backends::target_port(pod, port)?;
        let protocol = backends::protocol(&port.protocol).to_string();
        Some(Some((port.name.clone(), number, protocol, port.app_protocol.clone())))
    };
    service.spec.ports.iter().filter_map(port).collect()
}

fn address(service: &Service, pod: &Pod, ip: &str) -> EndpointAddress {
    EndpointAddress {
        ip: ip.into(),
        hostname: backends::hostname(pod, service).unwrap_or_default().into(),
        node_name: Some(pod.spec.node_name.clone()).filter(|name| !name.is_empty()),
        target_ref: Some(ObjectReference {
            kind: POD.kind.to_string(),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Step;

    fn pod(name: &str, ip: &str, ready: bool, ports: Value) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": ports}]},
            "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready",
                "status": if ready { "True" } else { "False" }}]},
        })
    }

    #[test]
    fn ports_with_the_same_pods_share_a_subset() {
        let service = json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "s"},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ports": [
                {"name": "x", "port": 80, "targetPort": 8080, "protocol": "TCP"},
                {"name": "y", "port": 81, "targetPort": 8081, "protocol": "TCP"},
                {"name": "z", "port": 82, "targetPort": "extra", "protocol": "TCP"}]},
        });
        let service = Entry::<Service>::decode(service.to_string().into()).unwrap();
        let extra = json!([{"name": "extra", "containerPort": 9, "protocol": "TCP"}]);
        let pods = [pod("p1", "10.1.0.1", true, extra), pod("p2", "10.1.0.2", false, json!([]))];
        let view = View::default().with::<Pod>(&pods);
        let (subsets, truncated) = subsets(&service, &view);
        let shape = |subset: &EndpointSubset| {
            let ips = |list: &[EndpointAddress]| {
                list.iter().map(|address| address.ip.clone()).collect::<Vec<_>>().join("+")
            };
            let ports: Vec<i32> = subset.ports.iter().map(|port| port.port).collect();
            format!("{}/{} {ports:?}", ips(&subset.addresses), ips(&subset.not_ready_addresses))
        };
        let shapes: Vec<String> = subsets.iter().map(shape).collect();
        assert_eq!(shapes, ["10.1.0.1/ [9]", "10.1.0.1/10.1.0.2 [8080, 8081]"]);
        assert!(!truncated);

        let view = view.with::<Endpoints>(&[]);
        let plan = EndpointsOfServices.plan(&service, &view, Time::from_unix(0)).unwrap();
        let [Step::Create(create)] = plan.steps.as_slice() else { panic!("{plan:?}") };
        let view =
            View::default().with::<Pod>(&pods).with::<Endpoints>(&[(*create.object).clone()]);
        let plan = EndpointsOfServices.plan(&service, &view, Time::from_unix(0)).unwrap();
        assert_eq!(plan, Plan::default(), "at rest");
        let gone = EndpointsOfServices.plan_absent(&Key::new("a", "web"), &view);
        assert!(matches!(gone.steps.as_slice(), [Step::Delete(_)]));
    }
}
