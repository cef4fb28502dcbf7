//! The controllers as a program of their own. Only wiring.

use std::process::ExitCode;

use clap::Parser;
use client::{CancellationToken, Client, Clock, Informers, Rng, daemon, kubeconfig};
use controller::Options;

/// Runs the controllers of a cluster.
#[derive(Parser)]
#[command(name = "controller", version)]
struct Command {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    let Command { options } = Command::parse();
    daemon::run(daemon::Settings::default(), |shutdown| run(options, shutdown))
}

async fn run(options: Options, shutdown: CancellationToken) -> Result<(), client::BoxError> {
    let config = match &options.kubeconfig {
        Some(path) => kubeconfig::component(path)?,
        None => kubeconfig::Kubeconfig::load(None)?.config(None)?,
    };
    let client = Client::connect(&config)?;
    let (clock, rng) = (Clock::system(), Rng::from_os());
    let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
    Ok(controller::run(options, client, informers, clock, rng, shutdown).await?)
}
