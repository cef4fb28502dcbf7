//! Who may do what. The edge asks the [`Authorizer`] once per request, before the body is read;
//! writes of roles and bindings and the access reviews ask again. Its authorizers are asked in
//! the order of `--authorization-mode` and the first that allows decides.

use std::sync::Arc;

use proto::{kind::Row, selector::FieldSelector, user::User};

use crate::cache::KindCache;

pub mod defaults;
pub mod escalation;
mod graph;
mod node;
mod rbac;
pub mod rule;

use graph::Graph;
use rbac::Rbac;
pub use rbac::Rules;

/// One question.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub user: &'a User,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for other
    /// paths the method in lower case.
    pub verb: &'a str,
    pub what: What<'a>,
    /// What a list, watch or deletecollection is restricted to.
    pub fields: Option<&'a FieldSelector>,
}

#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// Empty parts are absent; an empty namespace means all of them, or a cluster-scoped kind.
    Resource {
        group: &'a str,
        resource: &'a str,
        subresource: &'a str,
        namespace: &'a str,
        name: &'a str,
    },
    Path(&'a str),
}

/// An authorizer, as `--authorization-mode` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    #[value(name = "Node")]
    Node,
    #[value(name = "RBAC")]
    Rbac,
    #[value(name = "AlwaysAllow")]
    AlwaysAllow,
    #[value(name = "AlwaysDeny")]
    AlwaysDeny,
}

/// The answer, and why, where an authorizer says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    pub reason: String,
}

/// Knows the rules; reads the caches.
pub struct Authorizer {
    modes: Vec<Mode>,
    rbac: Rbac,
    graph: Graph,
}

/// The group that may do everything.
const MASTERS: &str = "system:masters";

impl Authorizer {
    pub fn new(modes: &[Mode], cache: impl Fn(&Row) -> Arc<KindCache>) -> Authorizer {
        Authorizer { modes: modes.to_vec(), rbac: Rbac::new(&cache), graph: Graph::new(&cache) }
    }

    /// Whether it is allowed; where not, the sentence that follows `is forbidden: `.
    pub fn authorize(&self, attributes: &Attributes) -> Result<(), String> {
        match self.decide(attributes, false) {
            Ok(_) => Ok(()),
            Err(reason) if reason.is_empty() => Err(refusal(attributes)),
            Err(reason) => Err(format!("{}: {reason}", refusal(attributes))),
        }
    }

    /// The same with its reason, for those who ask about it.
    pub fn verdict(&self, attributes: &Attributes) -> Verdict {
        match self.decide(attributes, true) {
            Ok(reason) => Verdict { allowed: true, reason },
            Err(reason) => Verdict { allowed: false, reason },
        }
    }

    /// What a user may do in a namespace, as far as rules tell.
    pub fn rules(&self, user: &User, namespace: &str) -> Rules {
        let mut found = Rules::default();
        for mode in &self.modes {
            match mode {
                Mode::AlwaysAllow => found.rules.extend(escalation::everything()),
                Mode::Rbac => {
                    let Rules { rules, problems } = self.rbac.rules(user, namespace);
                    found.rules.extend(rules);
                    found.problems.extend(problems);
                }
                Mode::Node if node::of(user).is_some() => {
                    let why = "node authorizer does not support user rule resolution";
                    found.problems.push(why.into());
                }
                Mode::Node | Mode::AlwaysDeny => {}
            }
        }
        found
    }

    fn decide(&self, attributes: &Attributes, explain: bool) -> Result<String, String> {
        if is_master(attributes.user) {
            return Ok(String::new());
        }
        let mut reasons: Vec<String> = Vec::new();
        for mode in &self.modes {
            let answer = match mode {
                Mode::AlwaysAllow => Ok(String::new()),
                Mode::AlwaysDeny => Err("Everything is forbidden.".to_string()),
                Mode::Rbac => self.rbac.decide(attributes, explain),
                Mode::Node => match node::of(attributes.user) {
                    Some(node) => {
                        node::decide(node, attributes, &self.graph).map(|()| String::new())
                    }
                    None => continue,
                },
            };
            match answer {
                Ok(reason) => return Ok(reason),
                Err(reason) if reason.is_empty() => {}
                Err(reason) => reasons.push(reason),
            }
        }
        Err(reasons.join("\n"))
    }
}

fn is_master(user: &User) -> bool {
    user.groups.iter().any(|group| group == MASTERS)
}

/// `User "x" cannot list resource "pods" in API group "" in the namespace "default"`.
fn refusal(attributes: &Attributes) -> String {
    let Attributes { user, verb, what, .. } = attributes;
    let name = &user.name;
    match what {
        What::Path(path) => format!("User {name:?} cannot {verb} path {path:?}"),
        What::Resource { group, resource, subresource, namespace, .. } => {
            let slash = if subresource.is_empty() { "" } else { "/" };
            let scope = match *namespace {
                "" => "at the cluster scope".to_string(),
                namespace => format!("in the namespace {namespace:?}"),
            };
            format!(
                "User {name:?} cannot {verb} resource \"{resource}{slash}{subresource}\" in API \
                 group {group:?} {scope}"
            )
        }
    }
}
