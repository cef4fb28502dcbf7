//! `/metrics/cadvisor`: containers and the machine by cAdvisor's names, as far as the runtime tells.
//! Pure.

use proto::cri::{self, UInt64Value};
use proto::exposition::Text;

use crate::cri::labels;
use crate::stats::moment;
use crate::stats::summary::Figures;

/// A container, or with an empty name the pod as a whole.
struct Row<'a> {
    id: &'a str,
    name: &'a str,
    image: &'a str,
    container: &'a str,
    namespace: &'a str,
    pod: &'a str,
    created_at: i64,
    cpu: Option<&'a cri::CpuUsage>,
    memory: Option<&'a cri::MemoryUsage>,
    swap: Option<&'a cri::SwapUsage>,
    layer: Option<&'a cri::FilesystemUsage>,
    network: Option<&'a cri::NetworkUsage>,
    processes: Option<u64>,
}

/// What a family says of a row: each value with a label of its own, and of which moment.
type Said<'a> = Vec<(Option<(&'static str, &'a str)>, f64, i64)>;

pub fn write(text: &mut Text, figures: &Figures) {
    let rows = rows(figures);
    compute(text, &rows);
    files(text, &rows);
    networks(text, &rows);
    machine(text, figures);
}

fn rows(figures: &Figures) -> Vec<Row<'_>> {
    let usage = &figures.usage;
    let mut rows = Vec::new();
    for stats in &usage.pods {
        let (Some(attributes), Some(linux)) = (&stats.attributes, &stats.linux) else { continue };
        let Some(meta) = &attributes.metadata else { continue };
        let sandbox = usage.running.sandboxes.get(&attributes.id);
        rows.push(Row {
            id: &attributes.id,
            name: &attributes.id,
            image: "",
            container: "",
            namespace: &meta.namespace,
            pod: &meta.name,
            created_at: sandbox.map_or(0, |sandbox| sandbox.created_at),
            cpu: linux.cpu.as_ref(),
            memory: linux.memory.as_ref(),
            swap: None,
            layer: None,
            network: linux.network.as_ref(),
            processes: linux
                .process
                .as_ref()
                .and_then(|it| it.process_count.as_ref())
                .map(|it| it.value),
        });
        for stats in &linux.containers {
            let Some(attributes) = &stats.attributes else { continue };
            let Some(running) = usage.running.containers.get(&attributes.id) else { continue };
            let named = attributes.labels.get(labels::CONTAINER_NAME);
            rows.push(Row {
                id: &attributes.id,
                name: &attributes.id,
                image: running.image.as_ref().map_or("", |image| image.image.as_str()),
                container: named.map_or("", String::as_str),
                namespace: &meta.namespace,
                pod: &meta.name,
                created_at: running.created_at,
                cpu: stats.cpu.as_ref(),
                memory: stats.memory.as_ref(),
                swap: stats.swap.as_ref(),
                layer: stats.writable_layer.as_ref(),
                network: None,
                processes: None,
            });
        }
    }
    rows
}

fn family(
    text: &mut Text,
    rows: &[Row<'_>],
    (name, counter, help): (&'static str, bool, &'static str),
    said: impl for<'a> Fn(&'a Row<'_>) -> Said<'a>,
) {
    let mut family = if counter { text.counter(name, help) } else { text.gauge(name, help) };
    for row in rows {
        for (more, value, at) in said(row) {
            let mut labels = vec![
                ("container", row.container),
                ("id", row.id),
                ("image", row.image),
                ("name", row.name),
                ("namespace", row.namespace),
                ("pod", row.pod),
            ];
            labels.extend(more);
            labels.sort_unstable();
            match at {
                0 => family.sample(&labels, value),
                at => family.sample_at(&labels, value, moment(at).0.as_millisecond()),
            }
        }
    }
}

fn one(value: Option<f64>, at: i64) -> Said<'static> {
    value.map(|value| (None, value, at)).into_iter().collect()
}

fn number(value: &Option<UInt64Value>) -> Option<f64> {
    value.as_ref().map(|value| value.value as f64)
}

