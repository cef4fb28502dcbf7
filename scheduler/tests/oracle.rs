//! Random clusters under churn, decided by the scheduler, which remembers, and by `rules`, which
//! does not: a slow reading of the documented rules. `CORACLE_CLUSTERS` says how many clusters; a
//! failure prints its seed, which `CORACLE_SEED` repeats.

#[path = "oracle/rules.rs"]
mod rules;

use std::sync::Arc;

use client::{Entry, Key, Rng};
use rules::{Cluster, Constraint, Near, Node, Place, Pod};
use scheduler::cycle::Decider;
use scheduler::explanation::sentence;
use scheduler::preemption::Preemption;
use scheduler::profile::Profile;
use scheduler::snapshot::{PodInfo, Snapshot};
use serde_json::{Value, json};

const CLUSTERS: u64 = 2000;
const LARGE_CLUSTERS: u64 = 10;
const STEPS: usize = 40;
/// From here on a part of the nodes is enough.
const LARGE: usize = 100;

#[test]
fn every_decision_is_the_best_there_is() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("CORACLE_SEED") {
        Some(seed) => run(seed, 6),
        None => (0..number("CORACLE_CLUSTERS").unwrap_or(CLUSTERS)).for_each(|seed| run(seed, 6)),
    }
}

/// In large clusters not every node is asked, so that a decision need not be the best; but it must
/// be right, and no node may be overlooked.
#[test]
fn in_large_clusters_every_decision_is_right() {
    (0..LARGE_CLUSTERS).for_each(|seed| run(seed, 200));
}

/// The same cluster twice.
struct Both {
    seed: u64,
    rng: Rng,
    cluster: Cluster,
    snapshot: Snapshot,
    decider: Decider,
    count: usize,
}

fn run(seed: u64, most: usize) {
    let rng = Rng::seeded(seed);
    let mut both = Both {
        seed,
        decider: Decider::new(Arc::new(Profile::default()), rng.clone()),
        rng,
        cluster: Cluster::default(),
        snapshot: Snapshot::default(),
        count: 0,
    };
    for _ in 0..both.below(most) + 1 {
        both.add_node();
    }
    // Replicas: the scheduler has seen their like before.
    let kinds: Vec<Pod> = (0..4).map(|_| both.kind()).collect();
    for _ in 0..STEPS {
        match both.below(12) {
            0 => both.add_node(),
            1 => both.change_node(),
            2 => both.remove_node(),
            3 | 4 => both.remove_pod(),
            _ => {
                let kind = both.below(kinds.len());
                both.decide(kinds[kind].clone());
            }
        }
        both.check_sums();
    }
}

impl Both {
    fn below(&self, most: usize) -> usize {
        self.rng.below(most as u64) as usize
    }

