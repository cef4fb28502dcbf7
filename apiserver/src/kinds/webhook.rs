//! MutatingWebhookConfigurations and ValidatingWebhookConfigurations, and the rules about matching
//! that admission policies share with them. Expressions in CEL are not compiled here.

use std::collections::HashSet;

use proto::status::FieldError;
use proto::time::Time;
use serde_json::Value;
use url::Url;

use super::check::{self, Errors};
use super::lens::Lens;
use super::metadata::sentences;
use super::name;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Strategy};

const WEBHOOKS: Path = Path::root("webhooks");
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];
const NO_SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];
pub const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
pub const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
pub const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];

/// Who relies on a webhook must know that nobody asks it.
const NOT_CALLED: &str = "this server keeps webhook configurations but calls no webhooks: requests \
    are neither changed nor refused by them";

/// Both kinds: only webhooks that mutate have a reinvocationPolicy, which their schema says.
pub struct WebhookConfiguration;

impl Strategy for WebhookConfiguration {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn counted(&self) -> &'static [&'static str] {
        &["/webhooks"]
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        webhooks(object, None)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        webhooks(new, Some(old))
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let idle = new.vacant("webhooks");
        (!idle).then(|| NOT_CALLED.to_string()).into_iter().collect()
    }

    fn columns(&self) -> &'static [Column] {
        const COUNT: Column = column(
            "Webhooks",
            "integer",
            0,
            "Webhooks indicates the number of webhooks registered in this configuration",
        );
        &[table::NAME, COUNT, table::AGE]
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let count = object.items("webhooks").len();
        vec![table::name(object), count.into(), table::age(object, now)]
    }
}

fn webhooks(object: &Value, old: Option<&Value>) -> Errors {
    let mut errors = Vec::new();
    let mut names = HashSet::new();
    let before = old.map(|old| old.items("webhooks"));
    for (index, hook) in object.items("webhooks").iter().enumerate() {
        let path = WEBHOOKS.index(index);
        webhook(&path, hook, before, &mut errors);
        let name = hook.text("name");
        if !name.is_empty() && !names.insert(name) && before.is_none_or(distinct) {
            errors.push(FieldError::duplicate(path.field("name"), name));
        }
    }
    errors
}

fn webhook(path: &Path, hook: &Value, before: Option<&[Value]>, errors: &mut Errors) {
    qualified_domain(&path.field("name"), hook.text("name"), errors);
    rules(&path.field("rules"), hook.items("rules"), errors);
    let choices = [("failurePolicy", FAILURE_POLICIES), ("matchPolicy", MATCH_POLICIES)];
    for (field, known) in choices {
        check::optional_one_of(&path.field(field), hook.text(field), known, errors);
    }
    let harmless = |hook: &Value| NO_SIDE_EFFECTS.contains(&hook.text("sideEffects"));
    let effects: &[&str] = match before.is_none_or(|hooks| hooks.iter().all(harmless)) {
        true => &NO_SIDE_EFFECTS,
        false => &["None", "NoneOnDryRun", "Some", "Unknown"],
    };
    let path_effects = path.field("sideEffects");
    match hook.text("sideEffects") {
        "" => {
            let detail = format!("must specify one of {}", effects.join(", "));
            errors.push(FieldError::required(path_effects, detail));
        }
        class => check::optional_one_of(&path_effects, class, effects, errors),
    }
    if let Some(seconds) = hook.int("timeoutSeconds").filter(|seconds| !(1..=30).contains(seconds))
    {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(path.field("timeoutSeconds"), seconds, detail));
    }
    for field in ["namespaceSelector", "objectSelector"] {
        check::label_selector(&path.field(field), hook.at(field), errors);
    }
    let policy = hook.text("reinvocationPolicy");
    let path_policy = path.field("reinvocationPolicy");
    check::optional_one_of(&path_policy, policy, REINVOCATION_POLICIES, errors);
    client(&path.field("clientConfig"), hook.at("clientConfig"), errors);
    conditions(&path.field("matchConditions"), hook.items("matchConditions"), errors);
    let strict = before.is_none_or(|hooks| hooks.iter().all(speaks));
    reviews(&path.field("admissionReviewVersions"), hook, strict, errors);
}

