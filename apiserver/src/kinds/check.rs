//! Checks that many kinds make on one field, in upstream's sentences.

use std::net::IpAddr;

use proto::status::{FieldError, Problem};
use serde_json::Value;

use super::lens::Lens;
use super::metadata::sentences;
use super::name;
use super::path::Path;

pub type Errors = Vec<FieldError>;

/// Required and one of `supported`.
pub fn one_of(path: &Path, value: &str, supported: &[&str], errors: &mut Errors) {
    match value {
        "" => errors.push(FieldError::required(path, "")),
        value => optional_one_of(path, value, supported, errors),
    }
}

/// One of `supported`, or nothing.
pub fn optional_one_of(path: &Path, value: &str, supported: &[&str], errors: &mut Errors) {
    if !value.is_empty() && !supported.contains(&value) {
        errors.push(FieldError::not_supported(path, value, supported));
    }
}

pub fn required(path: &Path, object: &Value, field: &str, errors: &mut Errors) {
    if object.vacant(field) {
        errors.push(FieldError::required(path.field(field), ""));
    }
}

/// `must be greater than or equal to 0`, for each of the fields that is there.
pub fn nonnegative(path: &Path, object: &Value, fields: &[&str], errors: &mut Errors) {
    for field in fields {
        if let Some(number) = object.int(field).filter(|number| *number < 0) {
            let detail = "must be greater than or equal to 0";
            errors.push(FieldError::invalid(path.field(field), number, detail));
        }
    }
}

/// The counts in a workload's status.
pub struct Counts {
    /// None may be negative.
    pub fields: &'static [&'static str],
    /// None may be greater than the other, which includes it.
    pub pairs: &'static [(&'static str, &'static str)],
}

impl Counts {
    /// Of the new status. What `collisionCount` has counted stays counted.
    pub fn check(&self, new: &Value, old: &Value) -> Errors {
        let path = Path::root("status");
        let (status, before) = (new.at("status"), old.at("status"));
        let mut errors = Vec::new();
        nonnegative(&path, status, self.fields, &mut errors);
        counts(&path, status, self.pairs, &mut errors);
        let collisions = |status: &Value| status.int("collisionCount").unwrap_or(0);
        if collisions(status) < collisions(before) {
            let (path, value) = (path.field("collisionCount"), collisions(status));
            errors.push(FieldError::invalid(path, value, "cannot be decremented"));
        }
        errors
    }
}

/// That no count of a workload's status is greater than the count that includes it.
pub fn counts(path: &Path, status: &Value, pairs: &[(&str, &str)], errors: &mut Errors) {
    for (field, bound) in pairs {
        let count = status.int(field).unwrap_or(0);
        if count > status.int(bound).unwrap_or(0) {
            let prefix = if *bound == "replicas" { "status." } else { "" };
            let detail = format!("cannot be greater than {prefix}{bound}");
            errors.push(FieldError::invalid(path.field(field), count, detail));
        }
    }
}

/// A number or a percentage, not negative (IntOrString).
pub fn share(path: &Path, value: &Value, errors: &mut Errors) {
    match value {
        Value::String(text) if percent(value).is_none() => {
            let detail = "a valid percent string must be a numeric string followed by an ending \
                          '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
            errors.push(FieldError::invalid(path, text.as_str(), detail));
        }
        Value::Number(number) if number.as_i64().is_some_and(|number| number < 0) => {
            let detail = "must be greater than or equal to 0";
            errors.push(FieldError::invalid(path, value.clone(), detail));
        }
        _ => {}
    }
}

