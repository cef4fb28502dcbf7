//! The scheduler as a program of its own. Only wiring.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use client::{CancellationToken, Client, Clock, Informers, Rng, daemon, kubeconfig};

/// The scheduler of Coracle
#[derive(Parser)]
#[command(name = "scheduler", version)]
struct Arguments {
    /// How to reach the API server
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    #[command(flatten)]
    options: scheduler::Options,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    daemon::run(daemon::Settings::default(), |shutdown| run(arguments, shutdown))
}

async fn run(arguments: Arguments, shutdown: CancellationToken) -> Result<(), client::BoxError> {
    let client = Client::connect(&kubeconfig::component(&arguments.kubeconfig)?)?;
    let (clock, rng) = (Clock::system(), Rng::from_os());
    let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
    Ok(scheduler::run(arguments.options, client, informers, clock, rng, shutdown).await?)
}
