//! Tokens over HTTP: ServiceAccount tokens from their request to their end, bootstrap tokens,
//! reviews, the issuer's documents, and acting as somebody else.

#[path = "http/api.rs"]
mod api;

use std::time::Duration;

use api::{Api, PODS, Reply, pod};
use apiserver::authn::Keys;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use client::Clock;
use proto::{time::Time, user::User};
use serde_json::{Value, json};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const WHO_AM_I: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

fn clock() -> Clock {
    Clock::simulated(Time::from_unix(1_800_000_000))
}

async fn start() -> Api {
    let api = Api::start_at(clock(), &[]).await;
    account(&api).await;
    api
}

async fn account(api: &Api) {
    api.post(ACCOUNTS, json!({"metadata": {"name": "robot"}})).await.expect(201);
}

async fn request(api: &Api, spec: Value) -> Reply {
    api.post(&format!("{ACCOUNTS}/robot/token"), json!({"spec": spec})).await
}

async fn token(api: &Api, spec: Value) -> String {
    let made = request(api, spec).await.expect(201);
    made["status"]["token"].as_str().unwrap().to_string()
}

/// 200 where the token proves who asks, 401 where not.
async fn probe(api: &Api, token: &str) -> u16 {
    let header = format!("authorization: Bearer {token}");
    api.as_user(User::default()).send("GET /apis", &[&header], "").await.code
}

async fn review(api: &Api, token: &str, audiences: &[&str]) -> Value {
    let review = json!({"spec": {"token": token, "audiences": audiences}});
    api.post(REVIEWS, review).await.expect(201)["status"].clone()
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&BASE64.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

async fn robot_pod(api: &Api) -> Value {
    let mut object = pod("p");
    object["spec"]["serviceAccountName"] = "robot".into();
    api.post(PODS, object).await.expect(201)
}

fn bind_to(kind: &str, object: &Value) -> Value {
    json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind,
        "name": object["metadata"]["name"], "uid": object["metadata"]["uid"]}})
}

#[tokio::test(start_paused = true)]
async fn what_a_token_says_and_for_how_long() {
    let api = start().await;
    let made = request(&api, json!({"expirationSeconds": 600})).await.expect(201);
    assert_eq!(made["kind"], "TokenRequest");
    assert_eq!(made["spec"]["audiences"], json!([ISSUER]));
    assert_eq!(made["status"]["expirationTimestamp"], "2027-01-15T08:10:00Z");
    let token = made["status"]["token"].as_str().unwrap();
    let claims = claims(token);
    let account = api.get(&format!("{ACCOUNTS}/robot")).await.json();
    assert_eq!(claims["sub"], "system:serviceaccount:default:robot");
    assert_eq!(claims["aud"], json!([ISSUER]));
    assert_eq!(claims["iss"], ISSUER);
    assert_eq!(claims["exp"], 1_800_000_600);
    let reference = json!({"name": "robot", "uid": account["metadata"]["uid"]});
    let bound = json!({"namespace": "default", "serviceaccount": reference});
    assert_eq!(claims["kubernetes.io"], bound);

    let status = review(&api, token, &[]).await;
    let id = format!("JTI={}", claims["jti"].as_str().unwrap());
    assert_eq!(
        status,
        json!({
            "authenticated": true,
            "audiences": [ISSUER],
            "user": {
                "username": "system:serviceaccount:default:robot",
                "uid": account["metadata"]["uid"],
                "groups": ["system:serviceaccounts", "system:serviceaccounts:default",
                    "system:authenticated"],
                "extra": {"authentication.kubernetes.io/credential-id": [id]},
            },
        })
    );
    assert_eq!(probe(&api, token).await, 200);
    // Clocks may be a minute apart.
    tokio::time::advance(Duration::from_secs(655)).await;
    assert_eq!(probe(&api, token).await, 200);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(probe(&api, token).await, 401);
    let status = review(&api, token, &[]).await;
    let why = "[invalid bearer token, service account token has expired]";
    assert_eq!(status, json!({"user": {}, "error": why}));
}

