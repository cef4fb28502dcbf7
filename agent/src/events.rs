//! Events about pods and the node, as the kubelet reports them.

use client::Recorder;
use proto::view::ObjectReference;

use crate::pod::Pod;

pub const NORMAL: &str = "Normal";
pub const WARNING: &str = "Warning";

/// Records events of one node.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
    warnings_only: bool,
}

impl Events {
    pub fn new(recorder: Recorder) -> Events {
        Events { recorder, warnings_only: false }
    }

    /// Tells only what is wrong: for nodes so many that their good news would be most of what is
    /// written.
    pub fn warnings_only(recorder: Recorder) -> Events {
        Events { recorder, warnings_only: true }
    }

    /// About a pod, or about one of its containers.
    pub fn pod(
        &self,
        pod: &Pod,
        container: Option<&str>,
        kind: &'static str,
        reason: &str,
        message: &str,
    ) {
        let field = |name: &str| match pod.is_init(name) {
            true => format!("spec.initContainers{{{name}}}"),
            false => format!("spec.containers{{{name}}}"),
        };
        let meta = &pod.metadata;
        let regarding = ObjectReference {
            kind: "Pod".into(),
            api_version: "v1".into(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: container.map(field).unwrap_or_default(),
        };
        self.record(&regarding, kind, reason, message);
    }

    /// About the node; its uid is its name, as the kubelet has it.
    pub fn node(&self, name: &str, kind: &'static str, reason: &str, message: &str) {
        let regarding = ObjectReference {
            kind: "Node".into(),
            name: name.into(),
            uid: name.into(),
            ..ObjectReference::default()
        };
        self.record(&regarding, kind, reason, message);
    }

    fn record(&self, about: &ObjectReference, kind: &'static str, reason: &str, message: &str) {
        if kind == WARNING || !self.warnings_only {
            self.recorder.event(about, kind, reason, message);
        }
    }
}
