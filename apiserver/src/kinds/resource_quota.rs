//! ResourceQuotas.

use std::collections::BTreeSet;

use proto::status::FieldError;
use proto::time::Time;
use serde_json::{Value, json};

use super::check::{self, Errors};
use super::lens::Lens;
use super::path::Path;
use super::persistent_volume::quantity;
use super::pod::resources;
use super::table::{self, column};
use super::{Column, Context, Strategy};

const SPEC: Path = Path::root("spec");
const STATUS: Path = Path::root("status");

pub struct ResourceQuota;

impl Strategy for ResourceQuota {
    fn prepare_create(&self, new: &mut Value, _ctx: &Context) {
        new.set("status", json!({}));
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = object.at("spec");
        amounts(&SPEC, spec, "hard", &mut errors);
        let scopes: Vec<&str> = check::texts(spec, "scopes").collect();
        let path = SPEC.field("scopes");
        for scope in &scopes {
            if !is_known(scope) {
                let value = spec.at("scopes").clone();
                errors.push(FieldError::invalid(path, value, "unsupported scope"));
            }
            fits(&path, scope, spec, spec.at("scopes"), &mut errors);
        }
        conflicts(&path, &scopes, spec, &mut errors);
        selector(spec, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        let scopes = |object| check::texts(object, "scopes").collect::<BTreeSet<&str>>();
        if scopes(new.at("spec")) != scopes(old.at("spec")) {
            let value = new.at("spec").at("scopes").clone();
            errors.push(FieldError::invalid(SPEC.field("scopes"), value, "field is immutable"));
        }
        errors
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        amounts(&STATUS, new.at("status"), "hard", &mut errors);
        amounts(&STATUS, new.at("status"), "used", &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let status = object.at("status");
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, hard) in status.pairs("hard") {
            let list = if name.starts_with("limits") { &mut limits } else { &mut requests };
            let used = status.at("used").at(name);
            list.push(format!("{name}: {}/{}", quantity(used), quantity(hard)));
        }
        vec![
            table::name(object),
            requests.join(", ").into(),
            limits.join(", ").into(),
            table::age(object, now),
        ]
    }
}

/// The resources of a list and their amounts.
fn amounts(path: &Path, parent: &Value, list: &str, errors: &mut Errors) {
    let path = path.field(list);
    for (name, amount) in parent.pairs(list) {
        let path = path.key(name);
        resources::resource(&path, name, errors);
        if !name.contains('/') && !is_standard(name) {
            let detail = "must be a standard resource for quota";
            errors.push(FieldError::invalid(path, name, detail));
        }
        resources::amount(&path, name, amount, errors);
    }
}

fn is_known(scope: &str) -> bool {
    SCOPES.iter().any(|(known, _)| *known == scope)
}

/// That a scope limits nothing that it says nothing about; `shown` is the value complained of.
fn fits(path: &Path, scope: &str, spec: &Value, shown: &Value, errors: &mut Errors) {
    let Some((_, resources)) = SCOPES.iter().find(|(known, _)| *known == scope) else { return };
    for (name, _) in spec.pairs("hard") {
        if is_standard(name) && !resources.contains(&name) {
            let detail = "unsupported scope applied to resource";
            errors.push(FieldError::invalid(path, shown.clone(), detail));
        }
    }
}

fn conflicts(path: &Path, scopes: &[&str], spec: &Value, errors: &mut Errors) {
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&one) && scopes.contains(&other) {
            let value = spec.at("scopes").clone();
            errors.push(FieldError::invalid(path, value, "conflicting scopes"));
        }
    }
}

fn selector(spec: &Value, errors: &mut Errors) {
    let path = SPEC.field("scopeSelector");
    let path = path.field("matchExpressions");
    let mut scopes = Vec::new();
    let selector = spec.at("scopeSelector");
    for requirement in selector.items("matchExpressions") {
        let name = requirement.text("scopeName");
        if !is_known(name) {
            let path = path.field("scopeName");
            errors.push(FieldError::invalid(path, name, "unsupported scope"));
        }
        fits(&path, name, spec, selector, errors);
        let operator = requirement.text("operator");
        let path_operator = path.field("operator");
        if EXISTENTIAL.contains(&name) && operator != "Exists" {
            errors.push(FieldError::invalid(path_operator, operator, ONLY_EXISTS));
        }
        let path = path.field("values");
        match operator {
            "In" | "NotIn" if requirement.vacant("values") => {
                let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for \
                              scope selector";
                errors.push(FieldError::required(path, detail));
            }
            "Exists" | "DoesNotExist" if !requirement.vacant("values") => {
                let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for \
                              scope selector";
                let values = requirement.at("values").clone();
                errors.push(FieldError::invalid(path, values, detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                let detail = "not a valid selector operator";
                errors.push(FieldError::invalid(path_operator, other, detail));
            }
        }
        scopes.push(name);
    }
    conflicts(&path, &scopes, spec, errors);
}

fn is_standard(name: &str) -> bool {
    let huge = name.strip_prefix("requests.").unwrap_or(name).starts_with("hugepages-");
    huge || STANDARD.contains(&name)
}

const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];

const COMPUTE: &[&str] =
    &["pods", "cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

/// What each scope may limit.
const SCOPES: &[(&str, &[&str])] = &[
    ("Terminating", COMPUTE),
    ("NotTerminating", COMPUTE),
    ("BestEffort", &["pods"]),
    ("NotBestEffort", COMPUTE),
    ("PriorityClass", COMPUTE),
    ("CrossNamespacePodAffinity", COMPUTE),
    ("VolumeAttributesClass", &["persistentvolumeclaims", "requests.storage"]),
];

/// Scopes that have no values.
const EXISTENTIAL: [&str; 5] =
    ["BestEffort", "NotBestEffort", "Terminating", "NotTerminating", "CrossNamespacePodAffinity"];

const ONLY_EXISTS: &str = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, \
    ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
    ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";

const COLUMNS: &[Column] = &[
    table::NAME,
    column(
        "Request",
        "string",
        0,
        "Request represents a minimum amount of cpu/memory that a container may consume.",
    ),
    column(
        "Limit",
        "string",
        0,
        "Limits control the maximum amount of cpu/memory that a container may use independent of \
         contention on the node.",
    ),
    table::AGE,
];
