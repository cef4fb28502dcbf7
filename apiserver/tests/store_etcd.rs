//! The etcd store, on real servers.

use std::sync::Arc;
use std::time::Duration;

use apiserver::cache::{Cache, KindSpec};
use apiserver::store::etcd::{EtcdOptions, EtcdStore};
use apiserver::store::{Outcome, Range, Store, StoreError, Txn};
use client::Clock;
use etcd_process::Etcd;

#[path = "store/etcd_process.rs"]
mod etcd_process;
#[path = "store/suite.rs"]
mod suite;

async fn connect(etcd: &Etcd) -> Arc<EtcdStore> {
    let options = EtcdOptions { servers: etcd.urls(), ..EtcdOptions::default() };
    Arc::new(EtcdStore::connect(&options, Clock::system()).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd() {
    let Some(etcd) = Etcd::start(1) else { return };
    suite::run(connect(&etcd).await).await;
}

/// Members fail one after the other under load: every write that was acknowledged is there, a
/// watch sees all of them once and in order.
#[tokio::test(flavor = "multi_thread")]
async fn members_fail() {
    let Some(mut etcd) = Etcd::start(3) else { return };
    let store = connect(&etcd).await;
    let start = store.revision().await.unwrap();
    let seen = suite::Seen::watch(&*store, "/registry/", start).await.unwrap();
    let stop = Arc::new(tokio::sync::Notify::new());
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (store, stop) = (store.clone(), stop.clone());
            tokio::spawn(async move {
                let (mut written, mut tries) = (Vec::new(), 0);
                let stopped = stop.notified();
                tokio::pin!(stopped);
                loop {
                    let key = format!("/registry/x/{writer}-{}-{tries}", written.len());
                    tokio::select! {
                        () = &mut stopped => return written,
                        outcome = store.transact(Txn::create(&*key, "v".into())) => match outcome {
                            Ok(Outcome::Committed(revision)) => written.push((key, revision)),
                            // Nobody was told whether it was written; the next is another key.
                            Err(StoreError::Uncertain { .. }) => tries += 1,
                            other => panic!("{key}: {other:?}"),
                        }
                    }
                }
            })
        })
        .collect();
    let clock = Clock::system();
    for i in 0..3 {
        // Some load before, between and after.
        let reached = store.revision().await.unwrap() + 50;
        seen.until(reached).await;
        etcd.kill_member(i);
        let reached = reached + 50;
        seen.until(reached).await;
        etcd.start_member(i);
        // The member must be back before the next goes, or there is no majority.
        let url = etcd.urls()[i].clone();
        let options = EtcdOptions { servers: vec![url], ..EtcdOptions::default() };
        let back = EtcdStore::connect(&options, clock.clone());
        clock.timeout(Duration::from_secs(20), back).await.unwrap().unwrap();
    }
    stop.notify_waiters();
    let mut written = Vec::new();
    for writer in writers {
        written.extend(writer.await.unwrap());
    }
    written.sort_by_key(|(_, revision)| *revision);
    let events = seen.until(written.last().unwrap().1).await;
    let events: Vec<_> =
        events.iter().map(|event| (event.key.to_string(), event.revision)).collect();
    let missing: Vec<_> = written.iter().filter(|written| !events.contains(written)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let page = store.list(Range { prefix: "/registry/x/", ..Range::default() }).await.unwrap();
    assert!(page.items.len() >= written.len());
}

/// Revisions that come from outside of the watched prefix do not stall the barrier.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_writes_do_not_stall_reads() {
    let Some(etcd) = Etcd::start(1) else { return };
    let store = connect(&etcd).await;
    let specs = || [KindSpec::of(&proto::kind::CONFIG_MAP, &[])];
    let cache = Cache::open(store.clone(), specs(), Clock::system()).await.unwrap();
    for i in 0..3 {
        store.transact(Txn::create(format!("/elsewhere/{i}"), "x".into())).await.unwrap();
        let fresh = Clock::system().timeout(Duration::from_secs(5), cache.fresh()).await;
        let revision = fresh.expect("the barrier stalls").unwrap();
        assert!(cache.kind("configmaps").unwrap().snapshot().revision >= revision);
    }
    // Another API server's write is seen after the barrier.
    let other = Cache::open(connect(&etcd).await, specs(), Clock::system()).await.unwrap();
    for i in 0..50 {
        let value = r#"{"metadata":{}}"#.into();
        let key = format!("/registry/configmaps/ns/{i}");
        other.transact(Txn::create(key, value)).await.unwrap();
        cache.fresh().await.unwrap();
        assert!(cache.kind("configmaps").unwrap().get("ns", &i.to_string()).is_some());
    }
}

/// etcd's own limit is the full disk of this store.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_etcd_fails_writes_and_reads_go_on() {
    let quota = |_: &std::path::Path| vec!["--quota-backend-bytes=4000000".into()];
    let Some(etcd) = Etcd::start_with(1, "http", quota) else { return };
    let store = connect(&etcd).await;
    let value: bytes::Bytes = vec![b'x'; 100_000].into();
    let mut count = 0;
    let error = loop {
        match store.transact(Txn::create(format!("/registry/x/{count}"), value.clone())).await {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::NoSpace), "{error:?}");
    let page = store.list(Range { prefix: "/registry/x/", ..Range::default() }).await.unwrap();
    assert_eq!(page.items.len(), count);
    let large = vec![b'x'; 3_000_000].into();
    let error = store.transact(Txn::create("/registry/large", large)).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_client_certificates() {
    let authority = Authority::new();
    let flags = |folder: &std::path::Path| {
        authority.write(folder);
        let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        vec![
            "--client-cert-auth".into(),
            format!("--trusted-ca-file={}", file("ca.pem")),
            format!("--cert-file={}", file("server.pem")),
            format!("--key-file={}", file("server.key")),
        ]
    };
    let Some(etcd) = Etcd::start_with(1, "https", flags) else { return };
    let file = |name: &str| Some(etcd.folder().join(name));
    let options = EtcdOptions {
        servers: etcd.urls(),
        cafile: file("ca.pem"),
        certfile: file("client.pem"),
        keyfile: file("client.key"),
    };
    let store = EtcdStore::connect(&options, Clock::system()).await.unwrap();
    store.transact(Txn::create("/registry/a", "x".into())).await.unwrap();
    assert_eq!(store.get("/registry/a", None).await.unwrap().value.unwrap().value, "x");
    let missing = EtcdOptions { cafile: file("nothing"), ..options };
    let error = EtcdStore::connect(&missing, Clock::system()).await.err().unwrap();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
}

struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "etcd-test");
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: rcgen::Issuer::new(params, key) }
    }

    fn write(&self, folder: &std::path::Path) {
        std::fs::write(folder.join("ca.pem"), self.certificate.pem()).unwrap();
        for name in ["server", "client"] {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
            use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
            params.extended_key_usages = vec![ClientAuth, ServerAuth];
            let certificate = params.signed_by(&key, &self.issuer).unwrap();
            std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
            std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
    }
}
