//! Event (core/v1).

use crate::meta::ObjectMeta;
use crate::time::{MicroTime, Time};
use crate::view::{ObjectReference, object, views};

views! {
    pub struct Event {
        pub metadata: ObjectMeta,
        pub involved_object: ObjectReference,
        pub reason: String,
        pub message: String,
        pub source: EventSource,
        pub first_timestamp: Option<Time>,
        pub last_timestamp: Option<Time>,
        pub count: i32,
        /// `Normal` or `Warning`.
        #[serde(rename = "type")]
        pub kind: String,
        pub event_time: Option<MicroTime>,
        pub series: Option<EventSeries>,
        pub action: String,
        pub reporting_component: String,
        pub reporting_instance: String,
    }

    pub struct EventSource {
        pub component: String,
        pub host: String,
    }

    pub struct EventSeries {
        pub count: i32,
        pub last_observed_time: Option<MicroTime>,
    }
}

object!(Event, EVENT);
