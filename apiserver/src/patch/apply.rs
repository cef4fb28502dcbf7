//! Server-side apply: the applied object is merged into the live one, fields that the manager
//! applied before and does not apply any more go (unless somebody else owns them), and a change to
//! a field of another manager is a conflict unless forced.

use proto::kind::Row;
use proto::status::{Cause, Details, Status};
use proto::time::Time;
use serde_json::{Value, json};

use super::fields::{self, Set};
use super::managed_fields::{self, Entry, Owner};
use super::walk;
use crate::schema::{self, Type};

/// The manager of what was there before the first apply, where nobody was recorded.
const BEFORE: &str = "before-first-apply";

/// Applies an object (as the client sent it, not defaulted) to the live one, or creates it. The
/// result has its managedFields: the write must not be recorded a second time. 409 with a cause
/// `FieldManagerConflict` per field of another manager; 400 and 500 for objects that do not fit the
/// schema, as upstream answers them.
pub fn apply(
    row: &Row,
    live: Option<&Value>,
    applied: &Value,
    manager: &str,
    force: bool,
    subresource: &str,
    now: Time,
) -> Result<Value, Status> {
    let Some(ty) = schema::of(row) else {
        return Err(Status::unsupported_media_type(super::PatchKind::ACCEPTED));
    };
    let (applied, said) = typed(row, &ty, applied, subresource)?;
    let mut set = said.clone();
    never_owned(&mut set);
    let mut base = live.cloned().unwrap_or_else(|| json!({}));
    let mut entries = managed_fields::taken(None, &mut base, false);
    let merged = walk::merged(&ty, &base, &applied);
    let api_version = row.api_version();
    let owner = Owner { manager, operation: "Apply", api_version: &api_version, subresource };
    let unrecorded = live.is_some() && entries.is_empty();
    if unrecorded {
        let before = Owner { manager: BEFORE, operation: "Update", subresource: "", ..owner };
        entries.push(Entry::new(&before, walk::changes(&ty, None, &base).touched, now));
    }
    let own = entries.iter().position(|entry| entry.is(&owner));
    let last = own.map(|index| entries.swap_remove(index));
    let last_set = last.as_ref().and_then(Entry::set);
    let mut new = match last_set {
        Some(last) if !fields::is_subset(last, &set) => pruned(&ty, merged, &entries, &said, last),
        _ => merged,
    };
    // Written as it will be stored, so that `1000m` over `1` is no change.
    schema::check_type(&ty, &mut new)
        .map_err(|why| crate::codec::cannot_be_handled(&row.kind, &row.version, &row.kind, &why))?;
    let changes = walk::changes(&ty, live.map(|_| &base), &new);
    let same_owner = !unrecorded
        && last_set == Some(&set)
        && last.as_ref().is_some_and(|last| last.text("apiVersion") == api_version);
    if let Some(live) = live
        && same_owner
        && changes.touched.is_empty()
        && changes.removed.is_empty()
    {
        return Ok(live.clone());
    }
    settle(&mut entries, &changes, force, &api_version)?;
    entries.push(Entry::new(&owner, set, now));
    managed_fields::put(&mut new, entries);
    Ok(new)
}

/// Refuses what does not fit the schema, as [`apply`] does.
pub fn check_applied(row: &Row, applied: &Value) -> Result<(), Status> {
    schema::of(row).map_or(Ok(()), |ty| fitting(row, &ty, applied).map(drop))
}

