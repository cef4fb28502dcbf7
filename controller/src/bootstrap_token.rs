//! Tokens with which nodes join: those that have expired go, and each that may do so vouches for the
//! ConfigMap `cluster-info`, from which a machine that knows nothing but its token learns whom to
//! trust.
//! <https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use client::{Entry, Key};
use jsonwebtoken::{Algorithm, EncodingKey};
use proto::kind::{CONFIG_MAP, SECRET};
use proto::time::Time;
use proto::view::config_map::ConfigMap;
use proto::view::secret::Secret;
use serde_json::{Value, json};

use crate::plan::Plan;
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Deletes expired tokens.
pub struct TokenCleaner;

/// Signs `cluster-info`.
pub struct Signer;

const KIND: &str = "bootstrap.kubernetes.io/token";
const OF_TOKENS: &str = "type=bootstrap.kubernetes.io/token";
const SYSTEM: &str = "kube-system";
const SIGNATURE: &str = "jws-kubeconfig-";

impl Controller for TokenCleaner {
    type Object = Secret;
    const NAME: &'static str = "token-cleaner-controller";
    const SELECTOR: &'static str = OF_TOKENS;

    fn watches(_: &mut Watches<Secret>) {}

    fn plan(&self, secret: &Entry<Secret>, _: &View, now: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        if secret.metadata.namespace != SYSTEM || secret.kind != KIND {
            return Ok(plan);
        }
        match expiration(secret) {
            Some(end) if end > now => plan.look_again(end),
            Some(_) => plan.delete(&SECRET, &secret.metadata),
            None => {}
        }
        Ok(plan)
    }
}

impl Controller for Signer {
    type Object = ConfigMap;
    const NAME: &'static str = "bootstrap-signer-controller";
    const SELECTOR: &'static str = "metadata.name=cluster-info";

    fn watches(watches: &mut Watches<ConfigMap>) {
        watches.filtered::<Secret>(OF_TOKENS, |_, _| vec![Key::new("kube-public", "cluster-info")]);
    }

    fn plan(&self, map: &Entry<ConfigMap>, view: &View, now: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let content = map.data.get("kubeconfig");
        let (true, Some(content)) = (map.metadata.namespace == "kube-public", content) else {
            return Ok(plan);
        };
        let mut wanted = BTreeMap::new();
        for secret in view.namespace::<Secret>(SYSTEM) {
            let Some((id, password)) = signs(&secret) else { continue };
            match expiration(&secret) {
                Some(end) if end <= now => continue,
                Some(end) => plan.look_again(end),
                None => {}
            }
            wanted.insert(format!("{SIGNATURE}{id}"), signature(content, &id, &password));
        }
        let mut data = serde_json::Map::new();
        let old = map.data.iter().filter(|(key, _)| key.starts_with(SIGNATURE));
        for (key, _) in old.filter(|(key, _)| !wanted.contains_key(*key)) {
            data.insert(key.clone(), Value::Null);
        }
        for (key, signature) in wanted {
            if map.data.get(&key) != Some(&signature) {
                data.insert(key, signature.into());
            }
        }
        if !data.is_empty() {
            plan.patch(&CONFIG_MAP, &map.metadata, json!({ "data": data }));
        }
        Ok(plan)
    }
}

fn text(secret: &Secret, field: &str) -> Option<String> {
    String::from_utf8(BASE64_STANDARD.decode(secret.data.get(field)?).ok()?).ok()
}

/// What cannot be read has expired.
fn expiration(secret: &Secret) -> Option<Time> {
    let text = text(secret, "expiration").filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or(Time::from_unix(0)))
}

/// The id and the secret part of a token that may sign.
fn signs(secret: &Secret) -> Option<(String, String)> {
    let (id, password) = (text(secret, "token-id")?, text(secret, "token-secret")?);
    let named = secret.metadata.name.strip_prefix("bootstrap-token-") == Some(id.as_str());
    let may = text(secret, "usage-bootstrap-signing").as_deref() == Some("true");
    (secret.kind == KIND && named && may && !password.is_empty()).then_some((id, password))
}

/// A JWS without its content, which is beside it.
fn signature(content: &str, id: &str, password: &str) -> String {
    let header = BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let signed = format!("{header}.{}", BASE64_URL_SAFE_NO_PAD.encode(content));
    let key = EncodingKey::from_secret(password.as_bytes());
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::HS256)
        .expect("any bytes are a key");
    format!("{header}..{signature}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Step;

    fn token(id: &str, more: &[(&str, &str)]) -> Value {
        let mut data = serde_json::Map::new();
        let all = [("token-id", id), ("token-secret", "0123456789abcdef")];
        for (key, value) in all.iter().chain(more) {
            data.insert((*key).into(), BASE64_STANDARD.encode(value).into());
        }
        json!({"metadata": {"name": format!("bootstrap-token-{id}"), "namespace": SYSTEM,
            "uid": id}, "type": KIND, "data": data})
    }

    #[test]
    fn expired_tokens_go() {
        let plan = |expiration: &str| {
            let secret = token("abcdef", &[("expiration", expiration)]).to_string();
            let secret = Entry::decode(secret.into()).unwrap();
            TokenCleaner.plan(&secret, &View::default(), Time::from_unix(60)).unwrap()
        };
        assert!(matches!(plan("1970-01-01T00:01:00Z").steps[..], [Step::Delete(_)]));
        assert!(matches!(plan("yesterday").steps[..], [Step::Delete(_)]));
        let later = plan("1970-01-01T00:02:00Z");
        assert_eq!((later.steps.len(), later.again), (0, Some(Time::from_unix(120))));
        assert_eq!(plan(""), Plan::default());
    }

    #[test]
    fn tokens_vouch_for_what_joiners_read() {
        let signing = ("usage-bootstrap-signing", "true");
        let map = |data: Value| {
            let map = json!({"metadata": {"name": "cluster-info", "namespace": "kube-public",
                "resourceVersion": "3"}, "data": data});
            Entry::<ConfigMap>::decode(map.to_string().into()).unwrap()
        };
        let view = View::default().with::<Secret>(&[
            token("abcdef", &[signing]),
            token("nosign", &[]),
            token("oldone", &[signing, ("expiration", "1970-01-01T00:00:01Z")]),
        ]);
        let plan = |data| Signer.plan(&map(data), &view, Time::from_unix(60)).unwrap().steps;
        let steps = plan(json!({"kubeconfig": "x", "jws-kubeconfig-gone": "y"}));
        let [Step::Patch(patch)] = steps.as_slice() else { panic!("{steps:?}") };
        let signature = patch.body["data"]["jws-kubeconfig-abcdef"].as_str().unwrap();
        assert_eq!(patch.body["data"].as_object().unwrap().len(), 2);
        assert!(patch.body["data"]["jws-kubeconfig-gone"].is_null());
        let parts: Vec<&str> = signature.split('.').collect();
        assert_eq!((parts.len(), parts[1]), (3, ""));
        // At rest.
        assert!(plan(json!({"kubeconfig": "x", "jws-kubeconfig-abcdef": signature})).is_empty());
        assert!(plan(json!({"other": "x"})).is_empty());
    }
}
