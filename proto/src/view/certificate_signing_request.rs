//! CertificateSigningRequest.

use std::collections::BTreeMap;

use crate::meta::ObjectMeta;
use crate::view::{Condition, object, views};

views! {
    pub struct CertificateSigningRequest {
        pub metadata: ObjectMeta,
        pub spec: CertificateSigningRequestSpec,
        pub status: CertificateSigningRequestStatus,
    }

    pub struct CertificateSigningRequestSpec {
        /// PEM in base64.
        pub request: String,
        pub signer_name: String,
        pub expiration_seconds: Option<i64>,
        pub usages: Vec<String>,
        pub username: String,
        pub uid: String,
        pub groups: Vec<String>,
        pub extra: BTreeMap<String, Vec<String>>,
    }

    pub struct CertificateSigningRequestStatus {
        /// `Approved`, `Denied`, `Failed`.
        pub conditions: Vec<Condition>,
        /// PEM in base64.
        pub certificate: String,
    }
}

object!(CertificateSigningRequest, CERTIFICATE_SIGNING_REQUEST);

impl CertificateSigningRequest {
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| condition.kind == kind)
    }
}
