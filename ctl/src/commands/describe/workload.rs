//! The page of a Deployment or a ReplicaSet.

use serde_json::Value;

use super::{Page, annotations, date, pairs, pod, volume};
use crate::commands::logs::selector_of;
use crate::output::sheet::Sheet;
use crate::resources::{items, text};

pub fn describe(page: &Page, sheet: &mut Sheet) {
    let object = page.object;
    match object["kind"] == "Deployment" {
        true => deployment(page, sheet),
        false => replica_set(page, sheet),
    }
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn deployment(page: &Page, sheet: &mut Sheet) {
    let object = page.object;
    let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    sheet.field("Name", text(&metadata["name"]));
    sheet.field("Namespace", text(&metadata["namespace"]));
    sheet.field("CreationTimestamp", date(&metadata["creationTimestamp"]));
    sheet.list("Labels", &pairs(&metadata["labels"]));
    sheet.list("Annotations", &annotations(&metadata["annotations"]));
    sheet.field("Selector", selector_of(object).unwrap_or_default());
    sheet.field(
        "Replicas",
        format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            number(&spec["replicas"]),
            number(&status["updatedReplicas"]),
            number(&status["replicas"]),
            number(&status["availableReplicas"]),
            number(&status["unavailableReplicas"]),
        ),
    );
    sheet.field("StrategyType", text(&spec["strategy"]["type"]));
    sheet.field("MinReadySeconds", number(&spec["minReadySeconds"]).to_string());
    let rolling = &spec["strategy"]["rollingUpdate"];
    if rolling.is_object() {
        let amount =
            |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
        sheet.field(
            "RollingUpdateStrategy",
            format!(
                "{} max unavailable, {} max surge",
                amount(&rolling["maxUnavailable"]),
                amount(&rolling["maxSurge"])
            ),
        );
    }
    template(&spec["template"], sheet);
    if items(&status["conditions"]).next().is_some() {
        sheet.section("Conditions", |sheet| {
            sheet.row(&["Type", "Status", "Reason"]);
            sheet.row(&["----", "------", "------"]);
            for condition in items(&status["conditions"]) {
                sheet.row(&[
                    text(&condition["type"]),
                    text(&condition["status"]),
                    text(&condition["reason"]),
                ]);
            }
        });
    }
    let (new, old) = sets(page);
    sheet.field("OldReplicaSets", old);
    sheet.field("NewReplicaSet", new);
}

/// The set of the current template and the others that still have pods.
fn sets(page: &Page) -> (String, String) {
    const REVISION: &str = "deployment.kubernetes.io/revision";
    let metadata = &page.object["metadata"];
    let newest = &metadata["annotations"][REVISION];
    let owned = page.related.iter().filter(|set| {
        items(&set["metadata"]["ownerReferences"]).any(|owner| owner["uid"] == metadata["uid"])
    });
    let (mut new, mut old) = (Vec::new(), Vec::new());
    for set in owned {
        let (made, wanted) = (number(&set["status"]["replicas"]), number(&set["spec"]["replicas"]));
        let said = format!("{} ({made}/{wanted} replicas created)", text(&set["metadata"]["name"]));
        if set["metadata"]["annotations"][REVISION] == *newest {
            new.push(said);
        } else if made > 0 || wanted > 0 {
            old.push(said);
        }
    }
    let join = |list: Vec<String>| if list.is_empty() { "<none>".into() } else { list.join(", ") };
    (join(new), join(old))
}

fn replica_set(page: &Page, sheet: &mut Sheet) {
    let object = page.object;
    let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    sheet.field("Name", text(&metadata["name"]));
    sheet.field("Namespace", text(&metadata["namespace"]));
    sheet.field("Selector", selector_of(object).unwrap_or_default());
    sheet.list("Labels", &pairs(&metadata["labels"]));
    sheet.list("Annotations", &annotations(&metadata["annotations"]));
    if let Some(owner) =
        items(&metadata["ownerReferences"]).find(|owner| owner["controller"] == true)
    {
        sheet.field("Controlled By", format!("{}/{}", text(&owner["kind"]), text(&owner["name"])));
    }
    let (made, wanted) = (number(&status["replicas"]), number(&spec["replicas"]));
    sheet.field("Replicas", format!("{made} current / {wanted} desired"));
    let phase =
        |phase: &str| page.related.iter().filter(|pod| pod["status"]["phase"] == phase).count();
    sheet.field(
        "Pods Status",
        format!(
            "{} Running / {} Waiting / {} Succeeded / {} Failed",
            phase("Running"),
            phase("Pending"),
            phase("Succeeded"),
            phase("Failed")
        ),
    );
    template(&spec["template"], sheet);
}

fn template(template: &Value, sheet: &mut Sheet) {
    sheet.section("Pod Template", |sheet| {
        let metadata = &template["metadata"];
        sheet.list("Labels", &pairs(&metadata["labels"]));
        if metadata["annotations"].is_object() {
            sheet.list("Annotations", &annotations(&metadata["annotations"]));
        }
        let spec = &template["spec"];
        sheet.optional("Service Account", text(&spec["serviceAccountName"]));
        for (title, list) in [("Init Containers", "initContainers"), ("Containers", "containers")] {
            if items(&spec[list]).next().is_none() {
                continue;
            }
            sheet.section(title, |_| {});
            for container in items(&spec[list]) {
                // kubectl sets names in a template one column further than in a pod.
                sheet.row(&[&format!(" {}:", text(&container["name"]))]);
                sheet
                    .indented(|sheet| pod::container(container, &Value::Null, &Value::Null, sheet));
            }
        }
        volume::describe(spec, true, sheet);
        pod::spread(spec, sheet);
        sheet.optional("Priority Class Name", text(&spec["priorityClassName"]));
        pod::placement(spec, sheet);
    });
}
