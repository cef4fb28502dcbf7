//! POST of an Eviction: a deletion that a PodDisruptionBudget may refuse
//! (kubernetes.io/docs/concepts/scheduling-eviction/api-eviction).

use bytes::Bytes;
use proto::{kind, selector::LabelSelector, status::Status, time::Time};
use serde_json::{Value, json};

use super::{
    Answer, Call, Content, Registry,
    delete::{self, DeleteOptions, Preconditions},
    object,
    write::{self, ATTEMPTS},
};
use crate::{
    cache::Entry,
    codec,
    http::query::dry_run,
    kinds::{lens::Lens, pod::binding},
    store::Outcome,
};

/// What an eviction needs before the pod may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// That the pod is still as it was judged.
    Unchanged,
    /// That the budget allows one disruption more.
    Budget,
}

/// More evictions than these that the budget's controller has not confirmed are refused.
const UNCONFIRMED: usize = 2000;
/// Many evictions may be charged to one budget at once; each that loses saw another win.
const CHARGES: usize = 64;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

impl Registry {
    pub(super) async fn evict(&self, call: &Call<'_>, body: Bytes) -> Result<Answer, Status> {
        let kind = ("policy", "v1", "Eviction");
        let mut eviction = codec::decode_kind(write::format(call)?, &body, kind)?.value;
        let dry = call.query.all("dryRun").next().is_some();
        self.admit_body(call, &mut eviction, dry).await?;
        let options = options(call, &eviction)?;
        let dry = dry_run(options.dry_run.iter().map(String::as_str), "DeleteOptions")?;
        let pinned = options.preconditions.as_ref().is_some_and(|it| it.resource_version.is_some());
        let mut charged = false;
        for _ in 0..ATTEMPTS {
            self.fresh().await?;
            let entry = self.entry(call)?;
            let pod = object::decode(&entry)?;
            let budgets = self.budgets(call.namespace, &pod)?;
            let past_care = ignores_budgets(&pod);
            if !past_care && budgets.len() > 1 {
                return Err(Status::failure(
                    500,
                    "",
                    "This pod has more than one \
                    PodDisruptionBudget, which the eviction subresource does not support.",
                ));
            }
            let need = need(&pod, budgets.first());
            let mut options = options.clone();
            match need {
                Need::Nothing => {}
                Need::Unchanged => pin(&mut options, &entry),
                Need::Budget if charged => {}
                Need::Budget => {
                    let name = budget_name(&budgets);
                    self.spend(call, name, dry).await?;
                    charged = true;
                }
            }
            match self.delete_with(call, &options).await {
                Ok(_) => {
                    let done = Content::Other(super::subresource::created());
                    return Ok(Answer { code: 201, ..Answer::ok(done) });
                }
                Err(status) if status.code == 409 && need == Need::Unchanged && !pinned => {
                    // The pod has changed since it was judged.
                    if !past_care {
                        return Err(unsettled(budget_name(&budgets)));
                    }
                }
                Err(status) => return Err(status),
            }
        }
        Err(call.modified())
    }

    /// The budgets that speak of the pod.
    fn budgets(&self, namespace: &str, pod: &Value) -> Result<Vec<Value>, Status> {
        let labels: proto::meta::Labels = pod
            .at("metadata")
            .pairs("labels")
            .map(|(key, value)| (key.to_string(), value.as_str().unwrap_or_default().to_string()))
            .collect();
        if labels.is_empty() {
            return Ok(Vec::new());
        }
        let budgets = self.of(&kind::POD_DISRUPTION_BUDGET).cache.snapshot();
        let mut found = Vec::new();
        for entry in budgets.list(namespace, None) {
            let budget = object::decode(entry)?;
            let selector = budget.at("spec").at("selector");
            let selector = serde_json::from_value::<LabelSelector>(selector.clone());
            let selects = budget.at("spec").has("selector")
                && selector
                    .ok()
                    .and_then(|selector| selector.selector().ok())
                    .is_some_and(|selector| selector.matches(&labels));
            if selects {
                found.push(budget);
            }
        }
        Ok(found)
    }

