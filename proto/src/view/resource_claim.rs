//! ResourceClaim, ResourceClaimTemplate and DeviceClass.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::meta::{ObjectMeta, OwnerReference};
use crate::time::Time;
use crate::view::device::Toleration;
use crate::view::pod::{NodeSelector, Pod, PodClaim};
use crate::view::{Resources, object, views};

/// Of the controller that lets allocated devices go; it keeps a claim until that is done.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// On claims made for pods: which of the pod's claims it is.
pub const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// `true` on claims that the scheduler makes of a pod's extended resources.
pub const EXTENDED_CLAIM: &str = "resource.kubernetes.io/extended-resource-claim";

views! {
    pub struct ResourceClaim {
        pub metadata: ObjectMeta,
        pub spec: ResourceClaimSpec,
        pub status: ResourceClaimStatus,
    }

    pub struct ResourceClaimSpec {
        pub devices: DeviceClaim,
    }

    pub struct DeviceClaim {
        pub requests: Vec<DeviceRequest>,
        pub constraints: Vec<DeviceConstraint>,
        pub config: Vec<DeviceConfiguration>,
    }

    pub struct DeviceRequest {
        pub name: String,
        pub exactly: Option<Devices>,
        /// Alternatives, the best first.
        pub first_available: Vec<Devices>,
    }

    /// Devices of one class.
    pub struct Devices {
        /// Of alternatives only.
        pub name: String,
        pub device_class_name: String,
        pub selectors: Vec<DeviceSelector>,
        /// `ExactCount` or `All`.
        pub allocation_mode: String,
        pub count: i64,
        /// To look after devices whoever has them.
        pub admin_access: Option<bool>,
        pub tolerations: Vec<Toleration>,
        pub capacity: Option<CapacityRequirements>,
    }

    pub struct CapacityRequirements {
        pub requests: Resources,
    }

    pub struct DeviceSelector {
        pub cel: Option<CelSelector>,
    }

    pub struct CelSelector {
        pub expression: String,
    }

    /// One of the attributes is set.
    pub struct DeviceConstraint {
        /// Empty: all.
        pub requests: Vec<String>,
        pub match_attribute: Option<String>,
        pub distinct_attribute: Option<String>,
    }

    /// What a driver is told. In an allocation with where it comes from.
    pub struct DeviceConfiguration {
        /// `FromClass` or `FromClaim`, in allocations.
        pub source: String,
        /// Empty: all.
        pub requests: Vec<String>,
        pub opaque: Option<Value>,
    }

    pub struct ResourceClaimStatus {
        pub allocation: Option<Allocation>,
        /// Who may use it.
        pub reserved_for: Vec<Consumer>,
        /// What drivers say of its devices.
        pub devices: Vec<DeviceStatus>,
    }

    pub struct Consumer {
        pub api_group: String,
        pub resource: String,
        pub name: String,
        pub uid: String,
    }

    pub struct Allocation {
        pub devices: AllocatedDevices,
        /// Where the devices can be used; none: everywhere.
        pub node_selector: Option<NodeSelector>,
        pub allocation_timestamp: Option<Time>,
    }

    pub struct AllocatedDevices {
        pub results: Vec<AllocatedDevice>,
        pub config: Vec<DeviceConfiguration>,
    }

    pub struct AllocatedDevice {
        /// `request` or `request/alternative`.
        pub request: String,
        pub driver: String,
        pub pool: String,
        pub device: String,
        pub admin_access: Option<bool>,
        pub tolerations: Vec<Toleration>,
        pub binding_conditions: Vec<String>,
        pub binding_failure_conditions: Vec<String>,
        /// Which of its shares, where several claims may have a part of it.
        #[serde(rename = "shareID")]
        pub share_id: Option<String>,
        pub consumed_capacity: Resources,
    }

    pub struct DeviceStatus {
        pub driver: String,
        pub pool: String,
        pub device: String,
        #[serde(rename = "shareID")]
        pub share_id: Option<String>,
        pub conditions: Vec<crate::view::Condition>,
    }

    pub struct ResourceClaimTemplate {
        pub metadata: ObjectMeta,
    }

    pub struct DeviceClass {
        pub metadata: ObjectMeta,
        pub spec: DeviceClassSpec,
    }

    pub struct DeviceClassSpec {
        pub selectors: Vec<DeviceSelector>,
        pub config: Vec<DeviceConfiguration>,
        /// By which pods may ask for a device of the class as they ask for memory.
        pub extended_resource_name: String,
    }
}

