//! The agent's binary: wiring only.

use std::process::ExitCode;

use clap::Parser;
use client::{CancellationToken, Clock, Informers, Rng, daemon};

/// The node agent of Coracle.
#[derive(Parser)]
#[command(name = "agent", version)]
struct Arguments {
    #[command(flatten)]
    options: agent::Options,
}

fn main() -> ExitCode {
    let Arguments { options } = Arguments::parse();
    daemon::run(daemon::ON_A_NODE, |shutdown| run(options, shutdown))
}

async fn run(options: agent::Options, shutdown: CancellationToken) -> Result<(), client::BoxError> {
    let (clock, rng) = (Clock::system(), Rng::from_os());
    let client = tokio::select! {
        client = agent::connect(&options, &clock, &rng) => client?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
    Ok(agent::run(options, client, informers, clock, rng, shutdown).await?)
}
