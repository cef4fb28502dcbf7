//! What happens to allocated values (addresses, node ports) when a Service is replaced by one that
//! does not mention them, or no longer needs them.

use serde_json::{Value, json};

use super::{accessible, kind, needs_address, needs_health_port, needs_node_ports};
use crate::kinds::lens::Lens;

/// Makes clusterIP and clusterIPs say the same where a client, perhaps an old one, set only one.
pub fn normalise(spec: &mut Value, old: &Value) {
    let address = spec.text("clusterIP").to_string();
    if old.is_null() {
        if !address.is_empty() && spec.vacant("clusterIPs") {
            spec.set("clusterIPs", json!([address]));
        }
        return;
    }
    let changed = address != old.text("clusterIP");
    let list_changed = spec.at("clusterIPs") != old.at("clusterIPs");
    if changed && !list_changed {
        if address.is_empty() {
            spec.drop("clusterIPs");
        } else {
            spec.set("clusterIPs", json!([address]));
        }
    } else if !changed && list_changed && !address.is_empty() && spec.vacant("clusterIPs") {
        spec.set("clusterIPs", old.at("clusterIPs").clone());
    }
}

/// Takes over from the old spec what was allocated and is still needed but not mentioned.
pub fn take_over(spec: &mut Value, old: &Value) {
    if kind(old) != "ExternalName" && kind(spec) != "ExternalName" {
        if spec.vacant("clusterIP") && spec.vacant("clusterIPs") {
            spec.take_over("clusterIP", old);
        }
        if spec.vacant("clusterIPs") && spec.at("clusterIP") == old.at("clusterIP") {
            spec.take_over("clusterIPs", old);
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if spec.vacant(field) {
                spec.take_over(field, old);
            }
        }
    }
    if needs_node_ports(old) && needs_node_ports(spec) {
        node_ports(spec, old);
    }
    let field = "healthCheckNodePort";
    if needs_health_port(old) && needs_health_port(spec) && spec.int(field).unwrap_or(0) == 0 {
        spec.take_over(field, old);
    }
}

/// Drops what only the old type needed, unless the client changed it.
pub fn drop_stale(spec: &mut Value, old: &Value) {
    let same = |spec: &Value, field: &str| spec.at(field) == old.at(field);
    if kind(old) != "ExternalName" && kind(spec) == "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if same(spec, field) {
                spec.drop(field);
            }
        }
    }
    if needs_node_ports(old) && !needs_node_ports(spec) {
        let before: Vec<i64> = numbers(old);
        if numbers(spec).iter().all(|number| before.contains(number)) {
            spec.items_mut("ports").iter_mut().for_each(|port| port.drop("nodePort"));
        }
    }
    let load_balancer = |spec: &Value| kind(spec) == "LoadBalancer";
    let internal = |spec: &Value| kind(spec) != "ExternalName";
    type Needs<'a> = &'a dyn Fn(&Value) -> bool;
    let rules: [(&str, Needs); 5] = [
        ("healthCheckNodePort", &needs_health_port),
        ("allocateLoadBalancerNodePorts", &load_balancer),
        ("loadBalancerClass", &load_balancer),
        ("externalTrafficPolicy", &accessible),
        ("internalTrafficPolicy", &internal),
    ];
    for (field, needs) in rules {
        if needs(old) && !needs(spec) && same(spec, field) {
            spec.drop(field);
        }
    }
}

/// The addresses that a Service holds.
pub fn addresses(spec: &Value) -> Vec<&str> {
    if !needs_address(spec) {
        return Vec::new();
    }
    match spec.items("clusterIPs") {
        [] => Some(spec.text("clusterIP")).filter(|ip| !ip.is_empty()).into_iter().collect(),
        list => list.iter().filter_map(Value::as_str).collect(),
    }
}

/// The ports of the nodes that a Service holds, each once.
pub fn numbers(spec: &Value) -> Vec<i64> {
    let ports = spec.items("ports").iter().filter_map(|port| port.int("nodePort"));
    let health = spec.int("healthCheckNodePort");
    let mut numbers: Vec<i64> = ports.chain(health).filter(|number| *number != 0).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn node_ports(spec: &mut Value, old: &Value) {
    let key = |port: &Value| (port.text("protocol").to_string(), port.int("port"));
    let mut taken: Vec<i64> = numbers(spec);
    for port in spec.items_mut("ports") {
        if port.int("nodePort").unwrap_or(0) != 0 {
            continue;
        }
        let before = old.items("ports").iter().find(|before| key(before) == key(port));
        let number = before.and_then(|before| before.int("nodePort")).unwrap_or(0);
        if number != 0 && !taken.contains(&number) {
            taken.push(number);
            port.set("nodePort", number);
        }
    }
}
