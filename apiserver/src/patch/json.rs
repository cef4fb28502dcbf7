//! JSON patch (RFC 6902), with upstream's limits.

use json_patch::{Patch, PatchOperation};
use proto::status::Status;
use serde_json::Value;

use super::rejected;

/// Operations that one patch may have.
const MOST_OPERATIONS: usize = 10_000;
/// Bytes that `copy` operations may add up to.
const MOST_COPIED: usize = 3 << 20;

/// Applies a JSON patch. 400 when the body is not one, 413 when it is too long, 422 when it does
/// not fit the object or a test fails.
pub fn json(old: &Value, body: &Value) -> Result<Value, Status> {
    let count = body.as_array().map_or(0, Vec::len);
    if count > MOST_OPERATIONS {
        return Err(Status::too_large(format!(
            "The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {count}"
        )));
    }
    let Patch(operations) = serde_json::from_value(body.clone())
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    let mut new = old.clone();
    let mut copied = 0;
    for operation in &operations {
        if let PatchOperation::Copy(copy) = operation {
            copied += new.pointer(copy.from.as_str()).map_or(0, size);
            if copied > MOST_COPIED {
                return Err(rejected());
            }
        }
        json_patch::patch_unsafe(&mut new, std::slice::from_ref(operation))
            .map_err(|_| rejected())?;
    }
    Ok(new)
}

/// About how many bytes a value is long.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| size(item) + 1).sum::<usize>(),
        Value::Object(map) => {
            2 + map.iter().map(|(key, value)| key.len() + 4 + size(value)).sum::<usize>()
        }
        _ => 8,
    }
}
