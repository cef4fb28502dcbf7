//! What upstream's conformance tests ask of single kinds, beyond the life that all of them lead.

#[path = "http/api.rs"]
mod api;
#[path = "http/rules.rs"]
mod rules;

use api::{Api, PODS, Reply, pod};
use proto::kind::{self, Row};
use rules::with;
use serde_json::{Value, json};

fn at(row: &Row, name: &str) -> String {
    row.path("default", name)
}

/// The status code and the causes' fields and sentences, or the message where there are none.
fn verdict(reply: &Reply) -> String {
    let status = reply.json();
    let cause = |cause: &Value| {
        let text = |field: &str| cause[field].as_str().unwrap_or_default();
        format!("{}: {}", text("field"), text("message"))
    };
    let causes = status["details"]["causes"].as_array();
    let causes: Vec<String> = causes.into_iter().flatten().map(cause).collect();
    match reply.code {
        200 | 201 => reply.code.to_string(),
        code if causes.is_empty() => format!("{code} {}", reply.message()),
        code => format!("{code} {}", causes.join("; ")),
    }
}

/// ConfigMaps and Secrets that were made immutable: their labels change, nothing else does.
#[tokio::test]
async fn immutable_data() {
    const FIXED: &str = "field is immutable when `immutable` is set";
    let api = Api::start().await;
    let kinds = [(&kind::CONFIG_MAP, "value", "other"), (&kind::SECRET, "dmFsdWU=", "b3RoZXI=")];
    for (row, value, other) in kinds {
        let path = at(row, "fixed");
        let object = json!({"metadata": {"name": "fixed"}, "data": {"k": value}});
        api.post(&at(row, ""), object).await.expect(201);
        let steps = [
            (json!({"data": {"k": other}}), "200".into()),
            (json!({"immutable": true}), "200".into()),
            (json!({"immutable": false}), format!("422 immutable: Forbidden: {FIXED}")),
            (json!({"data": {"k": value}}), format!("422 data: Forbidden: {FIXED}")),
            (json!({"metadata": {"labels": {"a": "b"}}}), "200".into()),
        ];
        for (patch, expected) in steps {
            let reply = api.merge(&path, patch.clone()).await;
            assert_eq!(verdict(&reply), expected, "{} {patch}", row.kind);
            let mut whole = api.get(&path).await.expect(200);
            for (field, value) in patch.as_object().unwrap() {
                whole[field] = value.clone();
            }
            whole["metadata"] = json!({"name": "fixed"});
            assert_eq!(verdict(&api.put(&path, whole).await), expected, "{} {patch}", row.kind);
        }
        api.delete(&path).await.expect(200);
        let object = json!({"metadata": {"name": "empty"}, "data": {"": value}});
        let reply = api.post(&at(row, ""), object).await;
        let found = verdict(&reply);
        assert!(found.starts_with("422 data[]: Invalid value: \"\": "), "{found}");
    }
}

/// Fields of a pod that the API refuses, by the words that upstream's tests look for.
#[tokio::test]
async fn pods_that_are_refused() {
    let api = Api::start().await;
    let sysctl = |name: &str| json!({"name": name, "value": "1"});
    let cases = [
        (
            "/spec/securityContext/sysctls",
            json!([
                sysctl("foo-"),
                sysctl("kernel.shmmax"),
                sysctl("safe-and-unsafe"),
                sysctl("bar..")
            ]),
            &["Invalid value: \"foo-\"", "Invalid value: \"bar..\""][..],
        ),
        ("/spec/runtimeClassName", json!("absent"), &["RuntimeClass \"absent\" not found"]),
        (
            "/spec/priorityClassName",
            json!("absent"),
            &["no PriorityClass with name absent was found"],
        ),
        ("/spec/containers/0/image", json!(""), &["spec.containers[0].image: Required value"]),
        (
            "/spec/ephemeralContainers",
            json!([{"name": "e", "image": "i"}]),
            &["cannot be set on create"],
        ),
    ];
    for (pointer, value, expected) in cases {
        let reply = api.post(PODS, with(&pod("p"), pointer, value)).await;
        assert!([403, 422].contains(&reply.code), "{pointer}: {}", reply.text());
        let message = reply.message();
        for sentence in expected {
            assert!(message.contains(sentence), "{pointer}: {message}");
        }
        assert!(!message.contains("kernel.shmmax") && !message.contains("safe-and-unsafe"));
    }
    let absent = with(&pod("p"), "/spec/runtimeClassName", json!("absent"));
    assert_eq!(api.post(PODS, absent).await.expect(403)["reason"], "Forbidden");
}

