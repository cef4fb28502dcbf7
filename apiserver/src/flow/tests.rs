use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::queues::hand;
use super::*;

fn user(name: &str) -> User {
    User::new(name, &["system:authenticated"])
}

fn lists(user: &User) -> Asks<'_> {
    let what =
        What::Resource { group: "", resource: "pods", subresource: "", namespace: "a", name: "" };
    Asks { user, verb: "list", what }
}

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn level(name: &str, shares: u32, queuing: Option<Value>, lend: u32) -> config::PriorityLevel {
    let response = match queuing {
        Some(queuing) => json!({"type": "Queue", "queuing": queuing}),
        None => json!({"type": "Reject"}),
    };
    of(json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": shares, "lendablePercent": lend, "limitResponse": response}}}))
}

fn schema(name: &str, precedence: i32, level: &str, subject: Value) -> config::FlowSchema {
    of(json!({"metadata": {"name": name, "uid": name}, "spec": {
        "matchingPrecedence": precedence,
        "priorityLevelConfiguration": {"name": level},
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": [subject],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
                "clusterScope": true, "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]}]}]}}))
}

#[test]
fn the_first_schema_that_fits() {
    let everyone = json!({"kind": "Group", "group": {"name": "system:authenticated"}});
    let account = json!({"kind": "ServiceAccount",
        "serviceAccount": {"namespace": "kube-system", "name": "*"}});
    let config = Config::new(
        100,
        &[
            schema("everyone", 9000, "low", everyone.clone()),
            schema(
                "nodes",
                500,
                "high",
                json!({"kind": "Group", "group": {"name": "system:nodes"}}),
            ),
            schema("system", 700, "high", account),
            schema("dangling", 2, "nowhere", everyone),
        ],
        &[level("low", 10, None, 0), level("high", 30, None, 0)],
    );
    let admin = User::new("admin", &["system:masters", "system:authenticated"]);
    let node = User::new("system:node:n1", &["system:nodes", "system:authenticated"]);
    let found = |asks: &Asks| config.classify(asks).schema.name.to_string();
    assert_eq!(found(&lists(&admin)), "exempt");
    assert_eq!(found(&lists(&node)), "nodes");
    assert_eq!(found(&lists(&user("alice"))), "everyone");
    assert_eq!(found(&lists(&user("system:serviceaccount:kube-system:gc"))), "system");
    assert_eq!(found(&lists(&user("system:serviceaccount:other:gc"))), "everyone");
    assert_eq!(found(&lists(&User::new("x", &["system:unauthenticated"]))), "catch-all");
    let alice = user("alice");
    let path = |verb, path| Asks { user: &alice, verb, what: What::Path(path) };
    assert_eq!(found(&path("get", "/healthz")), "everyone");
    assert_eq!(found(&path("get", "/api/v1")), "everyone");
    assert_eq!(found(&path("post", "/healthz")), "catch-all");
    // 100 seats over 10 + 30 + 5 shares, rounded up.
    let seats = |name: &str| config.level(name).unwrap().limited.as_ref().unwrap().seats;
    assert_eq!((seats("low"), seats("high"), seats("catch-all")), (23, 67, 12));
    assert!(config.level("exempt").unwrap().limited.is_none());
}

#[test]
fn a_hand_holds_different_queues() {
    for flow in 0..200 {
        let hand = hand(&format!("flow-{flow}"), 64, 8);
        assert_eq!(hand.len(), 8);
        assert_eq!(hand.iter().collect::<BTreeSet<_>>().len(), 8);
        assert!(hand.iter().all(|index| *index < 64));
    }
}

/// A level `work` of four seats with queues, for everyone but nodes.
fn flow(clock: &Clock) -> Arc<Flow> {
    let flow = Flow::new(4, clock.clone());
    let queuing = json!({"queues": 16, "handSize": 4, "queueLengthLimit": 10});
    let everyone = json!({"kind": "Group", "group": {"name": "system:authenticated"}});
    let work = level("work", 1000, Some(queuing), 0);
    flow.configure(Config::new(4, &[schema("all", 9000, "work", everyone)], &[work]));
    flow
}

#[tokio::test(start_paused = true)]
async fn a_busy_flow_does_not_starve_another() {
    let clock = Clock::simulated(proto::time::Time::from_unix(0));
    let flow = flow(&clock);
    let (elephant, mouse) = (user("elephant"), user("mouse"));
    let mut seats = Vec::new();
    for _ in 0..4 {
        seats.push(flow.enter(&lists(&elephant)).await.unwrap());
    }
    // The elephant's hand is four queues of ten: the forty-first is refused.
    let mut waiting = Vec::new();
    for _ in 0..40 {
        let (_, waits) = flow.ask(&lists(&elephant)).unwrap();
        waiting.push(waits.expect("no seat is free"));
    }
    let refused = flow.ask(&lists(&elephant)).map(drop).unwrap_err();
    assert_eq!((&*refused.level, refused.reason), ("work", "queue-full"));
    assert_eq!(refused.status().code, 429);
    assert_eq!(refused.status().details.unwrap().retry_after_seconds, Some(1));
    let (_, mouse) = flow.ask(&lists(&mouse)).unwrap();
    let mut mouse = mouse.expect("it waits, too");
    // It gets one of the next few seats, not the forty-first.
    let mut served = 0;
    while mouse.try_recv().is_err() {
        drop(seats.pop().expect("the mouse has had its turn before all seats were given back"));
        served += 1;
    }
    assert!(served <= 4, "{served}");
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_too_long_is_refused_and_leaves_no_trace() {
    let clock = Clock::simulated(proto::time::Time::from_unix(0));
    let flow = flow(&clock);
    let alice = user("alice");
    let asks = lists(&alice);
    let mut seats = Vec::new();
    for _ in 0..4 {
        seats.push(flow.enter(&asks).await.unwrap());
    }
    assert_eq!(flow.enter(&asks).await.map(drop).unwrap_err().reason, "time-out");
    drop(seats);
    let load = flow.loads().into_iter().find(|load| &*load.level == "work").unwrap();
    assert_eq!((load.executing, load.seats), (0, 4));
    let _seat = flow.enter(&asks).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn idle_seats_are_lent_and_the_exempt_never_wait() {
    let clock = Clock::simulated(proto::time::Time::from_unix(0));
    let flow = Flow::new(10, clock);
    let everyone = json!({"kind": "Group", "group": {"name": "system:authenticated"}});
    let levels = [level("work", 45, None, 0), level("idle", 50, None, 50)];
    flow.configure(Config::new(10, &[schema("all", 9000, "work", everyone)], &levels));
    // 5 of its own, and half of the other's 5 (rounded).
    let alice = user("alice");
    let mut seats = Vec::new();
    while let Ok((admitted, None)) = flow.ask(&lists(&alice)) {
        seats.push(admitted);
    }
    assert_eq!(seats.len(), 8);
    let admin = User::new("admin", &["system:masters"]);
    assert_eq!(&*flow.enter(&lists(&admin)).await.unwrap().level, "exempt");
}
