//! ResourceSlices: the devices that a driver offers.

use std::collections::HashSet;

use proto::status::FieldError;
use proto::time::Time;
use serde_json::Value;

use super::capacity::policy;
use super::{EFFECTS, attribute, binding, node_selector, pool};
use crate::kinds::check::{self, Errors};
use crate::kinds::described;
use crate::kinds::lens::Lens;
use crate::kinds::metadata::{self, sentences};
use crate::kinds::name;
use crate::kinds::path::Path;
use crate::kinds::table::{self, column};
use crate::kinds::{Column, Context, Field, Strategy, begin, carry_on};

const SPEC: Path = Path::root("spec");
const MOST_DEVICES: usize = 128;
/// With taints or counters, which cost more to look at.
const MOST_ADVANCED: usize = 64;
const MOST_COUNTER_SETS: usize = 8;
const MOST_ATTRIBUTES: usize = 32;
const LONGEST_VALUE: usize = 64;

pub struct ResourceSlice;

impl Strategy for ResourceSlice {
    fn counted(&self) -> &'static [&'static str] {
        &["/spec"]
    }

    fn prepare_create(&self, new: &mut Value, ctx: &Context) {
        begin(self.counted(), new, ctx);
        stamp(new, ctx.now);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Context) {
        stamp(new, ctx.now);
        carry_on(self.counted(), new, old, ctx);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = object.at("spec");
        check::driver(&SPEC.field("driver"), spec.text("driver"), &mut errors);
        let (path, offered) = (SPEC.field("pool"), spec.at("pool"));
        pool(&path.field("name"), offered.text("name"), &mut errors);
        if let Some(count) = offered.int("resourceSliceCount").filter(|count| *count <= 0) {
            let path = path.field("resourceSliceCount");
            errors.push(FieldError::invalid(path, count, "must be greater than zero"));
        }
        if let Some(number) = offered.int("generation").filter(|number| *number < 0) {
            let detail = "must be greater than or equal to zero";
            errors.push(FieldError::invalid(path.field("generation"), number, detail));
        }
        where_to(spec, &mut errors);
        if spec.has("sharedCounters") && spec.has("devices") {
            let detail = "only one of `sharedCounters` or `devices` is allowed";
            errors.push(FieldError::invalid(SPEC, "", detail));
        }
        devices(spec, &mut errors);
        let path = SPEC.field("sharedCounters");
        counters(&path, spec.items("sharedCounters"), "name", MOST_COUNTER_SETS, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        let (new, old) = (new.at("spec"), old.at("spec"));
        let path = SPEC.field("pool");
        let (name, before) = (new.at("pool").at("name"), old.at("pool").at("name"));
        metadata::immutable(&path.field("name"), name, before, &mut errors);
        for field in ["driver", "nodeName"] {
            metadata::immutable(&SPEC.field(field), new.at(field), old.at(field), &mut errors);
        }
        errors
    }

    fn fields(&self) -> &'static [Field] {
        const { &[Field::text("spec.nodeName"), Field::text("spec.driver")] }
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                table::NAME,
                column("Node", "string", 0, described::SLICE_NODE),
                column("Driver", "string", 0, described::SLICE_DRIVER),
                column("Pool", "string", 0, described::SLICE_POOL),
                table::AGE,
            ]
        }
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let spec = object.at("spec");
        vec![
            table::name(object),
            spec.text("nodeName").into(),
            spec.text("driver").into(),
            spec.at("pool").text("name").into(),
            table::age(object, now),
        ]
    }
}

/// A taint begins when it is first written.
fn stamp(slice: &mut Value, now: Time) {
    for device in slice.section("spec").items_mut("devices") {
        for taint in device.items_mut("taints") {
            taint.fill("timeAdded", now.to_string());
        }
    }
}

/// The one way in which a slice, or a device of it, says which nodes it is for.
fn where_to(spec: &Value, errors: &mut Errors) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, \
                       `perDeviceNodeSelection` is required";
    let ways = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];
    let set =
        nodes(&SPEC, spec, &ways, "must be either unset or set to a non-empty string", errors);
    let terms = spec.at("nodeSelector").items("nodeSelectorTerms");
    if spec.has("nodeSelector") && terms.len() != 1 {
        let path = SPEC.field("nodeSelector");
        let detail = "must have exactly one node selector term";
        let value = spec.at("nodeSelector").at("nodeSelectorTerms").clone();
        errors.push(FieldError::invalid(path.field("nodeSelectorTerms"), value, detail));
    }
    match set.len() {
        0 => errors.push(FieldError::required(SPEC, ONE)),
        1 => {}
        _ => {
            let detail = format!("{ONE}, but multiple fields are set");
            errors.push(FieldError::invalid(SPEC, format!("{{{}}}", set.join(", ")), detail));
        }
    }
}

/// Checks each way that is given; which are.
fn nodes(path: &Path, of: &Value, ways: &[&str], empty: &str, errors: &mut Errors) -> Vec<String> {
    let mut set = Vec::new();
    for way in ways.iter().filter(|way| of.has(way)) {
        let (path, value) = (path.field(way), of.at(way));
        match (*way, value) {
            ("nodeName", Value::String(name)) if name.is_empty() => {
                errors.push(FieldError::invalid(path, "", empty));
                continue;
            }
            ("nodeName", name) => check::subdomain(&path, name.as_str().unwrap_or(""), errors),
            ("nodeSelector", selector) => node_selector(&path, selector, errors),
            (_, Value::Bool(false)) => {
                let detail = "must be either unset or set to true";
                errors.push(FieldError::invalid(path, false, detail));
                continue;
            }
            _ => {}
        }
        set.push(format!("`{way}`"));
    }
    set
}

