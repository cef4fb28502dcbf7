//! The rules of Services.

use std::collections::HashSet;
use std::net::IpAddr;

use proto::status::FieldError;
use serde_json::{Value, json};

use super::{accessible, headless, kind, needs_health_port};
use crate::kinds::check::{self, Errors, texts};
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

const SPEC: Path = Path::root("spec");
const PORTS: Path = SPEC.field("ports");

/// Validates the spec of a Service; addresses and node ports that are still to be allocated may
/// be missing.
pub fn service(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = kind(spec);
    check::one_of(
        &SPEC.field("type"),
        kind,
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        &mut errors,
    );
    if kind == "ExternalName" {
        external_name(spec, &mut errors);
    } else {
        addresses(spec, &mut errors);
    }
    if spec.vacant("ports") && !headless(spec) && kind != "ExternalName" {
        errors.push(FieldError::required(PORTS, ""));
    }
    if headless(spec) && matches!(kind, "LoadBalancer" | "NodePort") {
        let path = SPEC.field("clusterIPs");
        let detail = format!("may not be set to 'None' for {kind} services");
        errors.push(FieldError::invalid(path.index(0), "None", detail));
    }
    ports(spec, &mut errors);
    crate::kinds::metadata::labels(&SPEC.field("selector"), spec.at("selector"), &mut errors);
    affinity(spec, &mut errors);
    external_addresses(spec, &mut errors);
    load_balancer(spec, &mut errors);
    traffic(spec, &mut errors);
    errors
}

/// Validates a change of the spec.
pub fn update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = service(new);
    let kept = kind(new) != "ExternalName" && kind(old) != "ExternalName";
    let path = SPEC.field("clusterIPs");
    if kept && new.vacant("clusterIPs") && !old.vacant("clusterIPs") {
        let detail = "primary clusterIP can not be unset";
        errors.push(FieldError::invalid(path.index(0), Value::Null, detail));
    }
    for field in ["clusterIPs", "ipFamilies"] {
        let (path, after, before) = (SPEC.field(field), new.items(field), old.items(field));
        // The second may come and go, by the policy; it does not become another.
        for (index, (now, before)) in after.iter().zip(before).enumerate() {
            if kept && now != before {
                let value = new.at(field).clone();
                errors.push(FieldError::invalid(path.index(index), value, UNCHANGEABLE));
            }
        }
    }
    let (now, before) = (new.at("loadBalancerClass"), old.at("loadBalancerClass"));
    if kind(new) == "LoadBalancer" && kind(old) == "LoadBalancer" && now != before {
        let path = SPEC.field("loadBalancerClass");
        errors.push(FieldError::invalid(path, now.clone(), UNCHANGEABLE));
    }
    errors
}

/// Validates the status of a Service.
pub fn status(service: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::root("status");
    let path = path.field("loadBalancer");
    let path = path.field("ingress");
    let ingress = service.at("status").at("loadBalancer").items("ingress");
    if !ingress.is_empty() && kind(service.at("spec")) != "LoadBalancer" {
        let detail = "may only be used when `spec.type` is LoadBalancer";
        errors.push(FieldError::forbidden(path, detail));
    }
    for (index, item) in ingress.iter().enumerate() {
        let path = path.index(index);
        let (ip, host, mode) = (item.text("ip"), item.text("hostname"), item.text("ipMode"));
        if !ip.is_empty() {
            check::ip(&path.field("ip"), ip, &mut errors);
            check::optional_one_of(&path.field("ipMode"), mode, &["Proxy", "VIP"], &mut errors);
        } else if !mode.is_empty() {
            let detail = "may not be specified when `ip` is not set";
            errors.push(FieldError::forbidden(path.field("ipMode"), detail));
        }
        if !host.is_empty() {
            check::subdomain(&path.field("hostname"), host, &mut errors);
            if host.parse::<IpAddr>().is_ok() {
                let detail = "must be a DNS name, not an IP address";
                errors.push(FieldError::invalid(path.field("hostname"), host, detail));
            }
        }
    }
    errors
}

