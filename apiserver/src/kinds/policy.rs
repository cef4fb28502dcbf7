//! MutatingAdmissionPolicies, ValidatingAdmissionPolicies and their bindings. Expressions in CEL
//! are not compiled here.

use std::collections::HashSet;

use proto::status::FieldError;
use proto::time::Time;
use serde_json::Value;

use super::check::{self, Errors};
use super::lens::Lens;
use super::metadata::sentences;
use super::name;
use super::path::Path;
use super::table::{self, column};
use super::webhook::{self, FAILURE_POLICIES, MATCH_POLICIES, REINVOCATION_POLICIES};
use super::{Column, Strategy};

const SPEC: Path = Path::root("spec");
const STATUS: Path = Path::root("status");

/// An admission policy: what one does with objects is a list of rules of its own.
pub struct Policy {
    /// The field of the spec with the rules.
    rules: &'static str,
    columns: &'static [Column],
    validate: fn(&Value, &mut Errors),
}

pub static VALIDATING: Policy = Policy {
    rules: "validations",
    columns: &[
        table::NAME,
        count(
            "Validations",
            "Validations indicates the number of validation rules defined in this configuration",
        ),
        PARAM_KIND,
        table::AGE,
    ],
    validate: validations,
};

pub static MUTATING: Policy = Policy {
    rules: "mutations",
    columns: &[
        table::NAME,
        count(
            "Mutations",
            "Mutation indicates the number of mutations rules defined in this configuration",
        ),
        PARAM_KIND,
        table::AGE,
    ],
    validate: mutations,
};

/// Where a policy holds, and what a broken rule leads to.
pub struct Binding {
    validate: fn(&Value, &mut Errors),
}

/// Who relies on a policy must know that nothing comes of it.
const NOT_EVALUATED: &str = "this server keeps admission policies but does not evaluate their \
    expressions: requests are neither changed nor refused by them";

pub static VALIDATING_BINDING: Binding = Binding { validate: actions };
/// Mutations have no consequences to choose from.
pub static MUTATING_BINDING: Binding = Binding { validate: |_, _| {} };

impl Strategy for Policy {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn counted(&self) -> &'static [&'static str] {
        &["/spec"]
    }

    fn takes_metadata_with_status(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = object.at("spec");
        let policy = spec.text("failurePolicy");
        check::one_of(&SPEC.field("failurePolicy"), policy, FAILURE_POLICIES, &mut errors);
        (self.validate)(object, &mut errors);
        errors
    }

    fn warnings(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        vec![NOT_EVALUATED.into()]
    }

    /// Only of those that validate: the others have no status.
    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let path = STATUS.field("typeChecking");
        let path = path.field("expressionWarnings");
        let checking = new.at("status").at("typeChecking");
        for (index, warning) in checking.items("expressionWarnings").iter().enumerate() {
            check::required(&path.index(index), warning, "warning", &mut errors);
            if warning.text("fieldRef").trim().is_empty() {
                let path = path.index(index);
                errors.push(FieldError::required(path.field("fieldRef"), ""));
            }
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        self.columns
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let count = object.at("spec").items(self.rules).len();
        vec![table::name(object), count.into(), param_kind(object), table::age(object, now)]
    }
}

impl Strategy for Binding {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn counted(&self) -> &'static [&'static str] {
        &["/spec"]
    }

    fn warnings(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        vec![NOT_EVALUATED.into()]
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = object.at("spec");
        match spec.text("policyName") {
            "" => errors.push(FieldError::required(SPEC.field("policyName"), "")),
            policy => check::subdomain(&SPEC.field("policyName"), policy, &mut errors),
        }
        if spec.has("paramRef") {
            param_ref(&SPEC.field("paramRef"), spec.at("paramRef"), &mut errors);
        }
        if spec.has("matchResources") {
            // Spelled as upstream spells it.
            resources(&SPEC.field("matchResouces"), spec.at("matchResources"), &mut errors);
        }
        (self.validate)(spec, &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                table::NAME,
                column(
                    "PolicyName",
                    "string",
                    0,
                    "PolicyName indicates the policy definition which the policy binding binded to",
                ),
                column(
                    "ParamRef",
                    "string",
                    0,
                    "ParamRef indicates the param resource which sets the configration param",
                ),
                table::AGE,
            ]
        }
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let spec = object.at("spec");
        let param = spec.at("paramRef");
        let shown = match (param.is_null(), param.text("namespace")) {
            (true, _) => "<unset>".to_string(),
            (_, "") => param.text("name").to_string(),
            (_, namespace) => format!("{namespace}/{}", param.text("name")),
        };
        vec![
            table::name(object),
            spec.text("policyName").into(),
            shown.into(),
            table::age(object, now),
        ]
    }
}

