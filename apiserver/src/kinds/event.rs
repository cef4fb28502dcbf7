//! Events: one storage, in the shape of the core group, with two shapes on the wire.

use proto::kind::EVENT;
use proto::status::FieldError;
use proto::time::Time;
use serde_json::{Map, Value};

use super::check::Errors;
use super::lens::Lens;
use super::metadata::{immutable, sentences};
use super::path::Path;
use super::table::{self, column};
use super::{Column, Conversion, Field, Strategy, name};

/// v1 Event.
pub struct CoreEvent;

/// events.k8s.io/v1 Event.
pub struct NewEvent;

impl Strategy for CoreEvent {
    fn create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        validate(object, "reportingComponent")
    }

    fn fields(&self) -> &'static [Field] {
        CORE_FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        cells(object, now)
    }
}

impl Strategy for NewEvent {
    fn create_on_update(&self) -> bool {
        true
    }

    fn conversion(&self) -> Option<Conversion> {
        Some(Conversion { stored: &EVENT, to_storage, from_storage })
    }

    /// Stricter than the old shape: nothing deprecated may be set.
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = validate(object, "reportingController");
        if object.vacant("eventTime") {
            errors.push(FieldError::required("eventTime", ""));
        }
        let kind = object.text("type");
        if !matches!(kind, "Normal" | "Warning") {
            let detail = format!("has invalid value: {kind}");
            errors.push(FieldError::invalid("type", "", detail));
        }
        for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
            if !object.vacant(field) && object.int(field) != Some(0) {
                errors.push(FieldError::invalid(field, "", "needs to be unset"));
            }
        }
        series(object, &mut errors);
        errors
    }

    /// Only the series goes on.
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for field in FIXED {
            immutable(&Path::root(field), new.at(field), old.at(field), &mut errors);
        }
        series(new, &mut errors);
        errors
    }

    fn fields(&self) -> &'static [Field] {
        NEW_FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        cells(object, now)
    }
}

