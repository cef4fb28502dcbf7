//! Which devices of those that a node reaches answer claims: a search that goes back where it has
//! chosen badly. It takes alternatives and devices in their order, so that the first answer is the best.

use std::cell::Cell;
use std::collections::HashMap;

use proto::quantity::Quantity;
use proto::view::Resources;
use proto::view::device::{Attribute, Device};
use proto::view::resource_claim::{
    DeviceConstraint, DeviceRequest, DeviceSelector, Devices as Wanted, ResourceClaim,
};

use super::capacity;
use super::inventory::{Inventory, Item, Place, State, consumption};
use super::selector::Selectors;

/// Of one claim.
const MOST_DEVICES: usize = 32;
/// Devices looked at before the search is given up: a node more or less is not worth a scheduler that
/// stands still. Upstream gives up after ten seconds.
const PATIENCE: u32 = 200_000;

/// A device for a request.
#[derive(Clone, Debug)]
pub struct Pick {
    /// Among the devices of the inventory.
    pub item: Item,
    /// `request` or `request/alternative`.
    pub request: String,
    pub admin: bool,
    /// What it takes of a device that others may have parts of, too.
    pub portion: Option<Resources>,
    at: usize,
    claim: usize,
}

/// The picks of each claim, in its requests' order; none where the node cannot answer them all. An
/// error where nothing can be said because something is wrong.
pub fn search(
    devices: &super::Devices,
    inventory: &Inventory,
    place: &Place,
    claims: &[&ResourceClaim],
) -> Result<Option<Vec<Vec<Pick>>>, String> {
    let reached = |(_, item): &(usize, &Item)| inventory.reaches(item, place);
    let here = inventory.devices.iter().enumerate().filter(reached).map(|(at, _)| at).collect();
    let requests = claims.iter().enumerate();
    let requests: Vec<(usize, &DeviceRequest)> = requests
        .flat_map(|(at, claim)| claim.spec.devices.requests.iter().map(move |one| (at, one)))
        .collect();
    let mut search = Search {
        devices,
        inventory,
        place,
        claims,
        requests,
        here,
        matching: HashMap::new(),
        picks: Vec::new(),
        used: HashMap::new(),
        looked: Cell::new(0),
    };
    if !search.request(0)? {
        return Ok(None);
    }
    let mut found: Vec<Vec<Pick>> = vec![Vec::new(); claims.len()];
    for pick in search.picks {
        found[pick.claim].push(pick);
    }
    Ok(Some(found))
}

struct Search<'a> {
    devices: &'a super::Devices,
    inventory: &'a Inventory,
    place: &'a Place<'a>,
    claims: &'a [&'a ResourceClaim],
    /// Of all claims, each with the number of its claim.
    requests: Vec<(usize, &'a DeviceRequest)>,
    /// Devices that the node reaches.
    here: Vec<usize>,
    /// By request and alternative: those that it selects.
    matching: HashMap<(usize, usize), Vec<usize>>,
    picks: Vec<Pick>,
    /// By pool, counter set and counter: what the picks need.
    used: HashMap<(usize, (String, String)), Quantity>,
    looked: Cell<u32>,
}

/// An alternative of a request, as it is tried.
#[derive(Clone)]
struct Asked<'a> {
    request: usize,
    claim: usize,
    name: String,
    wanted: &'a Wanted,
    candidates: Vec<usize>,
}

