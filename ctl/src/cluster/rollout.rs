//! What `cluster create -f` does with manifests: the same `apply` as on the command line, then it
//! waits for the Deployments among them and says where their Services answer.

use std::path::PathBuf;
use std::time::Duration;

use client::{Client, Clock, Informers, Rng};
use proto::view::deployment::Deployment;
use proto::view::service::Service;

use super::Error;
use super::create::{Create, admin};
use super::layout::Cluster;
use super::steps::Steps;
use crate::failure::Failure;
use crate::files::{Files, Manifest};
use crate::session::Connection;

const WITHIN: Duration = Duration::from_secs(300);
/// A Service may have nothing behind it: that is said, and nobody waits for it.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(5);

/// Namespace and name of the objects of one kind.
type Keys = Vec<(String, String)>;

/// Reads the manifests, so that a mistake in them is known at once.
pub fn check(files: &[PathBuf]) -> Result<(), Error> {
    read(files).map(drop)
}

/// Applies the manifests and waits until they are rolled out; prints pods and addresses.
pub async fn apply(
    create: &Create,
    cluster: &Cluster,
    steps: &Steps,
    clock: &Clock,
) -> Result<(), Error> {
    if create.filename.is_empty() {
        return Ok(());
    }
    let manifests = read(&create.filename)?;
    let connection = Connection {
        kubeconfig: Some(cluster.server_dir().join("admin.kubeconfig")),
        ..Connection::default()
    };
    let session = connection.open()?;
    let applying = async {
        for manifest in &manifests {
            crate::commands::apply::once(&session, manifest).await?;
        }
        Ok(())
    };
    steps.step(&format!("{} objects applied", manifests.len()), applying).await?;
    let client = Client::connect(&admin(cluster)?)?;
    let informers = Informers::new(client, clock.clone(), Rng::from_os());
    for (namespace, name) in keys(&manifests, "Deployment") {
        let complete = async {
            let deployments = informers.of::<Deployment>();
            let mut changes = deployments.changes();
            while !deployments.get(&namespace, &name).is_some_and(|found| is_complete(&found)) {
                changes.next().await;
            }
        };
        let what = format!("deployment {name} rolled out");
        steps.step(&what, in_time(clock, &what, complete)).await?;
    }
    for (namespace, name) in keys(&manifests, "Service") {
        let addressed = async {
            let services = informers.of::<Service>();
            let mut changes = services.changes();
            loop {
                if let Some(service) = services.get(&namespace, &name)
                    && let Some(urls) = urls(&service)
                {
                    return urls;
                }
                changes.next().await;
            }
        };
        let urls = in_time(clock, &format!("an address of service {name}"), addressed).await?;
        for (url, address) in urls {
            let answers = clock.timeout(ANSWERS_WITHIN, answers(clock, &address)).await.is_ok();
            let word = if answers { "answers" } else { "does not answer yet" };
            anstream::eprintln!("{name} {word} at {url}");
        }
    }
    Ok(())
}

/// Returns when a connection is accepted: the endpoints reach this machine's rules a moment after
/// the Deployment's status says that they are ready.
async fn answers(clock: &Clock, address: &str) {
    while tokio::net::TcpStream::connect(address).await.is_err() {
        clock.sleep(AGAIN).await;
    }
}

async fn in_time<T>(clock: &Clock, what: &str, work: impl Future<Output = T>) -> Result<T, Error> {
    let late =
        |_| Error::Late { what: what.into(), seconds: WITHIN.as_secs(), tails: String::new() };
    clock.timeout(WITHIN, work).await.map_err(late)
}

fn read(files: &[PathBuf]) -> Result<Vec<Manifest>, Error> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Files { filename: files.to_vec(), recursive: false }.read()?)
}

fn keys(manifests: &[Manifest], kind: &str) -> Keys {
    let of_kind = manifests.iter().filter(|manifest| manifest.object["kind"] == kind);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    of_kind
        .map(|manifest| {
            let meta = &manifest.object["metadata"];
            let namespace = text(&meta["namespace"]);
            let namespace = if namespace.is_empty() { "default".into() } else { namespace };
            (namespace, text(&meta["name"]))
        })
        .collect()
}

/// As `rollout status` sees it.
fn is_complete(deployment: &Deployment) -> bool {
    let (spec, status) = (&deployment.spec, &deployment.status);
    let replicas = spec.replicas.unwrap_or(1);
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas >= replicas
        && status.replicas <= status.updated_replicas
        && status.available_replicas >= status.updated_replicas
}

/// Where the Service answers from this machine, as URL and as address; `None` while its address is
/// being found.
fn urls(service: &Service) -> Option<Vec<(String, String)>> {
    if service.spec.kind != "LoadBalancer" {
        return Some(Vec::new());
    }
    let ip = &service.status.load_balancer.ingress.first()?.ip;
    let tcp = service.spec.ports.iter().filter(|port| matches!(&*port.protocol, "" | "TCP"));
    let url = |port: i32| match port {
        80 => format!("http://{ip}/"),
        port => format!("http://{ip}:{port}/"),
    };
    Some(tcp.map(|port| (url(port.port), format!("{ip}:{}", port.port))).collect())
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Command(failure)
    }
}
