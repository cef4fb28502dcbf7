//! What the runtime holds for one pod, in the agent's own terms: the second input of a plan. Only
//! the CRI adapters fill it in.

use proto::time::Time;

/// Everything the runtime knows under one pod uid.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Newest attempt first.
    pub sandboxes: Vec<Sandbox>,
    /// Newest attempt of a container first.
    pub containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    /// The primary address first; empty with the host's network.
    pub ips: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    pub id: String,
    pub sandbox: String,
    pub name: String,
    /// Counts the container's runs, over all sandboxes of the pod: the restart count.
    pub attempt: u32,
    /// Of the spec it was made from; see [`crate::pod::Container::hash`].
    pub hash: String,
    pub image: String,
    pub image_ref: String,
    pub state: State,
    pub log_path: String,
    /// `status.containerStatuses[].user`, where the runtime tells.
    pub user: Option<(i64, i64, Vec<i64>)>,
    /// What its cgroup has, where the runtime tells.
    pub applied: Option<Applied>,
    /// The CPUs that it runs on, as the runtime was told; empty: any.
    pub cpus: String,
}

/// The settings of a cgroup that a resize changes; 0: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub shares: i64,
    /// Microseconds in a period.
    pub quota: i64,
    /// Bytes.
    pub memory: i64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum State {
    #[default]
    Created,
    Running {
        started: Time,
    },
    Exited(Exit),
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exit {
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, ….
    pub reason: String,
    /// The termination message.
    pub message: String,
    pub started: Option<Time>,
    pub finished: Option<Time>,
}

impl Observed {
    /// The sandbox of the highest attempt, whether it still runs or not.
    pub fn newest(&self) -> Option<&Sandbox> {
        self.sandboxes.first()
    }

    /// The sandbox in which containers may be started.
    pub fn current(&self) -> Option<&Sandbox> {
        self.newest().filter(|sandbox| sandbox.ready)
    }

    /// The last run of a container, in any sandbox.
    pub fn latest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The last run of a container in the given sandbox.
    pub fn latest_in(&self, sandbox: &str, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name && c.sandbox == sandbox)
    }

    pub fn running(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|container| container.is_running())
    }

    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }
}

impl Container {
    /// A container in an unknown state may have processes, too.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. } | State::Unknown)
    }

    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            State::Exited(exit) => Some(exit),
            _ => None,
        }
    }
}
