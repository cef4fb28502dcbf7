use rcgen::{CertificateParams, DnType, KeyPair};

use super::*;
use crate::plan::Step;

const START: i64 = 1_800_000_000;

fn now() -> Time {
    Time::from_unix(START)
}

/// A request for `name` in `groups`, PEM in base64.
fn asked(name: &str, groups: &[&str], names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (index, group) in groups.iter().enumerate() {
        let kind = match index {
            0 => DnType::OrganizationName,
            _ => DnType::CustomDnType(vec![2, 5, 4, 10]),
        };
        params.distinguished_name.push(kind, *group);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    encode(&params.serialize_request(&key).unwrap().pem().unwrap())
}

fn encode(text: &str) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(text)
}

fn object(signer: &str, request: String, usages: &[&str]) -> Value {
    json!({
        "metadata": {"name": "csr", "uid": "u1", "resourceVersion": "7",
            "creationTimestamp": now()},
        "spec": {"request": request, "signerName": format!("kubernetes.io/{signer}"),
            "usages": usages, "username": "system:node:n1", "groups": ["system:nodes"]},
    })
}

fn entry(object: &Value) -> Entry<CertificateSigningRequest> {
    Entry::decode(object.to_string().into()).unwrap()
}

fn approved(mut object: Value) -> Value {
    object["status"]["conditions"] =
        json!([{"type": "Approved", "status": "True", "lastUpdateTime": now()}]);
    object
}

const CLIENT: &[&str] = &["digital signature", "client auth"];
const SERVING: &[&str] = &["digital signature", "key encipherment", "server auth"];
const KUBELET: &str = "kube-apiserver-client-kubelet";

#[test]
fn who_is_approved() {
    let plan = |object: &Value| Approver.plan(&entry(object), &View::default(), now()).unwrap();
    let subresource = |plan: &Plan| match plan.steps.as_slice() {
        [] => "none".to_string(),
        [Step::Allowed(review), Step::Patch(patch)] => {
            assert_eq!(patch.subresource, "approval");
            assert_eq!(patch.body["status"]["conditions"][0]["reason"], "AutoApproved");
            let wanted = &review["spec"]["resourceAttributes"]["subresource"];
            wanted.as_str().unwrap().to_string()
        }
        steps => panic!("{steps:?}"),
    };
    let node = |name: &str| object(KUBELET, asked(name, &["system:nodes"], &[]), CLIENT);
    let foreign = object(KUBELET, asked("system:node:n1", &["system:masters"], &[]), CLIENT);
    let addressed = object(KUBELET, asked("system:node:n1", &["system:nodes"], &["a"]), CLIENT);
    let serving = object(KUBELET, asked("system:node:n1", &["system:nodes"], &[]), SERVING);
    for (what, object, expected) in [
        ("its own", node("system:node:n1"), "selfnodeclient"),
        ("another node", node("system:node:n2"), "nodeclient"),
        ("no node", node("bob"), "none"),
        ("another group", foreign, "none"),
        ("names", addressed, "none"),
        ("other usages", serving, "none"),
        ("no request", object(KUBELET, encode("x"), CLIENT), "none"),
        ("decided", approved(node("system:node:n1")), "none"),
        ("another signer", object("kubelet-serving", String::new(), SERVING), "none"),
    ] {
        assert_eq!(subresource(&plan(&object)), expected, "{what}");
    }
}

fn authority() -> (tempfile::TempDir, SignerController) {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("ca.crt"), dir.path().join("ca.key"));
    let pair = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    std::fs::write(&certificate, params.self_signed(&pair).unwrap().pem()).unwrap();
    std::fs::write(&key, pair.serialize_pem()).unwrap();
    let authority = Authority::open(&certificate, &key, 8760 * HOUR).unwrap();
    (dir, SignerController { authority })
}

