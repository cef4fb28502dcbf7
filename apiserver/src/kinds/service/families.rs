//! Which families of addresses a Service speaks, by what it asks for and what the cluster has.
//! <https://kubernetes.io/docs/concepts/services-networking/dual-stack/>

use std::net::IpAddr;

use proto::status::FieldError;
use serde_json::{Value, json};

use super::{headless, kind, needs_address};
use crate::kinds::check::{Errors, texts};
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

const SPEC: Path = Path::root("spec");
const SINGLE: &str = "SingleStack";
const REQUIRE: &str = "RequireDualStack";
const PREFER: &str = "PreferDualStack";

/// The family of an address.
pub fn of(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "IPv6" } else { "IPv4" }
}

/// Completes ipFamilyPolicy and ipFamilies, and takes away what a Service gives up that wants one
/// family from now on. `old` is null for a new Service; `configured` are the cluster's families,
/// the default one first.
pub fn settle(spec: &mut Value, old: &Value, configured: &[&str]) -> Errors {
    if kind(spec) == "ExternalName" || stays_as_it_is(spec, old) {
        return Vec::new();
    }
    let by_hand = headless(spec) && spec.vacant("selector");
    if spec.vacant("ipFamilyPolicy") {
        let policy = match old.text("ipFamilyPolicy") {
            "" if by_hand => REQUIRE,
            "" => SINGLE,
            before => before,
        };
        spec.set("ipFamilyPolicy", policy);
    }
    let policy = spec.text("ipFamilyPolicy").to_string();
    let mut errors = Vec::new();
    if !old.is_null() {
        give_up(spec, old, &policy, &mut errors);
    }
    if policy == SINGLE {
        for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
            if spec.items(field).len() == 2 {
                let detail =
                    format!("must be '{REQUIRE}' or '{PREFER}' when multiple {what} are specified");
                errors.push(FieldError::invalid(SPEC.field("ipFamilyPolicy"), &*policy, detail));
            }
        }
    }
    follow_addresses(spec, configured, &mut errors);
    if !errors.is_empty() {
        return errors;
    }
    let default = configured.first().copied().unwrap_or("IPv4");
    if by_hand {
        // Its endpoints may be of a family that the cluster's own addresses are not of.
        complete(spec, default, policy != SINGLE);
        return errors;
    }
    if policy == REQUIRE && configured.len() < 2 {
        let detail = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid(SPEC.field("ipFamilyPolicy"), &*policy, detail));
    }
    let path = SPEC.field("ipFamilies");
    for (index, family) in texts(spec, "ipFamilies").enumerate() {
        if !configured.contains(&family) {
            let detail = "not configured on this cluster";
            errors.push(FieldError::invalid(path.index(index), family, detail));
        }
    }
    if errors.is_empty() {
        complete(spec, default, policy != SINGLE && configured.len() == 2);
    }
    errors
}

/// A Service that only prefers two families keeps those it has, whatever the cluster has by now.
fn stays_as_it_is(spec: &Value, old: &Value) -> bool {
    let prefers = |spec: &Value| spec.text("ipFamilyPolicy") == PREFER;
    let same = |field: &str| spec.items(field).len() == old.items(field).len();
    kind(old) != "ExternalName"
        && prefers(spec)
        && prefers(old)
        && same("clusterIPs")
        && same("ipFamilies")
}

/// A second family goes by the policy alone.
fn give_up(spec: &mut Value, old: &Value, policy: &str, errors: &mut Errors) {
    for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let (now, before) = (spec.items(field), old.items(field));
        if policy == SINGLE {
            if now == before && now.len() > 1 {
                let first = now[0].clone();
                spec.set(field, json!([first]));
            }
        } else if !before.is_empty() && now.len() < before.len() {
            let detail = format!("must be '{SINGLE}' to release the secondary {what}");
            errors.push(FieldError::invalid(SPEC.field("ipFamilyPolicy"), policy, detail));
        }
    }
}

/// An address that is asked for asks for its family.
fn follow_addresses(spec: &mut Value, configured: &[&str], errors: &mut Errors) {
    if !needs_address(spec) {
        return;
    }
    let addresses: Vec<String> = texts(spec, "clusterIPs").map(String::from).collect();
    let mut families: Vec<String> = texts(spec, "ipFamilies").map(String::from).collect();
    for (index, address) in addresses.iter().enumerate().skip(families.len()) {
        let Ok(address) = address.parse() else { continue };
        let family = of(address);
        if configured.contains(&family) {
            families.push(family.into());
        } else {
            let path = SPEC.field("clusterIPs");
            let detail = format!("{family} is not configured on this cluster");
            errors.push(FieldError::invalid(path.index(index), json!(addresses), detail));
        }
    }
    if !families.is_empty() {
        spec.set("ipFamilies", families);
    }
}

