//! Who makes room for whom: tables of clusters, and what DefaultPreemption makes of them.

use std::sync::Arc;

use client::{Entry, Key, Rng};
use scheduler::cycle::Decider;
use scheduler::explanation::sentence;
use scheduler::preemption::Preemption;
use scheduler::profile::Profile;
use scheduler::snapshot::{PodInfo, Snapshot};
use serde_json::{Value, json};

fn entry<T: client::Object>(value: Value) -> Arc<Entry<T>> {
    Arc::new(Entry::decode(value.to_string().into()).unwrap())
}

/// A node with four CPUs in its own zone.
fn node(name: &str, more: Value) -> Value {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    });
    json_patch::merge(&mut node, &more);
    node
}

/// A pod of that priority and so many CPUs.
fn pod(name: &str, priority: i32, cpu: &str, more: Value) -> Arc<PodInfo> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
        "spec": {"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
        "status": {"startTime": "2026-01-01T00:00:00Z"},
    });
    json_patch::merge(&mut pod, &more);
    Arc::new(PodInfo::new(Key::new("default", name), entry(pod)))
}

fn cluster(nodes: &[Value], pods: &[(&Arc<PodInfo>, &str)]) -> Snapshot {
    let mut cluster = Snapshot::default();
    nodes.iter().for_each(|node| cluster.put_node(entry(node.clone())));
    pods.iter().for_each(|(pod, node)| cluster.place(Arc::clone(pod), node));
    cluster
}

fn budget(cluster: &mut Snapshot, name: &str, app: &str, allowed: i64) {
    let budget = json!({"metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": app}}},
        "status": {"disruptionsAllowed": allowed}});
    cluster.budgets.put(&Key::new("default", name), Some(&entry(budget)));
}

/// `node: victims` in order, or the sentence that says why not.
fn outcome(pod: &Arc<PodInfo>, cluster: &Snapshot) -> Result<String, String> {
    let mut decider = Decider::new(Arc::new(Profile::default()), Rng::seeded(3));
    let refused = decider.schedule(pod, cluster).expect_err("no node has room");
    let twice = decider.schedule(pod, cluster).expect_err("no node has room");
    assert_eq!(refused.reasons, twice.reasons, "looking changes nothing");
    match &refused.preemption {
        Some(Preemption::Found(victims)) => {
            let names: Vec<&str> = victims.pods.iter().map(|pod| &*pod.key.name).collect();
            Ok(format!("{}: {}", victims.node, names.join(" ")))
        }
        _ => Err(sentence(&refused)),
    }
}

#[test]
fn the_least_harm_is_done() {
    let old = json!({"status": {"startTime": "2025-01-01T00:00:00Z"}});
    let none = json!({});
    for (what, nodes, pods, expected) in [
        ("one is enough", 1, vec![("x", 0, "3", &none, "n1"), ("y", 0, "1", &none, "n1")], "n1: x"),
        (
            "the least important goes",
            1,
            vec![("x", 5, "2", &none, "n1"), ("y", 3, "2", &none, "n1")],
            "n1: y",
        ),
        (
            "among equals the one that began last",
            1,
            vec![("x", 3, "2", &old, "n1"), ("y", 3, "2", &none, "n1")],
            "n1: y",
        ),
        (
            "the lowest highest priority",
            2,
            vec![("x", 5, "4", &none, "n1"), ("y", 3, "4", &none, "n2")],
            "n2: y",
        ),
        (
            "then the least sum, so the fewest",
            2,
            vec![
                ("x", 5, "2", &none, "n1"),
                ("y", 5, "2", &none, "n1"),
                ("z", 5, "2500m", &none, "n2"),
                ("w", 5, "1500m", &none, "n2"),
            ],
            "n1: y|n1: x|n2: z",
        ),
        (
            "then the one that began last",
            2,
            vec![("x", 5, "4", &old, "n1"), ("y", 5, "4", &none, "n2")],
            "n2: y",
        ),
    ] {
        let nodes: Vec<Value> =
            (1..=nodes).map(|number| node(&format!("n{number}"), json!({}))).collect();
        let placed: Vec<(Arc<PodInfo>, &str)> = pods
            .iter()
            .map(|(name, priority, cpu, more, node)| {
                (pod(name, *priority, cpu, (*more).clone()), *node)
            })
            .collect();
        let placed: Vec<(&Arc<PodInfo>, &str)> =
            placed.iter().map(|(pod, node)| (pod, *node)).collect();
        let said = outcome(&pod("p", 10, "2", json!({})), &cluster(&nodes, &placed)).unwrap();
        assert!(expected.split('|').any(|one| one == said), "{what}: {said}");
    }
}

