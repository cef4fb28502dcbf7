//! ResourceQuota: what a namespace may hold. The usage is charged in the transaction that writes
//! the object, guarded by the quota's revision: however many ask at once, on however many servers,
//! no quota is exceeded, and nothing is charged for what is not written. What is given back, the
//! quota controller counts.

use std::{collections::HashMap, sync::Arc};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use proto::{
    kind::{self, Row},
    quantity::Quantity,
    quota::{self, Counted, Surroundings},
    status::Status,
    time::Time,
    view::{
        Resources,
        persistent_volume_claim::PersistentVolumeClaim,
        pod::Pod,
        resource_claim::{DeviceClass, ResourceClaim},
        resource_quota::ResourceQuota,
        service::Service,
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Denied, Operation, Plugin, Request, request::read};
use crate::{
    cache::Entry,
    kinds::{Reservation, lens::Lens},
    registry,
    store::{Guard, Op},
};

/// Who of this process may charge a namespace's quotas, so that none loses its guard to another.
#[derive(Default)]
pub(super) struct Quotas(Mutex<HashMap<String, Turn>>);

type Turn = Arc<tokio::sync::Mutex<()>>;

impl Plugin for Quotas {
    fn reserve<'a>(
        &'a self,
        request: &'a Request<'a>,
        object: &'a Value,
    ) -> BoxFuture<'a, Result<Reservation, Denied>> {
        Box::pin(self.charge(request, object))
    }
}

impl Quotas {
    async fn charge(&self, request: &Request<'_>, new: &Value) -> Result<Reservation, Denied> {
        let mut reservation = Reservation::default();
        let quotas = || request.cluster.list(&kind::RESOURCE_QUOTA, request.namespace);
        if !is_charged(request) || quotas().is_empty() {
            return Ok(reservation);
        }
        if !request.dry_run {
            reservation.turns.push(self.turn(request.namespace).lock_owned().await);
        }
        let charges = check(request, &quotas(), new)?;
        for Charge { entry, used } in charges {
            let mut quota = read(&entry);
            let status = quota.section("status").section("used");
            for (resource, amount) in used {
                status.set(&resource, json!(amount));
            }
            let (key, expected) = (entry.key.clone(), entry.revision);
            let value = registry::encode(&kind::RESOURCE_QUOTA, &quota);
            reservation.guards.push(Guard { key: key.clone(), expected });
            reservation.ops.push(Op::Put { key, value });
        }
        if reservation.ops.is_empty() {
            reservation.turns.clear();
        }
        Ok(reservation)
    }

    fn turn(&self, namespace: &str) -> Turn {
        let mut turns = self.0.lock();
        turns.retain(|name, turn| name == namespace || Arc::strong_count(turn) > 1);
        turns.entry(namespace.to_string()).or_default().clone()
    }
}

/// Whether such a request can cost anything.
fn is_charged(request: &Request) -> bool {
    let row = request.row;
    let created = request.operation == Operation::Create && request.subresource.is_empty();
    let updated = request.operation == Operation::Update
        && match (&*row.group, &*row.resource) {
            ("", "pods") => request.subresource == "resize",
            ("", "services") => request.subresource.is_empty(),
            ("", "persistentvolumeclaims") => matches!(request.subresource, "" | "status"),
            _ => false,
        };
    quota::is_countable(row) && (created || updated)
}

/// What a quota will say is used, of what this request adds to.
struct Charge {
    entry: Arc<Entry>,
    used: Resources,
}

fn check(request: &Request, quotas: &[Arc<Entry>], new: &Value) -> Result<Vec<Charge>, Denied> {
    let row = request.row;
    let new = Subject::read(request, new)?;
    let old = request.old.map(|old| Subject::read(request, old)).transpose()?;
    let mut matching = Vec::new();
    for entry in quotas {
        let quota: ResourceQuota = decode(&read(entry))?;
        if quota::matches(&quota, &quota.status.hard, row, &new.counted()) {
            constrain(request, &quota, &new)?;
            matching.push((entry, quota));
        }
    }
    let usage = new.usage(row, request.now);
    let negative: Vec<&str> = usage
        .iter()
        .filter(|(_, amount)| amount.is_negative())
        .map(|(name, _)| name.as_str())
        .collect();
    if !negative.is_empty() {
        let names = negative.join(",");
        return Err(request.forbidden(format!("quota usage is negative for resource(s): {names}")));
    }
    let mut charges = Vec::new();
    for (entry, quota) in matching {
        let before = old
            .as_ref()
            .filter(|old| quota::matches(&quota, &quota.status.hard, row, &old.counted()));
        let before = before.map(|old| old.usage(row, request.now)).unwrap_or_default();
        let requested = added(&usage, &before, &quota.status.hard);
        if requested.is_empty() {
            continue;
        }
        let used = used_after(&quota, &requested);
        if request.subresource != "status" {
            within(request, &quota, &requested, &used)?;
        }
        charges.push(Charge { entry: entry.clone(), used });
    }
    Ok(charges)
}

