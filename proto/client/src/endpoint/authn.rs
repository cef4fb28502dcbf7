//! Who calls: a client certificate of the cluster's authority, which TLS has verified, or a bearer
//! token, of which the API server says whose it is (Kubernetes: TokenReview). Nobody is let in
//! because the API server does not answer.

use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use proto::kind::TOKEN_REVIEW;
use proto::user::User;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::cache::Cache;
use crate::{Client, Clock};

/// Whoever says nothing about itself, where that is allowed.
const ANONYMOUS: &str = "system:anonymous";

pub struct Authenticator {
    client: Client,
    /// Whether who says nothing about itself is somebody.
    anonymous: bool,
    /// How long the API server's word about a token holds.
    lasts: Duration,
    /// By the token's hash: tokens themselves are not kept. None: the token is nobody's.
    known: Cache<[u8; 32], Option<User>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Review {
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    authenticated: bool,
    user: UserInfo,
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct UserInfo {
    username: String,
    uid: String,
    groups: Vec<String>,
    extra: std::collections::BTreeMap<String, Vec<String>>,
}

impl Authenticator {
    pub fn new(client: Client, clock: Clock, anonymous: bool, lasts: Duration) -> Authenticator {
        Authenticator { client, anonymous, lasts, known: Cache::new(clock) }
    }

    /// The user; None: 401. A certificate counts more than a token.
    pub async fn identify(&self, certified: Option<User>, headers: &HeaderMap) -> Option<User> {
        if certified.is_some() {
            return certified;
        }
        match bearer(headers) {
            // A bad token makes nobody anonymous.
            Some(token) => self.review(token).await,
            None if self.anonymous => Some(User {
                name: ANONYMOUS.into(),
                groups: vec!["system:unauthenticated".into()],
                ..User::default()
            }),
            None => None,
        }
    }

    async fn review(&self, token: &str) -> Option<User> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.known.get(&hash) {
            return known;
        }
        let review = json!({
            "apiVersion": TOKEN_REVIEW.api_version(),
            "kind": TOKEN_REVIEW.kind,
            "spec": {"token": token},
        });
        let answer = self.client.post(&TOKEN_REVIEW.path("", ""), &review).await;
        let status = match answer {
            Ok(answer) => serde_json::from_value::<Review>(answer).unwrap_or_default().status,
            Err(error) => {
                // Not remembered: the next one may be answered.
                tracing::warn!(error = crate::error::chain(&error), "cannot review a token");
                return None;
            }
        };
        if !status.error.is_empty() {
            tracing::debug!(error = status.error, "a token is not believed");
        }
        let UserInfo { username, uid, groups, extra } = status.user;
        let user = User { name: username, uid, groups, extra };
        let user = status.authenticated.then_some(user);
        self.known.put(hash, user.clone(), self.lasts);
        user
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
