//! What cells of Tables have in common, as kubectl prints them.

use std::time::Duration;

use proto::selector::LabelSelector;
use proto::time::Time;
use serde::Deserialize;
use serde_json::Value;

use super::Column;
use super::lens::Lens;

pub const fn column(
    name: &'static str,
    kind: &'static str,
    priority: i32,
    description: &'static str,
) -> Column {
    Column { name, kind, format: "", description, priority }
}

pub const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace. Is required when creating resources, \
                  although some resources may allow a client to request the generation of an \
                  appropriate name automatically. Name is primarily intended for creation \
                  idempotence and configuration definition. Cannot be updated. More info: \
                  https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
    priority: 0,
};

pub const AGE: Column = column(
    "Age",
    "string",
    0,
    "CreationTimestamp is a timestamp representing the server time when this object was created. \
     It is not guaranteed to be set in happens-before order across separate operations. Clients \
     may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the \
     system. Read-only. Null for lists. More info: \
     https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
);

/// Beside the name the only column of kinds that nobody gave a table.
pub const CREATED: Column = Column { name: "Created At", kind: "date", ..AGE };

/// The cell of [`CREATED`].
pub fn created(object: &Value) -> Value {
    object.at("metadata").at("creationTimestamp").clone()
}

/// The cell of [`NAME`].
pub fn name(object: &Value) -> Value {
    object.at("metadata").text("name").into()
}

/// The cell of [`AGE`]: `5s`, `2m30s`, `3h`, `5d2h`.
pub fn age(object: &Value, now: Time) -> Value {
    since(object.at("metadata").text("creationTimestamp"), now).into()
}

/// How long ago a timestamp was; `<unknown>` where it is missing.
pub fn since(timestamp: &str, now: Time) -> String {
    match timestamp.parse::<Time>() {
        Ok(time) if time > now.plus(Duration::from_secs(1)) => "<invalid>".into(),
        Ok(time) => human(now.since(time)),
        Err(_) => "<unknown>".into(),
    }
}

/// A duration with two units at most, as `kubectl get` shows ages.
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => two(days, "d", hours % 24, "h"),
        () if days < 365 * 2 => format!("{days}d"),
        () if days < 365 * 8 => two(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

/// `a=b,c=d`, or `<none>`.
pub fn labels(labels: &Value) -> String {
    let pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",") }
}

/// Values joined with commas, as they are.
pub fn list<'a>(values: impl Iterator<Item = &'a str>) -> String {
    values.collect::<Vec<_>>().join(",")
}

/// The text, or `<none>`.
pub fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

/// A label selector as queries write it: `app=web,tier in (a,b),!canary`, or `<none>`.
pub fn selector(selector: &Value) -> String {
    if selector.is_null() {
        return "<none>".into();
    }
    let parsed = LabelSelector::deserialize(selector).ok().map(|selector| selector.selector());
    match parsed {
        Some(Ok(selector)) => or_none(&selector.to_string()).to_string(),
        Some(Err(_)) | None => "<error>".into(),
    }
}

fn two(large: u64, unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit}{small}{small_unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_as_kubectl_shows_them() {
        let cases = [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 300, "3h5m"),
            (8 * 3600 + 300, "8h"),
            (50 * 3600, "2d2h"),
            (10 * 86400, "10d"),
            (800 * 86400, "2y70d"),
            (365 * 9 * 86400, "9y"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(human(Duration::from_secs(seconds)), expected);
        }
        let now = Time::from_unix(100);
        assert_eq!(since("", now), "<unknown>");
        assert_eq!(since("1970-01-01T00:01:35Z", now), "5s");
        assert_eq!(since("1970-01-01T00:02:35Z", now), "<invalid>");
    }
}
