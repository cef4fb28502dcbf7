//! Who may do what, and who is told so: roles, their defaults, escalation, and the kinds that are
//! asked.

#[path = "http/api.rs"]
mod api;

use api::{Api, CONFIG_MAPS, PODS, config_map, pod};
use proto::user::User;
use serde_json::{Value, json};

const GROUP: &str = "/apis/rbac.authorization.k8s.io/v1";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

fn alice(api: &Api) -> Api {
    api.as_user(User::new("alice", &["devs"]))
}

fn role(name: &str, rules: Value) -> Value {
    json!({"metadata": {"name": name}, "rules": rules})
}

fn binding(name: &str, kind: &str, role: &str, subject: &str) -> Value {
    let (of, who) = subject.split_once(' ').unwrap();
    let subject = match who.split_once('/') {
        Some((namespace, name)) => json!({"kind": of, "name": name, "namespace": namespace}),
        None => json!({"kind": of, "name": who, "apiGroup": "rbac.authorization.k8s.io"}),
    };
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role});
    json!({"metadata": {"name": name}, "roleRef": role, "subjects": [subject]})
}

/// `verb group/resource[/subresource][:name]` (in a namespace, if there is one), or `verb !/path`.
fn question(text: &str, namespace: &str) -> Value {
    let (verb, what) = text.split_once(' ').unwrap();
    if let Some(path) = what.strip_prefix('!') {
        return json!({"nonResourceAttributes": {"verb": verb, "path": path}});
    }
    let (what, name) = what.split_once(':').unwrap_or((what, ""));
    let mut parts = what.split('/');
    let mut part = || parts.next().unwrap_or_default();
    json!({"resourceAttributes": {"verb": verb, "group": part(), "resource": part(),
        "subresource": part(), "name": name, "namespace": namespace}})
}

/// The status of the answer whether a user may.
async fn review(api: &Api, user: &str, text: &str, namespace: &str) -> Value {
    let mut spec = question(text, namespace);
    spec["user"] = user.into();
    api.post(REVIEWS, json!({"spec": spec})).await.expect(201)["status"].take()
}

#[tokio::test]
async fn kinds_that_are_asked_leave_nothing_behind() {
    let api = Api::start().await;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let answer = api.post(path, review).await.expect(201);
    assert_eq!(answer["status"]["userInfo"]["username"], "admin");
    assert_eq!(
        answer["status"]["userInfo"]["groups"],
        json!(["system:masters", "system:authenticated"])
    );
    assert!(answer["metadata"]["creationTimestamp"].is_string());
    assert_eq!(api.get(path).await.code, 405);
    assert_eq!(api.get(&format!("{path}/x")).await.code, 405);

    api.post(PODS, pod("p")).await.expect(201);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let path = "/api/v1/namespaces/default/bindings";
    let answer = api.post(path, binding.clone()).await.expect(201);
    assert_eq!((&answer["kind"], &answer["status"]), (&json!("Status"), &json!("Success")));
    let bound = api.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "n1");
    let again = api.post(path, binding).await.expect(409);
    assert_eq!(again["details"]["name"], "p");
    let nobody = json!({"metadata": {"name": "q"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(api.post(path, nobody).await.expect(404)["message"], "pods \"q\" not found");
}

#[tokio::test]
async fn roles_say_what_may_be_done() {
    let api = Api::start().await;
    let alice = alice(&api);
    api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "other"}})).await.expect(201);
    let core = |resources: &str, verbs: &str| {
        let words = |text: &str| text.split(' ').map(Value::from).collect::<Value>();
        json!([{"apiGroups": [""], "resources": words(resources), "verbs": words(verbs)}])
    };
    let named = json!([{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"],
        "verbs": ["get", "list", "watch", "update"]}]);
    // rules, request, its code
    let cases = [
        (core("pods", "list"), format!("GET {PODS}"), 200),
        (core("pods", "get"), format!("GET {PODS}"), 403),
        (core("pods", "list"), "GET /api/v1/pods".into(), 403),
        (core("pods", "list"), "GET /api/v1/namespaces/other/pods".into(), 403),
        (core("pods", "get"), format!("GET {PODS}/p/status"), 403),
        (core("pods/status", "get"), format!("GET {PODS}/p/status"), 404),
        (core("*", "*"), format!("GET {PODS}/p/log"), 404),
        (core("configmaps", "*"), format!("DELETE {CONFIG_MAPS}/none"), 404),
        (core("configmaps", "get"), format!("DELETE {CONFIG_MAPS}/none"), 403),
        (core("configmaps", "delete"), format!("DELETE {CONFIG_MAPS}"), 403),
        (core("configmaps", "deletecollection"), format!("DELETE {CONFIG_MAPS}?dryRun=All"), 200),
        (core("pods", "watch"), format!("GET {PODS}?watch=1&timeoutSeconds=1"), 200),
        (core("pods", "list"), format!("GET {PODS}?watch=1&timeoutSeconds=1"), 403),
        (named.clone(), format!("GET {CONFIG_MAPS}/a"), 200),
        (named.clone(), format!("GET {CONFIG_MAPS}/b"), 403),
        (named.clone(), format!("GET {CONFIG_MAPS}"), 403),
        (named.clone(), format!("GET {CONFIG_MAPS}?fieldSelector=metadata.name%3Da"), 200),
        (named.clone(), format!("GET {CONFIG_MAPS}?fieldSelector=metadata.name%3Db"), 403),
        (named, format!("DELETE {CONFIG_MAPS}/a"), 403),
    ];
    api.post(ROLES, role("r", json!([]))).await.expect(201);
    api.post(BINDINGS, binding("b", "Role", "r", "User alice")).await.expect(201);
    for (rules, line, code) in cases {
        api.put(&format!("{ROLES}/r"), role("r", rules.clone())).await.expect(200);
        let reply = alice.send(&line, &[], "").await;
        assert_eq!(reply.code, code, "{line} with {rules}: {}", reply.text());
    }
}

