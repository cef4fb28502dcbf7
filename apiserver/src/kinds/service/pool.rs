//! Who holds which Service address and node port. An address is held by an IPAddress object of its
//! own (networking.k8s.io/v1, as upstream keeps them), node ports by one RangeAllocation. Both are
//! written only in the transaction that writes the Service, guarded by what was read: that is why
//! any number of API servers may share a store and nothing is given out twice or lost.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use proto::status::{FieldError, Status};
use proto::time::Time;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::allocated::{addresses, numbers};
use super::families;
use super::range::{Addresses, Bitmap, Networks, Ports};
use super::ranges::{self, Ready};
use super::{needs_address, needs_health_port, needs_node_ports};
use crate::kinds::check;
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;
use crate::kinds::{Change, Context, Reservation};
use crate::store::{Guard, KeyValue, Op, Outcome, Range, Revision, Store, StoreError, Txn};

const ADDRESSES: &str = "/registry/ipaddresses/";
const PORTS: &str = "/registry/ranges/servicenodeports";
const SERVICES: &str = "/registry/services/specs/";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const MANAGER: &str = "ipallocator.k8s.io";
/// Random addresses that are tried before all that are taken are read.
const GUESSES: u64 = 8;

/// The addresses and node ports of a cluster's Services.
pub struct Pool {
    store: Arc<dyn Store>,
    /// The networks that the cluster began with.
    networks: Networks,
    ports: Ports,
    /// Who may change the one object that holds all node ports.
    turn: Arc<Mutex<()>>,
}

impl Pool {
    pub fn new(store: Arc<dyn Store>, networks: impl Into<Networks>, ports: Ports) -> Pool {
        Pool { store, networks: networks.into(), ports, turn: Arc::default() }
    }

    /// The address of the Service `default/kubernetes`.
    pub fn first_address(&self) -> IpAddr {
        self.networks.first.nth(0)
    }

    /// Gives a Service what it needs and takes back what it no longer does.
    pub(super) async fn reserve(
        &self,
        change: Change<'_>,
        ctx: &Context<'_>,
    ) -> Result<Reservation, Status> {
        let nothing = Value::Null;
        let mut reservation = Reservation::default();
        match change {
            Change::Create(new) => {
                self.reserve_addresses(new, &nothing, ctx, &mut reservation).await?;
                self.reserve_ports(new, &nothing, ctx, &mut reservation).await?;
            }
            Change::Update(new, old) => {
                self.reserve_addresses(new, old, ctx, &mut reservation).await?;
                self.reserve_ports(new, old, ctx, &mut reservation).await?;
            }
            Change::Delete(old) => {
                let mut gone =
                    json!({"metadata": old.at("metadata"), "spec": {"type": "ExternalName"}});
                self.reserve_addresses(&mut gone, old, ctx, &mut reservation).await?;
                self.reserve_ports(&mut gone, old, ctx, &mut reservation).await?;
            }
        }
        Ok(reservation)
    }

    async fn reserve_addresses(
        &self,
        new: &mut Value,
        old: &Value,
        ctx: &Context<'_>,
        reservation: &mut Reservation,
    ) -> Result<(), Status> {
        self.settle(new, old)?;
        let held: Vec<String> = addresses(old.at("spec")).into_iter().map(String::from).collect();
        let asked: Vec<String> = addresses(new.at("spec")).into_iter().map(String::from).collect();
        let mut wanted = Vec::new();
        if needs_address(new.at("spec")) {
            let families: Vec<String> =
                check::texts(new.at("spec"), "ipFamilies").map(String::from).collect();
            for (index, family) in families.iter().enumerate() {
                let address = match asked.get(index).cloned() {
                    Some(address) if held.contains(&address) => address,
                    given => self.take(given, family, new, ctx, reservation).await?,
                };
                wanted.push(address);
            }
            let spec = new.section("spec");
            spec.set("clusterIP", wanted[0].as_str());
            spec.set("clusterIPs", json!(wanted));
        } else if !new.at("spec").vacant("clusterIPs") {
            let spec = new.section("spec");
            let first = spec.items("clusterIPs")[0].clone();
            spec.set("clusterIP", first);
        } else if !new.at("spec").vacant("clusterIP") {
            let spec = new.section("spec");
            let address = spec.at("clusterIP").clone();
            spec.set("clusterIPs", json!([address]));
        }
        for address in held.iter().filter(|address| !wanted.contains(address)) {
            self.release(address, old, reservation).await?;
        }
        Ok(())
    }

