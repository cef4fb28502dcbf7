//! What the options of lists and watches may say together (metav1.ListOptions).

use proto::status::{FieldError, Status};

use crate::http::query::Query;

const MATCH: &str = "resourceVersionMatch";

/// All that is wrong with the options of a list.
pub(super) fn check_list(query: &Query) -> Result<(), Status> {
    let mut errors = Vec::new();
    let (version, matching) = (query.text("resourceVersion"), query.text(MATCH));
    if !matching.is_empty() {
        if version.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(FieldError::forbidden(MATCH, why));
        }
        errors.extend(with_continue(query));
        if !matches!(matching, "Exact" | "NotOlderThan") {
            let supported = ["Exact", "NotOlderThan", ""];
            errors.push(FieldError::not_supported(MATCH, matching, &supported));
        }
        if matching == "Exact" && version == "0" {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(FieldError::forbidden(MATCH, why));
        }
    }
    if query.find("sendInitialEvents").is_some() {
        let why = "sendInitialEvents is forbidden for list";
        errors.push(FieldError::forbidden("sendInitialEvents", why));
    }
    answer(errors)
}

/// All that is wrong with the options of a watch.
pub(super) fn check_watch(query: &Query) -> Result<(), Status> {
    let mut errors = Vec::new();
    let matching = query.text(MATCH);
    let initial = query.find("sendInitialEvents").is_some();
    if initial && matching != "NotOlderThan" {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(FieldError::forbidden(MATCH, why));
    }
    if !matching.is_empty() {
        if !initial {
            let why =
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden(MATCH, why));
        }
        if matching != "NotOlderThan" {
            errors.push(FieldError::not_supported(MATCH, matching, &["NotOlderThan"]));
        }
        errors.extend(with_continue(query));
    }
    answer(errors)
}

fn with_continue(query: &Query) -> Option<FieldError> {
    let why = "resourceVersionMatch is forbidden when continue is provided";
    (!query.text("continue").is_empty()).then(|| FieldError::forbidden(MATCH, why))
}

fn answer(errors: Vec<FieldError>) -> Result<(), Status> {
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid("meta.k8s.io", "ListOptions", "", &errors)),
    }
}
