//! What all writes share: reading the body, admission, preparing, validating, and the transaction.

use std::sync::Arc;

use parking_lot::Mutex;
use proto::status::{FieldError, Status};
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use super::{Answer, Call, Content, Registry, object, store_status};
use crate::{
    admission::{self, Operation},
    authz::escalation::{self, Grant},
    cache::Entry,
    codec::{self, Decoded, Format},
    http::query::{FieldValidation, WriteOptions},
    kinds::{self, lens::Lens},
    patch::managed_fields,
    schema,
    store::{Op, Outcome, Revision, Txn},
};

/// The body types that writes understand, as 415 answers name them.
const MEDIA: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// How often a write that may be repeated meets a conflict before it gives up.
pub(super) const ATTEMPTS: usize = 8;

/// Why an attempt came to nothing.
pub(super) enum Retry {
    Failed(Status),
    /// Someone else was faster; the cache has what they wrote.
    Again,
    /// It has happened, or may have: it must not happen twice.
    Uncertain(Status),
}

impl From<Status> for Retry {
    fn from(status: Status) -> Retry {
        Retry::Failed(status)
    }
}

/// What a write makes of an object.
pub(super) struct Draft {
    /// In the shape of the request's group.
    pub object: Value,
    pub warnings: Vec<String>,
    pub managed: Managed,
}

/// Who keeps the record of field managers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Managed {
    /// The pipeline does, for an update by the request's manager.
    Update,
    /// Server-side apply already has.
    Already,
}

/// Which rules a write of an existing object follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Object,
    Status,
    /// The object comes from a subresource's own logic, which has checked it.
    Made,
}

impl Way {
    /// Of a subresource that writes a part of the object itself.
    pub fn of(call: &Call) -> Way {
        if call.subresource.is_empty() { Way::Object } else { Way::Status }
    }
}

pub(super) fn format(call: &Call) -> Result<Format, Status> {
    Format::of(call.content_type).ok_or_else(|| Status::unsupported_media_type(MEDIA))
}

/// Reads the body as an object of the call's kind. Strict problems are refused, or come back as
/// warnings.
pub(super) fn decode(
    call: &Call,
    body: &[u8],
    options: &WriteOptions,
) -> Result<(Value, Vec<String>), Status> {
    let Decoded { value, strict } = codec::decode(format(call)?, body, Some(call.kind.row))?;
    let warnings = judge(options, strict, |problems| {
        codec::strict_error(&call.kind.row.kind, &call.kind.row.version, problems)
    })?;
    Ok((value, warnings))
}

/// What `fieldValidation` makes of strict problems.
pub(super) fn judge(
    options: &WriteOptions,
    problems: Vec<String>,
    refuse: impl FnOnce(&[String]) -> Status,
) -> Result<Vec<String>, Status> {
    match options.field_validation {
        _ if problems.is_empty() => Ok(problems),
        FieldValidation::Strict => Err(refuse(&problems)),
        FieldValidation::Warn => {
            Ok(problems.iter().flat_map(|problem| codec::warnings(problem)).collect())
        }
        FieldValidation::Ignore => Ok(Vec::new()),
    }
}