fn devices(spec: &Value, errors: &mut Errors) {
    let path = SPEC.field("devices");
    let all = spec.items("devices");
    let costly = |device: &Value| !device.vacant("taints") || !device.vacant("consumesCounters");
    let most = if all.iter().any(costly) { MOST_ADVANCED } else { MOST_DEVICES };
    if !check::items(&path, all.len(), most, errors) {
        return;
    }
    let each = spec.flag("perDeviceNodeSelection") == Some(true);
    let mut names = HashSet::new();
    for (index, one) in all.iter().enumerate() {
        let path = path.index(index);
        device(&path, one, each, errors);
        if !names.insert(one.text("name")) {
            errors.push(FieldError::duplicate(path, one.text("name")));
        }
    }
}

fn device(path: &Path, device: &Value, each: bool, errors: &mut Errors) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when \
                       `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    check::label(&path.field("name"), device.text("name"), errors);
    let count = device.pairs("attributes").count() + device.pairs("capacity").count();
    if count > MOST_ATTRIBUTES {
        let detail = format!(
            "the total number of attributes and capacities must not exceed {MOST_ATTRIBUTES}"
        );
        errors.push(FieldError::invalid(path, count, detail));
    }
    let path_attributes = path.field("attributes");
    for (key, value) in device.pairs("attributes") {
        attribute(&path_attributes, key, errors);
        value_of(&path_attributes.key(key), value, errors);
    }
    let path_capacity = path.field("capacity");
    let shared = device.flag("allowMultipleAllocations") == Some(true);
    for (key, capacity) in device.pairs("capacity") {
        attribute(&path_capacity, key, errors);
        policy(&path_capacity.key(key), capacity, shared, errors);
    }
    taints(&path.field("taints"), device.items("taints"), errors);
    let consumed = device.items("consumesCounters");
    counters(&path.field("consumesCounters"), consumed, "counterSet", 2, errors);
    let ways = ["nodeName", "nodeSelector", "allNodes"];
    if each {
        let set = nodes(path, device, &ways, "must not be empty", errors);
        match set.len() {
            0 => errors.push(FieldError::required(path, ONE)),
            1 => {}
            _ => errors.push(FieldError::invalid(path, format!("{{{}}}", set.join(", ")), ONE)),
        }
    } else if ways.iter().any(|way| device.has(way)) {
        let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if \
                      `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        errors.push(FieldError::invalid(path, Value::Null, detail));
    }
    binding(path, device, errors);
}

/// A DeviceAttribute has one value.
fn value_of(path: &Path, value: &Value, errors: &mut Errors) {
    let text = value.text("string");
    check::length(&path.field("string"), text, LONGEST_VALUE, errors);
    let version = value.text("version");
    if value.has("version") {
        if !semantic(version) {
            let detail = "must be a string compatible with semver.org spec 2.0.0";
            errors.push(FieldError::invalid(path.field("version"), version, detail));
        }
        check::length(&path.field("version"), version, LONGEST_VALUE, errors);
    }
    let kinds = ["bool", "int", "string", "version", "bools", "ints", "strings", "versions"];
    match kinds.iter().filter(|kind| value.has(kind)).count() {
        1 => {}
        0 => errors.push(FieldError::invalid(path, "", "exactly one value must be specified")),
        _ => {
            let detail = "exactly one value must be specified";
            errors.push(FieldError::invalid(path, value.clone(), detail));
        }
    }
}

/// semver.org 2.0.0: three numbers, then pre-release and build identifiers.
fn semantic(text: &str) -> bool {
    let (text, build) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
    let (core, before) = text.split_once('-').map_or((text, None), |(a, b)| (a, Some(b)));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let number =
        |part: &str| !part.is_empty() && digits(part) && (part == "0" || !part.starts_with('0'));
    let word = |part: &str| {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !part.is_empty() && part.bytes().all(fine)
    };
    core.split('.').count() == 3
        && core.split('.').all(number)
        && before.is_none_or(|all| {
            all.split('.').all(|part| word(part) && (!digits(part) || number(part)))
        })
        && build.is_none_or(|all| all.split('.').all(word))
}

fn taints(path: &Path, taints: &[Value], errors: &mut Errors) {
    if !check::items(path, taints.len(), 16, errors) {
        return;
    }
    for (index, taint) in taints.iter().enumerate() {
        let path = path.index(index);
        check::qualified(&path.field("key"), taint.text("key"), errors);
        let value = taint.text("value");
        errors.extend(sentences(&path.field("value"), value, name::label_value(value)));
        check::one_of(&path.field("effect"), taint.text("effect"), EFFECTS, errors);
    }
}

/// Sets of counters, under a name that is in `field`.
fn counters(path: &Path, sets: &[Value], field: &str, most: usize, errors: &mut Errors) {
    if !check::items(path, sets.len(), most, errors) {
        return;
    }
    let mut names = HashSet::new();
    for (index, set) in sets.iter().enumerate() {
        let path = path.index(index);
        match set.text(field) {
            "" => errors.push(FieldError::required(path.field(field), "")),
            name => check::label(&path.field(field), name, errors),
        }
        check::required(&path, set, "counters", errors);
        let path_counters = path.field("counters");
        if check::items(&path_counters, set.pairs("counters").count(), 32, errors) {
            for (key, _) in set.pairs("counters") {
                check::label(&path_counters, key, errors);
            }
        }
        if !names.insert(set.text(field)) {
            errors.push(FieldError::duplicate(path, set.text(field)));
        }
    }
}
