//! The daemons inside `ctl`: the same programs as the binaries of their own, with the same flags,
//! and `ctl server`, which is three of them in one process.

mod proxy;
mod server;

use std::io::IsTerminal;
use std::process::ExitCode;

use client::{BoxError, CancellationToken, Client, Clock, Informers, Rng, kubeconfig};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Failure, Result, chain};

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
    Proxy(proxy::Options),
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
pub fn run(daemon: Daemon) -> Result<ExitCode> {
    let json = matches!(&daemon, Daemon::Server(options) if options.log_format == "json");
    log(json);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::said(format!("cannot start: {error}")))?;
    runtime.block_on(serve(daemon)).map_err(|error| Failure::said(chain(&*error)))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(daemon: Daemon) -> std::result::Result<(), BoxError> {
    let (clock, rng) = (Clock::system(), Rng::from_os());
    let shutdown = on_signal()?;
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
            let (client, informers) = connect(Some(options.kubeconfig.clone()), &clock, &rng)?;
            Ok(agent::run(options, client, informers, clock, rng, shutdown).await?)
        }
        Daemon::Runtime(options) => {
            let ended = shutdown.cancelled_owned();
            Ok(agent::runtime::serve(options, clock, rng, ended).await?)
        }
        Daemon::Proxy(options) => {
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

/// Cancelled at the first SIGTERM or SIGINT.
fn on_signal() -> std::io::Result<CancellationToken> {
    let shutdown = CancellationToken::new();
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let ended = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        ended.cancel();
    });
    Ok(shutdown)
}

/// The DNS server would write a line for every question.
const LOGGED: &str = "info,hickory_server=warn";

fn log(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(LOGGED));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match json {
        true => builder.json().init(),
        false => builder.init(),
    }
}