    /// Makes up the Service's families by what the cluster has.
    fn settle(&self, service: &mut Value, old: &Value) -> Result<(), Status> {
        let configured = self.networks.families();
        let errors = families::settle(service.section("spec"), old.at("spec"), &configured);
        if errors.is_empty() {
            return Ok(());
        }
        Err(Status::invalid("", "Service", service.at("metadata").text("name"), &errors))
    }

    /// Takes the address that is asked for, or any of the family.
    async fn take(
        &self,
        given: Option<String>,
        family: &str,
        service: &Value,
        ctx: &Context<'_>,
        reservation: &mut Reservation,
    ) -> Result<String, Status> {
        let ranges = match self.networks.of(family) {
            Some(network) => ranges::ready(&*self.store, network).await.map_err(unavailable)?,
            None => Vec::new(),
        };
        let (address, range) = match given {
            Some(address) => match self.request(&address, &ranges).await? {
                Ok(range) => (address, range),
                Err(why) => return Err(not_allocated(service, &address, why)),
            },
            None => {
                let (address, range) = self.free_address(ctx.random, &ranges).await?;
                (address.to_string(), range)
            }
        };
        reservation.take(&address, range, service, ctx);
        Ok(address)
    }

    /// The network of an address that was asked for, or why it cannot be had.
    async fn request<'a>(
        &self,
        address: &str,
        ranges: &'a [Ready],
    ) -> Result<Result<&'a Ready, &'static str>, Status> {
        let Ok(parsed) = address.parse::<IpAddr>() else {
            return Ok(Err("not an IP address"));
        };
        let Some(range) = ranges.iter().find(|range| range.addresses.contains(parsed)) else {
            return Ok(Err("the provided network does not match the current range"));
        };
        let taken = self.read(&address_key(address)).await?.is_some();
        Ok(if taken { Err("provided IP is already allocated") } else { Ok(range) })
    }

    /// An address of the first network that has one.
    async fn free_address<'a>(
        &self,
        random: u64,
        ranges: &'a [Ready],
    ) -> Result<(IpAddr, &'a Ready), Status> {
        for range in ranges {
            if let Some(address) = self.free_in(random, &range.addresses).await? {
                return Ok((address, range));
            }
        }
        Err(Status::internal("failed to allocate a serviceIP: range is full"))
    }

    /// A random address that nobody holds, above the static band while there is one.
    async fn free_in(&self, random: u64, range: &Addresses) -> Result<Option<IpAddr>, Status> {
        let (count, band) = (range.count(), range.static_band());
        let dynamic = count - band;
        for guess in 0..GUESSES.min(dynamic) {
            let address = range.nth(band + spread(random, guess) % dynamic);
            if self.read(&address_key(&address.to_string())).await?.is_none() {
                return Ok(Some(address));
            }
        }
        let taken = self.list(ADDRESSES, None).await.map_err(unavailable)?.0;
        let taken: Vec<&str> =
            taken.iter().filter_map(|item| item.key.strip_prefix(ADDRESSES)).collect();
        let taken: std::collections::HashSet<&str> = taken.into_iter().collect();
        let above = (0..dynamic).map(|index| band + (random.wrapping_add(index)) % dynamic);
        Ok(above
            .chain(0..band)
            .map(|index| range.nth(index))
            .find(|address| !taken.contains(address.to_string().as_str())))
    }

    /// Takes an address back, if this Service is who holds it.
    async fn release(
        &self,
        address: &str,
        old: &Value,
        reservation: &mut Reservation,
    ) -> Result<(), Status> {
        let key = address_key(address);
        let Some(held) = self.read(&key).await? else { return Ok(()) };
        let holder: Value = serde_json::from_slice(&held.value).unwrap_or_default();
        let parent = holder.at("spec").at("parentRef");
        let metadata = old.at("metadata");
        if parent.text("name") == metadata.text("name")
            && parent.text("namespace") == metadata.text("namespace")
        {
            reservation.guards.push(Guard { key: key.clone(), expected: held.mod_revision });
            reservation.ops.push(Op::Delete { key });
        }
        Ok(())
    }

    async fn reserve_ports(
        &self,
        new: &mut Value,
        old: &Value,
        ctx: &Context<'_>,
        reservation: &mut Reservation,
    ) -> Result<(), Status> {
        let held = numbers(old.at("spec"));
        let spec = new.at("spec");
        let lacks = |port: &Value| port.int("nodePort").unwrap_or(0) == 0;
        let more = needs_node_ports(spec) && spec.items("ports").iter().any(lacks)
            || needs_health_port(spec) && spec.int("healthCheckNodePort").unwrap_or(0) == 0;
        if !more && numbers(spec) == held {
            return Ok(());
        }
        reservation.turns.push(self.turn.clone().lock_owned().await);
        let stored = self.read(PORTS).await?;
        let expected = stored.as_ref().map_or(0, |stored| stored.mod_revision);
        let mut taken = self.taken(stored.as_ref())?;
        let name = new.at("metadata").text("name").to_string();
        let invalid = |error| Status::invalid("", "Service", &name, &[error]);
        let mut spec = new.at("spec").clone();
        let random = ctx.random.rotate_left(32);
        assign(&mut spec, &held, &self.ports, &mut taken, random).map_err(
            |problem| match problem {
                Problem::Field(error) => invalid(error),
                Problem::Full => Status::internal("failed to allocate a nodePort: range is full"),
            },
        )?;
        let kept = numbers(&spec);
        for port in held.iter().filter(|port| !kept.contains(port)) {
            if self.ports.contains(*port) {
                taken.set(*port as u64 - u64::from(*self.ports.0.start()), false);
            }
        }
        new.set("spec", spec);
        reservation.guards.push(Guard { key: PORTS.into(), expected });
        reservation.ops.push(Op::Put { key: PORTS.into(), value: self.range_object(&taken) });
        Ok(())
    }

    fn taken(&self, stored: Option<&KeyValue>) -> Result<Bitmap, Status> {
        let Some(stored) = stored else { return Ok(Bitmap::default()) };
        let object: Value = serde_json::from_slice(&stored.value).unwrap_or_default();
        if object.text("range") != self.ports.to_string() {
            return Err(Status::internal(
                "the provided port range does not match the current port range",
            ));
        }
        Bitmap::decode(object.text("data"))
            .ok_or_else(|| Status::internal("the allocation of node ports cannot be read"))
    }

    fn range_object(&self, taken: &Bitmap) -> Bytes {
        let object = json!({
            "kind": "RangeAllocation",
            "apiVersion": "v1",
            "metadata": {},
            "range": self.ports.to_string(),
            "data": taken.encode(),
        });
        Bytes::from(object.to_string())
    }

    /// Makes the allocations what the Services say. Called at start, before writes are served;
    /// other API servers may be at work all the while.
    pub async fn repair(&self, now: Time, random: u64) -> Result<(), StoreError> {
        let (services, revision) = self.list(SERVICES, None).await?;
        let mut holders = BTreeMap::new();
        for service in &services {
            let service: Value = serde_json::from_slice(&service.value).unwrap_or_default();
            for address in addresses(service.at("spec")) {
                let known = holders.entry(address.to_string()).or_insert_with(|| service.clone());
                if known.at("metadata") != service.at("metadata") {
                    let metadata = service.at("metadata");
                    tracing::warn!(address, service = %metadata.text("name"), namespace = %metadata
                        .text("namespace"), "two Services hold the same address");
                }
            }
        }
        let (records, _) = self.list(ADDRESSES, Some(revision)).await?;
        for record in &records {
            let address = record.key.strip_prefix(ADDRESSES).unwrap_or_default();
            if holders.remove(address).is_none() && is_ours(&record.value) {
                let txn = Txn::delete(record.key.clone(), record.mod_revision);
                self.store.transact(txn).await?;
            }
        }
        for (address, service) in holders {
            let value = address_object(&address, &service, now, random);
            self.store.transact(Txn::create(address_key(&address), value)).await?;
        }
        self.repair_ports().await
    }

    async fn repair_ports(&self) -> Result<(), StoreError> {
        loop {
            let (services, revision) = self.list(SERVICES, None).await?;
            let mut taken = Bitmap::default();
            for service in &services {
                let service: Value = serde_json::from_slice(&service.value).unwrap_or_default();
                for port in numbers(service.at("spec")) {
                    if self.ports.contains(port) {
                        taken.set(port as u64 - u64::from(*self.ports.0.start()), true);
                    }
                }
            }
            let stored = self.store.get(PORTS, Some(revision)).await?.value;
            let value = self.range_object(&taken);
            if stored.as_ref().is_some_and(|stored| stored.value == value) {
                return Ok(());
            }
            let expected = stored.map_or(0, |stored| stored.mod_revision);
            match self.store.transact(Txn::update(PORTS, expected, value)).await? {
                Outcome::Committed(_) => return Ok(()),
                Outcome::Conflict { .. } => {}
            }
        }
    }

    async fn read(&self, key: &str) -> Result<Option<KeyValue>, Status> {
        self.store.get(key, None).await.map(|got| got.value).map_err(unavailable)
    }

    async fn list(
        &self,
        prefix: &str,
        at: Option<Revision>,
    ) -> Result<(Vec<KeyValue>, Revision), StoreError> {
        let page = self.store.list(Range { prefix, at, ..Range::default() }).await?;
        Ok((page.items, page.revision))
    }
}

