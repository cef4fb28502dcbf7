//! Deployment.

use crate::meta::ObjectMeta;
use crate::selector::LabelSelector;
use crate::view::{Condition, IntOrString, Template, object, views};

views! {
    pub struct Deployment {
        pub metadata: ObjectMeta,
        pub spec: DeploymentSpec,
        pub status: DeploymentStatus,
    }

    pub struct DeploymentSpec {
        /// Absent means 1.
        pub replicas: Option<i32>,
        pub selector: LabelSelector,
        pub template: Template,
        pub strategy: Strategy,
        pub min_ready_seconds: i32,
        pub revision_history_limit: Option<i32>,
        pub paused: bool,
        pub progress_deadline_seconds: Option<i32>,
    }

    pub struct Strategy {
        /// `RollingUpdate` or `Recreate`.
        #[serde(rename = "type")]
        pub kind: String,
        pub rolling_update: RollingUpdate,
    }

    pub struct RollingUpdate {
        pub max_unavailable: Option<IntOrString>,
        pub max_surge: Option<IntOrString>,
    }

    pub struct DeploymentStatus {
        pub observed_generation: i64,
        pub replicas: i32,
        pub updated_replicas: i32,
        pub ready_replicas: i32,
        pub available_replicas: i32,
        pub unavailable_replicas: i32,
        pub terminating_replicas: Option<i32>,
        pub collision_count: Option<i32>,
        pub conditions: Vec<Condition>,
    }
}

object!(Deployment, DEPLOYMENT);

impl Deployment {
    /// How many pods it wants.
    pub fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }
}
