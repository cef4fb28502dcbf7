//! `ctl server`: API server, scheduler and controllers in one process. The latter two speak to the
//! first through its router, without a network, as the users they would be over it.

mod keep;

use std::path::{Path, PathBuf};

use apiserver::server::Check;
use client::{BoxError, CancellationToken, Clock, Informers, Rng, endpoint};
use controller::run::Controller;
use controller::service_account::{self, ServiceAccounts};
use proto::user::User;

pub use keep::Keep;

#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    pub keep: Option<Keep>,
    #[command(flatten)]
    server: apiserver::Options,
    /// Controllers to run: '*' is all, 'foo' the one called foo, '-foo' not that one
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "*",
        allow_hyphen_values = true
    )]
    controllers: Vec<String>,
    /// Give Services of type LoadBalancer addresses of this range
    #[arg(long, value_name = "CIDR")]
    load_balancer_cidr: Option<controller::load_balancer::Range>,
    /// Give every node a range for its pods, out of --cluster-cidr
    #[arg(long, value_name = "BOOL", default_value_t = false, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set,
          requires_if("true", "cluster_cidr"))]
    allocate_node_cidrs: bool,
    /// The range of all pods' addresses
    #[arg(long, value_name = "CIDR")]
    cluster_cidr: Option<String>,
    /// The length of a node's range
    #[arg(long, value_name = "BITS", default_value_t = 24)]
    node_cidr_mask_size: u32,
    /// How pods are scheduled: a KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1)
    #[arg(long, value_name = "FILE")]
    scheduler_config: Option<PathBuf>,
    /// The port of the loopback on which the scheduler's metrics and health are served; 0: nowhere
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    scheduler_secure_port: u16,
    /// The port of the loopback on which the controllers' metrics and health are served; 0: nowhere
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    controller_secure_port: u16,
    /// How logs look
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    pub log_format: String,
}

/// Serves until `shutdown`. An error of any part ends the whole.
pub async fn run(
    options: Options,
    clock: Clock,
    rng: Rng,
    shutdown: CancellationToken,
) -> Result<(), BoxError> {
    // By these names ComponentStatuses tell of them, too.
    let ready = ["controller-manager", "scheduler"].map(Check::new);
    let checks = ready.to_vec();
    let data_dir = options.server.data_dir.clone();
    let token_key = options.server.authn.service_account_signing_key_file.clone();
    let token_key = token_key.unwrap_or_else(|| data_dir.join("pki/sa.key"));
    // An embedded store has one opener, and so this process no rival.
    let leader_elect = !options.server.etcd.servers.is_empty();
    let scheduler = scheduler::Options {
        leader_elect,
        config: options.scheduler_config,
        secure_port: options.scheduler_secure_port,
        endpoint: endpoint_flags(&data_dir),
    };
    scheduler.configuration()?;
    let server =
        apiserver::Server::start_with(options.server, clock.clone(), rng.clone(), checks).await?;
    tracing::info!(address = %server.address(), "serving");
    let component =
        |name: &str| server.client(User::new(&format!("system:{name}"), &["system:authenticated"]));
    let (controllers, schedules) =
        (component("kube-controller-manager"), component("kube-scheduler"));
    // One copy of each kind for both: informers read as the controllers, who may read everything.
    let informers = Informers::new(controllers.clone(), clock.clone(), rng.clone());
    let controller = controller::Options {
        controllers: options.controllers,
        load_balancer_cidr: options.load_balancer_cidr,
        allocate_node_cidrs: options.allocate_node_cidrs,
        cluster_cidr: options.cluster_cidr,
        node_cidr_mask_size: options.node_cidr_mask_size,
        root_ca_file: Some(data_dir.join("pki/ca.crt")),
        service_account_private_key_file: Some(token_key),
        cluster_signing_cert_file: Some(data_dir.join("pki/ca.crt")),
        cluster_signing_key_file: Some(data_dir.join("pki/ca.key")),
        leader_elect,
        secure_port: options.controller_secure_port,
        endpoint: endpoint_flags(&data_dir),
        ..controller::Options::default()
    };
    let makes_accounts = controller.includes(ServiceAccounts::NAME);
    let parts = async {
        let (c, r, i, s) = (clock.clone(), rng.clone(), informers.clone(), shutdown.clone());
        let controllers = controller::run(controller, controllers, i, c, r, s);
        let (c, r, i, s) = (clock.clone(), rng.clone(), informers.clone(), shutdown.clone());
        let scheduler = scheduler::run(scheduler, schedules, i, c, r, s);
        let both =
            futures::future::try_join(async { controllers.await.map_err(BoxError::from) }, async {
                scheduler.await.map_err(BoxError::from)
            });
        match both.await {
            // Told to end; the server ends last.
            Ok(_) => std::future::pending().await,
            Err(error) => error,
        }
    };
    let announce = async {
        if makes_accounts {
            service_account::made(&informers).await;
        }
        ready.iter().for_each(Check::pass);
        tracing::info!("ready");
        std::future::pending::<()>().await
    };
    tokio::select! {
        () = server.serve(shutdown.clone()) => Ok(()),
        error = parts => Err(error),
        () = announce => Ok(()),
    }
}

/// The endpoints of the parts show the certificate of the whole: who knows the cluster's authority
/// knows them. Their callers are those of the API server.
fn endpoint_flags(data_dir: &Path) -> endpoint::Flags {
    endpoint::Flags {
        tls_cert_file: Some(data_dir.join("pki/apiserver.crt")),
        tls_private_key_file: Some(data_dir.join("pki/apiserver.key")),
        ..endpoint::Flags::default()
    }
}
