//! ComponentStatuses: how the control plane is. They are not stored but made when asked for.

use proto::time::Time;
use serde_json::Value;

use super::lens::Lens;
use super::table::{self, column};
use super::{Column, Strategy};

pub struct ComponentStatus;

impl Strategy for ComponentStatus {
    fn columns(&self) -> &'static [Column] {
        const {
            &[
                table::NAME,
                column("Status", "string", 0, "Status of the component conditions"),
                column("Message", "string", 0, "Message of the component conditions"),
                column("Error", "string", 0, "Error of the component conditions"),
            ]
        }
    }

    fn cells(&self, object: &Value, _now: Time) -> Vec<Value> {
        let mut conditions = object.items("conditions").iter();
        let healthy = conditions.find(|condition| condition.text("type") == "Healthy");
        let said = |field: &str| healthy.map_or("", |condition| condition.text(field));
        let status = match healthy {
            None => "Unknown",
            Some(condition) if condition.text("status") == "True" => "Healthy",
            Some(_) => "Unhealthy",
        };
        vec![table::name(object), status.into(), said("message").into(), said("error").into()]
    }
}
