//! Dynamic resource allocation: DeviceClasses, and what claims and slices share with them.
//! Expressions in CEL are compiled before they are stored, once: what is there already stays good.

use proto::device_selector::{self, Refusal};
use proto::status::FieldError;
use serde_json::Value;

use super::Strategy;
use super::check::{self, Errors};
use super::lens::Lens;
use super::metadata::sentences;
use super::name;
use super::path::Path;
use super::pod::{placement, resources};

mod capacity;
pub mod claim;
pub mod slice;

const SPEC: Path = Path::root("spec");
/// The label of namespaces whose claims may ask for admin access; its value is `true`.
pub const ADMINS: &str = "resource.kubernetes.io/admin-access";
const MOST_SELECTORS: usize = 32;
const MOST_CONFIGS: usize = 32;
/// Of a driver's parameters, in bytes.
const LONGEST: usize = 10 * 1024;
const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

pub struct DeviceClass;

impl Strategy for DeviceClass {
    fn counted(&self) -> &'static [&'static str] {
        &["/spec"]
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        self.validate_update(object, &Value::Null)
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = object.at("spec");
        let stored = old.at("spec").items("selectors");
        selectors(&SPEC.field("selectors"), spec.items("selectors"), stored, &mut errors);
        let path = SPEC.field("config");
        if check::items(&path, spec.items("config").len(), MOST_CONFIGS, &mut errors) {
            for (index, config) in spec.items("config").iter().enumerate() {
                configuration(&path.index(index), config, &mut errors);
            }
        }
        let extended = spec.text("extendedResourceName");
        if spec.has("extendedResourceName") && !resources::extended(extended) {
            let path = SPEC.field("extendedResourceName");
            let detail = "must be a valid extended resource name";
            errors.push(FieldError::invalid(path, extended, detail));
        }
        errors
    }
}

/// Those that are `stored` are not looked at again.
fn selectors(path: &Path, selectors: &[Value], stored: &[Value], errors: &mut Errors) {
    if !check::items(path, selectors.len(), MOST_SELECTORS, errors) {
        return;
    }
    for (index, selector) in selectors.iter().enumerate() {
        let path = path.index(index);
        let path = path.field("cel");
        match selector.at("cel") {
            Value::Null => errors.push(FieldError::required(path, "")),
            _ if stored.contains(selector) => {}
            cel => expression(&path.field("expression"), cel.text("expression"), errors),
        }
    }
}

fn expression(path: &Path, text: &str, errors: &mut Errors) {
    if text.len() > device_selector::LONGEST {
        errors.push(check::too_long(path, device_selector::LONGEST));
        return;
    }
    match device_selector::compile(text) {
        Ok(_) => {}
        Err(Refusal::Invalid(why)) => errors.push(FieldError::invalid(path, text, why)),
        Err(why @ Refusal::TooComplex) => errors.push(FieldError::forbidden(path, why.to_string())),
    }
}

/// The opaque parameters of one driver.
fn configuration(path: &Path, config: &Value, errors: &mut Errors) {
    let path = path.field("opaque");
    let opaque = config.at("opaque");
    if opaque.is_null() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    check::driver(&path.field("driver"), opaque.text("driver"), errors);
    raw(&path.field("parameters"), opaque.at("parameters"), LONGEST, errors);
}

/// An object of any shape, of at most so many bytes.
fn raw(path: &Path, value: &Value, most: usize, errors: &mut Errors) {
    match value {
        Value::Null => errors.push(FieldError::required(path, "")),
        Value::Object(_) if value.to_string().len() > most => {
            errors.push(check::too_long(path, most));
        }
        Value::Object(_) => {}
        _ => {
            let detail = "must be a valid JSON object";
            errors.push(FieldError::invalid(path, "<value omitted>", detail));
        }
    }
}

fn tolerations(path: &Path, tolerations: &[Value], errors: &mut Errors) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = path.index(index);
        let (key, value) = (toleration.text("key"), toleration.text("value"));
        if !key.is_empty() {
            check::qualified(&path.field("key"), key, errors);
        }
        let path_value = path.field("value");
        match toleration.text("operator") {
            "Exists" if !value.is_empty() => {
                let detail = "must be empty for operator `Exists`";
                errors.push(FieldError::invalid(path_value, value, detail));
            }
            "Exists" => {}
            "Equal" => errors.extend(sentences(&path_value, value, name::label_value(value))),
            other => check::one_of(&path.field("operator"), other, &["Equal", "Exists"], errors),
        }
        let effect = toleration.text("effect");
        check::optional_one_of(&path.field("effect"), effect, EFFECTS, errors);
    }
}

