//! FlowSchemas and PriorityLevelConfigurations. They are kept and checked; requests are not
//! queued by them.

use std::collections::HashSet;

use proto::kind::{self, Row};
use proto::status::FieldError;
use proto::time::Time;
use serde_json::Value;

use super::check::{self, Errors};
use super::described;
use super::lens::Lens;
use super::metadata::sentences;
use super::name;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Strategy};
use crate::schema;

pub mod built_in;

const SPEC: Path = Path::root("spec");
const STATUS: Path = Path::root("status");
const HIGHEST_PRECEDENCE: i64 = 10_000;
const MOST_QUEUES: i64 = 10_000_000;
/// As many bits of a flow's hash choose its queues.
const HASH_BITS: i64 = 60;
const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

pub struct FlowSchema;
pub struct PriorityLevelConfiguration;

impl Strategy for FlowSchema {
    fn takes_metadata_with_status(&self) -> bool {
        false
    }

    fn counted(&self) -> &'static [&'static str] {
        &["/spec"]
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (name, spec) = (object.at("metadata").text("name"), object.at("spec"));
        precedence(name, spec.int("matchingPrecedence").unwrap_or(0), &mut errors);
        let method = spec.at("distinguisherMethod");
        if !method.is_null() && !["ByNamespace", "ByUser"].contains(&method.text("type")) {
            let path = SPEC.field("distinguisherMethod");
            let path = path.field("type");
            let methods = ["ByNamespace", "ByUser"];
            errors.push(FieldError::not_supported(path, method.clone(), &methods));
        }
        let path = SPEC.field("priorityLevelConfiguration");
        let path = path.field("name");
        match spec.at("priorityLevelConfiguration").text("name") {
            "" => errors.push(FieldError::required(path, "must reference a priority level")),
            level => check::subdomain(&path, level, &mut errors),
        }
        let path = SPEC.field("rules");
        for (index, one) in spec.items("rules").iter().enumerate() {
            rule(&path.index(index), one, &mut errors);
        }
        let fixed = built_in::flow_schemas(true).into_iter();
        mandatory(&kind::FLOW_SCHEMA, object, fixed.collect(), &mut errors);
        errors.extend(conditions(object));
        errors
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        conditions(new)
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                table::NAME,
                column("PriorityLevel", "string", 0, described::FLOW_LEVEL),
                column("MatchingPrecedence", "string", 0, described::FLOW_PRECEDENCE),
                column("DistinguisherMethod", "string", 0, described::FLOW_DISTINGUISHER),
                table::AGE,
                column(
                    "MissingPL",
                    "string",
                    0,
                    "references a broken or non-existent PriorityLevelConfiguration",
                ),
            ]
        }
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let spec = object.at("spec");
        let mut conditions = object.at("status").items("conditions").iter();
        let dangling = conditions.find(|condition| condition.text("type") == "Dangling");
        vec![
            table::name(object),
            spec.at("priorityLevelConfiguration").text("name").into(),
            spec.int("matchingPrecedence").unwrap_or(0).into(),
            table::or_none(spec.at("distinguisherMethod").text("type")).into(),
            table::age(object, now),
            dangling.map_or("?", |condition| condition.text("status")).into(),
        ]
    }
}

impl Strategy for PriorityLevelConfiguration {
    fn takes_metadata_with_status(&self) -> bool {
        false
    }

