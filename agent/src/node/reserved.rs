//! What of the node is not for pods (Kubernetes: Reserve Compute Resources for System Daemons). Pure.

use std::collections::BTreeMap;
use std::str::FromStr;

use proto::quantity::Quantity;
use serde::Serialize;

use crate::eviction::{Limits, Signal};

/// What can be kept from pods; `pid` is known to the kubelet and to no node's status.
const RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// `--kube-reserved` or `--system-reserved`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Reserved(pub BTreeMap<String, Quantity>);

impl FromStr for Reserved {
    type Err = String;

    fn from_str(text: &str) -> Result<Reserved, String> {
        let mut all = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, amount) =
                part.split_once('=').ok_or(format!("{part:?} is not RESOURCE=QUANTITY"))?;
            if !RESOURCES.contains(&name) {
                let known = RESOURCES.join(", ");
                return Err(format!("{name:?} cannot be kept from pods, only {known}"));
            }
            let amount: Quantity = amount.parse().map_err(|why| format!("{amount:?}: {why}"))?;
            if amount.is_negative() {
                return Err(format!("resource quantity for {name:?} cannot be negative: {amount}"));
            }
            all.insert(name.to_string(), amount);
        }
        Ok(Reserved(all))
    }
}

/// What pods may use: the capacity without what is reserved, what must stay free, and, of memory,
/// what is in pools of huge pages.
pub fn allocatable(
    capacity: &BTreeMap<String, Quantity>,
    reserved: [&Reserved; 2],
    thresholds: &Limits,
) -> BTreeMap<String, Quantity> {
    let mut left = capacity.clone();
    let pools = capacity.iter().filter(|(name, _)| name.starts_with("hugepages-"));
    let pools: Quantity = pools.map(|(_, amount)| *amount).sum();
    for (name, amount) in &mut left {
        let whole = amount.value();
        let free = match name.as_str() {
            "memory" => Quantity::bytes(thresholds.of(Signal::MemoryAvailable, whole)) + pools,
            "ephemeral-storage" => Quantity::bytes(thresholds.of(Signal::NodeFsAvailable, whole)),
            _ => Quantity::ZERO,
        };
        let kept = reserved.iter().filter_map(|reserved| reserved.0.get(name)).copied();
        *amount -= kept.fold(free, |sum, more| sum + more);
        if amount.is_negative() {
            *amount -= *amount;
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_for_pods() {
        let quantities = |all: &[(&str, &str)]| -> BTreeMap<String, Quantity> {
            let parsed = all.iter().map(|(name, text)| (name.to_string(), text.parse().unwrap()));
            parsed.collect()
        };
        let capacity = quantities(&[
            ("cpu", "4"),
            ("memory", "8Gi"),
            ("ephemeral-storage", "100Gi"),
            ("hugepages-2Mi", "1Gi"),
            ("pods", "110"),
        ]);
        let kube: Reserved = "cpu=100m,memory=512Mi".parse().unwrap();
        let system: Reserved = "memory=412Mi,cpu=5".parse().unwrap();
        let thresholds = "memory.available<100Mi,nodefs.available<10%".parse().unwrap();
        let nothing = Reserved::default();
        let left = allocatable(&capacity, [&kube, &nothing], &thresholds);
        let written = |name: &str| left[name].to_string();
        assert_eq!((written("cpu"), written("pods")), ("3900m".into(), "110".into()));
        assert_eq!((written("memory"), written("hugepages-2Mi")), ("6556Mi".into(), "1Gi".into()));
        assert_eq!(written("ephemeral-storage"), "90Gi");
        let left = allocatable(&capacity, [&kube, &system], &thresholds);
        assert_eq!(
            (left["cpu"].to_string(), left["memory"].to_string()),
            ("0".into(), "6Gi".into())
        );
        for bad in ["cpu", "cpu=x", "gpu=1", "cpu=-1"] {
            assert!(bad.parse::<Reserved>().is_err(), "{bad}");
        }
    }
}
