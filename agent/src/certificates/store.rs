//! A certificate and its key on disk, as the kubelet keeps them: `NAME-DATE.pem` holds both, and
//! `NAME-current.pem` is a symlink to the newest.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use proto::time::Time;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{} holds no certificate", path.display())]
    Certificate { path: PathBuf, source: Unreadable },
    #[error("make a key")]
    Key(#[source] rcgen::Error),
}

/// Not a certificate.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("it is not PEM")]
    Pem(#[source] rustls::pki_types::pem::Error),
    #[error("it is not X.509")]
    Der(#[source] x509_parser::nom::Err<x509_parser::error::X509Error>),
}

/// What matters of a certificate.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub not_before: Time,
    pub not_after: Time,
    /// DNS names and addresses.
    pub names: BTreeSet<String>,
}

impl Held {
    /// Of the first certificate in this PEM.
    pub fn read(pem: &[u8]) -> Result<Held, Unreadable> {
        let der = CertificateDer::from_pem_slice(pem).map_err(Unreadable::Pem)?;
        let (_, found) = X509Certificate::from_der(&der).map_err(Unreadable::Der)?;
        let time = |time: x509_parser::time::ASN1Time| Time::from_unix(time.timestamp());
        let alternative = found.subject_alternative_name().ok().flatten();
        let names = alternative.iter().flat_map(|names| &names.value.general_names);
        Ok(Held {
            not_before: time(found.validity().not_before),
            not_after: time(found.validity().not_after),
            names: names.filter_map(name).collect(),
        })
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_string()),
        GeneralName::IPAddress(bytes) => {
            let address = match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(IpAddr::from),
                _ => <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from),
            };
            Some(address?.to_string())
        }
        _ => None,
    }
}

/// One pair of a node.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    name: &'static str,
}

impl Store {
    /// For calls to the API server.
    pub fn client(dir: &Path) -> Store {
        Store::new(dir, "kubelet-client")
    }

    /// For calls from others.
    pub fn server(dir: &Path) -> Store {
        Store::new(dir, "kubelet-server")
    }

    fn new(dir: &Path, name: &'static str) -> Store {
        // A kubeconfig that names its files may lie elsewhere.
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.into());
        Store { dir, name }
    }

    /// Where the newest pair is, if there is one.
    pub fn path(&self) -> PathBuf {
        self.dir.join(format!("{}-current.pem", self.name))
    }

    pub fn current(&self) -> Result<Option<Held>, StoreError> {
        let path = self.path();
        match fs::read(&path) {
            Ok(pem) => match Held::read(&pem) {
                Ok(held) => Ok(Some(held)),
                Err(source) => Err(StoreError::Certificate { path, source }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Io { operation: "read", path, source }),
        }
    }

    /// From now on this is the pair.
    pub fn replace(&self, certificate: &str, key: &str, now: Time) -> Result<(), StoreError> {
        let date = now.to_string().replace(['T', ':'], "-");
        let file = format!("{}-{}.pem", self.name, date.trim_end_matches('Z'));
        let both = format!("{}\n{key}", certificate.trim_end());
        self.write(&self.dir.join(&file), both.as_bytes())?;
        let next = self.dir.join(format!("{}-next.pem", self.name));
        discard(&next)?;
        symlink(&file, &next).map_err(io_error("make", &next))?;
        let path = self.path();
        fs::rename(&next, &path).map_err(io_error("replace", &path))?;
        self.settle()
    }

    /// The key of a request that has no answer yet, so that after a restart the same is asked for.
    pub fn draft(&self) -> Result<String, StoreError> {
        let path = self.draft_path();
        if let Ok(key) = fs::read_to_string(&path)
            && KeyPair::from_pem(&key).is_ok()
        {
            return Ok(key);
        }
        let key = new_key()?;
        self.write(&path, key.as_bytes())?;
        self.settle()?;
        Ok(key)
    }

    pub fn forget_draft(&self) -> Result<(), StoreError> {
        discard(&self.draft_path())
    }

    fn draft_path(&self) -> PathBuf {
        self.dir.join(format!("{}.key.tmp", self.name))
    }

    /// Readable by its owner alone; whole or not at all, also after a power failure.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let dir = &self.dir;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(io_error("make", dir))?;
        let beside = path.with_extension("part");
        let write = || {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, path)
        };
        write().map_err(io_error("write", path))
    }

    fn settle(&self) -> Result<(), StoreError> {
        let synced = fs::File::open(&self.dir).and_then(|dir| dir.sync_all());
        synced.map_err(io_error("sync", &self.dir))
    }
}

/// In PEM.
pub fn new_key() -> Result<String, StoreError> {
    Ok(KeyPair::generate().map_err(StoreError::Key)?.serialize_pem())
}

fn discard(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_path_buf();
    move |source| StoreError::Io { operation, path, source }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rcgen::CertificateParams;

    use super::*;

    /// A certificate and its key, of these days.
    pub fn pair(from: &str, until: &str, names: &[&str]) -> (String, String) {
        let day = |text: &str| {
            let parts: Vec<u16> = text.split('-').map(|part| part.parse().unwrap()).collect();
            let small = |number: u16| u8::try_from(number).unwrap();
            rcgen::date_time_ymd(i32::from(parts[0]), small(parts[1]), small(parts[2]))
        };
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        (params.not_before, params.not_after) = (day(from), day(until));
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_pair_changes_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::client(&dir.path().join("pki"));
        assert_eq!(store.current().unwrap(), None);
        let (certificate, key) = pair("2020-01-01", "2021-01-01", &["n", "10.0.0.1"]);
        store.replace(&certificate, &key, Time::from_unix(1_577_923_200)).unwrap();
        let held = store.current().unwrap().unwrap();
        assert_eq!(held.not_before.to_string(), "2020-01-01T00:00:00Z");
        assert_eq!(held.not_after.to_string(), "2021-01-01T00:00:00Z");
        assert_eq!(held.names, ["10.0.0.1".to_string(), "n".to_string()].into());
        let file = fs::read_link(store.path()).unwrap();
        assert_eq!(file, Path::new("kubelet-client-2020-01-02-00-00-00.pem"));
        let mode = fs::metadata(store.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (certificate, key) = pair("2022-01-01", "2023-01-01", &[]);
        store.replace(&certificate, &key, Time::from_unix(1_640_995_200)).unwrap();
        assert!(store.current().unwrap().unwrap().names.is_empty());
        assert!(dir.path().join("pki").join(file).exists(), "the old one stays for who reads it");
        fs::write(store.path(), "nonsense").unwrap();
        assert!(store.current().is_err());
    }

    #[test]
    fn a_key_is_kept_until_its_certificate_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::client(dir.path());
        let key = store.draft().unwrap();
        assert_eq!(store.draft().unwrap(), key);
        store.forget_draft().unwrap();
        assert_ne!(store.draft().unwrap(), key);
    }
}
