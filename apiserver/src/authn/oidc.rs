//! ID tokens of an OpenID Connect issuer (kubernetes.io/docs, "OpenID Connect Tokens"). Its
//! discovery document and keys are fetched over HTTPS when the first token comes and again when a
//! token names a key that is not known.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use client::{Client, Clock, Config};
use http_body_util::BodyExt;
use jsonwebtoken::{Algorithm, DecodingKey, jwk::Jwk};
use parking_lot::Mutex;
use proto::{time::Time, user::User};
use serde_json::Value;

use super::{OidcOptions, keys::unjudged};
use crate::kinds::lens::Lens;

/// No issuer's document is larger.
const LIMIT: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);
/// Unknown keys do not make us ask more often than this.
const PAUSE: Duration = Duration::from_secs(1);
/// How far ahead an issuer's clock may be.
const LEEWAY: i64 = 300;

#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    #[error("reading the issuer's authority {path}")]
    Ca { path: PathBuf, source: std::io::Error },
    #[error("preparing connections to the issuer")]
    Connect(#[source] client::ConnectError),
}

/// One issuer whose tokens count.
pub struct Oidc {
    issuer: String,
    client_id: String,
    options: OidcOptions,
    algorithms: Vec<Algorithm>,
    ca: Option<Vec<u8>>,
    known: Mutex<Known>,
    /// Held while keys are fetched, so that they are fetched once.
    fetching: tokio::sync::Mutex<()>,
    clock: Clock,
}

#[derive(Default)]
struct Known {
    keys: Vec<Jwk>,
    asked: Option<Time>,
    failure: Option<String>,
}

