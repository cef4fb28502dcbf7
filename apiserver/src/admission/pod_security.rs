//! PodSecurity: what pods of a namespace may ask of their node, by the namespace's labels.
//! <https://kubernetes.io/docs/concepts/security/pod-security-admission/>

use std::collections::BTreeMap;

use proto::{
    kind::{self, Row},
    meta::Labels,
    status::{FieldError, Status},
};
use serde_json::Value;

use super::{Denied, Operation, Request, request::read};
use crate::kinds::lens::Lens;

mod checks;
mod policy;

use checks::{Subject, Violation};
use policy::{Bound, Level, Policy};

/// Subresources that do not change what the pod may do.
const IGNORED: &[&str] =
    &["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// Annotations of audit events: the policy that held, what the policy to audit forbids, and labels
/// that say no policy.
const ENFORCED: &str = "pod-security.kubernetes.io/enforce-policy";
const AUDITED: &str = "pod-security.kubernetes.io/audit-violations";
const UNREADABLE: &str = "pod-security.kubernetes.io/error";

/// Pods of a namespace that are looked at when its labels change.
const MOST: usize = 3000;

/// Where the kinds that make pods keep what they make them from.
static TEMPLATES: &[(&Row, &str)] = &[
    (&kind::POD_TEMPLATE, "/template"),
    (&kind::REPLICATION_CONTROLLER, "/spec/template"),
    (&kind::REPLICA_SET, "/spec/template"),
    (&kind::DEPLOYMENT, "/spec/template"),
    (&kind::STATEFUL_SET, "/spec/template"),
    (&kind::DAEMON_SET, "/spec/template"),
    (&kind::JOB, "/spec/template"),
    (&kind::CRON_JOB, "/spec/jobTemplate/spec/template"),
];

pub(super) fn validate(request: &Request, new: Option<&Value>) -> Result<(), Denied> {
    let Some(new) = new else { return Ok(()) };
    if !matches!(request.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    if request.concerns(&kind::POD) {
        return pod(request, new);
    }
    if !request.subresource.is_empty() {
        return Ok(());
    }
    if request.concerns(&kind::NAMESPACE) {
        return namespace(request, new);
    }
    if let Some((_, path)) = TEMPLATES.iter().find(|(row, _)| request.concerns(row))
        && let Some(template) = new.pointer(path).filter(|template| template.is_object())
    {
        let policy = policy_of(request);
        audit(request, &policy, template);
        warn(request, &policy, template);
    }
    Ok(())
}

fn pod(request: &Request, new: &Value) -> Result<(), Denied> {
    if IGNORED.contains(&request.subresource)
        || request.old.is_some_and(|old| !is_significant(new, old))
    {
        return Ok(());
    }
    let policy = policy_of(request);
    request.annotate(ENFORCED, policy.enforce.to_string());
    audit(request, &policy, new);
    let violations = evaluate(policy.enforce, new);
    if violations.is_empty() {
        warn(request, &policy, new);
        return Ok(());
    }
    let (bound, what) = (policy.enforce, details(&violations));
    Err(request.forbidden(format!("violates PodSecurity \"{bound}\": {what}")))
}

/// The audit log hears also of what is refused.
fn audit(request: &Request, policy: &Policy, pod: &Value) {
    if request.notes.is_none() {
        return;
    }
    let violations = evaluate(policy.audit, pod);
    if !violations.is_empty() {
        let (bound, what) = (policy.audit, details(&violations));
        request.annotate(AUDITED, format!("would violate PodSecurity \"{bound}\": {what}"));
    }
}

fn warn(request: &Request, policy: &Policy, pod: &Value) {
    let violations = evaluate(policy.warn, pod);
    if !violations.is_empty() {
        let (bound, what) = (policy.warn, details(&violations));
        request.warn(format!("would violate PodSecurity \"{bound}\": {what}"));
    }
}

/// The labels must be right, and who tightens them hears of the pods that are there.
fn namespace(request: &Request, new: &Value) -> Result<(), Denied> {
    let (policy, errors) = Policy::of(&labels(new));
    let old = request.old.map(|old| Policy::of(&labels(old)));
    let said = |errors: &[FieldError]| errors.iter().map(FieldError::to_string).collect::<Vec<_>>();
    let known = old.as_ref().is_some_and(|(_, before)| said(before) == said(&errors));
    if !errors.is_empty() && !known {
        return Err(Denied(Status::invalid("", "Namespace", request.name, &errors)));
    }
    let (Operation::Update, Some((old, _))) = (request.operation, old) else { return Ok(()) };
    let (new, old) = (policy.enforce, old.enforce);
    let relaxed = new.minor == old.minor && new.level <= old.level;
    if new == old || new.level == Level::Privileged || relaxed {
        return Ok(());
    }
    for sentence in survey(request, new) {
        request.warn(sentence);
    }
    Ok(())
}

/// What the pods of the namespace violate: pods with the same violations in one sentence.
fn survey(request: &Request, bound: Bound) -> Vec<String> {
    let pods = request.cluster.list(&kind::POD, request.name);
    let mut violating: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in pods.iter().take(MOST) {
        let violations = evaluate(bound, &read(entry));
        if !violations.is_empty() {
            let reasons: Vec<&str> = violations.iter().map(|it| it.reason.as_str()).collect();
            violating.entry(reasons.join(", ")).or_default().push(entry.name().to_string());
        }
    }
    let mut sentences = Vec::new();
    if pods.len() > MOST {
        sentences.push(format!(
            "new PodSecurity enforce level only checked against the first {MOST} of {} existing \
             pods",
            pods.len()
        ));
    }
    if !violating.is_empty() {
        sentences.push(format!(
            "existing pods in namespace {:?} violate the new PodSecurity enforce level \"{bound}\"",
            request.name
        ));
    }
    let mut of_pods: Vec<String> = violating
        .into_iter()
        .map(|(reasons, names)| match names.as_slice() {
            [one] => format!("{one}: {reasons}"),
            [first, _] => format!("{first} (and 1 other pod): {reasons}"),
            [first, others @ ..] => {
                format!("{first} (and {} other pods): {reasons}", others.len())
            }
            [] => reasons,
        })
        .collect();
    of_pods.sort();
    sentences.extend(of_pods);
    sentences
}

fn policy_of(request: &Request) -> Policy {
    let namespace = request.cluster.get(&kind::NAMESPACE, "", request.namespace);
    let Some(namespace) = namespace else { return Policy::default() };
    let (policy, errors) = Policy::of(&namespace.labels);
    let errors: Vec<String> = errors.iter().map(FieldError::to_string).collect();
    match errors.as_slice() {
        [] => {}
        [one] => request.annotate(UNREADABLE, format!("Failed to parse policy: {one}")),
        many => {
            request.annotate(UNREADABLE, format!("Failed to parse policy: [{}]", many.join(", ")))
        }
    }
    policy
}

fn evaluate(bound: Bound, pod: &Value) -> Vec<Violation> {
    let subject =
        Subject { metadata: pod.at("metadata"), spec: pod.at("spec"), minor: bound.minor };
    checks::evaluate(bound.level, &subject)
}

fn details(violations: &[Violation]) -> String {
    let details = violations.iter().map(|it| match it.detail.as_str() {
        "" => it.reason.clone(),
        detail => format!("{} ({detail})", it.reason),
    });
    details.collect::<Vec<_>>().join(", ")
}

fn labels(object: &Value) -> Labels {
    let pairs = object.at("metadata").pairs("labels");
    pairs.filter_map(|(key, value)| Some((key.to_string(), value.as_str()?.to_string()))).collect()
}

/// Whether anything changed that bears on the checks: containers, or their images.
fn is_significant(new: &Value, old: &Value) -> bool {
    let (new, old) = (new.at("spec"), old.at("spec"));
    let images = |spec: &Value, list: &str| -> Vec<(String, String)> {
        let containers = spec.items(list).iter();
        containers.map(|it| (it.text("name").into(), it.text("image").into())).collect()
    };
    ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .any(|list| images(new, list) != images(old, list))
}