#[tokio::test]
async fn whom_bindings_speak_of_and_until_when() {
    let api = Api::start().await;
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]);
    api.post(&format!("{GROUP}/clusterroles"), role("lister", rules)).await.expect(201);
    let wide = format!("{GROUP}/clusterrolebindings");
    let account = "system:serviceaccount:default:builder";
    // where, subject, user, sentence
    let cases = [
        (BINDINGS, "User alice", "alice", "RoleBinding \"b/default\"", "User \"alice\""),
        (&wide, "User alice", "alice", "ClusterRoleBinding \"b\"", "User \"alice\""),
        (
            BINDINGS,
            "ServiceAccount default/builder",
            account,
            "RoleBinding \"b/default\"",
            "ServiceAccount \"builder/default\"",
        ),
    ];
    for (path, subject, user, bound, to) in cases {
        assert_eq!(review(&api, user, "list /pods", "default").await, json!({"allowed": false}));
        api.post(path, binding("b", "ClusterRole", "lister", subject)).await.expect(201);
        let reason = format!("RBAC: allowed by {bound} of ClusterRole \"lister\" to {to}");
        assert_eq!(
            review(&api, user, "list /pods", "default").await,
            json!({"allowed": true, "reason": reason})
        );
        let elsewhere = review(&api, user, "list /pods", "kube-system").await;
        assert_eq!(elsewhere["allowed"], path != BINDINGS, "{path}");
        api.delete(&format!("{path}/b")).await.expect(200);
    }
    let devs = alice(&api);
    assert_eq!(devs.get(PODS).await.code, 403);
    api.post(BINDINGS, binding("b", "ClusterRole", "lister", "Group devs")).await.expect(201);
    assert_eq!(devs.get(PODS).await.code, 200);
    api.delete(&format!("{GROUP}/clusterroles/lister")).await.expect(200);
    assert_eq!(
        devs.get(PODS).await.expect(403)["message"],
        "pods is forbidden: User \"alice\" cannot list resource \"pods\" in API group \"\" in the \
         namespace \"default\": RBAC: clusterrole.rbac.authorization.k8s.io \"lister\" not found"
    );
    assert_eq!(
        devs.get("/metrics").await.expect(403)["message"],
        "forbidden: User \"alice\" cannot get path \"/metrics\""
    );
}

