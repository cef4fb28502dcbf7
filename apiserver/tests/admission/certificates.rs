//! CertificateSubjectRestriction, CertificateApproval, CertificateSigning.

use base64::{Engine, engine::general_purpose::STANDARD};
use proto::user::User;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};

use crate::api::Api;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn request(name: &str, organization: &str, signer: &str) -> Value {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "someone");
    params.distinguished_name.push(DnType::OrganizationName, organization);
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    json!({
        "metadata": {"name": name},
        "spec": {
            "request": STANDARD.encode(pem),
            "signerName": signer,
            "usages": ["client auth"],
        },
    })
}

#[tokio::test]
async fn nobody_asks_for_a_master() {
    let api = Api::start().await;
    let signer = "kubernetes.io/kube-apiserver-client";
    let refused = api.post(REQUESTS, request("m", "system:masters", signer)).await.expect(403);
    assert_eq!(
        refused["message"],
        "certificatesigningrequests.certificates.k8s.io \"m\" is forbidden: use of \
         kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"
    );
    api.post(REQUESTS, request("d", "devs", signer)).await.expect(201);
    api.post(REQUESTS, request("o", "system:masters", "example.com/own")).await.expect(201);
}

#[tokio::test]
async fn the_administrator_signs() {
    let api = Api::start().await;
    api.post(REQUESTS, request("d", "devs", "example.com/own")).await.expect(201);
    let certificate = json!({"status": {"certificate": STANDARD.encode("x")}});
    let path = format!("{REQUESTS}/d/status");
    let signed = api.merge(&path, certificate).await;
    assert_ne!(signed.code, 403, "{}", signed.text());
    let nobody = api.as_user(User::new("system:kube-scheduler", &[]));
    assert_eq!(nobody.merge(&path, json!({"status": {}})).await.code, 403);
}
