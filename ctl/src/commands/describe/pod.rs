//! The page of a pod.

use proto::selector::LabelSelector;
use serde_json::Value;

use super::{Page, annotations, date, environment, pairs, shown, volume};
use crate::output::sheet::Sheet;
use crate::resources::{items, text};

pub fn describe(page: &Page, sheet: &mut Sheet) {
    let pod = page.object;
    let (metadata, spec, status) = (&pod["metadata"], &pod["spec"], &pod["status"]);
    sheet.field("Name", text(&metadata["name"]));
    sheet.field("Namespace", text(&metadata["namespace"]));
    sheet.field("Priority", spec["priority"].as_i64().unwrap_or(0).to_string());
    sheet.optional("Priority Class Name", text(&spec["priorityClassName"]));
    sheet.field("Service Account", shown(&spec["serviceAccountName"]));
    sheet.field(
        "Node",
        match text(&spec["nodeName"]) {
            "" => "<none>".to_string(),
            node => format!("{node}/{}", text(&status["hostIP"])),
        },
    );
    sheet.optional("Start Time", date(&status["startTime"]));
    sheet.list("Labels", &pairs(&metadata["labels"]));
    sheet.list("Annotations", &annotations(&metadata["annotations"]));
    match text(&metadata["deletionTimestamp"]) {
        "" => sheet.field("Status", text(&status["phase"])),
        _ => {
            sheet.field(
                "Status",
                format!("Terminating (since {})", date(&metadata["deletionTimestamp"])),
            );
            let grace = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
            sheet.field("Termination Grace Period", format!("{grace}s"));
        }
    }
    sheet.optional("Reason", text(&status["reason"]));
    sheet.optional("Message", text(&status["message"]));
    sheet.field("IP", text(&status["podIP"]));
    let ips: Vec<&str> = items(&status["podIPs"]).map(|ip| text(&ip["ip"])).collect();
    if ips.is_empty() {
        sheet.field("IPs", "<none>");
    } else {
        sheet.section("IPs", |sheet| ips.iter().for_each(|ip| sheet.field("IP", *ip)));
    }
    if let Some(owner) =
        items(&metadata["ownerReferences"]).find(|owner| owner["controller"] == true)
    {
        sheet.field("Controlled By", format!("{}/{}", text(&owner["kind"]), text(&owner["name"])));
    }
    for (title, list, states) in [
        ("Init Containers", "initContainers", "initContainerStatuses"),
        ("Containers", "containers", "containerStatuses"),
        ("Ephemeral Containers", "ephemeralContainers", "ephemeralContainerStatuses"),
    ] {
        if items(&spec[list]).next().is_some() {
            sheet.section(title, |sheet| {
                for one in items(&spec[list]) {
                    let state = items(&status[states]).find(|state| state["name"] == one["name"]);
                    sheet.section(text(&one["name"]), |sheet| {
                        container(one, state.unwrap_or(&Value::Null), pod, sheet);
                    });
                }
            });
        }
    }
    conditions(status, sheet);
    volume::describe(spec, false, sheet);
    sheet.field("QoS Class", text(&status["qosClass"]));
    placement(spec, sheet);
    spread(spec, sheet);
}

/// Where the pod may run.
pub fn placement(spec: &Value, sheet: &mut Sheet) {
    sheet.list("Node-Selectors", &pairs(&spec["nodeSelector"]));
    sheet.list("Tolerations", &items(&spec["tolerations"]).map(toleration).collect::<Vec<_>>());
}

/// How pods like it are spread, if they are.
pub fn spread(spec: &Value, sheet: &mut Sheet) {
    let constraints = items(&spec["topologySpreadConstraints"]).map(|constraint| {
        let selector = serde_json::from_value::<LabelSelector>(constraint["labelSelector"].clone());
        let selector = selector.ok().and_then(|selector| selector.selector().ok());
        format!(
            "{}:{} when max skew {} is exceeded for selector {}",
            text(&constraint["topologyKey"]),
            text(&constraint["whenUnsatisfiable"]),
            constraint["maxSkew"].as_i64().unwrap_or(0),
            selector.map(|selector| selector.to_string()).unwrap_or_default()
        )
    });
    let constraints: Vec<String> = constraints.collect();
    if !constraints.is_empty() {
        sheet.list("Topology Spread Constraints", &constraints);
    }
}

