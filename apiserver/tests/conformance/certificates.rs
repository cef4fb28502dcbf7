//! CertificateSigningRequests: what upstream's API operations test does to them, in its order.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::api::Api;

const CSR: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const SIGNER: &str = "example.com/e2e-signer";

fn key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate().unwrap()
}

fn subject() -> rcgen::CertificateParams {
    rcgen::CertificateParams::new(vec!["e2e.example.com".into()]).unwrap()
}

fn types(request: &Value) -> Vec<&str> {
    let conditions = request["status"]["conditions"].as_array();
    let conditions = conditions.map(Vec::as_slice).unwrap_or_default();
    conditions.iter().map(|condition| condition["type"].as_str().unwrap()).collect()
}

fn and_condition(request: &Value, kind: &str) -> Value {
    let mut request = request.clone();
    let condition =
        json!({"type": kind, "status": "True", "reason": "E2E", "message": "by a test"});
    request["status"]["conditions"].as_array_mut().unwrap().push(condition);
    request
}

#[tokio::test]
async fn requests_are_made_approved_and_answered() {
    let api = Api::start().await;
    let versions = api.get("/apis/certificates.k8s.io").await.expect(200);
    let mut listed = versions["versions"].as_array().unwrap().iter();
    assert!(listed.any(|version| version["version"] == "v1"));
    let resources = api.get("/apis/certificates.k8s.io/v1").await.expect(200);
    let names: Vec<&Value> =
        resources["resources"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    for part in ["", "/approval", "/status"] {
        assert!(names.contains(&&json!(format!("certificatesigningrequests{part}"))), "{part}");
    }

    let pem = subject().serialize_request(&key()).unwrap().pem().unwrap();
    let template = json!({"metadata": {"generateName": "e2e-example-csr-"}, "spec": {
        "request": BASE64_STANDARD.encode(pem), "signerName": SIGNER, "expirationSeconds": 3600,
        "usages": ["digital signature", "key encipherment", "server auth"]}});
    let mut created = Value::Null;
    for _ in 0..3 {
        created = api.post(CSR, template.clone()).await.expect(201);
    }
    assert_eq!(created["spec"]["expirationSeconds"], 3600);
    let name = created["metadata"]["name"].as_str().unwrap().to_string();
    let object = format!("{CSR}/{name}");
    assert_eq!(api.get(&object).await.expect(200), created);
    let selected = format!("{CSR}?fieldSelector=spec.signerName%3D{}", SIGNER.replace('/', "%2F"));
    let list = api.get(&selected).await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 3);
    let since = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = api
        .watch(&format!(
            "{CSR}?fieldSelector=metadata.name%3D{name}&watch=1&resourceVersion={since}"
        ))
        .await;

    let mark = |key: &str| json!({"metadata": {"annotations": {key: "true"}}});
    let mut patched = api.merge(&object, mark("patched")).await.expect(200);
    assert_eq!(watch.next().await, json!({"type": "MODIFIED", "object": patched}));
    patched["metadata"]["annotations"]["updated"] = "true".into();
    let updated = api.put(&object, patched).await.expect(200);
    assert_eq!(updated["metadata"]["annotations"], json!({"patched": "true", "updated": "true"}));

    let approval = format!("{object}/approval");
    assert_eq!(api.get(&approval).await.expect(200)["metadata"]["uid"], created["metadata"]["uid"]);
    let mut patch = mark("patchedapproval");
    patch["status"] = json!({"conditions": [
        {"type": "ApprovalPatch", "status": "True", "reason": "e2e"}]});
    let patched = api.merge(&approval, patch).await.expect(200);
    assert_eq!(types(&patched), ["ApprovalPatch"]);
    assert_eq!(patched["metadata"]["annotations"]["patchedapproval"], "true");
    let approved = api.put(&approval, and_condition(&patched, "Approved")).await.expect(200);
    assert_eq!(types(&approved), ["ApprovalPatch", "Approved"]);

    let status = format!("{object}/status");
    assert_eq!(api.get(&status).await.expect(200), approved);
    let certificate = BASE64_STANDARD.encode(subject().self_signed(&key()).unwrap().pem());
    let mut patch = mark("patchedstatus");
    patch["status"] = json!({"certificate": certificate});
    let issued = api.merge(&status, patch).await.expect(200);
    assert_eq!(issued["metadata"]["annotations"]["patchedstatus"], "true");
    assert_eq!(issued["status"]["certificate"], certificate.as_str());
    let told = api.put(&status, and_condition(&issued, "StatusUpdate")).await.expect(200);
    assert_eq!(types(&told), ["ApprovalPatch", "Approved", "StatusUpdate"]);

    api.delete(&object).await.expect(200);
    assert_eq!(api.get(&object).await.expect(404)["reason"], "NotFound");
    assert_eq!(api.get(&selected).await.expect(200)["items"].as_array().unwrap().len(), 2);
    api.delete(&selected).await.expect(200);
    assert_eq!(api.get(&selected).await.expect(200)["items"], json!([]));
}
