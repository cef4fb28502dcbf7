//! Tokens kept in Secrets of type `kubernetes.io/service-account-token`: they name no audience and
//! never expire, and are worth as much as the Secret that holds them (kubernetes.io/docs, "Managing
//! Service Accounts", manual Secret management).

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use proto::kind;
use proto::time::{Day, Time};
use proto::user::User;
use proto::view::{secret::Secret, service_account::ServiceAccount};
use serde::Deserialize;

use super::service_account::{account_of, groups, read, user_name};
use crate::registry::Registry;

/// Who is said to have issued them.
pub const ISSUER: &str = "kubernetes/serviceaccount";
/// Marks a token that nobody used for long.
const INVALID: &str = "kubernetes.io/legacy-token-invalid-since";
/// The day on which a token was last used.
const USED: &str = "kubernetes.io/legacy-token-last-used";

/// What such a token says.
#[derive(Debug, Deserialize)]
pub struct Claims {
    #[serde(default)]
    sub: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace", default)]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name", default)]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name", default)]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid", default)]
    uid: String,
}

impl Claims {
    /// Whether the Secret and the account are still there and the same; the reason where not. That
    /// somebody came with the token is noted on the Secret.
    pub async fn check(&self, token: &str, registry: &Registry, now: Time) -> Result<(), String> {
        let Claims { sub, namespace, secret, account, uid } = self;
        for (claim, value) in [
            ("sub", sub),
            ("namespace", namespace),
            ("secretName", secret),
            ("serviceAccountName", account),
            ("serviceAccountUID", uid),
        ] {
            if value.is_empty() {
                return Err(format!("{claim} claim is missing"));
            }
        }
        if account_of(sub) != Some((namespace.as_str(), account.as_str())) {
            return Err("sub claim is invalid".into());
        }
        let found: Option<Secret> = read(registry, &kind::SECRET, namespace, secret).await;
        let alive = found.filter(|secret| secret.metadata.deletion_timestamp.is_none());
        let kept = alive.ok_or("Token has been invalidated")?;
        let copy = kept.data.get("token").and_then(|text| BASE64_STANDARD.decode(text).ok());
        if copy.as_deref() != Some(token.as_bytes()) {
            return Err("Token does not match server's copy".into());
        }
        let found: Option<ServiceAccount> =
            read(registry, &kind::SERVICE_ACCOUNT, namespace, account).await;
        let found = found.ok_or_else(|| format!("serviceaccounts {account:?} not found"))?;
        if found.metadata.deletion_timestamp.is_some() {
            return Err(format!("ServiceAccount {namespace}/{account} has been deleted"));
        }
        if found.metadata.uid != *uid {
            let other = &found.metadata.uid;
            return Err(format!("ServiceAccount UID ({other}) does not match claim ({uid})"));
        }
        note_use(registry, &kept, now).await;
        if kept.metadata.labels.get(INVALID).is_some_and(|since| !since.is_empty()) {
            return Err(format!(
                "the token in secret {namespace}/{secret} for service account \
                 {namespace}/{account} has been marked invalid. Use tokens from the TokenRequest \
                 API or manually created secret-based tokens, or remove the '{INVALID}' label \
                 from the secret to temporarily allow use of this token"
            ));
        }
        Ok(())
    }

    /// Whom the token speaks for.
    pub fn user(&self) -> User {
        User {
            name: user_name(&self.namespace, &self.account),
            uid: self.uid.clone(),
            groups: groups(&self.namespace),
            ..User::default()
        }
    }
}

/// Writes today's date on the Secret, once a day. Another server's clock may be a day ahead.
async fn note_use(registry: &Registry, secret: &Secret, now: Time) {
    let today = Day::of(now).to_string();
    let tomorrow = Day::of(now.plus(Duration::from_secs(24 * 60 * 60))).to_string();
    let (meta, last) = (&secret.metadata, secret.metadata.labels.get(USED));
    if last.is_some_and(|last| *last == today || *last == tomorrow) {
        return;
    }
    if let Err(status) = registry.label(&kind::SECRET, meta, (USED, &today), now).await {
        let (namespace, name) = (&meta.namespace, &meta.name);
        tracing::warn!(%status, namespace, name, "noting the use of a Secret's token");
    }
}