/// A container with its state; of a pod template, without: then state and pod are null.
pub fn container(spec: &Value, status: &Value, pod: &Value, sheet: &mut Sheet) {
    if !status.is_null() {
        sheet.field("Container ID", text(&status["containerID"]));
    }
    sheet.field("Image", text(&spec["image"]));
    if !status.is_null() {
        sheet.field("Image ID", text(&status["imageID"]));
    }
    let ports = |field: &str| {
        let ports = items(&spec["ports"]).map(|port| {
            format!("{}/{}", port[field].as_i64().unwrap_or(0), text(&port["protocol"]))
        });
        let ports: Vec<String> = ports.collect();
        if ports.is_empty() { "<none>".to_string() } else { ports.join(", ") }
    };
    let many = if items(&spec["ports"]).count() > 1 { "s" } else { "" };
    sheet.field(&format!("Port{many}"), ports("containerPort"));
    sheet.field(&format!("Host Port{many}"), ports("hostPort"));
    for (title, field) in [("Command", "command"), ("Args", "args")] {
        if items(&spec[field]).next().is_some() {
            sheet.section(title, |sheet| {
                items(&spec[field]).for_each(|word| sheet.row(&[text(word)]));
            });
        }
    }
    if !status.is_null() {
        state("State", &status["state"], sheet);
        if status["lastState"].as_object().is_some_and(|state| !state.is_empty()) {
            state("Last State", &status["lastState"], sheet);
        }
        let ready = if status["ready"] == true { "True" } else { "False" };
        sheet.field("Ready", ready);
        sheet.field("Restart Count", status["restartCount"].as_i64().unwrap_or(0).to_string());
    }
    for (title, field) in [("Limits", "limits"), ("Requests", "requests")] {
        if let Some(map) = spec["resources"][field].as_object().filter(|map| !map.is_empty()) {
            sheet.section(title, |sheet| {
                map.iter().for_each(|(name, amount)| sheet.field(name, text(amount)));
            });
        }
    }
    for (title, field) in [
        ("Liveness", "livenessProbe"),
        ("Readiness", "readinessProbe"),
        ("Startup", "startupProbe"),
    ] {
        if spec[field].is_object() {
            sheet.field(title, probe(&spec[field]));
        }
    }
    environment::describe(spec, pod, sheet);
    let mut mounts: Vec<&Value> = items(&spec["volumeMounts"]).collect();
    mounts.sort_by_key(|mount| text(&mount["mountPath"]));
    let mounts: Vec<String> = mounts.into_iter().map(mount).collect();
    match mounts.is_empty() {
        true => sheet.field("Mounts", "<none>"),
        false => {
            sheet.section("Mounts", |sheet| mounts.iter().for_each(|mount| sheet.row(&[mount])))
        }
    }
}

fn state(title: &str, state: &Value, sheet: &mut Sheet) {
    if state["running"].is_object() {
        sheet.field(title, "Running");
        sheet.indented(|sheet| sheet.field("Started", date(&state["running"]["startedAt"])));
    } else if state["terminated"].is_object() {
        let ended = &state["terminated"];
        sheet.field(title, "Terminated");
        sheet.indented(|sheet| {
            sheet.optional("Reason", text(&ended["reason"]));
            sheet.optional("Message", text(&ended["message"]));
            sheet.field("Exit Code", ended["exitCode"].as_i64().unwrap_or(0).to_string());
            if let Some(signal) = ended["signal"].as_i64().filter(|signal| *signal != 0) {
                sheet.field("Signal", signal.to_string());
            }
            sheet.field("Started", date(&ended["startedAt"]));
            sheet.field("Finished", date(&ended["finishedAt"]));
        });
    } else {
        sheet.field(title, "Waiting");
        sheet.indented(|sheet| {
            sheet.optional("Reason", text(&state["waiting"]["reason"]));
        });
    }
}

fn probe(probe: &Value) -> String {
    let number = |field: &str| probe[field].as_i64().unwrap_or(0);
    let target = if probe["httpGet"].is_object() {
        let get = &probe["httpGet"];
        let scheme = match text(&get["scheme"]) {
            "" => "http".to_string(),
            scheme => scheme.to_lowercase(),
        };
        format!(
            "http-get {scheme}://{}:{}{}",
            text(&get["host"]),
            port(&get["port"]),
            text(&get["path"])
        )
    } else if probe["tcpSocket"].is_object() {
        format!(
            "tcp-socket {}:{}",
            text(&probe["tcpSocket"]["host"]),
            port(&probe["tcpSocket"]["port"])
        )
    } else if probe["grpc"].is_object() {
        format!("grpc <pod>:{} {}", port(&probe["grpc"]["port"]), text(&probe["grpc"]["service"]))
    } else {
        let words: Vec<&str> = items(&probe["exec"]["command"]).map(text).collect();
        format!("exec [{}]", words.join(" "))
    };
    format!(
        "{target} delay={}s timeout={}s period={}s #success={} #failure={}",
        number("initialDelaySeconds"),
        number("timeoutSeconds"),
        number("periodSeconds"),
        number("successThreshold"),
        number("failureThreshold")
    )
}

fn port(port: &Value) -> String {
    port.as_str().map_or_else(|| port.to_string(), str::to_string)
}

fn mount(mount: &Value) -> String {
    let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
    let path = match text(&mount["subPath"]) {
        "" => String::new(),
        path => format!(",path={path:?}"),
    };
    format!("{} from {} ({mode}{path})", text(&mount["mountPath"]), text(&mount["name"]))
}

fn conditions(status: &Value, sheet: &mut Sheet) {
    if items(&status["conditions"]).next().is_none() {
        return;
    }
    sheet.section("Conditions", |sheet| {
        sheet.row(&["Type", "Status"]);
        for condition in items(&status["conditions"]) {
            // With a blank after each, as kubectl has it.
            let cells = ["type", "status"].map(|field| format!("{} ", text(&condition[field])));
            sheet.row(&cells.each_ref().map(String::as_str));
        }
    });
}

/// `key=value:NoSchedule op=Exists for 300s`
fn toleration(toleration: &Value) -> String {
    let mut said = text(&toleration["key"]).to_string();
    let (value, effect) = (text(&toleration["value"]), text(&toleration["effect"]));
    if !value.is_empty() {
        said += &format!("={value}");
    }
    if !effect.is_empty() {
        said += &format!(":{effect}");
    }
    if toleration["operator"] == "Exists" {
        said += if said.is_empty() { "op=Exists" } else { " op=Exists" };
    }
    if let Some(seconds) = toleration["tolerationSeconds"].as_i64() {
        said += &format!(" for {seconds}s");
    }
    said
}
