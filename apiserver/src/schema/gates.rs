//! Fields whose feature gate is off: dropped on the way in, as Kubernetes drops them, but not in
//! silence. An object that has such a field already may keep and change it.

use std::collections::HashMap;
use std::sync::LazyLock;

use proto::kind::Row;
use serde_json::Value;

use super::{Shape, Type, table};

/// Where in a kind a gated field is: the way down from the object.
struct Place {
    steps: Vec<Step>,
    gate: String,
    /// The struct that held it goes, too, when nothing else is in it.
    hollow: bool,
}

enum Step {
    Field(String),
    /// Every item of a list, every value of a map.
    Each,
}

/// Drops the fields of a new version of an object whose gates are off and that the old one does
/// not use. A sentence for each.
pub fn drop_disabled(row: &Row, new: &mut Value, old: Option<&Value>) -> Vec<String> {
    let mut said = Vec::new();
    for place in places(row) {
        if !old.is_some_and(|old| is_used(old, &place.steps)) {
            drop(new, &place.steps, "", place, &mut said);
        }
    }
    said
}

fn places(row: &Row) -> &'static [Place] {
    static ALL: LazyLock<HashMap<[Box<str>; 3], Vec<Place>>> = LazyLock::new(|| {
        let kinds = table::built_in().kinds().iter();
        let of_kind = kinds.filter_map(|ty| {
            let mut places = Vec::new();
            search(ty, &mut Vec::new(), &mut Vec::new(), &mut places);
            Some((ty.kind.clone()?, places))
        });
        of_kind.filter(|(_, places)| !places.is_empty()).collect()
    });
    let key = [&row.group, &row.version, &row.kind].map(|part| Box::from(&**part));
    ALL.get(&key).map_or(&[], Vec::as_slice)
}

/// Finds the gated fields below a type; `above` are the types on the way, of which none is entered
/// twice: no gated field is in a type that holds itself.
fn search<'a>(
    ty: &'a Type,
    above: &mut Vec<&'a str>,
    way: &mut Vec<Step>,
    places: &mut Vec<Place>,
) {
    if above.contains(&&*ty.name) {
        return;
    }
    above.push(&ty.name);
    for field in &ty.fields {
        way.push(Step::Field(field.name.to_string()));
        if !field.gate.is_empty() {
            let gate = field.gate.trim_end_matches('?').to_string();
            let hollow = field.gate.ends_with('?');
            let steps = way.iter().map(Step::copy).collect();
            places.push(Place { steps, gate, hollow });
        }
        let (each, element) = match &field.shape {
            Shape::List(of) | Shape::Map(of) => (true, &**of),
            shape => (false, shape),
        };
        if let Shape::Struct(inner) = element {
            if each {
                way.push(Step::Each);
            }
            search(inner, above, way, places);
            if each {
                way.pop();
            }
        }
        way.pop();
    }
    above.pop();
}

fn is_used(value: &Value, steps: &[Step]) -> bool {
    match (steps, value) {
        ([], value) => !value.is_null(),
        ([Step::Field(name), rest @ ..], value) => {
            value.get(name).is_some_and(|value| is_used(value, rest))
        }
        ([Step::Each, rest @ ..], Value::Array(items)) => {
            items.iter().any(|item| is_used(item, rest))
        }
        ([Step::Each, rest @ ..], Value::Object(map)) => {
            map.values().any(|item| is_used(item, rest))
        }
        _ => false,
    }
}

/// Whether the value is to go with what was dropped from it.
fn drop(
    value: &mut Value,
    steps: &[Step],
    path: &str,
    place: &Place,
    said: &mut Vec<String>,
) -> bool {
    match (steps, value) {
        ([Step::Field(name)], Value::Object(map)) => {
            if map.remove(name).is_none() {
                return false;
            }
            said.push(format!("{path}.{name}: not stored: feature gate {} is off", place.gate));
            place.hollow && map.is_empty()
        }
        ([Step::Field(name), rest @ ..], Value::Object(map)) => {
            let Some(inner) = map.get_mut(name) else { return false };
            let dot = if path.is_empty() { "" } else { "." };
            if drop(inner, rest, &format!("{path}{dot}{name}"), place, said) {
                map.remove(name);
            }
            false
        }
        ([Step::Each, rest @ ..], Value::Array(items)) => {
            for (index, item) in items.iter_mut().enumerate() {
                drop(item, rest, &format!("{path}[{index}]"), place, said);
            }
            false
        }
        ([Step::Each, rest @ ..], Value::Object(map)) => {
            for (key, item) in map.iter_mut() {
                drop(item, rest, &format!("{path}[{key}]"), place, said);
            }
            false
        }
        _ => false,
    }
}

impl Step {
    fn copy(&self) -> Step {
        match self {
            Step::Field(name) => Step::Field(name.clone()),
            Step::Each => Step::Each,
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::kind::{CRON_JOB, DEPLOYMENT, POD, SERVICE};
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_dropped_and_what_stays() {
        let projected = |source: Value| json!({"volumes": [{"projected": {"sources": [source]}}]});
        let cases = [
            (
                json!({"schedulingGroup": {"podGroupName": "g"}, "hostname": "h"}),
                json!({"hostname": "h"}),
                "spec.schedulingGroup: not stored: feature gate GenericWorkload is off",
            ),
            (
                json!({"containers": [{}, {"lifecycle": {"stopSignal": "SIGINT"}}]}),
                json!({"containers": [{}, {}]}),
                "spec.containers[1].lifecycle.stopSignal: not stored: feature gate \
                 ContainerStopSignals is off",
            ),
            (
                json!({"initContainers": [{"lifecycle": {"stopSignal": "SIGINT", "preStop": {}}}]}),
                json!({"initContainers": [{"lifecycle": {"preStop": {}}}]}),
                "spec.initContainers[0].lifecycle.stopSignal: not stored: feature gate \
                 ContainerStopSignals is off",
            ),
            (
                projected(json!({"podCertificate": {"keyType": "ED25519"}})),
                projected(json!({})),
                "spec.volumes[0].projected.sources[0].podCertificate: not stored: feature gate \
                 PodCertificateRequest is off",
            ),
        ];
        for (spec, kept, expected) in cases {
            let mut pod = json!({ "spec": spec });
            let old = pod.clone();
            assert_eq!(drop_disabled(&POD, &mut pod, None), [expected]);
            assert_eq!(pod["spec"], kept);
            pod = old.clone();
            assert_eq!(drop_disabled(&POD, &mut pod, Some(&old)), Vec::<String>::new());
            assert_eq!(pod, old, "what an object has it may keep");
            let mut workload = json!({"spec": {"template": old}});
            let said = drop_disabled(&DEPLOYMENT, &mut workload, Some(&json!({})));
            assert_eq!(said, [format!("spec.template.{expected}")]);
            let mut workload = json!({"spec": {"jobTemplate": {"spec": {"template": old}}}});
            let said = drop_disabled(&CRON_JOB, &mut workload, None);
            assert_eq!(said, [format!("spec.jobTemplate.spec.template.{expected}")]);
        }
        let mut service = json!({"spec": {"schedulingGroup": {}}});
        assert_eq!(drop_disabled(&SERVICE, &mut service, None), Vec::<String>::new());
    }
}
