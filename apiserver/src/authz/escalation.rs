//! Nobody grants what they do not hold: the check of roles and bindings on their way to the store
//! (kubernetes.io/docs, "Using RBAC Authorization", privilege escalation prevention).

use proto::{
    kind::Row,
    status::Status,
    user::User,
    view::rbac::{Binding, PolicyRule, Role},
};
use serde_json::Value;

use super::{Attributes, Authorizer, What, is_master, rule};
use crate::kinds::lens::Lens;

const GROUP: &str = "rbac.authorization.k8s.io";

/// The write of a role or binding.
pub struct Grant<'a> {
    pub row: &'a Row,
    /// Empty for cluster-scoped kinds.
    pub namespace: &'a str,
    pub name: &'a str,
    pub user: &'a User,
    pub new: &'a Value,
    pub old: Option<&'a Value>,
}

/// 403 where the write would give somebody more than the writer has. Other kinds pass.
pub fn check(authorizer: &Authorizer, grant: &Grant) -> Result<(), Status> {
    if grant.row.group != GROUP || is_master(grant.user) {
        return Ok(());
    }
    match &*grant.row.kind {
        "Role" | "ClusterRole" => role(authorizer, grant),
        _ => binding(authorizer, grant),
    }
}

fn role(authorizer: &Authorizer, grant: &Grant) -> Result<(), Status> {
    let same = |field: &str| grant.old.is_some_and(|old| old.at(field) == grant.new.at(field));
    let aggregates = grant.new.has("aggregationRule");
    if same("rules") && same("aggregationRule") {
        return Ok(());
    }
    if asks(authorizer, grant, "escalate", &grant.row.resource, grant.name) {
        return Ok(());
    }
    let view: Role = serde_json::from_value(grant.new.clone()).map_err(Status::internal)?;
    let mut wanted = view.rules;
    if aggregates && !same("aggregationRule") {
        wanted.extend(everything());
    }
    confirm(authorizer, grant, &wanted)
}

fn binding(authorizer: &Authorizer, grant: &Grant) -> Result<(), Status> {
    let same = |field: &str| grant.old.is_some_and(|old| old.at(field) == grant.new.at(field));
    if same("roleRef") && same("subjects") {
        return Ok(());
    }
    let view: Binding = serde_json::from_value(grant.new.clone()).map_err(Status::internal)?;
    let reference = &view.role_ref;
    let resource = if reference.kind == "ClusterRole" { "clusterroles" } else { "roles" };
    if asks(authorizer, grant, "bind", resource, &reference.name) {
        return Ok(());
    }
    let role = authorizer.rbac.role(grant.namespace, &reference.kind, &reference.name);
    let rules = role.map_err(|_| Status::not_found(GROUP, resource, &reference.name))?;
    confirm(authorizer, grant, &rules)
}

/// Whether the writer has been given this verb on the role.
fn asks(authorizer: &Authorizer, grant: &Grant, verb: &str, resource: &str, name: &str) -> bool {
    let namespace = grant.namespace;
    let what = What::Resource { group: GROUP, resource, subresource: "", namespace, name };
    let question = Attributes { user: grant.user, verb, what, fields: None };
    authorizer.authorize(&question).is_ok()
}

fn confirm(authorizer: &Authorizer, grant: &Grant, wanted: &[PolicyRule]) -> Result<(), Status> {
    let held = authorizer.rules(grant.user, grant.namespace);
    let missing = rule::uncovered(&held.rules, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = missing.iter().map(rule::describe).collect();
    lines.sort();
    let mut why = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        grant.user.name,
        rule::quoted(&grant.user.groups),
        lines.join("\n")
    );
    if !held.problems.is_empty() {
        why += &format!("; resolution errors: [{}]", held.problems.join(", "));
    }
    Err(Status::forbidden(&grant.row.group, &grant.row.resource, grant.name, &why))
}

/// Who aggregates may come to grant anything.
pub(super) fn everything() -> [PolicyRule; 2] {
    let any = || vec!["*".to_string()];
    let resources =
        PolicyRule { api_groups: any(), resources: any(), verbs: any(), ..PolicyRule::default() };
    let paths = PolicyRule { non_resource_urls: any(), verbs: any(), ..PolicyRule::default() };
    [resources, paths]
}
