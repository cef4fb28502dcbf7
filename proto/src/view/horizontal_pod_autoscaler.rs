//! HorizontalPodAutoscaler (autoscaling/v2).

use crate::meta::ObjectMeta;
use crate::quantity::Quantity;
use crate::selector::LabelSelector;
use crate::time::Time;
use crate::view::{Condition, object, views};

views! {
    pub struct HorizontalPodAutoscaler {
        pub metadata: ObjectMeta,
        pub spec: AutoscalerSpec,
        pub status: AutoscalerStatus,
    }

    pub struct AutoscalerSpec {
        pub scale_target_ref: CrossVersionReference,
        /// Absent means 1.
        pub min_replicas: Option<i32>,
        pub max_replicas: i32,
        pub metrics: Vec<MetricSpec>,
        pub behavior: Behavior,
    }

    pub struct CrossVersionReference {
        pub api_version: String,
        pub kind: String,
        pub name: String,
    }

    /// One of the sources is set, the one that the type names.
    pub struct MetricSpec {
        #[serde(rename = "type")]
        pub kind: String,
        pub resource: Option<ResourceSource>,
        pub container_resource: Option<ResourceSource>,
        pub pods: Option<NamedSource>,
        pub object: Option<NamedSource>,
        pub external: Option<NamedSource>,
    }

    pub struct ResourceSource {
        pub name: String,
        /// Of a container only.
        pub container: String,
        pub target: Target,
    }

    pub struct NamedSource {
        pub metric: MetricIdentifier,
        /// Of an object only.
        pub described_object: CrossVersionReference,
        pub target: Target,
    }

    pub struct MetricIdentifier {
        pub name: String,
        pub selector: Option<LabelSelector>,
    }

    pub struct Target {
        /// `Utilization`, `Value` or `AverageValue`.
        #[serde(rename = "type")]
        pub kind: String,
        pub value: Option<Quantity>,
        pub average_value: Option<Quantity>,
        pub average_utilization: Option<i32>,
    }

    pub struct Behavior {
        pub scale_up: Option<ScalingRules>,
        pub scale_down: Option<ScalingRules>,
    }

    pub struct ScalingRules {
        pub stabilization_window_seconds: Option<i32>,
        /// `Max` (or absent), `Min` or `Disabled`.
        pub select_policy: Option<String>,
        pub policies: Vec<ScalingPolicy>,
        pub tolerance: Option<Quantity>,
    }

    pub struct ScalingPolicy {
        /// `Pods` or `Percent`.
        #[serde(rename = "type")]
        pub kind: String,
        pub value: i32,
        pub period_seconds: i32,
    }

    pub struct AutoscalerStatus {
        pub observed_generation: Option<i64>,
        pub last_scale_time: Option<Time>,
        pub current_replicas: i32,
        pub desired_replicas: i32,
        pub current_metrics: Vec<MetricStatus>,
        pub conditions: Vec<Condition>,
    }

    pub struct MetricStatus {
        #[serde(rename = "type")]
        pub kind: String,
        pub resource: Option<ResourceStatus>,
        pub container_resource: Option<ResourceStatus>,
        pub pods: Option<NamedStatus>,
        pub object: Option<NamedStatus>,
        pub external: Option<NamedStatus>,
    }

    pub struct ResourceStatus {
        pub name: String,
        pub container: String,
        pub current: Current,
    }

    pub struct NamedStatus {
        pub metric: MetricIdentifier,
        pub described_object: Option<CrossVersionReference>,
        pub current: Current,
    }

    pub struct Current {
        pub value: Option<Quantity>,
        pub average_value: Option<Quantity>,
        pub average_utilization: Option<i32>,
    }
}

object!(HorizontalPodAutoscaler, HORIZONTAL_POD_AUTOSCALER);