impl Oidc {
    /// `None` where no issuer is named.
    pub fn new(options: &OidcOptions, clock: &Clock) -> Result<Option<Oidc>, OidcError> {
        let (Some(issuer), Some(client_id)) = (&options.issuer_url, &options.client_id) else {
            return Ok(None);
        };
        let ca = options.ca_file.as_ref().map(|path| {
            std::fs::read(path).map_err(|source| OidcError::Ca { path: path.clone(), source })
        });
        let oidc = Oidc {
            issuer: issuer.clone(),
            client_id: client_id.clone(),
            options: options.clone(),
            algorithms: options.signing_algs.iter().filter_map(|name| name.parse().ok()).collect(),
            ca: ca.transpose()?,
            known: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
            clock: clock.clone(),
        };
        oidc.client(issuer).map_err(OidcError::Connect)?;
        Ok(Some(oidc))
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whom a token of this issuer speaks for.
    pub async fn user(&self, token: &str) -> Result<User, String> {
        let claims = self.verify(token).await?;
        self.judge(&claims)?;
        self.user_of(&claims)
    }

    /// The claims under a signature that counts.
    async fn verify(&self, token: &str) -> Result<Value, String> {
        let unverified = |why: &dyn std::fmt::Display| format!("oidc: verify token: {why}");
        let header = jsonwebtoken::decode_header(token).map_err(|error| unverified(&error))?;
        if !self.algorithms.contains(&header.alg) {
            let allowed = self.options.signing_algs.join(" ");
            return Err(unverified(&format!(
                "oidc: id token signed with unsupported algorithm, expected [{allowed}] got {:?}",
                format!("{:?}", header.alg)
            )));
        }
        // With the keys as they are known, and again with those that the issuer has by now.
        for refreshed in [false, true] {
            if refreshed {
                self.refresh().await?;
            }
            let keys = self.known.lock().keys.clone();
            let named = |key: &&Jwk| header.kid.is_none() || key.common.key_id == header.kid;
            for key in keys.iter().filter(named) {
                let Ok(key) = DecodingKey::from_jwk(key) else { continue };
                if let Ok(data) = jsonwebtoken::decode(token, &key, &unjudged(header.alg)) {
                    return Ok(data.claims);
                }
            }
        }
        Err(unverified(&"failed to verify signature: failed to verify id token signature"))
    }

    /// Issuer, audience and times.
    fn judge(&self, claims: &Value) -> Result<(), String> {
        let wrong = |why: String| Err(format!("oidc: verify token: oidc: {why}"));
        if claims.text("iss") != self.issuer {
            let found = claims.text("iss");
            return wrong(format!(
                "id token issued by a different provider, expected {:?} got {found:?}",
                self.issuer
            ));
        }
        let audiences = strings(claims.at("aud"));
        if !audiences.contains(&self.client_id) {
            let id = &self.client_id;
            return wrong(format!("expected audience {id:?} got {audiences:?}"));
        }
        let now = self.clock.now().0.as_second();
        let second = |name: &str| claims.at(name).as_f64().map(|second| second as i64);
        if second("exp").is_none_or(|end| end < now) {
            let end = Time::from_unix(second("exp").unwrap_or(0));
            return wrong(format!("token is expired (Token Expiry: {end})"));
        }
        if second("nbf").is_some_and(|start| start > now + LEEWAY) {
            return wrong("current time is before the nbf (not before) time".into());
        }
        for (name, value) in &self.options.required_claim {
            match claims.get(name) {
                None => {
                    return Err(format!("oidc: required claim {name} not present in ID token"));
                }
                Some(found) if found.as_str() != Some(value) => {
                    return Err(format!(
                        "oidc: required claim {name} value does not match. Got = {}, want = {value}",
                        found.as_str().unwrap_or_default()
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn user_of(&self, claims: &Value) -> Result<User, String> {
        let options = &self.options;
        let name = &options.username_claim;
        let Some(username) = claims.at(name).as_str().filter(|text| !text.is_empty()) else {
            return Err(format!("oidc: parse username claims {name:?}: claim not present"));
        };
        if name == "email" && claims.has("email_verified") {
            match claims.flag("email_verified") {
                Some(true) => {}
                _ => return Err("oidc: email not verified".into()),
            }
        }
        let prefix = match options.username_prefix.as_deref() {
            Some("-") => String::new(),
            Some(prefix) => prefix.to_string(),
            None if name == "email" => String::new(),
            None => format!("{}#", self.issuer),
        };
        let groups = match &options.groups_claim {
            Some(claim) => strings(claims.at(claim)),
            None => Vec::new(),
        };
        let groups = groups.into_iter().map(|group| format!("{}{group}", options.groups_prefix));
        let mut user = User {
            name: format!("{prefix}{username}"),
            groups: groups.collect(),
            ..User::default()
        };
        if !claims.text("jti").is_empty() {
            let id = format!("JTI={}", claims.text("jti"));
            user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![id]);
        }
        Ok(user)
    }

    /// Fetches the keys, unless that was tried a moment ago.
    async fn refresh(&self) -> Result<(), String> {
        let _turn = self.fetching.lock().await;
        let now = self.clock.now();
        {
            let known = self.known.lock();
            if known.asked.is_some_and(|asked| now.since(asked) < PAUSE) {
                return known.failure.clone().map_or(Ok(()), Err);
            }
        }
        let fetched = match self.clock.timeout(PATIENCE, self.fetch()).await {
            Ok(fetched) => fetched,
            Err(_) => Err("the issuer did not answer in time".into()),
        };
        let mut known = self.known.lock();
        known.asked = Some(now);
        known.failure = fetched.map(|keys| known.keys = keys).err().map(|why| {
            tracing::warn!(issuer = self.issuer, why, "fetching the keys of the OpenID issuer");
            "oidc: authenticator not initialized".to_string()
        });
        known.failure.clone().map_or(Ok(()), Err)
    }

    async fn fetch(&self) -> Result<Vec<Jwk>, String> {
        let base = self.issuer.trim_end_matches('/');
        let document = self.get(&format!("{base}/.well-known/openid-configuration")).await?;
        if document.text("issuer") != self.issuer {
            return Err(format!(
                "oidc: issuer URL provided to client ({:?}) did not match the issuer URL returned \
                 by provider ({:?})",
                self.issuer,
                document.text("issuer")
            ));
        }
        let keys = self.get(document.text("jwks_uri")).await?;
        // A key of a kind that we do not know is none of ours.
        let keys =
            keys.items("keys").iter().filter_map(|key| serde_json::from_value(key.clone()).ok());
        Ok(keys.collect())
    }

    async fn get(&self, url: &str) -> Result<Value, String> {
        let failed = |why: &dyn std::fmt::Display| format!("GET {url}: {why}");
        let parsed = url::Url::parse(url).map_err(|error| failed(&error))?;
        if parsed.scheme() != "https" {
            return Err(failed(&"only https is spoken"));
        }
        let client = self.client(&parsed[..url::Position::BeforePath]);
        let client = client.map_err(|error| failed(&error))?;
        let request = http::Request::get(&parsed[url::Position::BeforePath..])
            .body(Bytes::new())
            .map_err(|error| failed(&error))?;
        let response = client.request(request).await.map_err(|error| failed(&error))?;
        let status = response.status();
        if !status.is_success() {
            return Err(failed(&status));
        }
        let (mut frames, mut body) = (response.into_body(), Vec::new());
        while let Some(frame) = frames.frame().await {
            if let Ok(data) = frame.map_err(|error| failed(&error))?.into_data() {
                body.extend_from_slice(&data);
            }
            if body.len() > LIMIT {
                return Err(failed(&"the document is too large"));
            }
        }
        serde_json::from_slice(&body).map_err(|error| failed(&error))
    }

    fn client(&self, server: &str) -> Result<Client, client::ConnectError> {
        let config =
            Config { server: server.to_string(), ca: self.ca.clone(), ..Config::default() };
        Client::connect(&config)
    }
}

/// A string, or a list of them.
fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(items) => items.iter().filter_map(Value::as_str).map(String::from).collect(),
        _ => Vec::new(),
    }
}
