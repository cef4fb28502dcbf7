//! EndpointSlices of Services whose Endpoints are kept by hand: a copy of what those say, for
//! readers that know only slices.
//! <https://kubernetes.io/docs/concepts/services-networking/service/#endpointslice-mirroring>

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use client::{Entry, Key};
use proto::kind::{ENDPOINT_SLICE, ENDPOINTS};
use proto::meta::{Labels, ObjectMeta};
use proto::time::Time;
use proto::view::endpoint_slice::{
    Endpoint, EndpointConditions, EndpointSlice, MANAGED_BY, SERVICE_NAME,
};
use proto::view::endpoints::{EndpointAddress, EndpointSubset, Endpoints};
use proto::view::service::Service;
use serde_json::{Value, json};

use crate::endpoint_slice::{Group, PortKey, keys, port};
use crate::plan::{Plan, controller_reference, reference};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Copies Endpoints into EndpointSlices.
pub struct EndpointSliceMirroring;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that were used as a lock.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that speak of the Endpoints alone.
const OWN: [&str; 2] = [
    "endpoints.kubernetes.io/last-change-trigger-time",
    "kubectl.kubernetes.io/last-applied-configuration",
];
/// Of one subset.
const MAX_ADDRESSES: usize = 1000;

impl Controller for EndpointSliceMirroring {
    type Object = Endpoints;
    const NAME: &'static str = "endpointslice-mirroring-controller";

    fn watches(watches: &mut Watches<Endpoints>) {
        watches.maps::<Service>(|change, _| vec![change.key.clone()]).maps::<EndpointSlice>(
            |change, _| {
                let slices = change.old.iter().chain(&change.new);
                let ours = slices.filter(|slice| is_ours(slice) && !slice.service().is_empty());
                let key = |slice: &Arc<Entry<EndpointSlice>>| {
                    Key::new(&slice.metadata.namespace, slice.service())
                };
                ours.map(key).collect()
            },
        );
    }

    fn plan(&self, endpoints: &Entry<Endpoints>, view: &View, _: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let meta = &endpoints.metadata;
        if meta.deletion_timestamp.is_some() {
            return Ok(plan);
        }
        let mut existing = view.owned_by::<EndpointSlice>(&meta.uid);
        existing.retain(|slice| is_ours(slice) && slice.metadata.deletion_timestamp.is_none());
        existing.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let service = view.get::<Service>(&meta.namespace, &meta.name);
        let by_hand = service.is_some_and(|service| service.spec.selector.is_empty());
        let (wanted, skipped) = match by_hand && !opted_out(meta) {
            true => wanted(&endpoints.subsets),
            false => Default::default(),
        };
        for (group, content) in wanted {
            let same = |slice: &Arc<Entry<EndpointSlice>>| {
                slice.address_type == group.0 && keys(&slice.ports) == group.1
            };
            match existing.iter().position(same) {
                Some(index) => correct(&existing.remove(index), &content, meta, &mut plan),
                None => plan.create(&ENDPOINT_SLICE, &meta.namespace, slice(meta, group, content)),
            }
        }
        for slice in existing {
            plan.delete(&ENDPOINT_SLICE, &slice.metadata);
        }
        if skipped > 0 && !plan.steps.is_empty() {
            let message = format!(
                "A max of {MAX_ADDRESSES} addresses can be mirrored to EndpointSlices per \
                 Endpoints subset. {skipped} addresses were skipped"
            );
            let regarding = reference(&ENDPOINTS, meta);
            plan.event(&regarding, "Warning", "TooManyAddressesToMirror", message);
        }
        Ok(plan)
    }

    fn plan_absent(&self, key: &Key, view: &View) -> Plan {
        let mut plan = Plan::default();
        for slice in view.namespace::<EndpointSlice>(&key.namespace) {
            if is_ours(&slice) && *slice.service() == *key.name {
                plan.delete(&ENDPOINT_SLICE, &slice.metadata);
            }
        }
        plan
    }
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.metadata.labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
}

fn opted_out(meta: &ObjectMeta) -> bool {
    meta.labels.get(SKIP).is_some_and(|skip| skip == "true")
        || meta.annotations.contains_key(LEADER)
}

