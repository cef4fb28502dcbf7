//! What a component says of its process, whatever it does: what was built, and what it uses.

use std::fs;
use std::time::Duration;

use proto::exposition::Text;
use proto::time::Time;

/// What the version of Kubernetes is that this is.
const VERSION: &str = concat!("v1.36.0+coracle-", env!("CARGO_PKG_VERSION"));
/// Linux counts processor time for programs in hundredths of a second.
const TICKS: u64 = 100;

/// This process, as /proc has it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    pub cpu_nanoseconds: u64,
    /// In bytes.
    pub resident: u64,
    pub virtual_size: u64,
    pub started: Option<Time>,
    pub open_files: u64,
    pub most_files: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
}

impl Process {
    pub fn now() -> Process {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let files = fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
        let limits = text("/proc/self/limits");
        let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let limit = limit.and_then(|line| line.split_whitespace().next()?.parse().ok());
        let status = text("/proc/self/status");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Process {
            open_files: files,
            most_files: limit.unwrap_or(0),
            resident: resident.unwrap_or(0) * 1024,
            ..of(&text("/proc/self/stat"), booted(&text("/proc/stat")))
        }
    }

    pub fn write(&self, text: &mut Text) {
        let help = "Total user and system CPU time spent in seconds.";
        text.counter("process_cpu_seconds_total", help)
            .sample(&[], self.cpu_nanoseconds as f64 / 1e9);
        let gauges = [
            ("process_max_fds", "Maximum number of open file descriptors.", self.most_files),
            ("process_open_fds", "Number of open file descriptors.", self.open_files),
            ("process_resident_memory_bytes", "Resident memory size in bytes.", self.resident),
            ("process_virtual_memory_bytes", "Virtual memory size in bytes.", self.virtual_size),
        ];
        for (name, help, value) in gauges {
            text.gauge(name, help).sample(&[], value as f64);
        }
        self.write_start(text);
    }

    pub fn write_start(&self, text: &mut Text) {
        let help = "[STABLE] Start time of the process since unix epoch in seconds.";
        if let Some(started) = self.started {
            let seconds = started.0.as_nanosecond() as f64 / 1e9;
            text.gauge("process_start_time_seconds", help).sample(&[], seconds);
        }
    }
}

/// `kubernetes_build_info`.
pub fn write_build(text: &mut Text) {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    text.gauge(
        "kubernetes_build_info",
        "[ALPHA] A metric with a constant '1' value labeled by major, minor, git version, git \
         commit, git tree state, build date, Go version, and compiler from which Kubernetes was \
         built, and platform on which it is running.",
    )
    .sample(
        &[
            ("build_date", "1970-01-01T00:00:00Z"),
            ("compiler", "rustc"),
            ("git_commit", ""),
            ("git_tree_state", "clean"),
            ("git_version", VERSION),
            ("go_version", ""),
            ("major", "1"),
            ("minor", "36"),
            ("platform", &format!("linux/{architecture}")),
        ],
        1.0,
    );
}

/// When the machine started.
fn booted(stat: &str) -> Option<Time> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(Time::from_unix(seconds.trim().parse().ok()?))
}

/// From a process's `stat` (proc(5)).
fn of(stat: &str, booted: Option<Time>) -> Process {
    // The name in brackets may hold anything.
    let words = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let words: Vec<&str> = words.split_whitespace().collect();
    // The first word is field 3 of the manual.
    let at = |number: usize| words.get(number - 3).and_then(|word| word.parse::<u64>().ok());
    let ticks = |ticks: u64| ticks * (1_000_000_000 / TICKS);
    Process {
        cpu_nanoseconds: ticks(at(14).unwrap_or(0) + at(15).unwrap_or(0)),
        virtual_size: at(23).unwrap_or(0),
        page_faults: at(10).unwrap_or(0) + at(12).unwrap_or(0),
        major_page_faults: at(12).unwrap_or(0),
        started: booted
            .zip(at(22))
            .map(|(booted, started)| booted.plus(Duration::from_nanos(ticks(started)))),
        ..Process::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says() {
        let booted = booted("cpu 1 2 3 4\nbtime 1700000000\n");
        let of = of("1 (a) b) S 0 0 0 0 0 0 5 0 1 0 7 8 0 0 20 0 1 0 250 4096 9", booted);
        assert_eq!((of.cpu_nanoseconds, of.virtual_size), (150_000_000, 4096));
        assert_eq!(of.started.unwrap().to_string(), "2023-11-14T22:13:22Z");
    }
}
