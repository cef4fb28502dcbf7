//! The executor's part of resizing in place, and of moving containers to other CPUs.

use proto::cri::LinuxContainerResources;

use super::{Executor, failure};
use crate::backoff::RETRY;
use crate::config::{self, NO_QUOTA};
use crate::cri::Error;
use crate::pod::Pod;

impl Executor<'_> {
    /// Sets the limits of a running container and of its pod.
    pub(super) async fn resize(&mut self, sandbox: &str, id: &str, name: &str) {
        let Some(pod) = self.pod else { return };
        let Some(container) = pod.container(name) else { return };
        let runtime = &self.context.runtime;
        let mut resources = config::container_resources(pod, container, self.context.config.memory);
        if self.memory.has_own_cpus(name) {
            resources.cpu_quota = NO_QUOTA;
        }
        if let Some(refusal) = self.too_little(id, name, resources.memory_limit_in_bytes).await {
            return self.resize_failed(refusal);
        }
        let of_pod = || self.of_pod(pod);
        // A part cannot have more than the whole: which of them is first depends on the direction.
        let first = runtime.resize_sandbox(sandbox, of_pod()).await;
        let mut outcome = runtime.resize(id, resources).await;
        if outcome.is_ok() && first.is_err() {
            outcome = runtime.resize_sandbox(sandbox, of_pod()).await;
        }
        match outcome {
            Ok(()) => {
                self.memory.resize_failure = None;
                let applied = config::applied(pod, container);
                self.memory.resized.insert(name.into(), applied);
                self.memory.pod_resized = Some(config::applied_to_pod(pod));
            }
            Err(error) => self.resize_failed(error.message().into()),
        }
    }

    /// Sets the limits of the pod, for itself or for a container that is about to be restarted.
    pub(super) async fn resize_pod(&mut self, sandbox: &str, container: Option<&str>) {
        let Some(pod) = self.pod else { return };
        let resources = self.of_pod(pod);
        let outcome: Result<(), Error> =
            self.context.runtime.resize_sandbox(sandbox, resources).await;
        if let Err(error) = outcome {
            return self.resize_failed(error.message().into());
        }
        self.memory.resize_failure = None;
        self.memory.pod_resized = Some(config::applied_to_pod(pod));
        if let Some(container) = container.and_then(|name| pod.container(name)) {
            let applied = config::applied(pod, container);
            self.memory.resized.insert(container.name.clone(), applied);
        }
    }

    /// What the pod's cgroup is to have: no quota where its CPUs bound what they are used for.
    fn of_pod(&self, pod: &Pod) -> LinuxContainerResources {
        let mut resources = config::pod_resources(pod);
        if self.memory.pod_has_own_cpus() {
            resources.cpu_quota = NO_QUOTA;
        }
        resources
    }

    /// Lets a running container run on these CPUs.
    pub(super) async fn pin(&mut self, id: String, cpus: String) -> Result<(), Error> {
        let cpuset_cpus = cpus.clone();
        let resources = LinuxContainerResources { cpuset_cpus, ..Default::default() };
        self.context.runtime.resize(&id, resources).await?;
        self.memory.pinned.insert(id, cpus);
        Ok(())
    }

    /// Memory that is in use is not taken away: the kernel would kill for it.
    async fn too_little(&self, id: &str, name: &str, limit: i64) -> Option<String> {
        let held = self.observed.containers.iter().find(|run| run.id == id)?.applied?.memory;
        if limit <= 0 || (held > 0 && limit >= held) {
            return None;
        }
        let used = self.context.runtime.memory_in_use(id).await.ok()??;
        let limit = u64::try_from(limit).ok().filter(|limit| *limit < used)?;
        Some(format!(
            "attempting to set container {name:?} memory limit ({limit}) below current usage \
             ({used})"
        ))
    }

    fn resize_failed(&mut self, message: String) {
        let previous = self.memory.resize_failure.take();
        let failure = failure(&self.context.clock, previous, "Error", message, RETRY);
        self.memory.resize_failure = Some(failure);
    }
}
