//! DynamicResources: a pod with ResourceClaims runs where its devices are. Nobody allocates devices
//! here, so that such a pod waits, and says why, instead of running without them.

use std::sync::Arc;

use super::{Event, Judge, Plugin, Rejection};
use crate::profile::Args;
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub struct DynamicResources;

struct Claims;

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    /// Nothing that happens in the cluster makes an allocator.
    fn cures(&self) -> &'static [Event] {
        &[]
    }

    fn judge(&self, pod: &Arc<PodInfo>, _: &Snapshot, _: &Args) -> Option<Box<dyn Judge>> {
        let claims = !pod.object.spec.resource_claims.is_empty();
        claims.then(|| Box::new(Claims) as Box<dyn Judge>)
    }
}

impl Judge for Claims {
    fn filter(&self, _: &NodeInfo, _: &Snapshot) -> Option<Rejection> {
        Rejection::lasting("cannot allocate all claims (this scheduler allocates no devices)")
    }
}