    fn one_of<'a>(&self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn one_in(&self, most: usize) -> bool {
        self.below(most) == 0
    }

    fn add_node(&mut self) {
        self.count += 1;
        let name = format!("n{}", self.count);
        let mut node = Node { name: name.clone(), ..Node::default() };
        self.shake(&mut node);
        self.put(node);
    }

    fn shake(&self, node: &mut Node) {
        node.cpu = (self.below(4) as i64 + 1) * 1000;
        node.memory = (self.below(4) as i64 + 1) << 30;
        node.pods = self.below(6) as i64 + 2;
        node.labels = [("kubernetes.io/hostname".to_string(), node.name.clone())].into();
        for (key, values) in [("zone", &["a", "b", "c"][..]), ("disk", &["ssd", "hdd"])] {
            if !self.one_in(4) {
                node.labels.insert(key.into(), self.one_of(values).into());
            }
        }
        node.unschedulable = self.one_in(8);
        node.taints.clear();
        if self.one_in(4) {
            let effect = self.one_of(&["NoSchedule", "PreferNoSchedule", "NoExecute"]);
            node.taints.push((self.one_of(&["k1", "k2"]).into(), effect.into()));
        }
    }

    fn put(&mut self, node: Node) {
        let taints: Vec<Value> =
            node.taints.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
        let value = json!({
            "metadata": {"name": node.name, "labels": node.labels},
            "spec": {"unschedulable": node.unschedulable, "taints": taints},
            "status": {"allocatable": {"cpu": format!("{}m", node.cpu),
                "memory": node.memory.to_string(), "pods": node.pods.to_string()}},
        });
        self.snapshot.put_node(entry(value));
        self.cluster.nodes.retain(|other| other.name != node.name);
        self.cluster.nodes.push(node);
    }

    fn change_node(&mut self) {
        if self.cluster.nodes.is_empty() {
            return;
        }
        let mut node = self.cluster.nodes[self.below(self.cluster.nodes.len())].clone();
        self.shake(&mut node);
        // What is there stays, though it may be too much now.
        let taken = self.cluster.on(&node.name).map(|pod| pod.cpu).sum::<i64>();
        node.cpu = node.cpu.max(taken);
        let memory = self.cluster.on(&node.name).map(|pod| pod.memory).sum::<i64>();
        node.memory = node.memory.max(memory);
        node.pods = node.pods.max(self.cluster.on(&node.name).count() as i64);
        self.put(node);
    }

    fn remove_node(&mut self) {
        if self.cluster.nodes.len() < 2 {
            return;
        }
        let node = self.cluster.nodes.remove(self.below(self.cluster.nodes.len()));
        let gone: Vec<Pod> = self.cluster.on(&node.name).cloned().collect();
        self.snapshot.remove_node(&node.name);
        gone.iter().for_each(|pod| self.take_away(&pod.name));
    }

    fn remove_pod(&mut self) {
        if !self.cluster.placed.is_empty() {
            let at = self.below(self.cluster.placed.len());
            let name = self.cluster.placed[at].0.name.clone();
            self.take_away(&name);
        }
    }

    fn take_away(&mut self, name: &str) {
        self.cluster.placed.retain(|(pod, _)| pod.name != name);
        self.snapshot.remove_pod(&Key::new("default", name));
    }

    /// A kind of pod: anything that the plugins look at.
    fn kind(&self) -> Pod {
        let near = |rng: &Both, most: i64| Near {
            key: rng.one_of(&["kubernetes.io/hostname", "zone", "none"]).into(),
            app: rng.one_of(&["a", "b", "c"]).into(),
            weight: rng.below(most as usize) as i64 + 1,
        };
        let some = |chance: usize| -> Vec<Near> {
            (0..usize::from(self.one_in(chance))).map(|_| near(self, 100)).collect()
        };
        let constraint = |_| Constraint {
            key: self.one_of(&["kubernetes.io/hostname", "zone"]).into(),
            app: self.one_of(&["a", "b", "c"]).into(),
            skew: self.below(2) as i64 + 1,
            hard: self.one_in(2),
            min_domains: self.below(3),
            honours_taints: self.one_in(3),
            ignores_affinity: self.one_in(3),
        };
        let constraints = match self.one_in(3) {
            true => (0..self.below(2) + 1).map(constraint).collect(),
            false => Vec::new(),
        };
        Pod {
            app: self.one_of(&["a", "b", "c"]).into(),
            cpu: self.below(5) as i64 * 500,
            memory: self.below(3) as i64 * (512 << 20),
            priority: self.below(3) as i32,
            disk: self.one_in(4).then(|| self.one_of(&["ssd", "hdd"]).to_string()),
            prefers_zone: self.one_in(3).then(|| self.one_of(&["a", "b"]).to_string()),
            tolerates: self.one_in(3).then(|| self.one_of(&["k1", "k2", "*"]).to_string()),
            port: self.one_in(6).then_some(80),
            near: some(5),
            far: some(4),
            wants_near: some(5),
            wants_far: some(5),
            constraints,
            ..Pod::default()
        }
    }

    fn decide(&mut self, mut pod: Pod) {
        self.count += 1;
        pod.name = format!("p{}", self.count);
        pod.started = self.count as i64;
        let info = info(&pod);
        let rejections =
            self.cluster.nodes.iter().filter(|node| !self.cluster.feasible(&pod, node));
        let infeasible = rejections.count();
        let context = format!("CORACLE_SEED={}: {pod:?}", self.seed);
        match self.decider.schedule(&info, &self.snapshot) {
            Ok(placed) => {
                let right = match self.cluster.nodes.len() < LARGE {
                    true => self.cluster.best(&pod),
                    false => self.cluster.feasible_nodes(&pod),
                };
                assert!(
                    right.iter().any(|name| **name == *placed.node),
                    "{context} went to {} and not to {right:?}",
                    placed.node
                );
                self.snapshot.place(info, &placed.node);
                self.cluster.placed.push((pod, placed.node.to_string()));
            }
            Err(refused) => {
                assert_eq!(
                    infeasible,
                    self.cluster.nodes.len(),
                    "{context} found nothing: {}",
                    sentence(&refused)
                );
                self.make_room(&pod, refused.preemption, &context);
            }
        }
    }

    fn make_room(&mut self, pod: &Pod, preemption: Option<Preemption>, context: &str) {
        let wanted = self.cluster.victims(pod);
        let Some(Preemption::Found(found)) = preemption else {
            assert!(wanted.is_empty(), "{context}: could take the place of {wanted:?}");
            return;
        };
        let found = Place {
            node: found.node.to_string(),
            victims: found.pods.iter().map(|pod| pod.key.name.to_string()).collect(),
        };
        let right = match self.cluster.nodes.len() < LARGE {
            true => wanted.contains(&found),
            false => self.cluster.victims_at(pod, &found.node) == found.victims,
        };
        assert!(right, "{context}: takes {found:?} and not {wanted:?}");
        found.victims.iter().for_each(|name| self.take_away(name));
    }

    fn check_sums(&self) {
        for node in self.snapshot.nodes() {
            let pods = || self.cluster.on(&node.name);
            assert_eq!(node.pods.len(), pods().count(), "CORACLE_SEED={}", self.seed);
            let sum = pods().map(|pod| pod.cpu).sum::<i64>();
            assert_eq!(node.requested.cpu, sum, "CORACLE_SEED={}", self.seed);
            let room =
                sum <= node.allocatable.cpu && node.pods.len() as i64 <= node.allocatable.pods;
            assert!(room, "CORACLE_SEED={}: {} is overcommitted", self.seed, node.name);
        }
    }
}

