//! CertificateSigningRequests: approving those of nodes, signing what is approved for the
//! cluster's own signers, and clearing away what nobody waits for any longer.
//! <https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/>

use std::time::Duration;

use client::Entry;
use proto::kind::CERTIFICATE_SIGNING_REQUEST;
use proto::time::Time;
use proto::view::Condition;
use proto::view::certificate_signing_request::CertificateSigningRequest;
use serde_json::{Value, json};

use crate::plan::{Patch, Plan, Step, Target};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

mod request;
mod sign;
#[cfg(test)]
mod tests;

use request::{Request, Signer};
pub use sign::{Authority, AuthorityError};

/// Approves what nodes ask for themselves, where the API server lets the asker.
pub struct Approver;

/// Signs what is approved.
pub struct SignerController {
    pub authority: Authority,
}

/// Deletes requests that have come to an end, or to nothing.
pub struct Cleaner;

const HOUR: Duration = Duration::from_secs(3600);
/// How long requests stay that nobody has decided on.
const PENDING: Duration = Duration::from_secs(24 * 3600);
/// When to ask again whether a request may be approved.
const RETRY: Duration = Duration::from_secs(60);

impl Controller for Approver {
    type Object = CertificateSigningRequest;
    const NAME: &'static str = "certificatesigningrequest-approving-controller";

    fn watches(_: &mut Watches<CertificateSigningRequest>) {}

    fn plan(
        &self,
        object: &Entry<CertificateSigningRequest>,
        _: &View,
        now: Time,
    ) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let decided = ["Approved", "Denied"].iter().any(|kind| object.condition(kind).is_some());
        if decided || !object.status.certificate.is_empty() {
            return Ok(plan);
        }
        let client = Signer::of(&object.spec.signer_name) == Some(Signer::KubeletClient);
        let Some(request) = Request::read(&object.spec.request).ok().filter(|_| client) else {
            return Ok(plan);
        };
        if Signer::KubeletClient.check(&request, &object.spec.usages).is_err() {
            return Ok(plan);
        }
        let (subresource, message) = match request.name == object.spec.username {
            true => (
                "selfnodeclient",
                "Auto approving self kubelet client certificate after SubjectAccessReview.",
            ),
            false => (
                "nodeclient",
                "Auto approving kubelet client certificate after SubjectAccessReview.",
            ),
        };
        plan.steps.push(Step::Allowed(access(object, subresource)));
        plan.steps.push(condition(object, "approval", "Approved", "AutoApproved", message, now));
        plan.look_again(now.plus(RETRY));
        Ok(plan)
    }
}

/// Whether the asker may have such requests approved.
fn access(object: &CertificateSigningRequest, subresource: &str) -> Value {
    let spec = &object.spec;
    json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": spec.username,
            "uid": spec.uid,
            "groups": spec.groups,
            "extra": spec.extra,
            "resourceAttributes": {
                "group": "certificates.k8s.io",
                "resource": "certificatesigningrequests",
                "verb": "create",
                "subresource": subresource,
                "version": "*",
            },
        },
    })
}

impl Controller for SignerController {
    type Object = CertificateSigningRequest;
    const NAME: &'static str = "certificatesigningrequest-signing-controller";

    fn watches(_: &mut Watches<CertificateSigningRequest>) {}

    fn plan(
        &self,
        object: &Entry<CertificateSigningRequest>,
        _: &View,
        now: Time,
    ) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let ended = ["Denied", "Failed"].iter().any(|kind| object.condition(kind).is_some());
        let waiting = object.condition("Approved").is_some()
            && !ended
            && object.status.certificate.is_empty();
        let Some(signer) = Signer::of(&object.spec.signer_name).filter(|_| waiting) else {
            return Ok(plan);
        };
        let signed = Request::read(&object.spec.request).and_then(|request| {
            signer.check(&request, &object.spec.usages)?;
            self.authority.sign(&request, object, now)
        });
        match signed {
            Ok(certificate) => {
                let row = &CERTIFICATE_SIGNING_REQUEST;
                plan.status(row, &object.metadata, json!({"certificate": certificate}));
            }
            Err(why) => {
                let reason = "SignerValidationFailure";
                plan.steps.push(condition(object, "status", "Failed", reason, &why, now));
            }
        }
        Ok(plan)
    }
}

/// Adds a condition to those that are there.
fn condition(
    object: &CertificateSigningRequest,
    subresource: &'static str,
    kind: &str,
    reason: &str,
    message: &str,
    now: Time,
) -> Step {
    let mut conditions = object.status.conditions.clone();
    conditions.push(Condition {
        kind: kind.into(),
        status: "True".into(),
        reason: reason.into(),
        message: message.into(),
        last_update_time: Some(now),
        last_transition_time: Some(now),
        ..Condition::default()
    });
    let body = json!({
        "metadata": {"resourceVersion": object.metadata.resource_version},
        "status": {"conditions": conditions},
    });
    let target = Target::of(&CERTIFICATE_SIGNING_REQUEST, &object.metadata);
    Step::Patch(Patch { target, subresource, strategic: false, body })
}

impl Controller for Cleaner {
    type Object = CertificateSigningRequest;
    const NAME: &'static str = "certificatesigningrequest-cleaner-controller";

    fn watches(_: &mut Watches<CertificateSigningRequest>) {}

    fn plan(
        &self,
        object: &Entry<CertificateSigningRequest>,
        _: &View,
        now: Time,
    ) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let Some(end) = end(object) else { return Ok(plan) };
        match end > now {
            true => plan.look_again(end),
            false => plan.delete(&CERTIFICATE_SIGNING_REQUEST, &object.metadata),
        }
        Ok(plan)
    }
}

/// When nobody needs the request any longer; `None` for one that is approved and waits for its
/// signer.
fn end(object: &CertificateSigningRequest) -> Option<Time> {
    let decided = |kind: &str| {
        let condition = object.condition(kind)?;
        Some(condition.last_update_time.or(object.metadata.creation_timestamp)?.plus(HOUR))
    };
    let issued = decided("Approved").filter(|_| !object.status.certificate.is_empty());
    let expired = sign::expiration(&object.status.certificate);
    let ends = [issued, decided("Denied"), decided("Failed"), expired];
    let undecided = object.status.conditions.is_empty();
    let pending = object.metadata.creation_timestamp.filter(|_| undecided);
    ends.into_iter().flatten().chain(pending.map(|at| at.plus(PENDING))).min()
}
