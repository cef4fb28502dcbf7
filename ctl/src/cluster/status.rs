//! `ctl cluster list` and `status`: what there is, and which of its processes run.

use super::layout::{Cluster, Store};
use super::process::{Process, Processes};
use crate::output::table::Table;

/// A line per cluster.
pub fn list(clusters: &[Cluster]) -> String {
    let mut table = Table::new(&["NAME", "STATUS", "NODES", "STORE", "SERVER", "CONTEXT"]);
    for cluster in clusters {
        table.push(vec![
            cluster.name.clone(),
            state(cluster).to_owned(),
            match cluster.simulated_nodes {
                0 => cluster.nodes.len().to_string(),
                simulated => format!("{}+{simulated}", cluster.nodes.len()),
            },
            match cluster.store {
                Store::Embedded => "redb",
                Store::Memory => "memory",
                Store::Etcd(_) => "etcd",
            }
            .to_owned(),
            cluster.url(),
            cluster.context(),
        ]);
    }
    table.lines(true)
}

/// A line per process, and one per stopped node.
pub fn status(cluster: &Cluster) -> String {
    let mut table = Table::new(&["PROCESS", "STATUS", "PID", "MEMORY", "LOG"]);
    for (name, process) in &Processes::read(&cluster.dir).0 {
        let alive = process.is_alive();
        table.push(vec![
            name.clone(),
            if alive { "Running" } else { "Ended" }.to_owned(),
            process.pid.to_string(),
            if alive { resident(process.pid) } else { "-".to_owned() },
            cluster.log(&name.replace('/', "-")).display().to_string(),
        ]);
    }
    for node in cluster.nodes.iter().filter(|node| node.stopped) {
        let none = || "-".to_owned();
        table.push(vec![node.name.clone(), "Stopped".into(), none(), none(), none()]);
    }
    table.lines(true)
}

fn state(cluster: &Cluster) -> &'static str {
    let processes = Processes::read(&cluster.dir);
    match processes.supervisor().as_ref().is_some_and(Process::is_alive) {
        true => "Running",
        false if processes.0.values().any(Process::is_alive) => "Unsupervised",
        false => "Stopped",
    }
}

fn resident(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or("-".into(), |kib| format!("{} MiB", kib / 1024))
}
