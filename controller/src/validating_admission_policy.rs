//! The expressions of ValidatingAdmissionPolicies, checked against the types that the policies match:
//! what cannot be right is told in their status. That changes nothing about what a policy does. Which
//! types there are only the API server knows, so this one asks instead of planning from a view.
//! <https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/#type-checking>

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use client::error::chain;
use client::{Client, Entry, Error, Informer, Key, Patch, WorkQueue};
use proto::cel::{self, Environment, Schema, Type, policy};
use proto::kind::{Row, VALIDATING_ADMISSION_POLICY as ROW};
use proto::view::validating_admission_policy::{
    ExpressionWarning, ResourceRule, TypeChecking, ValidatingAdmissionPolicy as Policy,
    ValidatingAdmissionPolicySpec as Spec, ValidatingAdmissionPolicyStatus as Status,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::discovery::{kinds, schemas};
use crate::plan::group_of;
use crate::run::Setup;

/// The name under which `--controllers` knows it, and that of the writer of fields.
pub const NAME: &str = "validatingadmissionpolicy-status-controller";
const WORKERS: usize = 5;
/// Types that a policy is checked against.
const MOST_TYPES: usize = 10;

/// Group, version and kind.
type Kind = (String, String, String);

/// Runs until dropped.
pub async fn run(setup: Setup) {
    let policies = setup.informers.of::<Policy>();
    let queue = setup.queue(NAME, "");
    policies.synced().await;
    let worker =
        Arc::new(Worker { client: setup.client, policies: policies.clone(), queue: queue.clone() });
    let mut tasks = JoinSet::new();
    for _ in 0..WORKERS {
        let worker = worker.clone();
        tasks.spawn(async move { worker.work().await });
    }
    let mut changes = policies.changes();
    loop {
        queue.add(changes.next().await.key);
    }
}

struct Worker {
    client: Client,
    policies: Informer<Policy>,
    queue: Arc<WorkQueue<Key>>,
}

impl Worker {
    async fn work(&self) {
        loop {
            let key = self.queue.next().await;
            let outcome = match self.policies.get("", &key.name) {
                Some(policy) => self.look_at(&policy).await,
                None => Ok(()),
            };
            match outcome {
                Ok(()) => self.queue.forget(&key),
                Err(error) if error.is_not_found() => self.queue.forget(&key),
                Err(error) => {
                    tracing::warn!(controller = NAME, %key, error = chain(&error), "failed");
                    self.queue.backoff(key.clone());
                }
            }
            self.queue.done(&key);
        }
    }

    /// Checks a policy that has changed.
    async fn look_at(&self, policy: &Entry<Policy>) -> Result<(), Error> {
        let (meta, spec) = (&policy.metadata, &policy.spec);
        if meta.generation <= policy.status.observed_generation {
            return Ok(());
        }
        let mut served = Served { client: &self.client, documents: HashMap::new() };
        let types = served.types(&spec.match_constraints.resource_rules).await?;
        let params = match &spec.param_kind {
            Some(kind) => {
                let version = kind.api_version.rsplit('/').next().unwrap_or_default();
                served.ty(group_of(&kind.api_version), version, &kind.kind).await?
            }
            None => None,
        };
        let status = Status {
            observed_generation: meta.generation,
            type_checking: Some(TypeChecking {
                expression_warnings: warnings(spec, &types, params.as_ref()),
            }),
        };
        let object = json!({
            "apiVersion": ROW.api_version(),
            "kind": ROW.kind,
            "metadata": { "name": meta.name },
            "status": status,
        });
        let patch = Patch::Apply { manager: NAME.into(), force: true, object };
        self.client.patch_of(&ROW, "", &meta.name, "status", &patch).await.map(drop)
    }
}

/// What the API server serves, as far as one policy asks.
struct Served<'a> {
    client: &'a Client,
    documents: HashMap<(String, String), Arc<Value>>,
}