/// A default role, something that it allows, and something that it does not.
const DEFAULTS: &str = "
cluster-admin | delete x/y/z:n, post !/x | -
system:aggregate-to-admin | create rbac.authorization.k8s.io/roles | get /pods
system:aggregate-to-edit | create apps/deployments, get /secrets:s | create /resourcequotas
system:aggregate-to-view | list /pods, get /pods/log:p | get /secrets:s
system:discovery | get !/apis/apps/v1, get !/version/ | get !/metrics
system:basic-user | create authorization.k8s.io/selfsubjectrulesreviews | create authorization.k8s.io/subjectaccessreviews
system:public-info-viewer | get !/livez | get !/livez/ping
system:monitoring | get !/metrics, get !/readyz/x | get !/api
system:service-account-issuer-discovery | get !/openid/v1/jwks | get !/openid/v1
system:auth-delegator | create authentication.k8s.io/tokenreviews | get /pods
system:aggregated-metrics-reader | list metrics.k8s.io/pods | get /pods
system:heapster | list /nodes | get /secrets:s
system:kube-aggregator | watch /services | update /services:s
system:kube-dns | watch /endpoints | get /endpoints:e
system:kubelet-api-admin | create /nodes/proxy:n | delete /nodes:n
system:node | get /secrets:s | delete /secrets:s
system:node-bootstrapper | create certificates.k8s.io/certificatesigningrequests | delete certificates.k8s.io/certificatesigningrequests:c
system:node-problem-detector | patch /nodes/status:n | patch /nodes:n
system:node-proxier | list discovery.k8s.io/endpointslices | list /secrets
system:persistent-volume-provisioner | create /persistentvolumes | create /persistentvolumeclaims
system:certificates.k8s.io:certificatesigningrequests:nodeclient | create certificates.k8s.io/certificatesigningrequests/nodeclient | create certificates.k8s.io/certificatesigningrequests
system:certificates.k8s.io:certificatesigningrequests:selfnodeclient | create certificates.k8s.io/certificatesigningrequests/selfnodeclient | create certificates.k8s.io/certificatesigningrequests
system:certificates.k8s.io:kube-apiserver-client-approver | approve certificates.k8s.io/signers:kubernetes.io/kube-apiserver-client | approve certificates.k8s.io/signers:kubernetes.io/kubelet-serving
system:certificates.k8s.io:kube-apiserver-client-kubelet-approver | approve certificates.k8s.io/signers:kubernetes.io/kube-apiserver-client-kubelet | approve certificates.k8s.io/signers
system:certificates.k8s.io:kubelet-serving-approver | approve certificates.k8s.io/signers:kubernetes.io/kubelet-serving | sign certificates.k8s.io/signers:kubernetes.io/kubelet-serving
system:certificates.k8s.io:legacy-unknown-approver | approve certificates.k8s.io/signers:kubernetes.io/legacy-unknown | approve certificates.k8s.io/signers:x
system:kube-scheduler | create /pods/binding:p, update coordination.k8s.io/leases:kube-scheduler | update coordination.k8s.io/leases:other
system:volume-scheduler | patch /persistentvolumeclaims:c | delete /persistentvolumeclaims:c
system:kube-controller-manager | create /serviceaccounts/token:s | delete /pods:p
coracle:controllers | delete apps/statefulsets:s | impersonate /users:u
coracle:node | watch discovery.k8s.io/endpointslices | list /pods
attachdetach-controller | create storage.k8s.io/volumeattachments | delete /pods:p
certificate-controller | sign certificates.k8s.io/signers:kubernetes.io/kubelet-serving | sign certificates.k8s.io/signers:x
clusterrole-aggregation-controller | escalate rbac.authorization.k8s.io/clusterroles:r | delete rbac.authorization.k8s.io/clusterroles:r
cronjob-controller | create batch/jobs | create /pods
daemon-set-controller | create /pods/binding:p | update /nodes:n
deployment-controller | create apps/replicasets | delete /pods:p
device-taint-eviction-controller | delete /pods:p | update resource.k8s.io/resourceclaims:c
disruption-controller | get apps/deployments/scale:d | update apps/deployments/scale:d
endpoint-controller | create /endpoints/restricted | delete /services:s
endpointslice-controller | delete discovery.k8s.io/endpointslices:e | delete /pods:p
endpointslicemirroring-controller | update /endpoints/finalizers:e | list /pods
ephemeral-volume-controller | create /persistentvolumeclaims | delete /persistentvolumeclaims:c
expand-controller | patch /persistentvolumeclaims/status:c | patch /persistentvolumeclaims:c
generic-garbage-collector | delete x/y:z | create x/y
horizontal-pod-autoscaler | update apps/deployments/scale:d | update apps/deployments:d
job-controller | patch /pods:p | update /pods:p
legacy-service-account-token-cleaner | delete /secrets:s | list /secrets
namespace-controller | deletecollection x/y | update x/y:z
node-controller | delete /nodes:n | create /nodes
persistent-volume-binder | create /persistentvolumes | create /persistentvolumeclaims
pod-garbage-collector | delete /pods:p | create /pods
pv-protection-controller | update /persistentvolumes:v | delete /persistentvolumes:v
pvc-protection-controller | update /persistentvolumeclaims:c | delete /persistentvolumeclaims:c
replicaset-controller | delete /pods:p | delete apps/replicasets:r
replication-controller | create /pods | create /replicationcontrollers
resource-claim-controller | create resource.k8s.io/resourceclaims | create /pods
resourcequota-controller | list x/y | get x/y:z
root-ca-cert-publisher | create /configmaps | delete /configmaps:c
route-controller | patch /nodes/status:n | patch /nodes:n
selinux-warning-controller | list /pods | update /pods:p
service-account-controller | create /serviceaccounts | delete /serviceaccounts:s
service-cidrs-controller | update networking.k8s.io/servicecidrs/status:s | delete networking.k8s.io/servicecidrs:s
service-controller | patch /services/status:s | patch /services:s
statefulset-controller | delete /persistentvolumeclaims:c | create apps/statefulsets
ttl-after-finished-controller | delete batch/jobs:j | create batch/jobs
ttl-controller | patch /nodes:n | delete /nodes:n
validatingadmissionpolicy-status-controller | patch admissionregistration.k8s.io/validatingadmissionpolicies/status:p | patch admissionregistration.k8s.io/validatingadmissionpolicies:p
volumeattributesclass-protection-controller | update storage.k8s.io/volumeattributesclasses:c | delete storage.k8s.io/volumeattributesclasses:c
kube-system/extension-apiserver-authentication-reader | get /configmaps:extension-apiserver-authentication | get /configmaps:x
kube-system/system::leader-locking-kube-controller-manager | update /configmaps:kube-controller-manager | update /configmaps:kube-scheduler
kube-system/system::leader-locking-kube-scheduler | get /configmaps:kube-scheduler | list /configmaps
kube-system/system:controller:bootstrap-signer | list /secrets | delete /secrets:s
kube-system/system:controller:cloud-provider | create /configmaps | update /configmaps:c
kube-system/system:controller:token-cleaner | delete /secrets:s | create /secrets
kube-public/system:controller:bootstrap-signer | update /configmaps:cluster-info | update /configmaps:x
";

