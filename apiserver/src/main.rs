//! The API server as a program of its own: wiring only.

use std::{io::IsTerminal, process::ExitCode};

use apiserver::{Options, Server};
use clap::Parser;
use client::{Clock, Rng};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Serves the Kubernetes API.
#[derive(Parser)]
#[command(name = "apiserver", version)]
struct Program {
    #[command(flatten)]
    options: Options,
}

#[tokio::main]
async fn main() -> ExitCode {
    let program = Program::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(program.options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("apiserver: {}", sentence(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Box<dyn std::error::Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = Server::start(options, Clock::system(), Rng::from_os()).await?;
    tracing::info!(address = %server.address(), "serving");
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(server.serve(shutdown.clone()));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    shutdown.cancel();
    serving.await?;
    Ok(())
}

/// The error and its causes, in one line.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
