//! The cluster's identities: one authority (ECDSA P-256) and the certificates it issues to the API
//! server, to the components and to nodes. Made at the first start under `DIR/pki`, renewed before
//! they expire, handed to components as kubeconfigs. The server's set-up and `ctl cluster` call it;
//! no request may reach it, and a private key must never be written readable by others.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use client::{Clock, Rng};
use proto::time::Time;

mod authority;
mod files;
mod kubeconfig;
#[cfg(test)]
mod tests;

pub use authority::{Authority, Pair, Profile};
pub use files::write_private;
pub use kubeconfig::kubeconfig;

/// How long certificates of components are good for; they are renewed when a third of it is left.
pub const LEAF_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long the authority's certificate is good for. Renewing it keeps its key, so that everything
/// it signed stays valid.
pub const CA_VALIDITY: Duration = Duration::from_secs(3650 * 24 * 3600);

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("reading {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("writing {path}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("generating a key for {name}")]
    Generate { name: String, source: rcgen::Error },
    #[error("reading the key in {path}")]
    Key { path: PathBuf, source: rcgen::Error },
    #[error("{path} holds no certificate: {why}; remove it and it is made anew")]
    Certificate { path: PathBuf, why: String },
    #[error("issuing the certificate of {name}")]
    Issue { name: String, source: rcgen::Error },
    #[error("{name} can stand in no certificate")]
    Name { name: String, source: rcgen::Error },
}

/// Everything a node needs to join: its kubeconfig identity and the certificate its own HTTPS port
/// serves with. All PEM.
#[derive(Clone, Debug)]
pub struct NodeCredentials {
    pub ca: String,
    pub client: Pair,
    pub serving: Pair,
}

/// The files under `DIR/pki`, all of them present and valid.
pub struct Pki {
    dir: PathBuf,
    authority: Authority,
    /// What the API server presents.
    pub serving: Pair,
    /// With which the API server calls nodes.
    pub kubelet_client: Pair,
    pub admin: Pair,
    pub scheduler: Pair,
    pub controller_manager: Pair,
    clock: Clock,
    rng: Rng,
}

impl Pki {
    /// Reads `dir`, making what is absent, about to expire, or does not carry `names` (the serving
    /// certificate's addresses and DNS names).
    pub fn open(dir: &Path, names: &[String], clock: &Clock, rng: &Rng) -> Result<Pki, PkiError> {
        files::create_private_dir(dir)?;
        let now = clock.now();
        let authority = Authority::open(dir, now, rng)?;
        let leaf = |file: &str, profile: Profile| authority.leaf(dir, file, &profile, now, rng);
        let client =
            |file: &str, user: &str, groups: &[&str]| leaf(file, Profile::client(user, groups));
        // Each waits for the disk several times: together they wait once.
        let [serving, kubelet_client, admin, scheduler, controller_manager] =
            std::thread::scope(|scope| {
                [
                    scope.spawn(|| leaf("apiserver", Profile::serving("kube-apiserver", names))),
                    scope.spawn(|| {
                        let user = "kube-apiserver-kubelet-client";
                        client("apiserver-kubelet-client", user, &["system:masters"])
                    }),
                    scope.spawn(|| client("admin", "kubernetes-admin", &["system:masters"])),
                    scope.spawn(|| client("scheduler", "system:kube-scheduler", &[])),
                    scope.spawn(|| {
                        client("controller-manager", "system:kube-controller-manager", &[])
                    }),
                ]
                .map(|thread| thread.join().expect("issuing certificates does not panic"))
            });
        Ok(Pki {
            serving: serving?,
            kubelet_client: kubelet_client?,
            admin: admin?,
            scheduler: scheduler?,
            controller_manager: controller_manager?,
            dir: dir.to_path_buf(),
            authority,
            clock: clock.clone(),
            rng: rng.clone(),
        })
    }

    /// The authority's certificate, PEM.
    pub fn ca(&self) -> &str {
        self.authority.certificate()
    }

    /// When something here has to be renewed next.
    pub fn renew_at(&self) -> Time {
        let leaves = [
            &self.serving,
            &self.kubelet_client,
            &self.admin,
            &self.scheduler,
            &self.controller_manager,
        ];
        leaves
            .iter()
            .map(|pair| pair.renew_at)
            .chain([self.authority.renew_at()])
            .min()
            .expect("the list is not empty")
    }

    /// A node's client certificate (`system:node:NAME` in `system:nodes`) and its serving
    /// certificate for `addresses` (and its name). Not kept: the caller stores them.
    pub fn node(&self, name: &str, addresses: &[IpAddr]) -> Result<NodeCredentials, PkiError> {
        let (now, rng) = (self.clock.now(), &self.rng);
        let user = format!("system:node:{name}");
        let mut names = vec![name.to_string(), "localhost".to_string()];
        names.extend(addresses.iter().map(IpAddr::to_string));
        let client = Profile::client(&user, &["system:nodes"]);
        let serving =
            Profile { groups: vec!["system:nodes".into()], ..Profile::serving(&user, &names) };
        Ok(NodeCredentials {
            ca: self.ca().to_string(),
            client: self.authority.issue(&client, now, rng)?,
            serving: self.authority.issue(&serving, now, rng)?,
        })
    }

    /// A client certificate for any user, not kept.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<Pair, PkiError> {
        self.authority.issue(&Profile::client(user, groups), self.clock.now(), &self.rng)
    }

    /// Writes `admin.kubeconfig`, `scheduler.kubeconfig` and `controller.kubeconfig` into
    /// `data_dir`, atomically. `server` is the URL they point at.
    pub fn write_kubeconfigs(&self, data_dir: &Path, server: &str) -> Result<(), PkiError> {
        let users = [
            ("admin", "kubernetes-admin", &self.admin),
            ("scheduler", "system:kube-scheduler", &self.scheduler),
            ("controller", "system:kube-controller-manager", &self.controller_manager),
        ];
        std::thread::scope(|scope| {
            let writes = users.map(|(file, user, pair)| {
                scope.spawn(move || {
                    let text = kubeconfig(server, self.ca(), user, pair);
                    write_private(&data_dir.join(format!("{file}.kubeconfig")), text.as_bytes())
                })
            });
            writes
                .into_iter()
                .try_for_each(|thread| thread.join().expect("writing a file does not panic"))
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The private key (ECDSA P-256) of ServiceAccount tokens, `DIR/sa.key`, made with its public half
/// `sa.pub` where it is absent.
pub fn service_account_key(dir: &Path) -> Result<PathBuf, PkiError> {
    let path = dir.join("sa.key");
    if files::read(&path)?.is_none() {
        files::create_private_dir(dir)?;
        let key = authority::generate("ServiceAccount tokens")?;
        files::write_public(&dir.join("sa.pub"), key.public_key_pem().as_bytes())?;
        write_private(&path, key.serialize_pem().as_bytes())?;
    }
    Ok(path)
}
