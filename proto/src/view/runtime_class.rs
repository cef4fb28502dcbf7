//! RuntimeClass: by which of a runtime's handlers pods are run.

use crate::meta::ObjectMeta;
use crate::view::{object, views};

views! {
    pub struct RuntimeClass {
        pub metadata: ObjectMeta,
        pub handler: String,
    }
}

object!(RuntimeClass, RUNTIME_CLASS);
