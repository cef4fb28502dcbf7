//! The authority and what it signs.

use std::path::Path;

use client::Rng;
use proto::time::Time;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{CA_VALIDITY, LEAF_VALIDITY, PkiError, files};

/// A certificate and its private key, PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
    /// A third of its validity before it ends.
    pub renew_at: Time,
}

/// Whom a certificate names, and for what.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The common name: a user.
    pub name: String,
    /// Organisations: groups.
    pub groups: Vec<String>,
    /// DNS names and addresses, of a serving certificate.
    pub names: Vec<String>,
}

impl Profile {
    pub fn client(user: &str, groups: &[&str]) -> Profile {
        let groups = groups.iter().map(|group| group.to_string()).collect();
        Profile { name: user.into(), groups, names: Vec::new() }
    }

    pub fn serving(name: &str, names: &[String]) -> Profile {
        Profile { name: name.into(), groups: Vec::new(), names: names.to_vec() }
    }

    fn params(&self, now: Time, rng: &Rng) -> Result<CertificateParams, PkiError> {
        let mut params = CertificateParams::new(self.names.clone())
            .map_err(|source| PkiError::Name { name: self.names.join(", "), source })?;
        params.distinguished_name = subject(&self.name, &self.groups);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match self.names.is_empty() {
            true => ExtendedKeyUsagePurpose::ClientAuth,
            false => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, LEAF_VALIDITY, rng);
        Ok(params)
    }
}

/// The certificate authority of one cluster.
pub struct Authority {
    pair: Pair,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Reads `ca.crt` and `ca.key` in `dir`, or makes them. A certificate about to expire is made
    /// anew with the same key.
    pub fn open(dir: &Path, now: Time, rng: &Rng) -> Result<Authority, PkiError> {
        let (certificate_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        let old = match (files::read(&certificate_path)?, files::read(&key_path)?) {
            (certificate, Some(key)) => Some((certificate, key)),
            _ => None,
        };
        let key = match &old {
            Some((_, key)) => KeyPair::from_pem(key)
                .map_err(|source| PkiError::Key { path: key_path.clone(), source })?,
            None => generate("the authority")?,
        };
        let kept = match old.and_then(|(certificate, _)| certificate) {
            Some(pem) => {
                let found = Found::read(&certificate_path, &pem)?;
                (found.renew_at() > now).then(|| (pem, found.renew_at()))
            }
            None => None,
        };
        let (certificate, renew_at) = match kept {
            Some(kept) => kept,
            None => {
                files::write_private(&key_path, key.serialize_pem().as_bytes())?;
                let certificate = ca_params(now, rng)
                    .self_signed(&key)
                    .map_err(|source| PkiError::Issue { name: "the authority".into(), source })?;
                files::write_public(&certificate_path, certificate.pem().as_bytes())?;
                (certificate.pem(), now.plus(CA_VALIDITY / 3 * 2))
            }
        };
        let pair = Pair { key: key.serialize_pem(), renew_at, certificate };
        let issuer = Issuer::from_ca_cert_pem(&pair.certificate, key)
            .map_err(|source| PkiError::Key { path: certificate_path, source })?;
        Ok(Authority { pair, issuer })
    }

    /// PEM.
    pub fn certificate(&self) -> &str {
        &self.pair.certificate
    }

    pub fn renew_at(&self) -> Time {
        self.pair.renew_at
    }

    /// A new key and its certificate, good for [`LEAF_VALIDITY`].
    pub fn issue(&self, profile: &Profile, now: Time, rng: &Rng) -> Result<Pair, PkiError> {
        let key = generate(&profile.name)?;
        let certificate = profile
            .params(now, rng)?
            .signed_by(&key, &self.issuer)
            .map_err(|source| PkiError::Issue { name: profile.name.clone(), source })?;
        let renew_at = now.plus(LEAF_VALIDITY / 3 * 2);
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem(), renew_at })
    }

    /// The pair in `FILE.crt` and `FILE.key`, issued anew where it is absent, not ours, about to
    /// expire, or lacks one of the profile's names.
    pub fn leaf(
        &self,
        dir: &Path,
        file: &str,
        profile: &Profile,
        now: Time,
        rng: &Rng,
    ) -> Result<Pair, PkiError> {
        let certificate_path = dir.join(format!("{file}.crt"));
        let key_path = dir.join(format!("{file}.key"));
        if let (Some(certificate), Some(key)) =
            (files::read(&certificate_path)?, files::read(&key_path)?)
        {
            let found = Found::read(&certificate_path, &certificate)?;
            let (renew_at, ours) = (found.renew_at(), self.signed(&found));
            if ours && renew_at > now && found.carries(&profile.names) {
                return Ok(Pair { certificate, key, renew_at });
            }
        }
        let pair = self.issue(profile, now, rng)?;
        files::write_private(&key_path, pair.key.as_bytes())?;
        files::write_public(&certificate_path, pair.certificate.as_bytes())?;
        Ok(pair)
    }

    fn signed(&self, found: &Found) -> bool {
        let path = Path::new("ca.crt");
        let Ok(ca) = Found::read(path, &self.pair.certificate) else { return false };
        ca.parsed(|ca| found.parsed(|leaf| leaf.verify_signature(Some(ca.public_key())).is_ok()))
    }
}