fn validations(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    matching(spec, errors);
    if spec.vacant("validations") && spec.vacant("auditAnnotations") {
        for field in ["validations", "auditAnnotations"] {
            let detail = "validations or auditAnnotations must contain at least one item";
            errors.push(FieldError::required(SPEC.field(field), detail));
        }
    }
    let path = SPEC.field("validations");
    for (index, one) in spec.items("validations").iter().enumerate() {
        validation(&path.index(index), one, errors);
    }
    annotations(object.at("metadata").text("name"), spec, errors);
}

fn mutations(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let policy = spec.text("reinvocationPolicy");
    let path = SPEC.field("reinvocationPolicy");
    check::one_of(&path, policy, REINVOCATION_POLICIES, errors);
    matching(spec, errors);
    let path = SPEC.field("mutations");
    if spec.vacant("mutations") {
        let detail = "mutations must contain at least one item";
        errors.push(FieldError::required(path, detail));
    }
    for (index, one) in spec.items("mutations").iter().enumerate() {
        mutation(&path.index(index), one, errors);
    }
}

/// What a broken validation leads to.
fn actions(spec: &Value, errors: &mut Errors) {
    const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];
    let path = SPEC.field("validationActions");
    let all: Vec<&str> = check::texts(spec, "validationActions").collect();
    for (index, action) in all.iter().enumerate() {
        let path = path.index(index);
        if !ACTIONS.contains(action) {
            errors.push(FieldError::not_supported(path, *action, &ACTIONS));
        }
        if all[..index].contains(action) {
            errors.push(FieldError::duplicate(path, *action));
        }
    }
    if all.contains(&"Deny") && all.contains(&"Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure \
                      information in the API response and headers serves no purpose)";
        errors.push(FieldError::invalid(path, spec.at("validationActions").clone(), detail));
    }
    if all.is_empty() {
        let detail = "at least one validation action is required";
        errors.push(FieldError::required(path, detail));
    }
}

const fn count(name: &'static str, description: &'static str) -> Column {
    column(name, "integer", 0, description)
}

const PARAM_KIND: Column = column(
    "ParamKind",
    "string",
    0,
    "ParamKind specifies the kind of resources used to parameterize this policy",
);

fn param_kind(object: &Value) -> Value {
    match object.at("spec").at("paramKind") {
        Value::Null => "<unset>".into(),
        kind => format!("{}/{}", kind.text("apiVersion"), kind.text("kind")).into(),
    }
}

/// What both policies say about the objects they are for, and their variables.
fn matching(spec: &Value, errors: &mut Errors) {
    if spec.has("paramKind") {
        kind(&SPEC.field("paramKind"), spec.at("paramKind"), errors);
    }
    let path = SPEC.field("matchConstraints");
    match spec.at("matchConstraints") {
        Value::Null => errors.push(FieldError::required(path, "")),
        constraints => {
            resources(&path, constraints, errors);
            check::required(&path, constraints, "resourceRules", errors);
        }
    }
    webhook::conditions(&SPEC.field("matchConditions"), spec.items("matchConditions"), errors);
    let path = SPEC.field("variables");
    for (index, variable) in spec.items("variables").iter().enumerate() {
        let path = path.index(index);
        let text = variable.text("name");
        if text.trim().is_empty() {
            errors.push(FieldError::required(path.field("name"), "name is not specified"));
        } else if !identifier(text) {
            let detail = "name is not a valid CEL identifier";
            errors.push(FieldError::invalid(path.field("name"), text, detail));
        }
        expression(&path, variable, "expression", errors);
    }
}

fn expression(path: &Path, object: &Value, field: &str, errors: &mut Errors) {
    if object.text(field).trim().is_empty() {
        let detail = format!("{field} is not specified");
        errors.push(FieldError::required(path.field(field), detail));
    }
}

fn identifier(text: &str) -> bool {
    let begins = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    text.as_bytes().first().is_some_and(begins)
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !RESERVED.contains(&text)
}

fn kind(path: &Path, kind: &Value, errors: &mut Errors) {
    let (path_version, path_kind) = (path.field("apiVersion"), path.field("kind"));
    let text = kind.text("apiVersion");
    let (group, version) = text.split_once('/').unwrap_or(("", text));
    if text.is_empty() {
        errors.push(FieldError::required(path_version, ""));
    } else if version.contains('/') {
        let detail = format!("unexpected GroupVersion string: {text}");
        errors.push(FieldError::invalid(path_version, text, detail));
    } else {
        let problems = name::subdomain(group);
        if !group.is_empty() && !problems.is_empty() {
            errors.push(FieldError::invalid(path_version, group, problems.join(",")));
        }
        let problems = name::dns1035(version);
        if version.is_empty() {
            errors.push(FieldError::invalid(path_version, text, "version must be specified"));
        } else if !problems.is_empty() {
            errors.push(FieldError::invalid(path_version, version, problems.join(",")));
        }
    }
    let text = kind.text("kind");
    let problems = name::dns1035(&text.to_lowercase());
    if text.is_empty() {
        errors.push(FieldError::required(path_kind, ""));
    } else if !problems.is_empty() {
        let detail =
            format!("may have mixed case, but should otherwise match: {}", problems.join(","));
        errors.push(FieldError::invalid(path_kind, text, detail));
    }
}

