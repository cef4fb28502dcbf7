//! Validation of resource requirements and names.

use proto::quantity::Quantity;
use proto::status::FieldError;
use proto::view::Resources;
use serde_json::Value;

use super::claim;
use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

/// Validates the `resources` of a container of a pod that has these claims.
pub fn validate(path: &Path, resources: &Value, claims: &claim::Names, errors: &mut Errors) {
    requirements(path, resources, container_resource, errors);
    claim::used(&path.field("claims"), resources.items("claims"), claims, errors);
}

/// Validates requests and limits; `name` says which resources there may be.
pub fn requirements(
    path: &Path,
    resources: &Value,
    named: fn(&Path, &str, &mut Errors),
    errors: &mut Errors,
) {
    let limits = resources.at("limits");
    let (path_limits, path_requests) = (path.field("limits"), path.field("requests"));
    let (mut huge, mut small) = (false, false);
    for (name, quantity) in resources.pairs("limits") {
        let path = path_limits.key(name);
        named(&path, name, errors);
        amount(&path, name, quantity, errors);
        pages(&path, name, quantity, errors);
        huge |= is_huge(name);
        small |= matches!(name, "cpu" | "memory");
    }
    for (name, quantity) in resources.pairs("requests") {
        let path = path_requests.key(name);
        named(&path, name, errors);
        amount(&path, name, quantity, errors);
        huge |= is_huge(name);
        small |= matches!(name, "cpu" | "memory");
        let overcommit = overcommits(name);
        match (read(quantity), limits.has(name).then(|| read(limits.at(name))).flatten()) {
            (Some(request), Some(limit)) => {
                let detail = if request != limit && !overcommit {
                    format!("must be equal to {name} limit of {limit}")
                } else if request > limit {
                    format!("must be less than or equal to {name} limit of {limit}")
                } else {
                    String::new()
                };
                if !detail.is_empty() {
                    errors.push(FieldError::invalid(path_requests, quantity.clone(), detail));
                }
            }
            (_, None) if !overcommit => {
                let detail = "Limit must be set for non overcommitable resources";
                errors.push(FieldError::required(path_limits, detail));
            }
            _ => {}
        }
        pages(&path, name, quantity, errors);
    }
    if huge && !small {
        errors.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
}

/// That an amount of huge pages is a number of whole pages.
fn pages(path: &Path, name: &str, quantity: &Value, errors: &mut Errors) {
    let (Some(size), Some(amount)) = (name.strip_prefix(HUGE), read(quantity)) else { return };
    let size = size.parse::<Quantity>().ok().filter(|size| size.is_whole() && !size.is_negative());
    let size = size.map_or(0, |size| size.value());
    if size == 0 || amount.value() % size != 0 {
        let detail = format!("{amount} is not positive integer multiple of {name}");
        errors.push(FieldError::invalid(path, quantity.clone(), detail));
    }
}

/// Validates the amount of one resource: not negative, and whole where it cannot be divided.
pub fn amount(path: &Path, name: &str, quantity: &Value, errors: &mut Errors) {
    let Some(value) = read(quantity) else { return };
    if value.is_negative() {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(path, quantity.clone(), detail));
    }
    let whole = extended(name) || COUNTED.contains(&name);
    if whole && value.milli() % 1000 != 0 {
        errors.push(FieldError::invalid(path, quantity.clone(), "must be an integer"));
    }
}

/// Validates the name of any resource: standard or fully qualified.
pub fn resource(path: &Path, name: &str, errors: &mut Errors) {
    let before = errors.len();
    check::qualified(path, name, errors);
    if errors.len() == before && !name.contains('/') && !standard(name) {
        let detail = "must be a standard resource type or fully qualified";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

/// Validates the name of a resource that containers may have.
pub fn container_resource(path: &Path, name: &str, errors: &mut Errors) {
    resource(path, name, errors);
    if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge(name) {
            let detail = "must be a standard resource for containers";
            errors.push(FieldError::invalid(path, name, detail));
        }
    } else if !native(name) && !extended(name) {
        let detail = "doesn't follow extended resource name standard";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

/// Quantities arrive in canonical text; anything else the schema has refused.
pub fn read(quantity: &Value) -> Option<Quantity> {
    match quantity {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

/// The amounts of a resource list by name.
pub fn list(list: &Value) -> Resources {
    let pairs = list.as_object().into_iter().flatten();
    pairs.filter_map(|(name, amount)| Some((name.clone(), read(amount)?))).collect()
}

fn native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

pub fn extended(name: &str) -> bool {
    !native(name) && !name.starts_with("requests.")
}

pub fn is_huge(name: &str) -> bool {
    name.starts_with(HUGE)
}

/// Whether more of it may be promised than there is.
pub fn overcommits(name: &str) -> bool {
    native(name) && !is_huge(name)
}

fn standard(name: &str) -> bool {
    let plain =
        name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    matches!(plain, "cpu" | "memory" | "ephemeral-storage" | "storage")
        || is_huge(plain)
        || COUNTED.contains(&name)
}

const HUGE: &str = "hugepages-";

/// Resources that are counted in whole objects.
const COUNTED: &[&str] = &[
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
