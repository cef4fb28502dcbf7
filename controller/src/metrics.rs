//! What the controllers show of themselves. Work queues count for themselves; here is what they are
//! called in the figures, which is what upstream calls them.

use client::endpoint::{Check, Pages};
use client::{Clock, Queues, Standing};

use crate::COMPONENT;

/// Controller, resource (empty: whatever it looks after), and its queue's name upstream. A queue
/// that is not here is called as its controller.
const QUEUES: &[(&str, &str, &str)] = &[
    ("bootstrap-signer-controller", "", "bootstrap_signer_queue"),
    ("certificatesigningrequest-signing-controller", "", "certificate"),
    ("clusterrole-aggregation-controller", "", "ClusterRoleAggregator"),
    ("coracle-host-path-provisioner", "persistentvolumeclaims", "coracle_host_path_claims"),
    ("coracle-host-path-provisioner", "persistentvolumes", "coracle_host_path_volumes"),
    ("cronjob-controller", "", "cronjob"),
    ("daemonset-controller", "", "daemonset"),
    ("deployment-controller", "", "deployment"),
    ("device-taint-eviction-controller", "", "device_taint_eviction"),
    ("disruption-controller", "", "disruption"),
    ("endpoints-controller", "", "endpoint"),
    ("endpointslice-controller", "", "endpoint_slice"),
    ("endpointslice-mirroring-controller", "", "endpoint_slice_mirroring"),
    ("ephemeral-volume-controller", "", "ephemeral_volume"),
    ("garbage-collector-controller", "", "garbage_collector_attempt_to_delete"),
    ("horizontal-pod-autoscaler-controller", "", "horizontalpodautoscaler"),
    ("job-controller", "", "job"),
    ("job-orphans-controller", "", "job_orphan_pod"),
    ("namespace-controller", "", "namespace"),
    ("node-lifecycle-controller", "", "node_lifecycle_controller"),
    ("persistentvolume-binder-controller", "persistentvolumeclaims", "claims"),
    ("persistentvolume-binder-controller", "persistentvolumes", "volumes"),
    ("persistentvolume-expander-controller", "", "volume_expand"),
    ("persistentvolume-protection-controller", "", "pvprotection"),
    ("persistentvolumeclaim-protection-controller", "", "pvcprotection"),
    ("replicaset-controller", "", "replicaset"),
    ("replicationcontroller-controller", "", "replicationmanager"),
    ("resourceclaim-controller", "pods", "resource_claim_pods"),
    ("resourceclaim-controller", "resourceclaims", "resource_claim"),
    ("resourcequota-controller", "", "resourcequota_primary"),
    ("root-ca-certificate-publisher-controller", "", "root_ca_cert_publisher"),
    ("service-lb-controller", "", "service"),
    ("serviceaccount-controller", "", "serviceaccount"),
    ("serviceaccount-token-controller", "", "serviceaccount_tokens_secret"),
    ("statefulset-controller", "", "statefulset"),
    ("taint-eviction-controller", "", "noexec_taint_pod"),
    ("token-cleaner-controller", "", "token_cleaner"),
    ("ttl-after-finished-controller", "", "ttl_jobs_to_delete"),
    ("validatingadmissionpolicy-status-controller", "", "validatingadmissionpolicy-status"),
];

/// What the queue is called of this controller for this resource.
pub(crate) fn queue_name(controller: &'static str, resource: &str) -> &'static str {
    let row = QUEUES
        .iter()
        .find(|(of, what, _)| *of == controller && (what.is_empty() || *what == resource));
    row.map_or(controller, |(_, _, name)| name)
}

/// Everything that is shown. `standing` is there where a leader is elected.
pub(crate) fn pages(queues: &Queues, standing: Option<&Standing>, clock: &Clock) -> Pages {
    let (queues, shown) = (queues.clone(), standing.cloned());
    let checks = standing.map(|standing| {
        let (standing, clock) = (standing.clone(), clock.clone());
        Check::new("leaderElection", move || standing.is_well(&clock))
    });
    Pages::default()
        .metrics(move |text| {
            queues.write(text);
            if let Some(standing) = &shown {
                standing.write(COMPONENT, text);
            }
        })
        .health("healthz", checks.as_slice())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_queue_has_a_name_of_its_own() {
        let known: BTreeSet<&str> = crate::CONTROLLERS.iter().map(|(name, _)| *name).collect();
        let names: BTreeSet<&str> = QUEUES.iter().map(|(_, _, name)| *name).collect();
        assert_eq!(names.len(), QUEUES.len());
        for (controller, ..) in QUEUES {
            let there = known.contains(controller) || *controller == "job-orphans-controller";
            assert!(there, "{controller}");
        }
        assert_eq!(
            queue_name("persistentvolume-binder-controller", "persistentvolumes"),
            "volumes"
        );
        assert_eq!(queue_name("node-ipam-controller", "nodes"), "node-ipam-controller");
    }
}
