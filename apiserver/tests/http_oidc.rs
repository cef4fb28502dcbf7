//! OpenID Connect against an issuer of our own: discovery and keys over HTTPS, what its tokens
//! prove, and what of them is refused.

#[path = "http/api.rs"]
mod api;

use std::sync::Arc;

use api::Api;
use apiserver::{authn::Keys, pki::Pki, server::tls};
use axum::{Router, routing::get};
use client::{Clock, Rng};
use parking_lot::Mutex;
use proto::user::User;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// An issuer on a free port of this machine.
struct Issuer {
    dir: tempfile::TempDir,
    url: String,
    /// What it publishes.
    jwks: Arc<Mutex<Value>>,
    /// How often its keys were asked for.
    asked: Arc<Mutex<usize>>,
    stop: CancellationToken,
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Issuer {
    async fn start() -> Issuer {
        let dir = tempfile::tempdir().unwrap();
        let names = ["127.0.0.1".to_string()];
        let clock = Clock::system();
        let pki = Pki::open(&dir.path().join("tls"), &names, &clock, &Rng::seeded(1)).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/realm", listener.local_addr().unwrap());
        let document = json!({"issuer": url, "jwks_uri": format!("{url}/keys")});
        let (jwks, asked) = (Arc::new(Mutex::new(json!({"keys": []}))), Arc::default());
        let router = {
            let (jwks, asked): (_, Arc<Mutex<usize>>) = (jwks.clone(), Arc::clone(&asked));
            Router::new()
                .route(
                    "/realm/.well-known/openid-configuration",
                    get(async move || document.to_string()),
                )
                .route(
                    "/realm/keys",
                    get(async move || {
                        *asked.lock() += 1;
                        jwks.lock().to_string()
                    }),
                )
        };
        let stop = CancellationToken::new();
        let tls = tls::Tls::new(&pki).unwrap();
        tokio::spawn(tls::serve(listener, tls, router, clock, stop.clone(), 100));
        Issuer { dir, url, jwks, asked, stop }
    }

    /// A key of its own, published in place of the others.
    fn rotate(&self, name: &str) -> Keys {
        let keys = Keys::open(&self.dir.path().join(name), None, &[]).unwrap();
        *self.jwks.lock() = keys.jwks();
        keys
    }

    async fn api(&self, flags: &[&str]) -> Api {
        let (ca, url) = (self.dir.path().join("tls/ca.crt"), &self.url);
        let flag = |name: &str, value: &str| format!("--oidc-{name}={value}");
        let own = [
            flag("issuer-url", url),
            flag("client-id", "cluster"),
            flag("ca-file", &ca.display().to_string()),
        ];
        let algorithms = ["--oidc-signing-algs=ES256"];
        let named = flags.iter().any(|flag| flag.starts_with("--oidc-signing-algs"));
        let more = if named { flags } else { &[&algorithms, flags].concat() };
        let all: Vec<&str> = own.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Api::start_with(&all).await
    }

    fn claims(&self, more: Value) -> Value {
        let now = Clock::system().now().0.as_second();
        let mut claims = json!({"iss": self.url, "aud": "cluster", "sub": "ann", "exp": now + 60});
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }
}

async fn review(api: &Api, token: &str) -> Value {
    let reply = api.post(REVIEWS, json!({"spec": {"token": token}})).await;
    reply.expect(201)["status"].clone()
}

#[tokio::test]
async fn who_an_id_token_names() {
    let issuer = Issuer::start().await;
    let keys = issuer.rotate("one");
    let plain = issuer.api(&[]).await;
    let token = keys.sign(&issuer.claims(json!({"groups": ["g"], "jti": "7"}))).unwrap();
    assert_eq!(
        review(&plain, &token).await["user"],
        json!({
            "username": format!("{}#ann", issuer.url),
            "groups": ["system:authenticated"],
            "extra": {"authentication.kubernetes.io/credential-id": ["JTI=7"]},
        })
    );
    let header = format!("authorization: Bearer {token}");
    let wire = plain.as_user(User::default());
    assert_eq!(wire.send("GET /apis", &[&header], "").await.code, 200);
    assert_eq!(*issuer.asked.lock(), 1, "the keys are remembered");

    let named = issuer
        .api(&[
            "--oidc-username-claim=email",
            "--oidc-groups-claim=roles",
            "--oidc-groups-prefix=oidc:",
            "--oidc-required-claim=hd=example.com",
        ])
        .await;
    let good = json!({"email": "a@b", "email_verified": true, "roles": ["x", "y"],
        "hd": "example.com"});
    let user = json!({"username": "a@b", "groups": ["oidc:x", "oidc:y", "system:authenticated"]});
    let ask = async |change: Value| {
        let mut claims = issuer.claims(good.clone());
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        review(&named, &keys.sign(&claims).unwrap()).await
    };
    assert_eq!(ask(json!({})).await["user"], user);
    let one = json!({"username": "a@b", "groups": ["oidc:x", "system:authenticated"]});
    assert_eq!(ask(json!({"roles": "x"})).await["user"], one);
    let unverified = json!({"email_verified": false});
    assert_eq!(ask(unverified).await["error"], "[invalid bearer token, oidc: email not verified]");
    assert_eq!(
        ask(json!({"hd": "evil"})).await["error"],
        "[invalid bearer token, oidc: required claim hd value does not match. Got = evil, want = \
         example.com]"
    );
    let dash = issuer.api(&["--oidc-username-prefix=-"]).await;
    assert_eq!(review(&dash, &token).await["user"]["username"], "ann");
}

#[tokio::test]
async fn what_is_refused() {
    let issuer = Issuer::start().await;
    let keys = issuer.rotate("one");
    let api = issuer.api(&[]).await;
    let stranger = Keys::open(&issuer.dir.path().join("stranger"), None, &[]).unwrap();
    let now = Clock::system().now().0.as_second();
    for (what, token, why) in [
        ("audience", keys.sign(&issuer.claims(json!({"aud": ["x"]}))), "expected audience"),
        ("expired", keys.sign(&issuer.claims(json!({"exp": now - 1}))), "token is expired"),
        ("no end", keys.sign(&issuer.claims(json!({"exp": null}))), "token is expired"),
        ("early", keys.sign(&issuer.claims(json!({"nbf": now + 900}))), "before the nbf"),
        ("no name", keys.sign(&issuer.claims(json!({"sub": null}))), "claim not present"),
        ("issuer", keys.sign(&issuer.claims(json!({"iss": "https://x"}))), "invalid bearer token"),
        ("key", stranger.sign(&issuer.claims(json!({}))), "failed to verify signature"),
    ] {
        let status = review(&api, &token.unwrap()).await;
        let error = status["error"].as_str().unwrap_or_default();
        assert!(error.contains(why), "{what}: {status}");
        assert!(status.get("authenticated").is_none(), "{what}");
    }
    let rsa_only = issuer.api(&["--oidc-signing-algs=RS256"]).await;
    let status = review(&rsa_only, &keys.sign(&issuer.claims(json!({}))).unwrap()).await;
    assert!(status["error"].as_str().unwrap().contains("unsupported algorithm"), "{status}");
}

#[tokio::test]
async fn keys_that_change_and_an_issuer_that_is_gone() {
    let issuer = Issuer::start().await;
    let old = issuer.rotate("one");
    let api = issuer.api(&[]).await;
    let token = |keys: &Keys| keys.sign(&issuer.claims(json!({}))).unwrap();
    assert_eq!(review(&api, &token(&old)).await["authenticated"], true);
    let new = issuer.rotate("two");
    let clock = Clock::system();
    let deadline = clock.instant() + std::time::Duration::from_secs(10);
    // The issuer is asked again for a key that is not known, once a second.
    while review(&api, &token(&new)).await.get("authenticated").is_none() {
        assert!(clock.instant() < deadline, "the new key is never met");
        tokio::task::yield_now().await;
    }
    let status = review(&api, &token(&old)).await;
    assert!(status.get("authenticated").is_none(), "{status}");

    let url = "https://127.0.0.1:1/realm";
    let flags = [&format!("--oidc-issuer-url={url}"), "--oidc-client-id=cluster"];
    let ca = format!("--oidc-ca-file={}", issuer.dir.path().join("tls/ca.crt").display());
    let api = Api::start_with(&[flags[0], flags[1], &ca, "--oidc-signing-algs=ES256"]).await;
    let lost = old.sign(&issuer.claims(json!({"iss": url}))).unwrap();
    let why = "[invalid bearer token, oidc: authenticator not initialized]";
    assert_eq!(review(&api, &lost).await["error"], why);
    assert_eq!(api.get("/healthz").await.code, 200, "others go on");
}