/// What a pod may ask for that only its node can judge.
#[tokio::test]
async fn pods_that_are_taken() {
    let api = Api::start().await;
    let volume = json!([{"name": "v", "csi": {"driver": "d.example.com", "readOnly": true,
        "volumeAttributes": {"a": "b"}, "nodePublishSecretRef": {"name": "s"}}}]);
    let cases = [
        ("/spec/volumes", volume),
        ("/spec/schedulerName", json!("absent")),
        ("/spec/nodeName", json!("absent")),
        ("/spec/readinessGates", json!([{"conditionType": "example.com/ready"}])),
        ("/spec/hostAliases", json!([{"ip": "127.0.0.1", "hostnames": ["a.example.com"]}])),
        (
            "/spec/securityContext",
            json!({"runAsUser": 65534, "fsGroupChangePolicy": "Always",
            "sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]}),
        ),
        (
            "/spec/containers/0/resizePolicy",
            json!([{"resourceName": "cpu",
            "restartPolicy": "RestartContainer"}]),
        ),
    ];
    let path = format!("{PODS}?fieldValidation=Strict");
    for (index, (pointer, value)) in cases.into_iter().enumerate() {
        let plain =
            with(&pod(&format!("p{index}")), "/spec/automountServiceAccountToken", false.into());
        let object = with(&plain, pointer, value.clone());
        let made = api.post(&path, object).await.expect(201);
        assert_eq!(made.pointer(pointer), Some(&value), "{pointer}");
    }
}

/// Conditions of older kinds say what they like; what is not said is not asked for.
#[tokio::test]
async fn conditions_by_hand() {
    let api = Api::start().await;
    let template = json!({"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    let claim = json!({"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}});
    let kinds = [
        (&kind::DAEMON_SET, spec.clone()),
        (&kind::DEPLOYMENT, spec.clone()),
        (&kind::REPLICA_SET, spec.clone()),
        (&kind::STATEFUL_SET, spec),
        (&kind::PERSISTENT_VOLUME_CLAIM, claim),
    ];
    for (row, spec) in kinds {
        let object = json!({"metadata": {"name": "x"}, "spec": spec});
        api.post(&at(row, ""), object).await.expect(201);
        let path = format!("{}/status", at(row, "x"));
        let patch =
            json!({"status": {"conditions": [{"type": "StatusPatched", "status": "True"}]}});
        let patched = api.merge(&path, patch).await.expect(200);
        assert_eq!(patched["status"]["conditions"][0]["type"], "StatusPatched", "{}", row.kind);
        let mut whole = api.get(&path).await.expect(200);
        let more = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E set it",
            "message": "Set from e2e test", "lastTransitionTime": null});
        whole["status"]["conditions"].as_array_mut().unwrap().push(more);
        let updated = api.put(&path, whole).await.expect(200);
        assert_eq!(updated["status"]["conditions"][1]["reason"], "E2E set it", "{}", row.kind);
    }
}