/// One slice for each family and set of ports, and how many addresses found no place.
fn wanted(subsets: &[EndpointSubset]) -> (BTreeMap<Group, Vec<Endpoint>>, usize) {
    let (mut wanted, mut skipped) = (BTreeMap::<Group, Vec<Endpoint>>::new(), 0);
    for subset in subsets {
        let mut ports: Vec<PortKey> = subset
            .ports
            .iter()
            .map(|port| {
                let (name, protocol) = (port.name.clone(), port.protocol.clone());
                (name, protocol, port.port, port.app_protocol.clone())
            })
            .collect();
        ports.sort();
        let ready = subset.addresses.iter().map(|address| (address, true));
        let other = subset.not_ready_addresses.iter().map(|address| (address, false));
        let all = ready.chain(other).filter_map(|(address, ready)| endpoint(address, ready));
        for (count, (family, endpoint)) in all.enumerate() {
            if count >= MAX_ADDRESSES {
                skipped += 1;
                continue;
            }
            let slice = wanted.entry((family, ports.clone())).or_default();
            if !slice.iter().any(|known| known.addresses == endpoint.addresses) {
                slice.push(endpoint);
            }
        }
    }
    (wanted, skipped)
}

/// The address as a slice says it; `None` for what is no address.
fn endpoint(address: &EndpointAddress, ready: bool) -> Option<(&'static str, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: EndpointConditions { ready: Some(ready), ..EndpointConditions::default() },
        hostname: Some(address.hostname.clone()).filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    Some((if ip.is_ipv4() { "IPv4" } else { "IPv6" }, endpoint))
}

fn correct(slice: &EndpointSlice, content: &[Endpoint], meta: &ObjectMeta, plan: &mut Plan) {
    let (labels, annotations) = (labels(meta), annotations(meta));
    let known = &slice.metadata;
    if slice.endpoints == content && known.labels == labels && known.annotations == annotations {
        return;
    }
    let body = json!({
        "endpoints": content,
        "metadata": {
            "labels": replaced(&known.labels, &labels),
            "annotations": replaced(&known.annotations, &annotations),
        },
    });
    plan.patch(&ENDPOINT_SLICE, known, body);
}

/// The merge patch by which a map becomes another.
fn replaced(old: &Labels, new: &Labels) -> Value {
    let mut patch = json!(new);
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch[key] = Value::Null;
    }
    patch
}

fn slice(meta: &ObjectMeta, (family, ports): Group, content: Vec<Endpoint>) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": format!("{}-", meta.name),
            "namespace": meta.namespace,
            "labels": labels(meta),
            "annotations": annotations(meta),
            "ownerReferences": [controller_reference(&ENDPOINTS, meta)],
        },
        "addressType": family,
        "endpoints": content,
        "ports": ports.iter().map(port).collect::<Vec<_>>(),
    })
}

