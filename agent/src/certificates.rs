//! The node's certificates, asked for through CertificateSigningRequests: the one with which the
//! agent calls the API server, the first time with a bootstrap token (Kubernetes: TLS
//! bootstrapping), and the one that it shows to callers. Both are asked for anew well before they
//! expire. Keys never leave the machine; on disk a pair changes as a whole or not at all.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::error::chain;
use client::{Client, Clock, Config, Kubeconfig, Rng, kubeconfig};
use proto::time::Time;

mod flags;
mod request;
mod rotate;
mod store;

pub use flags::Flags;
pub use request::{RequestError, Template};
pub use rotate::{Rotation, rotate};
pub use store::{Held, Store, StoreError};

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Paths {
    pub kubeconfig: PathBuf,
    /// With which to ask for the first certificate.
    pub bootstrap: Option<PathBuf>,
    pub dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("use the bootstrap kubeconfig {}", path.display())]
    Bootstrap { path: PathBuf, source: client::BoxError },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("write the kubeconfig {}", path.display())]
    Write { path: PathBuf, source: kubeconfig::KubeconfigError },
    #[error(transparent)]
    Kubeconfig(#[from] client::BoxError),
}

/// How long to wait after a request that failed; it doubles.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(32));

/// How to reach the API server: as the kubeconfig says, which is made from the bootstrap one where
/// it is missing or of no use any more.
pub async fn config(paths: &Paths, node: &str, clock: &Clock, rng: &Rng) -> Result<Config, Error> {
    if let Some(bootstrap) = paths.bootstrap.as_ref().filter(|_| !usable(paths, clock.now())) {
        join(paths, bootstrap, node, clock, rng).await?;
    }
    Ok(kubeconfig::component(&paths.kubeconfig)?)
}

/// Does the kubeconfig name somebody, with a certificate that is still good?
fn usable(paths: &Paths, now: Time) -> bool {
    let Ok(config) = kubeconfig::component(&paths.kubeconfig) else { return false };
    match config.identity {
        Some(identity) => Held::read(&identity.certificate).is_ok_and(|it| it.not_after > now),
        None => config.token.is_some(),
    }
}

async fn join(
    paths: &Paths,
    bootstrap: &Path,
    node: &str,
    clock: &Clock,
    rng: &Rng,
) -> Result<(), Error> {
    let failed = |source| Error::Bootstrap { path: bootstrap.into(), source };
    let config = kubeconfig::component(bootstrap).map_err(failed)?;
    let client = Client::connect(&config).map_err(|error| failed(error.into()))?;
    let store = Store::client(&paths.dir);
    let good = store.current()?.is_some_and(|held| held.not_after > clock.now());
    if !good {
        tracing::info!(node, "asking for a client certificate with the bootstrap kubeconfig");
        let key = store.draft()?;
        let asker = request::Asker { client: client.named("kubelet"), clock, rng };
        let certificate = ask(&asker, &Template::client(node), &key).await?;
        store.replace(&certificate, &key, clock.now())?;
        store.forget_draft()?;
    }
    let path = paths.kubeconfig.clone();
    named(config, &store).write(&path).map_err(|source| Error::Write { path, source })
}

/// The same server, and the node's own certificate.
fn named(config: Config, store: &Store) -> Kubeconfig {
    let mut written =
        Kubeconfig::single("default", &Config { token: None, identity: None, ..config });
    for user in &mut written.users {
        user.user.client_certificate = Some(store.path());
        user.user.client_key = Some(store.path());
    }
    written
}

/// Does this kubeconfig call with what the store keeps?
pub fn names_files(kubeconfig: &Path, store: &Store) -> bool {
    let Ok(found) = Kubeconfig::read(kubeconfig) else { return false };
    found.users.iter().any(|user| user.user.client_certificate.as_ref() == Some(&store.path()))
}

/// Tries until there is a certificate, or until somebody has refused it.
async fn ask(
    asker: &request::Asker<'_>,
    template: &Template,
    key: &str,
) -> Result<String, RequestError> {
    let (mut pause, longest) = RETRY;
    loop {
        match asker.first(template, key).await {
            Err(error) if error.is_passing() => {
                tracing::warn!(error = chain(&error), "cannot get a certificate yet");
                asker.clock.sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
            answer => return answer,
        }
    }
}

/// The names that a node's callers know it by.
pub fn names(node: &str, ips: &[String]) -> (Vec<String>, Vec<IpAddr>) {
    (vec![node.to_string()], ips.iter().filter_map(|ip| ip.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use client::kubeconfig::Token;

    use super::*;

    #[test]
    fn the_token_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::client(dir.path());
        let config = Config {
            server: "https://a:6443".into(),
            ca: Some(b"ca".to_vec()),
            token: Some(Token::Text("secret".into())),
            ..Config::default()
        };
        let path = dir.path().join("kubeconfig");
        named(config, &store).write(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("secret") && text.contains("kubelet-client-current.pem"), "{text}");
        assert!(names_files(&path, &store));
        assert!(!names_files(&path, &Store::client(Path::new("/elsewhere"))));
        let paths = Paths { kubeconfig: path, bootstrap: None, dir: dir.path().into() };
        assert!(!usable(&paths, Time::from_unix(0)), "there is no certificate yet");
        let (certificate, key) = store::tests::pair("2020-01-01", "2030-01-01", &[]);
        store.replace(&certificate, &key, Time::from_unix(1_600_000_000)).unwrap();
        assert!(usable(&paths, Time::from_unix(1_700_000_000)));
        assert!(!usable(&paths, Time::from_unix(1_900_000_000)), "it has expired");
    }
}
