//! How resources make a node better or worse (kube-scheduler configuration: ScoringStrategy).
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/resource-bin-packing/>

use super::BEST;
use crate::devices::{Devices, Stock};
use crate::resources::Resources;
use crate::snapshot::{NodeInfo, PodInfo};

/// What a resource counts for.
pub type Weights = Vec<(String, i64)>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strategy {
    LeastAllocated,
    MostAllocated,
    /// Utilization in percent and its score of 0..=BEST, by increasing utilization; straight lines
    /// between.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// Of each resource that counts, what a pod asks for.
#[derive(Debug)]
pub struct Amounts {
    asked: Vec<(Resource, i64, i64)>,
    /// Requests as they are, or with the least that every container counts as.
    plain: bool,
    /// Of extended resources that may be had as devices.
    stock: Stock,
}

#[derive(Debug)]
enum Resource {
    Cpu,
    Memory,
    EphemeralStorage,
    Extended(String),
}

/// Of one resource on a node, with the pod.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    pub requested: i64,
    pub allocatable: i64,
    pub weight: i64,
}

impl Resource {
    fn of(name: &str) -> Resource {
        match name {
            "cpu" => Resource::Cpu,
            "memory" => Resource::Memory,
            "ephemeral-storage" => Resource::EphemeralStorage,
            other => Resource::Extended(other.into()),
        }
    }

    fn amount(&self, of: &Resources) -> i64 {
        match self {
            Resource::Cpu => of.cpu,
            Resource::Memory => of.memory,
            Resource::EphemeralStorage => of.ephemeral_storage,
            Resource::Extended(name) => of.extended.get(name).copied().unwrap_or(0),
        }
    }
}

impl Amounts {
    /// As the pod asks for them.
    pub fn requested(requests: &Resources, weights: &Weights) -> Amounts {
        let of = |(name, weight): &(String, i64)| {
            let resource = Resource::of(name);
            let amount = resource.amount(requests);
            (resource, amount, *weight)
        };
        let asked = weights.iter().map(of).collect();
        Amounts { asked, plain: true, stock: Stock::default() }
    }

    /// With the least CPU and memory that every container counts as.
    pub fn scored(pod: &PodInfo, weights: &Weights) -> Amounts {
        let mut amounts = Amounts::requested(&pod.requests, weights);
        amounts.plain = false;
        for (resource, amount, _) in &mut amounts.asked {
            match resource {
                Resource::Cpu => *amount = pod.scored.0,
                Resource::Memory => *amount = pod.scored.1,
                _ => {}
            }
        }
        amounts
    }

    /// Where a node has none of a resource by itself, devices that stand for it count.
    pub fn with_devices(mut self, pod: &PodInfo, devices: &Devices) -> Amounts {
        let extended = |(resource, ..): &(Resource, i64, i64)| match resource {
            Resource::Extended(name) => Some(name.clone()),
            _ => None,
        };
        let counted: Vec<String> = self.asked.iter().filter_map(extended).collect();
        if !counted.is_empty() {
            let counts = |resource: &str| counted.iter().any(|name| name == resource);
            self.stock = devices.stock(&devices.backed(pod), counts);
        }
        self
    }

    /// Whether the pod asks for any of them.
    pub fn any(&self) -> bool {
        self.asked.iter().any(|(_, amount, _)| *amount > 0)
    }

    /// With the pod on the node; without resources that the node has nothing of, and extended ones
    /// that the pod does not ask for.
    pub fn after<'a>(&'a self, node: &'a NodeInfo) -> impl Iterator<Item = Used> + 'a {
        self.asked.iter().filter_map(|(resource, asked, weight)| {
            if *asked == 0 && matches!(resource, Resource::Extended(_)) {
                return None;
            }
            let mut allocatable = resource.amount(&node.allocatable);
            let taken = match (resource, self.plain) {
                (Resource::Cpu, false) => node.scored.0,
                (Resource::Memory, false) => node.scored.1,
                (Resource::Extended(name), _) if allocatable == 0 => {
                    let (all, taken) = self.stock.on_node(name, node);
                    allocatable = all;
                    taken
                }
                _ => resource.amount(&node.requested),
            };
            let used = Used { requested: taken + asked, allocatable, weight: *weight };
            (allocatable != 0).then_some(used)
        })
    }
}