#[tokio::test(start_paused = true)]
async fn audiences() {
    let api = start().await;
    let other = token(&api, json!({"audiences": ["vault", "other"]})).await;
    assert_eq!(probe(&api, &other).await, 401, "it is not for this API");
    let none = json!(null);
    for (asked, expected) in [
        (vec![], &none),
        (vec!["vault"], &json!(["vault"])),
        (vec!["other", "vault", "x"], &json!(["vault", "other"])),
        (vec!["x"], &none),
    ] {
        let status = review(&api, &other, &asked).await;
        assert_eq!(status.get("audiences").unwrap_or(&none), expected, "{asked:?}: {status}");
        assert_eq!(status.get("authenticated").is_some(), expected.is_array());
    }
    let empty = api.post(REVIEWS, json!({"spec": {}})).await;
    assert_eq!(
        (empty.code, &*empty.message()),
        (400, "token is required for TokenReview in authentication")
    );
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_refused() {
    let api = start().await;
    let bound = robot_pod(&api).await;
    api.post(PODS, pod("other")).await.expect(201);
    let refer = |kind: &str, name: &str, uid: &str| {
        let uid = if uid.is_empty() { Value::Null } else { uid.into() };
        json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}})
    };
    let short = "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: \
                 Invalid value: 599: may not specify a duration less than 10 minutes";
    let foreign = "cannot bind token for serviceaccount \"robot\" to pod running with different \
                   serviceaccount name.";
    let stale = "Operation cannot be fulfilled on Pod \"p\": the UID in the bound object \
                 reference (x) does not match the UID in record. The object might have been \
                 deleted and then recreated";
    for (spec, code, why) in [
        (json!({"expirationSeconds": 599}), 422, short),
        (refer("Pod", "gone", ""), 404, "pods \"gone\" not found"),
        (refer("Pod", "other", ""), 400, foreign),
        (refer("Pod", "p", "x"), 409, stale),
        (refer("Secret", "s", ""), 404, "secrets \"s\" not found"),
        (
            refer("ConfigMap", "c", ""),
            400,
            "cannot bind token to object of type /v1, Kind=ConfigMap",
        ),
    ] {
        let reply = request(&api, spec.clone()).await;
        assert_eq!((reply.code, &*reply.message()), (code, why), "{spec}");
    }
    let uid = bound["metadata"]["uid"].as_str().unwrap();
    assert_eq!(request(&api, refer("Pod", "p", uid)).await.code, 201);
    let absent = api.post(&format!("{ACCOUNTS}/absent/token"), json!({"spec": {}})).await;
    assert_eq!((absent.code, &*absent.message()), (404, "serviceaccounts \"absent\" not found"));
    let named = json!({"metadata": {"name": "other"}, "spec": {}});
    let named = api.post(&format!("{ACCOUNTS}/robot/token"), named).await;
    assert_eq!(named.code, 422, "{}", named.text());
}