/// The name of a pool: subdomains with slashes between.
fn pool(path: &Path, text: &str, errors: &mut Errors) {
    if text.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    check::length(path, text, 253, errors);
    for part in text.split('/') {
        check::subdomain(path, part, errors);
    }
}

/// `name`, or `domain/name`.
fn attribute(path: &Path, text: &str, errors: &mut Errors) {
    let parts: Vec<&str> = text.split('/').collect();
    let identifier = |text: &str, errors: &mut Errors| {
        check::length(path, text, 32, errors);
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let begins = |byte: &u8| !byte.is_ascii_digit();
        if !text.as_bytes().first().is_some_and(begins) || !text.bytes().all(fine) {
            errors.push(FieldError::invalid(path, text, IDENTIFIER));
        }
    };
    match parts[..] {
        [name] => identifier(name, errors),
        [domain, name] => {
            match domain {
                "" => errors.push(FieldError::invalid(path, "", "the domain must not be empty")),
                domain => check::driver(path, domain, errors),
            }
            match name {
                "" => errors.push(FieldError::invalid(path, "", "the name must not be empty")),
                name => identifier(name, errors),
            }
        }
        _ => {
            let detail = "must not contain more than one slash";
            errors.push(FieldError::invalid(path, text, detail));
        }
    }
}

/// Conditions that must hold, or must not, before a pod is bound.
fn binding(path: &Path, device: &Value, errors: &mut Errors) {
    const FIELDS: [&str; 2] = ["bindingConditions", "bindingFailureConditions"];
    for field in FIELDS {
        let path = path.field(field);
        let all: Vec<&str> = check::texts(device, field).collect();
        check::items(&path, all.len(), 4, errors);
        for (index, condition) in all.iter().enumerate() {
            check::qualified(&path.index(index), condition, errors);
            if all[..index].contains(condition) {
                errors.push(FieldError::duplicate(path.index(index), *condition));
            }
            if field == FIELDS[1] && check::texts(device, FIELDS[0]).any(|one| one == *condition) {
                let detail = "bindingFailureConditions must not overlap with bindingConditions";
                errors.push(FieldError::invalid(path.index(index), *condition, detail));
            }
        }
    }
    for (missing, given) in [(FIELDS[0], FIELDS[1]), (FIELDS[1], FIELDS[0])] {
        if device.vacant(missing) && !device.vacant(given) {
            let detail = format!("{missing} are required to use {given}");
            errors.push(FieldError::invalid(path.field(missing), Value::Null, detail));
        }
    }
}

fn node_selector(path: &Path, selector: &Value, errors: &mut Errors) {
    let path = path.field("nodeSelectorTerms");
    if selector.vacant("nodeSelectorTerms") {
        let detail = "must have at least one node selector term";
        errors.push(FieldError::required(path, detail));
    }
    for (index, term) in selector.items("nodeSelectorTerms").iter().enumerate() {
        placement::node_term(&path.index(index), term, errors);
    }
}

const IDENTIFIER: &str = "a valid C identifier must start with alphabetic character or '_', \
    followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or \
    'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Also one that an earlier release, or another server, has stored.
    #[test]
    fn what_is_stored_stays_good() {
        let class = |expressions: &[&str]| {
            let all = expressions.iter().map(|one| json!({"cel": {"expression": one}}));
            json!({"spec": {"selectors": all.collect::<Vec<_>>()}})
        };
        let found = |new: &[&str], old: &[&str]| {
            let errors = DeviceClass.validate_update(&class(new), &class(old));
            errors.iter().map(|error| error.field.clone()).collect::<Vec<_>>()
        };
        assert_eq!(found(&["bad"], &["bad"]), [""; 0]);
        assert_eq!(found(&["true", "bad"], &["bad"]), [""; 0]);
        let second = ["spec.selectors[1].cel.expression"];
        assert_eq!(found(&["bad", "worse"], &["bad"]), second);
        assert_eq!(DeviceClass.validate(&class(&["bad"])).len(), 1);
    }
}