/// A certificate read back from a file.
struct Found {
    der: CertificateDer<'static>,
}

impl Found {
    fn read(path: &Path, pem: &str) -> Result<Found, PkiError> {
        let bad = |why: String| PkiError::Certificate { path: path.into(), why };
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| bad(format!("{error}")))?;
        x509_parser::parse_x509_certificate(&der).map_err(|error| bad(format!("{error}")))?;
        Ok(Found { der })
    }

    fn parsed<T>(&self, read: impl FnOnce(&x509_parser::certificate::X509Certificate) -> T) -> T {
        let (_, certificate) =
            x509_parser::parse_x509_certificate(&self.der).expect("it was parsed when it was read");
        read(&certificate)
    }

    fn renew_at(&self) -> Time {
        self.parsed(|certificate| {
            let validity = certificate.validity();
            let (start, end) = (validity.not_before.timestamp(), validity.not_after.timestamp());
            Time::from_unix(end - (end - start) / 3)
        })
    }

    fn carries(&self, names: &[String]) -> bool {
        use x509_parser::extensions::GeneralName;
        let found: Vec<String> = self.parsed(|certificate| {
            let Ok(Some(extension)) = certificate.subject_alternative_name() else {
                return Vec::new();
            };
            extension
                .value
                .general_names
                .iter()
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some(name.to_string()),
                    GeneralName::IPAddress(bytes) => match bytes.len() {
                        4 => <[u8; 4]>::try_from(*bytes).ok().map(std::net::IpAddr::from),
                        _ => <[u8; 16]>::try_from(*bytes).ok().map(std::net::IpAddr::from),
                    }
                    .map(|address| address.to_string()),
                    _ => None,
                })
                .collect()
        });
        names.iter().all(|name| found.contains(name))
    }
}

fn ca_params(now: Time, rng: &Rng) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("coracle-ca", &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    set_validity(&mut params, now, CA_VALIDITY, rng);
    params
}

fn subject(name: &str, groups: &[String]) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    // The set keeps one entry per type, so several groups need types of their own: Kubernetes reads
    // every O, and rcgen's custom type with O's number is another key.
    for (index, group) in groups.iter().enumerate() {
        let kind = match index {
            0 => DnType::OrganizationName,
            _ => DnType::CustomDnType(vec![2, 5, 4, 10]),
        };
        subject.push(kind, group.as_str());
    }
    subject.push(DnType::CommonName, name);
    subject
}

fn set_validity(
    params: &mut CertificateParams,
    now: Time,
    validity: std::time::Duration,
    rng: &Rng,
) {
    let mut serial = rng.u64().to_be_bytes();
    serial[0] = serial[0] & 0x7f | 0x40; // positive, of constant length
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let seconds = now.0.as_second().max(0) as u64;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    // Five minutes of grace for clocks that are behind.
    params.not_before = epoch + std::time::Duration::from_secs(seconds.saturating_sub(300));
    params.not_after = epoch + std::time::Duration::from_secs(seconds) + validity;
}

pub(super) fn generate(name: &str) -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|source| PkiError::Generate { name: name.into(), source })
}
