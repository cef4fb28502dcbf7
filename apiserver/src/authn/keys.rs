//! The keys of ServiceAccount tokens: one signs, it and others verify, all are published
//! (kubernetes.io/docs, "Service account issuer discovery").

use std::path::{Path, PathBuf};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::{
    PrivateKeyDer,
    pem::{self, PemObject, SectionKind},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::{prelude::FromDer, public_key::PublicKey, x509::SubjectPublicKeyInfo};

use crate::pki::{self, PkiError};

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("reading the key file {path}")]
    Read { path: PathBuf, source: pem::Error },
    #[error("the key file {path} holds no key")]
    Empty { path: PathBuf },
    #[error("the key in {path} cannot be used: {why}")]
    Unusable { path: PathBuf, why: String },
    #[error("making the key of ServiceAccount tokens")]
    Make(#[from] PkiError),
}

/// Signs tokens and knows the signatures that count.
pub struct Keys {
    signing: EncodingKey,
    /// The first belongs to `signing`.
    verifying: Vec<Verifying>,
}

/// A public key.
struct Verifying {
    id: String,
    algorithm: Algorithm,
    name: &'static str,
    key: DecodingKey,
    /// As published.
    jwk: Value,
}

impl Keys {
    /// The signing key is that of `signing`, or `DIR/sa.key`, made where absent.
    pub fn open(
        dir: &Path,
        signing: Option<&Path>,
        verifying: &[PathBuf],
    ) -> Result<Keys, KeysError> {
        let path = match signing {
            Some(path) => path.to_path_buf(),
            None => pki::service_account_key(dir)?,
        };
        let (signing, first) = private(&path)?;
        let mut keys = vec![first];
        for path in verifying {
            for key in public(path)? {
                if keys.iter().all(|known| known.id != key.id) {
                    keys.push(key);
                }
            }
        }
        Ok(Keys { signing, verifying: keys })
    }

    pub fn sign(&self, claims: &impl Serialize) -> Result<String, jsonwebtoken::errors::Error> {
        let own = &self.verifying[0];
        let mut header = Header::new(own.algorithm);
        header.kid = Some(own.id.clone());
        header.typ = None;
        jsonwebtoken::encode(&header, claims, &self.signing)
    }

    /// The claims, where one of the keys has signed them. Nothing in them has been looked at.
    pub fn verify<T: DeserializeOwned>(
        &self,
        token: &str,
    ) -> Result<T, jsonwebtoken::errors::Error> {
        let header = jsonwebtoken::decode_header(token)?;
        let named = |key: &&Verifying| header.kid.as_ref().is_none_or(|id| *id == key.id);
        let mut outcome = Err(jsonwebtoken::errors::ErrorKind::InvalidSignature.into());
        for key in self.verifying.iter().filter(named) {
            outcome = jsonwebtoken::decode(token, &key.key, &unjudged(key.algorithm));
            if outcome.is_ok() {
                break;
            }
        }
        outcome.map(|data| data.claims)
    }

    /// The JSON Web Key Set.
    pub fn jwks(&self) -> Value {
        json!({"keys": self.verifying.iter().map(|key| &key.jwk).collect::<Vec<_>>()})
    }

