//! The controllers, and the framework they stand on. A controller is a pure function from an
//! object and a view of the others to a plan; the framework alone waits, retries and writes.
//! Nothing here opens a socket or reads a clock by itself.

pub mod attach_detach;
pub mod backends;
pub mod bootstrap_token;
pub mod certificates;
pub mod cluster_role;
pub mod cron_job;
pub mod daemon_set;
pub mod deployment;
pub mod device_taint_eviction;
pub mod discovery;
pub mod disruption;
pub mod endpoint_slice;
pub mod endpoint_slice_mirroring;
pub mod endpoints;
pub mod ephemeral_volume;
mod execute;
mod failed_pods;
pub mod garbage_collector;
pub mod horizontal_pod_autoscaler;
pub mod host_path;
pub mod job;
pub mod legacy_service_account_token;
pub mod load_balancer;
mod metrics;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod options;
pub mod persistent_volume;
pub mod plan;
pub mod pod_gc;
pub mod quota;
pub mod replica_set;
pub mod replication_controller;
pub mod resource_claim;
pub mod revisions;
pub mod root_ca;
pub mod run;
pub mod service_account;
pub mod service_account_token;
pub mod service_cidr;
pub mod stateful_set;
pub mod storage_protection;
pub mod taint_eviction;
pub mod ttl_after_finished;
pub mod validating_admission_policy;
pub mod view;
pub mod volume_expansion;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use client::{
    CancellationToken, Candidate, Client, Clock, Informers, LeaseName, Queues, Recorder, Rng,
    endpoint, lead,
};
use proto::cron::Zone;

use crate::attach_detach::AttachDetach;
use crate::bootstrap_token::{Signer, TokenCleaner};
use crate::certificates::{Approver, Authority, AuthorityError, Cleaner, SignerController};
use crate::cluster_role::Aggregation;
use crate::cron_job::CronJobs;
use crate::daemon_set::DaemonSets;
use crate::deployment::Deployments;
use crate::device_taint_eviction::DeviceTaintEviction;
use crate::disruption::Disruption;
use crate::endpoint_slice::EndpointSlices;
use crate::endpoint_slice_mirroring::EndpointSliceMirroring;
use crate::endpoints::EndpointsOfServices;
use crate::ephemeral_volume::EphemeralVolumes;
use crate::legacy_service_account_token::LegacyTokens;
use crate::load_balancer::LoadBalancers;
use crate::node_ipam::{Blocks, BlocksError, NodeIpam};
use crate::node_lifecycle::NodeLifecycle;
pub use crate::options::{Options, UnknownController};
use crate::pod_gc::PodGc;
use crate::quota::Quotas;
use crate::replica_set::ReplicaSets;
use crate::replication_controller::ReplicationControllers;
use crate::root_ca::RootCa;
use crate::run::{Controller, Setup};
use crate::service_account::ServiceAccounts;
use crate::service_account_token::{KeyError, SigningKey, TokenSecrets};
use crate::service_cidr::ServiceCidrs;
use crate::stateful_set::StatefulSets;
use crate::storage_protection::{ClaimProtection, VolumeProtection};
use crate::taint_eviction::TaintEviction;
use crate::ttl_after_finished::TtlAfterFinished;
use crate::volume_expansion::VolumeExpansion;

/// The name of the Lease and of the writer of fields.
const COMPONENT: &str = "kube-controller-manager";

/// Controllers whose events come from another name than their own.
const SOURCES: &[(&str, &str)] = &[
    (AttachDetach::NAME, "attachdetach-controller"),
    (DeviceTaintEviction::NAME, "device_taint_eviction"),
    (Disruption::NAME, "controllermanager"),
    (EndpointSliceMirroring::NAME, "endpoint-slice-mirroring-controller"),
    (EndpointSlices::NAME, "endpoint-slice-controller"),
    (EndpointsOfServices::NAME, "endpoint-controller"),
    (EphemeralVolumes::NAME, "ephemeral_volume"),
    (LoadBalancers::NAME, "service-controller"),
    (NodeIpam::NAME, "cidrAllocator"),
    (NodeLifecycle::NAME, "node-controller"),
    (ReplicationControllers::NAME, "replication-controller"),
    (VolumeExpansion::NAME, "volume_expand"),
    (horizontal_pod_autoscaler::NAME, "horizontal-pod-autoscaler"),
    (persistent_volume::NAME, "persistentvolume-controller"),
    (resource_claim::NAME, "resource_claim"),
];

