//! How a value is sealed: AES-GCM with a random nonce before the text and the store's key as
//! associated data, AES-CBC with its vector before the text, or not at all.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, AES_CBC_IV_LEN, DecryptionContext, EncryptionContext,
    PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use bytes::Bytes;
use client::Rng;

/// What all sealed values begin with, whoever sealed them.
pub const SEALED: &[u8] = b"k8s:enc:";

pub struct Provider {
    /// `k8s:enc:aesgcm:v1:key1:`; empty for identity.
    prefix: String,
    cipher: Option<Cipher>,
}

pub enum Cipher {
    Gcm(Box<LessSafeKey>),
    Cbc { seal: Box<PaddedBlockEncryptingKey>, open: Box<PaddedBlockDecryptingKey> },
}

impl Cipher {
    /// `None` where the secret has a wrong length.
    pub fn gcm(secret: &[u8]) -> Option<Cipher> {
        let algorithm = match secret.len() {
            16 => &AES_128_GCM,
            24 => &AES_192_GCM,
            _ => &AES_256_GCM,
        };
        let key = UnboundKey::new(algorithm, secret).ok()?;
        Some(Cipher::Gcm(Box::new(LessSafeKey::new(key))))
    }

    pub fn cbc(secret: &[u8]) -> Option<Cipher> {
        let algorithm = match secret.len() {
            16 => &AES_128,
            24 => &AES_192,
            _ => &AES_256,
        };
        let key = || UnboundCipherKey::new(algorithm, secret).ok();
        Some(Cipher::Cbc {
            seal: Box::new(PaddedBlockEncryptingKey::cbc_pkcs7(key()?).ok()?),
            open: Box::new(PaddedBlockDecryptingKey::cbc_pkcs7(key()?).ok()?),
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Cipher::Gcm(_) => "aesgcm",
            Cipher::Cbc { .. } => "aescbc",
        }
    }

    fn seal(&self, key: &str, value: &[u8], rng: &Rng) -> Option<Vec<u8>> {
        match self {
            Cipher::Gcm(cipher) => {
                let mut nonce = [0; NONCE_LEN];
                rng.fill(&mut nonce);
                let (aad, mut text) = (Aad::from(key.as_bytes()), value.to_vec());
                let sealed = Nonce::assume_unique_for_key(nonce);
                cipher.seal_in_place_append_tag(sealed, aad, &mut text).ok()?;
                Some([&nonce[..], &text].concat())
            }
            Cipher::Cbc { seal, .. } => {
                let mut vector = [0; AES_CBC_IV_LEN];
                rng.fill(&mut vector);
                let mut text = value.to_vec();
                let context = EncryptionContext::Iv128(FixedLength::from(&vector));
                seal.less_safe_encrypt(&mut text, context).ok()?;
                Some([&vector[..], &text].concat())
            }
        }
    }

    fn open(&self, key: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        match self {
            Cipher::Gcm(cipher) => {
                let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
                let (nonce, mut text) = (Nonce::assume_unique_for_key(*nonce), text.to_vec());
                let aad = Aad::from(key.as_bytes());
                Some(cipher.open_in_place(nonce, aad, &mut text).ok()?.to_vec())
            }
            Cipher::Cbc { open, .. } => {
                let (vector, text) = sealed.split_first_chunk::<AES_CBC_IV_LEN>()?;
                let mut text = text.to_vec();
                let context = DecryptionContext::Iv128(FixedLength::from(vector));
                Some(open.decrypt(&mut text, context).ok()?.to_vec())
            }
        }
    }
}

impl Provider {
    pub fn new(cipher: Cipher, key: &str) -> Provider {
        let prefix = format!("k8s:enc:{}:v1:{key}:", cipher.name());
        Provider { prefix, cipher: Some(cipher) }
    }

    /// Leaves values as they are.
    pub fn identity() -> Provider {
        Provider { prefix: String::new(), cipher: None }
    }

    pub fn seal(&self, key: &str, value: Bytes, rng: &Rng) -> Option<Bytes> {
        let Some(cipher) = &self.cipher else { return Some(value) };
        let sealed = cipher.seal(key, &value, rng)?;
        Some([self.prefix.as_bytes(), &sealed].concat().into())
    }

    /// `None` for values that another provider sealed.
    pub fn open(&self, key: &str, value: &Bytes) -> Option<Bytes> {
        match &self.cipher {
            None => (!value.starts_with(SEALED)).then(|| value.clone()),
            Some(cipher) => {
                let sealed = value.strip_prefix(self.prefix.as_bytes())?;
                cipher.open(key, sealed).map(Bytes::from)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_only_with_its_key_and_in_its_place() {
        let rng = Rng::seeded(1);
        let value = Bytes::from_static(b"{\"kind\":\"Secret\"}");
        for length in [16, 24, 32] {
            for make in [Cipher::gcm, Cipher::cbc] {
                let provider = Provider::new(make(&vec![7; length]).unwrap(), "key1");
                let sealed = provider.seal("/registry/secrets/a/b", value.clone(), &rng).unwrap();
                assert!(sealed.starts_with(provider.prefix.as_bytes()));
                let opened = provider.open("/registry/secrets/a/b", &sealed);
                assert_eq!(opened.as_ref(), Some(&value));
                assert!(Provider::identity().open("/registry/secrets/a/b", &sealed).is_none());
                let other = Provider::new(make(&vec![8; length]).unwrap(), "key1");
                assert_ne!(other.open("/registry/secrets/a/b", &sealed).as_ref(), Some(&value));
                let again = provider.seal("/registry/secrets/a/b", value.clone(), &rng).unwrap();
                assert_ne!(sealed, again, "a nonce is used once");
            }
        }
        let gcm = Provider::new(Cipher::gcm(&[7; 32]).unwrap(), "key1");
        let sealed = gcm.seal("/registry/secrets/a/b", value, &rng).unwrap();
        assert!(gcm.open("/registry/secrets/a/c", &sealed).is_none(), "moved to another key");
        assert!(Cipher::gcm(&[0; 15]).is_none() && Cipher::cbc(&[0; 33]).is_none());
    }
}
