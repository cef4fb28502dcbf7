//! The cluster's authority at work.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use proto::time::Time;
use proto::view::certificate_signing_request::CertificateSigningRequest;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose as Extended, IsCa, Issuer, KeyPair,
    KeyUsagePurpose as Usage, SerialNumber,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};

use super::request::Request;

/// For clocks that are behind.
const BACKDATED: i64 = 300;
/// The shortest validity that is granted.
const SHORTEST: i64 = 600;

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("reading {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("using the authority's key in {path}")]
    Key { path: PathBuf, source: rcgen::Error },
    #[error("{path} holds no certificate")]
    Certificate { path: PathBuf },
}

/// Signs for the cluster.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// When its own certificate ends: nothing it signs may last longer.
    end: Time,
    longest: Duration,
}

impl Authority {
    /// `longest` is what certificates are good for where nothing shorter is asked.
    pub fn open(
        certificate: &Path,
        key: &Path,
        longest: Duration,
    ) -> Result<Authority, AuthorityError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|source| AuthorityError::Read { path: path.into(), source })
        };
        let pem = read(certificate)?;
        let unusable = |source| AuthorityError::Key { path: key.into(), source };
        let pair = KeyPair::from_pem(&read(key)?).map_err(unusable)?;
        let end = end_of(pem.as_bytes())
            .ok_or_else(|| AuthorityError::Certificate { path: certificate.into() })?;
        let issuer = Issuer::from_ca_cert_pem(&pem, pair).map_err(unusable)?;
        Ok(Authority { issuer, end, longest })
    }

    /// The certificate, PEM in base64.
    pub(super) fn sign(
        &self,
        request: &Request,
        object: &CertificateSigningRequest,
        now: Time,
    ) -> Result<String, String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = request.subject.clone();
        params.subject_alt_names = request.names.clone();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        for usage in &object.spec.usages {
            match usage_of(usage).ok_or_else(|| format!("unrecognized usage: {usage:?}"))? {
                Either::Key(usage) => params.key_usages.push(usage),
                Either::Extended(usage) => params.extended_key_usages.push(usage),
            }
        }
        // One request, one certificate: its uid makes as good a number as any.
        let mut serial = Sha256::digest(&object.metadata.uid)[..16].to_vec();
        serial[0] = serial[0] & 0x7f | 0x40; // positive, of constant length
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let second = now.0.as_second();
        let longest = self.longest.as_secs() as i64;
        let asked = object.spec.expiration_seconds.unwrap_or(longest);
        let life = asked.max(SHORTEST).min(longest);
        let date = |second: i64| {
            let epoch = rcgen::date_time_ymd(1970, 1, 1);
            epoch + Duration::from_secs(second.max(0).unsigned_abs())
        };
        params.not_before = date(second - BACKDATED);
        params.not_after = date((second + life).min(self.end.0.as_second()));
        let certificate = params
            .signed_by(&request.key, &self.issuer)
            .map_err(|error| format!("unable to sign: {error}"))?;
        Ok(BASE64_STANDARD.encode(certificate.pem()))
    }
}

/// When a certificate (PEM in base64) ends.
pub(super) fn expiration(text: &str) -> Option<Time> {
    end_of(&BASE64_STANDARD.decode(text).ok()?)
}

fn end_of(pem: &[u8]) -> Option<Time> {
    let der = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    Some(Time::from_unix(certificate.validity().not_after.timestamp()))
}

enum Either {
    Key(Usage),
    Extended(Extended),
}

/// certificates.k8s.io/v1 KeyUsage.
fn usage_of(name: &str) -> Option<Either> {
    use Either::{Extended as E, Key as K};
    Some(match name {
        "signing" | "digital signature" => K(Usage::DigitalSignature),
        "content commitment" => K(Usage::ContentCommitment),
        "key encipherment" => K(Usage::KeyEncipherment),
        "data encipherment" => K(Usage::DataEncipherment),
        "key agreement" => K(Usage::KeyAgreement),
        "server auth" => E(Extended::ServerAuth),
        "client auth" => E(Extended::ClientAuth),
        _ => return None,
    })
}
