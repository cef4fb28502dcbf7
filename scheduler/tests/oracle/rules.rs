//! The rules of placement as the Kubernetes documentation has them, read slowly: everything is
//! counted anew for every question, over plain lists.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default)]
pub struct Node {
    pub name: String,
    /// In thousandths.
    pub cpu: i64,
    pub memory: i64,
    pub pods: i64,
    pub labels: BTreeMap<String, String>,
    /// Key and effect.
    pub taints: Vec<(String, String)>,
    pub unschedulable: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Pod {
    pub name: String,
    pub app: String,
    pub cpu: i64,
    pub memory: i64,
    pub priority: i32,
    pub started: i64,
    /// Only nodes with such a disk.
    pub disk: Option<String>,
    /// With weight 7.
    pub prefers_zone: Option<String>,
    /// A key, or `*` for all.
    pub tolerates: Option<String>,
    pub port: Option<i64>,
    pub near: Vec<Near>,
    pub far: Vec<Near>,
    pub wants_near: Vec<Near>,
    pub wants_far: Vec<Near>,
    pub constraints: Vec<Constraint>,
}

/// Pods of that app in the same domain of that label.
#[derive(Clone, Debug)]
pub struct Near {
    pub key: String,
    pub app: String,
    pub weight: i64,
}

#[derive(Clone, Debug)]
pub struct Constraint {
    pub key: String,
    pub app: String,
    pub skew: i64,
    pub hard: bool,
    /// 0: not said.
    pub min_domains: usize,
    pub honours_taints: bool,
    pub ignores_affinity: bool,
}

/// Who makes room where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub node: String,
    pub victims: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub placed: Vec<(Pod, String)>,
}

impl Pod {
    fn tolerates(&self, key: &str) -> bool {
        self.tolerates.as_deref().is_some_and(|own| own == "*" || own == key)
    }

    fn repelled(&self, node: &Node) -> bool {
        node.taints.iter().any(|(key, effect)| effect != "PreferNoSchedule" && !self.tolerates(key))
    }

    fn selects(&self, node: &Node) -> bool {
        self.disk.is_none() || node.labels.get("disk") == self.disk.as_ref()
    }
}

impl Cluster {
    pub fn on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Pod> {
        self.placed.iter().filter(move |(_, at)| at == node).map(|(pod, _)| pod)
    }

    fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// Whether the two nodes are in one domain of the label.
    fn together(&self, key: &str, one: &Node, other: &str) -> bool {
        let other = self.node(other).and_then(|node| node.labels.get(key));
        other.is_some() && one.labels.get(key) == other
    }

    /// Whether nothing speaks against the node.
    pub fn feasible(&self, pod: &Pod, node: &Node) -> bool {
        self.objection(pod, node).is_none()
    }

    pub fn feasible_nodes(&self, pod: &Pod) -> Vec<&str> {
        let feasible = self.nodes.iter().filter(|node| self.feasible(pod, node));
        feasible.map(|node| node.name.as_str()).collect()
    }

    /// What speaks against the node first, in the order of the plugins: whether others could cure
    /// it by leaving.
    fn objection(&self, pod: &Pod, node: &Node) -> Option<bool> {
        let (lasting, curable) = (Some(false), Some(true));
        let cordoned = node.unschedulable && !pod.tolerates("node.kubernetes.io/unschedulable");
        if cordoned || pod.repelled(node) || !pod.selects(node) {
            return lasting;
        }
        if pod.port.is_some() && self.on(&node.name).any(|other| other.port == pod.port) {
            return curable;
        }
        if !self.has_room(pod, node) {
            return Some(pod.cpu <= node.cpu && pod.memory <= node.memory);
        }
        for own in pod.constraints.iter().filter(|own| own.hard) {
            if !node.labels.contains_key(&own.key) {
                return lasting;
            }
            if !self.is_even(pod, own, node) {
                return curable;
            }
        }
        if !self.has_company(pod, node) {
            return lasting;
        }
        let apart = self.placed.iter().all(|(other, at)| {
            let apart = |terms: &[Near], app: &str| {
                terms.iter().all(|term| term.app != app || !self.together(&term.key, node, at))
            };
            apart(&pod.far, &other.app) && apart(&other.far, &pod.app)
        });
        if apart { None } else { curable }
    }

    fn has_company(&self, pod: &Pod, node: &Node) -> bool {
        // Company is who matches all terms at once, on a node that has the label.
        let matching = self
            .placed
            .iter()
            .filter(|(other, _)| pod.near.iter().all(|term| term.app == other.app));
        let matching: Vec<&String> = matching.map(|(_, at)| at).collect();
        let any = pod.near.iter().any(|term| {
            matching
                .iter()
                .any(|at| self.node(at).is_some_and(|node| node.labels.contains_key(&term.key)))
        });
        let first = !any && pod.near.iter().all(|term| term.app == pod.app);
        pod.near.iter().all(|term| {
            node.labels.contains_key(&term.key)
                && (first || matching.iter().any(|at| self.together(&term.key, node, at)))
        })
    }

