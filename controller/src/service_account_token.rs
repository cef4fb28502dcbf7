//! Secrets of type `kubernetes.io/service-account-token` get the token of the ServiceAccount that
//! they name, and go with it. <https://kubernetes.io/docs/concepts/configuration/secret/#serviceaccount-token-secrets>

use base64::{Engine, prelude::BASE64_STANDARD};
use client::{Entry, Key};
use proto::kind::{SECRET, SERVICE_ACCOUNT};
use proto::time::Time;
use proto::view::secret::Secret;
use proto::view::service_account::ServiceAccount;
use serde_json::{Map, Value, json};

use crate::plan::{Plan, Step, Target};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

mod key;

pub use key::{KeyError, SigningKey};

/// Fills token Secrets.
pub struct TokenSecrets {
    pub key: SigningKey,
    /// PEM; empty where none is published.
    pub root_ca: String,
}

/// The annotations that say whose token it is.
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

impl Controller for TokenSecrets {
    type Object = Secret;
    const NAME: &'static str = "serviceaccount-token-controller";
    const SELECTOR: &'static str = "type=kubernetes.io/service-account-token";

    fn watches(watches: &mut Watches<Secret>) {
        watches.maps::<ServiceAccount>(|change, view| {
            let secrets = view.namespace::<Secret>(&change.key.namespace).into_iter();
            let theirs = secrets.filter(|secret| account_of(secret) == &*change.key.name);
            theirs.map(|secret| Key::of(&secret.metadata)).collect()
        });
    }

    fn plan(&self, secret: &Entry<Secret>, view: &View, _: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let (meta, name) = (&secret.metadata, account_of(secret));
        if meta.deletion_timestamp.is_some() {
            return Ok(plan);
        }
        let uid = meta.annotations.get(UID).map_or("", String::as_str);
        let account = view.get::<ServiceAccount>(&meta.namespace, name);
        let account = account.filter(|account| uid.is_empty() || account.metadata.uid == uid);
        let Some(account) = account else {
            // The account, or that account, may be there and only not have been seen.
            plan.steps.push(Step::Absent(Target {
                row: &SERVICE_ACCOUNT,
                namespace: meta.namespace.clone(),
                name: name.into(),
                uid: uid.into(),
            }));
            plan.delete(&SECRET, meta);
            return Ok(plan);
        };
        let data = self.missing(secret, &account);
        if !data.is_empty() {
            let annotations = json!({ NAME: name, UID: account.metadata.uid });
            let body = json!({ "metadata": { "annotations": annotations }, "data": data });
            plan.patch(&SECRET, meta, body);
        }
        Ok(plan)
    }

    /// Its account must not point at it any longer.
    fn plan_absent(&self, key: &Key, view: &View) -> Plan {
        let mut plan = Plan::default();
        for account in view.namespace::<ServiceAccount>(&key.namespace) {
            let (gone, left): (Vec<_>, Vec<_>) =
                account.secrets.iter().partition(|secret| *secret.name == *key.name);
            if !gone.is_empty() && account.metadata.deletion_timestamp.is_none() {
                plan.patch(&SERVICE_ACCOUNT, &account.metadata, json!({ "secrets": left }));
            }
        }
        plan
    }
}

impl TokenSecrets {
    /// What the Secret should hold and does not, as its data.
    fn missing(&self, secret: &Secret, account: &ServiceAccount) -> Map<String, Value> {
        let mut data = Map::new();
        let mut set = |key: &str, text: &str| {
            data.insert(key.into(), BASE64_STANDARD.encode(text).into());
        };
        let held = |key: &str| secret.data.get(key).map_or("", String::as_str);
        if !self.root_ca.is_empty() && held("ca.crt") != BASE64_STANDARD.encode(&self.root_ca) {
            set("ca.crt", &self.root_ca);
        }
        if held("namespace").is_empty() {
            set("namespace", &secret.metadata.namespace);
        }
        if held("token").is_empty() {
            set("token", &self.key.token(&secret.metadata, &account.metadata));
        }
        data
    }
}

fn account_of(secret: &Secret) -> &str {
    secret.metadata.annotations.get(NAME).map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controller() -> TokenSecrets {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sa.key");
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(&path, key.serialize_pem()).unwrap();
        TokenSecrets { key: SigningKey::open(&path).unwrap(), root_ca: "pem".into() }
    }

    fn account(uid: &str) -> Value {
        let secrets = json!([{"name": "t"}, {"name": "other"}]);
        json!({"metadata": {"name": "robot", "namespace": "a", "uid": uid}, "secrets": secrets})
    }

    fn secret(uid: &str, data: Value) -> Value {
        let annotations = json!({ NAME: "robot", UID: uid });
        json!({"metadata": {"name": "t", "namespace": "a", "uid": "s", "annotations": annotations},
            "type": "kubernetes.io/service-account-token", "data": data})
    }

    #[test]
    fn what_is_missing_is_filled_in() {
        let controller = controller();
        let encode = |text: &str| BASE64_STANDARD.encode(text);
        let whole =
            json!({"token": encode("x"), "namespace": encode("a"), "ca.crt": encode("pem")});
        let with = |field: &str, value: Value| {
            let mut data = whole.clone();
            data[field] = value;
            data
        };
        for (data, expected) in [
            (whole.clone(), vec![]),
            (json!({}), vec!["ca.crt", "namespace", "token"]),
            (with("token", Value::Null), vec!["token"]),
            (with("ca.crt", encode("old").into()), vec!["ca.crt"]),
            (with("namespace", encode("mine").into()), vec![]),
        ] {
            let data: Map<String, Value> = data
                .as_object()
                .unwrap()
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            let secret = secret("", json!(data));
            let view = View::default()
                .with::<ServiceAccount>(&[account("u")])
                .with::<Secret>(std::slice::from_ref(&secret));
            let entry = Entry::decode(secret.to_string().into()).unwrap();
            let plan = controller.plan(&entry, &view, Time::from_unix(0)).unwrap();
            let patched: Vec<&str> = match plan.steps.as_slice() {
                [] => Vec::new(),
                [Step::Patch(patch)] => {
                    assert_eq!(patch.body["metadata"]["annotations"][UID], "u");
                    patch.body["data"].as_object().unwrap().keys().map(String::as_str).collect()
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(patched, expected, "{data:?}");
        }
    }

    #[test]
    fn secrets_go_with_their_account() {
        let controller = controller();
        let secret = secret("u", json!({}));
        let entry = Entry::decode(secret.to_string().into()).unwrap();
        for accounts in [vec![], vec![account("another")]] {
            let view = View::default().with::<ServiceAccount>(&accounts).with::<Secret>(&[]);
            let plan = controller.plan(&entry, &view, Time::from_unix(0)).unwrap();
            let [Step::Absent(target), Step::Delete(delete)] = plan.steps.as_slice() else {
                panic!("{plan:?}")
            };
            assert_eq!((&*target.name, &*target.uid), ("robot", "u"));
            assert_eq!(delete.target.name, "t");
        }
        let view = View::default().with::<ServiceAccount>(&[account("u")]).with::<Secret>(&[]);
        let plan = controller.plan_absent(&Key::new("a", "t"), &view);
        let [Step::Patch(patch)] = plan.steps.as_slice() else { panic!("{plan:?}") };
        assert_eq!(patch.body["secrets"][0]["name"], "other");
        assert!(controller.plan_absent(&Key::new("a", "x"), &view).steps.is_empty());
    }
}
