//! ResourceQuota.

use crate::meta::ObjectMeta;
use crate::view::{Resources, object, views};

views! {
    pub struct ResourceQuota {
        pub metadata: ObjectMeta,
        pub spec: ResourceQuotaSpec,
        pub status: ResourceQuotaStatus,
    }

    pub struct ResourceQuotaSpec {
        pub hard: Resources,
        pub scopes: Vec<String>,
        pub scope_selector: ScopeSelector,
    }

    pub struct ScopeSelector {
        pub match_expressions: Vec<ScopedRequirement>,
    }

    pub struct ScopedRequirement {
        pub scope_name: String,
        /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
        pub operator: String,
        pub values: Vec<String>,
    }

    pub struct ResourceQuotaStatus {
        pub hard: Resources,
        pub used: Resources,
    }
}

object!(ResourceQuota, RESOURCE_QUOTA);