fn external_name(spec: &Value, errors: &mut Errors) {
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if !spec.vacant(field) {
            let detail = "may not be set for ExternalName services";
            errors.push(FieldError::forbidden(SPEC.field(field), detail));
        }
    }
    match spec.text("externalName").trim_end_matches('.') {
        "" => errors.push(FieldError::required(SPEC.field("externalName"), "")),
        name => check::subdomain(&SPEC.field("externalName"), name, errors),
    }
}

fn addresses(spec: &Value, errors: &mut Errors) {
    let path = SPEC.field("clusterIPs");
    let list: Vec<&str> = texts(spec, "clusterIPs").collect();
    let first = spec.text("clusterIP");
    if let Some(of_list) = list.first()
        && *of_list != first
    {
        let detail = "first value must match `clusterIP`";
        errors.push(FieldError::invalid(path, json!(list), detail));
    }
    if list.len() > 2 {
        errors.push(FieldError::invalid(path, json!(list), "may only hold up to 2 values"));
    }
    if list.len() > 1 && list.contains(&"None") {
        let detail = "'None' must be the first and only value";
        errors.push(FieldError::invalid(path, json!(list), detail));
    }
    for (index, address) in list.iter().enumerate().filter(|(_, address)| **address != "None") {
        check::ip(&path.index(index), address, errors);
    }
    let path_policy = SPEC.field("ipFamilyPolicy");
    let policy = spec.text("ipFamilyPolicy");
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    check::optional_one_of(&path_policy, policy, &policies, errors);
    let path_families = SPEC.field("ipFamilies");
    let families: Vec<&str> = texts(spec, "ipFamilies").collect();
    for (index, family) in families.iter().enumerate() {
        let path = path_families.index(index);
        check::one_of(&path, family, &["IPv4", "IPv6"], errors);
        if families[..index].contains(family) {
            errors.push(FieldError::duplicate(path, *family));
        }
        let Some(address) = list.get(index).filter(|address| **address != "None") else { continue };
        if (*family == "IPv6") != address.contains(':') && address.parse::<IpAddr>().is_ok() {
            let detail =
                format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            let path = SPEC.field("clusterIPs");
            errors.push(FieldError::invalid(path.index(index), *address, detail));
        }
    }
}

fn ports(spec: &Value, errors: &mut Errors) {
    let ports = spec.items("ports");
    let kind = kind(spec);
    let (mut names, mut keys, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = PORTS.index(index);
        let (name, protocol) = (port.text("name"), port.text("protocol"));
        if name.is_empty() {
            if ports.len() > 1 {
                errors.push(FieldError::required(path.field("name"), ""));
            }
        } else {
            check::label(&path.field("name"), name, errors);
            if !names.insert(name) {
                errors.push(FieldError::duplicate(path.field("name"), name));
            }
        }
        let number = port.int("port").unwrap_or(0);
        check::port_number(&path.field("port"), number, errors);
        check::one_of(&path.field("protocol"), protocol, &["SCTP", "TCP", "UDP"], errors);
        check::port(&path.field("targetPort"), port.at("targetPort"), errors);
        if !port.text("appProtocol").is_empty() {
            check::qualified(&path.field("appProtocol"), port.text("appProtocol"), errors);
        }
        if kind == "LoadBalancer" && number == KUBELET_PORT {
            let detail = format!(
                "may not expose port {KUBELET_PORT} externally since it is used by kubelet"
            );
            errors.push(FieldError::invalid(path, number, detail));
        }
        let node_port = port.int("nodePort").unwrap_or(0);
        if node_port != 0 {
            if matches!(kind, "ClusterIP" | "ExternalName") {
                let detail = format!("may not be used when `type` is '{kind}'");
                errors.push(FieldError::forbidden(path.field("nodePort"), detail));
            } else if !node_ports.insert((protocol, node_port)) {
                errors.push(FieldError::duplicate(path.field("nodePort"), node_port));
            }
        }
        if !keys.insert((protocol, number)) {
            errors.push(FieldError::duplicate(path, duplicate_port(protocol, number)));
        }
    }
}

