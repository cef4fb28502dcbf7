//! Pod: placement, resources, readiness.
//!
//! Its lists are boxes: processes hold very many pods, and a `Vec` is read with room for four.

use crate::meta::{Labels, ObjectMeta};
use crate::selector::{Expression, LabelSelector};
use crate::time::Time;
use crate::view::node::Taint;
use crate::view::{Condition, Resources, object, views};

views! {
    pub struct Pod {
        pub metadata: ObjectMeta,
        pub spec: PodSpec,
        pub status: PodStatus,
    }

    pub struct PodSpec {
        pub node_name: String,
        pub scheduler_name: String,
        pub containers: Box<[Container]>,
        pub init_containers: Box<[Container]>,
        pub overhead: Resources,
        /// Of the pod as a whole.
        pub resources: Requirements,
        pub node_selector: Labels,
        pub affinity: Option<Box<Affinity>>,
        pub tolerations: Box<[Toleration]>,
        pub topology_spread_constraints: Box<[TopologySpreadConstraint]>,
        pub priority: Option<i32>,
        pub priority_class_name: String,
        /// `PreemptLowerPriority` or `Never`.
        pub preemption_policy: String,
        pub host_network: bool,
        pub hostname: String,
        pub subdomain: String,
        pub service_account_name: String,
        pub termination_grace_period_seconds: Option<i64>,
        pub active_deadline_seconds: Option<i64>,
        pub scheduling_gates: Box<[SchedulingGate]>,
        pub restart_policy: String,
        pub volumes: Box<[Volume]>,
        pub readiness_gates: Box<[ReadinessGate]>,
        pub resource_claims: Box<[PodClaim]>,
    }

    /// A ResourceClaim of the pod, by name or made from a template.
    pub struct PodClaim {
        pub name: String,
        pub resource_claim_name: Option<String>,
        pub resource_claim_template_name: Option<String>,
    }

    pub struct Container {
        pub name: String,
        pub image: String,
        pub resources: Requirements,
        pub ports: Box<[ContainerPort]>,
        /// `Always` makes an init container a sidecar.
        pub restart_policy: String,
        pub readiness_probe: Option<Probe>,
    }

    /// Only whether there is one matters here.
    pub struct Probe {
        pub period_seconds: i32,
        pub initial_delay_seconds: i32,
    }

    pub struct Requirements {
        pub requests: Resources,
        pub limits: Resources,
        pub claims: Box<[ContainerClaim]>,
    }

    /// A claim of the pod that the container uses, or a single request of it.
    pub struct ContainerClaim {
        pub name: String,
        pub request: String,
    }

    pub struct ContainerPort {
        pub name: String,
        pub container_port: i32,
        pub host_port: i32,
        #[serde(rename = "hostIP")]
        pub host_ip: String,
        pub protocol: String,
    }

    /// What of a volume bears on placement.
    pub struct Volume {
        pub name: String,
        pub persistent_volume_claim: Option<ClaimVolume>,
        /// Its claim is named for the pod and the volume.
        pub ephemeral: Option<EphemeralVolume>,
    }

    /// Only whether there is one matters here.
    pub struct EphemeralVolume {
        pub read_only: bool,
    }

    pub struct ClaimVolume {
        pub claim_name: String,
        pub read_only: bool,
    }

    pub struct SchedulingGate {
        pub name: String,
    }

    pub struct ReadinessGate {
        pub condition_type: String,
    }

    pub struct Toleration {
        /// Empty with `Exists`: every key.
        pub key: String,
        /// `Equal` (or empty) or `Exists`.
        pub operator: String,
        pub value: String,
        /// Empty: every effect.
        pub effect: String,
        pub toleration_seconds: Option<i64>,
    }

    pub struct Affinity {
        pub node_affinity: NodeAffinity,
        pub pod_affinity: PodAffinity,
        pub pod_anti_affinity: PodAffinity,
    }

    pub struct NodeAffinity {
        #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
        pub required: Option<NodeSelector>,
        #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
        pub preferred: Vec<PreferredNodes>,
    }

    /// Terms are alternatives.
    pub struct NodeSelector {
        pub node_selector_terms: Vec<NodeSelectorTerm>,
    }

    /// Expressions and fields must all hold; a term without any matches nothing.
    pub struct NodeSelectorTerm {
        pub match_expressions: Vec<Expression>,
        pub match_fields: Vec<Expression>,
    }

    pub struct PreferredNodes {
        pub weight: i32,
        pub preference: NodeSelectorTerm,
    }

    pub struct PodAffinity {
        #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
        pub required: Vec<PodAffinityTerm>,
        #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
        pub preferred: Vec<PreferredPods>,
    }

    pub struct PodAffinityTerm {
        pub label_selector: Option<LabelSelector>,
        pub namespaces: Vec<String>,
        pub namespace_selector: Option<LabelSelector>,
        pub topology_key: String,
        pub match_label_keys: Vec<String>,
        pub mismatch_label_keys: Vec<String>,
    }

    pub struct PreferredPods {
        pub weight: i32,
        pub pod_affinity_term: PodAffinityTerm,
    }

    pub struct TopologySpreadConstraint {
        pub max_skew: i32,
        pub topology_key: String,
        /// `DoNotSchedule` or `ScheduleAnyway`.
        pub when_unsatisfiable: String,
        pub label_selector: Option<LabelSelector>,
        pub min_domains: Option<i32>,
        pub node_affinity_policy: Option<String>,
        pub node_taints_policy: Option<String>,
        pub match_label_keys: Vec<String>,
    }

    pub struct PodStatus {
        pub phase: String,
        pub conditions: Box<[Condition]>,
        pub reason: String,
        pub message: String,
        #[serde(rename = "podIP")]
        pub pod_ip: String,
        #[serde(rename = "podIPs")]
        pub pod_ips: Box<[PodIp]>,
        #[serde(rename = "hostIP")]
        pub host_ip: String,
        pub start_time: Option<Time>,
        pub container_statuses: Box<[ContainerStatus]>,
        pub init_container_statuses: Box<[ContainerStatus]>,
        pub nominated_node_name: String,
        pub qos_class: String,
        pub resource_claim_statuses: Box<[PodClaimStatus]>,
        pub extended_resource_claim_status: Option<ExtendedClaimStatus>,
    }

    /// The claim that was made for the extended resources of the pod that a class of devices stands
    /// for.
    pub struct ExtendedClaimStatus {
        pub resource_claim_name: String,
        pub request_mappings: Vec<RequestMapping>,
    }

    /// A request of that claim, and the extended resource of a container that it answers.
    pub struct RequestMapping {
        pub container_name: String,
        pub resource_name: String,
        pub request_name: String,
    }

    /// Which claim was made for the pod's claim of that name; none: there is no need of one.
    pub struct PodClaimStatus {
        pub name: String,
        pub resource_claim_name: Option<String>,
    }

    pub struct PodIp {
        pub ip: String,
    }

    pub struct ContainerStatus {
        pub name: String,
        pub ready: bool,
        pub restart_count: i32,
        pub state: ContainerState,
    }

    /// One of them is set.
    pub struct ContainerState {
        pub waiting: Option<Waiting>,
        pub running: Option<Running>,
        pub terminated: Option<Terminated>,
    }

    pub struct Waiting {
        pub reason: String,
        pub message: String,
    }

    pub struct Running {
        pub started_at: Option<Time>,
    }

    pub struct Terminated {
        pub exit_code: i32,
        pub reason: String,
        pub message: String,
        pub started_at: Option<Time>,
        pub finished_at: Option<Time>,
    }
}