#[tokio::test]
async fn every_default_role_allows_and_refuses() {
    let api = Api::start().await;
    let cluster_roles = format!("{GROUP}/clusterroles");
    let mut left: Vec<String> = Vec::new();
    for path in [&cluster_roles, &format!("{GROUP}/roles")] {
        let selected = format!("{path}?labelSelector=kubernetes.io/bootstrapping%3Drbac-defaults");
        let list = api.get(&selected).await.expect(200);
        for role in list["items"].as_array().unwrap() {
            let metadata = &role["metadata"];
            let autoupdate = "rbac.authorization.kubernetes.io/autoupdate";
            assert_eq!(metadata["annotations"][autoupdate], "true", "{role}");
            let name = metadata["name"].as_str().unwrap();
            left.push(match metadata["namespace"].as_str() {
                Some(namespace) => format!("{namespace}/{name}"),
                None => name.to_string(),
            });
        }
    }
    // These are filled by their controller.
    left.retain(|name| !matches!(&**name, "admin" | "edit" | "view"));
    for line in DEFAULTS.lines().filter(|line| !line.is_empty()) {
        let [name, allowed, refused] = line.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let controller = format!("system:controller:{name}");
        let known = left.iter().position(|left| *left == name || *left == controller);
        let full = left.swap_remove(known.unwrap_or_else(|| panic!("no role {name}")));
        let (namespace, path, kind, role) = match full.split_once('/') {
            Some((namespace, role)) => {
                (namespace, format!("{GROUP}/namespaces/{namespace}/rolebindings"), "Role", role)
            }
            None => ("", format!("{GROUP}/clusterrolebindings"), "ClusterRole", &*full),
        };
        let user = match full.strip_prefix("system:controller:") {
            // Bound to its service account.
            Some(account) => format!("system:serviceaccount:kube-system:{account}"),
            None => {
                let bound = binding(&format!("of-{role}"), kind, role, "User somebody");
                api.post(&path, bound).await.expect(201);
                "somebody".into()
            }
        };
        for (questions, expected) in [(allowed, true), (refused, false)] {
            for text in questions.split(", ").filter(|text| *text != "-") {
                let status = review(&api, &user, text, namespace).await;
                assert_eq!(status["allowed"], expected, "{full}: {text}: {status}");
            }
        }
        if user == "somebody" {
            api.delete(&format!("{path}/of-{role}")).await.expect(200);
        }
    }
    assert_eq!(left, Vec::<String>::new(), "roles without a case");
}

