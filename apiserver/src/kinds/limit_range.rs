//! LimitRanges.

use std::collections::{BTreeSet, HashSet};

use proto::quantity::Quantity;
use proto::status::FieldError;
use proto::time::Time;
use serde_json::Value;

use super::check::{self, Errors};
use super::lens::Lens;
use super::path::Path;
use super::pod::resources;
use super::table::{self, column};
use super::{Column, Strategy};

const SPEC: Path = Path::root("spec");
const TYPES: [&str; 3] = ["Pod", "Container", "PersistentVolumeClaim"];

pub struct LimitRange;

impl Strategy for LimitRange {
    fn create_on_update(&self) -> bool {
        true
    }

    /// Of containers: the limit is the maximum, the request the limit, else the minimum.
    fn default(&self, object: &mut Value) {
        for limit in object.section("spec").items_mut("limits") {
            if limit.text("type") != "Container" {
                continue;
            }
            for (from, to) in
                [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")]
            {
                let amounts = limit.at(from).as_object().cloned().unwrap_or_default();
                for (name, amount) in amounts {
                    limit.section(to).fill(&name, amount);
                }
            }
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let path = SPEC.field("limits");
        let mut seen = HashSet::new();
        for (index, limit) in object.at("spec").items("limits").iter().enumerate() {
            let path = path.index(index);
            let kind = limit.text("type");
            let before = errors.len();
            check::qualified(&path.field("type"), kind, &mut errors);
            if errors.len() == before && !kind.contains('/') && !TYPES.contains(&kind) {
                let detail = "must be a standard limit type or fully qualified";
                errors.push(FieldError::invalid(path.field("type"), kind, detail));
            }
            if !seen.insert(kind) {
                errors.push(FieldError::duplicate(path.field("type"), kind));
            }
            lists(&path, limit, &mut errors);
            amounts(&path, limit, &mut errors);
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const CREATED: Column = column("Created At", "date", 0, table::AGE.description);
        &[table::NAME, CREATED]
    }

    fn cells(&self, object: &Value, _now: Time) -> Vec<Value> {
        let created = object.at("metadata").text("creationTimestamp");
        vec![table::name(object), created.into()]
    }
}

/// The names of the resources, and which lists there may be.
fn lists(path: &Path, limit: &Value, errors: &mut Errors) {
    let kind = limit.text("type");
    for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let path = path.field(list);
        if kind == "Pod" && list.starts_with("default") {
            if !limit.vacant(list) {
                let detail = "may not be specified when `type` is 'Pod'";
                errors.push(FieldError::forbidden(path, detail));
            }
            continue;
        }
        for (name, _) in limit.pairs(list) {
            match kind {
                "Pod" | "Container" => resources::container_resource(&path.key(name), name, errors),
                _ => resources::resource(&path.key(name), name, errors),
            }
        }
    }
    let bound = |list: &str| limit.at(list).has("storage");
    if kind == "PersistentVolumeClaim" && !bound("min") && !bound("max") {
        let detail =
            "either minimum or maximum storage value is required, but neither was provided";
        errors.push(FieldError::required(path.field("limits"), detail));
    }
}

/// The amounts of each resource against each other.
fn amounts(path: &Path, limit: &Value, errors: &mut Errors) {
    let lists = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
    let names: BTreeSet<&str> =
        lists.iter().flat_map(|list| limit.pairs(list)).map(|(name, _)| name).collect();
    for name in names {
        for (lower, upper, named, at) in ORDER {
            let read = |list: &str| resources::read(limit.at(list).at(name));
            if let (Some(low), Some(high)) = (read(lower), read(upper))
                && low > high
            {
                let (one, other) = named;
                let detail = format!("{one} value {low} {other} value {high}");
                let value = limit.at(at.1).at(name).clone();
                errors.push(FieldError::invalid(path.field(at.0).key(name), value, detail));
            }
        }
        ratio(path, limit, name, errors);
        let overcommit = resources::overcommits(name);
        let (limits, requests) = (limit.at("default"), limit.at("defaultRequest"));
        if !overcommit
            && let (Some(most), Some(least)) =
                (resources::read(limits.at(name)), resources::read(requests.at(name)))
            && most != least
        {
            let detail = format!(
                "default value {most} must equal to defaultRequest value {least} in {name}"
            );
            let path = path.field("defaultRequest");
            errors.push(FieldError::invalid(path.key(name), requests.at(name).clone(), detail));
        }
    }
}

/// The most that a limit may be of its request.
fn ratio(path: &Path, limit: &Value, name: &str, errors: &mut Errors) {
    let read = |list: &str| resources::read(limit.at(list).at(name));
    let Some(ratio) = read("maxLimitRequestRatio") else { return };
    let path = path.field("maxLimitRequestRatio");
    let path = path.key(name);
    let value = limit.at("maxLimitRequestRatio").at(name);
    if ratio < Quantity::new(1) {
        let detail = format!("ratio {ratio} is less than 1");
        errors.push(FieldError::invalid(path, value.clone(), detail));
    }
    let (Some(low), Some(high)) = (read("min"), read("max")) else { return };
    let most = high.milli() as f64 / low.milli() as f64;
    if ratio.milli() as f64 / 1000.0 > most {
        let detail = format!("ratio {ratio} is greater than max/min = {most:.6}");
        errors.push(FieldError::invalid(path, value.clone(), detail));
    }
}

type Order =
    (&'static str, &'static str, (&'static str, &'static str), (&'static str, &'static str));

/// A list, the list that it may not exceed, the words of the complaint, and the list that it is
/// about with the list whose value is shown.
const ORDER: [Order; 6] = [
    ("min", "max", ("min", "is greater than max"), ("min", "min")),
    (
        "min",
        "defaultRequest",
        ("min", "is greater than default request"),
        ("defaultRequest", "defaultRequest"),
    ),
    (
        "defaultRequest",
        "max",
        ("default request", "is greater than max"),
        ("defaultRequest", "defaultRequest"),
    ),
    (
        "defaultRequest",
        "default",
        ("default request", "is greater than default limit"),
        ("defaultRequest", "defaultRequest"),
    ),
    ("min", "default", ("min", "is greater than default"), ("default", "min")),
    ("default", "max", ("default", "is greater than max"), ("default", "max")),
];
