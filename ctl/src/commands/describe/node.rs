//! The page of a node.

use proto::quantity::Quantity;
use serde_json::Value;

use super::{Page, annotations, date, pairs};
use crate::output::age::human;
use crate::output::sheet::Sheet;
use crate::resources::{items, text};

const ROLE: &str = "node-role.kubernetes.io/";

pub fn describe(page: &Page, sheet: &mut Sheet) {
    let node = page.object;
    let (metadata, spec, status) = (&node["metadata"], &node["spec"], &node["status"]);
    sheet.field("Name", text(&metadata["name"]));
    let labels = metadata["labels"].as_object().into_iter().flatten();
    let roles: Vec<&str> = labels.filter_map(|(key, _)| key.strip_prefix(ROLE)).collect();
    sheet.field("Roles", if roles.is_empty() { "<none>".into() } else { roles.join(",") });
    sheet.list("Labels", &pairs(&metadata["labels"]));
    sheet.list("Annotations", &annotations(&metadata["annotations"]));
    sheet.field("CreationTimestamp", date(&metadata["creationTimestamp"]));
    let taints: Vec<String> = items(&spec["taints"])
        .map(|taint| match text(&taint["value"]) {
            "" => format!("{}:{}", text(&taint["key"]), text(&taint["effect"])),
            value => format!("{}={value}:{}", text(&taint["key"]), text(&taint["effect"])),
        })
        .collect();
    sheet.list("Taints", &taints);
    sheet.field("Unschedulable", (spec["unschedulable"] == true).to_string());
    sheet.section("Conditions", |sheet| {
        sheet.row(&[
            "Type",
            "Status",
            "LastHeartbeatTime",
            "LastTransitionTime",
            "Reason",
            "Message",
        ]);
        sheet.row(&[
            "----",
            "------",
            "-----------------",
            "------------------",
            "------",
            "-------",
        ]);
        for condition in items(&status["conditions"]) {
            let (beat, change) =
                (date(&condition["lastHeartbeatTime"]), date(&condition["lastTransitionTime"]));
            sheet.row(&[
                text(&condition["type"]),
                text(&condition["status"]),
                &beat,
                &change,
                text(&condition["reason"]),
                text(&condition["message"]),
            ]);
        }
    });
    sheet.section("Addresses", |sheet| {
        items(&status["addresses"])
            .for_each(|address| sheet.field(text(&address["type"]), text(&address["address"])));
    });
    for (title, field) in [("Capacity", "capacity"), ("Allocatable", "allocatable")] {
        sheet.section(title, |sheet| {
            let amounts = status[field].as_object().into_iter().flatten();
            amounts.for_each(|(name, amount)| sheet.field(name, text(amount)));
        });
    }
    sheet.section("System Info", |sheet| {
        for (title, field) in [
            ("Machine ID", "machineID"),
            ("System UUID", "systemUUID"),
            ("Boot ID", "bootID"),
            ("Kernel Version", "kernelVersion"),
            ("OS Image", "osImage"),
            ("Operating System", "operatingSystem"),
            ("Architecture", "architecture"),
            ("Container Runtime Version", "containerRuntimeVersion"),
            ("Kubelet Version", "kubeletVersion"),
        ] {
            sheet.field(title, text(&status["nodeInfo"][field]));
        }
    });
    sheet.optional("PodCIDR", text(&spec["podCIDR"]));
    let cidrs: Vec<&str> = items(&spec["podCIDRs"]).map(text).collect();
    sheet.optional("PodCIDRs", cidrs.join(","));
    pods(page, sheet);
}

/// The pods that take something, and their sums.
fn pods(page: &Page, sheet: &mut Sheet) {
    let active: Vec<&Value> = page
        .related
        .iter()
        .filter(|pod| !matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed"))
        .collect();
    let allocatable = &page.object["status"]["allocatable"];
    sheet.row(&["Non-terminated Pods:", &format!("({} in total)", active.len())]);
    let mut total = [[Quantity::default(); 2]; 2];
    sheet.indented(|sheet| {
        let heads = [
            "Namespace",
            "Name",
            "CPU Requests",
            "CPU Limits",
            "Memory Requests",
            "Memory Limits",
            "Age",
        ];
        sheet.row(&heads);
        sheet.row(&heads.map(|head| "-".repeat(head.len())).each_ref().map(String::as_str));
        for pod in &active {
            let mut cells = vec![text(&pod["metadata"]["namespace"]).to_string()];
            cells.push(text(&pod["metadata"]["name"]).to_string());
            for (r, resource) in ["cpu", "memory"].iter().enumerate() {
                for (f, field) in ["requests", "limits"].iter().enumerate() {
                    let sum = sum(pod, field, resource);
                    total[r][f] += sum;
                    cells.push(share(sum, allocatable, resource));
                }
            }
            let created = text(&pod["metadata"]["creationTimestamp"]).parse();
            cells.push(created.map_or(String::new(), |time| human(page.now.since(time))));
            sheet.row(&cells.iter().map(String::as_str).collect::<Vec<_>>());
        }
    });
    sheet.section("Allocated resources", |sheet| {
        sheet.row(&["(Total limits may be over 100 percent, i.e., overcommitted.)"]);
        sheet.row(&["Resource", "Requests", "Limits"]);
        sheet.row(&["--------", "--------", "------"]);
        for (r, resource) in ["cpu", "memory"].iter().enumerate() {
            let [requests, limits] = total[r].map(|sum| share(sum, allocatable, resource));
            sheet.row(&[resource, &requests, &limits]);
        }
    });
}

fn sum(pod: &Value, field: &str, resource: &str) -> Quantity {
    let amounts = items(&pod["spec"]["containers"])
        .filter_map(|container| text(&container["resources"][field][resource]).parse().ok());
    amounts.fold(Quantity::default(), |sum, amount: Quantity| sum + amount)
}

/// `100m (2%)`
fn share(amount: Quantity, allocatable: &Value, resource: &str) -> String {
    let all: Quantity = text(&allocatable[resource]).parse().unwrap_or_default();
    let percent = if all.milli() == 0 { 0 } else { amount.milli() * 100 / all.milli() };
    format!("{amount} ({percent}%)")
}
