//! Which objects a list, a watch or a deletion of a collection means.

use proto::{
    selector::{FieldSelector, Selector},
    status::Status,
};

use super::{Call, Kind};
use crate::{cache::Entry, kinds};

/// A namespace (empty: all), labels and fields. Works on what the cache extracted: no object is
/// parsed.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub namespace: String,
    labels: Selector,
    fields: FieldSelector,
}

impl Selection {
    /// From the query parameters `labelSelector` and `fieldSelector`; a name in the path selects
    /// that object only.
    pub fn parse(call: &Call) -> Result<Selection, Status> {
        let bad = |error: &dyn std::fmt::Display| Status::bad_request(error.to_string());
        let labels = Selector::parse(call.query.text("labelSelector")).map_err(|e| bad(&e))?;
        let mut fields =
            FieldSelector::parse(call.query.text("fieldSelector")).map_err(|e| bad(&e))?;
        check_fields(call.kind, &fields)?;
        if !call.name.is_empty() {
            fields = FieldSelector::equal("metadata.name", call.name);
        }
        Ok(Selection { namespace: call.namespace.to_string(), labels, fields })
    }

    /// Nothing but the namespace selects.
    pub fn is_open(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub fn matches(&self, entry: &Entry) -> bool {
        (self.namespace.is_empty() || entry.namespace() == self.namespace)
            && self.matches_within(entry)
    }

    /// For entries that are known to be of the namespace.
    pub fn matches_within(&self, entry: &Entry) -> bool {
        self.labels.matches(&entry.labels)
            && self.fields.matches(|field| entry.field(field).unwrap_or_default())
    }

    /// A field and the one value of it that all matching objects have, where the selection asks
    /// for one: a watch then sleeps through the changes of all others.
    pub fn value(&self) -> Option<(&str, &str)> {
        let mut equal = self.fields.requirements().iter().filter(|requirement| requirement.equal);
        match equal.next() {
            Some(requirement) => Some((&requirement.field, &requirement.value)),
            None if self.namespace.is_empty() => None,
            None => Some(("metadata.namespace", &self.namespace)),
        }
    }

    /// The only object that can match, where the fields name it.
    pub fn only(&self) -> Option<&str> {
        self.fields.required("metadata.name")
    }
}

fn check_fields(kind: &Kind, fields: &FieldSelector) -> Result<(), Status> {
    for requirement in fields.requirements() {
        if kinds::field(kind.strategy, &requirement.field).is_none() {
            return Err(Status::bad_request(format!(
                "field label not supported: {}",
                requirement.field
            )));
        }
    }
    Ok(())
}