#[test]
fn budgets_are_kept_where_that_is_possible() {
    let (x, y) = (
        pod("x", 1, "4", json!({})),
        pod("y", 5, "4", json!({"metadata": {"labels": {"app": "db"}}})),
    );
    let nodes = [node("n1", json!({})), node("n2", json!({}))];
    let mut both = cluster(&nodes, &[(&x, "n1"), (&y, "n2")]);
    let p = pod("p", 10, "2", json!({}));
    assert_eq!(outcome(&p, &both).as_deref(), Ok("n1: x"));
    budget(&mut both, "b", "web", 0);
    assert_eq!(outcome(&p, &both).as_deref(), Ok("n2: y"), "the more important, but not protected");
    budget(&mut both, "c", "db", 0);
    assert_eq!(outcome(&p, &both).as_deref(), Ok("n1: x"), "if none can be kept, none counts");
    budget(&mut both, "b", "web", 1);
    assert_eq!(outcome(&p, &both).as_deref(), Ok("n1: x"));

    // Of two alike, the protected one is reprieved first.
    let z = pod("z", 1, "2", json!({"metadata": {"labels": {"app": "db"}}}));
    let w = pod("w", 1, "2", json!({}));
    for (protected, victim) in [("web", "n1: z"), ("db", "n1: w")] {
        let mut one = cluster(&nodes[..1], &[(&z, "n1"), (&w, "n1")]);
        budget(&mut one, "b", protected, 0);
        assert_eq!(outcome(&p, &one).as_deref(), Ok(victim));
    }
}

