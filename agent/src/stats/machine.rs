//! What the machine as a whole uses, from /proc.

use std::fs;

use client::endpoint::Process;
use proto::time::Time;

/// Ticks of a second in /proc; Linux promises it.
const TICKS: u64 = 100;

/// Everything of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    pub cores: u64,
    pub cpu_nanoseconds: u64,
    pub memory: Memory,
    pub swap: Swap,
    /// Processes and threads, and the most there can be.
    pub tasks: u64,
    pub most_tasks: u64,
    /// Without the loopback.
    pub interfaces: Vec<Interface>,
    /// The interface of the default route.
    pub default_interface: Option<String>,
    pub booted: Option<Time>,
    pub agent: Process,
}

/// In bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub total: u64,
    pub usage: u64,
    pub working_set: u64,
    pub rss: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
}

/// In bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swap {
    pub total: u64,
    pub free: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_errors: u64,
    pub tx_bytes: u64,
    pub tx_errors: u64,
}

impl Reading {
    pub fn now() -> Reading {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let stat = text("/proc/stat");
        let booted = booted(&stat);
        let loads = text("/proc/loadavg");
        let tasks = loads.split(' ').nth(3).and_then(|part| part.split('/').nth(1));
        Reading {
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64),
            cpu_nanoseconds: cpu(&stat),
            memory: memory(&text("/proc/meminfo"), &text("/proc/vmstat")),
            swap: swap(&text("/proc/meminfo")),
            tasks: tasks.and_then(|text| text.parse().ok()).unwrap_or(0),
            most_tasks: text("/proc/sys/kernel/pid_max").trim().parse().unwrap_or(0),
            interfaces: interfaces(&text("/proc/net/dev")),
            default_interface: default_interface(&text("/proc/net/route")),
            booted,
            agent: Process::now(),
        }
    }
}

/// Time in which a core was neither idle nor waiting for a disk.
fn cpu(stat: &str) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let at = |index: usize| ticks.get(index).copied().unwrap_or(0);
    // user, nice, system, irq, softirq, steal; guests are in the first two already.
    [0, 1, 2, 5, 6, 7].map(at).iter().sum::<u64>() * (1_000_000_000 / TICKS)
}

fn booted(stat: &str) -> Option<Time> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(Time::from_unix(seconds.trim().parse().ok()?))
}

fn field(table: &str, name: &str) -> u64 {
    let mut lines = table.lines();
    let words = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix([' ', ':']));
    let number = words.and_then(|words| words.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

/// As cgroups count: the working set is what is used without file pages that nobody needs.
fn memory(info: &str, vmstat: &str) -> Memory {
    let bytes = |name: &str| field(info, name) * 1024;
    let total = bytes("MemTotal");
    let usage = total.saturating_sub(bytes("MemFree"));
    Memory {
        total,
        usage,
        working_set: usage.saturating_sub(bytes("Inactive(file)")),
        rss: bytes("AnonPages"),
        page_faults: field(vmstat, "pgfault"),
        major_page_faults: field(vmstat, "pgmajfault"),
    }
}

fn swap(info: &str) -> Swap {
    Swap { total: field(info, "SwapTotal") * 1024, free: field(info, "SwapFree") * 1024 }
}

fn interfaces(text: &str) -> Vec<Interface> {
    let lines = text.lines().skip(2).filter_map(|line| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> =
            counters.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let at = |index: usize| counters.get(index).copied().unwrap_or(0);
        Some(Interface {
            name: name.trim().to_owned(),
            rx_bytes: at(0),
            rx_errors: at(2),
            tx_bytes: at(8),
            tx_errors: at(10),
        })
    });
    lines.filter(|interface| interface.name != "lo").collect()
}

/// The device of the route to 0.0.0.0/0.
fn default_interface(routes: &str) -> Option<String> {
    routes.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let everywhere = words.get(1) == Some(&"00000000") && words.get(7) == Some(&"00000000");
        everywhere.then(|| words[0].to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says() {
        let stat = "cpu  100 20 30 9999 8888 1 2 3 50 60\ncpu0 1 1 1 1\nbtime 1700000000\n";
        assert_eq!(cpu(stat), 156 * 10_000_000);
        assert_eq!(booted(stat), Some(Time::from_unix(1_700_000_000)));
        let info = "MemTotal: 1000 kB\nMemFree:   400 kB\nInactive:  500 kB\n\
                    Inactive(file): 100 kB\nAnonPages: 50 kB\nSwapTotal: 8 kB\nSwapFree: 3 kB\n";
        let found = memory(info, "pgfault 7\npgmajfault 2\n");
        assert_eq!((found.usage, found.working_set, found.rss), (600 << 10, 500 << 10, 50 << 10));
        assert_eq!((found.page_faults, found.major_page_faults), (7, 2));
        assert_eq!(swap(info), Swap { total: 8 << 10, free: 3 << 10 });
        let dev = "a\nb\n lo: 1 1 1 1 1 1 1 1 1 1 1\neth0:10 1 2 0 0 0 0 0 20 1 3 0\n";
        let expected = Interface {
            name: "eth0".into(),
            rx_bytes: 10,
            rx_errors: 2,
            tx_bytes: 20,
            tx_errors: 3,
        };
        assert_eq!(interfaces(dev), [expected]);
        let routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU\n\
                      br0 0000000A 00000000 1 0 0 0 000000FF 0\n\
                      eth0 00000000 0100000A 3 0 0 0 00000000 0\n";
        assert_eq!(default_interface(routes), Some("eth0".into()));
    }

    #[test]
    fn this_machine_uses_something() {
        let now = Reading::now();
        assert!(now.cpu_nanoseconds > 0 && now.tasks > 0 && now.most_tasks > 0, "{now:?}");
        let Memory { total, usage, working_set, .. } = now.memory;
        assert!(total > usage && usage >= working_set && working_set > 0, "{now:?}");
        assert!(
            now.agent.resident > 0 && now.agent.open_files > 0 && now.agent.started > now.booted
        );
    }
}
