//! Extended resources that a class of devices stands for.

use super::*;
use crate::devices::extended::made;

const GPU: &str = "example.com/gpu";

/// The class `gpu`, which is also [`GPU`].
fn backed_world(slices: &[Value], claims: &[Value]) -> Devices {
    let mut devices = world(slices, claims);
    devices.put_class("gpu", Some(class("gpu", "2026-01-01T00:00:00Z")));
    devices
}

fn class(name: &str, created: &str) -> Arc<Entry<DeviceClass>> {
    entry(json!({"metadata": {"name": name, "creationTimestamp": created},
        "spec": {"extendedResourceName": GPU}}))
}

fn asking(name: &str, spec: Value) -> PodInfo {
    let pod = json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": spec});
    PodInfo::new(Key::new("n", name), entry::<Pod>(pod))
}

fn container(name: &str, requests: Value) -> Value {
    json!({"name": name, "resources": {"requests": requests}})
}

fn one_gpu(name: &str) -> PodInfo {
    asking(name, json!({"containers": [container("c", json!({GPU: "1"}))]}))
}

fn having(name: &str, allocatable: Value) -> NodeInfo {
    let node = json!({"metadata": {"name": name}, "status": {"allocatable": allocatable}});
    NodeInfo::new(entry::<Node>(node))
}

fn granted(devices: &Devices, pod: &PodInfo, node: &NodeInfo) -> Result<Vec<Grant>, Lack> {
    let wishes = devices.wishes(pod).map_err(Lack::Wrong)?;
    devices.on_node(pod, &wishes, &devices.inventory(), node)
}

#[test]
fn which_class_stands_for_a_resource() {
    let implicit = "deviceclass.resource.kubernetes.io/gpu";
    let asks = |resource: &str| {
        asking("p", json!({"containers": [container("c", json!({resource: "1", "cpu": "1"}))]}))
    };
    let mut devices = backed_world(&[], &[]);
    let backs =
        |devices: &Devices, resource: &str| devices.backed(&asks(resource)).remove(resource);
    assert_eq!(backs(&devices, GPU).as_deref(), Some("gpu"));
    assert_eq!(backs(&devices, implicit).as_deref(), Some("gpu"));
    assert_eq!(backs(&devices, "deviceclass.resource.kubernetes.io/nic"), None);
    assert_eq!(backs(&devices, "example.com/nic"), None);
    devices.put_class("a", Some(class("a", "2026-01-01T00:00:00Z")));
    assert_eq!(backs(&devices, GPU).as_deref(), Some("a"), "the first by name");
    devices.put_class("z", Some(class("z", "2026-01-02T00:00:00Z")));
    assert_eq!(backs(&devices, GPU).as_deref(), Some("z"), "the newest");
    let none = asking("p", json!({"containers": [container("c", json!({GPU: "0"}))]}));
    assert!(devices.backed(&none).is_empty() && !devices.concern(&none));
}

#[test]
fn requests_of_containers() {
    let two = |name: &str, count: &str| container(name, json!({"cpu": "1", GPU: count}));
    let sidecar = |name: &str, count: &str| {
        let mut sidecar = two(name, count);
        sidecar["restartPolicy"] = "Always".into();
        sidecar
    };
    let cases: [(&str, Value, &str, &str); 5] = [
        (
            "each its own",
            json!({"containers": [two("a", "1"), container("x", json!({"cpu": "1"})), two("b", "2")]}),
            "container-0-request-1=1 container-2-request-1=2",
            "a=container-0-request-1 b=container-2-request-1",
        ),
        (
            "who ends before has the others' first",
            json!({"initContainers": [two("i", "1")], "containers": [two("a", "2")]}),
            "container-1-request-1=2",
            "a=container-1-request-1 i=container-1-request-1",
        ),
        (
            "and what it needs beyond that",
            json!({"initContainers": [two("i", "4")], "containers": [two("a", "2")]}),
            "container-0-request-1=2 container-1-request-1=2",
            "a=container-1-request-1 i=container-1-request-1 i=container-0-request-1",
        ),
        (
            "once for all who do",
            json!({"initContainers": [two("i", "1"), two("j", "3")]}),
            "container-1-request-1=3",
            "i=container-1-request-1 j=container-1-request-1",
        ),
        (
            "but nothing of sidecars that are there already",
            json!({"initContainers": [sidecar("s", "1"), two("i", "1")], "containers": []}),
            "container-0-request-1=1 container-1-request-1=1",
            "s=container-0-request-1 i=container-1-request-1",
        ),
    ];
    let devices = backed_world(&[], &[]);
    for (case, spec, requests, answers) in cases {
        let pod = asking("p", spec);
        let backed = devices.backed(&pod);
        let grant = made(&pod, &backed, &having("a", json!({}))).unwrap();
        let shown = grant.claim.spec.devices.requests.iter().map(|request| {
            let exactly = request.exactly.as_ref().unwrap();
            assert_eq!(
                (&*exactly.device_class_name, &*exactly.allocation_mode),
                ("gpu", "ExactCount")
            );
            format!("{}={}", request.name, exactly.count)
        });
        assert_eq!(shown.collect::<Vec<_>>().join(" "), requests, "{case}");
        let shown = grant.answers.iter().map(|answer| {
            assert_eq!(answer.resource_name, GPU);
            format!("{}={}", answer.container_name, answer.request_name)
        });
        assert_eq!(shown.collect::<Vec<_>>().join(" "), answers, "{case}");
    }
}