#[tokio::test(start_paused = true)]
async fn nodes_ask_for_the_tokens_of_their_pods_only() {
    let api = start().await;
    let mut object = pod("p");
    object["spec"]["serviceAccountName"] = "robot".into();
    object["spec"]["volumes"] = json!([{"name": "t", "projected": {"sources": [
        {"serviceAccountToken": {"path": "t", "audience": "vault"}}]}}]);
    let bound = api.post(PODS, object).await.expect(201);
    api.post("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await.expect(201);
    let target = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    api.post(&format!("{PODS}/p/binding"), target).await.expect(201);
    let node =
        |name: &str| api.as_user(User::new(&format!("system:node:{name}"), &["system:nodes"]));
    let good = bind_to("Pod", &bound);
    let with = |audience: &str| {
        let mut spec = good.clone();
        spec["audiences"] = json!([audience]);
        spec
    };
    let mut anyone = good.clone();
    anyone["boundObjectRef"]["uid"] = Value::Null;
    for (name, spec, code, why) in [
        ("n1", good.clone(), 201, ""),
        ("n1", with("vault"), 201, ""),
        ("n1", json!({}), 403, "node requested token not bound to a pod"),
        ("n1", anyone, 403, "node requested token with a pod binding without a uid"),
        ("n2", good.clone(), 403, "n2"),
    ] {
        let reply = request(&node(name), spec.clone()).await;
        assert_eq!(reply.code, code, "{name} {spec}: {}", reply.text());
        assert!(code == 201 || reply.message().contains(why), "{}", reply.text());
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_dies_with_what_it_names() {
    let api = start().await;
    let bound = robot_pod(&api).await;
    let secret = json!({"metadata": {"name": "s"}});
    let secret = api.post(SECRETS, secret).await.expect(201);
    let node = json!({"metadata": {"name": "n"}});
    let node = api.post("/api/v1/nodes", node).await.expect(201);
    let invalidated = "[invalid bearer token, service account token has been invalidated]";
    for (kind, object, path) in [
        ("Pod", &bound, format!("{PODS}/p?gracePeriodSeconds=0")),
        ("Secret", &secret, format!("{SECRETS}/s")),
        ("Node", &node, "/api/v1/nodes/n".into()),
    ] {
        let token = token(&api, bind_to(kind, object)).await;
        let name = object["metadata"]["name"].clone();
        let part = kind.to_lowercase();
        assert_eq!(claims(&token)["kubernetes.io"][&part]["name"], name);
        let status = review(&api, &token, &[]).await;
        if kind != "Secret" {
            let key = format!("authentication.kubernetes.io/{part}-name");
            assert_eq!(status["user"]["extra"][key], json!([name]), "{status}");
        }
        assert_eq!(probe(&api, &token).await, 200, "{kind}");
        assert_eq!(api.delete(&path).await.code, 200, "{path}");
        assert_eq!(probe(&api, &token).await, 401, "{kind}");
        assert_eq!(review(&api, &token, &[]).await["error"], invalidated, "{kind}");
    }
    let recreated = robot_pod(&api).await;
    let token = token(&api, bind_to("Pod", &recreated)).await;
    let old = api.get(&format!("{ACCOUNTS}/robot")).await.json();
    api.delete(&format!("{ACCOUNTS}/robot")).await.expect(200);
    assert_eq!(probe(&api, &token).await, 401);
    account(&api).await;
    assert_eq!(probe(&api, &token).await, 401, "another account of the same name");
    let new = api.get(&format!("{ACCOUNTS}/robot")).await.json();
    let why = format!(
        "[invalid bearer token, service account UID ({}) does not match claim ({})]",
        new["metadata"]["uid"].as_str().unwrap(),
        old["metadata"]["uid"].as_str().unwrap()
    );
    assert_eq!(review(&api, &token, &[]).await["error"], why);
}

#[tokio::test(start_paused = true)]
async fn a_pods_token_lasts_for_clients_that_do_not_read_it_anew() {
    let api = start().await;
    let bound = robot_pod(&api).await;
    let mut spec = bind_to("Pod", &bound);
    spec["expirationSeconds"] = 3607.into();
    let made = request(&api, spec.clone()).await.expect(201);
    assert_eq!(made["status"]["expirationTimestamp"], "2027-01-15T09:00:07Z");
    let claimed = claims(made["status"]["token"].as_str().unwrap());
    assert_eq!(claimed["exp"], 1_800_000_000 + 365 * 24 * 3600);
    assert_eq!(claimed["kubernetes.io"]["warnafter"], 1_800_003_607);
    spec["audiences"] = json!(["vault"]);
    assert_eq!(claims(&token(&api, spec).await)["exp"], 1_800_003_607);

    let flags = ["--service-account-max-token-expiration=1h", "--api-audiences=me,you"];
    let api = Api::start_at(clock(), &flags).await;
    account(&api).await;
    let long = request(&api, json!({"expirationSeconds": 7200})).await;
    let warning = "299 - \"requested expiration of 7200 seconds shortened to 3600 seconds\"";
    assert_eq!(long.warnings(), [warning]);
    assert_eq!(long.json()["spec"]["audiences"], json!(["me", "you"]));
    let token = long.json()["status"]["token"].as_str().unwrap().to_string();
    assert_eq!(claims(&token)["exp"], 1_800_003_600);
    assert_eq!(probe(&api, &token).await, 200);
}

#[tokio::test(start_paused = true)]
async fn forged_tokens() {
    let api = start().await;
    let good = token(&api, json!({})).await;
    let [head, body, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let none = BASE64.encode(r#"{"alg":"none"}"#);
    let other = tempfile::tempdir().unwrap();
    let stranger = Keys::open(other.path(), None, &[]).unwrap();
    let own = Keys::open(&api.dir.path().join("pki"), None, &[]).unwrap();
    let with = |field: &str, value: Value| {
        let mut claims = claims(&good);
        claims[field] = value;
        claims
    };
    let mut root = claims(&good);
    root["kubernetes.io"]["namespace"] = "kube-system".into();
    let tampered = BASE64.encode(root.to_string());
    for (what, token, expected) in [
        ("signed again", own.sign(&claims(&good)).unwrap(), 200),
        ("another key", stranger.sign(&claims(&good)).unwrap(), 401),
        ("another body", format!("{head}.{tampered}.{signature}"), 401),
        ("another namespace", own.sign(&root).unwrap(), 401),
        ("no algorithm", format!("{none}.{body}."), 401),
        ("no signature", format!("{head}.{body}."), 401),
        ("another issuer", own.sign(&with("iss", "https://evil".into())).unwrap(), 401),
        ("another audience", own.sign(&with("aud", json!("vault"))).unwrap(), 401),
        ("expired", own.sign(&with("exp", json!(1_799_999_000))).unwrap(), 401),
        ("not yet", own.sign(&with("nbf", json!(1_800_000_100))).unwrap(), 401),
        ("words", "no.token.at-all".into(), 401),
        ("a dot", ".".into(), 401),
    ] {
        assert_eq!(probe(&api, &token).await, expected, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_issuers_documents() {
    let api = start().await;
    let own = api.as_user(User::new("system:serviceaccount:a:b", &["system:serviceaccounts"]));
    let reply = own.get("/.well-known/openid-configuration").await;
    assert_eq!(reply.headers["content-type"], "application/json");
    assert_eq!(reply.headers["cache-control"], "public, max-age=3600");
    let document = reply.expect(200);
    assert_eq!(document["issuer"], ISSUER);
    assert!(document["jwks_uri"].as_str().unwrap().ends_with("/openid/v1/jwks"), "{document}");
    assert_eq!(document["id_token_signing_alg_values_supported"], json!(["ES256"]));
    let reply = own.get("/openid/v1/jwks").await;
    assert_eq!(reply.headers["content-type"], "application/jwk-set+json");
    let keys = reply.expect(200);
    let head = token(&api, json!({})).await;
    let head = BASE64.decode(head.split('.').next().unwrap()).unwrap();
    let head: Value = serde_json::from_slice(&head).unwrap();
    assert_eq!(keys["keys"][0]["kid"], head["kid"]);
    assert_eq!(keys["keys"][0]["kty"], "EC");
    assert!(keys["keys"][0].get("d").is_none(), "no private key");
    let nobody = api.as_user(User::default());
    assert_eq!(nobody.get("/openid/v1/jwks").await.code, 403);
}

#[tokio::test(start_paused = true)]
async fn bootstrap_tokens() {
    let api = start().await;
    let secret = json!({
        "metadata": {"name": "bootstrap-token-abcdef"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": "abcdef",
            "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:worker",
            "expiration": "2027-01-15T09:00:00Z",
        },
    });
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    api.post(secrets, secret).await.expect(201);
    let token = "abcdef.0123456789abcdef";
    let groups =
        json!(["system:bootstrappers", "system:bootstrappers:worker", "system:authenticated"]);
    let user = json!({"username": "system:bootstrap:abcdef", "groups": groups});
    assert_eq!(review(&api, token, &[]).await["user"], user);
    assert_eq!(review(&api, token, &["vault"]).await["error"], "invalid bearer token");
    assert_eq!(probe(&api, token).await, 200);
    for wrong in ["abcdef.0123456789abcdeg", "abcdeg.0123456789abcdef", "abcdef.", "abcdef"] {
        assert_eq!(probe(&api, wrong).await, 401, "{wrong}");
    }
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(probe(&api, token).await, 401, "it has expired");
    let off = Api::start_with(&["--enable-bootstrap-token-auth=false"]).await;
    assert_eq!(probe(&off, token).await, 401);
}

#[tokio::test]
async fn nobody_in_particular() {
    let api = Api::start().await;
    let nobody = api.as_user(User::default());
    let refused = nobody.get(PODS).await;
    let why = "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API \
               group \"\" in the namespace \"default\"";
    assert_eq!((refused.code, &*refused.message()), (403, why));
    let refused = nobody.get("/apis").await;
    let why = "forbidden: User \"system:anonymous\" cannot get path \"/apis\"";
    assert_eq!((refused.code, &*refused.message()), (403, why));
    let off = Api::start_with(&["--anonymous-auth=false"]).await;
    let nobody = off.as_user(User::default());
    for path in [PODS, "/version", "/healthz"] {
        assert_eq!(nobody.get(path).await.code, 401, "{path}");
    }
}

#[tokio::test]
async fn acting_as_somebody_else() {
    let api = Api::start().await;
    let who = async |user: &Api, headers: &[&str]| {
        let headers = [&["content-type: application/json"], headers].concat();
        user.send(&format!("POST {WHO_AM_I}"), &headers, "{}").await
    };
    // Only masters may act as others here, and masters they stay.
    let masters = "impersonate-group: system:masters";
    let cases: &[(&[&str], Value)] = &[
        (
            &["impersonate-user: bob", masters],
            json!({"username": "bob", "groups": ["system:masters", "system:authenticated"]}),
        ),
        (
            &["impersonate-user: system:anonymous", masters],
            json!({"username": "system:anonymous",
                "groups": ["system:masters", "system:unauthenticated"]}),
        ),
        (
            &[
                "impersonate-user: bob",
                masters,
                "impersonate-uid: 7",
                "impersonate-extra-acme.com%2Fproject: a",
                "impersonate-extra-acme.com%2Fproject: b",
                "impersonate-extra-Scopes: view",
            ],
            json!({"username": "bob", "uid": "7",
                "groups": ["system:masters", "system:authenticated"],
                "extra": {"acme.com/project": ["a", "b"], "scopes": ["view"]}}),
        ),
    ];
    for (headers, expected) in cases {
        let answer = who(&api, headers).await.expect(201);
        assert_eq!(answer["status"]["userInfo"], *expected, "{headers:?}");
    }
    let account = ["impersonate-user: system:serviceaccount:a:b"];
    let refused = api.send(&format!("GET {PODS}"), &account, "").await;
    assert!(refused.message().contains("\"system:serviceaccount:a:b\" cannot list"));

    let bob = api.as_user(User::new("bob", &[]));
    for (headers, why) in [
        (
            &["impersonate-user: ann"][..],
            "users \"ann\" is forbidden: User \"bob\" cannot impersonate resource \"users\" in \
             API group \"\" at the cluster scope",
        ),
        (
            &account,
            "serviceaccounts \"b\" is forbidden: User \"bob\" cannot impersonate resource \
             \"serviceaccounts\" in API group \"\" in the namespace \"a\"",
        ),
    ] {
        let reply = bob.send(&format!("GET {PODS}"), headers, "").await;
        assert_eq!((reply.code, &*reply.message()), (403, why));
    }
    let alone = ["impersonate-group: devs"];
    let reply = api.send(&format!("GET {PODS}"), &alone, "").await;
    let why = "Internal error occurred: requested [devs] without impersonating a user";
    assert_eq!((reply.code, &*reply.message()), (500, why));
}

/// The token of a Secret, as the controller writes it.
async fn secret_token(api: &Api) -> String {
    let account = api.get(&format!("{ACCOUNTS}/robot")).await.expect(200);
    let said = |name: &str| format!("kubernetes.io/serviceaccount/{name}");
    let claims = json!({
        "iss": "kubernetes/serviceaccount",
        "sub": "system:serviceaccount:default:robot",
        said("namespace"): "default",
        said("secret.name"): "kept",
        said("service-account.name"): "robot",
        said("service-account.uid"): account["metadata"]["uid"],
    });
    let token = keys(api).sign(&claims).unwrap();
    let annotations = json!({"kubernetes.io/service-account.name": "robot"});
    let secret = json!({"metadata": {"name": "kept", "annotations": annotations},
        "type": "kubernetes.io/service-account-token", "stringData": {"token": token}});
    api.post(SECRETS, secret).await.expect(201);
    token
}

fn keys(api: &Api) -> Keys {
    Keys::open(&api.dir.path().join("pki"), None, &[]).unwrap()
}

/// The labels say when a token was last used, once a day; a token marked invalid proves nothing
/// until the mark is taken away.
#[tokio::test(start_paused = true)]
async fn the_use_of_a_secrets_token_is_noted_once_a_day() {
    const USED: &str = "kubernetes.io/legacy-token-last-used";
    let clock = clock();
    let api = Api::start_at(clock.clone(), &[]).await;
    account(&api).await;
    let tracking = "kube-system/configmaps/kube-apiserver-legacy-service-account-token-tracking";
    let tracking = api.get(&format!("/api/v1/namespaces/{tracking}")).await.expect(200);
    assert_eq!(tracking["data"], json!({"since": "2027-01-15"}));

    let token = secret_token(&api).await;
    let path = format!("{SECRETS}/kept");
    let kept = async || api.get(&path).await.expect(200)["metadata"].clone();
    assert_eq!(kept().await.get("labels"), None);
    assert_eq!(probe(&api, &token).await, 200);
    let first = kept().await;
    assert_eq!(first["labels"], json!({ USED: "2027-01-15" }));
    assert_eq!(first["managedFields"][1]["manager"], "kube-apiserver");
    assert_eq!(probe(&api, &token).await, 200);
    assert_eq!(kept().await["resourceVersion"], first["resourceVersion"]);
    clock.sleep(Duration::from_secs(24 * 60 * 60)).await;
    assert_eq!(probe(&api, &token).await, 200);
    assert_eq!(kept().await["labels"][USED], "2027-01-16");

    let mark = |since: Value| {
        json!({"metadata": {"labels":
        {"kubernetes.io/legacy-token-invalid-since": since, USED: "2027-01-01"}}})
    };
    api.merge(&path, mark("2027-01-16".into())).await.expect(200);
    assert_eq!(probe(&api, &token).await, 401);
    // Who came with it shall be known.
    assert_eq!(kept().await["labels"][USED], "2027-01-16");
    let refused = review(&api, &token, &[]).await;
    assert_eq!(
        refused["error"],
        "[invalid bearer token, the token in secret default/kept for service account default/robot \
         has been marked invalid. Use tokens from the TokenRequest API or manually created \
         secret-based tokens, or remove the 'kubernetes.io/legacy-token-invalid-since' label from \
         the secret to temporarily allow use of this token]"
    );
    api.merge(&path, mark(Value::Null)).await.expect(200);
    assert_eq!(probe(&api, &token).await, 200);
}
