//! The controllers as a program of their own.

use std::process::ExitCode;

use clap::Parser;
use client::{CancellationToken, Client, Clock, Informers, Rng, kubeconfig};
use controller::Options;
use tracing_subscriber::EnvFilter;

/// Runs the controllers of a cluster.
#[derive(Parser)]
#[command(name = "controller", version)]
struct Command {
    #[command(flatten)]
    options: Options,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match serve(Command::parse().options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = client::error::chain(error.as_ref()), "the controllers ended");
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: Options) -> Result<(), client::BoxError> {
    let config = match &options.kubeconfig {
        Some(path) => kubeconfig::component(path)?,
        None => kubeconfig::Kubeconfig::load(None)?.config(None)?,
    };
    let client = Client::connect(&config)?;
    let (clock, rng, shutdown) = (Clock::system(), Rng::from_os(), CancellationToken::new());
    let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
    let (ending, mut terminate) = (shutdown.clone(), terminate()?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        ending.cancel();
    });
    Ok(controller::run(options, client, informers, clock, rng, shutdown).await?)
}

fn terminate() -> std::io::Result<tokio::signal::unix::Signal> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
}
