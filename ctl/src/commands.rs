//! The commands, each in a file of its own.

mod api_resources;
mod apply;
mod create;
mod delete;
mod get;
mod scale;
mod version;
mod wait;

use std::process::ExitCode;

use crate::failure::{Failure, Result};
use crate::session::Connection;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Make objects as manifests describe them, whether they are there or not
    Apply(apply::Apply),
    /// Make objects that are not there yet
    Create(create::Create),
    /// Show objects
    Get(get::Get),
    /// Set the number of replicas
    Scale(scale::Scale),
    /// Delete objects
    Delete(delete::Delete),
    /// Wait for a state of objects
    Wait(wait::Wait),
    /// List what the server serves
    ApiResources(api_resources::ApiResources),
    /// Show the versions of ctl and of the server
    Version(version::Version),
}

pub fn run(command: Command, connection: Connection) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::said(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        match command {
            Command::Apply(apply) => apply.run(&connection.open()?).await,
            Command::Create(create) => create.run(&connection.open()?).await,
            Command::Get(get) => get.run(&connection.open()?).await,
            Command::Scale(scale) => scale.run(&connection.open()?).await,
            Command::Delete(delete) => delete.run(&connection.open()?).await,
            Command::Wait(wait) => wait.run(&connection.open()?).await,
            Command::ApiResources(list) => list.run(&connection.open()?).await,
            Command::Version(version) => version.run(&connection).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
