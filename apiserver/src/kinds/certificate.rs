//! CertificateSigningRequests: what is asked for is fixed once and for all, `approval` writes the
//! conditions and `status` the certificate.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::status::FieldError;
use proto::time::Time;
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::check::{self, Errors};
use super::described;
use super::lens::Lens;
use super::name::{self, NameRule};
use super::path::Path;
use super::table::{self, column};
use super::{Column, Context, Field, Strategy};

const SPEC: Path = Path::root("spec");
const STATUS: Path = Path::root("status");
/// Who approves decides on these, and nobody else.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];
/// Conditions that can only be true, and stay.
const FINAL: [&str; 3] = ["Approved", "Denied", "Failed"];

pub struct CertificateSigningRequest;

impl Strategy for CertificateSigningRequest {
    fn name_rule(&self) -> NameRule {
        NameRule::Free
    }

    /// Who asks is who made the request, whatever it says.
    fn prepare_create(&self, new: &mut Value, ctx: &Context) {
        let spec = new.section("spec");
        for field in ["username", "uid", "groups", "extra"] {
            spec.drop(field);
        }
        let user = ctx.user;
        for (field, text) in [("username", &user.name), ("uid", &user.uid)] {
            if !text.is_empty() {
                spec.set(field, text.as_str());
            }
        }
        if !user.groups.is_empty() {
            spec.set("groups", json!(user.groups));
        }
        if !user.extra.is_empty() {
            spec.set("extra", json!(user.extra));
        }
        new.set("status", json!({}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _ctx: &Context) {
        new.take_over("spec", old);
        new.take_over("status", old);
    }

    fn prepare_status(&self, new: &mut Value, old: &Value, ctx: &Context) {
        new.take_over("spec", old);
        if ctx.subresource == "approval" {
            stamp(new, old, ctx.now);
            let conditions = new.at("status").get("conditions").cloned();
            new.take_over("status", old);
            let status = new.section("status");
            match conditions {
                Some(conditions) => status.set("conditions", conditions),
                None => status.drop("conditions"),
            }
        } else {
            DECISIONS.iter().for_each(|kind| preserve(kind, new, old));
            stamp(new, old, ctx.now);
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        rules(object, None)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = rules(new, Some(old));
        changes("", new, old, &mut errors);
        errors
    }

    fn validate_part(&self, part: &str, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = rules(new, Some(old));
        changes(part, new, old, &mut errors);
        errors
    }

    fn fields(&self) -> &'static [Field] {
        const { &[Field::text("spec.signerName")] }
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                table::NAME,
                table::AGE,
                column("SignerName", "string", 0, described::CSR_SIGNER),
                column("Requestor", "string", 0, described::CSR_REQUEST),
                column("RequestedDuration", "string", 0, described::CSR_EXPIRATION),
                column("Condition", "string", 0, described::CSR_CONDITIONS),
            ]
        }
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let (spec, status) = (object.at("spec"), object.at("status"));
        let duration = spec.int("expirationSeconds").and_then(|seconds| seconds.try_into().ok());
        let duration = duration.map(std::time::Duration::from_secs).map(table::human);
        let has = |kind: &str| !of_kind(status, kind).is_empty();
        let mut condition = match (has("Denied"), has("Approved")) {
            (true, _) => "Denied",
            (_, true) => "Approved",
            _ => "Pending",
        }
        .to_string();
        if has("Failed") {
            condition += ",Failed";
        }
        if !status.vacant("certificate") {
            condition += ",Issued";
        }
        vec![
            table::name(object),
            table::age(object, now),
            table::or_none(spec.text("signerName")).into(),
            spec.text("username").into(),
            duration.unwrap_or_else(|| "<none>".into()).into(),
            condition.into(),
        ]
    }
}

