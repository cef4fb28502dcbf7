//! What a node says that it used in all, and from two such samples what it uses. Pure.

use std::{collections::HashMap, time::Duration};

use proto::{exposition::Parsed, quantity::Quantity, time::Time};

/// Namespace, pod, container.
type Key = (String, String, String);

/// One answer of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    node: Option<Point>,
    containers: HashMap<Key, Point>,
}

/// A node or container at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Point {
    /// Milliseconds since 1970.
    at: i64,
    /// CPU time in all, in seconds.
    cpu: Option<f64>,
    /// The working set, in bytes.
    memory: Option<f64>,
    /// Since when, in seconds since 1970.
    started: Option<f64>,
}

/// What is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Used {
    /// In cores, as the mean of the window.
    pub cpu: Quantity,
    pub memory: Quantity,
    /// The end of the window.
    pub at: Time,
    pub window: Duration,
}

/// Of a whole node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UsedByNode {
    pub node: Option<Used>,
    containers: HashMap<Key, Used>,
}

impl UsedByNode {
    pub fn container(&self, namespace: &str, pod: &str, container: &str) -> Option<&Used> {
        let key = (namespace.to_string(), pod.to_string(), container.to_string());
        self.containers.get(&key)
    }
}

impl Sample {
    /// `now` is taken where a value comes without its time.
    pub fn of(parsed: &Parsed, now: Time) -> Sample {
        let mut sample = Sample::default();
        for found in &parsed.samples {
            let at = found.at.unwrap_or(now.0.as_millisecond());
            let of_node = found.name.starts_with("node_");
            let point = match of_node {
                true => sample.node.get_or_insert_default(),
                false => {
                    let key = ["namespace", "pod", "container"].map(|label| found.label(label));
                    let [namespace, pod, container] = key.map(str::to_string);
                    if !found.name.starts_with("container_") || container.is_empty() {
                        continue;
                    }
                    sample.containers.entry((namespace, pod, container)).or_default()
                }
            };
            match found.name.as_str() {
                "node_cpu_usage_seconds_total" | "container_cpu_usage_seconds_total" => {
                    (point.cpu, point.at) = (Some(found.value), at);
                }
                "node_memory_working_set_bytes" | "container_memory_working_set_bytes" => {
                    point.memory = Some(found.value);
                }
                "container_start_time_seconds" => point.started = Some(found.value),
                _ => {}
            }
        }
        sample
    }
}

/// What was used from the first sample to the second.
pub fn used(first: &Sample, second: &Sample) -> UsedByNode {
    let node = second.node.as_ref().and_then(|point| rate(first.node.as_ref(), point));
    let containers = second
        .containers
        .iter()
        .filter_map(|(key, point)| Some((key.clone(), rate(first.containers.get(key), point)?)));
    UsedByNode { node, containers: containers.collect() }
}

/// A container that has begun since, or begun anew, is measured from its beginning.
fn rate(first: Option<&Point>, second: &Point) -> Option<Used> {
    let (cpu, memory) = (second.cpu?, second.memory?);
    let same = first.filter(|first| {
        first.started == second.started
            && first.at < second.at
            && first.cpu.is_some_and(|before| before <= cpu)
    });
    let (begin, before) = match same {
        Some(first) => (first.at as f64 / 1e3, first.cpu?),
        None => (second.started?, 0.0),
    };
    let seconds = second.at as f64 / 1e3 - begin;
    // What is no number says nothing either.
    if seconds <= 0.0 || seconds.is_nan() {
        return None;
    }
    let nanocores = ((cpu - before) / seconds * 1e9).max(0.0) as i64;
    Some(Used {
        cpu: format!("{nanocores}n").parse().ok()?,
        memory: Quantity::bytes(memory as i64),
        at: Time::from_unix(0).plus(Duration::from_millis(u64::try_from(second.at).ok()?)),
        window: Duration::from_millis((seconds * 1e3) as u64),
    })
}

#[cfg(test)]
mod tests {
    use proto::exposition::parse;

    use super::*;

    fn sample(lines: &[&str]) -> Sample {
        Sample::of(&parse(&lines.join("\n")).unwrap(), Time::from_unix(50))
    }

    const OF: &str = r#"{container="c",namespace="n",pod="p"}"#;

    fn at(seconds: i64, cpu: f64, started: f64) -> Sample {
        sample(&[
            &format!("container_cpu_usage_seconds_total{OF} {cpu} {}", seconds * 1000),
            &format!("container_memory_working_set_bytes{OF} 4096 {}", seconds * 1000),
            &format!("container_start_time_seconds{OF} {started}"),
            r#"pod_cpu_usage_seconds_total{namespace="n",pod="p"} 9 1"#,
            &format!("node_cpu_usage_seconds_total {} {}", cpu * 2.0, seconds * 1000),
            "node_memory_working_set_bytes 8192",
        ])
    }

    #[test]
    fn from_one_sample_to_the_next() {
        let used = used(&at(100, 5.0, 10.0), &at(110, 7.5, 10.0));
        let container = used.container("n", "p", "c").unwrap();
        assert_eq!(
            (container.cpu.to_string(), container.memory.to_string()),
            ("250m".into(), "4Ki".into())
        );
        assert_eq!(
            (container.at, container.window),
            (Time::from_unix(110), Duration::from_secs(10))
        );
        let node = used.node.unwrap();
        assert_eq!((node.cpu.to_string(), node.memory.to_string()), ("500m".into(), "8Ki".into()));
        assert_eq!(used.container("n", "p", "other"), None);
    }

    #[test]
    fn what_has_begun_in_between_is_measured_from_there() {
        let container = |first: &Sample, second: &Sample| {
            used(first, second).container("n", "p", "c").map(|it| (it.cpu.to_string(), it.window))
        };
        let from_beginning = Some(("500m".to_string(), Duration::from_secs(4)));
        assert_eq!(container(&Sample::default(), &at(110, 2.0, 106.0)), from_beginning);
        // The same name, another container.
        assert_eq!(container(&at(100, 1.0, 10.0), &at(110, 2.0, 106.0)), from_beginning);
        // The count went back.
        assert_eq!(container(&at(100, 3.0, 106.0), &at(110, 2.0, 106.0)), from_beginning);
        // Two samples of one moment say nothing of the node, which has no beginning.
        let same = used(&at(100, 3.0, 1.0), &at(100, 3.0, 1.0));
        assert_eq!(same.node, None);
        assert_eq!(container(&Sample::default(), &sample(&[])), None);
    }
}
