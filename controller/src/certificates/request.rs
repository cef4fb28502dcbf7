//! What a certificate is asked for, and what each signer grants (Kubernetes: Certificates and
//! Certificate Signing Requests, "Kubernetes signers").

use std::collections::BTreeSet;

use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{DistinguishedName, DnType, SanType, SubjectPublicKeyInfo};
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// The parts of a request that come to stand in the certificate.
pub struct Request {
    /// The common name.
    pub name: String,
    pub organizations: Vec<String>,
    pub subject: DistinguishedName,
    pub names: Vec<SanType>,
    pub key: SubjectPublicKeyInfo,
}

/// The signers of the cluster's own authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    Client,
    KubeletClient,
    KubeletServing,
}

impl Request {
    /// `text` is PEM in base64. Refused where the asker does not hold the key.
    pub fn read(text: &str) -> Result<Request, String> {
        let unusable = |why: &dyn std::fmt::Display| format!("unable to parse csr: {why}");
        let pem = BASE64_STANDARD.decode(text).map_err(|error| unusable(&error))?;
        let der =
            CertificateSigningRequestDer::from_pem_slice(&pem).map_err(|error| unusable(&error))?;
        let (_, request) =
            X509CertificationRequest::from_der(&der).map_err(|error| unusable(&error))?;
        request.verify_signature().map_err(|error| unusable(&error))?;
        let info = &request.certification_request_info;
        let (mut subject, mut organizations) = (DistinguishedName::new(), Vec::new());
        for attribute in info.subject.iter_attributes() {
            let value = attribute.as_str().map_err(|error| unusable(&error))?;
            let oid: Vec<u64> = attribute.attr_type().iter().into_iter().flatten().collect();
            let kind = DnType::from_oid(&oid);
            if kind == DnType::OrganizationName {
                organizations.push(value.to_string());
            }
            // The name keeps one value per type, and this is another type with the same number.
            let kind = match subject.get(&kind) {
                Some(_) => DnType::CustomDnType(oid),
                None => kind,
            };
            if subject.get(&kind).is_some() {
                return Err("a subject with more than two values of one kind".into());
            }
            subject.push(kind, value);
        }
        let name = info.subject.iter_common_name().next().and_then(|name| name.as_str().ok());
        let mut names = Vec::new();
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(alternative) = extension {
                for name in &alternative.general_names {
                    names.push(alternative_name(name).ok_or("unsupported subjectAltName")?);
                }
            }
        }
        let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
            .map_err(|error| unusable(&error))?;
        let name = name.unwrap_or_default().to_string();
        Ok(Request { name, organizations, subject, names, key })
    }
}

fn alternative_name(name: &GeneralName) -> Option<SanType> {
    Some(match name {
        GeneralName::DNSName(name) => SanType::DnsName((*name).try_into().ok()?),
        GeneralName::RFC822Name(name) => SanType::Rfc822Name((*name).try_into().ok()?),
        GeneralName::URI(name) => SanType::URI((*name).try_into().ok()?),
        GeneralName::IPAddress(bytes) => SanType::IpAddress(match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok()?.into(),
            _ => <[u8; 16]>::try_from(*bytes).ok()?.into(),
        }),
        _ => return None,
    })
}

impl Signer {
    pub fn of(name: &str) -> Option<Signer> {
        Some(match name {
            "kubernetes.io/kube-apiserver-client" => Signer::Client,
            "kubernetes.io/kube-apiserver-client-kubelet" => Signer::KubeletClient,
            "kubernetes.io/kubelet-serving" => Signer::KubeletServing,
            _ => return None,
        })
    }

    /// Whether this signer grants it.
    pub fn check(self, request: &Request, usages: &[String]) -> Result<(), String> {
        if self == Signer::Client {
            return client_usages(usages);
        }
        if request.organizations != ["system:nodes"] {
            return Err("subject organization is not system:nodes".into());
        }
        if !request.name.starts_with("system:node:") {
            return Err("subject common name does not begin with system:node: ".into());
        }
        let mut addressed = false;
        for name in &request.names {
            let (kind, machine) = match name {
                SanType::DnsName(_) => ("DNS", true),
                SanType::IpAddress(_) => ("IP", true),
                SanType::Rfc822Name(_) => ("email", false),
                _ => ("URI", false),
            };
            if self == Signer::KubeletClient || !machine {
                return Err(format!("{kind} subjectAltNames are not allowed"));
            }
            addressed = true;
        }
        if self == Signer::KubeletServing && !addressed {
            return Err("DNS or IP subjectAltName is required".into());
        }
        let own = match self {
            Signer::KubeletServing => "server auth",
            _ => "client auth",
        };
        let found: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
        let mut wanted = BTreeSet::from(["digital signature", own]);
        let exact = found == wanted;
        wanted.insert("key encipherment");
        match exact || found == wanted {
            true => Ok(()),
            false => Err(format!("usages did not match {:?}", Vec::from_iter(wanted))),
        }
    }
}

fn client_usages(usages: &[String]) -> Result<(), String> {
    for usage in usages {
        if !matches!(usage.as_str(), "digital signature" | "key encipherment" | "client auth") {
            return Err(format!("invalid usage for client certificate: {usage}"));
        }
    }
    match usages.iter().any(|usage| usage == "client auth") {
        true => Ok(()),
        false => Err("missing required usage for client certificate: client auth".into()),
    }
}
