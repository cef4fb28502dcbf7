//! Who the node is to others, where it keeps that itself.

use std::path::PathBuf;

use client::{BoxError, Client, Clock, Rng};
use tokio::sync::watch;

use super::parts::node_name;
use crate::certificates::{self, Paths, Rotation, Store, Template};
use crate::node::Node;
use crate::options::Options;

/// Calls the API server as this node; the first time with the bootstrap kubeconfig.
pub async fn connect(options: &Options, clock: &Clock, rng: &Rng) -> Result<Client, BoxError> {
    let paths = Paths {
        kubeconfig: options.kubeconfig.clone(),
        bootstrap: options.certificates.bootstrap_kubeconfig.clone(),
        dir: options.certificates.cert_dir.clone(),
    };
    let config = certificates::config(&paths, &node_name(options), clock, rng).await?;
    Ok(Client::connect(&config)?)
}

/// The certificates that are kept good.
pub struct Certificates {
    rotations: Vec<Rotation>,
    /// The one for callers: where it is, and whether it is there.
    serving: Option<Serving>,
}

pub type Serving = (PathBuf, watch::Receiver<bool>);

impl Certificates {
    pub fn new(options: &Options, node: &Node) -> Certificates {
        let flags = &options.certificates;
        let mut rotations = Vec::new();
        let rotation = |store: Store, template| Rotation {
            client: node.client.clone(),
            clock: node.clock.clone(),
            rng: node.rng.clone(),
            store,
            template,
            present: watch::Sender::new(false),
        };
        let name = &node.identity.name;
        let client = Store::client(&flags.cert_dir);
        // Who was given a certificate otherwise is given the next one so, too.
        if flags.rotate_certificates && certificates::names_files(&options.kubeconfig, &client) {
            rotations.push(rotation(client, Template::client(name)));
        }
        let serving = flags.rotate_server_certificates.then(|| {
            let store = Store::server(&flags.cert_dir);
            let (dns, ips) = certificates::names(name, &node.identity.ips);
            let path = store.path();
            let rotation = rotation(store, Template::serving(name, dns, ips));
            let present = rotation.present.subscribe();
            rotations.push(rotation);
            (path, present)
        });
        Certificates { rotations, serving }
    }

    /// For the endpoint: waits until there is a certificate to show, where one is asked for.
    pub fn serving(&self) -> Option<Serving> {
        self.serving.clone()
    }

    /// For ever.
    pub async fn keep(self) {
        futures::future::join_all(self.rotations.into_iter().map(certificates::rotate)).await;
    }
}
