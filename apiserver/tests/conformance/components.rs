//! ComponentStatuses, health checks, and the version.

use client::Clock;
use proto::time::Time;
use serde_json::{Value, json};

use crate::api::Api;

const COMPONENTS: &str = "/api/v1/componentstatuses";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

fn health(component: &Value) -> (String, String) {
    let condition = &component["conditions"][0];
    assert_eq!(condition["type"], "Healthy", "{component}");
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_string();
    (text("status"), text("message"))
}

#[tokio::test(start_paused = true)]
async fn components_are_healthy_while_they_hold_their_leases() {
    let now = Time::from_unix(1_800_000_000);
    let api = Api::start_at(Clock::simulated(now), &[]).await;
    let reply = api.get(COMPONENTS).await;
    assert_eq!(reply.warnings(), ["299 - \"v1 ComponentStatus is deprecated in v1.19+\""]);
    let list = reply.expect(200);
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ComponentStatusList"), &json!("v1")));
    let names: Vec<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["controller-manager", "etcd-0", "scheduler"]);
    assert!(list["items"][0].get("kind").is_none());
    let of = async |name: &str| health(&api.get(&format!("{COMPONENTS}/{name}")).await.expect(200));
    assert_eq!(of("etcd-0").await, ("True".into(), "ok".into()));
    let nobody = "nobody holds the lease kube-system/kube-scheduler";
    assert_eq!(of("scheduler").await, ("False".into(), nobody.into()));
    let lease = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"holderIdentity": "a",
            "leaseDurationSeconds": 15, "renewTime": now.micro()}})
    };
    for name in ["kube-scheduler", "kube-controller-manager"] {
        api.post(LEASES, lease(name)).await.expect(201);
    }
    for name in names {
        let one = api.get(&format!("{COMPONENTS}/{name}")).await.expect(200);
        assert_eq!(
            (&one["kind"], &one["metadata"]["name"]),
            (&json!("ComponentStatus"), &json!(name))
        );
        assert_eq!(health(&one), ("True".into(), "ok".into()));
    }
    tokio::time::advance(std::time::Duration::from_secs(20)).await;
    assert_eq!(of("scheduler").await.0, "False", "its lease has run out");
    assert_eq!(api.get(&format!("{COMPONENTS}/other")).await.expect(404)["reason"], "NotFound");
}

#[tokio::test]
async fn components_in_every_form() {
    let api = Api::start().await;
    let get = async |path: &str, accept: &str| {
        api.send(&format!("GET {path}"), &[&format!("accept: {accept}")], "").await
    };
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let list = get(COMPONENTS, table).await.expect(200);
    let columns: Vec<&Value> =
        list["columnDefinitions"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(columns, ["Name", "Status", "Message", "Error"]);
    assert_eq!(list["rows"][1]["cells"], json!(["etcd-0", "Healthy", "ok", ""]));
    let one = get(&format!("{COMPONENTS}/etcd-0"), table).await.expect(200);
    assert_eq!(one["rows"][0]["cells"][1], "Healthy");
    let binary = get(COMPONENTS, "application/vnd.kubernetes.protobuf").await;
    assert!(binary.bytes.starts_with(b"k8s\0"));
    let text = b"ComponentStatusList";
    assert!(binary.bytes.windows(text.len()).any(|part| part == text));
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let partial = get(COMPONENTS, partial).await.expect(200);
    assert_eq!(partial["items"][2]["metadata"]["name"], "scheduler");
    let selected = format!("{COMPONENTS}?fieldSelector=metadata.name%3Detcd-0");
    assert_eq!(api.get(&selected).await.expect(200)["items"].as_array().unwrap().len(), 1);
    let none = format!("{COMPONENTS}?labelSelector=a");
    assert_eq!(api.get(&none).await.expect(200)["items"], json!([]));
    for path in [COMPONENTS.to_string(), format!("{COMPONENTS}/etcd-0")] {
        assert_eq!(api.delete(&path).await.code, 405, "{path}");
    }
    assert_eq!(api.get(&format!("{COMPONENTS}?watch=true")).await.code, 405);
}

/// Of upstream's checks those whose work there is here.
const CHECKS: [&str; 11] = [
    "ping",
    "log",
    "etcd",
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/bootstrap-controller",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
];

#[tokio::test]
async fn health_checks_are_named_and_asked_one_by_one() {
    let api = Api::start().await;
    for (endpoint, own) in
        [("healthz", vec![]), ("livez", vec![]), ("readyz", vec!["informer-sync", "shutdown"])]
    {
        let verbose = api.get(&format!("/{endpoint}?verbose=1")).await;
        assert_eq!(verbose.code, 200, "{}", verbose.text());
        let lines: Vec<String> = verbose.text().lines().map(String::from).collect();
        for name in CHECKS.iter().chain(&own) {
            assert!(lines.contains(&format!("[+]{name} ok")), "{endpoint} {name}: {lines:?}");
            let one = api.get(&format!("/{endpoint}/{name}")).await;
            assert_eq!((one.code, &*one.text()), (200, "ok"), "{endpoint} {name}");
        }
        assert_eq!(lines.last().unwrap(), &format!("{endpoint} check passed"));
        assert_eq!(api.get(&format!("/{endpoint}")).await.text(), "ok");
        assert_eq!(api.get(&format!("/{endpoint}/nothing")).await.code, 404);
        let excluded = api.get(&format!("/{endpoint}?verbose&exclude=etcd&exclude=x")).await.text();
        assert!(excluded.contains("[+]etcd excluded: ok\n"), "{excluded}");
        let warning = "warn: some health checks cannot be excluded: no matches for \"x\"\n";
        assert!(excluded.contains(warning), "{excluded}");
    }
}

#[tokio::test]
async fn the_version_is_of_whole_numbers() {
    let api = Api::start().await;
    let version = api.get("/version").await.expect(200);
    for field in ["major", "minor"] {
        assert!(version[field].as_str().unwrap().parse::<u32>().is_ok(), "{version}");
    }
    for field in [
        "gitVersion",
        "gitCommit",
        "gitTreeState",
        "buildDate",
        "goVersion",
        "compiler",
        "platform",
    ] {
        assert!(version[field].is_string(), "{field}");
    }
}
