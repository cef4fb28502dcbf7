//! What each kind does differently: defaults that depend on other fields, preparation, validation,
//! deletion, selectable fields, table cells. The registry calls it on the way of every write, in
//! the order of the hooks of [`Strategy`]. Everything here is pure but [`Strategy::reserve`], which
//! may read the store; nothing here may write it, nor read a clock or a source of randomness.
//!
//! Objects that arrive have been through `schema::check` and `schema::default`: they hold known,
//! correctly typed fields and the static defaults; nulls are gone.

pub mod autoscaler;
pub mod certificate;
pub mod check;
pub mod classes;
pub mod cluster_ip;
pub mod component_status;
pub mod condition;
pub mod config;
pub mod controller_revision;
pub mod cron_job;
pub mod csi;
pub mod daemon_set;
pub mod deployment;
pub mod described;
pub mod device;
pub mod endpoints;
pub mod event;
pub mod flow;
pub mod ingress;
pub mod job;
pub mod lease;
pub mod lens;
pub mod limit_range;
pub mod metadata;
pub mod name;
pub mod namespace;
pub mod network_policy;
pub mod node;
pub mod path;
pub mod persistent_volume;
pub mod persistent_volume_claim;
pub mod pod;
pub mod pod_disruption_budget;
pub mod policy;
pub mod rbac;
pub mod replica_set;
pub mod replication_controller;
pub mod resource_metrics;
pub mod resource_quota;
pub mod service;
pub mod service_account;
pub mod stateful_set;
pub mod storage;
pub mod table;
pub mod template;
pub mod webhook;

use futures::future::BoxFuture;
use proto::kind::{self, Row};
use proto::status::{FieldError, Status};
use proto::time::Time;
use proto::user::User;
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

pub use self::name::NameRule;

use self::lens::Lens;
use self::service::pool::Pool;
use crate::store::{Guard, Op};

/// What a strategy may know about the request.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub row: &'a Row,
    pub now: Time,
    /// Drawn anew for every request.
    pub random: u64,
    /// Who asks.
    pub user: &'a User,
    /// Empty for the object itself.
    pub subresource: &'a str,
}

/// The write that a reservation is for.
pub enum Change<'a> {
    Create(&'a mut Value),
    Update(&'a mut Value, &'a Value),
    Delete(&'a Value),
}

/// Guards and operations of objects beside the one that is written.
#[derive(Debug, Default)]
pub struct Reservation {
    pub guards: Vec<Guard>,
    pub ops: Vec<Op>,
    /// Kept until the transaction is through: others of this process that need the same object
    /// wait instead of losing their guards to each other.
    pub turns: Vec<OwnedMutexGuard<()>>,
}

impl Reservation {
    pub fn add(&mut self, other: Reservation) {
        self.guards.extend(other.guards);
        self.ops.extend(other.ops);
        self.turns.extend(other.turns);
    }
}

/// A selectable field beyond metadata.name and metadata.namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// As the client writes it: `spec.nodeName`.
    pub label: &'static str,
    /// Where it is in the stored object; almost always the label. `a|b`: at b where a is empty.
    pub path: &'static str,
    /// What a missing field compares as: "", "false" or "0".
    pub absent: &'static str,
}

impl Field {
    /// A text at the path that the client writes.
    pub const fn text(label: &'static str) -> Field {
        Field { label, path: label, absent: "" }
    }
}

/// A column of a Table (metav1.TableColumnDefinition). `kind` is string, integer, boolean, …;
/// `format` is "name" for the name, else empty; priority 0 shows always, 1 in the wide view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub kind: &'static str,
    pub format: &'static str,
    pub description: &'static str,
    pub priority: i32,
}

/// The two shapes of a kind that shares its storage with another (Events).
#[derive(Clone, Copy)]
pub struct Conversion {
    /// The row whose shape is stored.
    pub stored: &'static Row,
    pub to_storage: fn(Value) -> Value,
    pub from_storage: fn(Value) -> Value,
}

/// The differences of one kind. Every hook has the default of an ordinary object: an optional
/// status that only its subresource writes, and no rules beyond metadata's.
///
/// Create: `default` → admission → `default` → `prepare_create` → [`validate_create`] → `reserve`.
/// Update: `default` → admission → `default` → `prepare_update` → [`validate_update`] → `reserve`.
/// Status: `default` → admission → `prepare_status` → [`validate_status`].
/// Around them the registry does what is the same for all kinds: name generation, uid,
/// creationTimestamp, the immutable part of metadata taken over from the old object,
/// resourceVersion, deletionTimestamp, managedFields.
pub trait Strategy: Send + Sync {
    fn name_rule(&self) -> NameRule {
        NameRule::Subdomain
    }

