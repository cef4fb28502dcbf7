use proto::view::node::Node;
use proto::view::pod::Pod;
use serde_json::{Value, json};

use super::*;

mod extended_resources;

const DRIVER: &str = "gpu.example.com";

fn entry<T: client::Object>(value: Value) -> Arc<Entry<T>> {
    Arc::new(Entry::decode(value.to_string().into()).unwrap())
}

/// A slice of the pool `node`, whole, of that node.
fn slice(node: &str, devices: Value) -> Value {
    json!({"metadata": {"name": format!("{node}-gpus")}, "spec": {"driver": DRIVER,
        "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
        "nodeName": node, "devices": devices}})
}

fn gpu(name: &str, more: Value) -> Value {
    let mut device = json!({"name": name});
    for (key, value) in more.as_object().unwrap() {
        device[key.as_str()] = value.clone();
    }
    device
}

fn exactly(name: &str, more: Value) -> Value {
    let mut wanted = json!({"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1});
    for (key, value) in more.as_object().unwrap() {
        wanted[key.as_str()] = value.clone();
    }
    json!({"name": name, "exactly": wanted})
}

fn claim(name: &str, devices: Value, status: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": "1"},
        "spec": {"devices": devices}, "status": status})
}

fn world(slices: &[Value], claims: &[Value]) -> Devices {
    let mut devices = Devices::default();
    let select = format!("device.driver == {DRIVER:?}");
    let class = json!({"metadata": {"name": "gpu"},
        "spec": {"selectors": [{"cel": {"expression": select}}],
            "config": [{"opaque": {"driver": DRIVER, "parameters": {"from": "class"}}}]}});
    devices.put_class("gpu", Some(entry(class)));
    for slice in slices {
        let name = slice["metadata"]["name"].as_str().unwrap();
        devices.put_slice(name, Some(entry(slice.clone())));
    }
    for claim in claims {
        let key = Key::new("n", claim["metadata"]["name"].as_str().unwrap());
        devices.put_claim(key, Some(entry(claim.clone())));
    }
    devices
}

fn pod(name: &str, claims: &[&str]) -> PodInfo {
    let claims: Vec<Value> =
        claims.iter().map(|claim| json!({"name": claim, "resourceClaimName": claim})).collect();
    let pod = json!({"metadata": {"name": name, "namespace": "n", "uid": name},
        "spec": {"resourceClaims": claims}});
    PodInfo::new(Key::new("n", name), entry::<Pod>(pod))
}

fn node(name: &str) -> NodeInfo {
    let labels = json!({"zone": format!("zone-{name}")});
    NodeInfo::new(entry::<Node>(json!({"metadata": {"name": name, "labels": labels}})))
}

/// What the pod's claims get on the node: each device as `request=pool/device`.
fn found(devices: &Devices, claims: &[&str], on: &str) -> Result<Vec<String>, Lack> {
    let pod = pod("p", claims);
    let wishes = devices.wishes(&pod).map_err(Lack::Wrong)?;
    let grants = devices.on_node(&pod, &wishes, &devices.inventory(), &node(on))?;
    let results = grants.iter().filter_map(|grant| grant.allocation.as_ref());
    let results = results.flat_map(|allocation| &allocation.devices.results);
    Ok(results.map(|one| format!("{}={}/{}", one.request, one.pool, one.device)).collect())
}

fn allocated(device: &str, more: Value) -> Value {
    let mut result = json!({"request": "r", "driver": DRIVER, "pool": "a", "device": device});
    for (key, value) in more.as_object().unwrap() {
        result[key.as_str()] = value.clone();
    }
    json!({"allocation": {"devices": {"results": [result]}}})
}

fn requests(all: Value) -> Value {
    json!({ "requests": all })
}

fn none() -> Value {
    json!({})
}

