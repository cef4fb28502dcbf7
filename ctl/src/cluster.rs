//! `ctl cluster`: local clusters of several nodes on this machine, each node with a network, mount
//! and UTS namespace of its own. It starts processes and sets up what they stand on; it takes no
//! part in what they do.

mod cgroups;
mod create;
mod delete;
mod error;
mod layout;
mod namespaces;
mod network;
mod node;
mod privilege;
mod process;
mod rollout;
mod services;
mod status;
mod steps;
mod storage;
mod supervisor;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use client::Clock;

pub use self::error::Error;
pub use self::layout::StateDir;
pub use self::privilege::home;

/// Local clusters.
#[derive(Debug, clap::Args)]
pub struct ClusterCommand {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

/// Where all state is.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// Where clusters and images are kept
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "CORACLE_STATE_DIR",
        default_value = "/var/lib/coracle",
        hide_env_values = true
    )]
    pub state_dir: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Start a cluster
    Create(create::Create),
    /// Remove a cluster and everything it made
    Delete(Name),
    /// Show the clusters of this machine
    List,
    /// Show the processes of a cluster
    Status(Name),
    /// Stop and start nodes
    #[command(subcommand)]
    Node(NodeCommand),
    /// Keep the processes of a cluster running
    #[command(hide = true)]
    Supervise(Name),
}

#[derive(Debug, clap::Args)]
struct Name {
    /// The cluster
    #[arg(default_value = DEFAULT_NAME)]
    name: String,
}

#[derive(Debug, clap::Subcommand)]
enum NodeCommand {
    /// Kill everything on a node and cut it off, as when its machine loses power
    Stop(NodeName),
    /// Start a stopped node again
    Start(NodeName),
}

#[derive(Debug, clap::Args)]
struct NodeName {
    /// The node
    name: String,
    /// The cluster it belongs to
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NAME)]
    cluster: String,
}

/// What `cluster create` makes when no name is given.
pub const DEFAULT_NAME: &str = "default";

/// Runs one `cluster` command; to be called outside of any async runtime.
pub fn run(command: ClusterCommand) -> Result<ExitCode, Error> {
    let state = StateDir(command.place.state_dir);
    let clock = Clock::system();
    match command.command {
        Command::Create(mut create) => {
            become_root(&state, create.kubeconfig.is_none())?;
            create.kubeconfig = create.kubeconfig.map(|path| absolute(&path));
            let cluster = block_on(create::create(&create, &state, clock))??;
            finish(&create, &cluster)?;
        }
        Command::Delete(Name { name }) => {
            become_root(&state, false)?;
            return delete(&name, &state, clock);
        }
        Command::List => anstream::print!("{}", status::list(&state.all()?)),
        Command::Status(Name { name }) => {
            anstream::print!("{}", status::status(&node::find(&name, &state)?));
        }
        Command::Node(NodeCommand::Stop(NodeName { name, cluster })) => {
            become_root(&state, false)?;
            block_on(node::stop(&name, node::find(&cluster, &state)?, &clock))??;
            anstream::println!("node {name} stopped");
        }
        Command::Node(NodeCommand::Start(NodeName { name, cluster })) => {
            become_root(&state, false)?;
            block_on(node::start(&name, node::find(&cluster, &state)?, &clock))??;
            anstream::println!("node {name} started");
        }
        Command::Supervise(Name { name }) => {
            tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
            block_on(supervisor::supervise(&state.cluster_dir(&name), &state, clock))??;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn delete(name: &str, state: &StateDir, clock: Clock) -> Result<ExitCode, Error> {
    let Some(cluster) = state.cluster(name)? else {
        anstream::eprintln!("there is no cluster {name:?}: nothing to delete");
        return Ok(ExitCode::SUCCESS);
    };
    let errors = block_on(delete::remove(&cluster, &clock))?;
    for error in &errors {
        anstream::eprintln!("error: {}", client::error::chain(error));
    }
    if !errors.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    anstream::println!("cluster {name:?} deleted");
    Ok(ExitCode::SUCCESS)
}

/// The table of pods, and how to go on.
fn finish(create: &create::Create, cluster: &layout::Cluster) -> Result<(), Error> {
    if !create.filename.is_empty() {
        let kubeconfig = cluster.server_dir().join("admin.kubeconfig");
        let kubeconfig = kubeconfig.to_string_lossy();
        crate::commands::run_words(&[
            "ctl",
            "--kubeconfig",
            &kubeconfig,
            "get",
            "pods",
            "-o",
            "wide",
        ])?;
    }
    let context = match &cluster.kubeconfig {
        Some(_) => format!("kubectl --context {} get pods -A", cluster.context()),
        None => "no kubeconfig was written: there is neither $KUBECONFIG nor a home".into(),
    };
    anstream::eprintln!("\ngo on with:  ctl get pods -A   or   {context}");
    anstream::eprintln!("end with:    ctl cluster delete {}", cluster.name);
    Ok(())
}

/// The kubeconfig to add the context to: the one asked for, or the first that kubectl reads.
fn kubeconfig_path(asked: Option<&Path>) -> Option<PathBuf> {
    let list = std::env::var_os("KUBECONFIG");
    let home = privilege::home();
    let paths = client::kubeconfig::paths(asked, list.as_deref(), home.as_deref());
    paths.first().map(|path| absolute(path))
}

/// sudo hides the environment, so what it said is passed on as flags.
pub fn become_root(state: &StateDir, with_kubeconfig: bool) -> Result<(), Error> {
    let mut further: Vec<OsString> = vec!["--state-dir".into(), absolute(&state.0).into()];
    if std::env::args_os().any(|word| word.to_string_lossy().starts_with("--state-dir")) {
        further.clear();
    }
    if let Some(path) = kubeconfig_path(None).filter(|_| with_kubeconfig) {
        further.extend(["--kubeconfig".into(), path.into()]);
    }
    privilege::become_root(&further)
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(Error::Runtime)?.block_on(work))
}
