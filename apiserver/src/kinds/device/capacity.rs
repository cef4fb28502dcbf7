//! How much of a shared device's capacity a request may consume (kubernetes.io/docs, "Consumable
//! capacity").

use proto::quantity::Quantity;
use proto::status::FieldError;
use serde_json::Value;

use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

const MOST_VALUES: usize = 10;

/// Checks a capacity's policy, which only a device that is allocated several times may have.
pub fn policy(path: &Path, capacity: &Value, shared: bool, errors: &mut Errors) {
    let (path, policy) = (path.field("requestPolicy"), capacity.at("requestPolicy"));
    let most = quantity(capacity, "value").unwrap_or_default();
    let ways = ["validValues", "validRange"].map(|way| !policy.vacant(way));
    match ways {
        _ if policy.is_null() => {}
        _ if !shared => {
            errors.push(FieldError::forbidden(path, "allowMultipleAllocations must be true"));
        }
        [true, true] => {
            let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \
                          \"validRange\" at the same time";
            errors.push(FieldError::forbidden(path, detail));
        }
        [false, false] => {}
        [values, _] => {
            let way = if values { "validValues" } else { "validRange" };
            match quantity(policy, "default") {
                None => {
                    let detail = format!("required when {way} is defined");
                    errors.push(FieldError::required(path.field("default"), detail));
                }
                Some(usual) if values => {
                    among(&path.field(way), policy.items(way), usual, most, errors);
                }
                Some(usual) => within(&path.field(way), policy.at(way), usual, most, errors),
            }
        }
    }
}

fn quantity(of: &Value, field: &str) -> Option<Quantity> {
    of.text(field).parse().ok()
}

fn refuse(path: Path, value: Quantity, detail: impl Into<String>, errors: &mut Errors) {
    errors.push(FieldError::invalid(path, value.to_string(), detail));
}

fn among(path: &Path, values: &[Value], usual: Quantity, most: Quantity, errors: &mut Errors) {
    let values = values.iter().filter_map(|value| value.as_str()?.parse::<Quantity>().ok());
    let values: Vec<Quantity> = values.collect();
    for (index, pair) in values.windows(2).enumerate() {
        if pair[0] > pair[1] {
            let path = path.index(index + 1);
            refuse(path, pair[1], "values must be sorted in ascending order", errors);
        }
    }
    if !check::items(path, values.len(), MOST_VALUES, errors) {
        return;
    }
    for (index, value) in values.iter().enumerate() {
        if *value > most {
            let detail = format!("option is larger than capacity value: {most}");
            refuse(path.index(index), *value, detail, errors);
        }
        if values[..index].contains(value) {
            errors.push(FieldError::duplicate(path.index(index), value.to_string()));
        }
    }
    if !values.contains(&usual) {
        let detail = "default value is not valid according to the requestPolicy";
        refuse(*path, usual, detail, errors);
    }
}

fn within(path: &Path, range: &Value, usual: Quantity, most: Quantity, errors: &mut Errors) {
    let Some(min) = quantity(range, "min") else {
        let detail = "required when validRange is defined";
        return errors.push(FieldError::required(path.field("min"), detail));
    };
    let max = quantity(range, "max");
    let top = max.unwrap_or(most);
    let faults = [
        (min > most, "min", min, format!("min is larger than capacity value: {most}")),
        (usual < min, "default", usual, format!("default is less than min: {min}")),
        (max.is_some() && min > top, "max", min, format!("min is larger than max: {top}")),
        (top > most, "max", top, format!("max is larger than capacity value: {most}")),
        (
            max.is_some() && usual > top,
            "default",
            usual,
            format!("default is more than max: {top}"),
        ),
    ];
    for (_, field, value, detail) in faults.into_iter().filter(|(wrong, ..)| *wrong) {
        refuse(path.field(field), value, detail, errors);
    }
    let Some(step) = quantity(range, "step") else { return };
    if step <= Quantity::ZERO {
        return refuse(path.field("step"), step, "must be greater than zero", errors);
    }
    let once = min + step;
    if once > most {
        let detail = format!("one step {once} is larger than capacity value: {most}");
        refuse(path.field("step"), step, detail, errors);
    }
    let whole = |quantity: Quantity| i128::from(quantity.value());
    for value in [Some(usual), max].into_iter().flatten() {
        if (whole(value) - whole(min)) % whole(step) != 0 {
            let detail = format!("value is not a multiple of a given step ({step}) from ({min})");
            refuse(path.field("step"), value, detail, errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn policies() {
        let cases: [(Value, bool, &[&str]); 9] = [
            (json!({"default": "1"}), true, &[]),
            (json!({"default": "1"}), false, &["c.requestPolicy: Forbidden"]),
            (json!({"validValues": ["1"]}), true, &["c.requestPolicy.default: Required"]),
            (json!({"default": "1", "validValues": ["1", "1Ki"]}), true, &[]),
            (
                json!({"default": "3", "validValues": ["2", "1", "1", "9Mi"]}),
                true,
                &[
                    "c.requestPolicy.validValues[1]: Invalid",
                    "c.requestPolicy.validValues[2]: Duplicate",
                    "c.requestPolicy.validValues[3]: Invalid",
                    "c.requestPolicy.validValues: Invalid",
                ],
            ),
            (
                json!({"default": "4", "validRange": {"min": "2", "max": "8", "step": "2"}}),
                true,
                &[],
            ),
            (
                json!({"default": "1", "validRange": {"min": "2", "max": "2Mi", "step": "0"}}),
                true,
                &[
                    "c.requestPolicy.validRange.default: Invalid",
                    "c.requestPolicy.validRange.max: Invalid",
                    "c.requestPolicy.validRange.step: Invalid",
                ],
            ),
            (
                json!({"default": "5", "validRange": {"min": "2", "max": "8", "step": "2"}}),
                true,
                &["c.requestPolicy.validRange.step: Invalid"],
            ),
            (
                json!({"default": "1", "validValues": ["1"], "validRange": {"min": "1"}}),
                true,
                &["c.requestPolicy: Forbidden"],
            ),
        ];
        for (wanted, shared, expected) in cases {
            let mut errors = Vec::new();
            let capacity = json!({"value": "1Mi", "requestPolicy": wanted});
            policy(&Path::root("c"), &capacity, shared, &mut errors);
            let said: Vec<String> = errors.iter().map(|error| error.to_string()).collect();
            let fits = said.iter().zip(expected).all(|(said, start)| said.starts_with(start));
            assert!(fits && said.len() == expected.len(), "{capacity}: {said:#?}");
        }
    }
}
