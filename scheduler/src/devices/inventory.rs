//! What devices there are, and what is left of them. Of a pool only the newest generation counts, and
//! only once all of it is there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use client::Entry;
use proto::meta::Labels;
use proto::quantity::Quantity;
use proto::view::Resources;
use proto::view::device::{Device, ResourceSlice, ResourceSliceSpec};
use proto::view::pod::NodeSelector;
use proto::view::resource_claim::Allocation;

/// Driver, pool, device.
pub type Id<'a> = (&'a str, &'a str, &'a str);
type OwnedId = (String, String, String);

/// A node, as far as devices care.
pub struct Place<'a> {
    pub name: &'a str,
    pub labels: &'a Labels,
}

/// Every device, in the order in which they are tried.
#[derive(Debug, Default)]
pub struct Inventory {
    pub pools: Vec<Pool>,
    pub devices: Vec<Item>,
    /// Devices that somebody has for himself.
    taken: HashSet<OwnedId>,
    /// What is given away of those that many may have.
    shared: HashMap<OwnedId, Resources>,
}

#[derive(Debug)]
pub struct Pool {
    pub driver: String,
    pub name: String,
    slices: Vec<Arc<Entry<ResourceSlice>>>,
    pub state: State,
    /// By counter set and counter.
    pub left: HashMap<(String, String), Quantity>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Complete,
    /// Parts of it are still to come.
    Updating,
    /// It names a device twice.
    Invalid,
}

/// Where a device is in its pool.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    pub pool: usize,
    slice: usize,
    device: usize,
}

impl Inventory {
    pub fn new<'a>(
        slices: &BTreeMap<String, Arc<Entry<ResourceSlice>>>,
        held: impl Iterator<Item = &'a Allocation>,
    ) -> Inventory {
        let mut inventory = Inventory { pools: pools(slices), ..Inventory::default() };
        for (at, pool) in inventory.pools.iter().enumerate() {
            for (slice, entry) in pool.slices.iter().enumerate() {
                let devices = 0..entry.spec.devices.len();
                inventory.devices.extend(devices.map(|device| Item { pool: at, slice, device }));
            }
        }
        // Those whose pod need not wait come first.
        let (ready, slow): (Vec<Item>, Vec<Item>) = inventory
            .devices
            .iter()
            .partition(|item| inventory.device(item).binding_conditions.is_empty());
        inventory.devices = ready;
        inventory.devices.extend(slow);
        let results = held.flat_map(|allocation| &allocation.devices.results);
        for result in results.filter(|result| result.admin_access != Some(true)) {
            let id = (result.driver.clone(), result.pool.clone(), result.device.clone());
            match &result.share_id {
                None => drop(inventory.taken.insert(id)),
                Some(_) => {
                    let given = inventory.shared.entry(id).or_default();
                    for (name, amount) in &result.consumed_capacity {
                        *given.entry(name.clone()).or_default() += *amount;
                    }
                }
            }
        }
        inventory.count();
        inventory
    }

    /// Takes what is in use off the counters.
    fn count(&mut self) {
        for at in 0..self.devices.len() {
            let item = self.devices[at];
            let id = self.id(&item);
            let id = (id.0.to_string(), id.1.to_string(), id.2.to_string());
            if !self.taken.contains(&id) && !self.shared.contains_key(&id) {
                continue;
            }
            let used: Vec<_> = consumption(self.device(&item)).collect();
            let left = &mut self.pools[item.pool].left;
            for (key, amount) in used {
                *left.entry(key).or_default() -= amount;
            }
        }
    }

    pub fn spec(&self, item: &Item) -> &ResourceSliceSpec {
        &self.pools[item.pool].slices[item.slice].spec
    }

    pub fn device(&self, item: &Item) -> &Device {
        &self.spec(item).devices[item.device]
    }

    pub fn id(&self, item: &Item) -> Id<'_> {
        let pool = &self.pools[item.pool];
        (&pool.driver, &pool.name, &self.device(item).name)
    }

    pub fn is_taken(&self, item: &Item) -> bool {
        let (driver, pool, device) = self.id(item);
        self.taken.contains(&(driver.into(), pool.into(), device.into()))
    }

    /// What others have of the device.
    pub fn given(&self, item: &Item) -> Option<&Resources> {
        let (driver, pool, device) = self.id(item);
        self.shared.get(&(driver.into(), pool.into(), device.into()))
    }

    /// Whether the node reaches the device.
    pub fn reaches(&self, item: &Item, place: &Place) -> bool {
        let (spec, device) = (self.spec(item), self.device(item));
        match spec.per_device_node_selection == Some(true) {
            true => is_there(&device.node_name, &device.node_selector, device.all_nodes, place),
            false => is_there(&spec.node_name, &spec.node_selector, spec.all_nodes, place),
        }
    }

    /// A pool of which the node reaches something, whose state is not known for sure.
    pub fn doubtful(&self, place: &Place) -> Option<&Pool> {
        let mut items = self.devices.iter();
        let item = items.find(|item| {
            self.pools[item.pool].state != State::Complete && self.reaches(item, place)
        });
        item.map(|item| &self.pools[item.pool])
    }
}

fn is_there(
    name: &Option<String>,
    selector: &Option<NodeSelector>,
    all: Option<bool>,
    place: &Place,
) -> bool {
    name.as_deref().is_some_and(|name| !name.is_empty() && name == place.name)
        || all == Some(true)
        || selector.as_ref().is_some_and(|selector| selector.admits(place.name, place.labels))
}

/// What a device needs of its pool's counters.
pub fn consumption(device: &Device) -> impl Iterator<Item = ((String, String), Quantity)> {
    device.consumes_counters.iter().flat_map(|used| {
        let one = |(name, counter): (&String, &proto::view::device::Counter)| {
            ((used.counter_set.clone(), name.clone()), counter.value)
        };
        used.counters.iter().map(one).collect::<Vec<_>>()
    })
}

fn pools(slices: &BTreeMap<String, Arc<Entry<ResourceSlice>>>) -> Vec<Pool> {
    let mut pools: BTreeMap<(&str, &str), Vec<&Arc<Entry<ResourceSlice>>>> = BTreeMap::new();
    for slice in slices.values() {
        let key = (slice.spec.driver.as_str(), slice.spec.pool.name.as_str());
        let known = pools.entry(key).or_default();
        let generation = |slice: &Entry<ResourceSlice>| slice.spec.pool.generation;
        match known.first().map(|first| generation(slice).cmp(&generation(first))) {
            Some(std::cmp::Ordering::Less) => {}
            Some(std::cmp::Ordering::Greater) => *known = vec![slice],
            _ => known.push(slice),
        }
    }
    let pool = |((driver, name), slices): ((&str, &str), Vec<&Arc<Entry<ResourceSlice>>>)| {
        let wanted = slices[0].spec.pool.resource_slice_count;
        let mut names = HashSet::new();
        let mut devices = slices.iter().flat_map(|slice| &slice.spec.devices);
        let state = if i64::try_from(slices.len()).is_ok_and(|count| count != wanted) {
            State::Updating
        } else if !devices.all(|device| names.insert(&device.name)) {
            State::Invalid
        } else {
            State::Complete
        };
        let mut left = HashMap::new();
        for set in slices.iter().flat_map(|slice| &slice.spec.shared_counters) {
            for (counter, amount) in &set.counters {
                left.insert((set.name.clone(), counter.clone()), amount.value);
            }
        }
        let (driver, name) = (driver.to_string(), name.to_string());
        Pool { driver, name, state, left, slices: slices.into_iter().cloned().collect() }
    };
    pools.into_iter().map(pool).collect()
}