    /// `ES256`, …
    pub fn algorithms(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.verifying.iter().map(|key| key.name).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// Only the signature: times and audiences are judged by our own clock.
pub(super) fn unjudged(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation
}

fn private(path: &Path) -> Result<(EncodingKey, Verifying), KeysError> {
    let unusable = |why: String| KeysError::Unusable { path: path.into(), why };
    let der = PrivateKeyDer::from_pem_file(path)
        .map_err(|source| KeysError::Read { path: path.into(), source })?;
    let pair = KeyPair::try_from(&der).map_err(|error| unusable(error.to_string()))?;
    let public = verifying(&pair.subject_public_key_info()).map_err(unusable)?;
    let elliptic = matches!(public.algorithm, Algorithm::ES256 | Algorithm::ES384);
    let signing = match (&der, elliptic) {
        (PrivateKeyDer::Pkcs8(key), true) => EncodingKey::from_ec_der(key.secret_pkcs8_der()),
        (PrivateKeyDer::Pkcs1(key), false) => EncodingKey::from_rsa_der(key.secret_pkcs1_der()),
        (PrivateKeyDer::Pkcs8(key), false) => {
            let inner = inner_key(key.secret_pkcs8_der())
                .ok_or_else(|| unusable("it is not PKCS#8".into()))?;
            EncodingKey::from_rsa_der(&inner)
        }
        _ => {
            let why = "an ECDSA key that signs must be in PKCS#8 form (openssl pkcs8 -topk8)";
            return Err(unusable(why.into()));
        }
    };
    Ok((signing, public))
}

/// The PKCS#1 key in a PKCS#8 one.
fn inner_key(pkcs8: &[u8]) -> Option<Vec<u8>> {
    let (_, outer) = x509_parser::der_parser::parse_der(pkcs8).ok()?;
    Some(outer.as_sequence().ok()?.get(2)?.as_slice().ok()?.to_vec())
}

/// Every key of a file, the public halves of private ones.
fn public(path: &Path) -> Result<Vec<Verifying>, KeysError> {
    let unusable = |why: String| KeysError::Unusable { path: path.into(), why };
    let sections = <(SectionKind, Vec<u8>)>::pem_file_iter(path)
        .map_err(|source| KeysError::Read { path: path.into(), source })?;
    let mut keys = Vec::new();
    for section in sections {
        let (kind, der) =
            section.map_err(|source| KeysError::Read { path: path.into(), source })?;
        let key = match kind {
            SectionKind::PublicKey => verifying(&der),
            SectionKind::Certificate => x509_parser::parse_x509_certificate(&der)
                .map_err(|error| error.to_string())
                .and_then(|(_, certificate)| verifying(certificate.public_key().raw)),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                KeyPair::try_from(der)
                    .map_err(|error| error.to_string())
                    .and_then(|pair| verifying(&pair.subject_public_key_info()))
            }
            _ => continue,
        };
        keys.push(key.map_err(unusable)?);
    }
    if keys.is_empty() { Err(KeysError::Empty { path: path.into() }) } else { Ok(keys) }
}

/// `spki` is a SubjectPublicKeyInfo. The key's id is the digest of it, as upstream's.
fn verifying(spki: &[u8]) -> Result<Verifying, String> {
    let (_, info) = SubjectPublicKeyInfo::from_der(spki).map_err(|error| error.to_string())?;
    let id = BASE64.encode(Sha256::digest(spki));
    let text = |bytes: &[u8]| BASE64.encode(bytes);
    let parsed = info.parsed().map_err(|error| error.to_string())?;
    let (algorithm, name, mut jwk, key) = match &parsed {
        PublicKey::RSA(key) => {
            let (n, e) = (text(unsigned(key.modulus)), text(unsigned(key.exponent)));
            let decoding = DecodingKey::from_rsa_components(&n, &e);
            (Algorithm::RS256, "RS256", json!({"kty": "RSA", "n": n, "e": e}), decoding)
        }
        PublicKey::EC(point) => {
            let (algorithm, name, curve) = match point.data().len() {
                65 => (Algorithm::ES256, "ES256", "P-256"),
                97 => (Algorithm::ES384, "ES384", "P-384"),
                _ => return Err("its curve is neither P-256 nor P-384".into()),
            };
            let (x, y) = point.data()[1..].split_at(point.data().len() / 2);
            let (x, y) = (text(x), text(y));
            let decoding = DecodingKey::from_ec_components(&x, &y);
            (algorithm, name, json!({"kty": "EC", "crv": curve, "x": x, "y": y}), decoding)
        }
        _ => return Err("it is neither RSA nor ECDSA".into()),
    };
    jwk["use"] = "sig".into();
    jwk["alg"] = name.into();
    jwk["kid"] = id.as_str().into();
    let key = key.map_err(|error| error.to_string())?;
    Ok(Verifying { id, algorithm, name, key, jwk })
}

/// Without the zero that keeps a DER integer positive.
fn unsigned(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(&[0]).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_verifies_and_keeps_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(dir.path(), None, &[]).unwrap();
        let token = keys.sign(&json!({"sub": "a"})).unwrap();
        assert_eq!(keys.verify::<Value>(&token).unwrap(), json!({"sub": "a"}));
        let again = Keys::open(dir.path(), None, &[]).unwrap();
        assert_eq!(again.verify::<Value>(&token).unwrap(), json!({"sub": "a"}));
        assert_eq!(keys.jwks(), again.jwks());
        assert_eq!(keys.algorithms(), ["ES256"]);

        let other = tempfile::tempdir().unwrap();
        let stranger = Keys::open(other.path(), None, &[]).unwrap();
        assert!(stranger.verify::<Value>(&token).is_err());
        let key = dir.path().join("sa.pub");
        let friend = Keys::open(other.path(), None, std::slice::from_ref(&key)).unwrap();
        assert!(friend.verify::<Value>(&token).is_ok(), "a further key verifies");
        assert_eq!(friend.jwks()["keys"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn what_was_not_signed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(dir.path(), None, &[]).unwrap();
        let token = keys.sign(&json!({"sub": "a"})).unwrap();
        let [head, body, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!() };
        let forged = BASE64.encode(r#"{"sub":"b"}"#);
        let none = BASE64.encode(r#"{"alg":"none"}"#);
        let hmac = BASE64.encode(r#"{"alg":"HS256"}"#);
        for bad in [
            format!("{head}.{forged}.{signature}"),
            format!("{none}.{body}."),
            format!("{none}.{body}.{signature}"),
            format!("{hmac}.{body}.{signature}"),
            format!("{head}.{body}."),
            format!("{head}.{body}"),
            String::new(),
        ] {
            assert!(keys.verify::<Value>(&bad).is_err(), "{bad}");
        }
    }
}