    /// Takes one disruption from the budget, guarded by its revision.
    async fn spend(&self, call: &Call<'_>, name: &str, dry: bool) -> Result<(), Status> {
        let kind = self.of(&kind::POD_DISRUPTION_BUDGET);
        for _ in 0..CHARGES {
            let entry = kind.cache.get(call.namespace, name);
            let row = kind.row;
            let entry = entry.ok_or_else(|| Status::not_found(&row.group, &row.resource, name))?;
            let budget = charge(object::decode(&entry)?, call.name, call.now)?;
            if dry {
                return Ok(());
            }
            let at = Call { kind, name, ..*call };
            let txn = write::put(&at, &entry.key, entry.revision, &budget);
            if let Outcome::Committed(_) = self.transact(txn).await? {
                return Ok(());
            }
        }
        let why = format!("couldn't update PodDisruptionBudget {name:?} due to conflicts");
        let mut status = Status::timeout(why);
        status.details.get_or_insert_default().retry_after_seconds = Some(10);
        Err(status)
    }
}

/// What the body and the query say of the deletion.
fn options(call: &Call, eviction: &Value) -> Result<DeleteOptions, Status> {
    let name = object::meta(eviction).text("name");
    if !name.is_empty() && name != call.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut options = match eviction.has("deleteOptions") {
        true => delete::parse(eviction.at("deleteOptions").clone())?,
        false => DeleteOptions::default(),
    };
    options.evicted = true;
    let asked: Vec<String> = call.query.all("dryRun").map(String::from).collect();
    if options.dry_run.is_empty() {
        options.dry_run = asked;
    } else if !asked.is_empty() && asked != options.dry_run {
        let (body, query) = (options.dry_run.join(" "), asked.join(" "));
        return Err(Status::internal(format!(
            "Non-matching dry-run options in request and content: [{query}] and [{body}]"
        )));
    }
    Ok(options)
}

fn pin(options: &mut DeleteOptions, entry: &Entry) {
    let preconditions = options.preconditions.get_or_insert_with(Preconditions::default);
    preconditions.resource_version.get_or_insert_with(|| entry.revision.to_string());
}

fn budget_name(budgets: &[Value]) -> &str {
    budgets.first().map_or("", |budget| object::meta(budget).text("name"))
}

/// A pod that serves nobody: its end disrupts nothing.
fn ignores_budgets(pod: &Value) -> bool {
    matches!(pod.at("status").text("phase"), "Pending" | "Succeeded" | "Failed")
        || object::is_terminating(pod)
}

fn need(pod: &Value, budget: Option<&Value>) -> Need {
    if ignores_budgets(pod) {
        // A pending pod may begin to serve at any moment.
        let pending = pod.at("status").text("phase") == "Pending";
        return if pending { Need::Unchanged } else { Need::Nothing };
    }
    let Some(budget) = budget else { return Need::Nothing };
    let mut conditions = pod.at("status").items("conditions").iter();
    let ready = conditions.any(|it| it.text("type") == "Ready" && it.text("status") == "True");
    if ready {
        return Need::Budget;
    }
    let status = budget.at("status");
    let (current, desired) = (count(status, "currentHealthy"), count(status, "desiredHealthy"));
    let always = budget.at("spec").text("unhealthyPodEvictionPolicy") == "AlwaysAllow";
    match always || (current >= desired && desired > 0) {
        true => Need::Unchanged,
        false => Need::Budget,
    }
}

