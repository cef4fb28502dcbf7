//! Tokens in Secrets that a ServiceAccount was once given by itself and that nobody has used for
//! long: first they are marked, so that the API server refuses them, and as long again after that
//! they are deleted. <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#legacy-serviceaccount-token-cleaner>

use std::collections::BTreeSet;
use std::time::Duration;

use client::{DeleteOptions, Entry, Key};
use proto::kind::SECRET;
use proto::time::{Day, Time};
use proto::view::config_map::ConfigMap;
use proto::view::pod::Pod;
use proto::view::secret::Secret;
use proto::view::service_account::ServiceAccount;
use serde_json::{Value, json};

use crate::plan::{Delete, Plan, Step, Target};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Marks and deletes unused tokens.
pub struct LegacyTokens {
    /// How long a token may be unused.
    pub period: Duration,
}

const USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID: &str = "kubernetes.io/legacy-token-invalid-since";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// Says since when the API servers note which tokens are used.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What is to be done about a token, and when to ask again.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// It is not ours to judge, or nothing can be said.
    Keep,
    /// It is in use, or not yet unused for long enough.
    Until(Time),
    Mark(Day),
    Delete,
}

impl Controller for LegacyTokens {
    type Object = Secret;
    const NAME: &'static str = "legacy-service-account-token-cleaner-controller";
    const SELECTOR: &'static str = "type=kubernetes.io/service-account-token";

    fn watches(watches: &mut Watches<Secret>) {
        watches
            .filtered::<ConfigMap>(
                "metadata.name=kube-apiserver-legacy-service-account-token-tracking",
                |_, view| {
                    let secrets = view.all::<Secret>();
                    secrets.iter().map(|secret| Key::of(&secret.metadata)).collect()
                },
            )
            .maps::<ServiceAccount>(|change, _| {
                let account = change.new.as_ref().or(change.old.as_ref());
                let secrets = account.into_iter().flat_map(|account| &account.secrets);
                secrets.map(|secret| Key::new(&change.key.namespace, &secret.name)).collect()
            })
            .reads::<Pod>();
    }

    fn plan(&self, secret: &Entry<Secret>, view: &View, now: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let meta = &secret.metadata;
        match self.judge(secret, view, now) {
            Verdict::Keep => {}
            Verdict::Until(time) => plan.look_again(time),
            Verdict::Mark(today) => {
                let labels = json!({ INVALID: today.to_string() });
                let body = json!({ "metadata": { "uid": meta.uid, "labels": labels } });
                plan.merge(&SECRET, meta, body);
            }
            // Only as it was seen: it may just have been used.
            Verdict::Delete => plan.steps.push(Step::Delete(Delete {
                target: Target::of(&SECRET, meta),
                options: DeleteOptions {
                    resource_version: meta.resource_version.clone(),
                    ..DeleteOptions::uid(&meta.uid)
                },
                told: None,
            })),
        }
        Ok(plan)
    }
}

impl LegacyTokens {
    fn judge(&self, secret: &Secret, view: &View, now: Time) -> Verdict {
        let meta = &secret.metadata;
        let Some(created) = meta.creation_timestamp else { return Verdict::Keep };
        let Some(tracked) = tracked(view) else { return Verdict::Keep };
        if meta.deletion_timestamp.is_some() || !is_referenced(secret, view) {
            return Verdict::Keep;
        }
        // Until the day has ended in which it began, some uses went unseen.
        let mut kept = tracked.end().plus(self.period).max(created.plus(self.period).plus(SECOND));
        if let Some(used) = meta.labels.get(USED) {
            let Ok(used) = used.parse::<Day>() else { return Verdict::Keep };
            kept = kept.max(used.end().plus(self.period));
        }
        if now < kept {
            return Verdict::Until(kept);
        }
        if mounted(&meta.namespace, view).contains(&meta.name) {
            return Verdict::Until(now.plus(DAY));
        }
        let Some(since) = meta.labels.get(INVALID).and_then(|since| since.parse::<Day>().ok())
        else {
            return Verdict::Mark(Day::of(now));
        };
        let last = since.end().plus(self.period);
        if now < last { Verdict::Until(last) } else { Verdict::Delete }
    }
}

