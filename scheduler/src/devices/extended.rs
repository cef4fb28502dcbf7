//! Extended resources that a class of devices stands for. What a pod asks for by them, and its node
//! does not have by itself, is a claim that the scheduler makes: its requests, and which of them
//! answers which container, follow from the pod alone.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/#extended-resource>

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Entry, Key};
use proto::kind::{POD, RESOURCE_CLAIM};
use proto::meta::{ObjectMeta, OwnerReference};
use proto::quota::IMPLICIT;
use proto::view::pod::{Container, Pod, RequestMapping};
use proto::view::resource_claim::{
    DeviceClaim, DeviceRequest, Devices as Wanted, EXTENDED_CLAIM, ResourceClaim, ResourceClaimSpec,
};
use serde_json::{Value, json};

use super::inventory::{Inventory, Item, Place, State};
use super::{Claim, Devices, Grant, allocate};
use crate::snapshot::{NodeInfo, PodInfo};

/// What a claim is called while it is only thought of; no claim of the API can have the name.
const UNMADE: &str = "<extended-resources>";

/// By extended resource: the class of devices that stands for it.
pub type Backed = BTreeMap<String, String>;

/// By extended resource: the devices that answer for it, wherever they are.
#[derive(Debug, Default)]
pub struct Stock {
    inventory: Inventory,
    items: BTreeMap<String, Vec<Item>>,
}

impl Devices {
    /// Those of the pod's extended resources for which a class of devices stands.
    pub fn backed(&self, pod: &PodInfo) -> Backed {
        if self.classes.is_empty() {
            return Backed::new();
        }
        let asked = pod.requests.extended.iter().filter(|(_, amount)| **amount > 0);
        let backed = asked.filter_map(|(name, _)| Some((name, self.class_for(name)?)));
        backed.map(|(name, class)| (name.clone(), class.to_string())).collect()
    }

    /// What there is of those of these resources that `counts` names. Only who counts it in scores
    /// asks, for each pod anew: nothing else costs a look at every device.
    pub fn stock(&self, backed: &Backed, counts: impl Fn(&str) -> bool) -> Stock {
        let counted: Vec<_> = backed.iter().filter(|(resource, _)| counts(resource)).collect();
        if counted.is_empty() {
            return Stock::default();
        }
        let inventory = self.inventory();
        let of = |class: &str| -> Vec<Item> {
            let Some(class) = self.classes.get(class) else { return Vec::new() };
            let selected = |item: &&Item| {
                let (device, (driver, ..)) = (inventory.device(item), inventory.id(item));
                let selectors = &class.spec.selectors;
                // What cannot be told of a device does not make the node better.
                inventory.pools[item.pool].state == State::Complete
                    && allocate::selects(&self.selectors, selectors, driver, device, String::new)
                        .unwrap_or(false)
            };
            inventory.devices.iter().filter(selected).copied().collect()
        };
        let items = counted.into_iter().map(|(resource, class)| (resource.clone(), of(class)));
        Stock { items: items.collect(), inventory }
    }

    /// Of several classes with one resource the newest counts, then the first by name.
    fn class_for(&self, resource: &str) -> Option<&str> {
        if let Some(class) = resource.strip_prefix(IMPLICIT) {
            return self.classes.get_key_value(class).map(|(name, _)| name.as_str());
        }
        let classes = self.classes.iter();
        let own = classes.filter(|(_, class)| class.spec.extended_resource_name == resource);
        let first = own.min_by_key(|(name, class)| {
            (Reverse(class.metadata.creation_timestamp), name.as_str())
        });
        first.map(|(name, _)| name.as_str())
    }

    /// The claim that was made for the pod's extended resources when it was to go to some node, and
    /// did not get there: that one is of no use any more.
    pub fn stale(&self, pod: &PodInfo) -> Option<&Claim> {
        let mut claims = self.claims.values();
        claims.find(|claim| {
            *claim.metadata.namespace == *pod.key.namespace
                && claim.extended_owner().is_some_and(|owner| owner.uid == pod.uid())
        })
    }
}

impl Stock {
    /// How many devices the node reaches for the resource, and how many of them somebody has.
    pub fn on_node(&self, resource: &str, node: &NodeInfo) -> (i64, i64) {
        let place = Place { name: &node.name, labels: node.labels() };
        let items = self.items.get(resource).into_iter().flatten();
        let here = items.filter(|item| self.inventory.reaches(item, &place));
        here.fold((0, 0), |(all, taken), item| {
            (all + 1, taken + i64::from(self.inventory.is_taken(item)))
        })
    }
}

/// What is to be claimed for the pod on that node: what it asks for and a class of devices stands for,
/// as far as the node has none of it by itself. An allocation is still to be found.
pub fn made(pod: &PodInfo, backed: &Backed, node: &NodeInfo) -> Option<Grant> {
    let has = |resource: &str| node.allocatable.extended.get(resource).is_some_and(|it| *it > 0);
    let wanted = backed.iter().filter(|(resource, _)| !has(resource));
    let (requests, answers) = requests(&pod.object, wanted);
    if requests.is_empty() {
        return None;
    }
    let devices = DeviceClaim { requests, ..DeviceClaim::default() };
    let spec = ResourceClaimSpec { devices };
    let view =
        ResourceClaim { metadata: metadata(&pod.object.metadata), spec, ..Default::default() };
    let claim = Arc::new(Entry { view, bytes: Default::default() });
    Some(Grant { claim, allocation: None, answers })
}

