//! The runtime as a program of its own; `ctl runtime` is the same.

use std::process::ExitCode;

use clap::Parser;
use client::{Clock, Rng, daemon};

/// A CRI v1 runtime for real containers.
#[derive(Parser)]
#[command(name = "runtime", version)]
struct Cli {
    #[command(flatten)]
    options: agent::runtime::Options,
}

fn main() -> ExitCode {
    let Cli { options } = Cli::parse();
    daemon::run(daemon::ON_A_NODE, |shutdown| async {
        let (clock, rng) = (Clock::system(), Rng::from_os());
        Ok(agent::runtime::serve(options, clock, rng, shutdown.cancelled_owned()).await?)
    })
}