#[tokio::test]
async fn defaults_are_completed_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let start = async || {
        let mut options = api::options(dir.path(), &[]);
        options.ephemeral = false;
        Api::of(api::reopened(&options).await)
    };
    let discovery = format!("{GROUP}/clusterroles/system:discovery");
    let dns = format!("{GROUP}/clusterroles/system:kube-dns");
    let basic = format!("{GROUP}/clusterrolebindings/system:basic-user");
    let first = start().await;
    let whole = first.get(&discovery).await.expect(200);
    first.merge(&discovery, json!({"rules": []})).await.expect(200);
    let off = json!({"rbac.authorization.kubernetes.io/autoupdate": "false"});
    first.merge(&dns, json!({"rules": [], "metadata": {"annotations": off}})).await.expect(200);
    first.merge(&basic, json!({"subjects": []})).await.expect(200);
    let heapster = format!("{GROUP}/clusterroles/system:heapster");
    first.delete(&heapster).await.expect(200);
    drop(first);
    let second = start().await;
    let again = second.get(&discovery).await.expect(200);
    let urls = |role: &Value| {
        let rules = role["rules"].as_array().unwrap();
        rules.iter().flat_map(|rule| rule["nonResourceURLs"].as_array().unwrap().clone()).count()
    };
    assert_eq!(urls(&again), urls(&whole));
    assert_eq!(second.get(&dns).await.expect(200)["rules"], json!([]));
    assert_eq!(second.get(&basic).await.expect(200)["subjects"][0]["name"], "system:authenticated");
    second.get(&heapster).await.expect(200);
    let map = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let authority = second.get(map).await.expect(200)["data"]["client-ca-file"].clone();
    assert!(authority.as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    // Nothing is written where nothing is missing.
    let before = second.get(&discovery).await.expect(200)["metadata"]["resourceVersion"].clone();
    drop(second);
    let third = start().await;
    assert_eq!(third.get(&discovery).await.expect(200)["metadata"]["resourceVersion"], before);
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_hold() {
    let api = Api::start().await;
    let alice = alice(&api);
    let rule = |resource: &str, verbs: &[&str]| json!({"apiGroups": [""], "resources": [resource], "verbs": verbs});
    let rbac = json!({"apiGroups": ["rbac.authorization.k8s.io"],
        "resources": ["roles", "rolebindings"], "verbs": ["create", "update", "patch"]});
    api.post(ROLES, role("granter", json!([rbac, rule("pods", &["get"])]))).await.expect(201);
    api.post(BINDINGS, binding("granter", "Role", "granter", "User alice")).await.expect(201);
    api.post(ROLES, role("strong", json!([rule("secrets", &["get"])]))).await.expect(201);

    alice.post(ROLES, role("ok", json!([rule("pods", &["get"])]))).await.expect(201);
    let refused = alice.post(ROLES, role("no", json!([rule("pods", &["get", "list"])]))).await;
    assert_eq!(
        refused.expect(403)["message"],
        "roles.rbac.authorization.k8s.io \"no\" is forbidden: user \"alice\" \
         (groups=[\"devs\" \"system:authenticated\"]) is attempting to grant RBAC permissions not \
         currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\"]}"
    );
    let more = role("ok", json!([rule("pods", &["*"])]));
    assert_eq!(alice.put(&format!("{ROLES}/ok"), more).await.code, 403);
    let path = format!("{ROLES}/strong");
    alice.merge(&path, json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    assert_eq!(alice.merge(&path, json!({"rules": [rule("nodes", &["get"])]})).await.code, 403);

    alice.post(BINDINGS, binding("b1", "Role", "ok", "User bob")).await.expect(201);
    let refused = alice.post(BINDINGS, binding("b2", "Role", "strong", "User bob")).await;
    assert!(refused.message().ends_with(
        "not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"
    ));
    let unknown = alice.post(BINDINGS, binding("b3", "Role", "gone", "User bob")).await;
    assert_eq!(
        unknown.expect(404)["message"],
        "roles.rbac.authorization.k8s.io \"gone\" not found"
    );
    let cluster = binding("b4", "ClusterRole", "cluster-admin", "User alice");
    assert_eq!(alice.post(BINDINGS, cluster).await.code, 403);

    // The verbs that lift the check.
    let verbs = json!([
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"],
            "resourceNames": ["strong"], "verbs": ["bind"]},
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"],
            "resourceNames": ["free"], "verbs": ["escalate"]},
    ]);
    api.post(ROLES, role("lifter", verbs)).await.expect(201);
    api.post(BINDINGS, binding("lifter", "Role", "lifter", "User alice")).await.expect(201);
    alice.post(BINDINGS, binding("b2", "Role", "strong", "User bob")).await.expect(201);
    alice.post(ROLES, role("free", json!([rule("nodes", &["*"])]))).await.expect(201);

    // Who aggregates may come to hold anything.
    let wide = json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"],
        "verbs": ["create"]}]);
    api.post(&format!("{GROUP}/clusterroles"), role("wide", wide)).await.expect(201);
    let bindings = format!("{GROUP}/clusterrolebindings");
    api.post(&bindings, binding("wide", "ClusterRole", "wide", "User alice")).await.expect(201);
    let mut sum = role("sum", json!([]));
    sum["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]});
    let refused = alice.post(&format!("{GROUP}/clusterroles"), sum).await;
    assert!(refused.message().ends_with(
        "{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}\n\
         {NonResourceURLs:[\"*\"], Verbs:[\"*\"]}"
    ));
}