object!(Pod, POD, terms);

/// Pods are looked for by their labels, their node and the claims that they use.
fn terms(pod: &Pod) -> Vec<String> {
    let namespace = &pod.metadata.namespace;
    let mut terms: Vec<String> = Vec::with_capacity(pod.metadata.labels.len() + 1);
    terms.extend(pod.metadata.labels.iter().map(|(key, value)| term::label(namespace, key, value)));
    terms.extend(pod.claims().map(|claim| term::claim(namespace, &claim.name)));
    if !pod.spec.node_name.is_empty() {
        terms.push(term::node(&pod.spec.node_name));
    }
    terms
}

/// A term of each sort; no two are alike, as names and labels bear no zero byte.
pub mod term {
    pub fn label(namespace: &str, key: &str, value: &str) -> String {
        [namespace, "\0", key, "=", value].concat()
    }

    pub fn claim(namespace: &str, name: &str) -> String {
        [namespace, "\0\0", name].concat()
    }

    pub fn node(name: &str) -> String {
        ["\0", name].concat()
    }
}

impl Requirements {
    pub fn is_set(&self) -> bool {
        !self.requests.is_empty() || !self.limits.is_empty()
    }
}

impl Pod {
    /// Whether it has ended for good.
    pub fn is_terminal(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    pub fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Neither ended nor being deleted: what controllers count.
    pub fn is_active(&self) -> bool {
        !self.is_terminal() && !self.is_terminating()
    }

    pub fn is_ready(&self) -> bool {
        Condition::is_true(&self.status.conditions, "Ready")
    }

    /// Since when it is ready.
    pub fn ready_since(&self) -> Option<Time> {
        let ready = Condition::find(&self.status.conditions, "Ready")?;
        if ready.status == "True" { ready.last_transition_time } else { None }
    }

    /// Ready for at least `min_ready_seconds` at `now`.
    pub fn is_available(&self, min_ready_seconds: i64, now: Time) -> bool {
        self.is_ready()
            && (min_ready_seconds == 0
                || self.ready_since().is_some_and(|since| {
                    let seconds = std::time::Duration::from_secs(min_ready_seconds.max(0) as u64);
                    since.plus(seconds) <= now
                }))
    }

    /// All its addresses, the primary first.
    pub fn ips(&self) -> impl Iterator<Item = &str> {
        let status = &self.status;
        let only = status.pod_ips.is_empty() && !status.pod_ip.is_empty();
        let primary = only.then_some(status.pod_ip.as_str());
        primary.into_iter().chain(status.pod_ips.iter().map(|ip| ip.ip.as_str()))
    }
}

impl Pod {
    /// The claims that its volumes are, by volume: a generic ephemeral one is named for the pod.
    pub fn claims(&self) -> impl Iterator<Item = ClaimUse<'_>> {
        self.spec.volumes.iter().filter_map(|volume| match &volume.persistent_volume_claim {
            Some(claim) => {
                let name = claim.claim_name.clone();
                Some(ClaimUse { volume, name, ephemeral: false })
            }
            None if volume.ephemeral.is_some() => {
                let name = format!("{}-{}", self.metadata.name, volume.name);
                Some(ClaimUse { volume, name, ephemeral: true })
            }
            None => None,
        })
    }
}

