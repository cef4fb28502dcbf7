//! ControllerRevision. Its data is read from the object's bytes where it matters.

use crate::meta::ObjectMeta;
use crate::view::{object, views};

views! {
    pub struct ControllerRevision {
        pub metadata: ObjectMeta,
        pub revision: i64,
    }
}

object!(ControllerRevision, CONTROLLER_REVISION);