fn distinct(hooks: &[Value]) -> bool {
    let mut names = HashSet::new();
    hooks.iter().all(|hook| names.insert(hook.text("name")))
}

/// Whether the webhook understands a version of AdmissionReview that is spoken here.
fn speaks(hook: &Value) -> bool {
    let mut versions = check::texts(hook, "admissionReviewVersions");
    hook.vacant("admissionReviewVersions") || versions.any(|version| REVIEWS.contains(&version))
}

fn reviews(path: &Path, hook: &Value, strict: bool, errors: &mut Errors) {
    let field = "admissionReviewVersions";
    if hook.vacant(field) {
        let detail = format!("must specify one of {}", REVIEWS.join(", "));
        errors.push(FieldError::required(path, detail));
        return;
    }
    let mut seen = HashSet::new();
    for (index, version) in check::texts(hook, field).enumerate() {
        if !seen.insert(version) {
            errors.push(FieldError::invalid(path.index(index), version, "duplicate version"));
            continue;
        }
        errors.extend(sentences(&path.index(index), version, name::dns1035(version)));
    }
    if strict && !speaks(hook) {
        let detail = format!("must include at least one of {}", REVIEWS.join(", "));
        errors.push(FieldError::invalid(path, hook.at(field).clone(), detail));
    }
}

