//! Lease (coordination.k8s.io/v1): whole, because leaders and nodes write it from this.

use crate::meta::ObjectMeta;
use crate::time::MicroTime;
use crate::view::{object, views};

views! {
    pub struct Lease {
        pub metadata: ObjectMeta,
        pub spec: LeaseSpec,
    }

    pub struct LeaseSpec {
        /// Empty once released.
        pub holder_identity: String,
        pub lease_duration_seconds: Option<i32>,
        pub acquire_time: Option<MicroTime>,
        pub renew_time: Option<MicroTime>,
        pub lease_transitions: i32,
    }
}

object!(Lease, LEASE);
