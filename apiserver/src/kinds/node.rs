//! Nodes.

use std::collections::HashSet;

use proto::status::{FieldError, Problem};
use proto::time::Time;
use serde_json::{Value, json};

use super::check::{self, Errors};
use super::lens::Lens;
use super::metadata::sentences;
use super::path::Path;
use super::pod::placement::TAINT_EFFECTS;
use super::pod::resources;
use super::table::{self, column};
use super::{Column, Context, Field, Strategy, name};

const SPEC: Path = Path::root("spec");
const STATUS: Path = Path::root("status");

pub struct Node;

impl Strategy for Node {
    fn default(&self, object: &mut Value) {
        let spec = object.section("spec");
        let first = spec.items("podCIDRs").first().cloned();
        match first {
            Some(first) => spec.set("podCIDR", first),
            None if !spec.vacant("podCIDR") => {
                let only = spec.at("podCIDR").clone();
                spec.set("podCIDRs", json!([only]));
            }
            None => {}
        }
        if object.at("status").vacant("allocatable") && !object.at("status").vacant("capacity") {
            let capacity = object.at("status").at("capacity").clone();
            object.section("status").set("allocatable", capacity);
        }
    }

    /// A node registers itself with its status.
    fn prepare_create(&self, new: &mut Value, _ctx: &Context) {
        new.section("status");
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        taints(object.at("spec").items("taints"), &mut errors);
        let path = SPEC.field("podCIDRs");
        let mut families = [0, 0];
        for (index, text) in check::texts(object.at("spec"), "podCIDRs").enumerate() {
            check::network(&path.index(index), text, &mut errors);
            families[usize::from(text.contains(':'))] += 1;
        }
        if families.iter().any(|count| *count > 1) {
            let value = object.at("spec").at("podCIDRs").clone();
            let detail = "may specify no more than one CIDR for each IP family";
            errors.push(FieldError::invalid(path, value, detail));
        }
        capacity(object, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        let (spec, before) = (new.at("spec"), old.at("spec"));
        for (field, named) in [("podCIDRs", "podCIDR"), ("providerID", "providerID")] {
            if !before.vacant(field) && spec.at(field) != before.at(field) {
                let detail =
                    format!("node updates may not change {named} except from \"\" to valid");
                errors.push(FieldError::forbidden(SPEC.field(field), detail));
            }
        }
        errors
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        capacity(new, &mut errors);
        let path = STATUS.field("addresses");
        let mut seen = HashSet::new();
        for (index, address) in new.at("status").items("addresses").iter().enumerate() {
            if !seen.insert((address.text("type"), address.text("address"))) {
                let path = path.index(index);
                errors.push(FieldError::duplicate(path, address.clone()));
            }
        }
        errors
    }

    fn fields(&self) -> &'static [Field] {
        &[Field { label: "spec.unschedulable", path: "spec.unschedulable", absent: "false" }]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let status = object.at("status");
        let info = status.at("nodeInfo");
        let address = |kind: &str| {
            let mut all = status.items("addresses").iter();
            let found = all.find(|address| address.text("type") == kind);
            table::or_none(found.map_or("", |address| address.text("address"))).to_string()
        };
        let known = |field: &str| match info.text(field) {
            "" => "<unknown>".to_string(),
            text => text.to_string(),
        };
        vec![
            table::name(object),
            condition(object).into(),
            roles(object).into(),
            table::age(object, now),
            info.text("kubeletVersion").into(),
            address("InternalIP").into(),
            address("ExternalIP").into(),
            known("osImage").into(),
            known("kernelVersion").into(),
            known("containerRuntimeVersion").into(),
        ]
    }
}

fn taints(taints: &[Value], errors: &mut Errors) {
    let path = SPEC.field("taints");
    let mut seen = HashSet::new();
    for (index, taint) in taints.iter().enumerate() {
        let path = path.index(index);
        let (key, value, effect) = (taint.text("key"), taint.text("value"), taint.text("effect"));
        check::qualified(&path.field("key"), key, errors);
        errors.extend(sentences(&path.field("value"), value, name::label_value(value)));
        check::one_of(&path.field("effect"), effect, TAINT_EFFECTS, errors);
        if !seen.insert((key, effect)) {
            let detail = "taints must be unique by key and effect pair";
            errors.push(FieldError::new(path, Problem::Duplicate(taint.clone()), detail));
        }
    }
}