/// A domain of three segments at least, as `hook.example.com`.
fn qualified_domain(path: &Path, name: &str, errors: &mut Errors) {
    let problems = name::subdomain(name);
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !problems.is_empty() {
        errors.push(FieldError::invalid(path, name, problems.join(",")));
    } else if name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

/// Where a webhook is: a URL or a Service.
pub fn client(path: &Path, client: &Value, errors: &mut Errors) {
    match (client.has("url"), client.has("service")) {
        (true, false) => address(&path.field("url"), client.text("url"), errors),
        (false, true) => service(&path.field("service"), client.at("service"), errors),
        _ => {
            let detail = "exactly one of url or service is required";
            errors.push(FieldError::required(path, detail));
        }
    }
}

fn address(path: &Path, text: &str, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let url = match Url::parse(text) {
        Ok(url) => url,
        // Go's parser takes a URL without a scheme.
        Err(url::ParseError::RelativeUrlWithoutBase) => {
            let detail = format!("'https' is the only allowed URL scheme{FORM}");
            errors.push(FieldError::invalid(path, "", detail));
            errors.push(FieldError::invalid(path, "", format!("host must be provided{FORM}")));
            return;
        }
        Err(error) => {
            let detail = format!("url must be a valid URL: {error}{FORM}");
            errors.push(FieldError::required(path, detail));
            return;
        }
    };
    let mut refuse = |value: &str, detail: String| {
        errors.push(FieldError::invalid(path, value, detail));
    };
    if url.scheme() != "https" {
        refuse(url.scheme(), format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        refuse("", format!("host must be provided{FORM}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        refuse(url.username(), "user information is not permitted in the URL".into());
    }
    if let Some(fragment) = url.fragment().filter(|fragment| !fragment.is_empty()) {
        refuse(fragment, "fragments are not permitted in the URL".into());
    }
    if let Some(query) = url.query().filter(|query| !query.is_empty()) {
        refuse(query, "query parameters are not permitted in the URL".into());
    }
}

fn service(path: &Path, service: &Value, errors: &mut Errors) {
    for field in ["name", "namespace"] {
        if service.vacant(field) {
            let detail = format!("service {field} is required");
            errors.push(FieldError::required(path.field(field), detail));
        }
    }
    let port = service.int("port").unwrap_or(0);
    if !(1..=65535).contains(&port) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(FieldError::invalid(path.field("port"), port, detail));
    }
    let (path, text) = (path.field("path"), service.text("path"));
    let mut refuse = |detail: String| errors.push(FieldError::invalid(path, text, detail));
    match text {
        "" | "/" => {}
        "//" => refuse("segment[0] may not be empty".into()),
        text => {
            if !text.starts_with('/') {
                refuse("must start with a '/'".into());
            }
            let inner = text.strip_suffix('/').unwrap_or(text);
            for (index, step) in inner.get(1..).unwrap_or("").split('/').enumerate() {
                match step {
                    "" => refuse(format!("segment[{index}] may not be empty")),
                    step => name::subdomain(step)
                        .into_iter()
                        .for_each(|problem| refuse(format!("segment[{index}]: {problem}"))),
                }
            }
        }
    }
}

/// Rules with operations, of webhooks and policies.
pub fn rules(path: &Path, rules: &[Value], errors: &mut Errors) {
    const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        let path_operations = path.field("operations");
        alone(&path, rule, "operations", "operations", errors);
        for (index, operation) in check::texts(rule, "operations").enumerate() {
            if !OPERATIONS.contains(&operation) {
                let path = path_operations.index(index);
                errors.push(FieldError::not_supported(path, operation, OPERATIONS));
            }
        }
        alone(&path, rule, "apiGroups", "API groups", errors);
        alone(&path, rule, "apiVersions", "API versions", errors);
        let path_versions = path.field("apiVersions");
        for (index, version) in check::texts(rule, "apiVersions").enumerate() {
            if version.is_empty() {
                errors.push(FieldError::required(path_versions.index(index), ""));
            }
        }
        resources(&path.field("resources"), rule, errors);
        let scopes = ["*", "Cluster", "Namespaced"];
        check::optional_one_of(&path.field("scope"), rule.text("scope"), &scopes, errors);
    }
}

/// Something, and nothing beside `*`.
fn alone(path: &Path, rule: &Value, field: &str, what: &str, errors: &mut Errors) {
    check::required(path, rule, field, errors);
    let all = rule.items(field);
    if all.len() > 1 && all.iter().any(|one| one == "*") {
        let detail = format!("if '*' is present, must not specify other {what}");
        errors.push(FieldError::invalid(path.field(field), rule.at(field).clone(), detail));
    }
}

fn resources(path: &Path, rule: &Value, errors: &mut Errors) {
    if rule.vacant("resources") {
        errors.push(FieldError::required(path, ""));
    }
    let (mut parents, mut children) = (HashSet::new(), HashSet::new());
    let all: Vec<&str> = check::texts(rule, "resources").collect();
    for (index, resource) in all.iter().enumerate() {
        let path = path.index(index);
        if resource.is_empty() {
            errors.push(FieldError::required(path, ""));
        }
        let Some((parent, child)) = resource.split_once('/') else { continue };
        let mut refuse = |present: String| {
            let detail = format!("if '{present}' is present, must not specify {resource}");
            errors.push(FieldError::invalid(path, *resource, detail));
        };
        if parents.contains(parent) {
            refuse(format!("{parent}/*"));
        }
        if children.contains(child) {
            refuse(format!("*/{child}"));
        }
        if child == "*" {
            parents.insert(parent);
        }
        if parent == "*" {
            children.insert(child);
        }
    }
    let mut refuse = |detail: &str| {
        errors.push(FieldError::invalid(path, rule.at("resources").clone(), detail));
    };
    if all.len() > 1 && all.contains(&"*/*") {
        refuse("if '*/*' is present, must not specify other resources");
    }
    if all.contains(&"*") && all.iter().any(|one| *one != "*" && !one.contains('/')) {
        refuse("if '*' is present, must not specify other resources without subresources");
    }
}

/// matchConditions, of webhooks and policies.
pub fn conditions(path: &Path, conditions: &[Value], errors: &mut Errors) {
    check::items(path, conditions.len(), 64, errors);
    let mut names = HashSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        if condition.text("expression").trim().is_empty() {
            errors.push(FieldError::required(path.field("expression"), ""));
        }
        match condition.text("name") {
            "" => errors.push(FieldError::required(path.field("name"), "")),
            name => {
                check::qualified(&path.field("name"), name, errors);
                if !names.insert(name) {
                    errors.push(FieldError::duplicate(path.field("name"), name));
                }
            }
        }
    }
}
