//! What `kubectl get services` shows.

use proto::time::Time;
use serde_json::Value;

use super::kind;
use crate::kinds::Column;
use crate::kinds::check::texts;
use crate::kinds::lens::Lens;
use crate::kinds::table::{self, column};

pub const COLUMNS: &[Column] = &[
    table::NAME,
    column(
        "Type",
        "string",
        0,
        "type determines how the Service is exposed. Defaults to ClusterIP. Valid options are \
         ExternalName, ClusterIP, NodePort, and LoadBalancer. More info: \
         https://kubernetes.io/docs/concepts/services-networking/service/#publishing-services-service-types",
    ),
    column(
        "Cluster-IP",
        "string",
        0,
        "clusterIP is the IP address of the service and is usually assigned randomly. More info: \
         https://kubernetes.io/docs/concepts/services-networking/service/#virtual-ips-and-service-proxies",
    ),
    column(
        "External-IP",
        "string",
        0,
        "externalIPs is a list of IP addresses for which nodes in the cluster will also accept \
         traffic for this service.",
    ),
    column("Port(s)", "string", 0, "The list of ports that are exposed by this service."),
    table::AGE,
    column(
        "Selector",
        "string",
        1,
        "Route service traffic to pods with label keys and values matching this selector.",
    ),
];

pub fn cells(service: &Value, now: Time) -> Vec<Value> {
    let spec = service.at("spec");
    let address = texts(spec, "clusterIPs").next().unwrap_or(spec.text("clusterIP"));
    vec![
        table::name(service),
        kind(spec).into(),
        table::or_none(address).into(),
        external(spec, service.at("status")).into(),
        ports(spec).into(),
        table::age(service, now),
        table::labels(spec.at("selector")).into(),
    ]
}

fn external(spec: &Value, status: &Value) -> String {
    let given = table::list(texts(spec, "externalIPs"));
    match kind(spec) {
        "ExternalName" => spec.text("externalName").into(),
        "LoadBalancer" => {
            let ingress = status.at("loadBalancer").items("ingress").iter();
            let of = |item: &'_ Value| match item.text("ip") {
                "" => item.text("hostname").to_string(),
                ip => ip.to_string(),
            };
            let mut all: Vec<String> = ingress.map(of).filter(|text| !text.is_empty()).collect();
            all.extend(texts(spec, "externalIPs").map(String::from));
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        _ => table::or_none(&given).into(),
    }
}

fn ports(spec: &Value) -> String {
    let ports = spec.items("ports").iter().map(|port| {
        let (number, protocol) = (port.int("port").unwrap_or(0), port.text("protocol"));
        match port.int("nodePort").unwrap_or(0) {
            0 => format!("{number}/{protocol}"),
            node => format!("{number}:{node}/{protocol}"),
        }
    });
    let text = ports.collect::<Vec<_>>().join(",");
    table::or_none(&text).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn services_as_kubectl_shows_them() {
        let cases = [
            (
                json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
                    "ports": [{"port": 443, "protocol": "TCP"}]}),
                json!({}),
                "ClusterIP 10.0.0.1 <none> 443/TCP",
            ),
            (
                json!({"type": "LoadBalancer", "clusterIP": "10.0.0.2",
                    "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"},
                        {"port": 53, "nodePort": 30053, "protocol": "UDP"}]}),
                json!({"loadBalancer": {}}),
                "LoadBalancer 10.0.0.2 <pending> 80:30080/TCP,53:30053/UDP",
            ),
            (
                json!({"type": "LoadBalancer", "clusterIP": "10.0.0.2"}),
                json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}, {"hostname": "lb"}]}}),
                "LoadBalancer 10.0.0.2 1.2.3.4,lb <none>",
            ),
            (json!({"clusterIP": "None"}), json!({}), "ClusterIP None <none> <none>"),
            (
                json!({"type": "ExternalName", "externalName": "example.com"}),
                json!({}),
                "ExternalName <none> example.com <none>",
            ),
        ];
        for (spec, status, expected) in cases {
            let service = json!({"metadata": {"name": "s"}, "spec": spec, "status": status});
            let cells = cells(&service, Time::from_unix(0));
            let shown: Vec<&str> = cells[1..5].iter().filter_map(Value::as_str).collect();
            assert_eq!(shown.join(" "), expected);
            assert_eq!(cells.len(), COLUMNS.len());
        }
    }
}