    /// PUT of a name that does not exist creates it.
    fn create_on_update(&self) -> bool {
        false
    }

    /// PUT may leave out metadata.resourceVersion. Where not, the registry answers 422:
    /// `metadata.resourceVersion: Invalid value: 0: must be specified for an update`.
    fn unconditional_update(&self) -> bool {
        true
    }

    /// Set when requests speak another shape than the store: convert after decoding and checking,
    /// convert back before answering. All other hooks see the stored shape.
    fn conversion(&self) -> Option<Conversion> {
        None
    }

    /// Defaults that depend on other fields. Idempotent.
    fn default(&self, _object: &mut Value) {}

    /// JSON pointers whose change raises metadata.generation; none: the kind has no generation.
    fn counted(&self) -> &'static [&'static str] {
        &[]
    }

    /// Drops what a client may not set and sets generation 1.
    fn prepare_create(&self, new: &mut Value, ctx: &Context) {
        begin(self.counted(), new, ctx);
    }

    /// Takes the status over from the old object and raises the generation.
    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Context) {
        carry_on(self.counted(), new, old, ctx);
    }

    /// Takes over everything but status and metadata from the old object.
    fn prepare_status(&self, new: &mut Value, old: &Value, _ctx: &Context) {
        only_status(new, old);
    }

    /// Whether who writes the status may change metadata, too; upstream's kinds are of two minds.
    fn takes_metadata_with_status(&self) -> bool {
        true
    }

    /// The refusal of what the object newly asks for and only namespaces may have that are labelled
    /// for the administrators of devices ([`device::ADMINS`]).
    fn for_admins(&self, new: &Value, old: Option<&Value>) -> Option<FieldError> {
        let _ = (new, old);
        None
    }

    /// Whether [`Strategy::reserve`] does anything.
    fn reserves(&self) -> bool {
        false
    }

    /// What belongs in the same transaction as the object's own write; sets in the new object what
    /// was allocated. When a guard of the reservation conflicts, the registry starts again from
    /// the object as it was before, with a new `ctx.random`. Only Services hold anything.
    fn reserve<'a>(
        &'a self,
        _change: Change<'a>,
        _ctx: &'a Context<'a>,
        _pool: &'a Pool,
    ) -> BoxFuture<'a, Result<Reservation, Status>> {
        Box::pin(std::future::ready(Ok(Reservation::default())))
    }

    fn validate(&self, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// All of it, also what `validate` would say about the new object.
    fn validate_update(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        self.validate(new)
    }

    fn validate_status(&self, _new: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// The same for any subresource that writes a part of the object; status is the usual one.
    fn validate_part(&self, _part: &str, new: &Value, old: &Value) -> Vec<FieldError> {
        self.validate_status(new, old)
    }

    /// Sentences for `Warning: 299` headers, on create and update.
    fn warnings(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// The grace in seconds when a deletion of this object is graceful: above 0 the object stays
    /// with deletionTimestamp (now + grace) and deletionGracePeriodSeconds until its holder
    /// deletes it again with 0. None or Some(0): it goes at once (finalizers permitting).
    fn grace(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// Something other than metadata.finalizers keeps a deleted object in the store
    /// (Namespace: spec.finalizers).
    fn held(&self, _object: &Value) -> bool {
        false
    }

    /// Why the object of this name cannot be deleted by its name. Who deletes a collection is not
    /// asked, as upstream.
    fn undeletable(&self, _name: &str) -> Option<&'static str> {
        None
    }

    /// Called on an object that stays, in the write that sets its deletionTimestamp.
    fn begin_delete(&self, _object: &mut Value) {}

    /// Deletion orphans the dependents unless its options say otherwise.
    fn orphans(&self) -> bool {
        false
    }

    /// The warning about a deletion whose options do not say what becomes of the dependents.
    fn deletion_warning(&self) -> Option<&'static str> {
        None
    }

    fn fields(&self) -> &'static [Field] {
        &[]
    }

    /// The Table's columns; the first is the name. Default: Name and Age.
    fn columns(&self) -> &'static [Column] {
        &[table::NAME, table::AGE]
    }

    /// One cell per column.
    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        vec![table::name(object), table::age(object, now)]
    }
}

/// The strategy of a row; a kind without a strategy of its own (custom resources) gets the default.
pub fn strategy(row: &Row) -> &'static dyn Strategy {
    all()
        .iter()
        .find(|(known, _)| {
            (&known.kind, &known.group, &known.version) == (&row.kind, &row.group, &row.version)
        })
        .map_or(&Plain, |(_, strategy)| *strategy)
}