impl Served<'_> {
    /// The types that the rules name, without those that nobody knows.
    async fn types(&mut self, rules: &[ResourceRule]) -> Result<Vec<(Kind, Type)>, Error> {
        let mut found = BTreeSet::new();
        'rules: for rule in rules {
            let mut count = 0;
            for (group, version, resource) in named(rule) {
                let rows = known(kinds(self.client, group, version).await)?.unwrap_or_default();
                let Some(row) = rows.into_iter().find(|row: &Row| row.resource == resource) else {
                    continue;
                };
                found.insert((group.to_string(), version.to_string(), row.kind.to_string()));
                count += 1;
                if count == MOST_TYPES {
                    break 'rules;
                }
            }
        }
        let mut types = Vec::new();
        for kind in found {
            if let Some(ty) = self.ty(&kind.0, &kind.1, &kind.2).await? {
                types.push((kind, ty));
            }
        }
        Ok(types)
    }

    async fn ty(&mut self, group: &str, version: &str, kind: &str) -> Result<Option<Type>, Error> {
        let place = (group.to_string(), version.to_string());
        if !self.documents.contains_key(&place) {
            let Some(document) = known(schemas(self.client, group, version).await)? else {
                return Ok(None);
            };
            self.documents.insert(place.clone(), Arc::new(document));
        }
        let document = self.documents[&place].clone();
        Ok(Schema::of_kind(document, group, version, kind).and_then(|schema| schema.ty(kind)))
    }
}

/// `None` for what is not there.
fn known<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.status().is_some_and(|status| status.code == 404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Groups, versions and resources of a rule, in order; nothing of one that means all groups or all
/// versions. Types of subresources are not known.
fn named(rule: &ResourceRule) -> Vec<(&str, &str, &str)> {
    let any = |name: &String| name.contains('*');
    if rule.api_groups.iter().chain(&rule.api_versions).any(any) {
        return Vec::new();
    }
    let mut all = Vec::new();
    for group in sorted(&rule.api_groups) {
        for version in sorted(&rule.api_versions) {
            let resources = sorted(&rule.resources).into_iter();
            let whole = resources.filter(|resource| !resource.contains(['*', '/']));
            all.extend(whole.map(|resource| (group, version, resource)));
        }
    }
    all
}

fn sorted(names: &[String]) -> Vec<&str> {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// What is wrong with the expressions for objects of these types, by the fields that they are in.
fn warnings(spec: &Spec, types: &[(Kind, Type)], params: Option<&Type>) -> Vec<ExpressionWarning> {
    let plain = types.iter().map(|(_, ty)| policy::environment(ty.clone(), params.cloned()));
    let plain: Vec<Environment> = plain.collect();
    let variables = spec.variables.iter().map(|it| (it.name.as_str(), it.expression.as_str()));
    let with =
        |environment: &Environment| policy::with_variables(environment.clone(), variables.clone());
    let composed: Vec<Environment> = plain.iter().map(with).collect();
    let warning = |field: String, expression: &str, environments: &[Environment]| {
        let wrong =
            types.iter().zip(environments).filter_map(|(((group, version, kind), _), it)| {
                let problems = cel::check(expression, it).err()?;
                Some(format!("{group}/{version}, Kind={kind}: {}\n", cel::report(&problems)))
            });
        let all: Vec<String> = wrong.collect();
        let told = !all.is_empty();
        told.then(|| ExpressionWarning { field_ref: field, warning: all.join("\n") })
    };
    let mut found = Vec::new();
    for (index, validation) in spec.validations.iter().enumerate() {
        let field = |name| format!("spec.validations[{index}].{name}");
        found.push(warning(field("expression"), &validation.expression, &composed));
        if !validation.message_expression.is_empty() {
            let field = field("messageExpression");
            found.push(warning(field, &validation.message_expression, &composed));
        }
    }
    for (index, annotation) in spec.audit_annotations.iter().enumerate() {
        let field = format!("spec.auditAnnotations[{index}].valueExpression");
        found.push(warning(field, &annotation.value_expression, &composed));
    }
    // What a policy matches is decided before it has variables.
    for (index, condition) in spec.match_conditions.iter().enumerate() {
        let field = format!("spec.matchConditions[{index}].expression");
        found.push(warning(field, &condition.expression, &plain));
    }
    found.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rules_name() {
        let rule = |groups: &[&str], versions: &[&str], resources: &[&str]| {
            let own = |names: &[&str]| names.iter().map(ToString::to_string).collect();
            ResourceRule {
                api_groups: own(groups),
                api_versions: own(versions),
                resources: own(resources),
            }
        };
        for (rule, expected) in [
            (
                rule(&["b", "a"], &["v1"], &["y", "x", "x/status", "*"]),
                vec![("a", "v1", "x"), ("a", "v1", "y"), ("b", "v1", "x"), ("b", "v1", "y")],
            ),
            (rule(&["*"], &["v1"], &["x"]), Vec::new()),
            (rule(&["a"], &["*", "v1"], &["x"]), Vec::new()),
            (rule(&[], &["v1"], &["x"]), Vec::new()),
        ] {
            assert_eq!(named(&rule), expected);
        }
    }
}