/// The IPAddress that says that the Service holds the address, if it does.
pub fn record(address: &str, service: &Value, now: Time, random: u64) -> Option<Bytes> {
    let held = addresses(service.at("spec")).contains(&address);
    held.then(|| address_object(address, service, now, random))
}

impl Reservation {
    fn take(&mut self, address: &str, range: &Ready, service: &Value, ctx: &Context) {
        let known = |guard: &&Guard| self.guards.iter().any(|known| known.key == guard.key);
        let unknown = range.guard.iter().find(|guard| !known(guard)).cloned();
        self.guards.extend(unknown);
        let key = address_key(address);
        let value = address_object(address, service, ctx.now, ctx.random);
        self.guards.push(Guard { key: key.clone(), expected: 0 });
        self.ops.push(Op::Put { key, value });
    }
}

/// Why ports cannot be had.
enum Problem {
    Field(FieldError),
    Full,
}

/// Gives every port of the Service that needs a node port one: what it asks for, or a random free
/// one; the same for the same port of another protocol.
fn assign(
    spec: &mut Value,
    held: &[i64],
    range: &Ports,
    taken: &mut Bitmap,
    random: u64,
) -> Result<(), Problem> {
    let path = Path::root("spec");
    let path_ports = path.field("ports");
    let mut mine: Vec<i64> = held.to_vec();
    let (nodes, health) = (needs_node_ports(spec), needs_health_port(spec));
    for (index, port) in spec.items("ports").iter().enumerate() {
        let number = port.int("nodePort").unwrap_or(0);
        request(&path_ports.index(index).field("nodePort"), number, range, &mut mine, taken)?;
    }
    let number = spec.int("healthCheckNodePort").unwrap_or(0);
    request(&path.field("healthCheckNodePort"), number, range, &mut mine, taken)?;
    let mut by_port: BTreeMap<i64, i64> = BTreeMap::new();
    if nodes {
        for (index, port) in spec.items_mut("ports").iter_mut().enumerate() {
            let service_port = port.int("port").unwrap_or(0);
            let mut number = port.int("nodePort").unwrap_or(0);
            if number == 0 {
                number = match by_port.get(&service_port) {
                    Some(known) => *known,
                    None => free_port(range, taken, spread(random, index as u64))?,
                };
                port.set("nodePort", number);
            }
            by_port.insert(service_port, number);
        }
    }
    if health && spec.int("healthCheckNodePort").unwrap_or(0) == 0 {
        spec.set("healthCheckNodePort", free_port(range, taken, spread(random, 99))?);
    }
    Ok(())
}