/// What must be there before anything is compared.
fn constrain(request: &Request, quota: &ResourceQuota, new: &Subject) -> Result<(), Denied> {
    let (name, status) = (&quota.metadata.name, &quota.status);
    let limited: Vec<&str> = status
        .hard
        .keys()
        .map(String::as_str)
        .filter(|resource| quota::concerns(request.row, resource))
        .collect();
    if let Subject::Pod(pod) = new {
        let missing = quota::unspecified(pod, &limited);
        if !missing.is_empty() {
            let missing = missing
                .iter()
                .map(|(resource, containers)| format!("{resource} for: {}", containers.join(",")));
            let missing = missing.collect::<Vec<_>>().join("; ");
            return Err(request.forbidden(format!("failed quota: {name}: must specify {missing}")));
        }
    }
    let known = limited.iter().all(|resource| status.used.contains_key(*resource));
    if !known {
        let resources = limited.join(",");
        return Err(
            request.forbidden(format!("status unknown for quota: {name}, resources: {resources}"))
        );
    }
    Ok(())
}

/// What is limited and more than before.
fn added(usage: &Resources, before: &Resources, hard: &Resources) -> Resources {
    let limited = usage.iter().filter(|(resource, _)| hard.contains_key(*resource));
    let more = limited.map(|(resource, amount)| {
        (resource.clone(), *amount - before.get(resource).copied().unwrap_or_default())
    });
    more.filter(|(_, amount)| *amount > Quantity::ZERO).collect()
}

fn used_after(quota: &ResourceQuota, requested: &Resources) -> Resources {
    let used = |resource: &str| quota.status.used.get(resource).copied().unwrap_or_default();
    requested.iter().map(|(name, amount)| (name.clone(), used(name) + *amount)).collect()
}

fn within(
    request: &Request,
    quota: &ResourceQuota,
    requested: &Resources,
    after: &Resources,
) -> Result<(), Denied> {
    let hard = &quota.status.hard;
    let over: Vec<&String> =
        after.iter().filter(|(name, used)| hard[*name] < **used).map(|(name, _)| name).collect();
    if over.is_empty() {
        return Ok(());
    }
    let of = |amounts: &Resources| {
        let parts = over.iter().map(|name| {
            let amount = amounts.get(*name).copied().unwrap_or_default();
            format!("{name}={amount}")
        });
        parts.collect::<Vec<_>>().join(",")
    };
    Err(request.forbidden(format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        quota.metadata.name,
        of(requested),
        of(&quota.status.used),
        of(hard)
    )))
}

/// The object as far as its cost depends on it.
enum Subject {
    Pod(Box<Pod>),
    Service(Box<Service>),
    Claim(Box<PersistentVolumeClaim>),
    Devices(Box<ResourceClaim>, Surroundings),
    Other,
}

impl Subject {
    fn read(request: &Request, object: &Value) -> Result<Subject, Denied> {
        let row = request.row;
        Ok(match (&*row.group, &*row.resource) {
            ("", "pods") => Subject::Pod(decode(object)?),
            ("", "services") => Subject::Service(decode(object)?),
            ("", "persistentvolumeclaims") => Subject::Claim(decode(object)?),
            ("resource.k8s.io", "resourceclaims") => {
                let claim: Box<ResourceClaim> = decode(object)?;
                let around = surroundings(request, &claim)?;
                Subject::Devices(claim, around)
            }
            _ => Subject::Other,
        })
    }

    fn counted(&self) -> Counted<'_> {
        match self {
            Subject::Pod(pod) => Counted::Pod(pod),
            Subject::Service(service) => Counted::Service(service),
            Subject::Claim(claim) => Counted::Claim(claim),
            Subject::Devices(claim, around) => Counted::Devices(claim, around),
            Subject::Other => Counted::Other,
        }
    }

    fn usage(&self, row: &Row, now: Time) -> Resources {
        quota::usage(row, &self.counted(), now)
    }
}

/// The device classes that the claim names, and the pod that it was made for.
fn surroundings(request: &Request, claim: &ResourceClaim) -> Result<Surroundings, Denied> {
    let mut around = Surroundings::default();
    for class in claim.classes() {
        let Some(entry) = request.cluster.get(&kind::DEVICE_CLASS, "", class) else { continue };
        let found: DeviceClass = decode(&read(&entry))?;
        if !found.spec.extended_resource_name.is_empty() {
            around.extended.insert(class.into(), found.spec.extended_resource_name);
        }
    }
    let Some(owner) = claim.extended_owner() else { return Ok(around) };
    if let Some(pod) = request.cluster.get(&kind::POD, request.namespace, &owner.name) {
        let claims = request.cluster.list(&kind::RESOURCE_CLAIM, request.namespace);
        let claims: Result<Vec<ResourceClaim>, Denied> =
            claims.iter().map(|entry| decode(&read(entry))).collect();
        around.paid = quota::paid(claim, &decode(&read(&pod))?, &claims?, request.now);
    }
    Ok(around)
}

fn decode<T: DeserializeOwned>(object: &Value) -> Result<T, Denied> {
    T::deserialize(object).map_err(|error| {
        Denied(Status::internal(format!("reading an object to charge it to its quota: {error}")))
    })
}
