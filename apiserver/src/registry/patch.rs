//! PATCH in its four kinds. Each makes a new version of the object, which then goes the way of an
//! update; a conflict with another writer is met by patching what they wrote.

use bytes::Bytes;
use proto::status::{FieldError, Status};
use serde_json::Value;

use super::{
    Answer, Call, Registry, object,
    write::{self, Draft, Managed, Way},
};
use crate::{
    codec::{self, Decoded, Format},
    http::query::WriteOptions,
    kinds::lens::Lens,
    patch::{self, PatchKind},
    schema,
};

impl Registry {
    pub async fn patch(&self, call: &Call<'_>, body: Bytes) -> Result<Answer, Status> {
        let patch = Patch::read(call, &body)?;
        drop(body);
        let way = Way::of(call);
        self.replace(call, &patch.options, way, &|old| patch.make(call, old)).await
    }
}

/// A patch, read and not yet applied.
pub(super) struct Patch {
    kind: PatchKind,
    body: Value,
    duplicates: Vec<String>,
    pub options: WriteOptions,
}

impl Patch {
    pub(super) fn read(call: &Call, body: &[u8]) -> Result<Patch, Status> {
        let kind = patch_kind(call)?;
        let options = WriteOptions::parse(call.query, call.user_agent, "PatchOptions")?;
        check_options(kind, call, &options)?;
        let undecodable = |error: String| {
            Status::bad_request(match kind {
                PatchKind::Apply => format!("error decoding YAML: {error}"),
                _ => format!("error decoding patch: {error}"),
            })
        };
        let Decoded { value, strict } = codec::parse(format(kind), body).map_err(undecodable)?;
        let fits = match kind {
            PatchKind::Json => value.is_array(),
            _ => value.is_object(),
        };
        if !fits {
            let wanted = if kind == PatchKind::Json { "a list of operations" } else { "an object" };
            return Err(undecodable(format!("the patch must be {wanted}")));
        }
        Ok(Patch { kind, body: value, duplicates: strict, options })
    }

    /// The patched object, checked; the patch of something absent creates only by apply.
    pub(super) fn make(&self, call: &Call, old: Option<&Value>) -> Result<Draft, Status> {
        let row = call.kind.row;
        let patched = match (self.kind, old) {
            (PatchKind::Apply, live) => return self.apply(call, live),
            (_, None) => return Err(call.not_found()),
            (PatchKind::Json, Some(old)) => patch::json(old, &self.body)?,
            (PatchKind::Merge, Some(old)) => patch::merge(old, &self.body),
            (PatchKind::Strategic, Some(old)) => patch::strategic(row, old, &self.body)?,
        };
        let mut object = patched;
        let refuse = |why: &str| {
            let error = FieldError::invalid("patch", self.shown(), why);
            Status::invalid("", "", "", &[error])
        };
        check_identity(call, &object)?;
        let mut problems = self.duplicates.clone();
        problems.extend(schema::check(row, &mut object).map_err(|why| refuse(&why))?);
        let warnings = write::judge(&self.options, problems, |problems| {
            refuse(&format!("strict decoding error: {}", problems.join(", ")))
        })?;
        Ok(Draft { object, warnings, managed: Managed::Update })
    }

    /// As Go prints it: a strategic patch is a map by then, the others are still JSON.
    fn shown(&self) -> String {
        if self.kind == PatchKind::Strategic { go(&self.body) } else { self.body.to_string() }
    }

    fn apply(&self, call: &Call, live: Option<&Value>) -> Result<Draft, Status> {
        let row = call.kind.row;
        let mut applied = self.body.clone();
        check_applied(call, &applied)?;
        patch::check_applied(row, &applied)?;
        let undecodable =
            |why: String| codec::cannot_be_handled(&row.kind, &row.version, &row.kind, &why);
        schema::check(row, &mut applied).map_err(undecodable)?;
        let metadata = object::meta_mut(&mut applied);
        if metadata.text("name").is_empty() {
            metadata.set("name", call.name);
        }
        write::check_namespace(call, &mut applied)?;
        let object = patch::apply(
            row,
            live,
            &applied,
            &self.options.manager,
            self.options.force.unwrap_or(false),
            call.subresource,
            call.now,
        )?;
        // A conflict counts more than what is written twice.
        let warnings = write::judge(&self.options, self.duplicates.clone(), |problems| {
            Status::bad_request(format!(
                "error strict decoding YAML: error converting YAML to JSON: {}",
                problems.join(", ")
            ))
        })?;
        Ok(Draft { object, warnings, managed: Managed::Already })
    }
}

/// The kind by the content type, or 415.
pub(super) fn patch_kind(call: &Call) -> Result<PatchKind, Status> {
    PatchKind::of(call.content_type)
        .ok_or_else(|| Status::unsupported_media_type(PatchKind::ACCEPTED))
}

pub(super) fn format(kind: PatchKind) -> Format {
    if kind == PatchKind::Apply { Format::Yaml } else { Format::Json }
}

fn check_options(kind: PatchKind, call: &Call, options: &WriteOptions) -> Result<(), Status> {
    let invalid = |error| Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &[error]));
    if kind == PatchKind::Apply && call.query.text("fieldManager").is_empty() {
        return invalid(FieldError::required("fieldManager", "is required for apply patch"));
    }
    if kind != PatchKind::Apply && options.force.is_some() {
        return invalid(FieldError::forbidden("force", "may not be specified for non-apply patch"));
    }
    Ok(())
}

/// A patch may not turn an object into another.
fn check_identity(call: &Call, object: &Value) -> Result<(), Status> {
    let name = object::meta(object).text("name");
    if name != call.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.name
        )));
    }
    let row = call.kind.row;
    let (version, kind) = (object.text("apiVersion"), object.text("kind"));
    if version != row.api_version() {
        return Err(Status::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({})",
            row.api_version()
        )));
    }
    if kind != row.kind {
        return Err(codec::cannot_be_handled(
            kind,
            &row.version,
            &row.kind,
            "the kind may not change",
        ));
    }
    Ok(())
}

fn check_applied(call: &Call, applied: &Value) -> Result<(), Status> {
    let row = call.kind.row;
    let metadata = object::meta(applied);
    if metadata.has("managedFields") && !metadata.vacant("managedFields") {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let name = metadata.text("name");
    if !name.is_empty() && name != call.name {
        return Err(Status::bad_request(format!(
            "metadata.name ({name}) does not match the name on the URL ({})",
            call.name
        )));
    }
    for (field, wanted) in [("apiVersion", row.api_version()), ("kind", row.kind.to_string())] {
        let found = applied.text(field);
        if found.is_empty() {
            return Err(Status::bad_request(format!("{field} must be set in the applied object")));
        }
        if found != wanted {
            return Err(Status::bad_request(format!(
                "incorrect {field} specified in apply patch. Specified patch: {found}, \
                 expected: {wanted}"
            )));
        }
    }
    Ok(())
}

/// A value as Go's `%+v` prints it.
fn go(value: &Value) -> String {
    let joined = |items: Vec<String>| items.join(" ");
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", joined(items.iter().map(go).collect())),
        Value::Object(map) => {
            let pairs = map.iter().map(|(key, value)| format!("{key}:{}", go(value)));
            format!("map[{}]", joined(pairs.collect()))
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn as_go_prints() {
        let patch = json!({"spec": {"replicaz": 3, "list": ["a", null]}});
        assert_eq!(go(&patch), "map[spec:map[list:[a <nil>] replicaz:3]]");
    }
}