    fn counted(&self) -> &'static [&'static str] {
        &["/spec"]
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (name, spec) = (object.at("metadata").text("name"), object.at("spec"));
        let kind = spec.text("type");
        if (name == "exempt") != (kind == "Exempt") {
            let detail = "type must be 'Exempt' if and only if name is 'exempt'";
            errors.push(FieldError::invalid(SPEC.field("type"), kind, detail));
        }
        let (limited, exempt) = (SPEC.field("limited"), SPEC.field("exempt"));
        match kind {
            "Exempt" => {
                if spec.has("limited") {
                    let detail = "must be nil if the type is not Limited";
                    errors.push(FieldError::forbidden(limited, detail));
                }
                shares(&exempt, spec.at("exempt"), &mut errors);
            }
            "Limited" => {
                if spec.has("exempt") {
                    let detail = "must be nil if the type is Limited";
                    errors.push(FieldError::forbidden(exempt, detail));
                }
                if spec.has("limited") {
                    limits(&limited, spec.at("limited"), &mut errors);
                } else {
                    let detail = "must not be empty when type is Limited";
                    errors.push(FieldError::required(limited, detail));
                }
            }
            other => {
                let kinds = ["Exempt", "Limited"];
                errors.push(FieldError::not_supported(SPEC.field("type"), other, &kinds));
            }
        }
        let fixed = built_in::priority_levels(true).into_iter();
        mandatory(&kind::PRIORITY_LEVEL_CONFIGURATION, object, fixed.collect(), &mut errors);
        errors.extend(conditions(object));
        errors
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        conditions(new)
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                table::NAME,
                column("Type", "string", 0, described::LEVEL_TYPE),
                column("NominalConcurrencyShares", "string", 0, described::LEVEL_SHARES),
                column("Queues", "string", 0, described::LEVEL_QUEUES),
                column("HandSize", "string", 0, described::LEVEL_HAND),
                column("QueueLengthLimit", "string", 0, described::LEVEL_LENGTH),
                table::AGE,
            ]
        }
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let spec = object.at("spec");
        let queuing = spec.at("limited").at("limitResponse").at("queuing");
        let shown = |object: &Value, field: &str| match object.int(field) {
            Some(number) => number.into(),
            None => Value::from("<none>"),
        };
        vec![
            table::name(object),
            spec.text("type").into(),
            shown(spec.at("limited"), "nominalConcurrencyShares"),
            shown(queuing, "queues"),
            shown(queuing, "handSize"),
            shown(queuing, "queueLengthLimit"),
            table::age(object, now),
        ]
    }
}

fn precedence(name: &str, precedence: i64, errors: &mut Errors) {
    let mut refuse = |detail: &str| {
        errors.push(FieldError::invalid(SPEC.field("matchingPrecedence"), precedence, detail));
    };
    if precedence <= 0 {
        refuse("must be a positive value");
    }
    if precedence > HIGHEST_PRECEDENCE {
        refuse(&format!("must not be greater than {HIGHEST_PRECEDENCE}"));
    }
    if precedence == 1 && name != "exempt" {
        refuse("only the schema named 'exempt' may have matchingPrecedence 1");
    }
}

fn rule(path: &Path, rule: &Value, errors: &mut Errors) {
    let path_subjects = path.field("subjects");
    if rule.vacant("subjects") {
        let detail = "subjects must contain at least one value";
        errors.push(FieldError::required(path_subjects, detail));
    }
    for (index, one) in rule.items("subjects").iter().enumerate() {
        subject(&path_subjects.index(index), one, errors);
    }
    if rule.vacant("resourceRules") && rule.vacant("nonResourceRules") {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(FieldError::required(path, detail));
    }
    let path_rules = path.field("resourceRules");
    for (index, rule) in rule.items("resourceRules").iter().enumerate() {
        resources(&path_rules.index(index), rule, errors);
    }
    let path_rules = path.field("nonResourceRules");
    for (index, rule) in rule.items("nonResourceRules").iter().enumerate() {
        let path = path_rules.index(index);
        verbs(&path, rule, errors);
        let field = "nonResourceURLs";
        let detail = "nonResourceURLs must contain at least one value";
        if members(&path, rule, field, detail, "non-resource URLs", errors) {
            let path = path.field(field);
            for (index, url) in check::texts(rule, field).enumerate() {
                if let Some(detail) = bad_url(url) {
                    errors.push(FieldError::invalid(path.index(index), url, detail));
                }
            }
        }
    }
}

