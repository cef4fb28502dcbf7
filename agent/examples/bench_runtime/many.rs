//! What pods cost that do nothing.

use std::path::Path;
use std::time::Duration;

use client::Clock;
use proto::cri::NamespaceMode;

use crate::lab::Lab;
use crate::{row, running, sandbox};

const SOME: usize = 100;
const MOST: usize = 500;

pub async fn measure(lab: &mut Lab, clock: &Clock) {
    let free = available();
    let mut sandboxes = Vec::new();
    for number in 0..SOME {
        sandboxes.push(idle(lab, number).await);
    }
    let each = |all: u64| all as f64 / SOME as f64;
    let machine = free.saturating_sub(available());
    row("a pod at rest: the machine's memory", each(machine) / 1024.0, 1.0, "MiB");
    let supervisors = supervisors(lab);
    let shares = supervisors.iter().map(|process| proportional(process)).sum();
    row("a pod at rest: its supervisor's proportional set", each(shares), 100.0, "KiB");
    let runtime = format!("/proc/{}", lab.process_id());
    row("the runtime with 100 pods: resident", resident(&runtime) as f64 / 1024.0, 30.0, "MiB");
    let before = processor(&runtime);
    let period = Duration::from_secs(5);
    clock.sleep(period).await;
    let busy = (processor(&runtime) - before) as f64 / (period.as_secs_f64() * 100.0);
    row("the runtime at rest with 100 pods: of a processor", busy * 100.0, 0.5, "%");

    let start = clock.instant();
    for number in SOME..MOST {
        sandboxes.push(idle(lab, number).await);
    }
    let took = start.elapsed().as_secs_f64() * 1000.0 / (MOST - SOME) as f64;
    row("each pod from the 100th to the 500th", took, 8.0, "ms");
    let resident = resident(&runtime) as f64 / 1024.0;
    row("the runtime with 500 pods: resident", resident, 30.0, "MiB");
    for sandbox in sandboxes {
        lab.remove_sandbox(&sandbox).await;
    }
}

async fn idle(lab: &mut Lab, number: usize) -> String {
    let config = sandbox(lab, &format!("idle-{number}"), NamespaceMode::Pod);
    running(&mut lab.runtime, config).await
}

/// The folders in /proc of the pods' supervisors.
fn supervisors(lab: &Lab) -> Vec<String> {
    let program = lab.root().join("supervisor").display().to_string();
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let is_one = |folder: &Path| {
        let executable = std::fs::read_link(folder.join("exe")).unwrap_or_default();
        executable.to_string_lossy().contains(&program)
    };
    let folders = processes.map(|entry| entry.path()).filter(|folder| is_one(folder));
    folders.map(|folder| folder.display().to_string()).collect()
}

/// KiB that are free or could be.
fn available() -> u64 {
    field("/proc/meminfo", "MemAvailable:")
}

/// KiB.
fn resident(process: &str) -> u64 {
    field(&format!("{process}/status"), "VmRSS:")
}

/// KiB, pages of several processes divided among them.
fn proportional(process: &str) -> u64 {
    field(&format!("{process}/smaps_rollup"), "Pss:")
}

fn field(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).expect("a number")
}

/// Hundredths of a second of processor time, so far.
fn processor(process: &str) -> u64 {
    let text = std::fs::read_to_string(format!("{process}/stat")).expect("it lives");
    let after_name = text.rsplit(')').next().expect("fields");
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    [11, 12].iter().map(|at| fields[*at].parse::<u64>().expect("a number")).sum()
}