fn entry<T: client::Object>(value: Value) -> Arc<Entry<T>> {
    Arc::new(Entry::decode(value.to_string().into()).unwrap())
}

fn info(pod: &Pod) -> Arc<PodInfo> {
    let selector = |app: &str| json!({"matchLabels": {"app": app}});
    let term = |near: &Near| json!({"topologyKey": near.key, "labelSelector": selector(&near.app)});
    let terms = |all: &[Near]| all.iter().map(term).collect::<Vec<_>>();
    let wishes = |all: &[Near]| {
        let wish = |near: &Near| json!({"weight": near.weight, "podAffinityTerm": term(near)});
        all.iter().map(wish).collect::<Vec<_>>()
    };
    let constraint = |constraint: &Constraint| {
        let mut value = json!({
            "topologyKey": constraint.key, "maxSkew": constraint.skew,
            "labelSelector": selector(&constraint.app),
            "whenUnsatisfiable": if constraint.hard { "DoNotSchedule" } else { "ScheduleAnyway" },
            "nodeTaintsPolicy": if constraint.honours_taints { "Honor" } else { "Ignore" },
            "nodeAffinityPolicy": if constraint.ignores_affinity { "Ignore" } else { "Honor" },
        });
        if constraint.min_domains > 0 {
            value["minDomains"] = constraint.min_domains.into();
        }
        value
    };
    let constraints: Vec<Value> = pod.constraints.iter().map(constraint).collect();
    let preferred: Vec<Value> = pod
        .prefers_zone
        .iter()
        .map(|zone| {
            let zone = json!({"key": "zone", "operator": "In", "values": [zone]});
            json!({"weight": 7, "preference": {"matchExpressions": [zone]}})
        })
        .collect();
    let tolerations: Vec<Value> = pod
        .tolerates
        .iter()
        .map(|key| match key.as_str() {
            "*" => json!({"operator": "Exists"}),
            key => json!({"key": key, "operator": "Exists"}),
        })
        .collect();
    let ports: Vec<Value> =
        pod.port.iter().map(|port| json!({"containerPort": port, "hostPort": port})).collect();
    let mut spec = json!({
        "priority": pod.priority,
        "containers": [{"name": "c", "ports": ports, "resources": {"requests":
            {"cpu": format!("{}m", pod.cpu), "memory": pod.memory.to_string()}}}],
        "tolerations": tolerations,
        "topologySpreadConstraints": constraints,
        "affinity": {
            "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred},
            "podAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": terms(&pod.near),
                "preferredDuringSchedulingIgnoredDuringExecution": wishes(&pod.wants_near)},
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": terms(&pod.far),
                "preferredDuringSchedulingIgnoredDuringExecution": wishes(&pod.wants_far)},
        },
    });
    if let Some(disk) = &pod.disk {
        spec["nodeSelector"] = json!({"disk": disk});
    }
    let started = proto::time::Time::from_unix(pod.started).to_string();
    let value = json!({
        "metadata": {"name": pod.name, "namespace": "default", "uid": pod.name,
            "labels": {"app": pod.app}},
        "spec": spec,
        "status": {"startTime": started},
    });
    Arc::new(PodInfo::new(Key::new("default", &pod.name), entry(value)))
}
