//! The claims of ServiceAccount tokens: what is written into them, and whether they still hold
//! (kubernetes.io/docs, "Managing Service Accounts", bound tokens). A token lives as long as the
//! objects it names.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use proto::{kind, kind::Row, meta::ObjectMeta, time::Time, user::User, view::Meta};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use crate::registry::Registry;

pub const PREFIX: &str = "system:serviceaccount:";
pub const GROUP: &str = "system:serviceaccounts";
/// How far clocks may be apart, and how long a token outlives what it is bound to.
const LEEWAY: i64 = 60;

/// The claims of a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    #[serde(deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    pub exp: i64,
    #[serde(default)]
    pub iat: i64,
    pub iss: String,
    #[serde(default)]
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
    #[serde(default)]
    pub nbf: i64,
    pub sub: String,
}

/// What a token speaks for and depends on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Bound {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    pub serviceaccount: Reference,
    /// From here on the client should have read the token anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reference {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// An object without which the token is worth nothing.
struct Dependency<'a> {
    row: &'static Row,
    namespace: &'a str,
    what: &'static str,
    on: &'a Reference,
}

/// `system:serviceaccount:NAMESPACE:NAME`.
pub fn user_name(namespace: &str, name: &str) -> String {
    format!("{PREFIX}{namespace}:{name}")
}

/// The namespace and the name in a ServiceAccount's user name.
pub fn account_of(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(PREFIX)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// The groups of every ServiceAccount of a namespace.
pub fn groups(namespace: &str) -> Vec<String> {
    vec![GROUP.into(), format!("{GROUP}:{namespace}")]
}

impl Claims {
    /// Whether all of it still holds; the reason where it does not.
    pub async fn check(&self, registry: &Registry, now: Time) -> Result<(), String> {
        let second = now.0.as_second();
        if second > self.exp.saturating_add(LEEWAY) {
            return Err("service account token has expired".into());
        }
        if second < self.nbf.saturating_sub(LEEWAY) {
            return Err("service account token is not valid yet".into());
        }
        let Bound { namespace, serviceaccount: account, .. } = &self.kubernetes;
        let found = find(registry, &kind::SERVICE_ACCOUNT, namespace, &account.name).await;
        let found = found.ok_or_else(|| format!("serviceaccounts {:?} not found", account.name))?;
        if is_gone(&found, now) {
            return Err(format!("service account {namespace}/{} has been deleted", account.name));
        }
        if found.uid != account.uid {
            return Err(format!(
                "service account UID ({}) does not match claim ({})",
                found.uid, account.uid
            ));
        }
        for Dependency { row, namespace, what, on } in self.dependencies() {
            let found = find(registry, row, namespace, &on.name).await;
            let Some(found) = found.filter(|found| !is_gone(found, now)) else {
                return Err("service account token has been invalidated".into());
            };
            if found.uid != on.uid {
                return Err(format!(
                    "{what} UID ({}) does not match service account {what} ref claim ({})",
                    found.uid, on.uid
                ));
            }
        }
        Ok(())
    }

    fn dependencies(&self) -> Vec<Dependency<'_>> {
        let Bound { namespace, secret, pod, node, .. } = &self.kubernetes;
        // A pod's token names the node for the reader's sake, and dies with the pod alone.
        let node = node.as_ref().filter(|_| pod.is_none());
        let all: [(&'static Row, _, _, _); 3] = [
            (&kind::SECRET, namespace.as_str(), "secret", secret.as_ref()),
            (&kind::POD, namespace, "pod", pod.as_ref()),
            (&kind::NODE, "", "node", node),
        ];
        let named = all.into_iter().filter_map(|(row, namespace, what, on)| {
            Some(Dependency { row, namespace, what, on: on? })
        });
        named.collect()
    }

    /// Whom the token speaks for.
    pub fn user(&self) -> User {
        let Bound { namespace, serviceaccount: account, pod, node, .. } = &self.kubernetes;
        let mut extra = BTreeMap::new();
        let mut tell = |key: &str, value: &str| {
            if !value.is_empty() {
                extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.into()]);
            }
        };
        for (what, reference) in [("pod", pod), ("node", node)] {
            if let Some(reference) = reference {
                tell(&format!("{what}-name"), &reference.name);
                tell(&format!("{what}-uid"), &reference.uid);
            }
        }
        if !self.jti.is_empty() {
            tell("credential-id", &format!("JTI={}", self.jti));
        }
        let name = user_name(namespace, &account.name);
        User { name, uid: account.uid.clone(), groups: groups(namespace), extra }
    }
}

/// The object's metadata.
fn find<'a>(
    registry: &'a Registry,
    row: &'static Row,
    namespace: &'a str,
    name: &'a str,
) -> BoxFuture<'a, Option<ObjectMeta>> {
    Box::pin(async move {
        let object: Meta = read(registry, row, namespace, name).await?;
        Some(object.metadata)
    })
}

/// The object. What the cache does not have yet another server may have written.
pub(super) async fn read<T: DeserializeOwned>(
    registry: &Registry,
    row: &Row,
    namespace: &str,
    name: &str,
) -> Option<T> {
    let cache = &registry.of(row).cache;
    let mut entry = cache.get(namespace, name);
    if entry.is_none() && registry.cache().fresh().await.is_ok() {
        entry = cache.get(namespace, name);
    }
    serde_json::from_slice(&entry?.bytes()).ok()
}

fn is_gone(object: &ObjectMeta, now: Time) -> bool {
    let deletion = object.deletion_timestamp;
    deletion.is_some_and(|at| at.0.as_second() + LEEWAY < now.0.as_second())
}

/// `aud` may be one string (RFC 7519).
pub(super) fn one_or_many<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(d)? {
        Audience::One(name) => vec![name],
        Audience::Many(names) => names,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_accounts() {
        assert_eq!(account_of(&user_name("a", "b")), Some(("a", "b")));
        for other in ["bob", "system:serviceaccount:a", "system:serviceaccount:a:", PREFIX] {
            assert_eq!(account_of(other), None, "{other}");
        }
        assert_eq!(account_of("system:serviceaccount:a:b:c"), None);
    }
}
