use std::os::unix::fs::PermissionsExt;

use super::*;

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| name.to_string()).collect()
}

#[test]
fn made_once_private_and_renewed_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pki");
    let rng = Rng::seeded(1);
    let start = Time::from_unix(1_800_000_000);
    let at = |seconds: u64| Clock::simulated(start.plus(Duration::from_secs(seconds)));
    let open = |seconds, list: &[&str]| Pki::open(&path, &names(list), &at(seconds), &rng).unwrap();

    let first = open(0, &["localhost", "127.0.0.1"]);
    let again = open(60, &["localhost"]);
    assert_eq!(first.serving.certificate, again.serving.certificate, "kept while it is good");
    assert_eq!(first.ca(), again.ca());

    let other = open(60, &["localhost", "10.0.0.7"]);
    assert_ne!(first.serving.certificate, other.serving.certificate, "a new address is added");
    assert_eq!(first.admin.certificate, other.admin.certificate);

    let days = 24 * 3600;
    let later = open(300 * days, &["localhost", "10.0.0.7"]);
    assert_ne!(other.serving.certificate, later.serving.certificate, "renewed before it ends");
    assert_ne!(first.admin.certificate, later.admin.certificate);
    assert_eq!(first.ca(), later.ca());

    let much_later = open(3000 * days, &["localhost"]);
    assert_ne!(first.ca(), much_later.ca(), "the authority is renewed, too");

    for entry in std::fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        if entry.path().extension().is_some_and(|extension| extension == "key") {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{:?}", entry.path());
        }
    }
}

#[test]
fn a_node_gets_its_own_names() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::simulated(Time::from_unix(1_800_000_000));
    let pki = Pki::open(dir.path(), &names(&["localhost"]), &clock, &Rng::seeded(1)).unwrap();
    let node = pki.node("worker-1", &["10.1.2.3".parse().unwrap()]).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(node.client.certificate.as_bytes()).unwrap();
    let certificate = pem.parse_x509().unwrap();
    let subject = certificate.subject().to_string();
    assert!(subject.contains("CN=system:node:worker-1"), "{subject}");
    assert!(subject.contains("O=system:nodes"), "{subject}");
}
