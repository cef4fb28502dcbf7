//! ServiceCIDRs and IPAddresses.

use proto::status::{FieldError, qualified};
use proto::time::Time;
use serde_json::Value;

use super::check::{self, Errors};
use super::described;
use super::lens::Lens;
use super::metadata::{self, sentences};
use super::name::{self, NameRule};
use super::path::Path;
use super::table::{self, column};
use super::{Column, Strategy};

const SPEC: Path = Path::root("spec");

pub struct ServiceCidr;
pub struct IpAddress;

impl Strategy for ServiceCidr {
    fn takes_metadata_with_status(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let path = SPEC.field("cidrs");
        let cidrs = object.at("spec").items("cidrs");
        match cidrs.len() {
            0 => errors.push(FieldError::required(path, "at least one CIDR required")),
            1 | 2 => {
                for (index, cidr) in check::texts(object.at("spec"), "cidrs").enumerate() {
                    check::canonical_network(&path.index(index), cidr, &mut errors);
                }
                two_families(&path, object.at("spec"), &mut errors);
            }
            _ => {
                let spec = object.at("spec").clone();
                let detail = "may only hold up to 2 values";
                errors.push(FieldError::invalid(path, spec, detail));
            }
        }
        errors
    }

    /// A second family may be added; nothing else changes.
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let path = SPEC.field("cidrs");
        let (after, before) = (new.at("spec").items("cidrs"), old.at("spec").items("cidrs"));
        if after.len() != before.len() && (before.len(), after.len()) != (1, 2) {
            let value = new.at("spec").at("cidrs").clone();
            errors.push(FieldError::invalid(path, value, "field is immutable"));
            return errors;
        }
        for (index, (after, before)) in after.iter().zip(before).enumerate() {
            metadata::immutable(&path.index(index), after, before, &mut errors);
        }
        if after.len() > before.len() {
            errors.extend(self.validate(new));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const { &[table::NAME, column("CIDRs", "string", 0, described::SERVICE_CIDRS), table::AGE] }
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let cidrs = table::list(check::texts(object.at("spec"), "cidrs"));
        vec![table::name(object), cidrs.into(), table::age(object, now)]
    }
}

impl Strategy for IpAddress {
    fn name_rule(&self) -> NameRule {
        NameRule::Address
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (path, parent) = (SPEC.field("parentRef"), object.at("spec").at("parentRef"));
        if parent.is_null() {
            errors.push(FieldError::required(path, ""));
            return errors;
        }
        if !parent.vacant("group") {
            check::subdomain(&path.field("group"), parent.text("group"), &mut errors);
        }
        check::segment(&path, parent, "resource", &mut errors);
        check::segment(&path, parent, "name", &mut errors);
        let namespace = parent.text("namespace");
        let problems = name::path_segment(namespace);
        errors.extend(sentences(&path.field("namespace"), namespace, problems));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        let (new, old) = (new.at("spec").at("parentRef"), old.at("spec").at("parentRef"));
        metadata::immutable(&SPEC.field("parentRef"), new, old, &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const { &[table::NAME, column("ParentRef", "string", 0, described::IP_PARENT), table::AGE] }
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let parent = object.at("spec").at("parentRef");
        let mut shown = qualified(parent.text("group"), parent.text("resource")).to_lowercase();
        for part in ["namespace", "name"].iter().filter(|part| !parent.vacant(part)) {
            shown = format!("{shown}/{}", parent.text(part));
        }
        vec![table::name(object), table::or_none(&shown).into(), table::age(object, now)]
    }
}

fn two_families(path: &Path, spec: &Value, errors: &mut Errors) {
    let families: Vec<bool> = check::texts(spec, "cidrs")
        .filter_map(check::split_network)
        .map(|(address, ..)| address.is_ipv4())
        .collect();
    if matches!(families[..], [first, second] if first == second) {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and \
                      2001:db8::/64";
        errors.push(FieldError::invalid(path, spec.at("cidrs").clone(), detail));
    }
}
