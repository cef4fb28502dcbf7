//! ConfigMaps and Secrets: data by key, which may be made immutable.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::status::{FieldError, Problem};
use proto::time::Time;
use serde_json::Value;

use super::check::Errors;
use super::lens::Lens;
use super::metadata::{immutable, sentences};
use super::path::Path;
use super::table::{self, column};
use super::{Column, Field, Strategy, name};

/// All values together, in bytes.
const SIZE_LIMIT: usize = 1024 * 1024;

pub struct ConfigMap;

impl Strategy for ConfigMap {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let path = Path::root("data");
        for (key, _) in object.pairs("data") {
            errors.extend(sentences(&path.key(key), key, name::config_key(key)));
            if object.at("binaryData").has(key) {
                let detail = "duplicate of key present in binaryData";
                errors.push(FieldError::invalid(path.key(key), key, detail));
            }
        }
        let path = Path::root("binaryData");
        for (key, _) in object.pairs("binaryData") {
            errors.extend(sentences(&path.key(key), key, name::config_key(key)));
        }
        let plain: usize =
            object.pairs("data").map(|(_, value)| value.as_str().map_or(0, str::len)).sum();
        size(&Path::root(""), plain + decoded_size(object, "binaryData"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = frozen(new, old, &["data", "binaryData"]);
        errors.extend(self.validate(new));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const DATA: Column = column(
            "Data",
            "string",
            0,
            "Data contains the configuration data. Each key must consist of alphanumeric characters, '-', '_' or '.'.",
        );
        &[table::NAME, DATA, table::AGE]
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let count = object.pairs("data").count() + object.pairs("binaryData").count();
        vec![table::name(object), count.into(), table::age(object, now)]
    }
}

pub struct Secret;

impl Strategy for Secret {
    /// What was written as text joins the data.
    fn default(&self, object: &mut Value) {
        let texts = object.at("stringData").as_object().cloned().unwrap_or_default();
        for (key, text) in texts {
            let encoded = STANDARD.encode(text.as_str().unwrap_or(""));
            object.section("data").set(&key, encoded);
        }
        object.drop("stringData");
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        const DATA: Path = Path::root("data");
        let mut errors = Vec::new();
        for (key, _) in object.pairs("data") {
            errors.extend(sentences(&DATA.key(key), key, name::config_key(key)));
        }
        size(&DATA, decoded_size(object, "data"), &mut errors);
        content(&DATA, object, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        immutable(&Path::root("type"), new.at("type"), old.at("type"), &mut errors);
        errors.extend(frozen(new, old, &["data"]));
        errors.extend(self.validate(new));
        errors
    }

    fn fields(&self) -> &'static [Field] {
        const { &[Field::text("type")] }
    }

    fn columns(&self) -> &'static [Column] {
        const TYPE: Column = column(
            "Type",
            "string",
            0,
            "Used to facilitate programmatic handling of secret data. More info: \
             https://kubernetes.io/docs/concepts/configuration/secret/#secret-types",
        );
        const DATA: Column = column(
            "Data",
            "string",
            0,
            "Data contains the secret data. Each key must consist of alphanumeric characters, \
             '-', '_' or '.'. The serialized form of the secret data is a base64 encoded string.",
        );
        &[table::NAME, TYPE, DATA, table::AGE]
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let count = object.pairs("data").count();
        vec![table::name(object), object.text("type").into(), count.into(), table::age(object, now)]
    }
}

/// What a Secret of its type cannot do without.
fn content(path: &Path, secret: &Value, errors: &mut Errors) {
    let data = secret.at("data");
    let mut need = |keys: &[&str]| {
        for key in keys.iter().filter(|key| !data.has(key)) {
            errors.push(FieldError::required(path.key(key), ""));
        }
    };
    match secret.text("type") {
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            if secret.at("metadata").at("annotations").vacant(key) {
                let path = Path::root("metadata");
                let path = path.field("annotations");
                errors.push(FieldError::required(path.key(key), ""));
            }
        }
        "kubernetes.io/dockercfg" => docker(path, data, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => docker(path, data, ".dockerconfigjson", errors),
        "kubernetes.io/basic-auth" if !data.has("username") && !data.has("password") => {
            need(&["username", "password"]);
        }
        "kubernetes.io/ssh-auth" => need(&["ssh-privatekey"]),
        "kubernetes.io/tls" => need(&["tls.crt", "tls.key"]),
        _ => {}
    }
}

fn docker(path: &Path, data: &Value, key: &str, errors: &mut Errors) {
    if !data.has(key) {
        errors.push(FieldError::required(path.key(key), ""));
        return;
    }
    let bytes = STANDARD.decode(data.text(key)).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
        let detail = error.to_string();
        errors.push(FieldError::invalid(path.key(key), "<secret contents redacted>", detail));
    }
}

/// What an object that was made immutable may no longer change.
fn frozen(new: &Value, old: &Value, fields: &[&str]) -> Errors {
    let mut errors = Vec::new();
    if old.flag("immutable") != Some(true) {
        return errors;
    }
    let mut refuse = |field: &str| {
        let detail = "field is immutable when `immutable` is set";
        errors.push(FieldError::forbidden(field, detail));
    };
    if new.flag("immutable") != Some(true) {
        refuse("immutable");
    }
    for field in fields {
        let same = new.at(field) == old.at(field) || new.vacant(field) && old.vacant(field);
        if !same {
            refuse(field);
        }
    }
    errors
}

fn size(path: &Path, size: usize, errors: &mut Errors) {
    if size > SIZE_LIMIT {
        let detail = format!("may not be more than {SIZE_LIMIT} bytes");
        errors.push(FieldError::new(path, Problem::TooLong, detail));
    }
}

/// The bytes that base64 values stand for.
fn decoded_size(object: &Value, field: &str) -> usize {
    let texts = object.pairs(field).filter_map(|(_, value)| value.as_str());
    texts.map(|text| text.trim_end_matches('=').len() * 3 / 4).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn text_becomes_data() {
        let mut secret = json!({"data": {"a": "eA=="}, "stringData": {"a": "y", "b": "z"}});
        Secret.default(&mut secret);
        assert_eq!(secret, json!({"data": {"a": "eQ==", "b": "eg=="}}));
    }

    #[test]
    fn what_types_need() {
        let sentence = |secret: Value| {
            let errors = Secret.validate(&secret);
            errors.iter().map(FieldError::to_string).collect::<Vec<_>>().join(", ")
        };
        let cases = [
            (json!({"type": "Opaque"}), ""),
            (
                json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}),
                "data[tls.key]: Required value",
            ),
            (
                json!({"type": "kubernetes.io/basic-auth"}),
                "data[username]: Required value, data[password]: Required value",
            ),
            (json!({"type": "kubernetes.io/basic-auth", "data": {"password": ""}}), ""),
            (
                json!({"type": "kubernetes.io/service-account-token"}),
                "metadata.annotations[kubernetes.io/service-account.name]: Required value",
            ),
        ];
        for (secret, expected) in cases {
            assert_eq!(sentence(secret), expected);
        }
        let large = STANDARD.encode(vec![0; SIZE_LIMIT + 1]);
        assert_eq!(
            sentence(json!({"data": {"a": large}})),
            "data: Too long: may not be more than 1048576 bytes"
        );
    }

    #[test]
    fn immutable_data() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let errors = ConfigMap.validate_update(&json!({"data": {"a": "2"}}), &old);
        let sentences: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        assert_eq!(
            sentences,
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ]
        );
        assert!(ConfigMap.validate_update(&old, &old).is_empty());
    }
}