impl<'a> Search<'a> {
    /// Whether this request and those after it can be answered; the picks do.
    fn request(&mut self, at: usize) -> Result<bool, String> {
        let Some((claim, request)) = self.requests.get(at).copied() else { return Ok(true) };
        let alternatives: Vec<(String, &'a Wanted)> = match &request.exactly {
            Some(exactly) => vec![(request.name.clone(), exactly)],
            None => {
                let all = request.first_available.iter();
                all.map(|one| (format!("{}/{}", request.name, one.name), one)).collect()
            }
        };
        for (number, (name, wanted)) in alternatives.into_iter().enumerate() {
            let candidates = self.candidates(at, number, claim, &name, wanted)?;
            let asked = Asked { request: at, claim, name, wanted, candidates };
            let found = match wanted.allocation_mode.as_str() {
                "All" => self.all(&asked)?,
                _ => {
                    let count = usize::try_from(wanted.count.max(1)).unwrap_or(usize::MAX);
                    self.some(&asked, count, 0)?
                }
            };
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn all(&mut self, asked: &Asked<'a>) -> Result<bool, String> {
        let before = self.picks.len();
        let mut fits = !asked.candidates.is_empty();
        for at in &asked.candidates {
            fits = fits && self.pick(asked, *at)?;
        }
        if fits && self.request(asked.request + 1)? {
            return Ok(true);
        }
        self.drop_to(before);
        Ok(false)
    }

    /// So many more devices, of those from `start` on.
    fn some(&mut self, asked: &Asked<'a>, count: usize, start: usize) -> Result<bool, String> {
        if count == 0 {
            return self.request(asked.request + 1);
        }
        let before = self.picks.len();
        for next in start..asked.candidates.len() {
            if asked.candidates.len() - next < count && !self.may_repeat(asked) {
                break;
            }
            let at = asked.candidates[next];
            if self.pick(asked, at)? {
                // What many may have the same claim may have twice.
                let device = self.inventory.device(&self.inventory.devices[at]);
                let again = device.allow_multiple_allocations == Some(true);
                if self.some(asked, count - 1, next + usize::from(!again))? {
                    return Ok(true);
                }
                self.drop_to(before);
            }
        }
        Ok(false)
    }

    fn may_repeat(&self, asked: &Asked) -> bool {
        let mut items = asked.candidates.iter().map(|at| &self.inventory.devices[*at]);
        items.any(|item| self.inventory.device(item).allow_multiple_allocations == Some(true))
    }

    /// Takes the device if that is possible.
    fn pick(&mut self, asked: &Asked, at: usize) -> Result<bool, String> {
        self.looked.set(self.looked.get() + 1);
        if self.looked.get() > PATIENCE {
            return Err("timed out trying to allocate devices".into());
        }
        if self.picks.iter().filter(|pick| pick.claim == asked.claim).count() >= MOST_DEVICES {
            return Ok(false);
        }
        let item = self.inventory.devices[at];
        let device = self.inventory.device(&item);
        let admin = asked.wanted.admin_access == Some(true);
        if !is_tolerated(asked.wanted, device) || !self.keeps_constraints(asked, &item) {
            return Ok(false);
        }
        let mut portion = None;
        if !admin {
            match device.allow_multiple_allocations == Some(true) {
                true => {
                    let Some(found) = self.portion(asked.wanted, at, &item) else {
                        return Ok(false);
                    };
                    portion = Some(found);
                }
                false if self.inventory.is_taken(&item) || self.has(at) => return Ok(false),
                false => {}
            }
            // Whoever has a part of a device has caused it to be there already.
            let there = self.inventory.given(&item).is_some() || self.has(at);
            if !there && !self.counters_suffice(&item, device) {
                return Ok(false);
            }
        }
        let (claim, request) = (asked.claim, asked.name.clone());
        let pick = Pick { item, request, admin, portion, at, claim };
        if !admin && self.inventory.given(&item).is_none() && !self.has(at) {
            self.consume(&item, device, 1);
        }
        self.picks.push(pick);
        Ok(true)
    }

    fn has(&self, at: usize) -> bool {
        self.picks.iter().any(|pick| pick.at == at && !pick.admin)
    }

    fn drop_to(&mut self, count: usize) {
        while self.picks.len() > count {
            let Some(pick) = self.picks.pop() else { break };
            if !pick.admin && self.inventory.given(&pick.item).is_none() && !self.has(pick.at) {
                let inventory = self.inventory;
                self.consume(&pick.item, inventory.device(&pick.item), -1);
            }
        }
    }

    fn consume(&mut self, item: &Item, device: &Device, sign: i64) {
        for (key, amount) in consumption(device) {
            let used = self.used.entry((item.pool, key)).or_default();
            match sign < 0 {
                true => *used -= amount,
                false => *used += amount,
            }
        }
    }

    fn counters_suffice(&self, item: &Item, device: &Device) -> bool {
        let left = &self.inventory.pools[item.pool].left;
        let mut needed: HashMap<(String, String), Quantity> = HashMap::new();
        for (key, amount) in consumption(device) {
            *needed.entry(key).or_default() += amount;
        }
        needed.into_iter().all(|(key, amount)| {
            let Some(left) = left.get(&key).copied() else { return false };
            let used = self.used.get(&(item.pool, key)).copied().unwrap_or_default();
            used + amount <= left
        })
    }

    fn portion(&self, wanted: &Wanted, at: usize, item: &Item) -> Option<Resources> {
        // Somebody had it before it could be shared.
        if self.inventory.is_taken(item) {
            return None;
        }
        let mut given = self.inventory.given(item).cloned().unwrap_or_default();
        for pick in self.picks.iter().filter(|pick| pick.at == at) {
            for (name, amount) in pick.portion.iter().flatten() {
                *given.entry(name.clone()).or_default() += *amount;
            }
        }
        capacity::portion(wanted, self.inventory.device(item), &given)
    }

    fn keeps_constraints(&self, asked: &Asked, item: &Item) -> bool {
        let constraints = &self.claims[asked.claim].spec.devices.constraints;
        constraints.iter().filter(|it| concerns(it, &asked.name)).all(|constraint| {
            let distinct = constraint.distinct_attribute.as_deref();
            let Some(name) = constraint.match_attribute.as_deref().or(distinct) else {
                return true;
            };
            let Some(own) = self.attribute(item, name) else { return false };
            let others = self.picks.iter().filter(|pick| pick.claim == asked.claim);
            others.filter(|pick| concerns(constraint, &pick.request)).all(|pick| {
                let same = self.attribute(&pick.item, name) == Some(own);
                same == constraint.match_attribute.is_some()
            })
        })
    }

    /// An attribute by its whole name. A driver need not write its own domain.
    fn attribute(&self, item: &Item, name: &str) -> Option<&'a Attribute> {
        let attributes = &self.inventory.device(item).attributes;
        attributes.get(name).or_else(|| {
            let (domain, id) = name.split_once('/')?;
            (domain == self.inventory.id(item).0).then(|| attributes.get(id)).flatten()
        })
    }

    /// The devices within reach that the class and the request select.
    fn candidates(
        &mut self,
        request: usize,
        alternative: usize,
        claim: usize,
        name: &str,
        wanted: &Wanted,
    ) -> Result<Vec<usize>, String> {
        if let Some(known) = self.matching.get(&(request, alternative)) {
            return Ok(known.clone());
        }
        let meta = &self.claims[claim].metadata;
        let of = format!("claim {}/{}, request {name}", meta.namespace, meta.name);
        let class = &wanted.device_class_name;
        let Some(class) = self.devices.classes.get(class) else {
            return Err(format!("{of}: could not retrieve device class {class}"));
        };
        let all = wanted.allocation_mode == "All";
        if let Some(pool) = self.inventory.doubtful(self.place).filter(|_| all) {
            let why = match pool.state {
                State::Updating => "being updated",
                _ => "invalid",
            };
            return Err(format!(
                "{of}: asks for all devices, but resource pool {}/{} is currently {why}",
                pool.driver, pool.name
            ));
        }
        let mut found = Vec::new();
        for at in &self.here {
            let item = &self.inventory.devices[*at];
            if self.inventory.pools[item.pool].state != State::Complete {
                continue;
            }
            let device = self.inventory.device(item);
            let driver = self.inventory.id(item).0;
            let selectors = &self.devices.selectors;
            let of_class = || format!("class {}", class.metadata.name);
            if selects(selectors, &class.spec.selectors, driver, device, of_class)?
                && selects(selectors, &wanted.selectors, driver, device, || of.clone())?
                && capacity::suffices(wanted, device)
            {
                found.push(*at);
            }
        }
        self.matching.insert((request, alternative), found.clone());
        Ok(found)
    }
}

/// Whether all of these select the device.
pub fn selects(
    known: &Selectors,
    all: &[DeviceSelector],
    driver: &str,
    device: &Device,
    of: impl Fn() -> String,
) -> Result<bool, String> {
    for (number, selector) in all.iter().enumerate() {
        let Some(cel) = &selector.cel else {
            return Err(format!("{}: selector #{number}: unsupported selector", of()));
        };
        let selected = known.selects(&cel.expression, driver, device);
        if !selected.map_err(|why| format!("{}: selector #{number}: {why}", of()))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether no taint keeps the device from the request.
fn is_tolerated(wanted: &Wanted, device: &Device) -> bool {
    let mut taints = device.taints.iter();
    !taints.any(|taint| {
        let forbids = matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
        forbids && !wanted.tolerations.iter().any(|one| one.tolerates(taint))
    })
}

/// Whether the constraint is about this request, `request` or `request/alternative`.
fn concerns(constraint: &DeviceConstraint, request: &str) -> bool {
    let whole = request.split('/').next().unwrap_or(request);
    let named = &constraint.requests;
    named.is_empty() || named.iter().any(|one| one == request || one == whole)
}
