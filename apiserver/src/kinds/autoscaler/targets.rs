//! The cell TARGETS: what is, and what should be, as `cpu: 50%/80%`.

use serde_json::Value;

use super::metric::SOURCES;
use crate::kinds::lens::Lens;

/// More metrics than this are only counted.
const SHOWN: usize = 2;
const UNKNOWN: &str = "<unknown>";

/// Metrics and their current values, which are in the same order.
pub fn shown(metrics: &[Value], current: &[Value]) -> String {
    if metrics.is_empty() {
        return "<none>".into();
    }
    let all = metrics
        .iter()
        .enumerate()
        .map(|(index, metric)| one(metric, current.get(index).unwrap_or(&Value::Null)));
    let list = all.take(SHOWN).collect::<Vec<_>>().join(", ");
    match metrics.len().saturating_sub(SHOWN) {
        0 => list,
        more => format!("{list} + {more} more..."),
    }
}

fn one(metric: &Value, status: &Value) -> String {
    let kind = metric.text("type");
    let Some((_, field)) = SOURCES.iter().find(|(known, _)| *known == kind) else {
        return "<unknown type>".into();
    };
    let target = metric.at(field).at("target");
    let current = status.at(field).at("current");
    let of = |field: &str| {
        let known = current.at(field).as_str().unwrap_or(UNKNOWN);
        format!("{known}/{}", target.text(field))
    };
    match *field {
        "external" | "object" if target.has("averageValue") => of("averageValue") + " (avg)",
        "external" | "object" => of("value"),
        "pods" => of("averageValue"),
        field => {
            let name = metric.at(field).text("name");
            if target.has("averageValue") {
                return format!("{name}: {}", of("averageValue"));
            }
            let percent = |value: &Value| value.as_i64().map(|percent| format!("{percent}%"));
            let known = percent(current.at("averageUtilization")).unwrap_or(UNKNOWN.into());
            let wanted = percent(target.at("averageUtilization")).unwrap_or("<auto>".into());
            format!("{name}: {known}/{wanted}")
        }
    }
}
