//! Roles and their bindings. What they allow is authorization's business.

use proto::status::FieldError;
use proto::time::Time;
use serde_json::Value;

use super::check::{self, Errors};
use super::described;
use super::lens::Lens;
use super::name::NameRule;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Strategy};

const GROUP: &str = "rbac.authorization.k8s.io";

pub struct Role;
pub struct ClusterRole;
pub struct RoleBinding;
pub struct ClusterRoleBinding;

impl Strategy for Role {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        rules(object, true, &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const { &[table::NAME, table::CREATED] }
    }

    fn cells(&self, object: &Value, _now: Time) -> Vec<Value> {
        vec![table::name(object), table::created(object)]
    }
}

impl Strategy for ClusterRole {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        const AGGREGATION: Path = Path::root("aggregationRule");
        let mut errors = Vec::new();
        rules(object, false, &mut errors);
        if object.has("aggregationRule") {
            let path = AGGREGATION.field("clusterRoleSelectors");
            let selectors = object.at("aggregationRule").items("clusterRoleSelectors");
            if selectors.is_empty() {
                let detail =
                    "at least one clusterRoleSelector required if aggregationRule is non-nil";
                errors.push(FieldError::required(path, detail));
            }
            for (index, selector) in selectors.iter().enumerate() {
                check::label_selector(&path.index(index), selector, &mut errors);
            }
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        Role.columns()
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        Role.cells(object, now)
    }
}

impl Strategy for RoleBinding {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        binding(object, &["Role", "ClusterRole"], true)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        same_role(self.validate(new), new, old)
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                table::NAME,
                column("Role", "string", 0, described::BINDING_ROLE),
                table::AGE,
                column("Users", "string", 1, "Users in the roleBinding"),
                column("Groups", "string", 1, "Groups in the roleBinding"),
                column("ServiceAccounts", "string", 1, "ServiceAccounts in the roleBinding"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let role = object.at("roleRef");
        let subjects = |kind: &str| -> Value {
            let found = object.items("subjects").iter().filter(|one| one.text("kind") == kind);
            let names = found.map(|one| match kind {
                "ServiceAccount" => format!("{}/{}", one.text("namespace"), one.text("name")),
                _ => one.text("name").to_string(),
            });
            names.collect::<Vec<_>>().join(", ").into()
        };
        vec![
            table::name(object),
            format!("{}/{}", role.text("kind"), role.text("name")).into(),
            table::age(object, now),
            subjects("User"),
            subjects("Group"),
            subjects("ServiceAccount"),
        ]
    }
}

impl Strategy for ClusterRoleBinding {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        binding(object, &["ClusterRole"], false)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        same_role(self.validate(new), new, old)
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                table::NAME,
                column("Role", "string", 0, described::CLUSTER_BINDING_ROLE),
                table::AGE,
                column("Users", "string", 1, "Users in the clusterRoleBinding"),
                column("Groups", "string", 1, "Groups in the clusterRoleBinding"),
                column("ServiceAccounts", "string", 1, "ServiceAccounts in the clusterRoleBinding"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        RoleBinding.cells(object, now)
    }
}

fn rules(role: &Value, namespaced: bool, errors: &mut Errors) {
    const RULES: Path = Path::root("rules");
    for (index, rule) in role.items("rules").iter().enumerate() {
        let path = RULES.index(index);
        let mut required = |field: &str, detail: &str| {
            if rule.vacant(field) {
                errors.push(FieldError::required(path.field(field), detail));
            }
        };
        required("verbs", "verbs must contain at least one value");
        if rule.vacant("nonResourceURLs") {
            required("apiGroups", "resource rules must supply at least one api group");
            required("resources", "resource rules must supply at least one resource");
            if !rule.vacant("resourceNames") && rule.items("resources").len() > 1 {
                let detail = "resource names cannot apply to multiple resources";
                errors.push(FieldError::required(path.field("resourceNames"), detail));
            }
            continue;
        }
        let mut refuse = |detail: &str| {
            let urls = rule.at("nonResourceURLs").clone();
            errors.push(FieldError::invalid(path.field("nonResourceURLs"), urls, detail));
        };
        if namespaced {
            refuse("namespaced rules cannot apply to non-resource URLs");
        }
        if ["apiGroups", "resources", "resourceNames"].iter().any(|field| !rule.vacant(field)) {
            refuse("rules cannot apply to both regular resources and non-resource URLs");
        }
    }
}

fn binding(binding: &Value, kinds: &[&str], namespaced: bool) -> Vec<FieldError> {
    const ROLE: Path = Path::root("roleRef");
    const SUBJECTS: Path = Path::root("subjects");
    let mut errors = Vec::new();
    let role = binding.at("roleRef");
    if role.text("apiGroup") != GROUP {
        let group = role.text("apiGroup");
        errors.push(FieldError::not_supported(ROLE.field("apiGroup"), group, &[GROUP]));
    }
    if !kinds.contains(&role.text("kind")) {
        errors.push(FieldError::not_supported(ROLE.field("kind"), role.text("kind"), kinds));
    }
    check::segment(&ROLE, role, "name", &mut errors);
    for (index, one) in binding.items("subjects").iter().enumerate() {
        subject(&SUBJECTS.index(index), one, namespaced, &mut errors);
    }
    errors
}

fn subject(path: &Path, subject: &Value, namespaced: bool, errors: &mut Errors) {
    check::required(path, subject, "name", errors);
    let (name, group) = (subject.text("name"), subject.text("apiGroup"));
    match subject.text("kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                check::subdomain(&path.field("name"), name, errors);
            }
            if !group.is_empty() {
                errors.push(FieldError::not_supported(path.field("apiGroup"), group, &[""]));
            }
            if !namespaced {
                check::required(path, subject, "namespace", errors);
            }
        }
        kind @ ("User" | "Group") => {
            if name.is_empty() {
                let detail = format!("{} name cannot be empty", kind.to_lowercase());
                errors.push(FieldError::invalid(path.field("name"), "", detail));
            }
            if group != GROUP {
                errors.push(FieldError::not_supported(path.field("apiGroup"), group, &[GROUP]));
            }
        }
        other => {
            let kinds = ["ServiceAccount", "User", "Group"];
            errors.push(FieldError::not_supported(path.field("kind"), other, &kinds));
        }
    }
}

fn same_role(mut errors: Errors, new: &Value, old: &Value) -> Errors {
    if new.at("roleRef") != old.at("roleRef") {
        let role = new.at("roleRef").clone();
        errors.push(FieldError::invalid("roleRef", role, "cannot change roleRef"));
    }
    errors
}