impl Strategy {
    /// 0..=BEST.
    pub fn score(&self, all: impl Iterator<Item = Used>) -> i64 {
        let (mut total, mut weights) = (0, 0);
        for Used { requested, allocatable, weight } in all {
            let within = requested.min(allocatable);
            let score = match self {
                Strategy::LeastAllocated => (allocatable - within) * BEST / allocatable,
                Strategy::MostAllocated => within * BEST / allocatable,
                Strategy::RequestedToCapacityRatio(shape) => {
                    let score = along(shape, within * 100 / allocatable);
                    if score == 0 {
                        continue;
                    }
                    score
                }
            };
            total += score * weight;
            weights += weight;
        }
        match (weights, self) {
            (0, _) => 0,
            (_, Strategy::RequestedToCapacityRatio(_)) => {
                (total as f64 / weights as f64).round() as i64
            }
            _ => total / weights,
        }
    }
}

/// 100 × (1 − standard deviation of the fractions that are used).
pub fn balance(all: impl Iterator<Item = Used>) -> i64 {
    let mut fractions = [0.0; 16];
    let mut count = 0;
    for used in all.take(fractions.len()) {
        fractions[count] = (used.requested as f64 / used.allocatable as f64).min(1.0);
        count += 1;
    }
    let fractions = &fractions[..count];
    let deviation = match fractions {
        [] | [_] => 0.0,
        [one, other] => (one - other).abs() / 2.0,
        more => {
            let mean = more.iter().sum::<f64>() / count as f64;
            let variance = more.iter().map(|one| (one - mean) * (one - mean)).sum::<f64>();
            (variance / count as f64).sqrt()
        }
    };
    ((1.0 - deviation) * BEST as f64) as i64
}

/// The value at `x` of the line through these points, level beyond its ends.
fn along(shape: &[(i64, i64)], x: i64) -> i64 {
    let Some(after) = shape.iter().position(|(at, _)| x <= *at) else {
        return shape.last().map_or(0, |(_, score)| *score);
    };
    let (to, high) = shape[after];
    let Some((from, low)) = after.checked_sub(1).map(|before| shape[before]) else { return high };
    low + (high - low) * (x - from) / (to - from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies() {
        let used = |requested, allocatable, weight| Used { requested, allocatable, weight };
        let ratio = Strategy::RequestedToCapacityRatio(vec![(0, 0), (50, 100), (100, 20)]);
        for (strategy, all, expected) in [
            (Strategy::LeastAllocated, vec![used(1, 4, 1), used(2, 4, 1)], (75 + 50) / 2),
            (Strategy::LeastAllocated, vec![used(1, 4, 3), used(2, 4, 1)], (3 * 75 + 50) / 4),
            (Strategy::LeastAllocated, vec![used(9, 4, 1)], 0),
            (Strategy::LeastAllocated, vec![], 0),
            (Strategy::MostAllocated, vec![used(1, 4, 1), used(9, 4, 1)], (25 + 100) / 2),
            (ratio.clone(), vec![used(1, 4, 1)], 50),
            (ratio.clone(), vec![used(3, 4, 1)], 60),
            // What scores nothing does not count.
            (ratio.clone(), vec![used(0, 4, 5), used(2, 4, 1)], 100),
            (ratio, vec![used(9, 4, 1)], 20),
        ] {
            assert_eq!(strategy.score(all.clone().into_iter()), expected, "{strategy:?} {all:?}");
        }
        assert_eq!(balance([used(1, 4, 1), used(3, 4, 1)].into_iter()), 75);
        assert_eq!(balance([used(9, 4, 1)].into_iter()), 100);
        assert_eq!(balance([used(0, 4, 1), used(2, 4, 1), used(4, 4, 1)].into_iter()), 59);
    }
}
