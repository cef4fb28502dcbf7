//! The daemons inside `ctl`: the same programs as the binaries of their own, with the same flags,
//! and `ctl server`, which is three of them in one process.

mod proxy;
mod server;

use std::process::ExitCode;

use client::{BoxError, CancellationToken, Client, Clock, Informers, Rng, daemon, kubeconfig};

use crate::failure::Result;
use crate::session::Connection;

#[derive(clap::Subcommand)]
pub enum Daemon {
    /// Run API server, scheduler and controllers in one process
    Server(server::Options),
    /// Run an API server
    Apiserver(apiserver::Options),
    /// Run a scheduler
    Scheduler {
        #[command(flatten)]
        server: KubeconfigFile,
        #[command(flatten)]
        options: scheduler::Options,
    },
    /// Run the controllers
    Controller(controller::Options),
    /// Run a node's agent
    Agent(agent::Options),
    /// Run a node's container runtime
    Runtime(agent::runtime::Options),
    /// Make Services and pods reachable from a machine that is not a node
    ServiceProxy(proxy::Options),
    /// Run nodes whose containers exist in memory only
    #[command(hide = true)]
    Simulate {
        #[command(flatten)]
        server: KubeconfigFile,
        /// How many
        #[arg(long, value_name = "N")]
        nodes: usize,
    },
}

/// How a component reaches the API server.
#[derive(Clone, Debug, clap::Args)]
pub struct KubeconfigFile {
    /// Path to the kubeconfig with the API server's address and our credentials
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<std::path::PathBuf>,
}

/// Runs it in the foreground until SIGTERM or SIGINT.
pub fn run(daemon: Daemon, connection: &Connection) -> Result<ExitCode> {
    if let Daemon::Server(server::Options { keep: Some(keep), .. }) = daemon {
        return keep.run(connection);
    }
    let settings = match &daemon {
        Daemon::Server(options) => {
            daemon::Settings { json: options.log_format == "json", ..daemon::Settings::default() }
        }
        Daemon::Agent(_) | Daemon::Runtime(_) | Daemon::ServiceProxy(_) => daemon::ON_A_NODE,
        _ => daemon::Settings::default(),
    };
    Ok(daemon::run(settings, |shutdown| serve(daemon, shutdown)))
}

async fn serve(daemon: Daemon, shutdown: CancellationToken) -> std::result::Result<(), BoxError> {
    let (clock, rng) = (Clock::system(), Rng::from_os());
    match daemon {
        Daemon::Server(options) => server::run(options, clock, rng, shutdown).await,
        Daemon::Apiserver(options) => {
            let server = apiserver::Server::start(options, clock, rng).await?;
            tracing::info!(address = %server.address(), "serving");
            server.serve(shutdown).await;
            Ok(())
        }
        Daemon::Scheduler { server, options } => {
            let (client, informers) = connect(server.kubeconfig, &clock, &rng)?;
            Ok(scheduler::run(options, client, informers, clock, rng, shutdown).await?)
        }
        Daemon::Controller(options) => {
            let (client, informers) = connect(options.kubeconfig.clone(), &clock, &rng)?;
            Ok(controller::run(options, client, informers, clock, rng, shutdown).await?)
        }
        Daemon::Agent(options) => {
            let client = tokio::select! {
                client = agent::connect(&options, &clock, &rng) => client?,
                () = shutdown.cancelled() => return Ok(()),
            };
            let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
            Ok(agent::run(options, client, informers, clock, rng, shutdown).await?)
        }
        Daemon::Runtime(options) => {
            let ended = shutdown.cancelled_owned();
            Ok(agent::runtime::serve(options, clock, rng, ended).await?)
        }
        Daemon::ServiceProxy(options) => {
            let (_, informers) = connect(options.kubeconfig.clone(), &clock, &rng)?;
            proxy::run(options, informers, clock, shutdown).await;
            Ok(())
        }
        Daemon::Simulate { server, nodes } => {
            let (client, informers) = connect(server.kubeconfig, &clock, &rng)?;
            agent::simulated::run(nodes, client, informers, clock, rng, shutdown).await;
            Ok(())
        }
    }
}

fn connect(
    path: Option<std::path::PathBuf>,
    clock: &Clock,
    rng: &Rng,
) -> std::result::Result<(Client, Informers), BoxError> {
    let config = match path {
        Some(path) => kubeconfig::component(&path)?,
        None => kubeconfig::Kubeconfig::load(None)?.config(None)?,
    };
    let client = Client::connect(&config)?;
    let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
    Ok((client, informers))
}
