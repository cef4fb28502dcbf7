//! Asking for a certificate and waiting for it (Kubernetes: Certificates and Certificate Signing
//! Requests).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use client::{Client, Clock, Informers, Rng};
use proto::view::certificate_signing_request::CertificateSigningRequest;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// How long a request is waited for.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("make a certificate request")]
    Make(#[source] rcgen::Error),
    #[error("ask the API server for a certificate")]
    Create(#[source] client::Error),
    #[error("certificate signing request {0} was not signed within 15 minutes: is it approved?")]
    Late(String),
    #[error("certificate signing request {name} is {state}: {why}")]
    Refused { name: String, state: &'static str, why: String },
    #[error("certificate signing request {0} was deleted before it was signed")]
    Gone(String),
    #[error("the certificate of {name} is not base64")]
    Base64 { name: String, source: base64::DecodeError },
}

impl RequestError {
    /// May another try help, without anybody doing anything about it?
    pub fn is_passing(&self) -> bool {
        matches!(self, RequestError::Create(_) | RequestError::Late(_) | RequestError::Gone(_))
    }
}

/// What a certificate is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    node: String,
    dns: Vec<String>,
    ips: Vec<IpAddr>,
    signer: &'static str,
    usages: [&'static str; 2],
}

impl Template {
    pub fn client(node: &str) -> Template {
        Template {
            node: node.into(),
            dns: Vec::new(),
            ips: Vec::new(),
            signer: "kubernetes.io/kube-apiserver-client-kubelet",
            usages: ["digital signature", "client auth"],
        }
    }

    pub fn serving(node: &str, dns: Vec<String>, ips: Vec<IpAddr>) -> Template {
        Template {
            node: node.into(),
            dns,
            ips,
            signer: "kubernetes.io/kubelet-serving",
            usages: ["digital signature", "server auth"],
        }
    }

    /// The names that it must bear.
    pub fn names(&self) -> BTreeSet<String> {
        self.dns.iter().cloned().chain(self.ips.iter().map(IpAddr::to_string)).collect()
    }

    /// In PEM.
    fn request(&self, key: &KeyPair) -> Result<String, RequestError> {
        let mut params = CertificateParams::new(self.dns.clone()).map_err(RequestError::Make)?;
        params.subject_alt_names.extend(self.ips.iter().copied().map(SanType::IpAddress));
        let subject = &mut params.distinguished_name;
        *subject = rcgen::DistinguishedName::new();
        subject.push(DnType::OrganizationName, "system:nodes");
        subject.push(DnType::CommonName, format!("system:node:{}", self.node));
        let request = params.serialize_request(key).map_err(RequestError::Make)?;
        request.pem().map_err(RequestError::Make)
    }

    fn object(&self, metadata: Value, key: &KeyPair) -> Result<Value, RequestError> {
        Ok(json!({
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": metadata,
            "spec": {
                "request": BASE64_STANDARD.encode(self.request(key)?),
                "signerName": self.signer,
                "usages": self.usages,
            },
        }))
    }

    /// The same for the same key and the same wish: whoever asks twice finds their first request.
    fn first_name(&self, key: &KeyPair) -> String {
        let mut hash = Sha256::new();
        hash.update(key.public_key_raw());
        for part in [self.node.as_str(), self.signer].iter().chain(&self.usages) {
            hash.update([0]);
            hash.update(part);
        }
        format!("node-csr-{}", hex::encode(hash.finalize()))
    }
}

/// Who asks.
pub struct Asker<'a> {
    pub client: Client,
    pub clock: &'a Clock,
    pub rng: &'a Rng,
}

impl Asker<'_> {
    /// The certificate for this key, both in PEM; asked for under a name of the key's own.
    pub async fn first(&self, template: &Template, key: &str) -> Result<String, RequestError> {
        let key = KeyPair::from_pem(key).map_err(RequestError::Make)?;
        let name = template.first_name(&key);
        self.ask(template.object(json!({ "name": name }), &key)?, Some(name)).await
    }

    /// The same, as one request of many.
    pub async fn another(&self, template: &Template, key: &str) -> Result<String, RequestError> {
        let key = KeyPair::from_pem(key).map_err(RequestError::Make)?;
        self.ask(template.object(json!({"generateName": "csr-"}), &key)?, None).await
    }

    async fn ask(&self, object: Value, named: Option<String>) -> Result<String, RequestError> {
        let made = self.client.create::<CertificateSigningRequest>("", &object).await;
        let name = match (made, named) {
            (Ok(made), _) => made.view.metadata.name.clone(),
            (Err(error), Some(name)) if error.is_already_exists() => name,
            (Err(error), _) => return Err(RequestError::Create(error)),
        };
        tracing::info!(request = name, "waiting for a certificate");
        match self.clock.timeout(PATIENCE, self.wait(&name)).await {
            Ok(answer) => answer,
            Err(_) => Err(RequestError::Late(name)),
        }
    }

    async fn wait(&self, name: &str) -> Result<String, RequestError> {
        let (clock, rng) = (self.clock.clone(), self.rng.clone());
        let informers = Informers::new(self.client.clone(), clock, rng);
        let selector = format!("metadata.name={name}");
        let informer = informers.filtered::<CertificateSigningRequest>(&selector);
        let mut changes = informer.changes();
        loop {
            let change = changes.next().await;
            let gone = || RequestError::Gone(name.into());
            let object = &change.new.ok_or_else(gone)?.view;
            if let Some(answer) = answer(object) {
                return answer;
            }
        }
    }
}