/// Fills in the default family, and the other one.
fn complete(spec: &mut Value, default: &str, both: bool) {
    let mut families: Vec<String> = texts(spec, "ipFamilies").map(String::from).collect();
    if families.is_empty() {
        families.push(default.into());
    }
    if both && families.len() == 1 {
        let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
        families.push(other.into());
    }
    spec.set("ipFamilies", families);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The families and addresses that come of it, or what is wrong.
    fn settled(spec: Value, old: Value, configured: &[&str]) -> String {
        let mut spec = spec;
        let errors = settle(&mut spec, &old, configured);
        if let Some(error) = errors.first() {
            return error.to_string();
        }
        let list = |field: &str| texts(&spec, field).collect::<Vec<_>>().join(",");
        format!("{} {} {}", spec.text("ipFamilyPolicy"), list("ipFamilies"), list("clusterIPs"))
    }

    #[test]
    fn new_services() {
        let (four, both, six) = (&["IPv4"][..], &["IPv4", "IPv6"][..], &["IPv6", "IPv4"][..]);
        let policy = |policy: &str| json!({"ipFamilyPolicy": policy, "selector": {"a": "b"}});
        let by_hand = json!({"clusterIP": "None", "clusterIPs": ["None"]});
        let addresses = json!({"clusterIPs": ["fd00::9", "10.0.0.9"], "ipFamilyPolicy": PREFER});
        for (spec, configured, expected) in [
            (json!({}), four, "SingleStack IPv4 "),
            (json!({}), both, "SingleStack IPv4 "),
            (json!({}), six, "SingleStack IPv6 "),
            (json!({"ipFamilies": ["IPv6"]}), both, "SingleStack IPv6 "),
            (policy(PREFER), four, "PreferDualStack IPv4 "),
            (policy(PREFER), both, "PreferDualStack IPv4,IPv6 "),
            (policy(REQUIRE), six, "RequireDualStack IPv6,IPv4 "),
            (
                policy(REQUIRE),
                four,
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not \
                 configured for dual-stack services",
            ),
            (
                json!({"ipFamilies": ["IPv4", "IPv6"]}),
                both,
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' \
                 or 'PreferDualStack' when multiple IP families are specified",
            ),
            (
                json!({"ipFamilies": ["IPv6"]}),
                four,
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
            ),
            (
                json!({"clusterIPs": ["fd00::9"]}),
                four,
                "spec.clusterIPs[0]: Invalid value: [\"fd00::9\"]: IPv6 is not configured on this \
                 cluster",
            ),
            (addresses, both, "PreferDualStack IPv6,IPv4 fd00::9,10.0.0.9"),
            (by_hand.clone(), four, "RequireDualStack IPv4,IPv6 None"),
            (by_hand, six, "RequireDualStack IPv6,IPv4 None"),
            (json!({"type": "ExternalName"}), both, "  "),
        ] {
            assert_eq!(settled(spec.clone(), Value::Null, configured), expected, "{spec}");
        }
    }

    #[test]
    fn changed_services() {
        let both = &["IPv4", "IPv6"][..];
        let spec = |policy: &str, families: &[&str], ips: &[&str]| {
            json!({"ipFamilyPolicy": policy, "ipFamilies": families, "clusterIPs": ips,
                "clusterIP": ips[0]})
        };
        let one = |policy| spec(policy, &["IPv4"], &["10.0.0.9"]);
        let two = |policy| spec(policy, &["IPv4", "IPv6"], &["10.0.0.9", "fd00::9"]);
        let shorter = |policy| spec(policy, &["IPv4", "IPv6"], &["10.0.0.9"]);
        for (new, old, expected) in [
            (one(REQUIRE), one(SINGLE), "RequireDualStack IPv4,IPv6 10.0.0.9"),
            (one(PREFER), one(SINGLE), "PreferDualStack IPv4,IPv6 10.0.0.9"),
            (one(PREFER), one(PREFER), "PreferDualStack IPv4 10.0.0.9"),
            (two(SINGLE), two(REQUIRE), "SingleStack IPv4 10.0.0.9"),
            (shorter(SINGLE), two(REQUIRE), "SingleStack IPv4 10.0.0.9"),
            (two(PREFER), two(REQUIRE), "PreferDualStack IPv4,IPv6 10.0.0.9,fd00::9"),
            (
                shorter(PREFER),
                two(REQUIRE),
                "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be 'SingleStack' to \
                 release the secondary cluster IP",
            ),
            (
                two(SINGLE),
                one(SINGLE),
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or \
                 'PreferDualStack' when multiple cluster IPs are specified",
            ),
        ] {
            assert_eq!(settled(new.clone(), old.clone(), both), expected, "{new} {old}");
        }
    }
}