#[tokio::test]
async fn reviews_answer_for_others_and_oneself() {
    let api = Api::start().await;
    let alice = alice(&api);
    let group = "/apis/authorization.k8s.io/v1";
    let own = format!("{group}/selfsubjectaccessreviews");
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        {"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]);
    api.post(&format!("{GROUP}/clusterroles"), role("r", rules)).await.expect(201);
    let bindings = format!("{GROUP}/clusterrolebindings");
    api.post(&bindings, binding("b", "ClusterRole", "r", "User alice")).await.expect(201);
    for (text, expected) in [("get /pods:p", true), ("get !/metrics", true), ("list /pods", false)]
    {
        let answer = alice.post(&own, json!({"spec": question(text, "default")})).await;
        assert_eq!(answer.expect(201)["status"]["allowed"], expected, "{text}");
    }
    let admin = api.post(&own, json!({"spec": question("x y/z", "")})).await.expect(201);
    assert_eq!(admin["status"], json!({"allowed": true}));
    // Only those who may ask about others get an answer.
    let about = json!({"spec": {"user": "bob",
        "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}});
    assert_eq!(alice.post(REVIEWS, about.clone()).await.code, 403);
    let local = format!("{group}/namespaces/default/localsubjectaccessreviews");
    assert_eq!(api.post(&local, about).await.expect(201)["status"]["allowed"], false);

    let path = format!("{group}/selfsubjectrulesreviews");
    let listed = alice.post(&path, json!({"spec": {"namespace": "default"}})).await;
    let status = listed.expect(201)["status"].take();
    assert_eq!(status["incomplete"], false);
    let pods = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
    assert!(status["resourceRules"].as_array().unwrap().contains(&pods), "{status}");
    let metrics = json!({"nonResourceURLs": ["/metrics"], "verbs": ["get"]});
    assert!(status["nonResourceRules"].as_array().unwrap().contains(&metrics), "{status}");

    // path, spec, sentence
    let asked = json!({"verb": "get", "resource": "pods", "namespace": "x"});
    let selector = |selector: Value| {
        let mut asked = asked.clone();
        asked["fieldSelector"] = selector;
        json!({"user": "bob", "resourceAttributes": asked})
    };
    let cases = [
        (&*own, json!({}), "exactly one of nonResourceAttributes or resourceAttributes must be"),
        (
            &own,
            json!({"resourceAttributes": asked, "nonResourceAttributes": {"path": "/"}}),
            "cannot be specified in combination with resourceAttributes",
        ),
        (REVIEWS, json!({"resourceAttributes": asked}), "at least one of user or group must be"),
        (
            &local,
            json!({"user": "bob", "resourceAttributes": asked}),
            "spec.resourceAttributes.namespace: Invalid value: \"x\": must match metadata.namespace",
        ),
        (REVIEWS, selector(json!({})), "requirements or rawSelector is required"),
        (
            REVIEWS,
            selector(json!({"rawSelector": "a=b", "requirements": [{"key": "a",
                "operator": "Exists"}]})),
            "may not specified at the same time as requirements",
        ),
        (
            REVIEWS,
            selector(json!({"requirements": [{"key": "a", "operator": "In"}]})),
            "requirements[0].values: Required value: must be specified when `operator` is 'In'",
        ),
    ];
    for (path, spec, expected) in cases {
        let refused = api.post(path, json!({"spec": spec})).await;
        let message = refused.expect(422)["message"].to_string().replace("\\\"", "\"");
        assert!(message.contains(expected), "{message} should have {expected}");
    }
}

#[tokio::test]
async fn acting_as_somebody_else_needs_permission() {
    let api = Api::start().await;
    let alice = alice(&api);
    let as_bob = ["impersonate-user: bob"];
    let refused = alice.send(&format!("GET {PODS}"), &as_bob, "").await.expect(403);
    assert_eq!(
        refused["message"],
        "users \"bob\" is forbidden: User \"alice\" cannot impersonate resource \"users\" in API \
         group \"\" at the cluster scope"
    );
    let rules = json!([{"apiGroups": [""], "resources": ["users"], "resourceNames": ["bob"],
        "verbs": ["impersonate"]}]);
    api.post(&format!("{GROUP}/clusterroles"), role("act", rules)).await.expect(201);
    let bindings = format!("{GROUP}/clusterrolebindings");
    api.post(&bindings, binding("act", "ClusterRole", "act", "User alice")).await.expect(201);
    let refused = alice.send(&format!("GET {PODS}"), &as_bob, "").await.expect(403);
    let message = refused["message"].as_str().unwrap();
    assert!(message.starts_with("pods is forbidden: User \"bob\""), "{message}");
    let group = ["impersonate-user: bob", "impersonate-group: system:masters"];
    assert_eq!(alice.send(&format!("GET {PODS}"), &group, "").await.code, 403);
    let carol = ["impersonate-user: carol"];
    let refused = alice.send(&format!("GET {PODS}"), &carol, "").await.message();
    assert!(refused.starts_with("users \"carol\" is forbidden: User \"alice\""), "{refused}");
}

#[tokio::test]
async fn authorization_modes() {
    // flags, user, code of a list of pods
    let masters: &[&str] = &["system:masters"];
    let cases = [
        ("AlwaysAllow", &[][..], 200),
        ("AlwaysDeny", &[], 403),
        ("AlwaysDeny", masters, 200),
        ("RBAC,AlwaysAllow", &[], 200),
        ("Node", &[], 403),
        ("Node,RBAC", masters, 200),
    ];
    for (modes, groups, code) in cases {
        let api = Api::start_with(&[&format!("--authorization-mode={modes}")]).await;
        let reply = api.as_user(User::new("alice", groups)).get(PODS).await;
        assert_eq!(reply.code, code, "{modes} {groups:?}: {}", reply.text());
    }
    let api = Api::start_with(&["--authorization-mode=AlwaysDeny"]).await;
    let message = alice(&api).get(PODS).await.message();
    assert!(
        message.ends_with("in the namespace \"default\": Everything is forbidden."),
        "{message}"
    );
}

/// Every way to a Secret asks for the right to it; none shows it in an answer to who has none.
#[tokio::test]
async fn secrets_have_no_back_doors() {
    let api = Api::start().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    for name in ["mine", "other"] {
        let object = json!({"metadata": {"name": name}, "stringData": {"k": "hidden"}});
        api.post(secrets, object).await.expect(201);
    }
    let rules = json!([
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"],
            "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["secrets/status", "configmaps"], "verbs": ["*"]},
    ]);
    api.post(ROLES, role("r", rules)).await.expect(201);
    api.post(BINDINGS, binding("b", "Role", "r", "User alice")).await.expect(201);
    let alice = alice(&api);
    let old = "/api/v1/watch/namespaces/default/secrets";
    let table = "accept: application/json;as=Table;g=meta.k8s.io;v=v1";
    let metadata = "accept: application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    for (line, header) in [
        (format!("GET {secrets}"), ""),
        (format!("GET {secrets}"), table),
        (format!("GET {secrets}"), metadata),
        (format!("GET {secrets}/"), ""),
        (format!("GET {secrets}?limit=1&resourceVersion=0"), ""),
        (format!("GET {secrets}?fieldSelector=metadata.name%3Dother"), ""),
        (format!("GET {secrets}?fieldSelector=metadata.name!%3Dx"), ""),
        (format!("GET {secrets}?fieldSelector=type%3DOpaque"), ""),
        (format!("GET {secrets}?labelSelector=a"), ""),
        ("GET /api/v1/secrets".into(), ""),
        ("GET /api/v1/secrets?fieldSelector=metadata.name%3Dmine".into(), ""),
        (format!("GET {secrets}?watch=1&timeoutSeconds=1"), ""),
        (format!("GET {secrets}?watch=true&timeoutSeconds=1&sendInitialEvents=true"), ""),
        (format!("GET {secrets}?watch=1&fieldSelector=metadata.name%3Dother"), ""),
        (format!("GET {old}"), ""),
        (format!("GET {old}/other"), ""),
        (format!("GET {secrets}/other"), ""),
        (format!("GET {secrets}/other"), table),
        (format!("GET {secrets}/other"), metadata),
        (format!("HEAD {secrets}/other"), ""),
        (format!("PUT {secrets}/mine?dryRun=All"), ""),
        (format!("PATCH {secrets}/mine?dryRun=All"), ""),
        (format!("DELETE {secrets}/mine?dryRun=All"), ""),
        (format!("DELETE {secrets}?dryRun=All"), ""),
        (format!("POST {secrets}?dryRun=All"), ""),
    ] {
        let headers: Vec<&str> = [header].into_iter().filter(|text| !text.is_empty()).collect();
        let reply = alice.send(&line, &headers, "").await;
        assert!(
            matches!(reply.code, 403 | 405),
            "{line} {header}: {} {}",
            reply.code,
            reply.text()
        );
        assert!(!reply.text().contains("aGlkZGVu"), "{line} {header}");
    }
    alice.get(&format!("{secrets}/mine")).await.expect(200);
    let mine = alice.get(&format!("{secrets}?fieldSelector=metadata.name%3Dmine")).await;
    assert_eq!(mine.expect(200)["items"].as_array().unwrap().len(), 1);
    let mut watch =
        alice.watch(&format!("{secrets}?watch=1&fieldSelector=metadata.name%3Dmine")).await;
    assert_eq!(watch.short().await, "ADDED mine");
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    api.merge(&format!("{secrets}/other"), label.clone()).await.expect(200);
    api.merge(&format!("{secrets}/mine"), label).await.expect(200);
    assert_eq!(watch.short().await, "MODIFIED mine");
}
