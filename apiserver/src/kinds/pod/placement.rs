//! Validation of what decides where a pod may run: affinity, tolerations, topology spread.

use std::collections::HashSet;

use proto::status::FieldError;
use serde_json::{Value, json};

use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::metadata::sentences;
use crate::kinds::name;
use crate::kinds::path::Path;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Validates the placement fields of a pod spec at `path`.
pub fn validate(path: &Path, spec: &Value, errors: &mut Errors) {
    let node_selector = path.field("nodeSelector");
    crate::kinds::metadata::labels(&node_selector, spec.at("nodeSelector"), errors);
    let path_affinity = path.field("affinity");
    let affinity = spec.at("affinity");
    node_affinity(&path_affinity.field("nodeAffinity"), affinity.at("nodeAffinity"), errors);
    for field in ["podAffinity", "podAntiAffinity"] {
        pod_affinity(&path_affinity.field(field), affinity.at(field), errors);
    }
    spread(&path.field("topologySpreadConstraints"), spec, errors);
    tolerations(&path.field("tolerations"), spec.items("tolerations"), errors);
}

fn node_affinity(path: &Path, affinity: &Value, errors: &mut Errors) {
    if affinity.has(REQUIRED) {
        let path = path.field(REQUIRED);
        let path = path.field("nodeSelectorTerms");
        let terms = affinity.at(REQUIRED).items("nodeSelectorTerms");
        if terms.is_empty() {
            let detail = "must have at least one node selector term";
            errors.push(FieldError::required(path, detail));
        }
        for (index, term) in terms.iter().enumerate() {
            node_term(&path.index(index), term, errors);
        }
    }
    let path = path.field(PREFERRED);
    for (index, preferred) in affinity.items(PREFERRED).iter().enumerate() {
        let path = path.index(index);
        weight(&path, preferred, errors);
        node_term(&path.field("preference"), preferred.at("preference"), errors);
    }
}

/// Validates one node selector term.
pub fn node_term(path: &Path, term: &Value, errors: &mut Errors) {
    let labels = path.field("matchExpressions");
    for (index, expression) in term.items("matchExpressions").iter().enumerate() {
        let path = labels.index(index);
        match expression.text("operator") {
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {
                check::set_operator(&path, expression, errors);
            }
            "Gt" | "Lt" => {
                if expression.items("values").len() != 1 {
                    let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                    errors.push(FieldError::required(path.field("values"), detail));
                }
            }
            other => bad_operator(&path, other, errors),
        }
        check::qualified(&path.field("key"), expression.text("key"), errors);
        let path = path.field("values");
        for (index, value) in check::texts(expression, "values").enumerate() {
            errors.extend(sentences(&path.index(index), value, name::label_value(value)));
        }
    }
    let fields = path.field("matchFields");
    for (index, expression) in term.items("matchFields").iter().enumerate() {
        let path = fields.index(index);
        match expression.text("operator") {
            "In" | "NotIn" => {
                if expression.items("values").len() != 1 {
                    let detail = "must be only one value when `operator` is 'In' or 'NotIn' for \
                                  node field selector";
                    errors.push(FieldError::required(path.field("values"), detail));
                }
            }
            other => bad_operator(&path, other, errors),
        }
        match expression.text("key") {
            "metadata.name" => {
                let path = path.field("values");
                for (index, value) in check::texts(expression, "values").enumerate() {
                    check::subdomain(&path.index(index), value, errors);
                }
            }
            key => {
                let detail = "not a valid field selector key";
                errors.push(FieldError::invalid(path.field("key"), key, detail));
            }
        }
    }
}

fn pod_affinity(path: &Path, affinity: &Value, errors: &mut Errors) {
    let required = path.field(REQUIRED);
    for (index, term) in affinity.items(REQUIRED).iter().enumerate() {
        pod_term(&required.index(index), term, errors);
    }
    let preferred = path.field(PREFERRED);
    for (index, item) in affinity.items(PREFERRED).iter().enumerate() {
        let path = preferred.index(index);
        weight(&path, item, errors);
        pod_term(&path.field("podAffinityTerm"), item.at("podAffinityTerm"), errors);
    }
}