/// Every built-in row with its strategy.
pub fn all() -> &'static [(&'static Row, &'static dyn Strategy)] {
    KINDS
}

/// Validates metadata and the kind's own rules of a new object.
pub fn validate_create(object: &Value, ctx: &Context) -> Vec<FieldError> {
    let strategy = strategy(ctx.row);
    let mut errors = metadata::validate(object.at("metadata"), ctx.row, strategy.name_rule());
    errors.extend(strategy.validate(object));
    errors
}

/// Validates metadata, its immutable fields, and the kind's own rules of a replacement.
pub fn validate_update(new: &Value, old: &Value, ctx: &Context) -> Vec<FieldError> {
    let strategy = strategy(ctx.row);
    let mut errors = metadata::validate_update(new.at("metadata"), old.at("metadata"), ctx.row);
    errors.extend(strategy.validate_update(new, old));
    errors
}

/// The same for a write through the status subresource.
pub fn validate_status(new: &Value, old: &Value, ctx: &Context) -> Vec<FieldError> {
    let strategy = strategy(ctx.row);
    let mut errors = metadata::validate_update(new.at("metadata"), old.at("metadata"), ctx.row);
    errors.extend(strategy.validate_part(ctx.subresource, new, old));
    errors
}

/// The selectable field with this label; None: `field label not supported: x` (400).
pub fn field(strategy: &dyn Strategy, label: &str) -> Option<&'static Field> {
    static METADATA: [Field; 2] = [
        Field { label: "metadata.name", path: "metadata.name", absent: "" },
        Field { label: "metadata.namespace", path: "metadata.namespace", absent: "" },
    ];
    METADATA.iter().chain(strategy.fields()).find(|field| field.label == label)
}

/// A kind with nothing of its own.
struct Plain;
impl Strategy for Plain {}

