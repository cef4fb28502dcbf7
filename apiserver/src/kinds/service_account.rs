//! ServiceAccounts.

use proto::time::Time;
use serde_json::Value;

use super::lens::Lens;
use super::table::{self, column};
use super::{Column, Strategy};

/// Its pods may use no Secrets but those that it lists.
pub const ENFORCE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";

pub struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let marked =
            |account: &Value| account.at("metadata").at("annotations").has(ENFORCE_SECRETS);
        if !marked(new) || old.is_some_and(marked) {
            return Vec::new();
        }
        vec![format!(
            "metadata.annotations[{ENFORCE_SECRETS}]: deprecated in v1.32+; prefer separate \
             namespaces to isolate access to mounted secrets"
        )]
    }

    fn columns(&self) -> &'static [Column] {
        const SECRETS: Column = column(
            "Secrets",
            "string",
            0,
            "Secrets is a list of the secrets in the same namespace that pods running using this \
             ServiceAccount are allowed to use. More info: \
             https://kubernetes.io/docs/concepts/configuration/secret",
        );
        &[table::NAME, SECRETS, table::AGE]
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let count = object.items("secrets").len();
        vec![table::name(object), count.into(), table::age(object, now)]
    }
}
