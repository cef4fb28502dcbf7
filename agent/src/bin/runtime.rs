//! The runtime as a program of its own; `ctl runtime` is the same.

use std::process::ExitCode;

use clap::Parser;

/// A CRI v1 runtime for real containers.
#[derive(Parser)]
#[command(name = "runtime", version)]
struct Cli {
    #[command(flatten)]
    options: agent::runtime::Options,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .init();
    let shutdown = async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                .expect("SIGTERM can be watched");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    let (clock, rng) = (client::Clock::system(), client::Rng::from_os());
    match agent::runtime::serve(cli.options, clock, rng, shutdown).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut cause: Option<&dyn std::error::Error> = Some(&error);
            let mut text = Vec::new();
            while let Some(error) = cause {
                text.push(error.to_string());
                cause = error.source();
            }
            eprintln!("error: {}", text.join(": "));
            ExitCode::FAILURE
        }
    }
}