/// From whom a controller's events are.
fn source(controller: &'static str) -> &'static str {
    SOURCES.iter().find(|(name, _)| *name == controller).map_or(controller, |(_, source)| source)
}

/// Why the controllers do not run, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("--controllers cannot be used")]
    Controllers { source: UnknownController },
    #[error("cannot read {path}, the certificate authority to publish")]
    RootCa { path: PathBuf, source: std::io::Error },
    #[error("preparing to sign tokens")]
    TokenKey(#[from] KeyError),
    #[error("preparing to sign certificates")]
    Authority(#[from] AuthorityError),
    #[error("dividing --cluster-cidr among the nodes")]
    Blocks(#[from] BlocksError),
    #[error("serving metrics and health")]
    Endpoint(#[from] endpoint::Error),
    #[error("another copy may be at work")]
    Leader { source: client::lead::Lost },
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A controller's name and how it starts; `None` where the options leave it out.
type Start = (&'static str, fn(&Options, Setup) -> Result<Option<Task>, RunError>);

/// Every controller there is, by upstream's names.
static CONTROLLERS: &[Start] = &[
    (Deployments::NAME, |_, setup| Ok(start(Deployments, setup))),
    (ReplicaSets::NAME, |_, setup| Ok(start(ReplicaSets, setup))),
    (ReplicationControllers::NAME, |_, setup| Ok(start(ReplicationControllers, setup))),
    (StatefulSets::NAME, |_, setup| Ok(start(StatefulSets, setup))),
    (DaemonSets::NAME, |_, setup| Ok(start(DaemonSets, setup))),
    (job::NAME, |_, setup| Ok(Some(Box::pin(job::run(setup))))),
    (CronJobs::NAME, |_, setup| Ok(start(CronJobs { zone: Zone::local() }, setup))),
    (horizontal_pod_autoscaler::NAME, |_, setup| {
        Ok(Some(Box::pin(horizontal_pod_autoscaler::run(setup))))
    }),
    (TtlAfterFinished::NAME, |_, setup| Ok(start(TtlAfterFinished, setup))),
    (garbage_collector::NAME, |_, setup| Ok(Some(Box::pin(garbage_collector::run(setup))))),
    (namespace::NAME, |_, setup| Ok(Some(Box::pin(namespace::run(setup))))),
    (NodeLifecycle::NAME, |options, setup| {
        Ok(start(NodeLifecycle { grace: options.node_monitor_grace_period }, setup))
    }),
    (TaintEviction::NAME, |_, setup| Ok(start(TaintEviction, setup))),
    (DeviceTaintEviction::NAME, |_, setup| Ok(start(DeviceTaintEviction, setup))),
    (PodGc::NAME, |options, setup| {
        Ok(start(PodGc { threshold: options.terminated_pod_gc_threshold }, setup))
    }),
    (Disruption::NAME, |_, setup| Ok(start(Disruption, setup))),
    (EndpointSlices::NAME, |_, setup| Ok(start(EndpointSlices, setup))),
    (EndpointsOfServices::NAME, |_, setup| Ok(start(EndpointsOfServices, setup))),
    (EndpointSliceMirroring::NAME, |_, setup| Ok(start(EndpointSliceMirroring, setup))),
    (ServiceCidrs::NAME, |_, setup| Ok(start(ServiceCidrs, setup))),
    (Aggregation::NAME, |_, setup| Ok(start(Aggregation, setup))),
    (ServiceAccounts::NAME, |_, setup| Ok(start(ServiceAccounts, setup))),
    (Quotas::NAME, |_, setup| Ok(start(Quotas, setup))),
    (ClaimProtection::NAME, |_, setup| Ok(start(ClaimProtection, setup))),
    (VolumeProtection::NAME, |_, setup| Ok(start(VolumeProtection, setup))),
    (persistent_volume::NAME, |_, setup| Ok(Some(Box::pin(persistent_volume::run(setup))))),
    (AttachDetach::NAME, |_, setup| Ok(start(AttachDetach, setup))),
    (EphemeralVolumes::NAME, |_, setup| Ok(start(EphemeralVolumes, setup))),
    (VolumeExpansion::NAME, |_, setup| Ok(start(VolumeExpansion, setup))),
    (resource_claim::NAME, |_, setup| Ok(Some(Box::pin(resource_claim::run(setup))))),
    (host_path::NAME, |_, setup| Ok(Some(Box::pin(host_path::run(setup))))),
    (validating_admission_policy::NAME, |_, setup| {
        Ok(Some(Box::pin(validating_admission_policy::run(setup))))
    }),
    (RootCa::NAME, |options, setup| {
        let Some(certificates) = root_ca(options)? else { return Ok(None) };
        Ok(start(RootCa { certificates }, setup))
    }),
    (TokenSecrets::NAME, |options, setup| {
        let Some(path) = &options.service_account_private_key_file else { return Ok(None) };
        let key = SigningKey::open(path)?;
        let root_ca = root_ca(options)?.unwrap_or_default();
        Ok(start(TokenSecrets { key, root_ca }, setup))
    }),
    (Approver::NAME, |_, setup| Ok(start(Approver, setup))),
    (SignerController::NAME, |options, setup| {
        let (Some(certificate), Some(key)) =
            (&options.cluster_signing_cert_file, &options.cluster_signing_key_file)
        else {
            return Ok(None);
        };
        let authority = Authority::open(certificate, key, options.cluster_signing_duration)?;
        Ok(start(SignerController { authority }, setup))
    }),
    (Cleaner::NAME, |_, setup| Ok(start(Cleaner, setup))),
    (LegacyTokens::NAME, |options, setup| {
        let period = options.legacy_service_account_token_clean_up_period;
        Ok(start(LegacyTokens { period }, setup))
    }),
    (TokenCleaner::NAME, |_, setup| Ok(start(TokenCleaner, setup))),
    (Signer::NAME, |_, setup| Ok(start(Signer, setup))),
    (NodeIpam::NAME, |options, setup| {
        let Some(range) = options.cluster_cidr.as_ref().filter(|_| options.allocate_node_cidrs)
        else {
            return Ok(None);
        };
        let blocks = Blocks::new(range, options.node_cidr_mask_size)?;
        Ok(start(NodeIpam { blocks }, setup))
    }),
    (LoadBalancers::NAME, |options, setup| {
        let Some(range) = options.load_balancer_cidr else { return Ok(None) };
        Ok(start(LoadBalancers { range }, setup))
    }),
];

fn start<C: Controller>(controller: C, setup: Setup) -> Option<Task> {
    Some(Box::pin(run::run(controller, setup)))
}

/// PEM.
fn root_ca(options: &Options) -> Result<Option<String>, RunError> {
    let path = options.root_ca_file.as_ref();
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path)
            .map_err(|source| RunError::RootCa { path: path.clone(), source })
    };
    path.map(read).transpose()
}

/// Runs the controllers until `shutdown`; with leader election only while leading.
pub async fn run(
    options: Options,
    client: Client,
    informers: Informers,
    clock: Clock,
    rng: Rng,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let names: Vec<&str> = CONTROLLERS.iter().map(|(name, _)| *name).collect();
    let enabled = options.enabled(&names).map_err(|source| RunError::Controllers { source })?;
    let client = client.named(COMPONENT);
    let queues = Queues::new(clock.clone());
    let candidate = options.leader_elect.then(|| {
        let identity = format!("{}_{}", hostname(), rng.uuid());
        Candidate::new(LeaseName::system(COMPONENT), identity)
    });
    let standing = candidate.as_ref().map(|candidate| &candidate.standing);
    let pages = metrics::pages(&queues, standing, &clock);
    let (port, flags) = (options.secure_port, &options.endpoint);
    let _endpoint = endpoint::open(port, flags, &client, &clock, pages).await?;
    let work = |shutdown: CancellationToken| {
        let setup = |name| Setup {
            client: client.clone(),
            informers: informers.clone(),
            clock: clock.clone(),
            recorder: Recorder::new(client.clone(), clock.clone(), rng.clone(), source(name), ""),
            queues: queues.clone(),
        };
        let enabled = CONTROLLERS.iter().filter(|(name, _)| enabled.contains(name));
        let tasks: Result<Vec<Option<Task>>, RunError> =
            enabled.map(|(name, start)| start(&options, setup(name))).collect();
        async move {
            tokio::select! {
                _ = futures::future::join_all(tasks?.into_iter().flatten()) => {}
                () = shutdown.cancelled() => {}
            }
            Ok(())
        }
    };
    let Some(candidate) = candidate else { return work(shutdown).await };
    let led = lead(client.clone(), clock.clone(), rng.clone(), candidate, shutdown, work);
    match led.await {
        Ok(outcome) => outcome.unwrap_or(Ok(())),
        Err(source) => Err(RunError::Leader { source }),
    }
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_string()
}