/// What has become of a request, if anything has.
fn answer(object: &CertificateSigningRequest) -> Option<Result<String, RequestError>> {
    let name = &object.metadata.name;
    for state in ["Denied", "Failed"] {
        if let Some(condition) = object.condition(state) {
            let why = format!("{}: {}", condition.reason, condition.message);
            return Some(Err(RequestError::Refused { name: name.clone(), state, why }));
        }
    }
    if object.condition("Approved").is_none() || object.status.certificate.is_empty() {
        return None;
    }
    let pem = BASE64_STANDARD.decode(&object.status.certificate);
    let pem = pem.map_err(|source| RequestError::Base64 { name: name.clone(), source });
    Some(pem.map(|pem| String::from_utf8_lossy(&pem).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        let key = KeyPair::generate().unwrap();
        let ips = vec![[10, 0, 0, 1].into()];
        let template = Template::serving("n", vec!["n".into()], ips);
        assert_eq!(template.names(), ["10.0.0.1".to_string(), "n".to_string()].into());
        let object = template.object(json!({"name": "x"}), &key).unwrap();
        assert_eq!(object["spec"]["signerName"], "kubernetes.io/kubelet-serving");
        assert_eq!(object["spec"]["usages"], json!(["digital signature", "server auth"]));
        let pem = BASE64_STANDARD.decode(object["spec"]["request"].as_str().unwrap()).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
        use x509_parser::prelude::FromDer;
        let parse = x509_parser::certification_request::X509CertificationRequest::from_der;
        let (_, request) = parse(&block.contents).unwrap();
        let subject = request.certification_request_info.subject.to_string();
        assert_eq!(subject, "O=system:nodes, CN=system:node:n");
    }

    #[test]
    fn one_key_one_name() {
        let (one, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let (a, b) = (Template::client("a"), Template::client("b"));
        assert_eq!(a.first_name(&one), a.first_name(&one));
        assert_ne!(a.first_name(&one), a.first_name(&other));
        assert_ne!(a.first_name(&one), b.first_name(&one));
        assert!(a.first_name(&one).starts_with("node-csr-"));
    }

    #[test]
    fn what_becomes_of_a_request() {
        let object = |conditions: &[&str], certificate: &str| -> CertificateSigningRequest {
            let conditions: Vec<Value> =
                conditions.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
            let status = json!({"conditions": conditions, "certificate": certificate});
            serde_json::from_value(json!({"metadata": {"name": "x"}, "status": status})).unwrap()
        };
        let pem = BASE64_STANDARD.encode("pem");
        assert!(answer(&object(&[], "")).is_none());
        assert!(answer(&object(&["Approved"], "")).is_none());
        assert!(answer(&object(&[], &pem)).is_none());
        assert_eq!(answer(&object(&["Approved"], &pem)).unwrap().unwrap(), "pem");
        for state in ["Denied", "Failed"] {
            let error = answer(&object(&["Approved", state], &pem)).unwrap().unwrap_err();
            assert!(!error.is_passing() && error.to_string().contains(state), "{error}");
        }
    }
}
