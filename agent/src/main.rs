//! The agent's binary: wiring only.

use std::process::ExitCode;

use clap::Parser;
use client::{CancellationToken, Client, Clock, Informers, Rng, daemon};

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
    let config = client::kubeconfig::component(&options.kubeconfig)?;
    let client = Client::connect(&config)?;
    let (clock, rng) = (Clock::system(), Rng::from_os());
    let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
    Ok(agent::run(options, client, informers, clock, rng, shutdown).await?)
}
