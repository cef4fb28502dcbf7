//! The agent's binary: wiring only.

use std::process::ExitCode;

use clap::Parser;
use client::{CancellationToken, Client, Clock, Informers, Rng};
use tracing_subscriber::EnvFilter;

/// The node agent of Coracle.
#[derive(Parser)]
#[command(name = "agent", version)]
struct Arguments {
    #[command(flatten)]
    options: agent::Options,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let Arguments { options } = Arguments::parse();
    // The DNS server would write a line for every question.
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,hickory_server=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match start(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent: {}", agent::chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn start(options: agent::Options) -> Result<(), client::BoxError> {
    let config = client::kubeconfig::component(&options.kubeconfig)?;
    let client = Client::connect(&config)?;
    let (clock, rng) = (Clock::system(), Rng::from_os());
    let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
    let shutdown = CancellationToken::new();
    let ended = shutdown.clone();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        ended.cancel();
    });
    agent::run(options, client, informers, clock, rng, shutdown).await?;
    Ok(())
}