#[test]
fn what_is_signed() {
    let (dir, signer) = authority();
    let mut client = object("kube-apiserver-client", asked("ann", &["a", "b"], &[]), CLIENT);
    client["spec"]["expirationSeconds"] = 3600.into();
    let kubelet = object(KUBELET, asked("system:node:n1", &["system:nodes"], &[]), CLIENT);
    let names = ["n1", "10.0.0.1"];
    let request = asked("system:node:n1", &["system:nodes"], &names);
    let serving = object("kubelet-serving", request, SERVING);
    for (object, subject, hours) in [
        (client, "O=a, O=b, CN=ann", 1),
        (kubelet, "O=system:nodes, CN=system:node:n1", 8760),
        (serving, "O=system:nodes, CN=system:node:n1", 8760),
    ] {
        let plan = signer.plan(&entry(&object), &View::default(), now()).unwrap();
        assert!(plan.steps.is_empty(), "not before it is approved");
        let plan = signer.plan(&entry(&approved(object)), &View::default(), now()).unwrap();
        let [Step::Patch(patch)] = plan.steps.as_slice() else { panic!("{plan:?}") };
        assert_eq!(patch.subresource, "status");
        let text = patch.body["status"]["certificate"].as_str().unwrap();
        assert_eq!(sign::expiration(text), Some(now().plus(hours * HOUR)));
        use base64::{Engine, prelude::BASE64_STANDARD};
        let pem = BASE64_STANDARD.decode(text).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(certificate.subject().to_string(), subject);
        let ca = std::fs::read(dir.path().join("ca.crt")).unwrap();
        let (_, ca) = x509_parser::pem::parse_x509_pem(&ca).unwrap();
        let ca = ca.parse_x509().unwrap();
        assert!(certificate.verify_signature(Some(ca.public_key())).is_ok());
        assert!(!certificate.is_ca());
    }
}

#[test]
fn what_is_not_signed() {
    let (_dir, signer) = authority();
    let nodes = &["system:nodes"];
    for (object, why) in [
        (
            object("kube-apiserver-client", asked("a", &[], &[]), SERVING),
            "invalid usage for client certificate: server auth",
        ),
        (
            object("kube-apiserver-client", asked("a", &[], &[]), &["digital signature"]),
            "missing required usage for client certificate: client auth",
        ),
        (
            object(KUBELET, asked("bob", nodes, &[]), CLIENT),
            "subject common name does not begin with system:node: ",
        ),
        (
            object("kubelet-serving", asked("system:node:n", nodes, &[]), SERVING),
            "DNS or IP subjectAltName is required",
        ),
        (
            object("kubelet-serving", asked("system:node:n", &["x"], &["n"]), SERVING),
            "subject organization is not system:nodes",
        ),
    ] {
        let plan = signer.plan(&entry(&approved(object)), &View::default(), now()).unwrap();
        let [Step::Patch(patch)] = plan.steps.as_slice() else { panic!("{plan:?}") };
        let failed = &patch.body["status"]["conditions"][1];
        assert_eq!(failed["type"], "Failed");
        assert_eq!(failed["message"], why);
    }
    let other = object("example", asked("a", &[], &[]), CLIENT);
    assert!(
        signer.plan(&entry(&approved(other)), &View::default(), now()).unwrap().steps.is_empty()
    );
}

#[test]
fn what_is_cleared_away() {
    let pending = object(KUBELET, String::new(), CLIENT);
    let waiting = approved(pending.clone());
    let mut issued = waiting.clone();
    issued["status"]["certificate"] = "x".into();
    let mut denied = pending.clone();
    denied["status"]["conditions"] =
        json!([{"type": "Denied", "status": "True", "lastUpdateTime": now()}]);
    for (what, object, end) in [
        ("pending", pending, Some(24)),
        ("waiting for its signer", waiting, None),
        ("issued", issued, Some(1)),
        ("denied", denied, Some(1)),
    ] {
        let at = |time| Cleaner.plan(&entry(&object), &View::default(), time).unwrap();
        let Some(hours) = end else {
            assert_eq!(at(now().plus(1000 * HOUR)), Plan::default(), "{what}");
            continue;
        };
        let end = now().plus(hours * HOUR);
        assert_eq!(at(now()), Plan { again: Some(end), ..Plan::default() }, "{what}");
        assert!(matches!(at(end).steps.as_slice(), [Step::Delete(_)]), "{what}");
    }
}
