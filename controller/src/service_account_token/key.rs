//! The key that signs the tokens of Secrets, and what such a token says.

use std::path::{Path, PathBuf};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proto::meta::ObjectMeta;
use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::{self, PemObject};
use serde_json::json;
use sha2::{Digest, Sha256};

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("reading the key in {path}")]
    Read { path: PathBuf, source: pem::Error },
    #[error("using the key in {path}")]
    Unusable { path: PathBuf, source: rcgen::Error },
    #[error("the key in {path} signs no tokens: it must be of RSA, or in PKCS#8 of ECDSA")]
    Kind { path: PathBuf },
}

/// Signs tokens; the API server knows its public half.
pub struct SigningKey {
    key: EncodingKey,
    header: Header,
}

impl SigningKey {
    pub fn open(path: &Path) -> Result<SigningKey, KeyError> {
        let der = PrivateKeyDer::from_pem_file(path)
            .map_err(|source| KeyError::Read { path: path.into(), source })?;
        let pair = KeyPair::try_from(&der)
            .map_err(|source| KeyError::Unusable { path: path.into(), source })?;
        let (key, algorithm) = signing(&der, &pair).ok_or(KeyError::Kind { path: path.into() })?;
        let mut header = Header::new(algorithm);
        // The digest of the public half, by which the API server finds it.
        let id = Sha256::digest(pair.subject_public_key_info());
        header.kid = Some(BASE64_URL_SAFE_NO_PAD.encode(id));
        header.typ = None;
        Ok(SigningKey { key, header })
    }

    /// The account's token, for as long as the Secret holds it.
    pub(super) fn token(&self, secret: &ObjectMeta, account: &ObjectMeta) -> String {
        let (namespace, name) = (&account.namespace, &account.name);
        let claims = json!({
            "iss": "kubernetes/serviceaccount",
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "kubernetes.io/serviceaccount/namespace": namespace,
            "kubernetes.io/serviceaccount/secret.name": secret.name,
            "kubernetes.io/serviceaccount/service-account.name": name,
            "kubernetes.io/serviceaccount/service-account.uid": account.uid,
        });
        jsonwebtoken::encode(&self.header, &claims, &self.key)
            .expect("the key fits its algorithm, and the claims are JSON")
    }
}

fn signing(der: &PrivateKeyDer, pair: &KeyPair) -> Option<(EncodingKey, Algorithm)> {
    let elliptic = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, Algorithm::ES256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, Algorithm::ES384),
    ];
    let elliptic = elliptic.into_iter().find(|(known, _)| pair.algorithm() == *known);
    Some(match (der, elliptic) {
        (PrivateKeyDer::Pkcs8(key), Some((_, algorithm))) => {
            (EncodingKey::from_ec_der(key.secret_pkcs8_der()), algorithm)
        }
        (_, Some(_)) => return None,
        (PrivateKeyDer::Pkcs1(key), None) => {
            (EncodingKey::from_rsa_der(key.secret_pkcs1_der()), Algorithm::RS256)
        }
        (PrivateKeyDer::Pkcs8(key), None) => {
            let (_, outer) = x509_parser::der_parser::parse_der(key.secret_pkcs8_der()).ok()?;
            let inner = outer.as_sequence().ok()?.get(2)?.as_slice().ok()?;
            (EncodingKey::from_rsa_der(inner), Algorithm::RS256)
        }
        _ => return None,
    })
}
