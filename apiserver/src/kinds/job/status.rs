//! Validation of a Job's status. Whoever manages the Job writes it, so a finished Job must stay so.

use std::collections::HashSet;

use proto::indexes::Indexes;
use proto::status::{FieldError, Problem};
use proto::time::Time;
use serde_json::Value;

use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

const STATUS: Path = Path::root("status");

/// Whether a condition of the Job is true.
pub fn is(job: &Value, kind: &str) -> bool {
    let mut conditions = job.at("status").items("conditions").iter();
    conditions.any(|condition| condition.text("type") == kind && condition.text("status") == "True")
}

/// Checks what changed between the two; what was wrong before is let through.
pub fn validate(new: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    let counts = ["active", "succeeded", "failed", "ready", "terminating"];
    check::nonnegative(&STATUS, new.at("status"), &counts, &mut errors);
    uncounted(new.at("status").at("uncountedTerminatedPods"), &mut errors);
    conditions(new, old, &mut errors);
    finished(new, old, &mut errors);
    indexes(new, old, &mut errors);
    times(new, old, &mut errors);
    counters(new, old, &mut errors);
    errors
}

fn uncounted(pods: &Value, errors: &mut Errors) {
    let path = STATUS.field("uncountedTerminatedPods");
    let mut seen = HashSet::new();
    for list in ["succeeded", "failed"] {
        let path = path.field(list);
        for (index, uid) in check::texts(pods, list).enumerate() {
            if uid.is_empty() {
                errors.push(FieldError::invalid(path.index(index), uid, "must not be empty"));
            } else if !seen.insert(uid) {
                errors.push(FieldError::duplicate(path.index(index), uid));
            }
        }
    }
}

fn conditions(new: &Value, old: &Value, errors: &mut Errors) {
    let mut refuse = |detail: String| {
        errors.push(FieldError::new(STATUS.field("conditions"), Problem::InvalidWhole, detail));
    };
    let changed = |kind| is(new, kind) != is(old, kind);
    let both = |one, other| is(new, one) && is(new, other);
    let complete = changed("Complete");
    if both("Complete", "Failed") && (complete || changed("Failed")) {
        refuse("cannot set Complete=True and Failed=true conditions".into());
    }
    if both("Complete", "FailureTarget") && (complete || changed("FailureTarget")) {
        refuse("cannot set Complete=True and FailureTarget=true conditions".into());
    }
    if is(new, "Failed") && !is(new, "FailureTarget") && changed("Failed") {
        refuse("cannot set Failed=True condition without the FailureTarget=true condition".into());
    }
    if is(new, "Complete") && !is(new, "SuccessCriteriaMet") && complete {
        refuse(
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition"
                .into(),
        );
    }
    for other in ["Failed", "FailureTarget"] {
        if both("SuccessCriteriaMet", other) {
            refuse(format!("cannot set SuccessCriteriaMet=True and {other}=true conditions"));
        }
    }
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if is(old, kind) && !is(new, kind) {
            refuse(format!("cannot disable the terminal {kind}=True condition"));
        }
    }
    if is(old, "SuccessCriteriaMet") && !is(new, "SuccessCriteriaMet") {
        refuse("cannot disable the SuccessCriteriaMet=True condition".into());
    }
}

/// That nothing of a finished Job still runs.
fn finished(new: &Value, old: &Value, errors: &mut Errors) {
    let status = new.at("status");
    if !is_finished(new) {
        return;
    }
    let relevant = |field| !is_finished(old) || status.at(field) != old.at("status").at(field);
    for field in ["active", "terminating"] {
        if let Some(count) = status.int(field).filter(|count| *count > 0 && relevant(field)) {
            let detail = format!("{field}>0 is invalid for finished job");
            errors.push(FieldError::invalid(STATUS.field(field), count, detail));
        }
    }
    if !status.has("startTime") && relevant("startTime") {
        let detail = "startTime is required for finished job";
        errors.push(FieldError::required(STATUS.field("startTime"), detail));
    }
    let pods = status.at("uncountedTerminatedPods");
    let left = !pods.vacant("succeeded") || !pods.vacant("failed");
    if left && relevant("uncountedTerminatedPods") {
        let detail = "uncountedTerminatedPods needs to be empty for finished job";
        let path = STATUS.field("uncountedTerminatedPods");
        errors.push(FieldError::invalid(path, pods.clone(), detail));
    }
}