fn pod_term(path: &Path, term: &Value, errors: &mut Errors) {
    check::label_selector(&path.field("labelSelector"), term.at("labelSelector"), errors);
    let selector = path.field("namespaceSelector");
    check::label_selector(&selector, term.at("namespaceSelector"), errors);
    for namespace in check::texts(term, "namespaces") {
        check::label(&path.field("namespace"), namespace, errors);
    }
    let field = path.field("topologyKey");
    match term.text("topologyKey") {
        "" => errors.push(FieldError::required(field, "can not be empty")),
        key => check::qualified(&field, key, errors),
    }
    label_keys(path, term, errors);
}

/// matchLabelKeys and mismatchLabelKeys.
fn label_keys(path: &Path, object: &Value, errors: &mut Errors) {
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let path = path.field(field);
        if object.vacant(field) {
            continue;
        }
        if !object.has("labelSelector") {
            let detail = "must not be specified when labelSelector is not set";
            errors.push(FieldError::forbidden(path, detail));
            continue;
        }
        for (index, key) in check::texts(object, field).enumerate() {
            check::qualified(&path.index(index), key, errors);
        }
    }
    // What the keys themselves have added to the selector comes last.
    let selector = object.at("labelSelector");
    let mut seen: HashSet<&str> = selector.pairs("matchLabels").map(|(key, _)| key).collect();
    let own: Vec<&str> = check::texts(object, "matchLabelKeys").collect();
    for expression in selector.items("matchExpressions") {
        let key = expression.text("key");
        if let Some(index) = own.iter().position(|own| *own == key).filter(|_| seen.contains(key)) {
            let detail = "exists in both matchLabelKeys and labelSelector";
            errors.push(FieldError::invalid(path.index(index), key, detail));
        }
        seen.insert(key);
    }
    let path = path.field("matchLabelKeys");
    for (index, key) in own.iter().enumerate() {
        if check::texts(object, "mismatchLabelKeys").any(|other| other == *key) {
            let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.push(FieldError::invalid(path.index(index), *key, detail));
        }
    }
}

/// Adds to the selectors of a new pod the values that it has itself of the labels that their
/// `matchLabelKeys` name: from then on they select by these.
pub fn merge_label_keys(pod: &mut Value) {
    let labels = pod.at("metadata").at("labels").clone();
    let merge = |object: &mut Value| {
        for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            let keys: Vec<String> = check::texts(object, field).map(String::from).collect();
            for key in keys {
                let Some(value) = labels.get(&key).filter(|_| object.has("labelSelector")) else {
                    continue;
                };
                let expression = json!({"key": key, "operator": operator, "values": [value]});
                let selector = object.section("labelSelector");
                let mut all = selector.items("matchExpressions").to_vec();
                all.push(expression);
                selector.set("matchExpressions", all);
            }
        }
    };
    if !pod.has("spec") {
        return;
    }
    let spec = pod.section("spec");
    spec.items_mut("topologySpreadConstraints").iter_mut().for_each(merge);
    if !spec.has("affinity") {
        return;
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        if !spec.at("affinity").has(field) {
            continue;
        }
        let affinity = spec.section("affinity").section(field);
        affinity.items_mut(REQUIRED).iter_mut().for_each(merge);
        for preferred in affinity.items_mut(PREFERRED) {
            if preferred.has("podAffinityTerm") {
                merge(preferred.section("podAffinityTerm"));
            }
        }
    }
}

fn weight(path: &Path, object: &Value, errors: &mut Errors) {
    let weight = object.int("weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        let detail = "must be in the range 1-100";
        errors.push(FieldError::invalid(path.field("weight"), weight, detail));
    }
}

fn bad_operator(path: &Path, operator: &str, errors: &mut Errors) {
    let detail = "not a valid selector operator";
    errors.push(FieldError::invalid(path.field("operator"), operator, detail));
}