#[test]
fn what_is_made() {
    let pod = one_gpu("p");
    let devices = backed_world(&[], &[]);
    let grant = made(&pod, &devices.backed(&pod), &having("a", json!({}))).unwrap();
    assert_eq!(
        object(&grant.claim),
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"generateName": "p-extended-resources-", "namespace": "n",
                "annotations": {"resource.kubernetes.io/extended-resource-claim": "true"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p",
                    "controller": true}]},
            "spec": {"devices": {"requests": [{"name": "container-0-request-0", "exactly":
                {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1}}]}}})
    );
}

#[test]
fn devices_for_extended_resources() {
    let devices = backed_world(&[slice("a", json!([gpu("x", none())]))], &[]);
    let pod = one_gpu("p");
    let grants = granted(&devices, &pod, &having("a", json!({}))).unwrap();
    let results = &grants[0].allocation.as_ref().unwrap().devices.results;
    assert_eq!((&*results[0].device, &*results[0].request), ("x", "container-0-request-0"));
    assert!(grants[0].is_new());
    // A plugin's are the node's own, unless it has none.
    assert_eq!(granted(&devices, &pod, &having("a", json!({GPU: "1"}))).unwrap().len(), 0);
    assert_eq!(granted(&devices, &pod, &having("a", json!({GPU: "0"}))).unwrap().len(), 1);
    assert_eq!(granted(&devices, &pod, &having("b", json!({}))).unwrap_err(), Lack::None);
    let stale = extended_claim("p-extended-resources-abcde", "p", 1, none());
    let devices = backed_world(&[], &[stale]);
    assert_eq!(granted(&devices, &pod, &having("a", json!({}))).unwrap_err(), Lack::Stale);
}

/// A node's devices count in its score, those that somebody has as in use, where the node has none
/// of the resource by itself.
#[test]
fn devices_make_a_node_better() {
    use crate::plugins::strategy::{Amounts, Strategy};
    let held = json!({"allocation": {"devices": {"results": [{"request": "r", "driver": DRIVER,
        "pool": "b", "device": "x"}]}}});
    let two = json!([gpu("x", none()), gpu("y", none())]);
    let slices = [slice("a", two.clone()), slice("b", two)];
    let devices = backed_world(&slices, &[claim("held", json!({}), held)]);
    let pod = one_gpu("p");
    let weights = vec![(GPU.to_string(), 1)];
    let amounts = Amounts::requested(&pod.requests, &weights).with_devices(&pod, &devices);
    let score = |node: &NodeInfo| Strategy::LeastAllocated.score(amounts.after(node));
    assert_eq!(score(&having("a", json!({}))), 50, "one of two");
    assert_eq!(score(&having("b", json!({}))), 0, "both");
    assert_eq!(score(&having("a", json!({GPU: "4"}))), 75, "its own");
    assert_eq!(score(&having("c", json!({}))), 0, "nothing to score");
}

fn extended_claim(name: &str, pod: &str, revision: u64, status: Value) -> Value {
    let mut claim = claim(name, requests(json!([exactly("r", none())])), status);
    let meta = &mut claim["metadata"];
    meta["resourceVersion"] = revision.to_string().into();
    meta["annotations"] = json!({"resource.kubernetes.io/extended-resource-claim": "true"});
    meta["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": pod, "controller": true}]);
    claim
}

/// From the decision on, whatever the order in which news of the claim comes, the device is the pod's,
/// until the claim is gone or was never made.
#[test]
fn assumed_until_it_is_known() {
    let start = || {
        let mut devices = backed_world(&[slice("a", json!([gpu("x", none())]))], &[]);
        let pod = one_gpu("p");
        let grants = granted(&devices, &pod, &having("a", json!({}))).unwrap();
        devices.assume(&pod.key, &grants);
        devices
    };
    let free = |devices: &Devices| granted(devices, &one_gpu("q"), &having("a", json!({}))).is_ok();
    let key = || Key::new("n", "made");
    let put = |devices: &mut Devices, claim: Value| devices.put_claim(key(), Some(entry(claim)));
    let made = || extended_claim("made", "p", 5, none());
    let given = || extended_claim("made", "p", 7, allocated("x", none()));
    let view = |claim: Value| serde_json::from_value::<ResourceClaim>(claim).unwrap();

    let mut devices = start();
    assert!(!free(&devices));
    put(&mut devices, made());
    assert!(!free(&devices), "it is there, without its devices");
    devices.written(&view(given()));
    assert!(!free(&devices), "it was written, and nobody has seen it");
    put(&mut devices, given());
    assert!(!free(&devices), "it was seen");
    devices.put_claim(key(), None);
    assert!(free(&devices), "it is gone");

    let mut devices = start();
    put(&mut devices, given());
    devices.written(&view(given()));
    assert!(!free(&devices), "seen before it was told");
    devices.put_claim(key(), None);
    assert!(free(&devices));

    let mut devices = start();
    let earlier = extended_claim("earlier", "p", 3, allocated("x", none()));
    devices.put_claim(Key::new("n", "earlier"), Some(entry(earlier)));
    devices.put_claim(Key::new("n", "earlier"), None);
    assert!(!free(&devices), "what was made in vain before says nothing");

    let mut devices = start();
    devices.written(&view(given()));
    assert!(devices.release(&Key::new("n", "p")), "it was taken back");
    assert!(free(&devices));
    assert!(!devices.release(&Key::new("n", "p")));
}