    fn has_room(&self, pod: &Pod, node: &Node) -> bool {
        let cpu: i64 = self.on(&node.name).map(|other| other.cpu).sum();
        let memory: i64 = self.on(&node.name).map(|other| other.memory).sum();
        (pod.cpu == 0 || cpu + pod.cpu <= node.cpu)
            && (pod.memory == 0 || memory + pod.memory <= node.memory)
            && (self.on(&node.name).count() as i64) < node.pods
    }

    /// Domains of a constraint and how many matching pods they have.
    fn domains(&self, pod: &Pod, own: &Constraint, all: &[&Constraint]) -> BTreeMap<&str, i64> {
        let mut domains = BTreeMap::new();
        for node in &self.nodes {
            let counts = all.iter().all(|one| node.labels.contains_key(&one.key))
                && (own.ignores_affinity || pod.selects(node))
                && (!own.honours_taints || !pod.repelled(node));
            if counts {
                let pods = self.on(&node.name).filter(|other| other.app == own.app).count();
                *domains.entry(node.labels[&own.key].as_str()).or_default() += pods as i64;
            }
        }
        domains
    }

    fn is_even(&self, pod: &Pod, own: &Constraint, node: &Node) -> bool {
        let hard: Vec<&Constraint> = pod.constraints.iter().filter(|one| one.hard).collect();
        let domains = self.domains(pod, own, &hard);
        let Some(value) = node.labels.get(&own.key) else { return false };
        let there = domains.get(value.as_str()).copied().unwrap_or(0);
        let fewest = domains.values().copied().min().unwrap_or(0);
        let fewest = if domains.len() < own.min_domains { 0 } else { fewest };
        there + i64::from(own.app == pod.app) - fewest <= own.skew
    }

    /// The nodes that are best for the pod.
    pub fn best(&self, pod: &Pod) -> Vec<&str> {
        let candidates: Vec<&Node> =
            self.nodes.iter().filter(|node| self.feasible(pod, node)).collect();
        let taints = share(candidates.iter().map(|node| {
            let worse = |(key, effect): &&(String, String)| {
                effect == "PreferNoSchedule" && !pod.tolerates(key)
            };
            node.taints.iter().filter(worse).count() as i64
        }));
        let zone = share(candidates.iter().map(|node| {
            let wanted =
                pod.prefers_zone.is_some() && node.labels.get("zone") == pod.prefers_zone.as_ref();
            if wanted { 7 } else { 0 }
        }));
        let (spread, company) = (self.spread(pod, &candidates), self.company(pod, &candidates));
        let total = |at: usize| {
            3 * (100 - taints[at])
                + 2 * (zone[at] + spread[at] + company[at])
                + self.emptiness(pod, candidates[at])
                + self.balance(pod, candidates[at])
        };
        let totals: Vec<i64> = (0..candidates.len()).map(total).collect();
        let best = totals.iter().max();
        let at = (0..candidates.len()).filter(|at| Some(&totals[*at]) == best);
        at.map(|at| candidates[at].name.as_str()).collect()
    }

    /// LeastAllocated: what is free, in percent, of CPU and memory. These pods say what they ask
    /// for, be it nothing.
    fn emptiness(&self, pod: &Pod, node: &Node) -> i64 {
        let free = |have: i64, of: fn(&Pod) -> i64| {
            let used = self.on(&node.name).map(of).sum::<i64>() + of(pod);
            if used > have { 0 } else { (have - used) * 100 / have }
        };
        (free(node.cpu, |pod| pod.cpu) + free(node.memory, |pod| pod.memory)) / 2
    }

    fn balance(&self, pod: &Pod, node: &Node) -> i64 {
        if pod.cpu == 0 && pod.memory == 0 {
            return 0;
        }
        let cpu: i64 = self.on(&node.name).map(|other| other.cpu).sum();
        let memory: i64 = self.on(&node.name).map(|other| other.memory).sum();
        let cpu = (cpu + pod.cpu) as f64 / node.cpu as f64;
        let memory = (memory + pod.memory) as f64 / node.memory as f64;
        ((1.0 - (cpu.min(1.0) - memory.min(1.0)).abs() / 2.0) * 100.0) as i64
    }