/// Checks what was applied against the schema and finds its fields, those that nobody owns too.
fn typed(row: &Row, ty: &Type, applied: &Value, subresource: &str) -> Result<(Value, Set), Status> {
    if applied.pointer("/metadata/managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let mut applied = applied.clone();
    let Some(map) = applied.as_object_mut() else {
        return Err(Status::bad_request("the applied patch must be an object"));
    };
    // Fields that this endpoint does not write are not owned by who sends them.
    match subresource {
        "" if row.has_subresource("status") => drop(map.remove("status")),
        "status" | "approval" => drop(map.remove("spec")),
        _ => {}
    }
    let set = fitting(row, ty, &applied)?;
    Ok((applied, set))
}

/// The fields of what was applied, which the schema must have: an unknown one cannot be owned, so
/// `fieldValidation` has no say. To upstream that is no error of the API's own, and so 500 without a
/// reason.
fn fitting(row: &Row, ty: &Type, applied: &Value) -> Result<Set, Status> {
    let mut problems = Vec::new();
    let set = walk::fields_of(ty, applied, &mut problems);
    if problems.is_empty() {
        return Ok(set);
    }
    if problems.len() > 1 {
        problems.insert(0, "errors:".into());
    }
    let text = |path: &str| applied.pointer(path).and_then(Value::as_str).unwrap_or("");
    let message = format!(
        "failed to create typed patch object ({}/{}; {}/{}, Kind={}): {}",
        text("/metadata/namespace"),
        text("/metadata/name"),
        row.group,
        row.version,
        row.kind,
        problems.join("\n  ")
    );
    Err(Status::failure(500, "", message))
}

fn never_owned(set: &mut Set) {
    set.remove("f:apiVersion");
    set.remove("f:kind");
    let Some(Value::Object(meta)) = set.get_mut("f:metadata") else { return };
    meta.retain(|element, _| {
        let name = element.trim_start_matches("f:");
        element != "." && !walk::NEVER_OWNED_METADATA.contains(&name)
    });
    if meta.is_empty() {
        set.remove("f:metadata");
    }
}

/// The merged object without the fields that were applied before and are not any more; those that
/// others own, and those that hang on a removed item without ever having been applied, come back.
/// `said` has also what nobody owns, such as the name.
fn pruned(ty: &Type, merged: Value, others: &[Entry], said: &Set, last: &Set) -> Value {
    let last = walk::with_structs(ty, last);
    let mut pruned = merged.clone();
    walk::without(ty, &mut pruned, &last);
    let mut managed = said.clone();
    others.iter().filter_map(Entry::set).for_each(|set| fields::union(&mut managed, set.clone()));
    let members =
        |value: &Value| walk::with_structs(ty, &walk::fields_of(ty, value, &mut Vec::new()));
    let all = members(&merged);
    // What somebody owns stays.
    let mut gone = all.clone();
    fields::subtract(&mut gone, &members(&pruned));
    fields::subtract(&mut gone, &walk::with_structs(ty, &managed));
    let mut pruned = merged.clone();
    walk::without(ty, &mut pruned, &gone);
    // What this manager never applied stays.
    let mut gone = all;
    fields::subtract(&mut gone, &members(&pruned));
    let gone = fields::intersection(&gone, &last);
    let mut out = merged;
    walk::without(ty, &mut out, &gone);
    if out.is_null() { json!({}) } else { out }
}

/// Takes changed fields from the other managers; without force that is a conflict.
fn settle(
    others: &mut [Entry],
    changes: &walk::Changes,
    force: bool,
    api_version: &str,
) -> Result<(), Status> {
    let mut conflicts: Vec<(String, String)> = Vec::new();
    for entry in others.iter_mut().filter(|entry| entry.text("apiVersion") == api_version) {
        let common = entry.set().map(|set| fields::intersection(set, &changes.touched));
        let common = common.unwrap_or_default();
        if !common.is_empty() && !force {
            let owner = entry.printed();
            conflicts.extend(fields::paths(&common).into_iter().map(|path| (owner.clone(), path)));
        }
        if let Some(set) = entry.set_mut() {
            fields::subtract(set, &common);
            fields::subtract(set, &changes.removed);
        }
    }
    if conflicts.is_empty() { Ok(()) } else { Err(conflict(conflicts)) }
}

fn conflict(mut conflicts: Vec<(String, String)>) -> Status {
    conflicts.sort();
    let message = match conflicts.as_slice() {
        [(owner, path)] => format!("Apply failed with 1 conflict: conflict with {owner}: {path}"),
        many => {
            let mut text = format!("Apply failed with {} conflicts: ", many.len());
            let groups = many.chunk_by(|a, b| a.0 == b.0).map(|group| {
                let paths: Vec<String> =
                    group.iter().map(|(_, path)| format!("- {path}")).collect();
                format!("conflicts with {}:\n{}", group[0].0, paths.join("\n"))
            });
            text += &groups.collect::<Vec<_>>().join("\n");
            text
        }
    };
    let mut status = Status::failure(409, "Conflict", message);
    let causes = conflicts.into_iter().map(|(owner, field)| Cause {
        reason: "FieldManagerConflict".into(),
        message: format!("conflict with {owner}"),
        field,
    });
    status.details = Some(Box::new(Details { causes: causes.collect(), ..Details::default() }));
    status
}