fn labels(meta: &ObjectMeta) -> Labels {
    let mut labels = meta.labels.clone();
    labels.insert(SERVICE_NAME.into(), meta.name.clone());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

fn annotations(meta: &ObjectMeta) -> Labels {
    let mut annotations = meta.annotations.clone();
    annotations.retain(|key, _| !OWN.contains(&key.as_str()));
    annotations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Step;

    fn endpoints(metadata: Value, subsets: Value) -> Entry<Endpoints> {
        let mut object = json!({"metadata": {"name": "web", "namespace": "a", "uid": "e"},
            "subsets": subsets});
        for (key, value) in metadata.as_object().unwrap() {
            object["metadata"][key] = value.clone();
        }
        Entry::decode(object.to_string().into()).unwrap()
    }

    fn subset(ips: &[&str], not_ready: &[&str], port: i32) -> Value {
        let addresses = |ips: &[&str]| ips.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
        json!({"addresses": addresses(ips), "notReadyAddresses": addresses(not_ready),
            "ports": [{"port": port, "protocol": "TCP"}]})
    }

    fn service(selector: Value) -> Value {
        json!({"metadata": {"name": "web", "namespace": "a", "uid": "s"},
            "spec": {"selector": selector}})
    }

    fn steps(endpoints: &Entry<Endpoints>, services: &[Value], slices: &[Value]) -> Vec<Step> {
        let view = View::default().with::<Service>(services).with::<EndpointSlice>(slices);
        EndpointSliceMirroring.plan(endpoints, &view, Time::from_unix(0)).unwrap().steps
    }

    /// The slices that the steps create, as the API server would store them.
    fn created(steps: &[Step]) -> Vec<Value> {
        let creates = steps.iter().map(|step| match step {
            Step::Create(create) => (*create.object).clone(),
            other => panic!("{other:?}"),
        });
        let named = creates.enumerate().map(|(index, mut object)| {
            object["metadata"]["name"] = format!("web-{index}").into();
            object["metadata"]["uid"] = index.to_string().into();
            object["metadata"]["resourceVersion"] = "1".into();
            object
        });
        named.collect()
    }

    /// Family, ports, addresses.
    fn shown(slice: &Value) -> String {
        let endpoints = slice["endpoints"].as_array().unwrap().iter();
        let ips: Vec<String> = endpoints
            .map(|it| format!("{}={}", it["addresses"][0], it["conditions"]["ready"]))
            .collect();
        format!("{} {} {}", slice["addressType"], slice["ports"][0]["port"], ips.join(" "))
            .replace('"', "")
    }

    #[test]
    fn what_is_kept_by_hand_is_copied() {
        let by_hand = [service(json!({}))];
        let marks = json!({"labels": {"team": "x"}, "annotations": {OWN[0]: "t", "note": "n"}});
        let subsets = json!([
            subset(&["10.1.2.3", "fd00::3"], &["10.1.2.4"], 80),
            subset(&["10.1.2.3"], &[], 81),
            subset(&["10.1.2.5"], &[], 80),
        ]);
        let custom = endpoints(marks, subsets);
        let slices = created(&steps(&custom, &by_hand, &[]));
        let shapes: Vec<String> = slices.iter().map(shown).collect();
        assert_eq!(
            shapes,
            [
                "IPv4 80 10.1.2.3=true 10.1.2.4=false 10.1.2.5=true",
                "IPv4 81 10.1.2.3=true",
                "IPv6 80 fd00::3=true",
            ]
        );
        let metadata = &slices[0]["metadata"];
        let labels = json!({"team": "x", SERVICE_NAME: "web", MANAGED_BY: MANAGER});
        assert_eq!(metadata["labels"], labels);
        assert_eq!(metadata["annotations"], json!({"note": "n"}));
        assert_eq!(metadata["ownerReferences"][0]["kind"], "Endpoints");
        assert!(steps(&custom, &by_hand, &slices).is_empty(), "at rest");

        let changed = endpoints(json!({}), json!([subset(&["10.2.3.4"], &[], 80)]));
        let done = steps(&changed, &by_hand, &slices);
        let [Step::Patch(patch), Step::Delete(_), Step::Delete(_)] = done.as_slice() else {
            panic!("{done:?}")
        };
        assert_eq!(patch.body["endpoints"][0]["addresses"], json!(["10.2.3.4"]));
        assert_eq!(patch.body["metadata"]["labels"]["team"], Value::Null);
        let view = View::default().with::<EndpointSlice>(&slices);
        let gone = EndpointSliceMirroring.plan_absent(&Key::new("a", "web"), &view);
        assert_eq!(gone.steps.len(), 3);
    }

    #[test]
    fn what_is_not_is_not() {
        let by_hand = [service(json!({}))];
        let subsets = || json!([subset(&["10.1.2.3"], &[], 80)]);
        let slices = created(&steps(&endpoints(json!({}), subsets()), &by_hand, &[]));
        let selective = [service(json!({"app": "web"}))];
        let plain = || endpoints(json!({}), subsets());
        let cases = [
            (plain(), selective.as_slice()),
            (plain(), &[]),
            (endpoints(json!({"labels": {SKIP: "true"}}), subsets()), &by_hand),
            (endpoints(json!({"annotations": {LEADER: "{}"}}), subsets()), &by_hand),
            (endpoints(json!({}), json!([])), &by_hand),
        ];
        for (endpoints, services) in cases {
            assert!(steps(&endpoints, services, &[]).is_empty());
            let done = steps(&endpoints, services, &slices);
            assert!(matches!(done.as_slice(), [Step::Delete(_)]), "{done:?}");
        }
        let many: Vec<String> =
            (0..1005).map(|i| format!("10.0.{}.{}", i / 250, i % 250)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let done = steps(&endpoints(json!({}), json!([subset(&many, &[], 80)])), &by_hand, &[]);
        let [Step::Create(create), Step::Event(event)] = done.as_slice() else { panic!() };
        assert_eq!(create.object["endpoints"].as_array().unwrap().len(), MAX_ADDRESSES);
        assert!(event.message.ends_with("5 addresses were skipped"), "{}", event.message);
    }
}