/// A claim's devices: what a driver said of one goes when it is no longer allocated.
#[tokio::test]
async fn what_is_said_of_devices_goes_with_them() {
    let api = Api::start().await;
    let requests = json!([{"name": "r", "exactly": {"deviceClassName": "gpu"}}]);
    let object = json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": requests}}});
    api.post(&at(&kind::RESOURCE_CLAIM, ""), object).await.expect(201);
    let path = format!("{}/status", at(&kind::RESOURCE_CLAIM, "c"));
    let device = json!({"driver": "d.example.com", "pool": "n", "device": "g0"});
    let result = with(&device, "/request", json!("r"));
    let status = json!({"status": {"allocation": {"devices": {"results": [result]}},
        "devices": [device]}});
    let said = api.merge(&path, status).await.expect(200);
    assert_eq!(said["status"]["devices"], json!([device]));
    let freed = api.merge(&path, json!({"status": {"allocation": null}})).await.expect(200);
    assert_eq!(freed["status"], json!({}));
}

/// Any kind can be counted, also those whose group has dots.
#[tokio::test]
async fn claims_are_counted_by_quotas() {
    const COUNTED: &str = "count/resourceclaims.resource.k8s.io";
    let api = Api::start().await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {COUNTED: "1"}}});
    api.post(&at(&kind::RESOURCE_QUOTA, ""), quota).await.expect(201);
    let status = json!({"status": {"hard": {COUNTED: "1"}, "used": {COUNTED: "0"}}});
    let path = at(&kind::RESOURCE_QUOTA, "q");
    api.merge(&format!("{path}/status"), status).await.expect(200);
    let claim = |name: &str| {
        let requests = json!([{"name": "r", "exactly": {"deviceClassName": "gpu"}}]);
        json!({"metadata": {"name": name}, "spec": {"devices": {"requests": requests}}})
    };
    let claims = at(&kind::RESOURCE_CLAIM, "");
    api.post(&claims, claim("a")).await.expect(201);
    let refused = api.post(&claims, claim("b")).await;
    assert_eq!(
        verdict(&refused),
        "403 resourceclaims.resource.k8s.io \"b\" is forbidden: exceeded quota: q, requested: \
         count/resourceclaims.resource.k8s.io=1, used: count/resourceclaims.resource.k8s.io=1, \
         limited: count/resourceclaims.resource.k8s.io=1"
    );
    assert_eq!(api.get(&path).await.expect(200)["status"]["used"], json!({COUNTED: "1"}));
}

/// The Endpoints and the slice of the API server, which everyone finds by these names.
#[tokio::test]
async fn the_api_servers_own_service() {
    let api = Api::start_with(&["--advertise-address=192.0.2.10"]).await;
    let service = api.get(&at(&kind::SERVICE, "kubernetes")).await.expect(200);
    assert_eq!(service["spec"]["ports"][0]["name"], "https");
    let endpoints = api.get(&at(&kind::ENDPOINTS, "kubernetes")).await.expect(200);
    assert_eq!(endpoints["subsets"][0]["addresses"], json!([{"ip": "192.0.2.10"}]));
    let label = "labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes";
    let slices = api.get(&format!("{}?{label}", at(&kind::ENDPOINT_SLICE, ""))).await.expect(200);
    assert_eq!(slices["items"][0]["endpoints"][0]["addresses"], json!(["192.0.2.10"]));
    let record = kind::IP_ADDRESS.path("", service["spec"]["clusterIP"].as_str().unwrap());
    let record = api.get(&record).await.expect(200);
    assert_eq!(
        record["spec"]["parentRef"],
        json!({"group": "", "resource": "services", "namespace": "default", "name": "kubernetes"})
    );
}