fn capacity(node: &Value, errors: &mut Errors) {
    for field in ["capacity", "allocatable"] {
        let path = STATUS.field(field);
        for (name, quantity) in node.at("status").pairs(field) {
            let path = path.key(name);
            resources::resource(&path, name, errors);
            resources::amount(&path, name, quantity, errors);
        }
    }
}

fn condition(node: &Value) -> String {
    let mut conditions = node.at("status").items("conditions").iter();
    let ready = conditions.find(|condition| condition.text("type") == "Ready");
    let status = match ready.map(|ready| ready.text("status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let closed = node.at("spec").flag("unschedulable") == Some(true);
    if closed { format!("{status},SchedulingDisabled") } else { status.into() }
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = node
        .at("metadata")
        .pairs("labels")
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            None if key == "kubernetes.io/role" => value.as_str(),
            role => role,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    table::or_none(&table::list(roles.into_iter())).into()
}

const COLUMNS: &[Column] = &[
    table::NAME,
    column("Status", "string", 0, "The status of the node"),
    column("Roles", "string", 0, "The roles of the node"),
    table::AGE,
    column("Version", "string", 0, "Kubelet Version reported by the node."),
    column(
        "Internal-IP",
        "string",
        1,
        "List of addresses reachable to the node. Queried from cloud provider, if available. More \
         info: https://kubernetes.io/docs/reference/node/node-status/#addresses",
    ),
    column(
        "External-IP",
        "string",
        1,
        "List of addresses reachable to the node. Queried from cloud provider, if available. More \
         info: https://kubernetes.io/docs/reference/node/node-status/#addresses",
    ),
    column(
        "OS-Image",
        "string",
        1,
        "OS Image reported by the node from /etc/os-release (e.g. Debian GNU/Linux 7 (wheezy)).",
    ),
    column(
        "Kernel-Version",
        "string",
        1,
        "Kernel Version reported by the node from 'uname -r' (e.g. 3.16.0-0.bpo.4-amd64).",
    ),
    column(
        "Container-Runtime",
        "string",
        1,
        "ContainerRuntime Version reported by the node through runtime remote API (e.g. \
         containerd://1.4.2).",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_as_kubectl_shows_them() {
        let node = json!({
            "metadata": {"name": "n", "labels": {
                "node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": "",
            }},
            "spec": {"unschedulable": true},
            "status": {
                "conditions": [{"type": "Ready", "status": "Unknown"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian"},
            },
        });
        let cells = Node.cells(&node, Time::from_unix(0));
        let shown: Vec<&str> = cells.iter().filter_map(Value::as_str).collect();
        let expected = [
            "n",
            "NotReady,SchedulingDisabled",
            "control-plane,worker",
            "<unknown>",
            "v1.36.0",
            "10.0.0.1",
            "<none>",
            "Debian",
            "<unknown>",
            "<unknown>",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_a_node_may_not_say() {
        let taint = json!({"key": "a", "effect": "NoSchedule"});
        let node = json!({
            "spec": {"taints": [taint, taint, {"key": "b", "effect": "Sometimes"}],
                "podCIDRs": ["10.0.0.0/33"]},
            "status": {"capacity": {"gpu": "1", "cpu": "-1"}},
        });
        let errors: Vec<String> = Node.validate(&node).iter().map(FieldError::to_string).collect();
        assert_eq!(
            errors,
            [
                "spec.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}: \
                 taints must be unique by key and effect pair",
                "spec.taints[2].effect: Unsupported value: \"Sometimes\": supported values: \
                 \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
                "spec.podCIDRs[0]: Invalid value: \"10.0.0.0/33\": must be a valid CIDR value, \
                 (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                "status.capacity[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                "status.capacity[gpu]: Invalid value: \"gpu\": must be a standard resource type \
                 or fully qualified",
            ]
        );
        let (old, new) = (json!({"spec": {"podCIDRs": ["10.0.0.0/24"]}}), json!({"spec": {}}));
        assert_eq!(
            Node.validate_update(&new, &old)[0].to_string(),
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to \
             valid"
        );
    }
}
