//! `ctl`: the CLI, and every daemon in one program. Only wiring: what each command does is in its
//! own file.

mod cluster;
mod commands;
mod daemons;
mod failure;
mod files;
mod image;
mod output;
mod resources;
mod session;
mod target;

use std::process::ExitCode;

use clap::Parser;

use crate::commands::Command;
use crate::session::Connection;

/// Coracle: Kubernetes, small enough to carry
#[derive(Parser)]
#[command(name = "ctl", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version end with 0, mistakes with 1, as kubectl does.
        Err(error) => {
            drop(error.print());
            return ExitCode::from(if error.use_stderr() { 1 } else { 0 });
        }
    };
    match commands::run(cli.command, cli.connection) {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            ExitCode::FAILURE
        }
    }
}