/// Creation is kept in whole seconds.
const SECOND: Duration = Duration::from_secs(1);

/// The day since which the use of tokens is noted.
fn tracked(view: &View) -> Option<Day> {
    let map = view.get::<ConfigMap>("kube-system", TRACKING)?;
    map.data.get("since")?.parse().ok()
}

/// Whether the Secret's account names it: so it was made by a controller of former days, and not
/// by somebody who wants to keep it.
fn is_referenced(secret: &Secret, view: &View) -> bool {
    let meta = &secret.metadata;
    let annotation = |name: &str| meta.annotations.get(name).map_or("", String::as_str);
    let (name, uid) = (annotation(ACCOUNT), annotation(ACCOUNT_UID));
    let account = view.get::<ServiceAccount>(&meta.namespace, name);
    account.is_some_and(|account| {
        (uid.is_empty() || account.metadata.uid == uid)
            && account.secrets.iter().any(|secret| secret.name == meta.name)
    })
}

/// The Secrets that pods of the namespace use.
fn mounted(namespace: &str, view: &View) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for pod in view.namespace::<Pod>(namespace) {
        collect(&pod.value()["spec"], &mut names);
    }
    names
}

/// Every reference to a Secret below a value: they go by few names, and nothing else goes by them.
fn collect(value: &Value, names: &mut BTreeSet<String>) {
    let mut add = |name: &Value| names.extend(name.as_str().map(String::from));
    match value {
        Value::Object(map) => {
            for (field, value) in map {
                match field.as_str() {
                    "secretName" => add(value),
                    "secretRef" | "secretKeyRef" | "nodePublishSecretRef" | "secret" => {
                        add(&value["name"])
                    }
                    "imagePullSecrets" => {
                        value.as_array().into_iter().flatten().for_each(|it| add(&it["name"]))
                    }
                    _ => {}
                }
            }
            map.values().for_each(|value| collect(value, names));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(10 * 24 * 60 * 60);

    fn secret(created: &str, used: Option<&str>, invalid: Option<&str>) -> Value {
        json!({"metadata": {"name": "t", "namespace": "a", "uid": "s", "resourceVersion": "7",
            "creationTimestamp": created,
            "annotations": {ACCOUNT: "robot", ACCOUNT_UID: "u"},
            "labels": {USED: used, INVALID: invalid}}})
    }

    fn view(since: &str, account: Value, pods: &[Value]) -> View {
        let map = json!({"metadata": {"name": TRACKING, "namespace": "kube-system"},
            "data": {"since": since}});
        View::default()
            .with::<ConfigMap>(&[map])
            .with::<ServiceAccount>(&[account])
            .with::<Pod>(pods)
    }

    fn account(uid: &str, secret: &str) -> Value {
        json!({"metadata": {"name": "robot", "namespace": "a", "uid": uid},
            "secrets": [{"name": secret}]})
    }

    fn judged(secret: Value, view: &View, now: &str) -> Verdict {
        let mut secret = secret;
        let labels = secret["metadata"]["labels"].as_object_mut().unwrap();
        labels.retain(|_, value| !value.is_null());
        let entry: Entry<Secret> = Entry::decode(secret.to_string().into()).unwrap();
        LegacyTokens { period: PERIOD }.judge(&entry, view, now.parse().unwrap())
    }

    fn until(time: &str) -> Verdict {
        Verdict::Until(time.parse().unwrap())
    }

    #[test]
    fn unused_tokens_are_marked_and_then_deleted() {
        let view = view("2026-01-01", account("u", "t"), &[]);
        let (old, now) = ("2025-01-01T00:00:00Z", "2026-03-01T12:00:00Z");
        let mark = || Verdict::Mark("2026-03-01".parse().unwrap());
        for (secret, now, verdict) in [
            (secret(old, None, None), now, mark()),
            (secret(old, None, None), "2026-01-11T23:59:59Z", until("2026-01-12T00:00:00Z")),
            (secret("2026-02-28T00:00:00Z", None, None), now, until("2026-03-10T00:00:01Z")),
            (secret(old, Some("2026-02-20"), None), now, until("2026-03-03T00:00:00Z")),
            (secret(old, Some("2026-02-18"), None), now, mark()),
            (secret(old, Some("yesterday"), None), now, Verdict::Keep),
            (secret(old, None, Some("2026-02-25")), now, until("2026-03-08T00:00:00Z")),
            (secret(old, None, Some("2026-02-18")), now, Verdict::Delete),
            (secret(old, None, Some("soon")), now, mark()),
            (
                secret(old, Some("2026-02-20"), Some("2026-02-18")),
                now,
                until("2026-03-03T00:00:00Z"),
            ),
        ] {
            assert_eq!(judged(secret.clone(), &view, now), verdict, "{secret}");
        }
    }

    #[test]
    fn what_is_in_use_or_made_by_hand_is_kept() {
        let old = || secret("2025-01-01T00:00:00Z", None, Some("2026-01-01"));
        let now = "2026-03-01T12:00:00Z";
        let pod = |spec: Value| json!({"metadata": {"name": "p", "namespace": "a"}, "spec": spec});
        let of =
            |account: Value, pods: &[Value]| judged(old(), &view("2026-01-01", account, pods), now);
        let own = || account("u", "t");
        assert_eq!(of(account("other", "t"), &[]), Verdict::Keep);
        assert_eq!(of(account("u", "another"), &[]), Verdict::Keep);
        assert_eq!(of(own(), &[]), Verdict::Delete);
        for spec in [
            json!({"volumes": [{"secret": {"secretName": "t"}}]}),
            json!({"volumes": [{"projected": {"sources": [{"secret": {"name": "t"}}]}}]}),
            json!({"imagePullSecrets": [{"name": "t"}]}),
            json!({"initContainers": [{"envFrom": [{"secretRef": {"name": "t"}}]}]}),
            json!({"containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "t"}}}]}]}),
        ] {
            assert_eq!(of(own(), &[pod(spec.clone())]), until("2026-03-02T12:00:00Z"), "{spec}");
        }
        let unrelated = pod(json!({"volumes": [{"configMap": {"name": "t"}}]}));
        assert_eq!(of(own(), &[unrelated]), Verdict::Delete);
        let untold = view("no day", own(), &[]);
        assert_eq!(judged(old(), &untold, now), Verdict::Keep);
    }

    #[test]
    fn what_a_verdict_does() {
        let cleaner = LegacyTokens { period: PERIOD };
        let view = view("2026-01-01", account("u", "t"), &[]);
        let plan = |invalid: &str, now: &str| {
            let mut secret = secret("2025-01-01T00:00:00Z", None, Some(invalid));
            secret["metadata"]["labels"].as_object_mut().unwrap().remove(USED);
            let entry = Entry::decode(secret.to_string().into()).unwrap();
            cleaner.plan(&entry, &view, now.parse().unwrap()).unwrap()
        };
        let marked = plan("", "2026-03-01T12:00:00Z");
        let [Step::Patch(patch)] = marked.steps.as_slice() else { panic!("{marked:?}") };
        let labels = json!({ INVALID: "2026-03-01" });
        assert_eq!(patch.body, json!({"metadata": {"uid": "s", "labels": labels}}));
        let deleted = plan("2026-02-01", "2026-03-01T12:00:00Z");
        let [Step::Delete(delete)] = deleted.steps.as_slice() else { panic!("{deleted:?}") };
        assert_eq!((&*delete.options.uid, &*delete.options.resource_version), ("s", "7"));
    }
}