/// The number of `25%`.
pub fn percent(value: &Value) -> Option<u64> {
    let digits = value.as_str()?.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

/// Nothing, 0 or `0%`.
pub fn is_zero(value: &Value) -> bool {
    value.as_i64() == Some(0) || percent(value) == Some(0) || value.is_null()
}

/// `must not be greater than 100%`.
pub fn at_most_all(path: &Path, value: &Value, errors: &mut Errors) {
    if percent(value).is_some_and(|percent| percent > 100) {
        errors.push(FieldError::invalid(path, value.clone(), "must not be greater than 100%"));
    }
}

/// `cannot be decremented`, of a counter in the status at `path`.
pub fn not_decremented(path: &Path, new: &Value, old: &Value, field: &str, errors: &mut Errors) {
    let (count, before) = (new.int(field).unwrap_or(0), old.int(field).unwrap_or(0));
    if count < before {
        errors.push(FieldError::invalid(path.field(field), count, "cannot be decremented"));
    }
}

pub fn between(path: &Path, number: i64, low: i64, high: i64, errors: &mut Errors) {
    if !(low..=high).contains(&number) {
        let detail = format!("must be between {low} and {high}, inclusive");
        errors.push(FieldError::invalid(path, number, detail));
    }
}

pub fn port_number(path: &Path, number: i64, errors: &mut Errors) {
    between(path, number, 1, 65535, errors);
}

/// A number or the name of a port (IntOrString).
pub fn port(path: &Path, port: &Value, errors: &mut Errors) {
    match port {
        Value::String(name) => errors.extend(sentences(path, name, name::port(name))),
        port => port_number(path, port.as_i64().unwrap_or(0), errors),
    }
}

pub fn ip(path: &Path, text: &str, errors: &mut Errors) {
    if text.parse::<IpAddr>().is_err() {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.push(FieldError::invalid(path, text, detail));
    }
}

/// A network, as `10.9.8.0/24`.
pub fn network(path: &Path, text: &str, errors: &mut Errors) {
    let valid = text.split_once('/').is_some_and(|(address, prefix)| {
        let longest = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        prefix.parse::<u8>().is_ok_and(|prefix| prefix <= longest)
    });
    if !valid {
        let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        errors.push(FieldError::invalid(path, text, detail));
    }
}

/// A network in its canonical form.
pub fn canonical_network(path: &Path, text: &str, errors: &mut Errors) {
    let before = errors.len();
    network(path, text, errors);
    if errors.len() > before {
        return;
    }
    let Some((address, base, prefix)) = split_network(text) else { return };
    if address != base {
        let detail = "must not have bits set beyond the prefix length";
        errors.push(FieldError::invalid(path, text, detail));
    } else if text != format!("{base}/{prefix}") {
        let detail = format!("must be in canonical form (\"{base}/{prefix}\")");
        errors.push(FieldError::invalid(path, text, detail));
    }
}

/// The address, the network's own address and the length of the prefix of `10.9.8.7/24`.
pub fn split_network(text: &str) -> Option<(IpAddr, IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let (address, prefix) = (address.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok()?);
    let base = match address {
        IpAddr::V4(four) => {
            let mask = u32::MAX.checked_shl(32u32.checked_sub(prefix.into())?).unwrap_or(0);
            IpAddr::V4((u32::from(four) & mask).into())
        }
        IpAddr::V6(six) => {
            let mask = u128::MAX.checked_shl(128u32.checked_sub(prefix.into())?).unwrap_or(0);
            IpAddr::V6((u128::from(six) & mask).into())
        }
    };
    Some((address, base, prefix))
}

/// At most `most` bytes.
pub fn length(path: &Path, text: &str, most: usize, errors: &mut Errors) {
    if text.len() > most {
        errors.push(too_long(path, most));
    }
}

pub fn too_long(path: &Path, most: usize) -> FieldError {
    FieldError::new(path, Problem::TooLong, format!("may not be more than {most} bytes"))
}

/// At most `most` items; whether it is so.
pub fn items(path: &Path, count: usize, most: usize, errors: &mut Errors) -> bool {
    if count > most {
        let detail = format!("must have at most {most} items");
        errors.push(FieldError::new(path, Problem::TooMany(count), detail));
    }
    count <= most
}

/// The name of a CSI or DRA driver.
pub fn driver(path: &Path, text: &str, errors: &mut Errors) {
    if text.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    length(path, text, 63, errors);
    errors.extend(sentences(path, text, name::subdomain(&text.to_lowercase())));
}

/// The required name of something that is in a URL.
pub fn segment(path: &Path, object: &Value, field: &str, errors: &mut Errors) {
    required(path, object, field, errors);
    let text = object.text(field);
    errors.extend(sentences(&path.field(field), text, name::path_segment(text)));
}

/// Why an address cannot be reached from elsewhere, if so.
pub fn special_address(address: IpAddr) -> Option<&'static str> {
    match address {
        address if address.is_unspecified() => Some("may not be unspecified (0.0.0.0 or ::)"),
        address if address.is_loopback() => {
            Some("may not be in the loopback range (127.0.0.0/8, ::1/128)")
        }
        IpAddr::V4(four) if four.is_link_local() => {
            Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
        }
        IpAddr::V4(four) if four.octets()[..3] == [224, 0, 0] => {
            Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
        }
        IpAddr::V6(six) if six.segments()[0] & 0xffc0 == 0xfe80 => {
            Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
        }
        IpAddr::V6(six) if six.segments()[0] == 0xff02 => {
            Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
        }
        _ => None,
    }
}

pub fn label(path: &Path, text: &str, errors: &mut Errors) {
    errors.extend(sentences(path, text, name::label(text)));
}

pub fn subdomain(path: &Path, text: &str, errors: &mut Errors) {
    errors.extend(sentences(path, text, name::subdomain(text)));
}

/// A label's key, and everything else that looks like one.
pub fn qualified(path: &Path, text: &str, errors: &mut Errors) {
    errors.extend(sentences(path, text, name::qualified(text)));
}

/// A label selector (metav1.LabelSelector).
pub fn label_selector(path: &Path, selector: &Value, errors: &mut Errors) {
    super::metadata::labels(&path.field("matchLabels"), selector.at("matchLabels"), errors);
    let path = path.field("matchExpressions");
    for (index, expression) in selector.items("matchExpressions").iter().enumerate() {
        let path = path.index(index);
        match expression.text("operator") {
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {
                set_operator(&path, expression, errors);
            }
            other => {
                let detail = "not a valid selector operator";
                errors.push(FieldError::invalid(path.field("operator"), other, detail));
            }
        }
        qualified(&path.field("key"), expression.text("key"), errors);
        for (index, value) in expression.items("values").iter().enumerate() {
            let text = value.as_str().unwrap_or("");
            let path = path.field("values");
            errors.extend(sentences(&path.index(index), text, name::label_value(text)));
        }
    }
}

/// That `In` and `NotIn` have values, `Exists` and `DoesNotExist` none.
pub fn set_operator(path: &Path, expression: &Value, errors: &mut Errors) {
    let (path, vacant) = (path.field("values"), expression.vacant("values"));
    match expression.text("operator") {
        "In" | "NotIn" if vacant => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(path, detail));
        }
        "Exists" | "DoesNotExist" if !vacant => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(path, detail));
        }
        _ => {}
    }
}

/// A list of text values.
pub fn texts<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    object.items(field).iter().filter_map(Value::as_str)
}