fn metadata(pod: &ObjectMeta) -> ObjectMeta {
    let owner = OwnerReference {
        api_version: POD.api_version(),
        kind: POD.kind.to_string(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        controller: Some(true),
        ..OwnerReference::default()
    };
    ObjectMeta {
        name: UNMADE.into(),
        generate_name: format!("{}-extended-resources-", pod.name),
        namespace: pod.namespace.clone(),
        annotations: [(EXTENDED_CLAIM.to_string(), "true".to_string())].into(),
        owner_references: vec![owner],
        ..ObjectMeta::default()
    }
}

/// The claim as it is to be created; its name is the API server's to choose.
pub fn object(claim: &ResourceClaim) -> Value {
    let metadata = ObjectMeta { name: String::new(), ..claim.metadata.clone() };
    json!({
        "apiVersion": RESOURCE_CLAIM.api_version(),
        "kind": RESOURCE_CLAIM.kind,
        "metadata": metadata,
        "spec": claim.spec,
    })
}

/// Under what is kept that a claim's devices are given away: the claim's key. One that is made for a
/// pod has none until it is made, so that the pod stands for it, by a name that no claim can have.
pub fn slot(claim: &ResourceClaim) -> Key {
    match claim.extended_owner() {
        Some(pod) => Key::new(&claim.metadata.namespace, &format!("{}/{}", pod.name, pod.uid)),
        None => Key::of(&claim.metadata),
    }
}

/// A request for each container and resource. Init containers that end before others begin have the
/// others' devices first; what they need beyond that is one request for all of them.
fn requests<'a>(
    pod: &Pod,
    wanted: impl Iterator<Item = (&'a String, &'a String)>,
) -> (Vec<DeviceRequest>, Vec<RequestMapping>) {
    let (mut requests, mut answers) = (Vec::new(), Vec::new());
    for (resource, class) in wanted {
        let users = users(pod, resource);
        // What each container that stays needs: its name, and how much of it.
        let own = |user: &User| (user.request.clone(), user.count);
        let stay = users.iter().filter(|user| user.stays);
        let lasting: Vec<(usize, (String, i64))> =
            stay.clone().map(|user| (user.index, own(user))).collect();
        answers.extend(stay.map(|user| user.answer(resource, &user.request)));
        let short = users.iter().filter(|user| !user.stays);
        let rests = short.clone().map(|user| {
            let (names, reused) = user.reuse(&lasting);
            (user, names, user.count - reused)
        });
        let rests: Vec<(&User, Vec<String>, i64)> = rests.collect();
        let most = rests.iter().map(|(.., rest)| *rest).max().unwrap_or(0);
        let extra = rests.iter().find(|(.., rest)| *rest == most && most > 0);
        let extra = extra.map(|(user, ..)| (user.request.clone(), most));
        for (user, names, rest) in &rests {
            answers.extend(names.iter().map(|name| user.answer(resource, name)));
            if let Some((name, _)) = extra.as_ref().filter(|_| *rest > 0) {
                answers.push(user.answer(resource, name));
            }
        }
        let all = extra.into_iter().chain(lasting.into_iter().map(|(_, request)| request));
        requests.extend(all.map(|(name, count)| request(name, class, count)));
    }
    requests.sort_by(|a: &DeviceRequest, b| a.name.cmp(&b.name));
    (requests, answers)
}

/// A container that asks for a resource.
struct User<'a> {
    /// Among all containers, init containers first.
    index: usize,
    name: &'a str,
    count: i64,
    /// What a request of its own is called.
    request: String,
    /// Until the pod ends.
    stays: bool,
}

fn users<'a>(pod: &'a Pod, resource: &str) -> Vec<User<'a>> {
    let init = pod.spec.init_containers.iter().map(|it| (it, it.restart_policy == "Always"));
    let all = init.chain(pod.spec.containers.iter().map(|it| (it, true)));
    let user = |(index, (container, stays)): (usize, (&'a Container, bool))| {
        let requests = &container.resources.requests;
        let count = requests.get(resource)?.value();
        let at = requests.keys().position(|name| name == resource)?;
        let (name, request) = (&*container.name, format!("container-{index}-request-{at}"));
        (count > 0).then_some(User { index, name, count, request, stays })
    };
    all.enumerate().filter_map(user).collect()
}

impl User<'_> {
    fn answer(&self, resource: &str, request: &str) -> RequestMapping {
        RequestMapping {
            container_name: self.name.into(),
            resource_name: resource.into(),
            request_name: request.into(),
        }
    }

    /// Requests of containers that begin later, and how many of its devices they bring.
    fn reuse(&self, lasting: &[(usize, (String, i64))]) -> (Vec<String>, i64) {
        let (mut names, mut reused) = (Vec::new(), 0);
        for (_, (name, count)) in lasting.iter().filter(|(index, _)| *index > self.index) {
            if reused >= self.count {
                break;
            }
            names.push(name.clone());
            reused += count;
        }
        (names, reused)
    }
}

fn request(name: String, class: &str, count: i64) -> DeviceRequest {
    let exactly = Wanted {
        device_class_name: class.into(),
        allocation_mode: "ExactCount".into(),
        count,
        ..Wanted::default()
    };
    DeviceRequest { name, exactly: Some(exactly), ..DeviceRequest::default() }
}
