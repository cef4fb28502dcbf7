//! How much of a device a request gets, where a device can be given to several.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/#consumable-capacity>

use proto::quantity::Quantity;
use proto::view::Resources;
use proto::view::device::{Capacity, Device, RequestPolicy};
use proto::view::resource_claim::Devices;

/// Whether the device has all of the capacities that are asked for, and as much of them.
pub fn suffices(wanted: &Devices, device: &Device) -> bool {
    asked(wanted).all(|(name, amount)| {
        device.capacity.get(name).is_some_and(|capacity| *amount <= capacity.value)
    })
}

/// What the request takes of a device of which `given` is given away already; none where that is
/// more than is left.
pub fn portion(wanted: &Devices, device: &Device, given: &Resources) -> Option<Resources> {
    if !suffices(wanted, device) {
        return None;
    }
    let mut portion = Resources::new();
    for (name, capacity) in &device.capacity {
        let asked = asked(wanted).find(|(asked, _)| *asked == name).map(|(_, amount)| *amount);
        let taken = taken(asked, capacity)?;
        let before = given.get(name).copied().unwrap_or_default();
        if before + taken > capacity.value {
            return None;
        }
        portion.insert(name.clone(), taken);
    }
    Some(portion)
}

fn asked(wanted: &Devices) -> impl Iterator<Item = (&String, &Quantity)> {
    wanted.capacity.iter().flat_map(|capacity| &capacity.requests)
}

/// Rounded up to what the policy allows; none if it allows nothing as large.
fn taken(asked: Option<Quantity>, capacity: &Capacity) -> Option<Quantity> {
    let Some(policy) = &capacity.request_policy else {
        return Some(asked.unwrap_or(capacity.value));
    };
    let RequestPolicy { default, valid_values, valid_range } = policy;
    let asked = asked.or(*default).unwrap_or(capacity.value);
    if !valid_values.is_empty() {
        return valid_values.iter().copied().filter(|value| *value >= asked).min();
    }
    let Some(range) = valid_range else { return Some(asked) };
    let min = range.min.unwrap_or_default();
    let taken = match range.step {
        _ if asked <= min => min,
        Some(step) => asked.rounded_up(min, step),
        None => asked,
    };
    range.max.is_none_or(|max| taken <= max).then_some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn portions() {
        let range = json!({"default": "1Gi",
            "validRange": {"min": "1Gi", "max": "8Gi", "step": "2Gi"}});
        let values = json!({"default": "1Gi", "validValues": ["1Gi", "4Gi"]});
        for (case, policy, asked, given, expected) in [
            ("no policy: all of it", Value::Null, "", "0", Some("10Gi")),
            ("no policy: what is asked", Value::Null, "3Gi", "0", Some("3Gi")),
            ("too little left", Value::Null, "3Gi", "8Gi", None),
            ("the default", range.clone(), "", "8Gi", Some("1Gi")),
            ("rounded up", range.clone(), "2Gi", "0", Some("3Gi")),
            ("more than allowed", range, "8Gi", "0", None),
            ("the next value", values.clone(), "2Gi", "0", Some("4Gi")),
            ("no such value", values, "5Gi", "0", None),
            ("more than there is", Value::Null, "11Gi", "0", None),
        ] {
            let device: Device = serde_json::from_value(json!({"capacity":
                {"memory": {"value": "10Gi", "requestPolicy": policy}}}))
            .unwrap();
            let mut wanted = Devices::default();
            if !asked.is_empty() {
                wanted =
                    serde_json::from_value(json!({"capacity": {"requests": {"memory": asked}}}))
                        .unwrap();
            }
            let given = Resources::from([("memory".into(), given.parse().unwrap())]);
            let found = portion(&wanted, &device, &given);
            let found = found.map(|found| found["memory"].to_string());
            assert_eq!(found.as_deref(), expected, "{case}");
        }
        let other = serde_json::from_value(json!({"capacity": {"requests": {"cores": "1"}}}));
        assert_eq!(portion(&other.unwrap(), &Device::default(), &Resources::new()), None);
    }
}
