//! PriorityClasses and RuntimeClasses.

use proto::status::FieldError;
use proto::time::Time;
use serde_json::{Value, json};

use super::check;
use super::described;
use super::lens::Lens;
use super::metadata;
use super::path::Path;
use super::pod::{placement, resources, warnings};
use super::table::{self, column};
use super::{Column, Strategy};

/// The classes that Kubernetes itself defines: name and value.
pub const SYSTEM_PRIORITIES: &[(&str, i64)] =
    &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

const HIGHEST_PRIORITY: i64 = 1_000_000_000;

pub struct PriorityClass;
pub struct RuntimeClass;

impl Strategy for PriorityClass {
    /// It cannot change: the generation stays at 1, as upstream's does.
    fn counted(&self) -> &'static [&'static str] {
        &["/value"]
    }

    fn undeletable(&self, name: &str) -> Option<&'static str> {
        let mut system = SYSTEM_PRIORITIES.iter();
        system
            .any(|(known, _)| *known == name)
            .then_some("this is a system priority class and cannot be deleted")
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let name = object.at("metadata").text("name");
        let value = object.int("value").unwrap_or(0);
        if name.starts_with("system-") {
            if let Err(why) = known(name, value, object.flag("globalDefault") == Some(true)) {
                let detail = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. \
                     error: {why}"
                );
                errors.push(FieldError::forbidden("metadata.name", detail));
            }
        } else if value > HIGHEST_PRIORITY {
            let detail =
                format!("maximum allowed value of a user defined priority is {HIGHEST_PRIORITY}");
            errors.push(FieldError::forbidden("value", detail));
        }
        let policies = ["PreemptLowerPriority", "Never"];
        let policy = object.text("preemptionPolicy");
        check::one_of(&Path::root("preemptionPolicy"), policy, &policies, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if new.int("value") != old.int("value") {
            errors.push(FieldError::forbidden("value", "may not be changed in an update."));
        }
        let field = "preemptionPolicy";
        metadata::immutable(&Path::root(field), new.at(field), old.at(field), &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                table::NAME,
                column("Value", "integer", 0, described::PRIORITY_VALUE),
                column("Global-Default", "boolean", 0, described::PRIORITY_DEFAULT),
                table::AGE,
                column("PreemptionPolicy", "string", 0, described::PRIORITY_PREEMPTION),
            ]
        }
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        vec![
            table::name(object),
            object.int("value").unwrap_or(0).into(),
            object.flag("globalDefault").unwrap_or(false).into(),
            table::age(object, now),
            object.text("preemptionPolicy").into(),
        ]
    }
}

impl Strategy for RuntimeClass {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        const SCHEDULING: Path = Path::root("scheduling");
        let mut errors = Vec::new();
        check::label(&Path::root("handler"), object.text("handler"), &mut errors);
        if object.has("overhead") {
            let fixed = json!({"limits": object.at("overhead").at("podFixed")});
            resources::validate(&Path::root("overhead"), &fixed, &Default::default(), &mut errors);
        }
        let scheduling = object.at("scheduling");
        let path = SCHEDULING.field("nodeSelector");
        metadata::labels(&path, scheduling.at("nodeSelector"), &mut errors);
        let path = SCHEDULING.field("tolerations");
        placement::tolerations(&path, scheduling.items("tolerations"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        let field = "handler";
        metadata::immutable(&Path::root(field), new.at(field), old.at(field), &mut errors);
        errors
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let selector = new.at("scheduling").pairs("nodeSelector");
        let old = selector.filter_map(|(key, _)| warnings::old_label(key));
        old.map(|old| format!("scheduling.nodeSelector: {old}")).collect()
    }

    /// Upstream looks the description up in the wrong type and finds none.
    fn columns(&self) -> &'static [Column] {
        const { &[table::NAME, column("Handler", "string", 0, ""), table::AGE] }
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        vec![table::name(object), object.text("handler").into(), table::age(object, now)]
    }
}

/// Whether this is one of the system's classes as it has to be.
fn known(name: &str, value: i64, default: bool) -> Result<(), String> {
    let Some((_, fixed)) = SYSTEM_PRIORITIES.iter().find(|(known, _)| *known == name) else {
        return Err(format!("{name} is not a known system priority class"));
    };
    if value != *fixed {
        return Err(format!("value of {name} PriorityClass must be {fixed}"));
    }
    if default {
        return Err(format!("globalDefault of {name} PriorityClass must be false"));
    }
    Ok(())
}
