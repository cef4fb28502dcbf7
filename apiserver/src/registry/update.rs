//! PUT, and the loop that every write of an existing object goes through.

use std::sync::Arc;

use bytes::Bytes;
use proto::status::{FieldError, Status};
use serde_json::Value;

use super::{
    Answer, Call, Content, Registry, object,
    render::typed,
    store_status,
    write::{self, ATTEMPTS, Draft, Managed, Retry, Way},
};
use crate::{
    admission::Operation,
    cache::Entry,
    http::query::WriteOptions,
    kinds::{self, lens::Lens},
    patch::managed_fields,
    store::{Op, Outcome},
};

/// What a maker is given: the object as it is, in the shape of the request's group, with its
/// resourceVersion. `None` where there is none.
pub(super) type Make<'a> = dyn Fn(Option<&Value>) -> Result<Draft, Status> + Send + Sync + 'a;

impl Registry {
    pub async fn update(&self, call: &Call<'_>, body: Bytes) -> Result<Answer, Status> {
        let options = WriteOptions::parse(call.query, call.user_agent, "UpdateOptions")?;
        let (object, warnings) = write::decode(call, &body, &options)?;
        let way = Way::of(call);
        if object::meta(&object).text("name") != call.name {
            if object::meta(&object).text("name").is_empty() {
                let error = "name must be provided";
                return Err(Status::bad_request(format!(
                    "the name of the object ({error}) does not match the name on the URL ({})",
                    call.name
                )));
            }
            return Err(Status::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                object::meta(&object).text("name"),
                call.name
            )));
        }
        let make = move |_: Option<&Value>| {
            Ok(Draft {
                object: object.clone(),
                warnings: warnings.clone(),
                managed: Managed::Update,
            })
        };
        self.replace(call, &options, way, &make).await
    }

    /// Makes a new version of the object until it is in the store, or refused. A revision that the
    /// maker leaves as it was makes no condition where the verb is a patch.
    pub(super) async fn replace(
        &self,
        call: &Call<'_>,
        options: &WriteOptions,
        way: Way,
        make: &Make<'_>,
    ) -> Result<Answer, Status> {
        for _ in 0..ATTEMPTS {
            let Some(entry) = call.kind.cache.get(call.namespace, call.name) else {
                return self.absent(call, options, way, make).await;
            };
            match self.attempt(call, options, way, make, &entry).await {
                Ok(answer) => return Ok(answer),
                Err(Retry::Uncertain(status)) => return Err(status),
                // What was refused may have been the past: another server may have written since.
                Err(Retry::Failed(status)) if self.is_current(call, &entry).await? => {
                    return Err(status);
                }
                Err(Retry::Failed(_) | Retry::Again) => {}
            }
        }
        Err(call.modified())
    }

    /// Whether the object is still as it was when the entry was taken, by the store's word.
    pub(super) async fn is_current(&self, call: &Call<'_>, entry: &Entry) -> Result<bool, Status> {
        self.fresh().await?;
        let current = call.kind.cache.get(call.namespace, call.name);
        Ok(current.is_some_and(|current| current.revision == entry.revision))
    }

    async fn is_stale(&self, key: &str) -> Result<bool, Status> {
        self.cache().store().is_stale(key).await.map_err(store_status)
    }

    /// A PUT or apply of something that is not there.
    async fn absent(
        &self,
        call: &Call<'_>,
        options: &WriteOptions,
        way: Way,
        make: &Make<'_>,
    ) -> Result<Answer, Status> {
        self.fresh().await?;
        if call.kind.cache.get(call.namespace, call.name).is_some() {
            return Err(call.modified()); // it has just appeared
        }
        if way != Way::Object {
            return Err(call.not_found());
        }
        let draft = make(None)?;
        if draft.managed == Managed::Already || call.kind.strategy.create_on_update() {
            return self.create_draft(call, draft, options).await;
        }
        Err(call.not_found())
    }

    async fn attempt(
        &self,
        call: &Call<'_>,
        options: &WriteOptions,
        way: Way,
        make: &Make<'_>,
        entry: &Arc<Entry>,
    ) -> Result<Answer, Retry> {
        let old = object::decode(entry)?;
        let conversion = call.kind.strategy.conversion();
        let shown = conversion.map(|it| typed(call.kind, (it.from_storage)(old.clone())));
        let Draft { object, mut warnings, managed } = make(Some(shown.as_ref().unwrap_or(&old)))?;
        let conditional = self.check_claims(call, entry, &object)?;
        let mut object = object;
        write::check_namespace(call, &mut object)?;
        if way != Way::Made {
            let draft = (object, managed);
            object = self.prepare(call, options, way, (draft, &old), &mut warnings).await?;
        } else if managed == Managed::Update {
            self.record(call, Some(&old), &mut object, options);
        }
        let context = call.context(self.random());
        let mut errors = self.admin_errors(call, &object, Some(&old));
        errors.extend(match way {
            Way::Object => kinds::validate_update(&object, &old, &context),
            Way::Status => kinds::validate_status(&object, &old, &context),
            Way::Made => Vec::new(),
        });
        write::refuse_invalid(call, call.name, errors)?;
        if way == Way::Object {
            warnings.extend(call.kind.strategy.warnings(&object, Some(&old)));
        }
        // What came to a subresource as a body of its own was admitted as that.
        if way != Way::Made || call.verb != "create" {
            let (new, old, dry_run) = (Some(&object), Some(&old), options.dry_run);
            self.admit(call, Operation::Update, new, old, dry_run, &mut warnings).await?;
        }
        self.store(call, options, entry, (object, &old), (warnings, conditional)).await
    }

    /// Defaults, admission, and what the kind keeps from the old object.
    async fn prepare(
        &self,
        call: &Call<'_>,
        options: &WriteOptions,
        way: Way,
        (draft, old): ((Value, Managed), &Value),
        warnings: &mut Vec<String>,
    ) -> Result<Value, Status> {
        let mut draft = draft;
        take_over(&mut draft.0, old);
        let operation = Operation::Update;
        let mut object =
            self.complete(call, operation, draft, Some(old), options, warnings).await?;
        let (context, strategy) = (call.context(self.random()), call.kind.strategy);
        match way {
            Way::Status => {
                strategy.prepare_status(&mut object, old, &context);
                if !strategy.takes_metadata_with_status() {
                    kinds::keep_metadata(&mut object, old);
                }
            }
            _ => strategy.prepare_update(&mut object, old, &context),
        }
        Ok(object)
    }

    /// Compares the revision and uid that the new version claims with what is there. Whether it
    /// claims a revision.
    fn check_claims(&self, call: &Call<'_>, entry: &Entry, object: &Value) -> Result<bool, Retry> {
        let claimed = object::claimed_revision(object)?;
        if let Some(revision) = claimed
            && revision != entry.revision
        {
            return Err(Retry::Failed(call.modified()));
        }
        if claimed.is_none() && !call.kind.strategy.unconditional_update() {
            let why = "must be specified for an update";
            let error = FieldError::invalid("metadata.resourceVersion", 0, why);
            write::refuse_invalid(call, call.name, vec![error])?;
        }
        let uid = object::meta(object).text("uid");
        if !uid.is_empty() && uid != &*entry.uid {
            let row = call.kind.row;
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                entry.uid
            );
            return Err(Status::conflict(&row.group, &row.resource, call.name, &why).into());
        }
        Ok(claimed.is_some())
    }

    async fn store(
        &self,
        call: &Call<'_>,
        options: &WriteOptions,
        entry: &Arc<Entry>,
        (mut object, old): (Value, &Value),
        (warnings, conditional): (Vec<String>, bool),
    ) -> Result<Answer, Retry> {
        object::meta_mut(&mut object).take_over("resourceVersion", object::meta(old));
        managed_fields::keep_times(&mut object, old);
        if object == *old && !self.is_stale(&entry.key).await? {
            if !self.is_current(call, entry).await? {
                return Err(Retry::Again);
            }
            return Ok(Answer { warnings, ..Answer::ok(Content::Entry(entry.clone())) });
        }
        let gone = is_finished(call, &object);
        let context = call.context(self.random());
        let change = match gone {
            true => kinds::Change::Delete(old),
            false => kinds::Change::Update(&mut object, old),
        };
        let mut reservation = self.reserve(call, change, &context).await?;
        if !gone {
            let dry_run = options.dry_run;
            let charge = self.charge(call, Operation::Update, &object, Some(old), dry_run).await?;
            reservation.add(charge);
        }
        if options.dry_run {
            return Ok(self.dry(200, object, warnings));
        }
        let mut txn = write::put(call, &entry.key, entry.revision, &object);
        if gone {
            txn.ops = vec![Op::Delete { key: entry.key.clone() }];
        }
        let _turns = write::join(&mut txn, reservation);
        match self.transact(txn).await.map_err(Retry::Uncertain)? {
            Outcome::Committed(revision) if gone => {
                object::meta_mut(&mut object).set("resourceVersion", revision.to_string());
                Ok(Answer { warnings, ..Answer::ok(Content::Object(object)) })
            }
            Outcome::Committed(revision) => {
                let entry = self.written(call, &entry.key, revision).map_err(Retry::Uncertain)?;
                Ok(Answer { warnings, ..Answer::ok(Content::Entry(entry)) })
            }
            Outcome::Conflict { found, .. }
                if conditional
                    && call.verb == "update"
                    && write::lost_object(entry.revision, &found) =>
            {
                Err(call.modified().into())
            }
            Outcome::Conflict { .. } => Err(Retry::Again),
        }
    }
}

/// Nothing holds the terminating object any more: this write is its end.
fn is_finished(call: &Call, object: &Value) -> bool {
    let metadata = object::meta(object);
    object::is_terminating(object)
        && metadata.vacant("finalizers")
        && metadata.int("deletionGracePeriodSeconds").unwrap_or(0) == 0
        && !call.kind.strategy.held(object)
}

/// Metadata that a client may leave out, and what it cannot change at all.
fn take_over(object: &mut Value, old: &Value) {
    let old = object::meta(old);
    let metadata = object::meta_mut(object);
    for field in ["uid", "creationTimestamp", "generateName"] {
        if metadata.vacant(field) {
            metadata.take_over(field, old);
        }
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        metadata.take_over(field, old);
    }
    metadata.drop("selfLink");
    // Clients that do not know managedFields leave them out; an explicit empty list resets them.
    if !metadata.has("managedFields") {
        metadata.take_over("managedFields", old);
    }
}
