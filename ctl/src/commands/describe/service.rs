//! The page of a Service.

use serde_json::Value;

use super::{Page, head, shown};
use crate::commands::logs::selector_of;
use crate::output::sheet::Sheet;
use crate::resources::{items, text};

pub fn describe(page: &Page, sheet: &mut Sheet) {
    let object = page.object;
    let (spec, status) = (&object["spec"], &object["status"]);
    head(object, sheet);
    sheet.field("Selector", selector_of(object).unwrap_or_else(|| "<none>".into()));
    sheet.field("Type", text(&spec["type"]));
    sheet.optional("IP Family Policy", text(&spec["ipFamilyPolicy"]));
    let families: Vec<&str> = items(&spec["ipFamilies"]).map(text).collect();
    sheet.optional("IP Families", families.join(","));
    sheet.field("IP", text(&spec["clusterIP"]));
    let ips: Vec<&str> = items(&spec["clusterIPs"]).map(text).collect();
    sheet.optional("IPs", ips.join(","));
    let external: Vec<&str> = items(&spec["externalIPs"]).map(text).collect();
    sheet.optional("External IPs", external.join(","));
    sheet.optional("External Name", text(&spec["externalName"]));
    let ingress: Vec<String> = items(&status["loadBalancer"]["ingress"])
        .map(|ingress| match text(&ingress["ipMode"]) {
            "" => format!("{}{}", text(&ingress["ip"]), text(&ingress["hostname"])),
            mode => format!("{} ({mode})", text(&ingress["ip"])),
        })
        .collect();
    sheet.optional("LoadBalancer Ingress", ingress.join(", "));
    for port in items(&spec["ports"]) {
        let name = match text(&port["name"]) {
            "" => "<unset>",
            name => name,
        };
        let protocol = text(&port["protocol"]);
        sheet.row(&["Port:", name, &format!("{}/{protocol}", port["port"])]);
        sheet.field("TargetPort", format!("{}/{protocol}", shown(&port["targetPort"])));
        if port["nodePort"].as_i64().is_some_and(|port| port != 0) {
            sheet.row(&["NodePort:", name, &format!("{}/{protocol}", port["nodePort"])]);
        }
        sheet.field("Endpoints", endpoints(page, port));
    }
    sheet.field("Session Affinity", shown(&spec["sessionAffinity"]));
    sheet.optional("External Traffic Policy", text(&spec["externalTrafficPolicy"]));
    sheet.optional("Internal Traffic Policy", text(&spec["internalTrafficPolicy"]));
}

/// Ready addresses of one port, three at the most.
fn endpoints(page: &Page, port: &Value) -> String {
    let mut found = Vec::new();
    for slice in &page.related {
        let number = items(&slice["ports"])
            .find(|other| text(&other["name"]) == text(&port["name"]))
            .and_then(|other| other["port"].as_i64());
        let Some(number) = number else { continue };
        for endpoint in items(&slice["endpoints"]) {
            if endpoint["conditions"]["ready"] != false {
                let addresses = items(&endpoint["addresses"]);
                found.extend(addresses.map(|address| format!("{}:{number}", text(address))));
            }
        }
    }
    let more = found.len().saturating_sub(3);
    found.truncate(3);
    match (found.is_empty(), more) {
        (true, _) => String::new(),
        (false, 0) => found.join(","),
        (false, more) => format!("{} + {more} more...", found.join(",")),
    }
}
