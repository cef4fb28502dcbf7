//! Every namespace has a ServiceAccount `default`, for the pods that name none.
//! <https://kubernetes.io/docs/concepts/security/service-accounts/#default-service-accounts>

use client::{Entry, Informers, Key};
use proto::kind::SERVICE_ACCOUNT;
use proto::time::Time;
use proto::view::namespace::Namespace;
use proto::view::service_account::ServiceAccount;
use serde_json::json;

use crate::plan::Plan;
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Looks after the default ServiceAccounts.
pub struct ServiceAccounts;

const DEFAULT: &str = "default";
const SELECTOR: &str = "metadata.name=default";

/// Waits for the account without which no pod can be made in the namespace `default`.
pub async fn made(informers: &Informers) {
    let mut changes = informers.filtered::<ServiceAccount>(SELECTOR).changes();
    loop {
        let change = changes.next().await;
        if change.new.is_some() && &*change.key.namespace == DEFAULT {
            return;
        }
    }
}

impl Controller for ServiceAccounts {
    type Object = Namespace;
    const NAME: &'static str = "serviceaccount-controller";

    fn watches(watches: &mut Watches<Namespace>) {
        watches.filtered::<ServiceAccount>(SELECTOR, |change, _| {
            vec![Key::new("", &change.key.namespace)]
        });
    }

    fn plan(&self, namespace: &Entry<Namespace>, view: &View, _: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let name = &namespace.metadata.name;
        if is_living(namespace) && view.get::<ServiceAccount>(name, DEFAULT).is_none() {
            let object = json!({
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": { "name": DEFAULT, "namespace": name },
            });
            plan.create(&SERVICE_ACCOUNT, name, object);
        }
        Ok(plan)
    }
}

/// Whether anything may still be created in the namespace.
pub fn is_living(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none() && namespace.status.phase != "Terminating"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn plans() {
        let account = json!({"metadata": {"name": "default", "namespace": "a"}});
        for (phase, accounts, expected) in [
            ("Active", vec![], 1),
            ("Active", vec![account.clone()], 0),
            ("Terminating", vec![], 0),
        ] {
            let namespace: Value = json!({"metadata": {"name": "a"}, "status": {"phase": phase}});
            let namespace = Entry::decode(namespace.to_string().into()).unwrap();
            let view = View::default().with::<ServiceAccount>(&accounts);
            let plan = ServiceAccounts.plan(&namespace, &view, Time::from_unix(0)).unwrap();
            assert_eq!(plan.steps.len(), expected, "{phase} {accounts:?}");
        }
    }
}