/// The namespace of the body must be that of the URL, or absent.
pub(super) fn check_namespace(call: &Call, object: &mut Value) -> Result<(), Status> {
    let metadata = object::meta_mut(object);
    if metadata.text("namespace") == call.namespace {
        return Ok(());
    }
    if call.namespace.is_empty() {
        metadata.drop("namespace");
    } else if metadata.text("namespace").is_empty() {
        metadata.set("namespace", call.namespace);
    } else {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

impl Registry {
    /// Shape of the store, defaults, the record of field managers, mutating admission, defaults
    /// again; without what is gated off. What admission adds belongs to nobody.
    pub(super) async fn complete(
        &self,
        call: &Call<'_>,
        operation: Operation,
        (object, managed): (Value, Managed),
        old: Option<&Value>,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Value, Status> {
        let kind = call.kind;
        let mut object = object;
        schema::default(kind.row, &mut object);
        if let Some(conversion) = kind.strategy.conversion() {
            object = (conversion.to_storage)(object);
        }
        kind.strategy.default(&mut object);
        let grant = Grant {
            row: kind.row,
            namespace: call.namespace,
            name: call.name,
            user: call.user,
            new: &object,
            old,
        };
        escalation::check(&self.0.authorizer, &grant)?;
        if managed == Managed::Update {
            self.record(call, old, &mut object, options);
        }
        let said = Mutex::default();
        let request = self.admission_request(call, operation, old, options.dry_run, &said);
        if self.0.admission.mutate(&request, &mut object).await? {
            schema::default(kind.row, &mut object);
            kind.strategy.default(&mut object);
        }
        warnings.append(&mut said.into_inner());
        warnings.extend(schema::drop_disabled(kind.row, &mut object, old));
        Ok(object)
    }

    fn admission_request<'a>(
        &'a self,
        call: &Call<'a>,
        operation: Operation,
        old: Option<&'a Value>,
        dry_run: bool,
        warnings: &'a Mutex<Vec<String>>,
    ) -> admission::Request<'a> {
        admission::Request {
            operation,
            row: call.kind.row,
            namespace: call.namespace,
            name: call.name,
            subresource: call.subresource,
            user: call.user,
            old,
            dry_run,
            again: false,
            now: call.now,
            cluster: self,
            warnings,
            notes: call.notes,
        }
    }

    /// Validating admission of a complete and valid object, or of none.
    pub(super) async fn admit(
        &self,
        call: &Call<'_>,
        operation: Operation,
        object: Option<&Value>,
        old: Option<&Value>,
        dry_run: bool,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let said = Mutex::default();
        let request = self.admission_request(call, operation, old, dry_run, &said);
        self.0.admission.validate(&request, object).await?;
        warnings.append(&mut said.into_inner());
        Ok(())
    }

    /// Admission of what is sent to a subresource and is not the object itself: a Binding, an
    /// Eviction, a TokenRequest. What it then does to the object is not admitted again.
    pub(super) async fn admit_body(
        &self,
        call: &Call<'_>,
        body: &mut Value,
        dry_run: bool,
    ) -> Result<Vec<String>, Status> {
        let said = Mutex::default();
        let request = self.admission_request(call, Operation::Create, None, dry_run, &said);
        self.0.admission.mutate(&request, body).await?;
        self.0.admission.validate(&request, Some(body)).await?;
        Ok(said.into_inner())
    }

    /// Admission of a stream or of a request that is passed on.
    pub async fn admit_connection(&self, call: &Call<'_>) -> Result<(), Status> {
        self.admit(call, Operation::Connect, None, None, false, &mut Vec::new()).await
    }

    /// What admission wants written together with the object; asked last.
    pub(super) async fn charge(
        &self,
        call: &Call<'_>,
        operation: Operation,
        object: &Value,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<kinds::Reservation, Status> {
        let said = Mutex::default();
        let request = self.admission_request(call, operation, old, dry_run, &said);
        Ok(self.0.admission.reserve(&request, object).await?)
    }

    /// Enters the write into metadata.managedFields.
    pub(super) fn record(
        &self,
        call: &Call<'_>,
        old: Option<&Value>,
        object: &mut Value,
        options: &WriteOptions,
    ) {
        let reset = reset(call);
        let (row, manager, subresource) = (call.kind.row, &options.manager, call.subresource);
        managed_fields::record(row, old, object, manager, subresource, reset, call.now);
    }

    /// What the object asks for and its namespace is not marked for.
    pub(super) fn admin_errors(
        &self,
        call: &Call,
        object: &Value,
        old: Option<&Value>,
    ) -> Vec<FieldError> {
        let refusal = call.kind.strategy.for_admins(object, old);
        let marked = |_: &FieldError| {
            let namespace = self.of(&proto::kind::NAMESPACE).cache.get("", call.namespace);
            let namespace = namespace.and_then(|entry| object::decode(&entry).ok());
            namespace.is_some_and(|namespace| {
                namespace.at("metadata").at("labels").text(kinds::device::ADMINS) == "true"
            })
        };
        refusal.filter(|error| !marked(error)).into_iter().collect()
    }

    pub(super) async fn transact(&self, txn: Txn) -> Result<Outcome, Status> {
        self.0.cache.transact(txn).await.map_err(store_status)
    }

    /// The object as this write left it.
    pub(super) fn written(
        &self,
        call: &Call<'_>,
        key: &str,
        revision: Revision,
    ) -> Result<Arc<Entry>, Status> {
        call.kind
            .cache
            .get_at(key, revision)
            .ok_or_else(|| Status::internal("the written object is not in the cache"))
    }

    /// What a dry run answers.
    pub(super) fn dry(&self, code: u16, object: Value, warnings: Vec<String>) -> Answer {
        Answer { code, content: Content::Object(object), warnings }
    }

    pub(super) async fn reserve(
        &self,
        call: &Call<'_>,
        change: kinds::Change<'_>,
        context: &kinds::Context<'_>,
    ) -> Result<kinds::Reservation, Status> {
        call.kind.strategy.reserve(change, context, &self.0.pool).await
    }

    pub(crate) fn random(&self) -> u64 {
        self.0.rng.u64()
    }
}

/// The root's fields that an endpoint does not write, whatever is sent to it; so they are not its
/// client's.
fn reset(call: &Call) -> &'static [&'static str] {
    match call.subresource {
        "" if call.kind.row.has_subresource("status") => &["status"],
        "" => &[],
        "ephemeralcontainers" | "resize" => &["metadata", "status"],
        _ if call.kind.strategy.takes_metadata_with_status() => &["spec"],
        _ => &["metadata", "spec"],
    }
}

/// A 422 unless there are no errors.
pub(super) fn refuse_invalid(
    call: &Call,
    name: &str,
    errors: Vec<FieldError>,
) -> Result<(), Status> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&call.kind.row.group, &call.kind.row.kind, name, &errors))
}

/// Joins what is reserved beside the object's own write. What it returns is kept until the
/// transaction is through.
#[must_use]
pub(super) fn join(txn: &mut Txn, reservation: kinds::Reservation) -> Vec<OwnedMutexGuard<()>> {
    txn.guards.extend(reservation.guards);
    txn.ops.extend(reservation.ops);
    reservation.turns
}

/// Whether the first guard, that of the object itself, is what did not hold.
pub(super) fn lost_object(expected: Revision, found: &[Revision]) -> bool {
    found.first().is_some_and(|found| *found != expected)
}

/// The transaction that writes an object over what is there at `expected` (0: nothing).
pub(super) fn put(call: &Call, key: &str, expected: Revision, object: &Value) -> Txn {
    let key: Arc<str> = key.into();
    Txn {
        guards: vec![crate::store::Guard { key: key.clone(), expected }],
        ops: vec![Op::Put { key, value: object::encode(call.kind.row, object) }],
    }
}
