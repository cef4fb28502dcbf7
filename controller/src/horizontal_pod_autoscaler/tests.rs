use super::*;
use decide::{Reading, needs_metrics};
use proto::time::Time;
use proto::view::Condition;
use replicas::{Sample, Samples};
use serde_json::json;

const NOW: i64 = 10_000;

fn autoscaler(spec: Value) -> HorizontalPodAutoscaler {
    let mut object = json!({
        "metadata": {"name": "h", "namespace": "a"},
        "spec": {"minReplicas": 1, "maxReplicas": 10, "metrics": [{"type": "Resource",
            "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 50}}}]},
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        object["spec"][field] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

/// A pod that requests a tenth of a CPU and was ready long ago.
fn pod(name: &str, changes: Value) -> Arc<Entry<Pod>> {
    let mut pod = json!({
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]},
        "status": {"phase": "Running", "startTime": Time::from_unix(0), "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": Time::from_unix(9)}]},
    });
    for (field, value) in changes.as_object().into_iter().flatten() {
        pod[field] = value.clone();
    }
    Arc::new(Entry::decode(pod.to_string().into()).unwrap())
}

fn samples(used: &[(&str, i64)]) -> Reading {
    let sample = |milli: i64| Sample { milli, at: Time::from_unix(NOW), window: PERIOD };
    let used = used.iter().map(|(name, milli)| (name.to_string(), sample(*milli)));
    Reading::Pods(used.collect::<Samples>())
}

fn scale(replicas: i32) -> Scale {
    Scale { wanted: replicas, there: replicas, selector: "app=x".into() }
}

fn decide(
    autoscaler: &HorizontalPodAutoscaler,
    replicas: i32,
    pods: &[Arc<Entry<Pod>>],
    readings: &[Result<Reading, String>],
    history: &mut History,
) -> Decision {
    let scale = scale(replicas);
    let seen = Seen { scale: &scale, pods, readings, now: Time::from_unix(NOW) };
    decide::decide(autoscaler, &seen, history)
}

/// The wanted number, else the present one.
fn wanted(decision: &Decision, present: i32) -> i32 {
    decision.rescale.as_ref().map_or(present, |(replicas, _)| *replicas)
}

fn reason(decision: &Decision, kind: &str) -> String {
    let condition = Condition::find(&decision.status.conditions, kind);
    condition.map_or("-".into(), |one| format!("{} {}", one.status, one.reason))
}

#[test]
fn utilization() {
    let terminating = json!({"metadata": {"name": "c",
        "deletionTimestamp": Time::from_unix(NOW)}});
    let pending = json!({"status": {"phase": "Pending"}});
    let starting = json!({"status": {"phase": "Running", "startTime": Time::from_unix(NOW - 60),
        "conditions": [{"type": "Ready", "status": "False",
            "lastTransitionTime": Time::from_unix(NOW - 60)}]}});
    let none = json!({});
    for (case, third, used, expected) in [
        ("at target", &none, vec![("a", 50), ("b", 50), ("c", 50)], 3),
        ("within tolerance", &none, vec![("a", 55), ("b", 55), ("c", 55)], 3),
        ("above", &none, vec![("a", 100), ("b", 100), ("c", 100)], 6),
        ("a little above", &none, vec![("a", 60), ("b", 60), ("c", 60)], 4),
        ("below", &none, vec![("a", 20), ("b", 10), ("c", 10)], 1),
        // Who is missing counts as using nothing on the way up, all it may on the way down.
        ("missing, up", &none, vec![("a", 100), ("b", 100)], 4),
        ("missing, down", &none, vec![("a", 10), ("b", 10)], 3),
        ("missing, and that would turn it", &none, vec![("a", 60), ("b", 60)], 3),
        ("terminating", &terminating, vec![("a", 100), ("b", 100), ("c", 100)], 4),
        ("pending, up", &pending, vec![("a", 100), ("b", 100)], 4),
        ("pending, down", &pending, vec![("a", 10), ("b", 10)], 1),
        ("starting", &starting, vec![("a", 100), ("b", 100), ("c", 900)], 4),
    ] {
        let pods = [pod("a", none.clone()), pod("b", none.clone()), pod("c", third.clone())];
        let readings = [Ok(samples(&used))];
        let decision =
            decide(&autoscaler(none.clone()), 3, &pods, &readings, &mut History::default());
        // Without the wait before it shrinks.
        let status = &decision.status;
        let shrinks = reason(&decision, "AbleToScale") == "True ScaleDownStabilized";
        assert_eq!(wanted(&decision, 3), expected.max(3), "{case}: {status:?}");
        assert_eq!(shrinks, expected < 3, "{case}: {status:?}");
    }
}

#[test]
fn the_status_says_what_was_measured() {
    let pods = [pod("a", json!({})), pod("b", json!({}))];
    let readings = [Ok(samples(&[("a", 100), ("b", 60)]))];
    let autoscaler = autoscaler(json!({}));
    let decision = decide(&autoscaler, 2, &pods, &readings, &mut History::default());
    let expected = json!([{"type": "Resource", "resource": {"name": "cpu",
        "current": {"averageValue": "80m", "averageUtilization": 80}}}]);
    assert_eq!(json!(decision.status.current_metrics), expected);
    let why = "cpu resource utilization (percentage of request) above target";
    assert_eq!(decision.rescale, Some((4, why.into())));
    assert_eq!(reason(&decision, "ScalingActive"), "True ValidMetricFound");
    assert_eq!(reason(&decision, "ScalingLimited"), "False DesiredWithinRange");
}

#[test]
fn what_cannot_be_measured() {
    let no_request = json!({"spec": {"containers": [{"name": "c"}]}});
    let of = |pods: &[Arc<Entry<Pod>>], reading: Result<Reading, String>| {
        let decision = decide(&autoscaler(json!({})), 1, pods, &[reading], &mut History::default());
        assert_eq!(decision.rescale, None);
        assert_eq!(reason(&decision, "ScalingActive"), "False FailedGetResourceMetric");
        let active = Condition::find(&decision.status.conditions, "ScalingActive").unwrap();
        let prefix = "the HPA was unable to compute the replica count: failed to get cpu \
                      utilization: ";
        let last = &decision.warnings.last().unwrap().1;
        assert!(last.starts_with("invalid metrics (1 invalid out of 1), first error is: "));
        active.message.strip_prefix(prefix).unwrap().to_string()
    };
    assert_eq!(
        of(&[pod("a", json!({}))], Err("unable to fetch".into())),
        "unable to get metrics for resource cpu: unable to fetch"
    );
    assert_eq!(
        of(&[pod("a", no_request)], Ok(samples(&[("a", 9)]))),
        "missing request for cpu in container c of Pod a"
    );
    assert_eq!(
        of(&[pod("a", json!({}))], Ok(samples(&[]))),
        "did not receive metrics for targeted pods (pods might be unready)"
    );
    assert_eq!(
        of(&[], Ok(samples(&[]))),
        "no pods returned by selector while calculating replica count"
    );
}

#[test]
fn several_metrics() {
    let source = |name: &str, target: Value| json!({"metric": {"name": name}, "target": target});
    let mut object = source("rate", json!({"type": "Value", "value": "100"}));
    object["describedObject"] = json!({"kind": "Ingress", "name": "main"});
    let spec = json!({"metrics": [
        {"type": "Pods", "pods": source("hits", json!({"type": "AverageValue",
            "averageValue": "10"}))},
        {"type": "Object", "object": object},
        {"type": "External", "external": source("queue", json!({"type": "AverageValue",
            "averageValue": "30"}))},
    ]});
    let autoscaler = autoscaler(spec);
    let pods = [pod("a", json!({})), pod("b", json!({}))];
    let hits = |each: i64| Ok(samples(&[("a", each * 1000), ("b", each * 1000)]));
    let total = |value: i64| Ok(Reading::Total(value * 1000));
    let failed = || Err("gone".to_string());
    for (readings, expected, active) in [
        ([hits(10), total(100), total(60)], 2, "True ValidMetricFound"),
        ([hits(15), total(100), total(60)], 3, "True ValidMetricFound"),
        ([hits(10), total(190), total(60)], 4, "True ValidMetricFound"),
        ([hits(10), total(100), total(100)], 4, "True ValidMetricFound"),
        // One that works may let it grow, but not shrink.
        ([hits(15), failed(), failed()], 3, "True ValidMetricFound"),
        ([hits(1), failed(), total(1)], 2, "False FailedGetObjectMetric"),
    ] {
        let decision = decide(&autoscaler, 2, &pods, &readings, &mut History::default());
        let said = (wanted(&decision, 2), reason(&decision, "ScalingActive"));
        assert_eq!(said, (expected, active.into()), "{readings:?}");
    }
}

#[test]
fn bounds_need_no_metrics() {
    for (least, replicas, expected, active) in
        [(2, 1, 2, "-"), (2, 12, 10, "-"), (2, 0, 0, "False ScalingDisabled")]
    {
        let autoscaler = autoscaler(json!({ "minReplicas": least }));
        assert!(!needs_metrics(&autoscaler, &scale(replicas)));
        let decision = decide(&autoscaler, replicas, &[], &[], &mut History::default());
        assert_eq!(wanted(&decision, replicas), expected);
        assert_eq!(reason(&decision, "ScalingActive"), active);
    }
}

#[test]
fn limits() {
    let behavior = json!({
        "scaleUp": {"stabilizationWindowSeconds": 60, "selectPolicy": "Max", "policies": [
            {"type": "Pods", "value": 2, "periodSeconds": 60},
            {"type": "Percent", "value": 50, "periodSeconds": 60}]},
        "scaleDown": {"stabilizationWindowSeconds": 60, "selectPolicy": "Min", "policies": [
            {"type": "Pods", "value": 4, "periodSeconds": 60},
            {"type": "Percent", "value": 10, "periodSeconds": 60}]},
    });
    let off = json!({"scaleDown": {"selectPolicy": "Disabled", "policies": [
        {"type": "Pods", "value": 4, "periodSeconds": 60}]}});
    let none = Value::Null;
    let ago = |seconds: i64, number: i32| vec![(Time::from_unix(NOW - seconds), number)];
    let empty = || Vec::new();
    for (case, behavior, history, current, wanted, expected) in [
        ("doubled at most", &none, [empty(), empty(), empty()], 3, 9, (6, "ScaleUpLimit")),
        ("small ones to four", &none, [empty(), empty(), empty()], 1, 9, (4, "ScaleUpLimit")),
        ("the most", &none, [empty(), empty(), empty()], 40, 90, (50, "TooManyReplicas")),
        ("the least", &none, [empty(), empty(), empty()], 4, 1, (2, "TooFewReplicas")),
        ("not yet down", &none, [ago(200, 4), empty(), empty()], 4, 3, (4, "DesiredWithinRange")),
        ("now down", &none, [ago(300, 4), empty(), empty()], 4, 3, (3, "DesiredWithinRange")),
        ("two more", &behavior, [empty(), empty(), empty()], 2, 9, (4, "ScaleUpLimit")),
        ("half more", &behavior, [empty(), empty(), empty()], 10, 40, (15, "ScaleUpLimit")),
        (
            "of which some were made",
            &behavior,
            [empty(), ago(30, 4), empty()],
            14,
            40,
            (15, "ScaleUpLimit"),
        ),
        ("long ago", &behavior, [empty(), ago(60, 4), empty()], 14, 40, (21, "ScaleUpLimit")),
        (
            "not yet up",
            &behavior,
            [ago(59, 10), empty(), empty()],
            10,
            40,
            (10, "DesiredWithinRange"),
        ),
        ("a tenth less", &behavior, [empty(), empty(), empty()], 20, 5, (18, "ScaleDownLimit")),
        (
            "of which some went",
            &behavior,
            [empty(), empty(), ago(30, 1)],
            19,
            5,
            (18, "ScaleDownLimit"),
        ),
        ("never less", &off, [empty(), empty(), empty()], 20, 5, (20, "ScaleDownLimit")),
    ] {
        let spec = json!({"minReplicas": 2, "maxReplicas": 50, "behavior": behavior});
        let [wants, added, removed] = history;
        let mut history = History { wanted: wants, added, removed };
        let now = Time::from_unix(NOW);
        let spec = autoscaler(spec).spec;
        let limited = behavior::limit(&spec, &mut history, current, wanted, now);
        assert_eq!((limited.replicas, limited.limit.0), expected, "{case}: {limited:?}");
    }
}

#[test]
fn what_is_long_ago_is_forgotten() {
    let mut history = History::default();
    history.scaled(Time::from_unix(0), 1, 3);
    history.scaled(Time::from_unix(3000), 3, 2);
    history.trim(Time::from_unix(4000));
    assert_eq!(
        history,
        History { removed: vec![(Time::from_unix(3000), 1)], ..History::default() }
    );
}

#[test]
fn names_of_external_metrics() {
    let selector = serde_json::from_value(json!({"matchLabels": {"queue": "work"}})).unwrap();
    assert_eq!(
        decide::shown(Some(&selector)),
        "&LabelSelector{MatchLabels:map[string]string{queue: work,},\
         MatchExpressions:[]LabelSelectorRequirement{},}"
    );
}