/// All rules but those about what changes; what was wrong before may stay so.
fn rules(object: &Value, old: Option<&Value>) -> Errors {
    let mut errors = Vec::new();
    let (spec, status) = (object.at("spec"), object.at("status"));
    if let Err(why) = request(spec.text("request")) {
        let value = spec.at("request").clone();
        errors.push(FieldError::invalid(SPEC.field("request"), value, why));
    }
    if spec.vacant("usages") {
        errors.push(FieldError::required(SPEC.field("usages"), ""));
    }
    let path = SPEC.field("usages");
    let usages: Vec<&str> = check::texts(spec, "usages").collect();
    for (index, usage) in usages.iter().enumerate() {
        if !USAGES.contains(usage) {
            errors.push(FieldError::not_supported(path.index(index), *usage, USAGES));
        }
    }
    for (index, usage) in usages.iter().enumerate() {
        if usages[..index].contains(usage) {
            errors.push(FieldError::duplicate(path.index(index), *usage));
        }
    }
    signer(&SPEC.field("signerName"), spec.text("signerName"), &mut errors);
    if let Some(seconds) = spec.int("expirationSeconds").filter(|seconds| *seconds < 600) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid(SPEC.field("expirationSeconds"), seconds, detail));
    }
    conditions(status, &mut errors);
    let unchanged =
        old.is_some_and(|old| old.at("status").at("certificate") == status.at("certificate"));
    if !unchanged && let Err(why) = certificates(status.text("certificate")) {
        let path = STATUS.field("certificate");
        errors.push(FieldError::invalid(path, "<certificate data>", why));
    }
    errors
}

/// A PEM block with a request that its own key has signed.
fn request(encoded: &str) -> Result<(), String> {
    const WRONG: &str = "PEM block type must be CERTIFICATE REQUEST";
    let text = STANDARD.decode(encoded).map_err(|error| error.to_string())?;
    let block = Pem::iter_from_buffer(&text).next().and_then(Result::ok);
    let block = block.filter(|block| block.label == "CERTIFICATE REQUEST").ok_or(WRONG)?;
    let (_, request) = X509CertificationRequest::from_der(&block.contents)
        .map_err(|error| format!("x509: malformed certificate request: {error}"))?;
    request.verify_signature().map_err(|_| "x509: the signature does not verify".to_string())
}

/// Nothing, or PEM blocks with certificates and nothing else.
fn certificates(encoded: &str) -> Result<(), String> {
    let text = STANDARD.decode(encoded).map_err(|error| error.to_string())?;
    if text.is_empty() {
        return Ok(());
    }
    let mut blocks = 0;
    for block in Pem::iter_from_buffer(&text) {
        let Ok(block) = block else { break };
        if block.label != "CERTIFICATE" {
            let label = block.label;
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {label:?}"));
        }
        if has_headers(&String::from_utf8_lossy(&text)) {
            return Err("no PEM block headers are permitted".into());
        }
        if block.contents.is_empty() {
            return Err("found CERTIFICATE PEM block containing 0 certificates".into());
        }
        X509Certificate::from_der(&block.contents)
            .map_err(|error| format!("x509: malformed certificate: {error}"))?;
        blocks += 1;
    }
    match blocks {
        0 => Err("must contain at least one CERTIFICATE PEM block".into()),
        _ => Ok(()),
    }
}

/// A colon is in no base64: between the markers only a header has one.
fn has_headers(text: &str) -> bool {
    let blocks = text.split("-----BEGIN ").skip(1);
    blocks.filter_map(|block| block.split("-----END ").next()).any(|block| block.contains(':'))
}

/// A signer, as `example.com/signer-name`.
fn signer(path: &Path, signer: &str, errors: &mut Errors) {
    const LONGEST_DOMAIN: usize = 253;
    const LONGEST: usize = 2 * LONGEST_DOMAIN + 63 + 2;
    if signer.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    if signer == "kubernetes.io/legacy-unknown" {
        let detail = "the legacy signerName is not allowed via this API version";
        errors.push(FieldError::invalid(path, signer, detail));
        return;
    }
    let Some((domain, rest)) = signer.split_once('/').filter(|(_, rest)| !rest.contains('/'))
    else {
        let detail =
            "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(FieldError::invalid(path, signer, detail));
        return;
    };
    check::length(path, domain, LONGEST_DOMAIN, errors);
    parts(path, domain, name::label, errors);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(path, domain, detail));
    }
    parts(path, rest, name::subdomain, errors);
    check::length(path, signer, LONGEST, errors);
}

