//! The certificate authorities that the system trusts.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Where Linux distributions keep them.
const FILES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

pub fn system() -> RootCertStore {
    let mut store = RootCertStore::empty();
    let system = FILES.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
    // A system may trust what this library cannot read; the rest still counts.
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(&system).flatten());
    store
}
