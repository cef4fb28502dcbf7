//! Who is asking: from the request's extension (in one process), the client certificate, or a
//! bearer token (static, of a ServiceAccount, for bootstrapping, or of an OpenID issuer). The edge
//! calls it before anything else reads the request; nothing here may look at what is asked for, and
//! no token may reach a log or an answer.

use std::sync::Arc;

use client::Clock;
use futures::future::BoxFuture;
use http::{HeaderMap, header::AUTHORIZATION, request::Parts};
use proto::{status::Status, user::User};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::registry::Registry;

mod bootstrap_token;
pub mod keys;
mod legacy_token;
mod oidc;
mod options;
pub mod service_account;
mod token_file;

pub use keys::{Keys, KeysError};
pub use oidc::{Oidc, OidcError};
pub use options::{AuthnOptions, OidcOptions};
pub use token_file::{TokenFile, TokenFileError};

use service_account::Claims;

/// The group of everyone who proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everyone else.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Who asks without saying who they are.
pub const ANONYMOUS: &str = "system:anonymous";
/// Under which a user's extra tells which credential it was.
pub const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// The identity in the certificate that a connection presented. Set on every request of the
/// connection; the certificate has been verified against the authority by then.
#[derive(Clone, Debug)]
pub struct Peer(pub Arc<User>);

/// What a token proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    pub user: Arc<User>,
    /// Those of the asked audiences for which it does.
    pub audiences: Vec<String>,
}

/// Why a token proves nothing, as TokenReview tells it; `None` where nobody knows the token.
pub type Refusal = Option<String>;