fn spread(path: &Path, spec: &Value, errors: &mut Errors) {
    let all = spec.items("topologySpreadConstraints");
    for (index, constraint) in all.iter().enumerate() {
        let later = &all[index + 1..];
        let path = path.index(index);
        let skew = constraint.int("maxSkew").unwrap_or(0);
        if skew <= 0 {
            let detail = "must be greater than zero";
            errors.push(FieldError::invalid(path.field("maxSkew"), skew, detail));
        }
        if constraint.vacant("topologyKey") {
            errors.push(FieldError::required(path.field("topologyKey"), "can not be empty"));
        }
        let unsatisfiable = constraint.text("whenUnsatisfiable");
        let supported = ["DoNotSchedule", "ScheduleAnyway"];
        let field = path.field("whenUnsatisfiable");
        if !supported.contains(&unsatisfiable) {
            errors.push(FieldError::not_supported(field, unsatisfiable, &supported));
        }
        let key = constraint.text("topologyKey");
        let same = |other: &Value| {
            other.text("topologyKey") == key && other.text("whenUnsatisfiable") == unsatisfiable
        };
        if later.iter().any(same) {
            let path = path.field("{topologyKey, whenUnsatisfiable}");
            let pair = format!("{{{key}, {unsatisfiable}}}");
            errors.push(FieldError::duplicate(path, pair));
        }
        if let Some(domains) = constraint.int("minDomains") {
            let path = path.field("minDomains");
            if domains <= 0 {
                let detail = "must be greater than zero";
                errors.push(FieldError::invalid(path, domains, detail));
            }
            if unsatisfiable != "DoNotSchedule" {
                let detail = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not \
                     {unsatisfiable}"
                );
                errors.push(FieldError::invalid(path, domains, detail));
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let (path, policy) = (path.field(field), constraint.text(field));
            check::optional_one_of(&path, policy, &["Honor", "Ignore"], errors);
        }
        label_keys(&path, constraint, errors);
        let selector = path.field("labelSelector");
        check::label_selector(&selector, constraint.at("labelSelector"), errors);
    }
}

pub fn tolerations(path: &Path, tolerations: &[Value], errors: &mut Errors) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = path.index(index);
        let (key, operator) = (toleration.text("key"), toleration.text("operator"));
        let (value, effect) = (toleration.text("value"), toleration.text("effect"));
        let path_operator = path.field("operator");
        if !key.is_empty() {
            check::qualified(&path.field("key"), key, errors);
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all \
                          values and all keys\"";
            errors.push(FieldError::invalid(path_operator, operator, detail));
        }
        if toleration.has("tolerationSeconds") && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(path.field("effect"), effect, detail));
        }
        match operator {
            "" | "Equal" => {
                let problems = name::label_value(value);
                if !problems.is_empty() {
                    let detail = problems.join(";");
                    errors.push(FieldError::invalid(path_operator, value, detail));
                }
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(path_operator, toleration.clone(), detail));
            }
            "Exists" => {}
            // Upstream speaks of them, but takes them only where a gate is on.
            other @ ("Lt" | "Gt") => {
                let supported = ["Equal", "Exists", "Lt", "Gt"];
                errors.push(FieldError::not_supported(path_operator, other, &supported));
            }
            other => {
                let supported = ["Equal", "Exists"];
                errors.push(FieldError::not_supported(path_operator, other, &supported));
            }
        }
        check::optional_one_of(&path.field("effect"), effect, TAINT_EFFECTS, errors);
    }
}

/// What a taint may do to pods that do not tolerate it.
pub const TAINT_EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_take_the_labels_that_they_name() {
        let term = json!({
            "labelSelector": {"matchLabels": {"app": "a"}},
            "matchLabelKeys": ["hash", "none"], "mismatchLabelKeys": ["tenant"],
        });
        let merged = json!({"matchLabels": {"app": "a"}, "matchExpressions": [
            {"key": "hash", "operator": "In", "values": ["1"]},
            {"key": "tenant", "operator": "NotIn", "values": ["t"]},
        ]});
        let mut pod = json!({
            "metadata": {"labels": {"hash": "1", "tenant": "t"}},
            "spec": {
                "topologySpreadConstraints": [term, {"matchLabelKeys": ["hash"]}],
                "affinity": {
                    "podAffinity": { REQUIRED: [term] },
                    "podAntiAffinity": { PREFERRED: [{"podAffinityTerm": term}] },
                },
            },
        });
        merge_label_keys(&mut pod);
        let spec = &pod["spec"];
        let affinity = &spec["affinity"];
        for found in [
            &spec["topologySpreadConstraints"][0],
            &affinity["podAffinity"][REQUIRED][0],
            &affinity["podAntiAffinity"][PREFERRED][0]["podAffinityTerm"],
        ] {
            assert_eq!(found["labelSelector"], merged);
        }
        assert!(!spec["topologySpreadConstraints"][1].has("labelSelector"));
        let mut bare = json!({"metadata": {}});
        merge_label_keys(&mut bare);
        assert_eq!(bare, json!({"metadata": {}}));
    }
}
