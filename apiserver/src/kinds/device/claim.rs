//! ResourceClaims and ResourceClaimTemplates.

use std::collections::{HashMap, HashSet};

use proto::status::{FieldError, Problem};
use proto::time::Time;
use serde_json::Value;

use super::{attribute, binding, configuration, node_selector, pool, raw, selectors, tolerations};
use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::metadata;
use crate::kinds::path::Path;
use crate::kinds::table::{self, column};
use crate::kinds::{Column, Context, Strategy, only_status};

const SPEC: Path = Path::root("spec");
const STATUS: Path = Path::root("status");
/// Requests, constraints, configurations, results.
const MOST: usize = 32;
const MOST_ALTERNATIVES: usize = 8;
const MOST_CONSUMERS: usize = 256;
const NO_REQUEST: &str = "must be the name of a request in the claim or the name of a request and \
                          a subrequest separated by '/'";

pub struct ResourceClaim;
pub struct ResourceClaimTemplate;

impl Strategy for ResourceClaim {
    fn takes_metadata_with_status(&self) -> bool {
        false
    }

    /// What drivers said about devices goes with the devices.
    fn prepare_status(&self, new: &mut Value, old: &Value, _ctx: &Context) {
        only_status(new, old);
        let results = |claim: &Value| -> Vec<Value> {
            claim.at("status").at("allocation").at("devices").items("results").to_vec()
        };
        let (before, after) = (results(old), results(new));
        let lists = |results: &[Value], device: &Value| {
            results.iter().any(|result| identity(result) == identity(device))
        };
        let status = new.section("status");
        let mut devices = status.items("devices").to_vec();
        devices.retain(|device| !lists(&before, device) || lists(&after, device));
        match devices.is_empty() {
            true => status.drop("devices"),
            false => status.set("devices", devices),
        }
    }