/// Takes a port that was asked for, unless this Service holds it already.
fn request(
    path: &Path,
    number: i64,
    range: &Ports,
    mine: &mut Vec<i64>,
    taken: &mut Bitmap,
) -> Result<(), Problem> {
    if number == 0 || mine.contains(&number) {
        return Ok(());
    }
    let invalid = |detail: &str| Err(Problem::Field(FieldError::invalid(path, number, detail)));
    if !range.contains(number) {
        return invalid(&format!(
            "provided port is not in the valid range. The range of valid ports is {range}"
        ));
    }
    let bit = number as u64 - u64::from(*range.0.start());
    if taken.contains(bit) {
        return invalid("provided port is already allocated");
    }
    taken.set(bit, true);
    mine.push(number);
    Ok(())
}

/// Above the static band while there is room (KEP 3668).
fn free_port(range: &Ports, taken: &mut Bitmap, random: u64) -> Result<i64, Problem> {
    let count = range.count();
    let band = if count < 16 { 0 } else { (count / 32).clamp(16, 128).min(count) };
    let dynamic = (count - band).max(1);
    let above = (0..count - band).map(|index| band + random.wrapping_add(index) % dynamic);
    let bit = above.chain(0..band).find(|bit| !taken.contains(*bit)).ok_or(Problem::Full)?;
    taken.set(bit, true);
    Ok((u64::from(*range.0.start()) + bit) as i64)
}

