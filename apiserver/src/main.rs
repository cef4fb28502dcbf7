//! The API server as a program of its own: wiring only.

use std::process::ExitCode;

use apiserver::{Options, Server};
use clap::Parser;
use client::{CancellationToken, Clock, Rng, daemon};

/// Serves the Kubernetes API.
#[derive(Parser)]
#[command(name = "apiserver", version)]
struct Program {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    let Program { options } = Program::parse();
    daemon::run(daemon::Settings::default(), |shutdown| run(options, shutdown))
}

async fn run(options: Options, shutdown: CancellationToken) -> Result<(), client::BoxError> {
    let server = Server::start(options, Clock::system(), Rng::from_os()).await?;
    tracing::info!(address = %server.address(), "serving");
    server.serve(shutdown).await;
    Ok(())
}
