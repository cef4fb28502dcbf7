//! Limits of a pod as a whole: changed, and read back.

use std::fs;
use std::os::fd::AsFd;

use proto::cri;

use super::super::blueprint::{limits, merge_resources, with_overhead};
use super::super::engine::{Engine, Error, Sandbox, blocking};
use super::step;
use crate::net::bandwidth::Bandwidth;

impl Engine {
    /// Takes over what a change sets and writes down what holds now.
    pub async fn update_sandbox_resources(
        &self,
        id: &str,
        overhead: Option<cri::LinuxContainerResources>,
        change: &cri::LinuxContainerResources,
    ) -> Result<(), Error> {
        let sandbox = self.sandbox(id)?;
        let _busy = sandbox.busy.lock().await;
        let (engine, change) = (self.clone(), change.clone());
        let held = sandbox.clone();
        blocking(move || {
            let mut record = held.record.lock().clone();
            let linux = record.config.get_or_insert_default().linux.get_or_insert_default();
            let resources = linux.resources.get_or_insert_default();
            merge_resources(resources, &change);
            if let Some(overhead) = overhead {
                linux.overhead = Some(overhead);
            }
            let overhead = linux.overhead.clone().unwrap_or_default();
            let limits = limits(&with_overhead(resources, &overhead))?;
            engine.cgroups.limit(&record.cgroup, &limits)?;
            engine.root.save_sandbox(&record)?;
            held.record.lock().config = record.config;
            Ok(())
        })
        .await
    }

    /// A pod's limits of bandwidth, as the kernel has them, in bits per second.
    pub async fn bandwidth_info(&self, sandbox: &Sandbox) -> Result<Vec<(String, String)>, Error> {
        let record = sandbox.record.lock().clone();
        let annotations = record.config.unwrap_or_default().annotations;
        if !record.ready || record.ip.is_empty() || Bandwidth::of(&annotations)?.is_none() {
            return Ok(Vec::new());
        }
        let path = format!("/proc/{}/ns/net", record.supervisor);
        let netns = fs::File::open(&path).map_err(step(format!("open {path}")))?;
        let shaped = self.pod_network()?.shaped(&record.id, netns.as_fd()).await?;
        let told = |name: &str, bits: Option<u64>| Some((name.to_owned(), bits?.to_string()));
        let both =
            [told("ingressBandwidth", shaped.ingress), told("egressBandwidth", shaped.egress)];
        Ok(both.into_iter().flatten().collect())
    }
}
