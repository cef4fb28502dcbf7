//! Access reviews: whether somebody may do something, and all that one may do oneself
//! (authorization.k8s.io/v1).

use proto::{
    selector::FieldSelector,
    status::{FieldError, Status},
    user::User,
    view::rbac::PolicyRule,
};
use serde_json::{Value, json};

use crate::{
    authz::{Attributes, Authorizer, What},
    kinds::lens::Lens,
    registry::{Call, write},
};

/// SubjectAccessReview and LocalSubjectAccessReview.
pub fn of_subject(authorizer: &Authorizer, call: &Call, review: Value) -> Result<Value, Status> {
    let spec = review.at("spec");
    let mut errors = check_spec(spec);
    if spec.text("user").is_empty() && spec.items("groups").is_empty() {
        let why = "at least one of user or group must be specified";
        errors.push(FieldError::invalid("spec.user", spec.text("user"), why));
    }
    if call.kind.row.namespaced {
        errors.extend(check_local(call, spec));
    }
    refuse(call, errors)?;
    let texts = |field: &str| -> Vec<String> {
        spec.items(field).iter().filter_map(Value::as_str).map(String::from).collect()
    };
    let user = User {
        name: spec.text("user").into(),
        uid: spec.text("uid").into(),
        groups: texts("groups"),
        extra: serde_json::from_value(spec.at("extra").clone()).unwrap_or_default(),
    };
    Ok(judged(authorizer, &user, review))
}

/// SelfSubjectAccessReview.
pub fn of_self(authorizer: &Authorizer, call: &Call, review: Value) -> Result<Value, Status> {
    refuse(call, check_spec(review.at("spec")))?;
    Ok(judged(authorizer, call.user, review))
}

/// SelfSubjectRulesReview.
pub fn own_rules(authorizer: &Authorizer, call: &Call, mut review: Value) -> Result<Value, Status> {
    let namespace = review.at("spec").text("namespace").to_string();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let found = authorizer.rules(call.user, &namespace);
    let (of_paths, of_resources): (Vec<&PolicyRule>, Vec<&PolicyRule>) =
        found.rules.iter().partition(|rule| !rule.non_resource_urls.is_empty());
    let mut status = json!({
        "resourceRules": of_resources,
        "nonResourceRules": of_paths,
        "incomplete": !found.problems.is_empty(),
    });
    if !found.problems.is_empty() {
        status["evaluationError"] = found.problems.join(", ").into();
    }
    review["status"] = status;
    Ok(review)
}

fn judged(authorizer: &Authorizer, user: &User, mut review: Value) -> Value {
    let spec = review.at("spec");
    let fields = selected(spec.at("resourceAttributes").at("fieldSelector"));
    let (verb, what) = match spec.has("nonResourceAttributes") {
        true => {
            let asked = spec.at("nonResourceAttributes");
            (asked.text("verb"), What::Path(asked.text("path")))
        }
        false => {
            let asked = spec.at("resourceAttributes");
            let what = What::Resource {
                group: asked.text("group"),
                resource: asked.text("resource"),
                subresource: asked.text("subresource"),
                namespace: asked.text("namespace"),
                name: asked.text("name"),
            };
            (asked.text("verb"), what)
        }
    };
    let fields = fields.as_ref();
    let verdict = authorizer.verdict(&Attributes { user, verb, what, fields });
    let mut status = json!({"allowed": verdict.allowed});
    if !verdict.reason.is_empty() {
        status["reason"] = verdict.reason.into();
    }
    review["status"] = status;
    review
}

/// The requirements that name one value. Whatever else is asked restricts further, so that leaving
/// it out allows no more than it should.
fn selected(selector: &Value) -> Option<FieldSelector> {
    if selector.has("rawSelector") {
        return FieldSelector::parse(selector.text("rawSelector")).ok();
    }
    let escape = |text: &str| text.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
    let terms = selector.items("requirements").iter().filter_map(|requirement| {
        let [value] = requirement.items("values") else { return None };
        let operator = match requirement.text("operator") {
            "In" => "=",
            "NotIn" => "!=",
            _ => return None,
        };
        Some(format!("{}{operator}{}", requirement.text("key"), escape(value.as_str()?)))
    });
    let terms: Vec<String> = terms.collect();
    FieldSelector::parse(&terms.join(",")).ok().filter(|selector| !selector.is_empty())
}

fn check_spec(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match (spec.has("resourceAttributes"), spec.has("nonResourceAttributes")) {
        (true, true) => errors.push(FieldError::invalid(
            "spec.nonResourceAttributes",
            spec.at("nonResourceAttributes").clone(),
            "cannot be specified in combination with resourceAttributes",
        )),
        (false, false) => errors.push(FieldError::invalid(
            "spec.resourceAttributes",
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    for kind in ["fieldSelector", "labelSelector"] {
        let selector = spec.at("resourceAttributes").at(kind);
        if selector.is_object() {
            check_selector(selector, &format!("spec.resourceAttributes.{kind}"), &mut errors);
        }
    }
    errors
}

fn check_selector(selector: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let raw = selector.text("rawSelector");
    let requirements = selector.items("requirements");
    if !raw.is_empty() && !requirements.is_empty() {
        let why = "may not specified at the same time as requirements";
        errors.push(FieldError::invalid(format!("{path}.rawSelector"), raw, why));
    }
    if raw.is_empty() && requirements.is_empty() {
        let why = format!("when {path} is specified, requirements or rawSelector is required");
        errors.push(FieldError::required(format!("{path}.requirements"), why));
    }
    for (index, requirement) in requirements.iter().enumerate() {
        let at = |field: &str| format!("{path}.requirements[{index}].{field}");
        if requirement.text("key").is_empty() {
            errors.push(FieldError::required(at("key"), "must be specified"));
        }
        let values = requirement.items("values");
        match requirement.text("operator") {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                at("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
                at("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "" => errors.push(FieldError::required(at("operator"), "must be specified")),
            _ => {}
        }
    }
}

fn check_local(call: &Call, spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let asked = spec.at("resourceAttributes");
    if asked.is_object() && asked.text("namespace") != call.namespace {
        errors.push(FieldError::invalid(
            "spec.resourceAttributes.namespace",
            asked.text("namespace"),
            "must match metadata.namespace",
        ));
    }
    if spec.has("nonResourceAttributes") {
        errors.push(FieldError::invalid(
            "spec.nonResourceAttributes",
            spec.at("nonResourceAttributes").clone(),
            "disallowed on this kind of request",
        ));
    }
    errors
}

fn refuse(call: &Call, errors: Vec<FieldError>) -> Result<(), Status> {
    write::refuse_invalid(call, "", errors)
}