/// MatchResources.
fn resources(path: &Path, resources: &Value, errors: &mut Errors) {
    let policy = resources.text("matchPolicy");
    check::one_of(&path.field("matchPolicy"), policy, MATCH_POLICIES, errors);
    for field in ["namespaceSelector", "objectSelector"] {
        match resources.at(field) {
            Value::Null => errors.push(FieldError::required(path.field(field), "")),
            selector => check::label_selector(&path.field(field), selector, errors),
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        let path = path.field(field);
        for (index, rule) in resources.items(field).iter().enumerate() {
            let path = path.index(index);
            let path = path.field("resourceNames");
            let names: Vec<&str> = check::texts(rule, "resourceNames").collect();
            for (index, one) in names.iter().enumerate() {
                errors.extend(sentences(&path.index(index), one, name::path_segment(one)));
                if names[..index].contains(one) {
                    errors.push(FieldError::duplicate(path.index(index), *one));
                }
            }
        }
        webhook::rules(&path, resources.items(field), errors);
    }
}

fn validation(path: &Path, validation: &Value, errors: &mut Errors) {
    expression(path, validation, "expression", errors);
    let blank = |text: &str| !text.is_empty() && text.trim().is_empty();
    let (message, made) = (validation.text("message"), validation.text("messageExpression"));
    if blank(made) {
        let detail = "must be non-empty if specified";
        errors.push(FieldError::invalid(path.field("messageExpression"), made, detail));
    }
    let detail = match message {
        message if blank(message) => Some("message must be non-empty if specified"),
        message if message.trim().contains(['\n', '\r']) => {
            Some("message must not contain line breaks")
        }
        _ => None,
    };
    if let Some(detail) = detail {
        errors.push(FieldError::invalid(path.field("message"), message, detail));
    }
    let reasons = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
    let reason = validation.text("reason");
    check::optional_one_of(&path.field("reason"), reason, &reasons, errors);
}

fn annotations(policy: &str, spec: &Value, errors: &mut Errors) {
    const MOST: usize = 20;
    const LONGEST: usize = 5 * 1024;
    let path = SPEC.field("auditAnnotations");
    if spec.items("auditAnnotations").len() > MOST {
        let detail = format!("must not have more than {MOST} auditAnnotations");
        let all = spec.at("auditAnnotations").clone();
        errors.push(FieldError::invalid(path, all, detail));
    }
    let mut keys = HashSet::new();
    for (index, annotation) in spec.items("auditAnnotations").iter().enumerate() {
        let path = path.index(index);
        let key = annotation.text("key");
        check::qualified(&path.field("key"), &format!("{policy}/{key}"), errors);
        expression(&path, annotation, "valueExpression", errors);
        if annotation.text("valueExpression").trim().len() > LONGEST {
            let detail = format!("must not exceed {LONGEST} bytes in length");
            errors.push(FieldError::required(path.field("valueExpression"), detail));
        }
        if !keys.insert(key) {
            errors.push(FieldError::duplicate(path.field("key"), key));
        }
    }
}

fn mutation(path: &Path, mutation: &Value, errors: &mut Errors) {
    const TYPES: [(&str, &str); 2] =
        [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")];
    let kind = mutation.text("patchType");
    check::one_of(&path.field("patchType"), kind, &TYPES.map(|(kind, _)| kind), errors);
    if !TYPES.iter().any(|(known, _)| *known == kind) {
        return;
    }
    for (other, field) in TYPES {
        let (path, patch) = (path.field(field), mutation.at(field));
        if other != kind {
            if !patch.is_null() {
                let detail = format!("must not be specified when patchType is {kind}");
                errors.push(FieldError::forbidden(path, detail));
            }
        } else if patch.is_null() {
            let detail = format!("must be specified when patchType is {kind}");
            errors.push(FieldError::required(path, detail));
        } else {
            expression(&path, patch, "expression", errors);
        }
    }
}

fn param_ref(path: &Path, reference: &Value, errors: &mut Errors) {
    let (text, exclusive) = (reference.text("name"), "name and selector are mutually exclusive");
    let (path_name, path_selector) = (path.field("name"), path.field("selector"));
    let selected = reference.has("selector");
    if !text.is_empty() {
        errors.extend(sentences(&path_name, text, name::path_segment(text)));
        if selected {
            errors.push(FieldError::forbidden(path_name, exclusive));
        }
    }
    if selected {
        check::label_selector(&path_selector, reference.at("selector"), errors);
        if !text.is_empty() {
            errors.push(FieldError::forbidden(path_selector, exclusive));
        }
    }
    if text.is_empty() && !selected {
        let detail = "one of name or selector must be specified";
        errors.push(FieldError::required(path, detail));
    }
    let (field, actions) = ("parameterNotFoundAction", ["Deny", "Allow"]);
    check::one_of(&path.field(field), reference.text(field), &actions, errors);
}

/// What CEL keeps for itself.
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];