/// The budget with one disruption less, or why it allows none.
fn charge(mut budget: Value, pod: &str, now: Time) -> Result<Value, Status> {
    let name = object::meta(&budget).text("name").to_string();
    let status = budget.at("status");
    if count(status, "observedGeneration") < count(object::meta(&budget), "generation") {
        return Err(unsettled(&name));
    }
    let allowed = count(status, "disruptionsAllowed");
    let forbidden = |why: &str| Status::forbidden("policy", "poddisruptionbudget", &name, why);
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    if status.pairs("disruptedPods").count() > UNCONFIRMED {
        return Err(forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        let mut conditions = status.items("conditions").iter();
        let failed = conditions.find(|condition| {
            condition.text("type") == "DisruptionAllowed"
                && condition.text("status") == "False"
                && condition.text("reason") == "SyncFailed"
        });
        let why = match failed {
            Some(failed) => format!(
                "The disruption budget {name} does not allow evicting pods currently because it \
                 failed sync: {}",
                failed.text("message")
            ),
            None => format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                count(status, "desiredHealthy"),
                count(status, "currentHealthy")
            ),
        };
        return Err(Status::too_many_requests(REFUSED, 0).because("DisruptionBudget", &why, ""));
    }
    let observed = count(status, "observedGeneration");
    let status = budget.section("status");
    status.set("disruptionsAllowed", allowed - 1);
    if allowed == 1 {
        let mut condition = json!({
            "type": "DisruptionAllowed",
            "status": "False",
            "reason": "InsufficientPods",
            "message": "",
        });
        if observed > 0 {
            condition.set("observedGeneration", observed);
        }
        binding::set_condition(status, condition, now);
    }
    // The budget's controller must not count on this pod any more.
    status.section("disruptedPods").set(pod, now.to_string());
    Ok(budget)
}

/// The budget's controller has yet to judge.
fn unsettled(budget: &str) -> Status {
    let why = format!("The disruption budget {budget} is still being processed by the server.");
    Status::too_many_requests(REFUSED, 10).because("DisruptionBudget", &why, "")
}

fn count(value: &Value, field: &str) -> i64 {
    value.int(field).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: &str, ready: bool) -> Value {
        let ready = if ready { "True" } else { "False" };
        json!({
            "metadata": {"name": "p"},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    fn budget(status: Value) -> Value {
        json!({"metadata": {"name": "b", "generation": 1}, "spec": {}, "status": status})
    }

    #[test]
    fn what_an_eviction_needs() {
        let healthy = budget(json!({"currentHealthy": 2, "desiredHealthy": 2}));
        let short = budget(json!({"currentHealthy": 1, "desiredHealthy": 2}));
        let mut always = short.clone();
        always["spec"]["unhealthyPodEvictionPolicy"] = "AlwaysAllow".into();
        let cases = [
            (pod("Pending", false), Some(&short), Need::Unchanged),
            (pod("Succeeded", false), Some(&short), Need::Nothing),
            (pod("Running", true), None, Need::Nothing),
            (pod("Running", true), Some(&healthy), Need::Budget),
            (pod("Running", true), Some(&always), Need::Budget),
            (pod("Running", false), Some(&healthy), Need::Unchanged),
            (pod("Running", false), Some(&short), Need::Budget),
            (pod("Running", false), Some(&always), Need::Unchanged),
        ];
        for (pod, budget, expected) in cases {
            assert_eq!(need(&pod, budget), expected, "{pod} {budget:?}");
        }
    }

    #[test]
    fn a_budget_is_charged_until_it_is_spent() {
        let now = Time::from_unix(0);
        let status = json!({"observedGeneration": 1, "disruptionsAllowed": 1});
        let charged = charge(budget(status), "p", now).unwrap();
        assert_eq!(charged["status"]["disruptionsAllowed"], 0);
        assert_eq!(charged["status"]["disruptedPods"]["p"], "1970-01-01T00:00:00Z");
        assert_eq!(charged["status"]["conditions"][0]["reason"], "InsufficientPods");
        let refused = charge(charged, "q", now).unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (429, REFUSED));
        let failed = [json!({
            "type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "m",
        })];
        let cases = [
            (json!({}), 429, "The disruption budget b is still being processed by the server."),
            (
                json!({"observedGeneration": 1, "desiredHealthy": 2, "currentHealthy": 1}),
                429,
                "The disruption budget b needs 2 healthy pods and has 1 currently",
            ),
            (
                json!({"observedGeneration": 1, "conditions": failed}),
                429,
                "The disruption budget b does not allow evicting pods currently because it failed \
                 sync: m",
            ),
            (json!({"observedGeneration": 1, "disruptionsAllowed": -1}), 403, ""),
        ];
        for (status, code, cause) in cases {
            let refused = charge(budget(status), "p", now).unwrap_err();
            let causes = refused.details.map(|details| details.causes).unwrap_or_default();
            let found = causes.first().map(|cause| cause.message.as_str()).unwrap_or_default();
            assert_eq!((refused.code, found), (code, cause));
        }
    }
}
