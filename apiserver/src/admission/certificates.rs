//! Who may approve and sign certificates of a signer, and whose certificates nobody may ask for.
//! <https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/>

use base64::{Engine, engine::general_purpose::STANDARD};
use proto::kind;
use serde_json::Value;
use x509_parser::{
    certification_request::X509CertificationRequest, prelude::FromDer, x509::AttributeTypeAndValue,
};

use super::{Denied, Operation, Request};
use crate::{
    authz::{Attributes, What},
    kinds::lens::Lens,
};

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const MASTERS: &str = "system:masters";

pub(super) fn approval(request: &Request, _new: Option<&Value>) -> Result<(), Denied> {
    let (Some(old), "approval") = (request.old, request.subresource) else { return Ok(()) };
    if !updates(request) || may(request, "approve", signer(old)) {
        return Ok(());
    }
    let why = format!("user not permitted to approve requests with signerName {:?}", signer(old));
    Err(request.forbidden(why))
}

/// Only a signer sets the certificate or says why there is none.
pub(super) fn signing(request: &Request, new: Option<&Value>) -> Result<(), Denied> {
    let (Some(new), Some(old), "status") = (new, request.old, request.subresource) else {
        return Ok(());
    };
    let same = ["certificate", "conditions"]
        .iter()
        .all(|field| new.at("status").at(field) == old.at("status").at(field));
    if same || !updates(request) || may(request, "sign", signer(old)) {
        return Ok(());
    }
    let why = format!("user not permitted to sign requests with signerName {:?}", signer(old));
    Err(request.forbidden(why))
}

/// Nobody becomes all-powerful by a certificate of the API.
pub(super) fn subject(request: &Request, new: Option<&Value>) -> Result<(), Denied> {
    let Some(new) =
        new.filter(|_| request.is(Operation::Create, &kind::CERTIFICATE_SIGNING_REQUEST))
    else {
        return Ok(());
    };
    if signer(new) != CLIENT_SIGNER {
        return Ok(());
    }
    let Some(Subject { groups, .. }) = Subject::of(new) else {
        return Err(request.forbidden("unable to parse the request: it is no PEM of a PKCS #10"));
    };
    if groups.iter().any(|group| group == MASTERS) {
        let why = format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed");
        return Err(request.forbidden(why));
    }
    Ok(())
}

fn updates(request: &Request) -> bool {
    request.operation == Operation::Update && request.concerns(&kind::CERTIFICATE_SIGNING_REQUEST)
}

fn signer(request: &Value) -> &str {
    request.at("spec").text("signerName")
}

/// For the signer itself, or for all of its domain (`example.com/*`).
fn may(request: &Request, verb: &str, signer: &str) -> bool {
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    [signer, &format!("{domain}/*")].iter().any(|name| {
        let what = What::Resource {
            group: &kind::CERTIFICATE_SIGNING_REQUEST.group,
            resource: "signers",
            subresource: "",
            namespace: "",
            name,
        };
        request.cluster.allows(&Attributes { user: request.user, verb, what, fields: None })
    })
}

/// Whom a certificate request is for.
pub(super) struct Subject {
    pub name: String,
    pub groups: Vec<String>,
}

impl Subject {
    /// From the base64 of a PEM in the object.
    pub fn of(object: &Value) -> Option<Subject> {
        let pem = STANDARD.decode(object.at("spec").text("request")).ok()?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
        let subject = &request.certification_request_info.subject;
        let text = |name: &AttributeTypeAndValue| name.as_str().ok().map(String::from);
        Some(Subject {
            name: subject.iter_common_name().find_map(text).unwrap_or_default(),
            groups: subject.iter_organization().filter_map(text).collect(),
        })
    }
}
