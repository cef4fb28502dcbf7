//! ServiceCIDRs: says that they are ready, and keeps one that is deleted for as long as Services
//! have addresses out of it that no other one covers.
//! <https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/>

use std::net::IpAddr;
use std::time::Duration;

use client::{Entry, Key};
use proto::kind::SERVICE_CIDR;
use proto::time::Time;
use proto::view::Condition;
use proto::view::service_cidr::{ALLOCATOR, IpAddress, MANAGED_BY, ServiceCidr};
use serde_json::json;

use crate::plan::Plan;
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Looks after ServiceCIDRs.
pub struct ServiceCidrs;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// How long upstream's API servers may take to hear of a deletion, and still give addresses.
const GRACE: Duration = Duration::from_secs(10);
const READY: &str = "Kubernetes Service CIDR is ready";
const USED: &str = "There are still IPAddresses referencing the ServiceCIDR, please remove them or \
                    create a new ServiceCIDR";

impl Controller for ServiceCidrs {
    type Object = ServiceCidr;
    const NAME: &'static str = "service-cidr-controller";

    fn watches(watches: &mut Watches<ServiceCidr>) {
        // What covers others, and what is given or taken back, matters to those that are going.
        watches.maps::<ServiceCidr>(|_, view| going(view)).maps::<IpAddress>(
            |change, view| match (&change.old, &change.new) {
                (Some(_), Some(_)) => Vec::new(),
                _ => going(view),
            },
        );
    }

    fn plan(&self, cidr: &Entry<ServiceCidr>, view: &View, now: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let meta = &cidr.metadata;
        let held = meta.finalizers.iter().any(|finalizer| finalizer == FINALIZER);
        let Some(deleted) = meta.deletion_timestamp else {
            if !held {
                let finalizers = [meta.finalizers.as_slice(), &[FINALIZER.into()]].concat();
                plan.patch(&SERVICE_CIDR, meta, json!({"metadata": {"finalizers": finalizers}}));
                return Ok(plan);
            }
            say(&mut plan, cidr, ("True", "", READY), now);
            return Ok(plan);
        };
        if !held {
            return Ok(plan);
        }
        let free = deleted.plus(GRACE);
        if is_used(cidr, view) {
            say(&mut plan, cidr, ("False", "Terminating", USED), now);
        } else if now < free {
            plan.look_again(free);
        } else {
            let others = meta.finalizers.iter().filter(|finalizer| *finalizer != FINALIZER);
            let finalizers: Vec<&String> = others.collect();
            plan.patch(&SERVICE_CIDR, meta, json!({"metadata": {"finalizers": finalizers}}));
        }
        Ok(plan)
    }
}

/// The ServiceCIDRs that are being deleted.
fn going(view: &View) -> Vec<Key> {
    let all = view.all::<ServiceCidr>().into_iter();
    let going = all.filter(|cidr| cidr.metadata.deletion_timestamp.is_some());
    going.map(|cidr| Key::of(&cidr.metadata)).collect()
}

/// Sets the condition Ready, unless it says so already.
fn say(plan: &mut Plan, cidr: &ServiceCidr, (status, reason, message): Said, now: Time) {
    let known = Condition::find(&cidr.status.conditions, "Ready");
    let same = |known: &&Condition| known.status == status;
    if known.filter(same).is_some_and(|it| it.reason == reason && it.message == message) {
        return;
    }
    let since = known.filter(same).and_then(|known| known.last_transition_time).unwrap_or(now);
    // Written out: readers expect a reason even where it is empty.
    let ready = json!({"type": "Ready", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since});
    let mut conditions = json!(cidr.status.conditions);
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.retain(|condition| condition["type"] != "Ready");
        conditions.push(ready);
    }
    plan.status(&SERVICE_CIDR, &cidr.metadata, json!({ "conditions": conditions }));
}

/// Status, reason, message.
type Said<'a> = (&'a str, &'a str, &'a str);