/// A volume that is a claim.
#[derive(Clone, Debug)]
pub struct ClaimUse<'a> {
    pub volume: &'a Volume,
    /// Of the claim.
    pub name: String,
    /// It must be the pod's own.
    pub ephemeral: bool,
}

impl NodeSelector {
    /// Whether any of its terms admits the node.
    pub fn admits(&self, node: &str, labels: &Labels) -> bool {
        self.node_selector_terms.iter().any(|term| term.admits(node, labels))
    }
}

impl NodeSelectorTerm {
    /// All of it must hold; an empty term admits nothing. An expression that the API server would
    /// refuse holds nowhere.
    pub fn admits(&self, node: &str, labels: &Labels) -> bool {
        let holds = |wanted: &Expression, actual: Option<&str>| {
            wanted.requirement(true).is_ok_and(|requirement| requirement.matches(actual))
        };
        let label = |key: &str| labels.get(key).map(String::as_str);
        let field = |key: &str| (key == "metadata.name").then_some(node);
        !(self.match_expressions.is_empty() && self.match_fields.is_empty())
            && self.match_expressions.iter().all(|wanted| holds(wanted, label(&wanted.key)))
            && self.match_fields.iter().all(|wanted| holds(wanted, field(&wanted.key)))
    }
}

impl Toleration {
    pub fn tolerates(&self, taint: &Taint) -> bool {
        let effect = self.effect.is_empty() || self.effect == taint.effect;
        let key = self.key.is_empty() || self.key == taint.key;
        let value = match self.operator.as_str() {
            "Exists" => true,
            "" | "Equal" => self.value == taint.value,
            _ => false,
        };
        // An empty key tolerates every taint only together with `Exists`.
        effect && key && value && (!self.key.is_empty() || self.operator == "Exists")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations() {
        let taint = Taint {
            key: "k".into(),
            value: "v".into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        for (key, operator, value, effect, expected) in [
            ("", "Exists", "", "", true),
            ("k", "Exists", "", "NoSchedule", true),
            ("k", "", "v", "", true),
            ("k", "Equal", "w", "", false),
            ("k", "Equal", "v", "NoExecute", false),
            ("", "", "v", "", false),
        ] {
            let toleration = Toleration {
                key: key.into(),
                operator: operator.into(),
                value: value.into(),
                effect: effect.into(),
                toleration_seconds: None,
            };
            assert_eq!(toleration.tolerates(&taint), expected, "{toleration:?}");
        }
    }

    #[test]
    fn availability_counts_from_readiness() {
        let text = r#"{"status":{"conditions":[{"type":"Ready","status":"True",
            "lastTransitionTime":"1970-01-01T00:00:10Z"}]}}"#;
        let pod: Pod = serde_json::from_str(text).unwrap();
        assert!(pod.is_available(0, Time::from_unix(10)));
        assert!(!pod.is_available(5, Time::from_unix(14)));
        assert!(pod.is_available(5, Time::from_unix(15)));
    }
}