/// The names of the same fields in events.k8s.io/v1 and in v1.
const NAMES: &[(&str, &str)] = &[
    ("deprecatedCount", "count"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedSource", "source"),
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
];

/// From events.k8s.io/v1 to v1.
fn to_storage(event: Value) -> Value {
    renamed(event, "v1", |field| NAMES.iter().find(|(new, _)| *new == field).map(|(_, core)| *core))
}

/// From v1 to events.k8s.io/v1.
fn from_storage(event: Value) -> Value {
    renamed(event, "events.k8s.io/v1", |field| {
        NAMES.iter().find(|(_, core)| *core == field).map(|(new, _)| *new)
    })
}

fn renamed(event: Value, api_version: &str, name: impl Fn(&str) -> Option<&'static str>) -> Value {
    let Value::Object(fields) = event else { return event };
    let rename = |(field, value): (String, Value)| match name(&field) {
        Some(other) => (other.to_string(), value),
        None => (field, value),
    };
    let mut fields: Map<String, Value> = fields.into_iter().map(rename).collect();
    if fields.contains_key("apiVersion") {
        fields.insert("apiVersion".into(), api_version.into());
    }
    Value::Object(fields)
}

/// The rules of both shapes. Events without eventTime are of the old sort, and trusted more.
fn validate(event: &Value, controller_field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let namespace = event.at("metadata").text("namespace");
    let involved = event.at("involvedObject").text("namespace");
    let mismatch = if event.vacant("eventTime") {
        match involved {
            "" => !matches!(namespace, "" | "default"),
            involved => involved != namespace,
        }
    } else {
        involved.is_empty() && !matches!(namespace, "default" | "kube-system")
    };
    if mismatch {
        let detail = "does not match event.namespace";
        errors.push(FieldError::invalid("involvedObject.namespace", involved, detail));
    }
    if !event.vacant("eventTime") {
        let controller = event.text("reportingComponent");
        if controller.is_empty() {
            errors.push(FieldError::required(controller_field, ""));
        }
        let path = Path::root(controller_field);
        errors.extend(sentences(&path, controller, name::qualified(controller)));
        for (field, longest) in [("reportingInstance", 128), ("action", 128), ("reason", 128)] {
            let text = event.text(field);
            if text.is_empty() {
                errors.push(FieldError::required(field, ""));
            }
            too_long(field, text, longest, &mut errors);
        }
        too_long("message", event.text("message"), 1024, &mut errors);
    }
    errors
}

fn too_long(field: &str, text: &str, longest: usize, errors: &mut Errors) {
    if text.len() > longest {
        let detail = format!("can have at most {longest} characters");
        errors.push(FieldError::invalid(field, "", detail));
    }
}

fn series(event: &Value, errors: &mut Errors) {
    let series = event.at("series");
    if series.is_null() {
        return;
    }
    let path = Path::root("series");
    if series.int("count").unwrap_or(0) < 2 {
        errors.push(FieldError::invalid(path.field("count"), "", "should be at least 2"));
    }
    if series.vacant("lastObservedTime") {
        errors.push(FieldError::required(path.field("lastObservedTime"), ""));
    }
}

const FIXED: &[&str] = &[
    "involvedObject",
    "reason",
    "message",
    "source",
    "firstTimestamp",
    "lastTimestamp",
    "count",
    "type",
    "eventTime",
    "action",
    "related",
    "reportingComponent",
    "reportingInstance",
];

const CORE_FIELDS: &[Field] = &[
    Field::text("involvedObject.kind"),
    Field::text("involvedObject.namespace"),
    Field::text("involvedObject.name"),
    Field::text("involvedObject.uid"),
    Field::text("involvedObject.apiVersion"),
    Field::text("involvedObject.resourceVersion"),
    Field::text("involvedObject.fieldPath"),
    Field::text("reason"),
    Field::text("reportingComponent"),
    Field { label: "source", path: "source.component|reportingComponent", absent: "" },
    Field::text("type"),
];

const NEW_FIELDS: &[Field] = &[
    Field { label: "regarding.kind", path: "involvedObject.kind", absent: "" },
    Field { label: "regarding.namespace", path: "involvedObject.namespace", absent: "" },
    Field { label: "regarding.name", path: "involvedObject.name", absent: "" },
    Field { label: "regarding.uid", path: "involvedObject.uid", absent: "" },
    Field { label: "regarding.apiVersion", path: "involvedObject.apiVersion", absent: "" },
    Field {
        label: "regarding.resourceVersion",
        path: "involvedObject.resourceVersion",
        absent: "",
    },
    Field { label: "regarding.fieldPath", path: "involvedObject.fieldPath", absent: "" },
    Field::text("reason"),
    Field { label: "reportingController", path: "reportingComponent", absent: "" },
    Field::text("type"),
];

const COLUMNS: &[Column] = &[
    column("Last Seen", "string", 0, "Time when this event was last observed"),
    column(
        "Type",
        "string",
        0,
        "Type of this event (Normal, Warning), new types could be added in the future",
    ),
    column(
        "Reason",
        "string",
        0,
        "This should be a short, machine understandable string that gives the reason for the \
         transition into the object's current status.",
    ),
    column("Object", "string", 0, "The object that this event is about."),
    column("Subobject", "string", 1, "The part of the object that this event is about."),
    column("Source", "string", 1, "The component reporting this event."),
    column("Message", "string", 0, "A human-readable description of the status of this operation."),
    column(
        "First Seen",
        "string",
        1,
        "The time at which the event was first recorded. (Time of server receipt is in TypeMeta.)",
    ),
    column("Count", "string", 1, "The number of times this event has occurred."),
    Column { priority: 1, ..table::NAME },
];

fn cells(event: &Value, now: Time) -> Vec<Value> {
    let either = |first: &'static str, second: &'static str| match event.text(first) {
        "" => table::since(event.text(second), now),
        time => table::since(time, now),
    };
    let first = either("firstTimestamp", "eventTime");
    let mut last = match event.text("lastTimestamp") {
        "" => first.clone(),
        time => table::since(time, now),
    };
    let mut count = event.int("count").unwrap_or(0).max(1);
    let series = event.at("series");
    if !series.is_null() {
        last = table::since(series.text("lastObservedTime"), now);
        count = series.int("count").unwrap_or(0);
    }
    let involved = event.at("involvedObject");
    let kind = involved.text("kind").to_lowercase();
    let target = match involved.text("name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        last.into(),
        event.text("type").into(),
        event.text("reason").into(),
        target.into(),
        involved.text("fieldPath").into(),
        source(event).into(),
        event.text("message").trim().into(),
        first.into(),
        count.into(),
        table::name(event),
    ]
}

/// `kubelet, node-1`.
fn source(event: &Value) -> String {
    let or = |first: &'_ str, second: &'_ str| {
        if first.is_empty() { second.to_string() } else { first.to_string() }
    };
    let source = event.at("source");
    let component = or(source.text("component"), event.text("reportingComponent"));
    let host = or(source.text("host"), event.text("reportingInstance"));
    if host.is_empty() { component } else { format!("{component}, {host}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_storage_two_shapes() {
        let new = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
            "eventTime": "2024-01-01T00:00:00.000000Z", "regarding": {"kind": "Pod", "name": "p"},
            "note": "hello", "reportingController": "c", "deprecatedCount": 2, "action": "Do",
        });
        let stored = to_storage(new.clone());
        assert_eq!(stored["apiVersion"], "v1");
        assert_eq!(stored["message"], "hello");
        assert_eq!(stored["involvedObject"]["name"], "p");
        assert_eq!(from_storage(stored), new);
    }

    #[test]
    fn events_as_kubectl_shows_them() {
        let event = json!({
            "metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "message": " ok\n",
            "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"},
            "source": {"component": "kubelet", "host": "n"},
            "firstTimestamp": "1970-01-01T00:00:00Z", "lastTimestamp": "1970-01-01T00:01:35Z",
            "count": 3,
        });
        let shown = cells(&event, Time::from_unix(100));
        let expected = json!([
            "5s",
            "Normal",
            "Started",
            "pod/p",
            "spec.containers{c}",
            "kubelet, n",
            "ok",
            "100s",
            3,
            "e",
        ]);
        assert_eq!(Value::Array(shown), expected);
    }

    #[test]
    fn where_an_event_may_be() {
        let case = |namespace: &str, involved: &str| {
            let event = json!({
                "metadata": {"namespace": namespace}, "involvedObject": {"namespace": involved},
            });
            CoreEvent.validate(&event).len()
        };
        assert_eq!(
            (case("default", ""), case("a", "a"), case("a", "b"), case("a", "")),
            (0, 0, 1, 1)
        );
        let strict = NewEvent.validate(&json!({"metadata": {"namespace": "default"}, "count": 1}));
        let sentences: Vec<String> = strict.iter().map(FieldError::to_string).collect();
        assert_eq!(
            sentences,
            [
                "eventTime: Required value",
                "type: Invalid value: \"\": has invalid value: ",
                "count: Invalid value: \"\": needs to be unset",
            ]
        );
    }
}
