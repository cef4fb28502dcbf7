//! The commands, each in a file of its own.

mod api_resources;
pub mod apply;
mod attach;
mod completion;
mod cp;
mod create;
mod delete;
mod describe;
mod exec;
mod get;
mod logs;
mod port_forward;
mod proxy;
mod rollout;
mod scale;
mod top;
mod version;
mod wait;
mod why;

use std::process::ExitCode;

use clap::Parser;
use client::error::chain;

use crate::cluster::{self, ClusterCommand};
use crate::daemons::{self, Daemon};
use crate::failure::{Failure, Result};
use crate::image::{self, ImageCommand};
use crate::session::Connection;

#[derive(clap::Subcommand)]
pub enum Command {
    #[command(flatten)]
    Ask(Ask),
    #[command(flatten)]
    Daemon(Box<Daemon>),
    /// Start, stop and look at clusters on this machine
    Cluster(ClusterCommand),
    /// Fetch, load, save and list the images that all nodes of this machine share
    Image(ImageCommand),
}

/// Commands that ask an API server.
#[derive(clap::Subcommand)]
pub enum Ask {
    /// Make objects as manifests describe them, whether they are there or not
    Apply(apply::Apply),
    /// Make objects that are not there yet
    Create(create::Create),
    /// Show objects
    Get(get::Get),
    /// Show objects as a person reads them, with their events
    Describe(describe::Describe),
    /// Set the number of replicas
    Scale(scale::Scale),
    /// Delete objects
    Delete(delete::Delete),
    /// Print the logs of containers
    Logs(logs::Logs),
    /// Run a command in a container
    Exec(exec::Exec),
    /// Copy files and folders to and from containers
    Cp(cp::Cp),
    /// Talk to what runs in a container
    Attach(attach::Attach),
    /// Make ports of a pod reachable on this machine
    PortForward(port_forward::PortForward),
    /// Serve the API on this machine, with our credentials
    Proxy(proxy::Proxy),
    /// Show what nodes and pods use at the moment
    Top(top::Top),
    /// Follow, undo, restart or hold rollouts
    Rollout(rollout::Rollout),
    /// Tell why a pod is on its node, or on none
    Why(why::Why),
    /// Wait for a state of objects
    Wait(wait::Wait),
    /// List what the server serves
    ApiResources(api_resources::ApiResources),
    /// Show the versions of ctl and of the server
    Version(version::Version),
    /// Print the completion script of a shell
    Completion(completion::Completion),
}

pub fn run(command: Command, connection: Connection) -> Result<ExitCode> {
    match command {
        Command::Ask(ask) => ask.run(connection),
        Command::Daemon(daemon) => daemons::run(*daemon, &connection),
        Command::Cluster(command) => {
            cluster::run(command).map_err(|error| Failure::said(chain(&error)))
        }
        Command::Image(command) => image::run(command),
    }
}

/// Runs the command of these words, as if they had been typed.
pub fn run_words(words: &[&str]) -> Result<ExitCode> {
    let cli = crate::Cli::try_parse_from(words).map_err(Failure::said)?;
    run(cli.command, cli.connection)
}

impl Ask {
    fn run(self, connection: Connection) -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::said(format!("cannot start: {error}")))?;
        let result = runtime.block_on(async {
            match self {
                Ask::Apply(apply) => apply.run(&connection.open()?).await,
                Ask::Create(create) => create.run(&connection.open()?).await,
                Ask::Get(get) => get.run(&connection.open()?).await,
                Ask::Describe(describe) => describe.run(&connection.open()?).await,
                Ask::Scale(scale) => scale.run(&connection.open()?).await,
                Ask::Delete(delete) => delete.run(&connection.open()?).await,
                Ask::Logs(logs) => logs.run(&connection.open()?).await,
                // The exit code of the command in the container is ctl's.
                Ask::Exec(exec) => return exec.run(&connection.open()?).await,
                Ask::Cp(cp) => return cp.run(&connection.open()?).await,
                Ask::Attach(attach) => return attach.run(&connection.open()?).await,
                Ask::PortForward(forward) => forward.run(&connection.open()?).await,
                Ask::Proxy(proxy) => proxy.run(&connection.open()?).await,
                Ask::Top(top) => top.run(&connection.open()?).await,
                Ask::Rollout(rollout) => rollout.run(&connection.open()?).await,
                Ask::Why(why) => why.run(&connection.open()?).await,
                Ask::Wait(wait) => wait.run(&connection.open()?).await,
                Ask::ApiResources(list) => list.run(&connection.open()?).await,
                Ask::Version(version) => version.run(&connection).await,
                Ask::Completion(completion) => completion.run(),
            }
            .map(|()| ExitCode::SUCCESS)
        });
        // A read of standard input may hang for ever; it must not keep the program.
        runtime.shutdown_background();
        result
    }
}