fn subject(path: &Path, subject: &Value, errors: &mut Errors) {
    const KINDS: [(&str, &str); 3] =
        [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = subject.text("kind");
    let Some((_, field)) = KINDS.iter().find(|(known, _)| *known == kind) else {
        let kinds = ["Group", "ServiceAccount", "User"];
        errors.push(FieldError::not_supported(path.field("kind"), kind, &kinds));
        return;
    };
    let (path_named, named) = (path.field(field), subject.at(field));
    if named.is_null() {
        let detail = format!("{field} is required when subject kind is '{kind}'");
        errors.push(FieldError::required(path_named, detail));
    } else {
        check::required(&path_named, named, "name", errors);
        if kind == "ServiceAccount" {
            account(&path_named, named, errors);
        }
    }
    // Upstream's order: users before groups, service accounts first.
    for (other, field) in KINDS.iter().filter(|(other, _)| *other != kind) {
        if subject.has(field) {
            let detail = format!("{field} is forbidden when subject kind is not '{other}'");
            errors.push(FieldError::forbidden(path.field(field), detail));
        }
    }
}

fn account(path: &Path, account: &Value, errors: &mut Errors) {
    let name = account.text("name");
    if !name.is_empty() && name != "*" {
        check::subdomain(&path.field("name"), name, errors);
    }
    match account.text("namespace") {
        "" => {
            let detail = "must specify namespace for service account";
            errors.push(FieldError::required(path.field("namespace"), detail));
        }
        namespace => check::label(&path.field("namespace"), namespace, errors),
    }
}

fn resources(path: &Path, rule: &Value, errors: &mut Errors) {
    verbs(path, rule, errors);
    let detail = "resource rules must supply at least one api group";
    members(path, rule, "apiGroups", detail, "api groups", errors);
    let detail = "resource rules must supply at least one resource";
    members(path, rule, "resources", detail, "resources", errors);
    if rule.vacant("namespaces") && rule.flag("clusterScope") == Some(true) {
        return;
    }
    let detail = "resource rules that are not cluster scoped must supply at least one namespace";
    if members(path, rule, "namespaces", detail, "namespaces", errors) {
        let path = path.field("namespaces");
        for (index, namespace) in check::texts(rule, "namespaces").enumerate() {
            let problems = name::label(namespace).into_iter().map(|problem| {
                format!("each member of this list must be '*' or a DNS-1123 label; {problem}")
            });
            errors.extend(sentences(&path.index(index), namespace, problems.collect()));
        }
    }
}

fn verbs(path: &Path, rule: &Value, errors: &mut Errors) {
    let detail = "verbs must contain at least one value";
    let plain = members(path, rule, "verbs", detail, "verbs", errors);
    if plain && check::texts(rule, "verbs").any(|verb| !VERBS.contains(&verb)) {
        let verbs = rule.at("verbs").clone();
        errors.push(FieldError::not_supported(path.field("verbs"), verbs, VERBS));
    }
}

/// Checks that there are members, and that `*` is alone. Whether there are, without `*`.
fn members(
    path: &Path,
    rule: &Value,
    field: &str,
    none: &str,
    what: &str,
    errors: &mut Errors,
) -> bool {
    let all = rule.items(field);
    let wild = all.iter().any(|member| member == "*");
    if all.is_empty() {
        errors.push(FieldError::required(path.field(field), none));
    } else if wild && all.len() > 1 {
        let detail = format!("if '*' is present, must not specify other {what}");
        errors.push(FieldError::invalid(path.field(field), rule.at(field).clone(), detail));
    }
    !all.is_empty() && !wild
}

fn bad_url(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        url if !url.starts_with('/') => Some("must start with slash"),
        url if url.contains(' ') => Some("must not contain white-space"),
        url if url.contains("//") => Some("must not contain double slash"),
        url if stars > 1 || stars == 1 && !url.ends_with("/*") => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}

/// nominalConcurrencyShares and lendablePercent, of both types.
fn shares(path: &Path, level: &Value, errors: &mut Errors) {
    let field = "nominalConcurrencyShares";
    if let Some(shares) = level.int(field).filter(|shares| *shares < 0) {
        let detail = "must be a non-negative integer";
        errors.push(FieldError::invalid(path.field(field), shares, detail));
    }
    if let Some(percent) = level.int("lendablePercent") {
        check::between(&path.field("lendablePercent"), percent, 0, 100, errors);
    }
}

fn limits(path: &Path, limited: &Value, errors: &mut Errors) {
    shares(path, limited, errors);
    let field = "borrowingLimitPercent";
    if let Some(percent) = limited.int(field).filter(|percent| *percent < 0) {
        let detail = "if specified, must be a non-negative integer";
        errors.push(FieldError::invalid(path.field(field), percent, detail));
    }
    let (path, response) = (path.field("limitResponse"), limited.at("limitResponse"));
    let path_queuing = path.field("queuing");
    match response.text("type") {
        "Reject" => {
            if response.has("queuing") {
                let detail = "must be nil if limited.limitResponse.type is not Limited";
                errors.push(FieldError::forbidden(path_queuing, detail));
            }
        }
        "Queue" if response.has("queuing") => {
            queuing(&path_queuing, response.at("queuing"), errors);
        }
        "Queue" => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            errors.push(FieldError::required(path_queuing, detail));
        }
        other => {
            let kinds = ["Queue", "Reject"];
            errors.push(FieldError::not_supported(path.field("type"), other, &kinds));
        }
    }
}