    fn company(&self, pod: &Pod, candidates: &[&Node]) -> Vec<i64> {
        let wish = |node: &&Node| -> i64 {
            let of = |(other, at): &(Pod, String)| -> i64 {
                let sum = |terms: &[Near], app: &str, weight: fn(&Near) -> i64| -> i64 {
                    let held = terms
                        .iter()
                        .filter(|term| term.app == app && self.together(&term.key, node, at));
                    held.map(weight).sum()
                };
                sum(&pod.wants_near, &other.app, |term| term.weight)
                    - sum(&pod.wants_far, &other.app, |term| term.weight)
                    + sum(&other.wants_near, &pod.app, |term| term.weight)
                    - sum(&other.wants_far, &pod.app, |term| term.weight)
                    + sum(&other.near, &pod.app, |_| 1)
            };
            self.placed.iter().map(of).sum()
        };
        let wishes: Vec<i64> = candidates.iter().map(wish).collect();
        let (most, least) = (wishes.iter().max().copied(), wishes.iter().min().copied());
        let range = most.unwrap_or(0) - least.unwrap_or(0);
        let scaled = |wish: &i64| match range {
            0 => 0,
            range => (100.0 * ((wish - least.unwrap_or(0)) as f64 / range as f64)) as i64,
        };
        wishes.iter().map(scaled).collect()
    }

    fn spread(&self, pod: &Pod, candidates: &[&Node]) -> Vec<i64> {
        let soft: Vec<&Constraint> = pod.constraints.iter().filter(|one| !one.hard).collect();
        if soft.is_empty() {
            return vec![0; candidates.len()];
        }
        let concerned = |node: &Node| soft.iter().all(|one| node.labels.contains_key(&one.key));
        let all: Vec<&&Node> = candidates.iter().filter(|node| concerned(node)).collect();
        let raw = |node: &&Node| -> Option<i64> {
            let each = soft.iter().map(|own| {
                let by_host = own.key == "kubernetes.io/hostname";
                let values: BTreeSet<&String> =
                    all.iter().map(|node| &node.labels[&own.key]).collect();
                let size = if by_host { all.len() } else { values.len() };
                let there = match by_host {
                    true => self.on(&node.name).filter(|other| other.app == own.app).count() as i64,
                    false => {
                        let domains = self.domains(pod, own, &soft);
                        domains.get(node.labels[&own.key].as_str()).copied().unwrap_or(0)
                    }
                };
                there as f64 * ((size + 2) as f64).ln() + (own.skew - 1) as f64
            });
            concerned(node).then(|| each.sum::<f64>().round() as i64)
        };
        let raw: Vec<Option<i64>> = candidates.iter().map(raw).collect();
        let most = raw.iter().flatten().max().copied().unwrap_or(0);
        let least = raw.iter().flatten().min().copied().unwrap_or(0);
        let scaled = |score: &Option<i64>| match score {
            None => 0,
            Some(_) if most == 0 => 100,
            Some(score) => 100 * (most + least - score) / most,
        };
        raw.iter().map(scaled).collect()
    }

    /// The places that the pod could take with the least harm; without any, none.
    pub fn victims(&self, pod: &Pod) -> Vec<Place> {
        let nodes = self.nodes.iter().filter(|node| self.objection(pod, node) == Some(true));
        let all: Vec<Vec<Pod>> = nodes.clone().map(|node| self.victims_on(pod, node)).collect();
        let harm = |victims: &[Pod]| {
            let highest = victims[0].priority;
            let sum: i64 = victims.iter().map(|own| i64::from(own.priority) + (1 << 31)).sum();
            (highest, sum, victims.len(), Reverse(victims[0].started))
        };
        let least = all.iter().filter(|all| !all.is_empty()).map(|all| harm(all)).min();
        let best = nodes.zip(&all).filter(|(_, all)| !all.is_empty() && Some(harm(all)) == least);
        best.map(|(node, victims)| Place {
            node: node.name.clone(),
            victims: victims.iter().map(|own| own.name.clone()).collect(),
        })
        .collect()
    }

    pub fn victims_at(&self, pod: &Pod, node: &str) -> Vec<String> {
        let victims = self.node(node).map(|node| self.victims_on(pod, node)).unwrap_or_default();
        victims.into_iter().map(|own| own.name).collect()
    }

    /// Without all of lower priority; then they come back, the most important first, as long as
    /// the pod still fits.
    fn victims_on(&self, pod: &Pod, node: &Node) -> Vec<Pod> {
        let mut without = self.clone();
        let gone = |(other, at): &(Pod, String)| *at == node.name && other.priority < pod.priority;
        without.placed.retain(|one| !gone(one));
        let lower = self.placed.iter().filter(|one| gone(one)).map(|(other, _)| other.clone());
        let mut lower: Vec<Pod> = lower.collect();
        if !without.feasible(pod, node) {
            return Vec::new();
        }
        lower.sort_by_key(|other| (Reverse(other.priority), other.started));
        lower.retain(|other| {
            without.placed.push((other.clone(), node.name.clone()));
            let fits = without.feasible(pod, node);
            if !fits {
                without.placed.pop();
            }
            !fits
        });
        lower
    }
}

/// In percent of the largest.
fn share(of: impl Iterator<Item = i64>) -> Vec<i64> {
    let all: Vec<i64> = of.collect();
    let largest = all.iter().max().copied().unwrap_or(0).max(1);
    all.into_iter().map(|one| one * 100 / largest).collect()
}