/// Whether addresses would be left without a ServiceCIDR.
fn is_used(cidr: &ServiceCidr, view: &View) -> bool {
    let all = view.all::<ServiceCidr>();
    let others = all.iter().filter(|other| other.metadata.name != cidr.metadata.name);
    let others: Vec<(Network, &ServiceCidr)> =
        others.flat_map(|other| networks(other).map(|network| (network, &other.view))).collect();
    let mut lost: Vec<Network> = networks(cidr).collect();
    lost.retain(|network| {
        let stays = |other: &Network, of: &ServiceCidr| !yields((other, of), (network, cidr));
        !others.iter().any(|(other, of)| other.covers(network) && stays(other, of))
    });
    if lost.is_empty() {
        return false;
    }
    let given = view.all::<IpAddress>();
    let given = given.iter().filter(|ip| {
        ip.metadata.labels.get(MANAGED_BY).is_some_and(|manager| manager == ALLOCATOR)
    });
    given.filter_map(|ip| ip.metadata.name.parse::<IpAddr>().ok()).any(|address| {
        let address = Network::of(address, 0);
        let keeps = |other: &Network, of: &ServiceCidr| {
            other.gives(&address) && !lost.iter().any(|own| yields((other, of), (own, cidr)))
        };
        lost.iter().any(|network| network.gives(&address))
            && !others.iter().any(|(other, of)| keeps(other, of))
    })
}

/// Whether another network, being deleted as well, goes first. One that is being deleted covers what
/// it covers until it is gone; but if two of them relied on each other, both would go. So the
/// smaller one goes first, and of the same the first by name.
fn yields((other, of): (&Network, &ServiceCidr), (own, cidr): (&Network, &ServiceCidr)) -> bool {
    let smaller = own.covers(other) && !other.covers(own);
    let same = own.covers(other) && other.covers(own);
    of.metadata.deletion_timestamp.is_some()
        && (smaller || same && of.metadata.name < cidr.metadata.name)
}

fn networks(cidr: &ServiceCidr) -> impl Iterator<Item = Network> {
    cidr.spec.cidrs.iter().filter_map(|text| {
        let (address, prefix) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        Some(Network::of(address, u32::checked_sub(width, prefix.parse().ok()?)?))
    })
}

/// A network, or with no host bits one address.
#[derive(Clone, Copy)]
struct Network {
    ipv4: bool,
    number: u128,
    host_bits: u32,
}

impl Network {
    fn of(address: IpAddr, host_bits: u32) -> Network {
        let number = match address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        Network { ipv4: address.is_ipv4(), number, host_bits }
    }

    /// Whether Services may have the address: not the network's own, and for IPv4 not its last.
    fn gives(&self, address: &Network) -> bool {
        let hosts = 1u128.checked_shl(self.host_bits).map_or(u128::MAX, |size| size - 1);
        let host = address.number & hosts;
        self.covers(address) && host != 0 && !(self.ipv4 && host == hosts)
    }