fn queuing(path: &Path, queuing: &Value, errors: &mut Errors) {
    let number = |field: &str| queuing.int(field).unwrap_or(0);
    let (queues, hand) = (number("queues"), number("handSize"));
    let mut refuse = |field: &str, detail: &str| {
        errors.push(FieldError::invalid(path.field(field), number(field), detail));
    };
    if number("queueLengthLimit") <= 0 {
        refuse("queueLengthLimit", "must be positive");
    }
    if queues <= 0 {
        refuse("queues", "must be positive");
    } else if queues > MOST_QUEUES {
        refuse("queues", &format!("must not be greater than {MOST_QUEUES}"));
    }
    let bits = ((queues.max(1) as f64).log2() * hand as f64).ceil() as i64;
    if hand <= 0 {
        refuse("handSize", "must be positive");
    } else if hand > queues {
        refuse("handSize", &format!("should not be greater than queues ({queues})"));
    } else if bits > HASH_BITS {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater \
             than {HASH_BITS}"
        );
        refuse("handSize", &detail);
    }
}

/// Those that every server must have are as they are; of the exempt level `spec.exempt` may differ.
fn mandatory(row: &Row, object: &Value, fixed: Vec<Value>, errors: &mut Errors) {
    let name = object.at("metadata").text("name");
    let same = |fixed: &&Value| fixed.at("metadata").text("name") == name;
    let Some(mut fixed) = fixed.iter().find(same).cloned() else { return };
    schema::default(row, &mut fixed);
    let mut found = object.at("spec").clone();
    let mut except = "";
    if row.kind == "PriorityLevelConfiguration" && name == "exempt" {
        except = " except the 'spec.exempt' field";
        found.take_over("exempt", fixed.at("spec"));
    }
    if found != *fixed.at("spec") {
        let detail = format!("spec of '{name}'{except} must equal the fixed value");
        errors.push(FieldError::invalid(SPEC, object.at("spec").clone(), detail));
    }
}

/// Of both kinds' status.
fn conditions(object: &Value) -> Errors {
    let path = STATUS.field("conditions");
    let (mut errors, mut seen) = (Vec::new(), HashSet::new());
    for (index, condition) in object.at("status").items("conditions").iter().enumerate() {
        let path = path.index(index);
        let kind = condition.text("type");
        if !seen.insert(kind) {
            errors.push(FieldError::duplicate(path.field("type"), kind));
        }
        if kind.is_empty() {
            errors.push(FieldError::required(path.field("type"), "must not be empty"));
        }
    }
    errors
}
