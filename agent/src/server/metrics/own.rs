//! `/metrics`: how the agent is. Pure, but for what is handed in.

use std::collections::BTreeSet;

use client::endpoint::{Process, write_build};
use proto::exposition::Text;

use crate::cri::{Running, labels};

pub struct Own<'a> {
    pub node: &'a str,
    /// None: the runtime did not answer, and what runs is not known.
    pub running: Option<&'a Running>,
    /// Pods that are bound to this node.
    pub desired: usize,
    /// Pods that something is left of.
    pub active: usize,
    pub process: &'a Process,
}

pub fn write(text: &mut Text, own: &Own<'_>) {
    write_build(text);
    text.gauge("kubelet_node_name", "[ALPHA] Always 1; the label tells which node this is")
        .sample(&[("node", own.node)], 1.0);
    text.gauge(
        "kubelet_desired_pods",
        "[ALPHA] Pods that this node shall run; static ones come from its own files",
    )
    .sample(&[("static", "")], own.desired as f64);
    text.gauge(
        "kubelet_active_pods",
        "[ALPHA] Pods that count when another is admitted; static ones come from the node's own \
         files",
    )
    .sample(&[("static", "")], own.active as f64);
    if let Some(running) = own.running {
        let uids = running.sandboxes.values().filter_map(|one| one.metadata.as_ref());
        let uids: BTreeSet<&str> = uids.map(|meta| meta.uid.as_str()).collect();
        text.gauge("kubelet_running_pods", "[ALPHA] Pods whose sandbox runs")
            .sample(&[], uids.len() as f64);
        let ours = running.containers.values();
        let ours = ours.filter(|one| one.labels.contains_key(labels::CONTAINER_NAME)).count();
        text.gauge("kubelet_running_containers", "[ALPHA] Containers by their state")
            .sample(&[("container_state", "running")], ours as f64);
    }
    own.process.write(text);
}

#[cfg(test)]
mod tests {
    use proto::exposition::parse;

    use super::*;
    use crate::stats::summary::tests::figures;

    #[test]
    fn pods_that_run_are_counted_once() {
        let mut running = figures().usage.running;
        for sandbox in running.sandboxes.values_mut() {
            sandbox.metadata =
                Some(proto::cri::PodSandboxMetadata { uid: "u1".into(), ..Default::default() });
        }
        for container in running.containers.values_mut() {
            container.labels.insert(labels::CONTAINER_NAME.into(), "main".into());
        }
        let process = Process { resident: 4096, ..Process::default() };
        let own =
            Own { node: "n", running: Some(&running), desired: 3, active: 2, process: &process };
        let mut text = Text::default();
        write(&mut text, &own);
        let parsed = parse(&text.finish()).unwrap();
        let value =
            |name: &str| parsed.samples.iter().find(|one| one.name == name).map(|one| one.value);
        assert_eq!(value("kubelet_running_pods"), Some(1.0));
        assert_eq!(value("kubelet_running_containers"), Some(1.0));
        assert_eq!(value("kubelet_desired_pods"), Some(3.0));
        assert_eq!(value("process_resident_memory_bytes"), Some(4096.0));
        assert_eq!(parsed.kinds["process_cpu_seconds_total"], "counter");
        let mut text = Text::default();
        write(&mut text, &Own { running: None, ..own });
        assert!(!text.finish().contains("kubelet_running_pods"));
    }
}
