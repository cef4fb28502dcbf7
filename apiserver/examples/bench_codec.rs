//! Microseconds per Pod for what every write does before the store. Run with
//! `cargo run --release -p apiserver --example bench_codec`; the ratio is to serde_json's parsing of
//! the same bytes in the same run.

use std::hint::black_box;
use std::time::Duration;

use apiserver::codec::{self, Format};
use apiserver::kinds::{self, Context};
use apiserver::{openapi, patch, schema};
use client::Clock;
use proto::kind::{POD, ROWS};
use proto::time::Time;
use serde_json::{Value, json};

fn main() {
    let clock = Clock::system();
    let start = clock.instant();
    let found = schema::of(&POD).is_some();
    println!("schema table: loaded in {:?} ({found})", start.elapsed());

    let body = pod().to_string();
    let parse = per_pod(&clock, "serde_json parse", None, || {
        black_box(serde_json::from_str::<Value>(&body).expect("valid"));
    });
    let measure = |what: &str, run: &mut dyn FnMut()| {
        per_pod(&clock, what, Some(parse), run);
    };
    measure("decode + check", &mut || {
        black_box(codec::decode(Format::Json, body.as_bytes(), Some(&POD)).expect("valid"));
    });
    measure("decode + check + default", &mut || {
        let mut decoded = codec::decode(Format::Json, body.as_bytes(), Some(&POD)).expect("valid");
        schema::default(&POD, &mut decoded.value);
        black_box(decoded);
    });
    let mut stored = pod();
    schema::check(&POD, &mut stored).expect("valid");
    schema::default(&POD, &mut stored);
    let clone = per_pod(&clock, "clone", Some(parse), || drop(black_box(stored.clone())));
    println!("  (the next lines clone the object once each: {clone:?})");
    let strategy = kinds::strategy(&POD);
    let user = &proto::user::User::default();
    let ctx = Context { row: &POD, now: Time::from_unix(1), random: 1, user, subresource: "" };
    measure("the kind's defaults, preparation and rules", &mut || {
        let mut new = stored.clone();
        strategy.default(&mut new);
        strategy.prepare_create(&mut new, &ctx);
        assert!(black_box(kinds::validate_create(&new, &ctx)).is_empty());
    });
    measure("table cells (no clone)", &mut || {
        black_box(strategy.cells(&stored, Time::from_unix(1)));
    });
    measure("record a create", &mut || {
        let mut new = stored.clone();
        record(None, &mut new, "");
        black_box(new);
    });
    let mut old = stored.clone();
    record(None, &mut old, "");
    let mut status = old.clone();
    status["status"] = json!({"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}]});
    measure("record a status update", &mut || {
        let mut new = status.clone();
        record(Some(&old), &mut new, "status");
        black_box(new);
    });
    measure("clone with managedFields", &mut || drop(black_box(status.clone())));
    let change = json!({"metadata": {"annotations": {"a": "b"}},
        "spec": {"containers": [{"name": "web", "image": "nginx:2"}]}});
    measure("strategic merge patch", &mut || {
        black_box(patch::strategic(&POD, &old, &change).expect("fits"));
    });
    measure("server-side apply, create", &mut || {
        black_box(patch::apply(&POD, None, &pod(), "x", false, "", Time::from_unix(9)))
            .expect("new");
    });
    let live = patch::apply(&POD, None, &pod(), "x", false, "", Time::from_unix(1)).expect("new");
    let mut applied = pod();
    applied["spec"]["containers"][0]["image"] = "nginx:2".into();
    measure("server-side apply, update", &mut || {
        black_box(patch::apply(&POD, Some(&live), &applied, "x", false, "", Time::from_unix(2)))
            .expect("no conflict");
    });
    if let Some(path) = std::env::args().nth(1) {
        let body = std::fs::read(&path).expect("a protobuf Pod");
        measure("decode protobuf + check (the file given)", &mut || {
            black_box(codec::decode(Format::Protobuf, &body, Some(&POD)).expect("valid"));
        });
    }
    let start = clock.instant();
    let bytes = openapi::v3_document("", "v1", ROWS).map_or(0, |bytes| bytes.len());
    println!("openapi api/v1: {bytes} bytes in {:?}", start.elapsed());
}

fn record(old: Option<&Value>, new: &mut Value, subresource: &str) {
    let now = Time::from_unix(1);
    patch::managed_fields::record(&POD, old, new, "bench", subresource, &[], now);
}

/// The best of many short series: shorter than a time slice, so that other work on the machine does
/// not count.
fn per_pod(
    clock: &Clock,
    what: &str,
    reference: Option<Duration>,
    mut run: impl FnMut(),
) -> Duration {
    const ROUNDS: u32 = 25;
    let series = (0..400).map(|_| {
        let start = clock.instant();
        (0..ROUNDS).for_each(|_| run());
        start.elapsed() / ROUNDS
    });
    let best = series.min().unwrap_or_default();
    let ratio = reference.map_or(1.0, |reference| best.as_secs_f64() / reference.as_secs_f64());
    println!("{what:<44} {:>8.2} µs {ratio:>6.2}×", best.as_secs_f64() * 1e6);
    best
}

/// A Pod as a ReplicaSet makes it, about 2 KB.
fn pod() -> Value {
    let probe = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 5});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web-6d4cf56db6-x7k2p", "namespace": "default", "generateName": "web-6d4cf56db6-",
            "labels": {"app": "web", "pod-template-hash": "6d4cf56db6", "tier": "front"},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                "name": "web-6d4cf56db6", "uid": "5f3a8f5e-6a1e-4c43-9f0c-0d8a1c2b3d4e",
                "controller": true, "blockOwnerDeletion": true}],
        },
        "spec": {
            "containers": [
                {"name": "web", "image": "nginx:1", "imagePullPolicy": "IfNotPresent",
                    "ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 9090}],
                    "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"},
                        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                    "resources": {"requests": {"cpu": "100m", "memory": "128Mi"},
                        "limits": {"cpu": "1", "memory": "256Mi"}},
                    "readinessProbe": probe, "livenessProbe": probe,
                    "volumeMounts": [{"name": "config", "mountPath": "/etc/web"}]},
                {"name": "log", "image": "fluent:2", "args": ["-c", "/etc/log.conf"],
                    "volumeMounts": [{"name": "config", "mountPath": "/etc/log"}]},
            ],
            "volumes": [{"name": "config", "configMap": {"name": "web"}}],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists",
                "effect": "NoExecute", "tolerationSeconds": 300}],
            "nodeSelector": {"disk": "ssd"},
            "serviceAccountName": "default",
        },
    })
}