#[derive(Debug, thiserror::Error)]
pub enum AuthnError {
    #[error("reading tokens")]
    Tokens(#[from] TokenFileError),
    #[error("reading the keys of ServiceAccount tokens")]
    Keys(#[from] KeysError),
    #[error("preparing OpenID Connect")]
    Oidc(#[from] OidcError),
}

/// Knows the credentials that count.
pub struct Authenticator {
    options: AuthnOptions,
    tokens: TokenFile,
    oidc: Option<Oidc>,
    keys: Keys,
    clock: Clock,
}

impl Authenticator {
    pub fn new(
        options: &AuthnOptions,
        keys: Keys,
        clock: &Clock,
    ) -> Result<Authenticator, AuthnError> {
        let tokens = options.token_auth_file.as_deref().map(TokenFile::read).transpose()?;
        Ok(Authenticator {
            options: options.clone(),
            tokens: tokens.unwrap_or_default(),
            oidc: Oidc::new(&options.oidc, clock)?,
            keys,
            clock: clock.clone(),
        })
    }

    /// 401 where a credential is there and wrong, or where there must be one.
    pub async fn identify(&self, parts: &Parts, registry: &Registry) -> Result<Arc<User>, Status> {
        if let Some(user) = parts.extensions.get::<Arc<User>>() {
            return Ok(user.clone());
        }
        if let Some(user) = parts.extensions.get::<User>() {
            return Ok(Arc::new(authenticated(user.clone())));
        }
        if let Some(Peer(user)) = parts.extensions.get::<Peer>() {
            return Ok(user.clone());
        }
        match bearer(&parts.headers) {
            Some(token) => match self.token(token, self.audiences(), registry).await {
                Ok(proof) => Ok(proof.user),
                Err(why) => {
                    let why = refusal(why);
                    tracing::debug!(why, "Unable to authenticate the request");
                    Err(Status::unauthorized())
                }
            },
            None if parts.headers.contains_key(AUTHORIZATION) || !self.options.anonymous_auth => {
                Err(Status::unauthorized())
            }
            None => Ok(Arc::new(User::new(ANONYMOUS, &[UNAUTHENTICATED]))),
        }
    }

    /// Whom a bearer token speaks for, towards one of `audiences`.
    pub fn token<'a>(
        &'a self,
        token: &'a str,
        audiences: &'a [String],
        registry: &'a Registry,
    ) -> BoxFuture<'a, Result<Proof, Refusal>> {
        Box::pin(self.prove(token, audiences, registry))
    }

    async fn prove(
        &self,
        token: &str,
        audiences: &[String],
        registry: &Registry,
    ) -> Result<Proof, Refusal> {
        // Tokens without an audience of their own are for this API.
        let common = intersection(self.audiences(), audiences);
        if let Some(user) = self.tokens.find(token) {
            return proof(user.clone(), common);
        }
        let now = self.clock.now();
        if self.options.enable_bootstrap_token_auth
            && let Some(user) = bootstrap_token::user(token, registry, now)
        {
            return proof(Arc::new(authenticated(user)), common);
        }
        let Some(issuer) = issuer(token) else { return Err(None) };
        if self.options.service_account_issuer.contains(&issuer) {
            let claims: Claims = self.keys.verify(token).map_err(|_| None)?;
            let audiences = intersection(&claims.aud, audiences);
            if audiences.is_empty() {
                return Err(Some(format!(
                    "token audiences {:?} is invalid for the target audiences {:?}",
                    claims.aud,
                    self.audiences()
                )));
            }
            claims.check(registry, now).await.map_err(Some)?;
            return Ok(Proof { user: Arc::new(authenticated(claims.user())), audiences });
        }
        if issuer == legacy_token::ISSUER {
            let claims: legacy_token::Claims = self.keys.verify(token).map_err(|_| None)?;
            claims.check(token, registry, now).await.map_err(Some)?;
            return proof(Arc::new(authenticated(claims.user())), common);
        }
        match &self.oidc {
            Some(oidc) if oidc.issuer() == issuer => {
                let user = oidc.user(token).await.map_err(Some)?;
                proof(Arc::new(authenticated(user)), common)
            }
            _ => Err(None),
        }
    }

    /// Whom tokens for this API are addressed to.
    pub fn audiences(&self) -> &[String] {
        match self.options.api_audiences.as_slice() {
            [] => &self.options.service_account_issuer,
            named => named,
        }
    }

    /// The issuer of new ServiceAccount tokens.
    pub fn issuer(&self) -> &str {
        self.options.service_account_issuer.first().map_or("", String::as_str)
    }

    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    pub fn options(&self) -> &AuthnOptions {
        &self.options
    }

    /// `/.well-known/openid-configuration`; `server` is this server's address. `None` where the
    /// issuer is no https URL, as OpenID Connect demands.
    pub fn configuration(&self, server: &str) -> Option<Value> {
        let issuer = self.issuer();
        let uri = self.options.service_account_jwks_uri.clone();
        issuer.starts_with("https://").then(|| {
            json!({
                "issuer": issuer,
                "jwks_uri": uri.unwrap_or_else(|| format!("https://{server}/openid/v1/jwks")),
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": self.keys.algorithms(),
            })
        })
    }
}

/// Proves nothing towards nobody.
fn proof(user: Arc<User>, audiences: Vec<String>) -> Result<Proof, Refusal> {
    if audiences.is_empty() { Err(None) } else { Ok(Proof { user, audiences }) }
}

/// As upstream joins what its authenticators say.
pub fn refusal(why: Refusal) -> String {
    match why {
        Some(why) => format!("[invalid bearer token, {why}]"),
        None => "invalid bearer token".into(),
    }
}

/// The user a verified client certificate names: CN and the Os. `None` without a common name.
pub fn user_of_certificate(der: &[u8]) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_string();
    let groups =
        subject.iter_organization().filter_map(|group| group.as_str().ok()).map(String::from);
    let mut user = User { name, groups: groups.collect(), ..User::default() };
    let id = format!("X509SHA256={}", hex::encode(Sha256::digest(der)));
    user.extra.insert(CREDENTIAL.into(), vec![id]);
    Some(authenticated(user))
}

fn authenticated(mut user: User) -> User {
    if !user.groups.iter().any(|group| group == AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.into());
    }
    user
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Who claims to have issued a JSON Web Token; nothing of it has been verified.
fn issuer(token: &str) -> Option<String> {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    let (_, rest) = token.split_once('.')?;
    let (claims, _) = rest.split_once('.')?;
    let claims: Value =
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    claims.get("iss")?.as_str().map(String::from)
}

fn intersection(some: &[String], others: &[String]) -> Vec<String> {
    some.iter().filter(|one| others.contains(one)).cloned().collect()
}