#[test]
fn devices_for_requests() {
    let model = |model: &str| json!({"attributes": {"model": {"string": model}}});
    let three = slice(
        "a",
        json!([gpu("x", model("small")), gpu("y", model("large")), gpu("z", model("large"))]),
    );
    let large = json!({"selectors": [
        {"cel": {"expression": format!("device.attributes[{DRIVER:?}].model == 'large'")}}]});
    let either = json!([{"name": "r", "firstAvailable": [
        {"name": "four", "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 4},
        {"name": "two", "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2}]}]);
    let matched = json!({"requests": [exactly("r", none()), exactly("s", none())],
        "constraints": [{"matchAttribute": format!("{DRIVER}/model")}]});
    let distinct = json!({"requests": [exactly("r", json!({"count": 2}))],
        "constraints": [{"requests": ["r"], "distinctAttribute": format!("{DRIVER}/model")}]});
    for (case, asked, on, expected) in [
        ("the first", requests(json!([exactly("r", none())])), "a", Ok(vec!["r=a/x"])),
        ("selected", requests(json!([exactly("r", large.clone())])), "a", Ok(vec!["r=a/y"])),
        ("elsewhere", requests(json!([exactly("r", none())])), "b", Err(Lack::None)),
        ("too many", requests(json!([exactly("r", json!({"count": 4}))])), "a", Err(Lack::None)),
        (
            "all of them",
            requests(json!([{"name": "r", "exactly": {"deviceClassName": "gpu",
                "allocationMode": "All"}}])),
            "a",
            Ok(vec!["r=a/x", "r=a/y", "r=a/z"]),
        ),
        (
            "who may have anything leaves the others theirs",
            requests(json!([exactly("r", json!({"count": 1})), exactly("s", large)])),
            "a",
            Ok(vec!["r=a/x", "s=a/y"]),
        ),
        ("the second best", requests(either), "a", Ok(vec!["r/two=a/x", "r/two=a/y"])),
        ("of one model", matched, "a", Ok(vec!["r=a/y", "s=a/z"])),
        ("of different models", distinct, "a", Ok(vec!["r=a/x", "r=a/y"])),
    ] {
        let devices = world(std::slice::from_ref(&three), &[claim("c", asked, none())]);
        let expected = expected.map(|all| all.into_iter().map(String::from).collect::<Vec<_>>());
        assert_eq!(found(&devices, &["c"], on), expected, "{case}");
    }
}

#[test]
fn what_others_have() {
    let two = slice("a", json!([gpu("x", none()), gpu("y", none())]));
    let one = || claim("c", requests(json!([exactly("r", none())])), none());
    let admin = claim("c", requests(json!([exactly("r", json!({"adminAccess": true}))])), none());
    let other = |name: &str, device: &str, more: Value| {
        claim(name, requests(json!([exactly("r", none())])), allocated(device, more))
    };
    let slices = [two];
    let got = |claims: &[Value]| found(&world(&slices, claims), &["c"], "a");
    assert_eq!(got(&[one(), other("o", "x", none())]), Ok(vec!["r=a/y".into()]));
    let full = [other("o", "x", none()), other("q", "y", none())];
    assert_eq!(got(&[one(), full[0].clone(), full[1].clone()]), Err(Lack::None));
    assert_eq!(got(&[admin, full[0].clone(), full[1].clone()]), Ok(vec!["r=a/x".into()]));
    let watched = other("o", "x", json!({"adminAccess": true}));
    assert_eq!(got(&[one(), watched]), Ok(vec!["r=a/x".into()]), "who looks takes nothing");
    // What has been decided counts before it is written.
    let both = [one(), claim("d", requests(json!([exactly("r", none())])), none())];
    let mut devices = world(&slices, &both);
    let pod_c = pod("p", &["c"]);
    let wishes = devices.wishes(&pod_c).unwrap();
    let grants = devices.on_node(&pod_c, &wishes, &devices.inventory(), &node("a")).unwrap();
    devices.assume(&pod_c.key, &grants);
    assert_eq!(found(&devices, &["d"], "a"), Ok(vec!["r=a/y".into()]));
    let why = "resource claim n/c is in the process of being allocated";
    assert_eq!(found(&devices, &["c"], "a"), Err(Lack::Wrong(why.into())));
    devices.release(&pod_c.key);
    assert_eq!(found(&devices, &["d"], "a"), Ok(vec!["r=a/x".into()]));
}

#[test]
fn pools_and_where_they_are() {
    let one = || [claim("c", requests(json!([exactly("r", none())])), none())];
    let got = |slices: &[Value], on: &str| found(&world(slices, &one()), &["c"], on);
    let old = slice("a", json!([gpu("x", none())]));
    let mut new = slice("a", json!([gpu("y", none())]));
    new["metadata"]["name"] = "newer".into();
    new["spec"]["pool"]["generation"] = 2.into();
    assert_eq!(got(&[old, new.clone()], "a"), Ok(vec!["r=a/y".into()]), "the newest counts");
    new["spec"]["pool"]["resourceSliceCount"] = 2.into();
    assert_eq!(got(&[new.clone()], "a"), Err(Lack::None), "a part of it is still to come");
    let all = claim(
        "c",
        requests(json!([{"name": "r", "exactly":
        {"deviceClassName": "gpu", "allocationMode": "All"}}])),
        none(),
    );
    let why = "claim n/c, request r: asks for all devices, but resource pool gpu.example.com/a is \
               currently being updated";
    assert_eq!(found(&world(&[new], &[all]), &["c"], "a"), Err(Lack::Wrong(why.into())));
    let mut anywhere = slice("a", json!([gpu("x", none())]));
    anywhere["spec"]["nodeName"] = Value::Null;
    anywhere["spec"]["allNodes"] = true.into();
    assert_eq!(got(&[anywhere.clone()], "b"), Ok(vec!["r=a/x".into()]));
    anywhere["spec"]["allNodes"] = Value::Null;
    anywhere["spec"]["nodeSelector"] = json!({"nodeSelectorTerms": [{"matchExpressions":
        [{"key": "zone", "operator": "In", "values": ["zone-b"]}]}]});
    assert_eq!(got(&[anywhere.clone()], "a"), Err(Lack::None));
    assert_eq!(got(&[anywhere], "b"), Ok(vec!["r=a/x".into()]));
    let mut each =
        slice("a", json!([gpu("x", json!({"nodeName": "a"})), gpu("y", json!({"nodeName": "b"}))]));
    each["spec"]["nodeName"] = Value::Null;
    each["spec"]["perDeviceNodeSelection"] = true.into();
    assert_eq!(got(&[each], "b"), Ok(vec!["r=a/y".into()]));
}

#[test]
fn taints_counters_and_shares() {
    let taint = json!({"taints": [{"key": "sick", "value": "yes", "effect": "NoSchedule"}]});
    let tainted = slice("a", json!([gpu("x", taint)]));
    let tolerations = json!({"tolerations": [{"key": "sick", "operator": "Exists"}]});
    let asks = |more: Value| claim("c", requests(json!([exactly("r", more)])), none());
    let got = |slices: &[Value], claims: &[Value]| found(&world(slices, claims), &["c"], "a");
    assert_eq!(got(std::slice::from_ref(&tainted), &[asks(none())]), Err(Lack::None));
    assert_eq!(got(&[tainted], &[asks(tolerations)]), Ok(vec!["r=a/x".into()]));

    // Two halves, or the whole.
    let part = |name: &str, memory: &str| {
        gpu(
            name,
            json!({"consumesCounters": [{"counterSet": "gpu-0",
            "counters": {"memory": {"value": memory}}}]}),
        )
    };
    let mut parts =
        slice("a", json!([part("whole", "80Gi"), part("h1", "40Gi"), part("h2", "40Gi")]));
    parts["spec"]["pool"]["resourceSliceCount"] = 2.into();
    let counters = json!({"metadata": {"name": "counters"}, "spec": {"driver": DRIVER,
        "pool": {"name": "a", "generation": 1, "resourceSliceCount": 2}, "nodeName": "a",
        "sharedCounters": [{"name": "gpu-0", "counters": {"memory": {"value": "80Gi"}}}]}});
    let parts = [parts, counters];
    assert_eq!(got(&parts, &[asks(none())]), Ok(vec!["r=a/whole".into()]));
    let half = claim("o", requests(json!([])), allocated("h1", none()));
    assert_eq!(got(&parts, &[asks(none()), half]), Ok(vec!["r=a/h2".into()]));
    assert_eq!(
        got(&parts, &[asks(json!({"count": 2}))]),
        Ok(vec!["r=a/h1".into(), "r=a/h2".into()]),
        "it goes back to what it chose first"
    );

    let shared = slice(
        "a",
        json!([gpu(
            "x",
            json!({"allowMultipleAllocations": true,
        "capacity": {"memory": {"value": "10Gi"}}})
        )]),
    );
    let portion = |amount: &str| asks(json!({"capacity": {"requests": {"memory": amount}}}));
    let share = json!({"shareID": "s", "consumedCapacity": {"memory": "8Gi"}});
    let other = claim("o", requests(json!([])), allocated("x", share));
    let slices = [shared];
    assert_eq!(got(&slices, &[portion("2Gi"), other.clone()]), Ok(vec!["r=a/x".into()]));
    assert_eq!(got(&slices, &[portion("3Gi"), other]), Err(Lack::None));
}

#[test]
fn what_is_written() {
    let devices = world(
        &[slice(
            "a",
            json!([gpu(
                "x",
                json!({"bindingConditions": ["ready"],
            "bindingFailureConditions": ["broken"]})
            )]),
        )],
        &[claim(
            "c",
            json!({"requests": [exactly("r", none())],
            "config": [{"requests": ["r"], "opaque": {"driver": DRIVER, "parameters": {}}},
                {"requests": ["other"], "opaque": {"driver": DRIVER, "parameters": {}}}]}),
            none(),
        )],
    );
    let pod = pod("p", &["c"]);
    let wishes = devices.wishes(&pod).unwrap();
    let grants = devices.on_node(&pod, &wishes, &devices.inventory(), &node("a")).unwrap();
    assert_eq!(
        json!(grants[0].allocation),
        json!({"devices": {
            "results": [{"request": "r", "driver": DRIVER, "pool": "a", "device": "x",
                "bindingConditions": ["ready"], "bindingFailureConditions": ["broken"]}],
            "config": [
                {"source": "FromClass", "requests": ["r"],
                    "opaque": {"driver": DRIVER, "parameters": {"from": "class"}}},
                {"source": "FromClaim", "requests": ["r"],
                    "opaque": {"driver": DRIVER, "parameters": {}}}]},
            "nodeSelector": {"nodeSelectorTerms": [{"matchFields":
                [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]}})
    );
}

#[test]
fn claims_that_are_not_to_be_had_yet() {
    let unknown = claim(
        "c",
        requests(json!([{"name": "r", "exactly":
        {"deviceClassName": "nic", "allocationMode": "ExactCount", "count": 1}}])),
        none(),
    );
    let got = |claims: &[Value]| found(&world(&[], claims), &["c"], "a");
    let wrong = |why: &str| Err(Lack::Wrong(why.to_string()));
    assert_eq!(got(&[]), wrong("could not find ResourceClaim \"n/c\""));
    assert_eq!(got(&[unknown]), wrong("request r: device class nic does not exist"));
    let mut going = claim("c", none(), none());
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert_eq!(got(&[going]), wrong("resourceclaim \"c\" is being deleted"));
    let mut there = allocated("x", none());
    there["allocation"]["nodeSelector"] = json!({"nodeSelectorTerms": [{"matchFields":
        [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]});
    let there = claim("c", none(), there);
    let devices = world(&[], &[there]);
    assert_eq!(found(&devices, &["c"], "a"), Ok(vec![]));
    assert_eq!(found(&devices, &["c"], "b"), Err(Lack::Elsewhere));
}

#[test]
fn drivers_say_when() {
    let with = |conditions: Value| {
        let mut status = allocated(
            "x",
            json!({"bindingConditions": ["ready"],
            "bindingFailureConditions": ["broken"]}),
        );
        status["devices"] = json!([{"driver": DRIVER, "pool": "a", "device": "x",
            "conditions": conditions}]);
        entry::<ResourceClaim>(claim("c", none(), status))
    };
    let is = |kind: &str| json!([{"type": kind, "status": "True"}]);
    assert_eq!(readiness(&with(json!([]))), Readiness::Waiting);
    assert_eq!(readiness(&with(is("ready"))), Readiness::Ready);
    assert_eq!(readiness(&with(is("broken"))), Readiness::Failed);
}
