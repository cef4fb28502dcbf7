//! Every namespace has a ConfigMap `kube-root-ca.crt` with the authority that vouches for the
//! API server, for pods that speak to it.

use client::{Entry, Key};
use proto::kind::CONFIG_MAP;
use proto::time::Time;
use proto::view::config_map::ConfigMap;
use proto::view::namespace::Namespace;
use serde_json::json;

use crate::plan::Plan;
use crate::run::{Controller, PlanError, Watches};
use crate::service_account::is_living;
use crate::view::View;

/// Publishes the authority.
pub struct RootCa {
    /// PEM.
    pub certificates: String,
}

const NAME: &str = "kube-root-ca.crt";
const FIELD: &str = "ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver \
     when using internal endpoints such as the internal service IP or kubernetes.default.svc. No \
     other usage is guaranteed across distributions of Kubernetes clusters.";

impl Controller for RootCa {
    type Object = Namespace;
    const NAME: &'static str = "root-ca-certificate-publisher-controller";

    fn watches(watches: &mut Watches<Namespace>) {
        watches.filtered::<ConfigMap>("metadata.name=kube-root-ca.crt", |change, _| {
            vec![Key::new("", &change.key.namespace)]
        });
    }

    fn plan(&self, namespace: &Entry<Namespace>, view: &View, _: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let name = &namespace.metadata.name;
        if !is_living(namespace) {
            return Ok(plan);
        }
        let data = json!({ FIELD: self.certificates });
        match view.get::<ConfigMap>(name, NAME) {
            None => plan.create(
                &CONFIG_MAP,
                name,
                json!({
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {
                        "name": NAME,
                        "namespace": name,
                        "annotations": { "kubernetes.io/description": DESCRIPTION },
                    },
                    "data": data,
                }),
            ),
            Some(map) if json!(map.data) != data => {
                let others = map.data.keys().filter(|key| *key != FIELD);
                let mut data = data;
                for key in others {
                    data[key] = serde_json::Value::Null;
                }
                plan.patch(&CONFIG_MAP, &map.metadata, json!({ "data": data }));
            }
            Some(_) => {}
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Step;

    #[test]
    fn created_repaired_and_left_alone() {
        let controller = RootCa { certificates: "pem".into() };
        let map = |data| json!({"metadata": {"name": NAME, "namespace": "a"}, "data": data});
        let namespace = json!({"metadata": {"name": "a"}, "status": {"phase": "Active"}});
        let namespace = Entry::decode(namespace.to_string().into()).unwrap();
        let plan = |maps: &[serde_json::Value]| {
            let view = View::default().with::<ConfigMap>(maps);
            controller.plan(&namespace, &view, Time::from_unix(0)).unwrap().steps
        };
        assert!(matches!(plan(&[]).as_slice(), [Step::Create(_)]));
        assert!(plan(&[map(json!({FIELD: "pem"}))]).is_empty());
        let repair = plan(&[map(json!({FIELD: "other", "more": "x"}))]);
        let [Step::Patch(patch)] = repair.as_slice() else { panic!("{repair:?}") };
        assert_eq!(patch.body["data"], json!({FIELD: "pem", "more": null}));
    }
}