object!(ResourceClaim, RESOURCE_CLAIM);
object!(ResourceClaimTemplate, RESOURCE_CLAIM_TEMPLATE);
object!(DeviceClass, DEVICE_CLASS);

impl ResourceClaim {
    /// The classes of devices that it asks for.
    pub fn classes(&self) -> impl Iterator<Item = &str> {
        let requests = self.spec.devices.requests.iter();
        let devices =
            requests.flat_map(|request| request.exactly.iter().chain(&request.first_available));
        devices.map(|devices| devices.device_class_name.as_str())
    }

    pub fn is_reserved_for(&self, pod: &Pod) -> bool {
        self.status.reserved_for.iter().any(|consumer| consumer.uid == pod.metadata.uid)
    }

    /// The pod for whose extended resources it says it was made, if for any's.
    pub fn extended_owner(&self) -> Option<&OwnerReference> {
        let made = self.metadata.annotations.get(EXTENDED_CLAIM).is_some_and(|it| it == "true");
        let owner = self.metadata.controller().filter(|_| made)?;
        (owner.kind == "Pod" && owner.api_version == "v1").then_some(owner)
    }

    /// Whether it was made for this very pod.
    pub fn is_of(&self, pod: &Pod) -> bool {
        self.metadata.controller().is_some_and(|owner| owner.uid == pod.metadata.uid)
    }
}

impl Consumer {
    pub fn pod(pod: &ObjectMeta) -> Consumer {
        Consumer {
            api_group: String::new(),
            resource: "pods".into(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        }
    }

    pub fn is_pod(&self) -> bool {
        self.api_group.is_empty() && self.resource == "pods"
    }
}

/// What a pod calls its claim, and which it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedClaim {
    /// Empty: the one that was made for its extended resources.
    pub pod_claim: String,
    pub name: String,
    /// It must be the pod's own.
    pub made: bool,
}

impl Pod {
    /// The ResourceClaims that it names; none of them where one is not made yet. One of which the status says that
    /// there is no need of it is left out.
    pub fn resource_claims(&self) -> Option<Vec<NamedClaim>> {
        let mut claims = Vec::new();
        for claim in &self.spec.resource_claims {
            let (name, made) = match self.claim_name(claim)? {
                (Some(name), made) => (name.to_string(), made),
                (None, _) => continue,
            };
            claims.push(NamedClaim { pod_claim: claim.name.clone(), name, made });
        }
        Some(claims)
    }

    /// With the one that was made for its extended resources.
    pub fn all_claims(&self) -> Option<Vec<NamedClaim>> {
        let mut claims = self.resource_claims()?;
        claims.extend(self.extended_claim());
        Some(claims)
    }

    /// The claim that was made for its extended resources.
    pub fn extended_claim(&self) -> Option<NamedClaim> {
        let status = self.status.extended_resource_claim_status.as_ref()?;
        let name = status.resource_claim_name.clone();
        Some(NamedClaim { pod_claim: String::new(), name, made: true })
    }

    /// The name of the claim, if one is needed, and whether it was made for the pod; none where that
    /// is not known yet.
    pub fn claim_name<'a>(&'a self, claim: &'a PodClaim) -> Option<(Option<&'a str>, bool)> {
        if let Some(name) = &claim.resource_claim_name {
            return Some((Some(name), false));
        }
        let mut statuses = self.status.resource_claim_statuses.iter();
        let status = statuses.find(|status| status.name == claim.name)?;
        Some((status.resource_claim_name.as_deref(), true))
    }
}

/// Attributes and the like by their names: `name`, or `domain/name`.
pub type Named<T> = BTreeMap<String, T>;