/// The problems of the first part that has any.
fn parts(path: &Path, whole: &str, rule: fn(&str) -> Vec<String>, errors: &mut Errors) {
    let bad = whole.split('.').map(|part| (part, rule(part))).find(|(_, bad)| !bad.is_empty());
    for problem in bad.iter().flat_map(|(_, problems)| problems) {
        let part = bad.as_ref().map_or("", |(part, _)| part);
        let detail = format!("validating label {part:?}: {problem}");
        errors.push(FieldError::invalid(path, whole, detail));
    }
}

fn conditions(status: &Value, errors: &mut Errors) {
    let path = STATUS.field("conditions");
    let all = status.items("conditions");
    for (index, condition) in all.iter().enumerate() {
        let path = path.index(index);
        let (kind, before) = (condition.text("type"), &all[..index]);
        check::required(&path, condition, "type", errors);
        let allowed: &[&str] =
            if FINAL.contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        check::one_of(&path.field("status"), condition.text("status"), allowed, errors);
        let was = |other: &str| before.iter().any(|one| one.text("type") == other);
        if kind == "Approved" && was("Denied") || kind == "Denied" && was("Approved") {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.push(FieldError::invalid(path.field("type"), kind, detail));
        }
        if was(kind) {
            errors.push(FieldError::duplicate(path.field("type"), kind));
        }
    }
}

/// What each part may change: `approval` the decisions, `status` the certificate, once.
fn changes(part: &str, new: &Value, old: &Value, errors: &mut Errors) {
    let (status, before) = (new.at("status"), old.at("status"));
    let mut refuse = |field: &str, detail: String| {
        errors.push(FieldError::forbidden(STATUS.field(field), detail));
    };
    for kind in FINAL {
        if of_kind(status, kind).len() < of_kind(before, kind).len() {
            let detail = format!("updates may not remove a condition of type {kind:?}");
            refuse("conditions", detail);
        }
    }
    for kind in DECISIONS.iter().filter(|_| part != "approval") {
        let (after, before) = (of_kind(status, kind), of_kind(before, kind));
        if after.len() > before.len() {
            refuse("conditions", format!("updates may not add a condition of type {kind:?}"));
        } else if after.len() == before.len() && after != before {
            refuse("conditions", format!("updates may not modify a condition of type {kind:?}"));
        }
    }
    if status.at("certificate") != before.at("certificate") {
        if part != "status" {
            refuse("certificate", "updates may not set certificate content".into());
        } else if !before.vacant("certificate") {
            refuse("certificate", "updates may not modify existing certificate content".into());
        }
    }
}

fn of_kind<'a>(status: &'a Value, kind: &str) -> Vec<&'a Value> {
    status.items("conditions").iter().filter(|one| one.text("type") == kind).collect()
}

/// Makes the conditions of this type what they were, unless some came or went.
fn preserve(kind: &str, new: &mut Value, old: &Value) {
    let before = of_kind(old.at("status"), kind);
    if of_kind(new.at("status"), kind).len() != before.len() {
        return;
    }
    let all = new.section("status").items_mut("conditions").iter_mut();
    let same = all.filter(|condition| condition.text("type") == kind);
    same.zip(before).for_each(|(condition, before)| *condition = before.clone());
}

/// Sets the times of conditions that have none; a transition is when the status last changed.
fn stamp(new: &mut Value, old: &Value, now: Time) {
    let now = now.to_string();
    let all = old.at("status").items("conditions");
    for condition in new.section("status").items_mut("conditions") {
        if condition.vacant("lastUpdateTime") {
            condition.set("lastUpdateTime", now.as_str());
        }
        if condition.vacant("lastTransitionTime") {
            let same = |one: &&Value| {
                one.text("type") == condition.text("type")
                    && one.text("status") == condition.text("status")
                    && !one.vacant("lastTransitionTime")
            };
            let since = all.iter().find(same).map(|one| one.text("lastTransitionTime"));
            condition.set("lastTransitionTime", since.unwrap_or(&now).to_string());
        }
    }
}

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