/// Upstream shows its internal struct with only these two set.
fn duplicate_port(protocol: &str, number: i64) -> Value {
    json!({
        "Name": "", "Protocol": protocol, "AppProtocol": null, "Port": number, "TargetPort": 0,
        "NodePort": 0,
    })
}

fn affinity(spec: &Value, errors: &mut Errors) {
    let affinity = spec.text("sessionAffinity");
    check::one_of(&SPEC.field("sessionAffinity"), affinity, &["ClientIP", "None"], errors);
    let config = spec.at("sessionAffinityConfig");
    let path = SPEC.field("sessionAffinityConfig");
    if affinity == "None" && !config.is_null() {
        let detail = "must not be set when session affinity is None";
        errors.push(FieldError::forbidden(path, detail));
    } else if affinity == "ClientIP" {
        let seconds = config.at("clientIP").int("timeoutSeconds").unwrap_or(0);
        if seconds <= 0 || seconds > 86400 {
            let path = path.field("clientIP");
            let detail = "must be greater than 0 and less than 86400";
            errors.push(FieldError::invalid(path.field("timeoutSeconds"), seconds, detail));
        }
    }
}

fn external_addresses(spec: &Value, errors: &mut Errors) {
    let path = SPEC.field("externalIPs");
    for (index, text) in texts(spec, "externalIPs").enumerate() {
        let path = path.index(index);
        check::ip(&path, text, errors);
        if let Some(detail) = text.parse().ok().and_then(check::special_address) {
            errors.push(FieldError::invalid(path, text, detail));
        }
    }
}

fn load_balancer(spec: &Value, errors: &mut Errors) {
    let balanced = kind(spec) == "LoadBalancer";
    let only = "may only be used when `type` is 'LoadBalancer'";
    let ranges: Vec<&str> = texts(spec, "loadBalancerSourceRanges").collect();
    let path = SPEC.field("loadBalancerSourceRanges");
    if !ranges.is_empty() && !balanced {
        errors.push(FieldError::forbidden(path, only));
    }
    for (index, range) in ranges.iter().enumerate() {
        check::network(&path.index(index), range.trim(), errors);
    }
    let field = SPEC.field("allocateLoadBalancerNodePorts");
    match spec.has("allocateLoadBalancerNodePorts") {
        false if balanced => errors.push(FieldError::required(field, "")),
        true if !balanced => errors.push(FieldError::forbidden(field, only)),
        _ => {}
    }
    let class = spec.text("loadBalancerClass");
    if !class.is_empty() {
        let path = SPEC.field("loadBalancerClass");
        if !balanced {
            errors.push(FieldError::forbidden(path, only));
        }
        check::qualified(&path, class, errors);
    }
}

fn traffic(spec: &Value, errors: &mut Errors) {
    let path = SPEC.field("externalTrafficPolicy");
    let policy = spec.text("externalTrafficPolicy");
    if accessible(spec) {
        check::one_of(&path, policy, &["Cluster", "Local"], errors);
    } else if !policy.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid(path, policy, detail));
    }
    let path = SPEC.field("healthCheckNodePort");
    let port = spec.int("healthCheckNodePort").unwrap_or(0);
    if port != 0 && needs_health_port(spec) {
        check::port_number(&path, port, errors);
    } else if port != 0 {
        let detail = "may only be set when `type` is 'LoadBalancer' and \
                      `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid(path, port, detail));
    }
    let internal = spec.text("internalTrafficPolicy");
    let supported = ["Cluster", "Local"];
    check::optional_one_of(&SPEC.field("internalTrafficPolicy"), internal, &supported, errors);
    let distribution = spec.text("trafficDistribution");
    let supported = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    let path = SPEC.field("trafficDistribution");
    check::optional_one_of(&path, distribution, &supported, errors);
}

const KUBELET_PORT: i64 = 10250;
const UNCHANGEABLE: &str = "may not change once set";
