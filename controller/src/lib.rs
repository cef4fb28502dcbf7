//! The controllers, and the framework they stand on. A controller is a pure function from an
//! object and a view of the others to a plan; the framework alone waits, retries and writes.
//! Nothing here opens a socket or reads a clock by itself.

pub mod deployment;
mod execute;
pub mod options;
pub mod plan;
pub mod replica_set;
pub mod run;
pub mod view;

use std::future::Future;
use std::pin::Pin;

use client::{CancellationToken, Client, Clock, Informers, LeaseName, Recorder, Rng, lead};

use crate::deployment::Deployments;
pub use crate::options::{Options, UnknownController};
use crate::replica_set::ReplicaSets;
use crate::run::{Controller, Setup};

/// The name of the Lease, of the writer of fields and of the source of events.
const COMPONENT: &str = "kube-controller-manager";

/// Why the controllers do not run, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("--controllers cannot be used")]
    Controllers { source: UnknownController },
    #[error("another copy may be at work")]
    Leader { source: client::lead::Lost },
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A controller's name and how it starts; `None` where the options leave it out.
type Start = (&'static str, fn(&Options, Setup) -> Option<Task>);

/// Every controller there is.
static CONTROLLERS: &[Start] = &[
    (Deployments::NAME, |_, setup| start(Deployments, setup)),
    (ReplicaSets::NAME, |_, setup| start(ReplicaSets, setup)),
];

fn start<C: Controller>(controller: C, setup: Setup) -> Option<Task> {
    Some(Box::pin(run::run(controller, setup)))
}

/// Runs the controllers until `shutdown`; with leader election only while leading.
pub async fn run(
    options: Options,
    client: Client,
    informers: Informers,
    clock: Clock,
    rng: Rng,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let names: Vec<&str> = CONTROLLERS.iter().map(|(name, _)| *name).collect();
    let enabled = options.enabled(&names).map_err(|source| RunError::Controllers { source })?;
    let client = client.named(COMPONENT);
    let work = |shutdown: CancellationToken| {
        let (client, clock) = (client.clone(), clock.clone());
        let recorder = Recorder::new(client.clone(), clock.clone(), rng.clone(), COMPONENT, "");
        let setup = Setup { client, informers, clock, recorder };
        let tasks = CONTROLLERS
            .iter()
            .filter(|(name, _)| enabled.contains(name))
            .filter_map(|(_, start)| start(&options, setup.clone()));
        let tasks: Vec<Task> = tasks.collect();
        async move {
            tokio::select! {
                _ = futures::future::join_all(tasks) => {}
                () = shutdown.cancelled() => {}
            }
        }
    };
    if !options.leader_elect {
        work(shutdown).await;
        return Ok(());
    }
    let identity = format!("{}_{}", hostname(), rng.uuid());
    let lease = LeaseName::system(COMPONENT);
    lead(client.clone(), clock.clone(), rng.clone(), lease, identity, shutdown, work)
        .await
        .map(drop)
        .map_err(|source| RunError::Leader { source })
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_string()
}
