//! NetworkPolicies.

use std::net::IpAddr;

use proto::status::FieldError;
use proto::time::Time;
use serde_json::{Value, json};

use super::check::{self, Errors};
use super::described;
use super::lens::Lens;
use super::metadata::sentences;
use super::name;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Strategy};

const SPEC: Path = Path::root("spec");
/// Rules, their peers.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

pub struct NetworkPolicy;

impl Strategy for NetworkPolicy {
    fn counted(&self) -> &'static [&'static str] {
        &["/spec"]
    }

    /// Without types a policy is about ingress, and about egress where it has such rules.
    fn default(&self, object: &mut Value) {
        let spec = object.section("spec");
        if spec.vacant("policyTypes") {
            let types = match spec.vacant("egress") {
                true => json!(["Ingress"]),
                false => json!(["Ingress", "Egress"]),
            };
            spec.set("policyTypes", types);
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = object.at("spec");
        let path = SPEC.field("podSelector");
        check::label_selector(&path, spec.at("podSelector"), &mut errors);
        for (direction, peers) in DIRECTIONS {
            let path = SPEC.field(direction);
            for (index, rule) in spec.items(direction).iter().enumerate() {
                let path = path.index(index);
                let (path_ports, path_peers) = (path.field("ports"), path.field(peers));
                for (index, one) in rule.items("ports").iter().enumerate() {
                    port(&path_ports.index(index), one, &mut errors);
                }
                for (index, one) in rule.items(peers).iter().enumerate() {
                    peer(&path_peers.index(index), one, &mut errors);
                }
            }
        }
        let path = SPEC.field("policyTypes");
        if spec.items("policyTypes").len() > 2 {
            let value = spec.at("policyTypes").clone();
            let detail = "may not specify more than two policyTypes";
            errors.push(FieldError::invalid(path, value, detail));
            return errors;
        }
        for (index, kind) in check::texts(spec, "policyTypes").enumerate() {
            if !["Ingress", "Egress"].contains(&kind) {
                let path = path.index(index);
                errors.push(FieldError::not_supported(path, kind, &["Ingress", "Egress"]));
            }
        }
        errors
    }

    /// Of networks that are written unusually.
    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        for (direction, peers) in DIRECTIONS {
            for (i, rule) in new.at("spec").items(direction).iter().enumerate() {
                for (j, peer) in rule.items(peers).iter().enumerate() {
                    let block = peer.at("ipBlock");
                    let path = format!("spec.{direction}[{i}].{peers}[{j}].ipBlock");
                    warnings.extend(unusual(&format!("{path}.cidr"), block.text("cidr")));
                    for (k, except) in check::texts(block, "except").enumerate() {
                        warnings.extend(unusual(&format!("{path}.except[{k}]"), except));
                    }
                }
            }
        }
        warnings
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                table::NAME,
                column("Pod-Selector", "string", 0, described::POLICY_POD_SELECTOR),
                table::AGE,
            ]
        }
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let selector = table::selector(object.at("spec").at("podSelector"));
        vec![table::name(object), selector.into(), table::age(object, now)]
    }
}

fn port(path: &Path, port: &Value, errors: &mut Errors) {
    let protocols = ["TCP", "UDP", "SCTP"];
    let protocol = port.text("protocol");
    check::optional_one_of(&path.field("protocol"), protocol, &protocols, errors);
    let (path_port, path_end) = (path.field("port"), path.field("endPort"));
    let end = port.int("endPort");
    let refuse = |errors: &mut Errors, detail: &str| {
        let value = port.at("endPort").clone();
        errors.push(FieldError::invalid(path_end, value, detail));
    };
    match port.at("port") {
        Value::Number(number) => {
            let number = number.as_i64().unwrap_or(0);
            check::port_number(&path_port, number, errors);
            if let Some(end) = end {
                if end < number {
                    refuse(errors, "must be greater than or equal to `port`");
                }
                check::port_number(&path_end, end, errors);
            }
        }
        Value::String(name) => {
            if end.is_some() {
                refuse(errors, "may not be specified when `port` is non-numeric");
            }
            errors.extend(sentences(&path_port, name, name::port(name)));
        }
        _ if end.is_some() => refuse(errors, "may not be specified when `port` is not specified"),
        _ => {}
    }
}

fn peer(path: &Path, peer: &Value, errors: &mut Errors) {
    let mut count = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if peer.has(field) {
            count += 1;
            check::label_selector(&path.field(field), peer.at(field), errors);
        }
    }
    if peer.has("ipBlock") {
        count += 1;
        block(&path.field("ipBlock"), peer.at("ipBlock"), errors);
    }
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a peer"));
    } else if count > 1 && peer.has("ipBlock") {
        let detail = "may not specify both ipBlock and another peer";
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn block(path: &Path, block: &Value, errors: &mut Errors) {
    let cidr = block.text("cidr");
    if cidr.is_empty() {
        errors.push(FieldError::required(path.field("cidr"), ""));
        return;
    }
    check::network(&path.field("cidr"), cidr, errors);
    let Some((_, base, prefix)) = check::split_network(cidr) else { return };
    let path = path.field("except");
    for (index, text) in check::texts(block, "except").enumerate() {
        let path = path.index(index);
        check::network(&path, text, errors);
        let Some((address, _, longer)) = check::split_network(text) else { continue };
        let inside = check::split_network(&format!("{address}/{prefix}"));
        let within = address.is_ipv4() == base.is_ipv4()
            && inside.is_some_and(|(_, network, _)| network == base);
        if !within || prefix >= longer {
            let detail = "must be a strict subset of `cidr`";
            errors.push(FieldError::invalid(path, text, detail));
        }
    }
}

fn unusual(path: &str, cidr: &str) -> Option<String> {
    let (address, base, prefix) = check::split_network(cidr)?;
    if address != base {
        let all = if address.is_ipv4() { 32 } else { 128 };
        return Some(format!(
            "{path}: CIDR value {cidr:?} is ambiguous in this context (should be \
             \"{base}/{prefix}\" or \"{address}/{all}\"?)"
        ));
    }
    let canonical = format!("{base}/{prefix}");
    (matches!(address, IpAddr::V6(_)) && canonical != cidr).then(|| {
        format!(
            "{path}: IPv6 CIDR value {cidr:?} should be in RFC 5952 canonical format \
             ({canonical:?})"
        )
    })
}