#[test]
fn what_preemption_cannot_cure() {
    let low = pod("low", 0, "4", json!({}));
    let tainted = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    let tail = "no new claims to deallocate, preemption:";
    let one = [node("n1", json!({}))];
    let full = cluster(&one, &[(&low, "n1")]);
    let mixed = cluster(
        &[
            node("n1", json!({})),
            node("n2", tainted),
            node("n3", json!({"spec": {"unschedulable": true}})),
        ],
        &[(&pod("equal", 10, "4", json!({})), "n1")],
    );
    let near = json!({"spec": {"affinity": {"podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}}}});
    for (what, cluster, pod, expected) in [
        (
            "never",
            &full,
            pod("p", 10, "2", json!({"spec": {"preemptionPolicy": "Never"}})),
            format!(
                "0/1 nodes are available: 1 Insufficient cpu. {tail} not eligible due to preemptionPolicy=Never."
            ),
        ),
        (
            "equals",
            &full,
            pod("p", 0, "2", json!({})),
            format!(
                "0/1 nodes are available: 1 Insufficient cpu. {tail} 0/1 nodes are available: 1 No preemption victims found for incoming pod."
            ),
        ),
        (
            "more than the node has",
            &full,
            pod("p", 10, "5", json!({})),
            format!(
                "0/1 nodes are available: 1 Insufficient cpu. {tail} 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ),
        ),
        (
            "the wrong nodes",
            &mixed,
            pod("p", 10, "2", json!({})),
            format!(
                "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. {tail} 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
            ),
        ),
        (
            "company",
            &full,
            pod("p", 10, "0", near),
            format!(
                "0/1 nodes are available: 1 node(s) didn't match pod affinity rules. {tail} 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ),
        ),
    ] {
        assert_eq!(outcome(&pod, cluster).unwrap_err(), expected, "{what}");
    }
}

#[test]
fn more_than_cpu_can_be_freed() {
    let port = json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}});
    let far = json!({"spec": {"affinity": {"podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}}});
    let spread = json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
        "topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}});
    let other = json!({"metadata": {"labels": {"app": "other"}}});
    let quiet = |name: &str| pod(name, 0, "0", other.clone());
    let one = [node("n1", json!({}))];
    let hold = |more: &Value| pod("holder", 0, "0", more.clone());
    for (what, nodes, placed, wants, victim) in [
        ("a port", &one[..], vec![hold(&port), quiet("q")], port.clone(), "n1: holder"),
        ("distance", &one, vec![hold(&json!({})), quiet("q")], far.clone(), "n1: holder"),
        ("others' distance", &one, vec![hold(&far), quiet("q")], json!({}), "n1: holder"),
    ] {
        let placed: Vec<(&Arc<PodInfo>, &str)> = placed.iter().map(|pod| (pod, "n1")).collect();
        let said = outcome(&pod("p", 10, "0", wants), &cluster(nodes, &placed));
        assert_eq!(said.as_deref(), Ok(victim), "{what}");
    }
    // n2 has no CPU left for one that it may have; n1 would become too many by one.
    let nodes =
        [node("n1", json!({})), node("n2", json!({"status": {"allocatable": {"cpu": "0"}}}))];
    let (x, q) = (hold(&json!({})), quiet("q"));
    let uneven = cluster(&nodes, &[(&x, "n1"), (&q, "n1")]);
    let said = outcome(&pod("p", 10, "1", spread), &uneven);
    assert_eq!(said.as_deref(), Ok("n1: holder"));
}

#[test]
fn room_that_is_being_made_is_kept_for_whom_it_is_made() {
    let nodes = [node("n1", json!({})), node("n2", json!({}))];
    let leaving = |reason: &str| {
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:01:00Z"}, "status": {"conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": reason}]}})
    };
    let preempted = pod("x", 0, "4", leaving("PreemptionByScheduler"));
    let (p, y) = (pod("p", 10, "4", json!({})), pod("y", 0, "4", json!({})));
    let mut waits = cluster(&nodes, &[(&preempted, "n1"), (&y, "n2")]);
    waits.nominations.put(Arc::clone(&p), "n1");
    assert_eq!(
        outcome(&p, &waits).unwrap_err(),
        "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: not \
         eligible due to a terminating pod on the nominated node."
    );
    // Whom somebody else deletes, it does not wait for.
    waits.place(pod("x", 0, "4", leaving("EvictionByEvictionAPI")), "n1");
    assert!(outcome(&p, &waits).is_ok());
    // Where the node has become the wrong one, it looks elsewhere.
    let cordoned = json!({"spec": {"unschedulable": true}});
    waits.place(Arc::clone(&preempted), "n1");
    waits.put_node(entry(node("n1", cordoned)));
    assert_eq!(outcome(&p, &waits).as_deref(), Ok("n2: y"));

    // The room is free now: it is theirs who waited, not of who is less important.
    let mut decider = Decider::new(Arc::new(Profile::default()), Rng::seeded(3));
    let mut free = cluster(&nodes[..1], &[]);
    free.nominations.put(Arc::clone(&p), "n1");
    let (lower, higher) = (pod("l", 9, "1", json!({})), pod("h", 11, "4", json!({})));
    let refused = decider.schedule(&lower, &free).unwrap_err();
    assert_eq!(refused.reasons.keys().collect::<Vec<_>>(), ["Insufficient cpu"]);
    assert!(decider.schedule(&higher, &free).is_ok());
    assert!(decider.schedule(&p, &free).is_ok());
    // Who waits for its node goes there, though another is emptier.
    let mut two = cluster(&nodes, &[(&pod("z", 20, "1", json!({})), "n2")]);
    let small = pod("s", 10, "1", json!({}));
    two.nominations.put(Arc::clone(&small), "n2");
    assert_eq!(&*decider.schedule(&small, &two).unwrap().node, "n2");
}