/// The addresses of Services are objects; more networks give more of them.
#[tokio::test]
async fn service_networks() {
    let api = Api::start_with(&["--service-cluster-ip-range=10.96.0.0/30"]).await;
    let services = at(&kind::SERVICE, "");
    let cidr = |name: &str| kind::SERVICE_CIDR.path("", name);
    let make = async |name: &str, ip: Value| {
        let spec = json!({"ports": [{"port": 80}], "clusterIP": ip});
        api.post(&services, json!({"metadata": {"name": name}, "spec": spec})).await
    };
    let record = async |ip: &str| api.get(&kind::IP_ADDRESS.path("", ip)).await;
    let address = |service: &Value| service["spec"]["clusterIP"].as_str().unwrap().to_string();

    // The first of two addresses is the API server's own.
    let first = make("first", Value::Null).await.expect(201);
    assert_eq!(address(&first), "10.96.0.2");
    let full = make("second", Value::Null).await;
    assert_eq!(
        verdict(&full),
        "500 Internal error occurred: failed to allocate a serviceIP: range is full"
    );
    let outside = "422 spec.clusterIPs: Invalid value: [\"203.0.113.10\"]: failed to allocate IP \
                   203.0.113.10: the provided network does not match the current range";
    assert_eq!(verdict(&make("second", json!("203.0.113.10")).await), outside);

    let more = json!({"metadata": {"name": "more", "finalizers": ["example.com/hold"]},
        "spec": {"cidrs": ["203.0.113.0/24"]}});
    api.post(&cidr(""), more).await.expect(201);
    let second = make("second", json!("203.0.113.10")).await.expect(201);
    assert_eq!(address(&second), "203.0.113.10");
    let held = record("203.0.113.10").await.expect(200);
    assert_eq!(held["spec"]["parentRef"]["name"], "second");
    assert_eq!(
        held["metadata"]["labels"]["ipaddress.kubernetes.io/managed-by"],
        "ipallocator.k8s.io"
    );
    let third = make("third", Value::Null).await.expect(201);
    assert!(address(&third).starts_with("203.0.113."), "{third}");
    let taken = verdict(&make("fourth", json!("203.0.113.10")).await);
    assert!(taken.ends_with("provided IP is already allocated"), "{taken}");

    // Nothing comes out of one that is not ready, or on its way out.
    let ready = |status: &str| {
        json!({"status": {"conditions": [{"type": "Ready", "status": status, "reason": "",
            "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
    };
    let status = format!("{}/status", cidr("more"));
    api.merge(&status, ready("False")).await.expect(200);
    assert_eq!(make("fourth", Value::Null).await.code, 500);
    api.merge(&status, ready("True")).await.expect(200);
    let fourth = make("fourth", Value::Null).await.expect(201);
    api.delete(&cidr("more")).await.expect(200);
    assert_eq!(make("fifth", Value::Null).await.code, 500);

    // What was given is taken back all the same.
    for service in [&second, &third, &fourth] {
        let name = service["metadata"]["name"].as_str().unwrap();
        record(&address(service)).await.expect(200);
        api.delete(&at(&kind::SERVICE, name)).await.expect(200);
        record(&address(service)).await.expect(404);
    }
}

/// A Service that changes its type as upstream's tests do it: the type and what the new one needs
/// are set in what was read, the rest is left for the server to tidy up.
#[tokio::test]
async fn services_change_their_type() {
    let api = Api::start().await;
    let named = json!({"type": "ExternalName", "externalName": "foo.example.com"});
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    let plain = json!({"type": "ClusterIP", "ports": ports});
    let on_nodes = json!({"type": "NodePort", "ports": ports});
    let to_name = json!({"type": "ExternalName", "externalName": "foo.example.com"});
    let to_plain = json!({"type": "ClusterIP", "externalName": null, "ports": ports});
    let to_nodes = json!({"type": "NodePort", "externalName": null, "ports": ports});
    // From, to; whether it has an address and node ports then.
    let cases = [
        (&named, &to_plain, true, false),
        (&named, &to_nodes, true, true),
        (&plain, &to_name, false, false),
        (&on_nodes, &to_name, false, false),
        (&plain, &to_nodes, true, true),
        (&on_nodes, &to_plain, true, false),
    ];
    for (index, (from, to, address, node_ports)) in cases.into_iter().enumerate() {
        let name = format!("s{index}");
        let object = json!({"metadata": {"name": name}, "spec": from});
        let mut object = api.post(&at(&kind::SERVICE, ""), object).await.expect(201);
        for (field, value) in to.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        let spec = &api.put(&at(&kind::SERVICE, &name), object).await.expect(200)["spec"];
        assert_eq!(spec["clusterIP"].is_string(), address, "{from} {to}: {spec}");
        assert_eq!(spec["ports"][0]["nodePort"].is_u64(), node_ports, "{from} {to}: {spec}");
        assert_eq!(spec["externalName"].is_string(), !address, "{from} {to}: {spec}");
    }
    let records = api.get(&kind::IP_ADDRESS.path("", "")).await.expect(200);
    assert_eq!(records["items"].as_array().unwrap().len(), 5, "four of them, and the first");

    // Affinity that is switched off takes its settings along.
    let sticky = json!({"spec": {"sessionAffinity": "ClientIP"}});
    let path = at(&kind::SERVICE, "s0");
    let mut sticky = api.merge(&path, sticky).await.expect(200);
    let config = json!({"clientIP": {"timeoutSeconds": 10800}});
    assert_eq!(sticky["spec"]["sessionAffinityConfig"], config);
    sticky["spec"]["sessionAffinity"] = "None".into();
    let loose = api.put(&path, sticky).await.expect(200);
    assert_eq!(loose["spec"].get("sessionAffinityConfig"), None);
}

/// A pod's generation counts what becomes of its spec, and nothing else.
#[tokio::test]
async fn generations_of_pods() {
    let api = Api::start().await;
    let small = json!({"requests": {"cpu": "500m"}});
    let object = with(&pod("p"), "/spec/containers/0/resources", small);
    let made = api.post(PODS, with(&object, "/metadata/generation", json!(100))).await;
    assert_eq!(made.expect(201)["metadata"]["generation"], 1);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    api.post(&format!("{PODS}/p/binding"), binding).await.expect(201);
    let debug = json!({"ephemeralContainers": [{"name": "e", "image": "i"}]});
    let larger = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
    let steps = [
        ("", json!({"metadata": {"labels": {"a": "b"}, "generation": 50}}), 1),
        ("/status", json!({"status": {"phase": "Running", "observedGeneration": 1}}), 1),
        ("", json!({"spec": {"containers": [{"name": "c", "image": "j"}]}}), 2),
        ("", json!({"spec": {"activeDeadlineSeconds": 600}}), 3),
        ("/ephemeralcontainers", json!({ "spec": debug }), 4),
        ("/resize", json!({ "spec": larger }), 5),
        ("", json!({"spec": {"activeDeadlineSeconds": 600}}), 5),
    ];
    for (part, patch, expected) in steps {
        let path = format!("{PODS}/p{part}");
        let reply = api.patch(&path, "strategic-merge-patch+json", patch.clone()).await;
        assert_eq!(reply.expect(200)["metadata"]["generation"], expected, "{part} {patch}");
    }
    let going = api.delete(&format!("{PODS}/p?gracePeriodSeconds=30")).await.expect(200);
    assert_eq!(going["metadata"]["generation"], 6);
}

/// Deletions reach one namespace at a time, and there what the selectors select.
#[tokio::test]
async fn collections_are_deleted_by_selectors() {
    let api = Api::start().await;
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let object = json!({"metadata": {"name": name, "labels": {"l": label}}});
        api.post(&at(&kind::CONFIG_MAP, ""), object).await.expect(201);
    }
    let everywhere = api.delete(&kind::CONFIG_MAP.path("", "")).await;
    assert_eq!(everywhere.code, 405);
    let left = async || {
        let list = api.get(&at(&kind::CONFIG_MAP, "")).await.expect(200);
        let items = list["items"].as_array().unwrap().iter();
        items.map(|item| item["metadata"]["name"].as_str().unwrap().to_string()).collect::<String>()
    };
    let cases = [
        ("labelSelector=l%3Dz", "abc"),
        ("dryRun=All", "abc"),
        ("fieldSelector=metadata.name%3Da&labelSelector=l%3Dy", "abc"),
        ("fieldSelector=metadata.name%3Da", "bc"),
        ("labelSelector=l%20in%20(x)", "c"),
        ("", ""),
    ];
    for (query, expected) in cases {
        api.delete(&format!("{}?{query}", at(&kind::CONFIG_MAP, ""))).await.expect(200);
        assert_eq!(left().await, expected, "{query}");
    }
}

/// The record of an address that is in use comes back; that of one that is not stays away.
#[tokio::test]
async fn records_of_addresses_in_use_come_back() {
    let mut api = Api::start().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn(api.server.take().unwrap().serve(stop.clone()));
    let records = kind::IP_ADDRESS.path("", "");
    let service = api.get(&at(&kind::SERVICE, "kubernetes")).await.expect(200);
    let ip = service["spec"]["clusterIP"].as_str().unwrap();
    let foreign = json!({"metadata": {"name": "192.0.2.7"}, "spec": {"parentRef": {
        "group": "", "resource": "services", "namespace": "default", "name": "kubernetes"}}});
    let foreign = api.post(&records, foreign).await.expect(201);
    let from = foreign["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = api.watch(&format!("{records}?watch=true&resourceVersion={from}")).await;
    // The server has begun to watch when it has had its turn.
    tokio::task::yield_now().await;
    api.delete(&format!("{records}/192.0.2.7")).await.expect(200);
    api.delete(&format!("{records}/{ip}")).await.expect(200);
    assert_eq!(watch.short().await, "DELETED 192.0.2.7");
    assert_eq!(watch.short().await, format!("DELETED {ip}"));
    assert_eq!(watch.short().await, format!("ADDED {ip}"));
    stop.cancel();
    serving.await.unwrap();
}

/// What nobody but their owner knows of is left alone when the server starts again.
#[tokio::test]
async fn foreign_addresses_and_changed_bindings_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = api::options(dir.path(), &[]);
    options.ephemeral = false;
    let bindings = kind::CLUSTER_ROLE_BINDING.path("", "");
    let binding = |name: &str, role: &str, update: &str| {
        let group = "rbac.authorization.k8s.io";
        json!({"metadata": {"name": name, "annotations": {
                "rbac.authorization.kubernetes.io/autoupdate": update}},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": group, "kind": "User", "name": "mallory"}]})
    };
    let (recreated, kept) = ("system:basic-user", "system:discovery");
    let server = api::reopened(&options).await;
    let api = Api::of(server);
    let foreign = json!({"metadata": {"name": "255.255.255.255"}, "spec": {"parentRef": {
        "group": "g.example.com", "resource": "things", "name": "x"}}});
    api.post(&kind::IP_ADDRESS.path("", ""), foreign).await.expect(201);
    let mut uids = Vec::new();
    for (name, update) in [(recreated, "true"), (kept, "false")] {
        let path = format!("{bindings}/{name}");
        api.delete(&path).await.expect(200);
        let made = api.post(&bindings, binding(name, "view", update)).await.expect(201);
        uids.push(made["metadata"]["uid"].clone());
    }
    drop(api);

    let api = Api::of(api::reopened(&options).await);
    api.get(&kind::IP_ADDRESS.path("", "255.255.255.255")).await.expect(200);
    let now = api.get(&format!("{bindings}/{recreated}")).await.expect(200);
    assert_eq!(now["roleRef"]["name"], "system:basic-user");
    assert_eq!(now["subjects"][0]["name"], "system:authenticated");
    assert_ne!(now["metadata"]["uid"], uids[0]);
    let now = api.get(&format!("{bindings}/{kept}")).await.expect(200);
    assert_eq!((&now["roleRef"]["name"], &now["metadata"]["uid"]), (&json!("view"), &uids[1]));
}

/// A cluster with two networks: a Service gets an address of each family that it wants, keeps the
/// first for ever, and gives the second up when it wants one family.
#[tokio::test]
async fn services_of_two_families() {
    const NETWORKS: &str = "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/108";
    let api = Api::start_with(&[NETWORKS]).await;
    let cidrs = "/apis/networking.k8s.io/v1/servicecidrs/kubernetes";
    let cidr = api.get(cidrs).await.expect(200);
    assert_eq!(cidr["spec"]["cidrs"], json!(["10.96.0.0/16", "fd00:96::/108"]));
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, policy: &str| {
        json!({"metadata": {"name": name}, "spec": {"selector": {"a": "b"},
            "ports": [{"port": 80}], "ipFamilyPolicy": policy}})
    };
    let addresses = async || -> Vec<String> {
        let list = api.get("/apis/networking.k8s.io/v1/ipaddresses").await.expect(200);
        let held = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|address| address["spec"]["parentRef"]["name"] == "both");
        held.map(|address| address["metadata"]["name"].as_str().unwrap().to_string()).collect()
    };
    let both = api.post(services, service("both", "RequireDualStack")).await.expect(201);
    let spec = &both["spec"];
    assert_eq!(spec["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(spec["clusterIP"], spec["clusterIPs"][0]);
    assert!(spec["clusterIPs"][0].as_str().unwrap().starts_with("10.96."), "{spec}");
    assert!(spec["clusterIPs"][1].as_str().unwrap().starts_with("fd00:96::"), "{spec}");
    assert_eq!(json!(addresses().await), spec["clusterIPs"]);

    let path = format!("{services}/both");
    let policy = |policy: &str| json!({"spec": {"ipFamilyPolicy": policy}});
    let one = api.merge(&path, policy("SingleStack")).await.expect(200);
    assert_eq!(one["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(one["spec"]["clusterIPs"], json!([spec["clusterIP"]]));
    assert_eq!(addresses().await.len(), 1);
    let again = api.merge(&path, policy("PreferDualStack")).await.expect(200);
    assert_eq!(again["spec"]["clusterIPs"].as_array().unwrap().len(), 2);
    assert_eq!(again["spec"]["clusterIP"], spec["clusterIP"]);
    let reduced = json!({"spec": {"clusterIPs": [spec["clusterIP"]]}});
    assert_eq!(
        api.merge(&path, reduced).await.expect(422)["message"],
        "Service \"both\" is invalid: spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must \
         be 'SingleStack' to release the secondary cluster IP"
    );
    let swapped = json!({"spec": {"ipFamilies": ["IPv6", "IPv4"]}});
    let refused = api.merge(&path, swapped).await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("may not change once set"), "{refused}");
    api.delete(&path).await.expect(200);
    assert!(addresses().await.is_empty());

    let mut asked = service("asked", "PreferDualStack");
    asked["spec"]["clusterIPs"] = json!(["fd00:96::9", "10.96.0.9"]);
    asked["spec"]["clusterIP"] = "fd00:96::9".into();
    let asked = api.post(services, asked).await.expect(201);
    assert_eq!(asked["spec"]["ipFamilies"], json!(["IPv6", "IPv4"]));
    assert_eq!(asked["spec"]["clusterIP"], "fd00:96::9");
    assert_eq!(asked["spec"]["clusterIPs"], json!(["fd00:96::9", "10.96.0.9"]));
    // Who says nothing gets one address, of the first network.
    let mut plain = service("plain", "");
    plain["spec"].as_object_mut().unwrap().remove("ipFamilyPolicy");
    let plain = api.post(services, plain).await.expect(201);
    assert_eq!(plain["spec"]["ipFamilyPolicy"], "SingleStack");
    assert_eq!(plain["spec"]["ipFamilies"], json!(["IPv4"]));
}

#[tokio::test]
async fn services_of_a_cluster_with_one_family() {
    let api = Api::start().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |policy: &str| {
        json!({"metadata": {"name": "s"}, "spec": {"selector": {"a": "b"},
            "ports": [{"port": 80}], "ipFamilyPolicy": policy}})
    };
    assert_eq!(
        api.post(services, service("RequireDualStack")).await.expect(422)["message"],
        "Service \"s\" is invalid: spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this \
         cluster is not configured for dual-stack services"
    );
    let preferred = api.post(services, service("PreferDualStack")).await.expect(201);
    assert_eq!(preferred["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(preferred["spec"]["clusterIPs"].as_array().unwrap().len(), 1);
}
