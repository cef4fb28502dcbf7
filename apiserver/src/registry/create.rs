//! POST: a new object.

use bytes::Bytes;
use proto::status::{FieldError, Status};
use serde_json::Value;

use super::{
    Answer, Call, Content, Registry, object,
    write::{self, ATTEMPTS, Draft, Managed},
};
use crate::{
    admission::Operation,
    http::query::WriteOptions,
    kinds::{self, lens::Lens},
    store::Outcome,
};

/// The longest base of a generated name that leaves room for the suffix.
const BASE: usize = 58;

impl Registry {
    pub async fn create(&self, call: &Call<'_>, body: Bytes) -> Result<Answer, Status> {
        let options = WriteOptions::parse(call.query, call.user_agent, "CreateOptions")?;
        let (object, warnings) = write::decode(call, &body, &options)?;
        drop(body);
        let draft = Draft { object, warnings, managed: Managed::Update };
        self.create_draft(call, draft, &options).await
    }

    /// Creates what a POST, or a PUT or apply of an absent object, came to.
    pub(super) async fn create_draft(
        &self,
        call: &Call<'_>,
        draft: Draft,
        options: &WriteOptions,
    ) -> Result<Answer, Status> {
        let Draft { mut object, warnings, managed } = draft;
        write::check_namespace(call, &mut object)?;
        self.check_name(call, &object)?;
        if object::claimed_revision(&object)?.is_some() {
            return Err(Status::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        self.find_namespace(call).await?;
        if !object::meta(&object).text("name").is_empty() {
            return self
                .insert(call, object, &warnings, managed, options)
                .await
                .map_err(Lost::status);
        }
        let base = object::meta(&object).text("generateName").to_string();
        for attempt in 1.. {
            let mut named = object.clone();
            let name = format!("{}{}", clip(&base), self.0.rng.suffix());
            object::meta_mut(&mut named).set("name", name);
            match self.insert(call, named, &warnings, managed, options).await {
                Err(Lost::Exists(_)) if attempt < ATTEMPTS => {}
                result => return result.map_err(Lost::status),
            }
        }
        unreachable!("the loop ends by returning")
    }

    async fn insert(
        &self,
        call: &Call<'_>,
        object: Value,
        warnings: &[String],
        managed: Managed,
        options: &WriteOptions,
    ) -> Result<Answer, Lost> {
        let name = object::meta(&object).text("name").to_string();
        let call = Call { name: &name, ..*call };
        let mut warnings = warnings.to_vec();
        let mut object = self.begin(&call, object);
        let operation = Operation::Create;
        let draft = (object, managed);
        object = self.complete(&call, operation, draft, None, options, &mut warnings).await?;
        let context = call.context(self.random());
        call.kind.strategy.prepare_create(&mut object, &context);
        let mut errors = self.admin_errors(&call, &object, None);
        errors.extend(kinds::validate_create(&object, &context));
        write::refuse_invalid(&call, &name, errors)?;
        warnings.extend(call.kind.strategy.warnings(&object, None));
        let dry_run = options.dry_run;
        self.admit(&call, operation, Some(&object), None, dry_run, &mut warnings).await?;
        let key = call.kind.cache.key(call.namespace, &name);
        let exists = || {
            let row = call.kind.row;
            Lost::Exists(Status::already_exists(&row.group, &row.resource, &name))
        };
        let there = || call.kind.cache.get(call.namespace, &name).is_some();
        if there() {
            // Another server may just have deleted it.
            self.fresh().await?;
            if there() {
                return Err(exists());
            }
        }
        let unreserved = call.kind.strategy.reserves().then(|| object.clone());
        for _ in 0..ATTEMPTS {
            let context = call.context(self.random());
            let change = kinds::Change::Create(&mut object);
            let mut reservation = self.reserve(&call, change, &context).await?;
            reservation.add(self.charge(&call, operation, &object, None, dry_run).await?);
            if dry_run {
                return Ok(self.dry(201, object, warnings));
            }
            let mut txn = write::put(&call, &key, 0, &object);
            let _turns = write::join(&mut txn, reservation);
            match self.transact(txn).await? {
                Outcome::Committed(revision) => {
                    let entry = self.written(&call, &key, revision)?;
                    return Ok(Answer { code: 201, content: Content::Entry(entry), warnings });
                }
                Outcome::Conflict { found, .. } if write::lost_object(0, &found) => {
                    return Err(exists());
                }
                Outcome::Conflict { .. } => {
                    if let Some(unreserved) = &unreserved {
                        object.clone_from(unreserved);
                    }
                }
            }
        }
        Err(Lost::Other(call.modified()))
    }

    /// What the server sets in every new object, and what a client may not.
    fn begin(&self, call: &Call, mut object: Value) -> Value {
        let metadata = object::meta_mut(&mut object);
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
            metadata.drop(field);
        }
        metadata.set("uid", self.0.rng.uuid());
        metadata.set("creationTimestamp", object::time(call.now));
        object
    }

    fn check_name(&self, call: &Call, object: &Value) -> Result<(), Status> {
        let metadata = object::meta(object);
        let name = metadata.text("name");
        if !call.name.is_empty() && name != call.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                call.name
            )));
        }
        if name.is_empty() && metadata.text("generateName").is_empty() {
            let error = FieldError::required("metadata.name", "name or generateName is required");
            return Err(Status::invalid(&call.kind.row.group, &call.kind.row.kind, "", &[error]));
        }
        Ok(())
    }

    /// Admission looks the namespace up in the cache; where it is not there yet, another server may
    /// just have made it.
    async fn find_namespace(&self, call: &Call<'_>) -> Result<(), Status> {
        let namespaces = &self.of(&proto::kind::NAMESPACE).cache;
        if !call.namespace.is_empty() && namespaces.get("", call.namespace).is_none() {
            self.fresh().await?;
        }
        Ok(())
    }
}

/// Why an insertion did not happen.
enum Lost {
    /// The name is taken; a generated one may be drawn again.
    Exists(Status),
    Other(Status),
}

impl Lost {
    fn status(self) -> Status {
        match self {
            Lost::Exists(status) | Lost::Other(status) => status,
        }
    }
}

impl From<Status> for Lost {
    fn from(status: Status) -> Lost {
        Lost::Other(status)
    }
}

fn clip(base: &str) -> &str {
    let mut end = base.len().min(BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    &base[..end]
}