    fn covers(&self, other: &Network) -> bool {
        let above = |number: u128| number.checked_shr(self.host_bits).unwrap_or(0);
        self.ipv4 == other.ipv4
            && self.host_bits >= other.host_bits
            && above(self.number) == above(other.number)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::plan::Step;

    const DELETED: &str = "2026-01-01T00:00:00Z";

    fn cidr(name: &str, cidrs: &[&str], going: bool) -> Value {
        let mut object = json!({"metadata": {"name": name, "finalizers": [FINALIZER]},
            "spec": {"cidrs": cidrs}});
        if going {
            object["metadata"]["deletionTimestamp"] = DELETED.into();
        }
        object
    }

    fn ip(name: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {MANAGED_BY: ALLOCATOR}}})
    }

    /// What is done about the first of them, `seconds` after it was deleted.
    fn done(cidrs: &[Value], ips: &[Value], seconds: u64) -> String {
        let view = View::default().with::<ServiceCidr>(cidrs).with::<IpAddress>(ips);
        let entry = Entry::decode(cidrs[0].to_string().into()).unwrap();
        let now: Time = DELETED.parse().unwrap();
        let now = now.plus(Duration::from_secs(seconds));
        let plan = ServiceCidrs.plan(&entry, &view, now).unwrap();
        let steps = plan.steps.iter().map(|step| match step {
            Step::Patch(patch) if patch.subresource == "status" => {
                let ready = &patch.body["status"]["conditions"][0];
                format!("{} {}", ready["status"].as_str().unwrap(), ready["reason"])
            }
            Step::Patch(patch) => patch.body["metadata"]["finalizers"].to_string(),
            other => panic!("{other:?}"),
        });
        let again = plan.again.map(|time| format!("again {time}"));
        steps.chain(again).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn they_are_made_ready_and_held() {
        let mut new = cidr("a", &["10.0.0.0/24"], false);
        new["metadata"]["finalizers"] = json!(["x.io/y"]);
        let both = "[\"x.io/y\",\"networking.k8s.io/service-cidr-finalizer\"]";
        assert_eq!(done(&[new.clone()], &[], 0), both);
        new["metadata"]["finalizers"] = json!([FINALIZER]);
        assert_eq!(done(&[new.clone()], &[], 0), "True \"\"");
        let ready = json!({"type": "Ready", "status": "True", "reason": "", "message": READY});
        new["status"] = json!({"conditions": [ready]});
        assert_eq!(done(&[new], &[], 0), "", "at rest");
    }

    #[test]
    fn they_stay_while_addresses_need_them() {
        let one = cidr("one", &["10.0.0.0/24"], true);
        let wide = |going: bool| cidr("wide", &["10.0.0.0/16"], going);
        let twin = cidr("twin", &["10.0.0.0/24"], true);
        let half = cidr("half", &["10.0.0.0/25"], false);
        let six = cidr("six", &["10.1.0.0/24", "fd00::/64"], true);
        let foreign = json!({"metadata": {"name": "10.0.0.7"}});
        let (blocked, gone) = ("False \"Terminating\"", "[]");
        let cases = [
            (vec![one.clone()], vec![], 10, gone),
            (vec![one.clone()], vec![], 4, "again 2026-01-01T00:00:10Z"),
            (vec![one.clone()], vec![ip("10.0.0.7")], 10, blocked),
            (vec![one.clone()], vec![ip("10.0.1.7"), ip("fd00::7")], 10, gone),
            (vec![one.clone()], vec![foreign], 10, gone),
            (vec![one.clone(), wide(false)], vec![ip("10.0.0.7")], 10, gone),
            (vec![one.clone(), wide(true)], vec![ip("10.0.0.7")], 10, gone),
            // The smaller one goes first.
            (vec![wide(true), one.clone()], vec![ip("10.0.0.7")], 10, blocked),
            (vec![wide(true), one.clone()], vec![ip("10.0.1.7")], 10, blocked),
            // Of twins the first by name goes first.
            (vec![one.clone(), twin.clone()], vec![ip("10.0.0.7")], 10, gone),
            (vec![twin, one.clone()], vec![ip("10.0.0.7")], 10, blocked),
            (vec![one.clone(), half.clone()], vec![ip("10.0.0.7")], 10, gone),
            (vec![one.clone(), half.clone()], vec![ip("10.0.0.200")], 10, blocked),
            // The last address of the half is none of its own.
            (vec![one, half], vec![ip("10.0.0.127")], 10, blocked),
            (vec![six], vec![ip("fd00::7")], 10, blocked),
        ];
        for (cidrs, ips, seconds, expected) in cases {
            assert_eq!(done(&cidrs, &ips, seconds), expected, "{cidrs:?} {ips:?}");
        }
    }
}