static KINDS: &[(&Row, &dyn Strategy)] = &[
    (&kind::BINDING, &Plain),
    (&kind::COMPONENT_STATUS, &component_status::ComponentStatus),
    (&kind::CONFIG_MAP, &config::ConfigMap),
    (&kind::ENDPOINTS, &endpoints::Endpoints),
    (&kind::EVENT, &event::CoreEvent),
    (&kind::LIMIT_RANGE, &limit_range::LimitRange),
    (&kind::NAMESPACE, &namespace::Namespace),
    (&kind::NODE, &node::Node),
    (&kind::PERSISTENT_VOLUME_CLAIM, &persistent_volume_claim::PersistentVolumeClaim),
    (&kind::PERSISTENT_VOLUME, &persistent_volume::PersistentVolume),
    (&kind::POD, &pod::Pod),
    (&kind::POD_TEMPLATE, &template::PodTemplate),
    (&kind::REPLICATION_CONTROLLER, &replication_controller::ReplicationController),
    (&kind::RESOURCE_QUOTA, &resource_quota::ResourceQuota),
    (&kind::SECRET, &config::Secret),
    (&kind::SERVICE_ACCOUNT, &service_account::ServiceAccount),
    (&kind::SERVICE, &service::Service),
    (&kind::MUTATING_ADMISSION_POLICY, &policy::MUTATING),
    (&kind::MUTATING_ADMISSION_POLICY_BINDING, &policy::MUTATING_BINDING),
    (&kind::MUTATING_WEBHOOK_CONFIGURATION, &webhook::WebhookConfiguration),
    (&kind::VALIDATING_ADMISSION_POLICY, &policy::VALIDATING),
    (&kind::VALIDATING_ADMISSION_POLICY_BINDING, &policy::VALIDATING_BINDING),
    (&kind::VALIDATING_WEBHOOK_CONFIGURATION, &webhook::WebhookConfiguration),
    (&kind::CONTROLLER_REVISION, &controller_revision::ControllerRevision),
    (&kind::DAEMON_SET, &daemon_set::DaemonSet),
    (&kind::DEPLOYMENT, &deployment::Deployment),
    (&kind::REPLICA_SET, &replica_set::ReplicaSet),
    (&kind::STATEFUL_SET, &stateful_set::StatefulSet),
    (&kind::SELF_SUBJECT_REVIEW, &Plain),
    (&kind::TOKEN_REVIEW, &Plain),
    (&kind::LOCAL_SUBJECT_ACCESS_REVIEW, &Plain),
    (&kind::SELF_SUBJECT_ACCESS_REVIEW, &Plain),
    (&kind::SELF_SUBJECT_RULES_REVIEW, &Plain),
    (&kind::SUBJECT_ACCESS_REVIEW, &Plain),
    (&kind::HORIZONTAL_POD_AUTOSCALER_V1, &autoscaler::AutoscalerV1),
    (&kind::HORIZONTAL_POD_AUTOSCALER, &autoscaler::Autoscaler),
    (&kind::CRON_JOB, &cron_job::CronJob),
    (&kind::JOB, &job::Job),
    (&kind::CERTIFICATE_SIGNING_REQUEST, &certificate::CertificateSigningRequest),
    (&kind::LEASE, &lease::Lease),
    (&kind::ENDPOINT_SLICE, &endpoints::EndpointSlice),
    (&kind::EVENTS_EVENT, &event::NewEvent),
    (&kind::FLOW_SCHEMA, &flow::FlowSchema),
    (&kind::PRIORITY_LEVEL_CONFIGURATION, &flow::PriorityLevelConfiguration),
    (&kind::INGRESS_CLASS, &ingress::IngressClass),
    (&kind::INGRESS, &ingress::Ingress),
    (&kind::IP_ADDRESS, &cluster_ip::IpAddress),
    (&kind::NETWORK_POLICY, &network_policy::NetworkPolicy),
    (&kind::SERVICE_CIDR, &cluster_ip::ServiceCidr),
    (&kind::RUNTIME_CLASS, &classes::RuntimeClass),
    (&kind::POD_DISRUPTION_BUDGET, &pod_disruption_budget::PodDisruptionBudget),
    (&kind::CLUSTER_ROLE_BINDING, &rbac::ClusterRoleBinding),
    (&kind::CLUSTER_ROLE, &rbac::ClusterRole),
    (&kind::ROLE_BINDING, &rbac::RoleBinding),
    (&kind::ROLE, &rbac::Role),
    (&kind::DEVICE_CLASS, &device::DeviceClass),
    (&kind::RESOURCE_CLAIM, &device::claim::ResourceClaim),
    (&kind::RESOURCE_CLAIM_TEMPLATE, &device::claim::ResourceClaimTemplate),
    (&kind::RESOURCE_SLICE, &device::slice::ResourceSlice),
    (&kind::PRIORITY_CLASS, &classes::PriorityClass),
    (&kind::CSI_DRIVER, &csi::CsiDriver),
    (&kind::CSI_NODE, &csi::CsiNode),
    (&kind::CSI_STORAGE_CAPACITY, &storage::CsiStorageCapacity),
    (&kind::STORAGE_CLASS, &storage::StorageClass),
    (&kind::VOLUME_ATTACHMENT, &storage::VolumeAttachment),
    (&kind::VOLUME_ATTRIBUTES_CLASS, &storage::VolumeAttributesClass),
    (&kind::NODE_METRICS, &resource_metrics::ResourceMetrics),
    (&kind::POD_METRICS, &resource_metrics::ResourceMetrics),
];

fn begin(counted: &[&str], new: &mut Value, ctx: &Context) {
    if ctx.row.has_subresource("status") {
        new.drop("status");
    }
    if !counted.is_empty() {
        new.section("metadata").set("generation", 1);
    }
}

fn carry_on(counted: &[&str], new: &mut Value, old: &Value, ctx: &Context) {
    if ctx.row.has_subresource("status") {
        new.take_over("status", old);
    }
    if counted.is_empty() {
        return;
    }
    let changed = counted.iter().any(|pointer| new.pointer(pointer) != old.pointer(pointer));
    let generation = old.at("metadata").int("generation").unwrap_or(0) + i64::from(changed);
    if generation > 0 {
        new.section("metadata").set("generation", generation);
    }
}

fn only_status(new: &mut Value, old: &Value) {
    let (Some(fields), Some(old)) = (new.as_object_mut(), old.as_object()) else { return };
    fields.retain(|name, _| matches!(name.as_str(), "metadata" | "status"));
    for (name, value) in old {
        if !matches!(name.as_str(), "metadata" | "status") {
            fields.insert(name.clone(), value.clone());
        }
    }
    new.section("metadata").take_over("generation", old.get("metadata").unwrap_or(&Value::Null));
}

/// What a write of the status may not change of a kind that takes no metadata with it.
pub fn keep_metadata(new: &mut Value, old: &Value) {
    for field in ["annotations", "deletionTimestamp", "finalizers", "labels", "ownerReferences"] {
        new.section("metadata").take_over(field, old.at("metadata"));
    }
}

const SELECTOR_DESCRIPTION: &str = "Selector is a label query over pods that should match the \
    replica count. Label keys and values that must match in order to be controlled by this \
    workload. It must match the pod template's labels. More info: \
    https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors";