fn not_allocated(service: &Value, address: &str, why: &str) -> Status {
    let detail = format!("failed to allocate IP {address}: {why}");
    let path = Path::root("spec");
    let error = FieldError::invalid(path.field("clusterIPs"), json!([address]), detail);
    Status::invalid("", "Service", service.at("metadata").text("name"), &[error])
}

/// Other IPAddresses are whose they say they are, and nothing to tidy up.
fn is_ours(record: &[u8]) -> bool {
    let record: Value = serde_json::from_slice(record).unwrap_or_default();
    record.at("metadata").at("labels").text(MANAGED_BY) == MANAGER
}

fn address_key(address: &str) -> Arc<str> {
    format!("{ADDRESSES}{address}").into()
}

fn address_object(address: &str, service: &Value, now: Time, random: u64) -> Bytes {
    let family = if address.contains(':') { "IPv6" } else { "IPv4" };
    let metadata = service.at("metadata");
    let object = json!({
        "kind": "IPAddress",
        "apiVersion": "networking.k8s.io/v1",
        "metadata": {
            "name": address,
            "uid": uid(address, random),
            "creationTimestamp": now.to_string(),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": family,
                MANAGED_BY: MANAGER,
            },
        },
        "spec": {
            "parentRef": {
                "group": "",
                "resource": "services",
                "namespace": metadata.text("namespace"),
                "name": metadata.text("name"),
            },
        },
    });
    Bytes::from(object.to_string())
}

/// A version 4 UUID out of the request's random number.
fn uid(address: &str, random: u64) -> String {
    let salt = address.bytes().fold(0u64, |sum, byte| spread(sum, u64::from(byte)));
    let (high, low) = (spread(random, salt), spread(salt, random));
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | (low >> 48) & 0x3fff,
        low & 0xffff_ffff_ffff
    )
}

/// The nth number of the sequence that begins at `random` (SplitMix64).
fn spread(random: u64, index: u64) -> u64 {
    let mut z = random.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn unavailable(error: StoreError) -> Status {
    tracing::error!(error = &error as &dyn std::error::Error, "reading Service allocations");
    Status::unavailable("the store is not available")
}
