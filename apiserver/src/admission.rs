//! Admission: what is added to or refused of a write beyond its kind's own rules. Compiled-in
//! plugins run in the order of [`PLUGINS`]; the registry calls [`Chain::mutate`] before defaults
//! are set again and [`Chain::validate`] right before the store. Plugins read the cache and the
//! request; they write nothing.

use proto::{kind::Row, status::Status, user::User};
use serde_json::Value;

use crate::registry::Registry;

mod class;
mod namespace_lifecycle;
mod node;
mod pod;

/// What is about to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// The write, without its object.
pub struct Request<'a> {
    pub operation: Operation,
    pub row: &'a Row,
    pub namespace: &'a str,
    pub name: &'a str,
    pub subresource: &'a str,
    pub user: &'a User,
    pub old: Option<&'a Value>,
    pub dry_run: bool,
    pub registry: &'a Registry,
}

impl Request<'_> {
    /// A write of the object itself, of this kind in the core group.
    fn is(&self, operation: Operation, kind: &str) -> bool {
        self.operation == operation
            && self.row.group.is_empty()
            && self.row.kind == kind
            && self.subresource.is_empty()
    }
}

/// The write is refused with this answer. An error of its own, so that no `?` on another error can
/// pass for a decision.
#[derive(Debug)]
pub struct Denied(pub Status);

impl From<Denied> for Status {
    fn from(denied: Denied) -> Status {
        denied.0
    }
}

/// Whether it changed the object.
type Mutate = fn(&Request, &mut Value) -> Result<bool, Denied>;
/// Without an object for deletions.
type Validate = fn(&Request, Option<&Value>) -> Result<(), Denied>;

struct Plugin {
    name: &'static str,
    mutate: Option<Mutate>,
    validate: Option<Validate>,
}

/// In the order in which they run.
static PLUGINS: &[Plugin] = &[
    // Refusals come before anything is changed.
    Plugin {
        name: "NamespaceLifecycle",
        mutate: Some(namespace_lifecycle::refuse_early),
        validate: Some(namespace_lifecycle::validate),
    },
    Plugin { name: "ServiceAccount", mutate: Some(pod::service_account), validate: None },
    Plugin { name: "NodeRestriction", mutate: None, validate: Some(node::restrict) },
    Plugin { name: "TaintNodesByCondition", mutate: Some(node::taint_new), validate: None },
    Plugin { name: "Priority", mutate: Some(class::priority), validate: None },
    Plugin { name: "RuntimeClass", mutate: Some(class::runtime), validate: None },
    Plugin { name: "DefaultTolerationSeconds", mutate: Some(pod::tolerate), validate: None },
];

#[derive(Debug, thiserror::Error)]
#[error("unknown admission plugin {name:?}; there are: {known}")]
pub struct UnknownPlugin {
    name: String,
    known: String,
}

/// The plugins that are on.
pub struct Chain(Vec<&'static Plugin>);

impl Chain {
    pub fn without(disabled: &[String]) -> Result<Chain, UnknownPlugin> {
        for name in disabled {
            if !PLUGINS.iter().any(|plugin| plugin.name == name) {
                let known: Vec<&str> = PLUGINS.iter().map(|plugin| plugin.name).collect();
                return Err(UnknownPlugin { name: name.clone(), known: known.join(", ") });
            }
        }
        let on = PLUGINS.iter().filter(|plugin| !disabled.iter().any(|name| name == plugin.name));
        Ok(Chain(on.collect()))
    }

    /// Whether anything was changed.
    pub fn mutate(&self, request: &Request, object: &mut Value) -> Result<bool, Denied> {
        let mut changed = false;
        for plugin in &self.0 {
            if let Some(mutate) = plugin.mutate {
                changed |= mutate(request, object)?;
            }
        }
        Ok(changed)
    }

    pub fn validate(&self, request: &Request, object: Option<&Value>) -> Result<(), Denied> {
        for plugin in &self.0 {
            if let Some(validate) = plugin.validate {
                validate(request, object)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_named_and_may_be_left_out() {
        assert_eq!(Chain::without(&[]).unwrap().0.len(), PLUGINS.len());
        let chain = Chain::without(&["ServiceAccount".into()]).unwrap();
        assert!(chain.0.iter().all(|plugin| plugin.name != "ServiceAccount"));
        let error = Chain::without(&["Nothing".into()]).err().unwrap().to_string();
        assert!(error.starts_with("unknown admission plugin \"Nothing\""), "{error}");
    }
}
