//! ReplicationController: the older ReplicaSet.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller/>

use client::Entry;
use proto::selector::LabelSelector;
use proto::time::Time;
use proto::view::Template;
use proto::view::pod::Pod;
use proto::view::replica_set::ReplicaSetStatus;
use proto::view::replication_controller::ReplicationController;

use crate::plan::Plan;
use crate::replica_set::{self, Replicated};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Looks after ReplicationControllers.
pub struct ReplicationControllers;

impl Controller for ReplicationControllers {
    type Object = ReplicationController;
    const NAME: &'static str = "replicationcontroller-controller";

    fn watches(watches: &mut Watches<ReplicationController>) {
        watches.owns::<Pod>(|set| Some(&set.spec.selector.0), replica_set::pod_matters);
    }

    fn plan(
        &self,
        controller: &Entry<ReplicationController>,
        view: &View,
        now: Time,
    ) -> Result<Plan, PlanError> {
        replica_set::plan(controller, view, now)
    }
}

impl Replicated for ReplicationController {
    const TELLS_TERMINATING: bool = false;

    fn wanted(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.min_ready_seconds
    }

    fn selector(&self) -> &LabelSelector {
        &self.spec.selector.0
    }

    fn template(&self) -> &Template {
        &self.spec.template
    }

    fn status(&self) -> &ReplicaSetStatus {
        &self.status
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::Step;

    #[test]
    fn its_selector_is_a_map_and_its_status_knows_no_terminating_pods() {
        let object = json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "u", "generation": 2},
            "spec": {"replicas": 2, "selector": {"app": "web"},
                "template": {"metadata": {"labels": {"app": "web", "tier": "one"}}, "spec": {}}},
            "status": {"replicas": 0},
        });
        let controller = Entry::decode(object.to_string().into()).unwrap();
        let pod = |name: &str, labels: serde_json::Value| {
            json!({
                "metadata": {"name": name, "namespace": "a", "uid": name, "labels": labels},
                "status": {"phase": "Running"},
            })
        };
        let pods = [pod("orphan", json!({"app": "web"})), pod("stranger", json!({"app": "db"}))];
        let view = View::default().with::<Pod>(&pods).with::<ReplicationController>(&[]);
        let plan = ReplicationControllers.plan(&controller, &view, Time::from_unix(9)).unwrap();
        let [Step::Adopt { patch, .. }, Step::Patch(status), Step::Create(create)] =
            &plan.steps[..]
        else {
            panic!("{plan:?}");
        };
        let owner = &patch.body["metadata"]["ownerReferences"][0];
        assert_eq!(
            (&owner["kind"], &owner["apiVersion"]),
            (&json!("ReplicationController"), &json!("v1"))
        );
        assert_eq!(status.body["status"], json!({"replicas": 1, "observedGeneration": 2}));
        assert_eq!(create.count, 1);
        assert_eq!(create.object["metadata"]["labels"]["tier"], "one");
    }
}
