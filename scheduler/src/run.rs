//! The executor: informers in, decisions through, bindings out. It makes no choices of its own.

use std::sync::Arc;

use client::{
    Change, Client, Clock, Error, Informers, Key, Lease, ObjectRef, Patch, Recorder, Rng, lead,
};
use futures::future::OptionFuture;
use proto::kind;
use proto::view::Condition;
use proto::view::namespace::Namespace;
use proto::view::node::Node;
use proto::view::pod::Pod;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::cycle::{self, Unschedulable};
use crate::explanation;
use crate::plugins::Event;
use crate::queue::Queue;
use crate::snapshot::{PodInfo, Snapshot};

/// Writes under way at once.
const WRITERS: usize = 32;

/// Decisions between two looks at what has changed.
const BATCH: usize = 64;

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Take part in leader election, so that of several schedulers one decides
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub leader_elect: bool,
}

/// Schedules until `shutdown`; the leader's lease is given back then.
pub async fn run(
    options: Options,
    client: Client,
    informers: Informers,
    clock: Clock,
    rng: Rng,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let scheduler = || {
        Scheduler::new(client.clone(), informers.clone(), clock.clone(), rng.clone())
            .run(shutdown.clone())
    };
    if options.leader_elect {
        let lease = Lease::named("kube-scheduler");
        lead(&client, &clock, &rng, lease, shutdown.clone(), scheduler).await
    } else {
        scheduler().await;
        Ok(())
    }
}
