//! What the API is told of a choice of devices.

use proto::selector::Expression;
use proto::view::pod::{NodeSelector, NodeSelectorTerm};
use proto::view::resource_claim::{
    AllocatedDevice, AllocatedDevices, Allocation, DeviceConfiguration, ResourceClaim,
};

use super::Devices;
use super::allocate::Pick;
use super::inventory::Inventory;

/// The ids of shares, and the time, are for whoever writes it.
pub fn allocation(
    devices: &Devices,
    inventory: &Inventory,
    claim: &ResourceClaim,
    picks: &[Pick],
    node: &str,
) -> Allocation {
    let results = picks.iter().map(|pick| result(inventory, claim, pick)).collect();
    Allocation {
        devices: AllocatedDevices { results, config: configuration(devices, claim, picks) },
        node_selector: reach(inventory, picks, node),
        allocation_timestamp: None,
    }
}

fn result(inventory: &Inventory, claim: &ResourceClaim, pick: &Pick) -> AllocatedDevice {
    let (driver, pool, device) = inventory.id(&pick.item);
    let full = inventory.device(&pick.item);
    let (request, alternative) = match pick.request.split_once('/') {
        Some((request, alternative)) => (request, Some(alternative)),
        None => (pick.request.as_str(), None),
    };
    let mut requests = claim.spec.devices.requests.iter();
    let wanted = requests.find(|known| known.name == request);
    let wanted = wanted.and_then(|known| match alternative {
        None => known.exactly.as_ref(),
        Some(name) => known.first_available.iter().find(|one| one.name == name),
    });
    AllocatedDevice {
        request: pick.request.clone(),
        driver: driver.into(),
        pool: pool.into(),
        device: device.into(),
        admin_access: pick.admin.then_some(true),
        tolerations: wanted.map(|wanted| wanted.tolerations.clone()).unwrap_or_default(),
        binding_conditions: full.binding_conditions.clone(),
        binding_failure_conditions: full.binding_failure_conditions.clone(),
        // A place for it.
        share_id: pick.portion.as_ref().map(|_| String::new()),
        consumed_capacity: pick.portion.clone().unwrap_or_default(),
    }
}

/// What the classes say comes first: claims have the last word.
fn configuration(
    devices: &Devices,
    claim: &ResourceClaim,
    picks: &[Pick],
) -> Vec<DeviceConfiguration> {
    let mut all = Vec::new();
    let has = |name: &str| picks.iter().any(|pick| pick.request == name);
    for request in &claim.spec.devices.requests {
        let exactly = request.exactly.iter().map(|one| (request.name.clone(), one));
        let alternatives = request.first_available.iter();
        let alternatives = alternatives.map(|one| (format!("{}/{}", request.name, one.name), one));
        for (name, wanted) in exactly.chain(alternatives).filter(|(name, _)| has(name)) {
            let class = devices.classes.get(&wanted.device_class_name);
            let configs = class.into_iter().flat_map(|class| &class.spec.config);
            all.extend(configs.map(|config| DeviceConfiguration {
                source: "FromClass".into(),
                requests: vec![name.clone()],
                opaque: config.opaque.clone(),
            }));
        }
    }
    for config in &claim.spec.devices.config {
        let concerns = config.requests.is_empty()
            || config.requests.iter().any(|name| {
                let within = |pick: &Pick| pick.request.split('/').next() == Some(name);
                has(name) || picks.iter().any(within)
            });
        if concerns {
            all.push(DeviceConfiguration { source: "FromClaim".into(), ..config.clone() });
        }
    }
    all
}

/// The nodes that reach all of these devices; none: every node does.
fn reach(inventory: &Inventory, picks: &[Pick], node: &str) -> Option<NodeSelector> {
    let mut merged: Option<NodeSelectorTerm> = None;
    for pick in picks {
        let (spec, device) = (inventory.spec(&pick.item), inventory.device(&pick.item));
        let own = spec.per_device_node_selection == Some(true);
        let (name, selector) = match own {
            true => (&device.node_name, &device.node_selector),
            false => (&spec.node_name, &spec.node_selector),
        };
        let bound = device.binds_to_node == Some(true);
        if bound || name.as_deref().is_some_and(|name| !name.is_empty()) {
            let only = Expression {
                key: "metadata.name".into(),
                operator: "In".into(),
                values: vec![node.into()],
            };
            let term = NodeSelectorTerm { match_fields: vec![only], ..NodeSelectorTerm::default() };
            return Some(NodeSelector { node_selector_terms: vec![term] });
        }
        // The API server lets slices have no more than one term.
        let terms = selector.iter().flat_map(|selector| &selector.node_selector_terms);
        for term in terms {
            let merged = merged.get_or_insert_default();
            let add = |known: &mut Vec<Expression>, more: &[Expression]| {
                let new: Vec<Expression> =
                    more.iter().filter(|one| !known.contains(one)).cloned().collect();
                known.extend(new);
            };
            add(&mut merged.match_expressions, &term.match_expressions);
            add(&mut merged.match_fields, &term.match_fields);
        }
    }
    merged.map(|term| NodeSelector { node_selector_terms: vec![term] })
}