    /// The spec does not change; an allocation is only looked at when it is made.
    fn for_admins(&self, new: &Value, old: Option<&Value>) -> Option<FieldError> {
        match old {
            None => admin_request(new.at("spec").at("devices")),
            Some(old) if !old.at("status").has("allocation") => {
                let allocation = new.at("status").at("allocation").at("devices");
                let results = allocation.items("results");
                let index = results.iter().position(|it| it.flag("adminAccess") == Some(true))?;
                let path = STATUS.field("allocation");
                let path = path.field("devices");
                let path = path.field("results");
                Some(not_for_admins(&path.index(index)))
            }
            Some(_) => None,
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        devices(&SPEC.field("devices"), object.at("spec").at("devices"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        metadata::immutable(&SPEC, new.at("spec"), old.at("spec"), &mut errors);
        errors
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (status, before) = (new.at("status"), old.at("status"));
        consumers(new, before, &mut errors);
        reported(status, &mut errors);
        let (path, allocation) = (STATUS.field("allocation"), status.at("allocation"));
        if allocation.is_null() {
            return errors;
        }
        if before.has("allocation") {
            metadata::immutable(&path, allocation, before.at("allocation"), &mut errors);
        } else {
            let names = Names::of(new.at("spec").at("devices"));
            allocated(&path, allocation, &names, &mut errors);
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const STATE: Column = column(
            "State",
            "string",
            0,
            "A summary of the current state (allocated, pending, reserved, etc.).",
        );
        &[table::NAME, STATE, table::AGE]
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let (status, deleted) =
            (object.at("status"), object.at("metadata").has("deletionTimestamp"));
        let allocated = status.has("allocation");
        let states = [
            (deleted, "deleted"),
            (!allocated && !deleted, "pending"),
            (allocated, "allocated"),
            (allocated && !status.vacant("reservedFor"), "reserved"),
        ];
        let states = states.iter().filter(|(holds, _)| *holds).map(|(_, state)| *state);
        vec![table::name(object), table::list(states).into(), table::age(object, now)]
    }
}

impl Strategy for ResourceClaimTemplate {
    fn for_admins(&self, new: &Value, old: Option<&Value>) -> Option<FieldError> {
        match old {
            None => admin_request(new.at("spec").at("spec").at("devices")),
            Some(_) => None,
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = object.at("spec");
        let path = SPEC.field("metadata");
        let meta = spec.at("metadata");
        metadata::annotations(&path.field("annotations"), meta.at("annotations"), &mut errors);
        metadata::labels(&path.field("labels"), meta.at("labels"), &mut errors);
        let path = SPEC.field("spec");
        devices(&path.field("devices"), spec.at("spec").at("devices"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        ResourceClaim.validate_update(new, old)
    }
}

/// The first request for admin access, which alternatives cannot be. Upstream gives the path within
/// the claim for templates, too.
fn admin_request(devices: &Value) -> Option<FieldError> {
    let asks = |request: &Value| request.at("exactly").flag("adminAccess") == Some(true);
    let index = devices.items("requests").iter().position(asks)?;
    let path = SPEC.field("devices");
    let path = path.field("requests");
    Some(not_for_admins(&path.index(index)))
}

fn not_for_admins(path: &Path) -> FieldError {
    let detail = format!(
        "admin access to devices requires the `{}: true` label on the containing namespace",
        super::ADMINS
    );
    FieldError::forbidden(path.field("adminAccess"), detail)
}

/// The requests of a claim, each with its alternatives.
struct Names<'a>(HashMap<&'a str, Vec<&'a str>>);

impl<'a> Names<'a> {
    fn of(devices: &'a Value) -> Names<'a> {
        let requests = devices.items("requests").iter();
        let alternatives = |request: &'a Value| {
            request.items("firstAvailable").iter().map(|one| one.text("name")).collect()
        };
        Names(requests.map(|one| (one.text("name"), alternatives(one))).collect())
    }

    /// `request` or `request/alternative`.
    fn check(&self, path: &Path, text: &str, errors: &mut Errors) {
        let mut parts = text.splitn(3, '/');
        let (request, alternative) = (parts.next().unwrap_or(""), parts.next());
        if parts.next().is_some() {
            errors.push(FieldError::invalid(path, text, NO_REQUEST));
            return;
        }
        for part in [Some(request), alternative].into_iter().flatten() {
            check::label(path, part, errors);
        }
        let found = self.0.get(request).is_some_and(|known| {
            alternative.is_none_or(|alternative| known.contains(&alternative))
        });
        if !found {
            errors.push(FieldError::invalid(path, text, NO_REQUEST));
        }
    }

    fn check_all(&self, path: &Path, object: &Value, errors: &mut Errors) {
        let path = path.field("requests");
        let all: Vec<&str> = check::texts(object, "requests").collect();
        if !check::items(&path, all.len(), MOST, errors) {
            return;
        }
        for (index, name) in all.iter().enumerate() {
            self.check(&path.index(index), name, errors);
            if all[..index].contains(name) {
                errors.push(FieldError::duplicate(path.index(index), *name));
            }
        }
    }
}

/// A DeviceClaim.
fn devices(path: &Path, devices: &Value, errors: &mut Errors) {
    let names = Names::of(devices);
    let path_requests = path.field("requests");
    named(&path_requests, devices.items("requests"), MOST, request, errors);
    let path_constraints = path.field("constraints");
    if check::items(&path_constraints, devices.items("constraints").len(), MOST, errors) {
        for (index, constraint) in devices.items("constraints").iter().enumerate() {
            let path = path_constraints.index(index);
            names.check_all(&path, constraint, errors);
            match (constraint.has("matchAttribute"), constraint.has("distinctAttribute")) {
                (true, _) => full(&path, constraint, "matchAttribute", errors),
                (_, true) => full(&path, constraint, "distinctAttribute", errors),
                _ => {
                    let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is \
                                  required, but multiple fields are set";
                    errors.push(FieldError::required(path, detail));
                }
            }
        }
    }
    configs(&path.field("config"), devices.items("config"), MOST, &names, errors);
}

/// Checks a list whose items have distinct names.
fn named(
    path: &Path,
    all: &[Value],
    most: usize,
    rule: fn(&Path, &Value, &mut Errors),
    errors: &mut Errors,
) {
    if !check::items(path, all.len(), most, errors) {
        return;
    }
    let mut names = HashSet::new();
    for (index, one) in all.iter().enumerate() {
        let path = path.index(index);
        check::label(&path.field("name"), one.text("name"), errors);
        rule(&path, one, errors);
        if !names.insert(one.text("name")) {
            errors.push(FieldError::duplicate(path, one.text("name")));
        }
    }
}

fn request(path: &Path, request: &Value, errors: &mut Errors) {
    const NEEDED: &str = "exactly one of `exactly` or `firstAvailable` is required";
    match (request.has("exactly"), !request.vacant("firstAvailable")) {
        (false, false) => errors.push(FieldError::required(path, NEEDED)),
        (true, true) => {
            let detail = format!("{NEEDED}, but multiple fields are set");
            errors.push(FieldError::new(path, Problem::Invalid(Value::Null), detail));
        }
        (true, false) => wanted(&path.field("exactly"), request.at("exactly"), errors),
        (false, true) => {
            let path = path.field("firstAvailable");
            named(&path, request.items("firstAvailable"), MOST_ALTERNATIVES, wanted, errors);
        }
    }
}

/// What exact requests and alternatives have in common.
fn wanted(path: &Path, request: &Value, errors: &mut Errors) {
    match request.text("deviceClassName") {
        "" => errors.push(FieldError::required(path.field("deviceClassName"), "")),
        class => check::subdomain(&path.field("deviceClassName"), class, errors),
    }
    selectors(&path.field("selectors"), request.items("selectors"), &[], errors);
    let count = request.int("count").unwrap_or(0);
    let path_count = path.field("count");
    match request.text("allocationMode") {
        "All" if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            errors.push(FieldError::invalid(path_count, count, detail));
        }
        "ExactCount" if count <= 0 => {
            errors.push(FieldError::invalid(path_count, count, "must be greater than zero"));
        }
        "All" | "ExactCount" => {}
        mode => {
            let path = path.field("allocationMode");
            errors.push(FieldError::not_supported(path, mode, &["All", "ExactCount"]));
        }
    }
    tolerations(&path.field("tolerations"), request.items("tolerations"), errors);
}

/// `domain/name`.
fn full(path: &Path, constraint: &Value, field: &str, errors: &mut Errors) {
    let (path, text) = (path.field(field), constraint.text(field));
    attribute(&path, text, errors);
    if !text.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(FieldError::invalid(path, text, detail));
    }
}

fn configs(path: &Path, configs: &[Value], most: usize, names: &Names, errors: &mut Errors) {
    if !check::items(path, configs.len(), most, errors) {
        return;
    }
    for (index, config) in configs.iter().enumerate() {
        names.check_all(&path.index(index), config, errors);
        configuration(&path.index(index), config, errors);
    }
}

fn consumers(claim: &Value, before: &Value, errors: &mut Errors) {
    let path = STATUS.field("reservedFor");
    let all = claim.at("status").items("reservedFor");
    if check::items(&path, all.len(), MOST_CONSUMERS, errors) {
        let mut seen = HashSet::new();
        for (index, consumer) in all.iter().enumerate() {
            let path = path.index(index);
            for field in ["resource", "name", "uid"] {
                check::required(&path, consumer, field, errors);
            }
            if !seen.insert(consumer.text("uid")) {
                errors.push(FieldError::duplicate(path, consumer.text("uid")));
            }
        }
    }
    if all.is_empty() {
        return;
    }
    let known = before.items("reservedFor");
    if !claim.at("status").has("allocation") {
        let detail = "may not be specified when `allocated` is not set";
        errors.push(FieldError::forbidden(path, detail));
    } else if claim.at("metadata").has("deletionTimestamp")
        && all.iter().any(|consumer| !known.contains(consumer))
    {
        let detail = "new entries may not be added while `deallocationRequested` or \
                      `deletionTimestamp` are set";
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// Which device an entry is about.
fn identity(device: &Value) -> [&str; 4] {
    ["driver", "pool", "device", "shareID"].map(|field| device.text(field))
}

/// What drivers say about allocated devices.
fn reported(status: &Value, errors: &mut Errors) {
    let path = STATUS.field("devices");
    let results = status.at("allocation").at("devices").items("results");
    let mut seen = HashSet::new();
    for (index, device) in status.items("devices").iter().enumerate() {
        let path = path.index(index);
        check::driver(&path.field("driver"), device.text("driver"), errors);
        pool(&path.field("pool"), device.text("pool"), errors);
        check::label(&path.field("device"), device.text("device"), errors);
        let id = identity(device);
        let shown = id.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        if !results.iter().any(|result| identity(result) == id) {
            let detail = "must be an allocated device in the claim";
            errors.push(FieldError::invalid(path, shown.as_str(), detail));
        }
        check::items(&path.field("conditions"), device.items("conditions").len(), 8, errors);
        if device.has("data") {
            raw(&path.field("data"), device.at("data"), super::LONGEST, errors);
        }
        let (path_network, network) = (path.field("networkData"), device.at("networkData"));
        for (field, most) in [("interfaceName", 256), ("hardwareAddress", 128)] {
            check::length(&path_network.field(field), network.text(field), most, errors);
        }
        check::items(&path_network.field("ips"), network.items("ips").len(), 16, errors);
        if !seen.insert(id) {
            errors.push(FieldError::duplicate(path, shown));
        }
    }
}

/// A uid in the form in which the API writes them.
fn uid(path: &Path, text: &str, errors: &mut Errors) {
    let hexadecimal = |(index, byte): (usize, u8)| match index {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    let why = if text.len() != 36 {
        format!("error validating uid: invalid UUID length: {}", text.len())
    } else if !text.bytes().enumerate().all(hexadecimal) {
        "error validating uid: invalid UUID format".into()
    } else if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with \
         lowercase hexadecimal characters"
            .into()
    } else {
        return;
    };
    errors.push(FieldError::invalid(path, text, why));
}

/// An AllocationResult.
fn allocated(path: &Path, allocation: &Value, names: &Names, errors: &mut Errors) {
    let path_devices = path.field("devices");
    let path_results = path_devices.field("results");
    let devices = allocation.at("devices");
    if check::items(&path_results, devices.items("results").len(), MOST, errors) {
        for (index, result) in devices.items("results").iter().enumerate() {
            let path = path_results.index(index);
            names.check(&path.field("request"), result.text("request"), errors);
            check::driver(&path.field("driver"), result.text("driver"), errors);
            pool(&path.field("pool"), result.text("pool"), errors);
            check::label(&path.field("device"), result.text("device"), errors);
            binding(&path, result, errors);
            tolerations(&path.field("tolerations"), result.items("tolerations"), errors);
            if result.has("shareID") {
                uid(&path.field("shareID"), result.text("shareID"), errors);
            }
        }
    }
    let (path_config, config) = (path_devices.field("config"), devices.items("config"));
    for (index, one) in config.iter().enumerate() {
        let path = path_config.index(index);
        let sources = ["FromClaim", "FromClass"];
        check::one_of(&path.field("source"), one.text("source"), &sources, errors);
    }
    configs(&path_config, config, 2 * MOST, names, errors);
    if allocation.has("nodeSelector") {
        node_selector(&path.field("nodeSelector"), allocation.at("nodeSelector"), errors);
    }
}