fn compute(text: &mut Text, rows: &[Row<'_>]) {
    let head =
        ("container_cpu_usage_seconds_total", true, "Processor time since the start, in seconds");
    family(text, rows, head, |row| {
        let Some(cpu) = row.cpu else { return Vec::new() };
        let seconds = number(&cpu.usage_core_nano_seconds).map(|total| total / 1e9);
        seconds.map(|value| (Some(("cpu", "total")), value, cpu.timestamp)).into_iter().collect()
    });
    type Of = fn(&cri::MemoryUsage) -> &Option<UInt64Value>;
    let memory: [(&'static str, &'static str, Of); 3] = [
        (
            "container_memory_usage_bytes",
            "All memory that is in use, pages of files too",
            |memory| &memory.usage_bytes,
        ),
        ("container_memory_rss", "Memory that is no page of a file", |memory| &memory.rss_bytes),
        (
            "container_memory_working_set_bytes",
            "Memory that cannot be taken back at once",
            |memory| &memory.working_set_bytes,
        ),
    ];
    for (name, help, of) in memory {
        family(text, rows, (name, false, help), |row| match row.memory {
            Some(memory) => one(number(of(memory)), memory.timestamp),
            None => Vec::new(),
        });
    }
    let head =
        ("container_memory_failures_total", true, "Page faults since the start, by their kind");
    family(text, rows, head, |row| {
        let Some(memory) = row.memory else { return Vec::new() };
        let both = [("pgfault", &memory.page_faults), ("pgmajfault", &memory.major_page_faults)];
        let said = |(kind, count): (&'static str, &Option<UInt64Value>)| {
            Some((Some(("failure_type", kind)), number(count)?, memory.timestamp))
        };
        both.into_iter().filter_map(said).collect()
    });
    let head = ("container_memory_swap", false, "Swap that is in use");
    family(text, rows, head, |row| match row.swap {
        Some(swap) => one(number(&swap.swap_usage_bytes), swap.timestamp),
        None => Vec::new(),
    });
    let head = ("container_processes", false, "Processes that live");
    family(text, rows, head, |row| one(row.processes.map(|count| count as f64), 0));
    let head = ("container_start_time_seconds", false, "When it started, in seconds of Unix time");
    family(text, rows, head, |row| {
        one((row.created_at > 0).then_some(row.created_at as f64 / 1e9), 0)
    });
}

fn files(text: &mut Text, rows: &[Row<'_>]) {
    type Of = fn(&cri::FilesystemUsage) -> &Option<UInt64Value>;
    let layers: [(&'static str, &'static str, Of); 2] = [
        ("container_fs_usage_bytes", "What it has written over its image, in bytes", |layer| {
            &layer.used_bytes
        }),
        ("container_fs_inodes_used", "Files that it has made over its image", |layer| {
            &layer.inodes_used
        }),
    ];
    for (name, help, of) in layers {
        family(text, rows, (name, false, help), |row| match row.layer {
            Some(layer) => one(number(of(layer)), layer.timestamp),
            None => Vec::new(),
        });
    }
}

fn networks(text: &mut Text, rows: &[Row<'_>]) {
    type Of = fn(&cri::NetworkInterfaceUsage) -> &Option<UInt64Value>;
    let counters: [(&'static str, &'static str, Of); 4] = [
        (
            "container_network_receive_bytes_total",
            "Bytes that came in since the start",
            |interface| &interface.rx_bytes,
        ),
        (
            "container_network_receive_errors_total",
            "Packets that were lost coming in",
            |interface| &interface.rx_errors,
        ),
        (
            "container_network_transmit_bytes_total",
            "Bytes that went out since the start",
            |interface| &interface.tx_bytes,
        ),
        (
            "container_network_transmit_errors_total",
            "Packets that were lost going out",
            |interface| &interface.tx_errors,
        ),
    ];
    for (name, help, of) in counters {
        family(text, rows, (name, true, help), |row| {
            let Some(network) = row.network else { return Vec::new() };
            let all = network.default_interface.iter().chain(&network.interfaces);
            all.filter_map(|interface| {
                let label = Some(("interface", interface.name.as_str()));
                Some((label, number(of(interface))?, network.timestamp))
            })
            .collect()
        });
    }
}

fn machine(text: &mut Text, figures: &Figures) {
    let memory = &figures.machine.memory;
    let gauges = [
        ("machine_cpu_cores", "Processors that the machine has", figures.machine.cores as f64),
        ("machine_memory_bytes", "Memory that the machine has", memory.total as f64),
        ("machine_swap_bytes", "Swap that the machine has", figures.machine.swap.total as f64),
    ];
    for (name, help, value) in gauges {
        text.gauge(name, help).sample(&[], value);
    }
    text.gauge(
        "container_scrape_error",
        "Whether the figures of containers could not be had: 1 where it is so",
    )
    .sample(&[], 0.0);
}

#[cfg(test)]
mod tests {
    use proto::exposition::parse;

    use super::*;
    use crate::stats::summary::tests::figures;

    #[test]
    fn names_types_and_labels() {
        let mut text = Text::default();
        write(&mut text, &figures());
        let parsed = parse(&text.finish()).unwrap();
        let find = |name: &str, container: &str| {
            let mut samples = parsed.samples.iter();
            let found = samples.find(|one| one.name == name && one.label("container") == container);
            found.unwrap_or_else(|| panic!("no {name} of {container:?}"))
        };
        let cpu = find("container_cpu_usage_seconds_total", "main");
        assert_eq!((cpu.value, cpu.label("cpu"), cpu.label("name")), (1.5, "total", "c1"));
        assert_eq!((cpu.label("namespace"), cpu.label("pod")), ("a", "p"));
        assert_eq!(parsed.kinds["container_cpu_usage_seconds_total"], "counter");
        assert_eq!(find("container_memory_working_set_bytes", "").value, 2048.0);
        let received = find("container_network_receive_bytes_total", "");
        assert_eq!((received.value, received.label("interface")), (11.0, "eth0"));
        assert_eq!(find("container_fs_usage_bytes", "main").value, 100.0);
        assert_eq!(find("container_processes", "").value, 4.0);
        assert_eq!(find("machine_memory_bytes", "").value, 1000.0);
        // The one that has ended.
        assert!(parsed.samples.iter().all(|one| one.label("container") != "ended"));
    }
}
