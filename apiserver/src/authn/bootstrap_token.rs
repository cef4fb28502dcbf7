//! Bootstrap tokens: Secrets `bootstrap-token-ID` in kube-system, with which new nodes ask for
//! their certificate (kubernetes.io/docs, "Authenticating with Bootstrap Tokens").

use base64::{Engine, prelude::BASE64_STANDARD};
use proto::{kind, time::Time, user::User};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    kinds::lens::Lens,
    registry::{Registry, decode},
};

const NAMESPACE: &str = "kube-system";
const KIND: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

/// The user of `ID.SECRET`; `None` for what is no such token, or none that counts.
pub fn user(token: &str, registry: &Registry, now: Time) -> Option<User> {
    let (id, secret) = token.split_once('.')?;
    if !is_word(id, 6) || !is_word(secret, 16) {
        return None;
    }
    let name = format!("bootstrap-token-{id}");
    let entry = registry.of(&kind::SECRET).cache.get(NAMESPACE, &name)?;
    judge(&decode(&entry).ok()?, (id, secret), now)
        .inspect_err(|why| tracing::debug!(secret = name, why, "a bootstrap token is refused"))
        .ok()
}

fn judge(object: &Value, (id, secret): (&str, &str), now: Time) -> Result<User, &'static str> {
    let field = |name: &str| {
        let bytes = BASE64_STANDARD.decode(object.at("data").text(name)).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    if object.at("metadata").has("deletionTimestamp") {
        return Err("it is being deleted");
    }
    if object.text("type") != KIND {
        return Err("it has another type");
    }
    // Digests, so that the time this takes tells nothing about the secret.
    if Sha256::digest(field("token-secret")) != Sha256::digest(secret) {
        return Err("the secret is another");
    }
    if field("token-id") != id {
        return Err("the id is another");
    }
    let expiration = field("expiration");
    if !expiration.is_empty() && !expiration.parse().is_ok_and(|end: Time| end > now) {
        return Err("it has expired");
    }
    if field("usage-bootstrap-authentication") != "true" {
        return Err("it is not for authentication");
    }
    let mut groups = vec![GROUP.to_string()];
    for group in field("auth-extra-groups").split(',').filter(|group| !group.is_empty()) {
        if !is_group(group) {
            return Err("it has a group that is not of bootstrappers");
        }
        groups.push(group.to_string());
    }
    groups.sort();
    groups.dedup();
    Ok(User { name: format!("system:bootstrap:{id}"), groups, ..User::default() })
}

fn is_word(text: &str, length: usize) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() == length && text.bytes().all(letter)
}

/// `system:bootstrappers:` and up to 256 letters, the last of them no punctuation.
fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inner = |byte: u8| plain(byte) || byte == b':' || byte == b'-';
    (1..=256).contains(&rest.len())
        && rest.bytes().all(inner)
        && rest.bytes().next_back().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_counts() {
        let now = Time::from_unix(1_800_000_000);
        let good = json!({
            "type": KIND,
            "data": {
                "token-id": "abcdef",
                "token-secret": "0123456789abcdef",
                "usage-bootstrap-authentication": "true",
                "auth-extra-groups": "system:bootstrappers:worker,system:bootstrappers:a",
                "expiration": "2100-01-01T00:00:00Z",
            },
        });
        let ask = |change: &[(&str, &str)], kind: &str| {
            let mut object = good.clone();
            object["type"] = kind.into();
            for (field, value) in change {
                object["data"][field] = (*value).into();
            }
            for (_, value) in object["data"].as_object_mut().unwrap() {
                *value = BASE64_STANDARD.encode(value.as_str().unwrap()).into();
            }
            judge(&object, ("abcdef", "0123456789abcdef"), now).map(|user| user.groups.join(" "))
        };
        let groups = "system:bootstrappers system:bootstrappers:a system:bootstrappers:worker";
        assert_eq!(ask(&[], KIND), Ok(groups.into()));
        assert_eq!(ask(&[("expiration", "")], KIND), Ok(groups.into()));
        for change in [
            ("token-secret", "0123456789abcdeX"),
            ("token-id", "fedcba"),
            ("usage-bootstrap-authentication", "false"),
            ("expiration", "2000-01-01T00:00:00Z"),
            ("expiration", "tomorrow"),
            ("auth-extra-groups", "system:masters"),
            ("auth-extra-groups", "system:bootstrappers:x-"),
        ] {
            assert!(ask(&[change], KIND).is_err(), "{change:?}");
        }
        assert!(ask(&[], "Opaque").is_err());
    }
}
