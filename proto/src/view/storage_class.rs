//! StorageClass.

use crate::meta::{Labels, ObjectMeta};
use crate::time::Time;
use crate::view::{object, views};

views! {
    pub struct StorageClass {
        pub metadata: ObjectMeta,
        pub provisioner: String,
        pub parameters: Labels,
        /// `Delete` or `Retain`.
        pub reclaim_policy: String,
        pub mount_options: Vec<String>,
        pub allow_volume_expansion: bool,
        /// `Immediate` or `WaitForFirstConsumer`.
        pub volume_binding_mode: String,
        pub allowed_topologies: Vec<TopologyTerm>,
    }

    /// All of its expressions must hold.
    pub struct TopologyTerm {
        pub match_label_expressions: Vec<TopologyExpression>,
    }

    pub struct TopologyExpression {
        pub key: String,
        pub values: Vec<String>,
    }
}

object!(StorageClass, STORAGE_CLASS);

const DEFAULT: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];

impl StorageClass {
    /// Whether its claims wait for a pod that uses them.
    pub fn waits(&self) -> bool {
        self.volume_binding_mode == "WaitForFirstConsumer"
    }

    pub fn is_default(&self) -> bool {
        DEFAULT.iter().any(|key| self.metadata.annotations.get(*key).is_some_and(|it| it == "true"))
    }

    /// Whether volumes of the class may be made for a node with these labels.
    pub fn admits(&self, labels: &Labels) -> bool {
        let holds = |it: &TopologyExpression| {
            labels.get(&it.key).is_some_and(|value| it.values.contains(value))
        };
        self.allowed_topologies.is_empty()
            || self
                .allowed_topologies
                .iter()
                .any(|term| term.match_label_expressions.iter().all(holds))
    }

    /// The newest of those that are marked as the default; of equals the first by name.
    pub fn default_of<'a>(
        classes: impl Iterator<Item = &'a StorageClass>,
    ) -> Option<&'a StorageClass> {
        let age = |class: &StorageClass| class.metadata.creation_timestamp.map(|at: Time| at.0);
        classes.filter(|class| class.is_default()).reduce(|best, class| {
            let name = |class: &'a StorageClass| class.metadata.name.as_str();
            let better =
                age(class) > age(best) || age(class) == age(best) && name(class) < name(best);
            if better { class } else { best }
        })
    }
}