fn indexes(new: &Value, old: &Value, errors: &mut Errors) {
    let (status, before, spec) = (new.at("status"), old.at("status"), new.at("spec"));
    let changed = |field| status.at(field) != before.at(field);
    let completions = spec.int("completions");
    for field in ["completedIndexes", "failedIndexes"] {
        let text = status.text(field);
        if !changed(field) {
            continue;
        }
        if let Some(Err(error)) = completions.map(|count| Indexes::parse(text, count)) {
            let detail = format!("error parsing {field}: {error}");
            errors.push(FieldError::invalid(STATUS.field(field), text, detail));
        }
    }
    let completed = status.text("completedIndexes");
    if changed("completedIndexes")
        && !completed.is_empty()
        && spec.text("completionMode") != "Indexed"
    {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.push(FieldError::invalid(STATUS.field("completedIndexes"), completed, detail));
    }
    let Some(failed) = status.at("failedIndexes").as_str() else { return };
    let path = STATUS.field("failedIndexes");
    if changed("failedIndexes") && !spec.has("backoffLimitPerIndex") {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.push(FieldError::invalid(path, failed, detail));
    }
    let Some(count) = completions else { return };
    let parsed = (Indexes::parse(completed, count), Indexes::parse(failed, count));
    let (Ok(completed), Ok(failures)) = parsed else { return };
    let overlap = failures.ranges().iter().find_map(|(from, to)| {
        let completed = completed.ranges().iter();
        let mut completed = completed.filter(|(low, high)| from <= high && low <= to);
        completed.next().map(|(low, _)| *low.max(from))
    });
    if let Some(index) = overlap.filter(|_| changed("failedIndexes") || changed("completedIndexes"))
    {
        let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.push(FieldError::invalid(path, failed, detail));
    }
}

fn times(new: &Value, old: &Value, errors: &mut Errors) {
    let (status, before) = (new.at("status"), old.at("status"));
    let changed = |field| status.at(field) != before.at(field);
    let path = STATUS.field("completionTime");
    let (start, end) = (status.at("startTime"), status.at("completionTime"));
    let time = |value: &Value| value.as_str().and_then(|text| text.parse::<Time>().ok());
    if changed("completionTime") || is(new, "Complete") != is(old, "Complete") {
        if !end.is_null() && !is(new, "Complete") {
            let detail = "cannot set completionTime when there is no Complete=True condition";
            errors.push(FieldError::invalid(path, end.clone(), detail));
        }
        if end.is_null() && is(new, "Complete") {
            let detail = "completionTime is required for Complete jobs";
            errors.push(FieldError::required(path, detail));
        }
    }
    if (changed("startTime") || changed("completionTime"))
        && let (Some(started), Some(ended)) = (time(start), time(end))
        && ended < started
    {
        let detail = "completionTime cannot be set before startTime";
        errors.push(FieldError::invalid(path, end.clone(), detail));
    }
    if !end.is_null() && before.has("completionTime") && changed("completionTime") {
        let detail = "completionTime cannot be mutated";
        errors.push(FieldError::invalid(path, end.clone(), detail));
    }
    let suspended = new.at("spec").flag("suspend") == Some(true);
    let resumes = is(old, "Suspended") && !is(new, "Suspended");
    if before.has("startTime") && changed("startTime") && !suspended && !resumes {
        let detail = "startTime cannot be removed for unsuspended job";
        errors.push(FieldError::required(STATUS.field("startTime"), detail));
    }
}

fn counters(new: &Value, old: &Value, errors: &mut Errors) {
    let (status, before, spec) = (new.at("status"), old.at("status"), new.at("spec"));
    let count = |status: &Value, field| status.int(field).unwrap_or(0);
    if status.has("ready") && count(status, "ready") > count(status, "active") {
        let changed = |field| status.at(field) != before.at(field);
        if changed("ready") || changed("active") {
            let detail = "cannot set more ready pods than active";
            let ready = count(status, "ready");
            errors.push(FieldError::invalid(STATUS.field("ready"), ready, detail));
        }
    }
    // An indexed Job that is scaled down forgets the indexes above its new size.
    let scalable = spec.text("completionMode") == "Indexed"
        && spec.at("completions") == spec.at("parallelism");
    for (field, fixed) in [("failed", true), ("succeeded", !scalable)] {
        if fixed && count(status, field) < count(before, field) {
            let detail = format!("cannot decrease the {field} counter");
            errors.push(FieldError::invalid(STATUS.field(field), count(status, field), detail));
        }
    }
}

fn is_finished(job: &Value) -> bool {
    is(job, "Complete") || is(job, "Failed")
}
