//! ServiceAccounts.

use proto::time::Time;
use serde_json::Value;

use super::lens::Lens;
use super::table::{self, column};
use super::{Column, Strategy};

pub struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn unconditional_update(&self) -> bool {
        false
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
