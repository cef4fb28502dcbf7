//! The files by which a pod resolves names: /etc/hosts and /etc/resolv.conf (Kubernetes: DNS for
//! Services and Pods; Adding entries to Pod /etc/hosts). Pure.

use proto::cri::DnsConfig;

use crate::pod::{HostAlias, Pod};

/// What a node contributes to resolv.conf.
#[derive(Clone, Debug, Default)]
pub struct Dns {
    /// `--cluster-dns`.
    pub servers: Vec<String>,
    /// `--cluster-domain`.
    pub domain: String,
    /// The node's own resolv.conf.
    pub host: DnsConfig,
}

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// The DNS of a pod, by its dnsPolicy and dnsConfig.
pub fn dns(pod: &Pod, node: &Dns) -> DnsConfig {
    let policy = pod.spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let in_cluster = match policy {
        "ClusterFirst" => !pod.spec.host_network,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut config = match policy {
        "None" => DnsConfig::default(),
        _ if in_cluster && !node.servers.is_empty() => {
            let (domain, namespace) = (&node.domain, &pod.metadata.namespace);
            let own =
                [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            let host = node.host.searches.iter().filter(|search| *search != ".").cloned();
            DnsConfig {
                servers: node.servers.clone(),
                searches: own.into_iter().chain(host).collect(),
                options: vec!["ndots:5".into()],
            }
        }
        _ => node.host.clone(),
    };
    if let Some(own) = &pod.spec.dns_config {
        config.servers.extend(own.nameservers.iter().cloned());
        config.searches.extend(own.searches.iter().cloned());
        for option in &own.options {
            let prefix = format!("{}:", option.name);
            config.options.retain(|old| *old != option.name && !old.starts_with(&prefix));
            config.options.push(match &option.value {
                Some(value) => format!("{prefix}{value}"),
                None => option.name.clone(),
            });
        }
    }
    unique(&mut config.servers, MAX_SERVERS);
    unique(&mut config.searches, MAX_SEARCHES);
    config
}

/// Reads a resolv.conf.
pub fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace().map(String::from);
        match words.next().as_deref() {
            Some("nameserver") => config.servers.extend(words.next()),
            Some("search" | "domain") => config.searches = words.collect(),
            Some("options") => config.options = words.collect(),
            _ => {}
        }
    }
    config
}

/// A pod's /etc/hosts: the node's own with the host's network, else one with the pod's address.
pub fn hosts(pod: &Pod, ips: &[String], domain: &str, host: &str) -> String {
    let mut text = String::from("# Kubernetes-managed hosts file");
    if pod.spec.host_network {
        text.push_str(" (host network).\n");
        text.push_str(host);
    } else {
        text.push_str(
            ".\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n",
        );
        let name = pod.hostname();
        for ip in ips {
            match fqdn(pod, domain) {
                Some(full) => text.push_str(&format!("{ip}\t{full}\t{name}\n")),
                None => text.push_str(&format!("{ip}\t{name}\n")),
            }
        }
    }
    aliases(&mut text, &pod.spec.host_aliases);
    text
}

/// `hostname.subdomain.namespace.svc.domain`, where the pod has a subdomain.
pub fn fqdn(pod: &Pod, domain: &str) -> Option<String> {
    let overridden = pod.spec.hostname_override.as_deref().is_some_and(|name| !name.is_empty());
    let subdomain = &pod.spec.subdomain;
    (!subdomain.is_empty() && !overridden)
        .then(|| format!("{}.{subdomain}.{}.svc.{domain}", pod.hostname(), pod.metadata.namespace))
}

fn aliases(text: &mut String, aliases: &[HostAlias]) {
    if aliases.is_empty() {
        return;
    }
    text.push_str("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
    }
}

fn unique(list: &mut Vec<String>, max: usize) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
    list.truncate(max);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "n"}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn policies() {
        let node = Dns {
            servers: vec!["10.96.0.10".into()],
            domain: "cluster.local".into(),
            host: parse("# x\nnameserver 1.1.1.1\nsearch example.com\noptions edns0\n"),
        };
        let inside = "n.svc.cluster.local svc.cluster.local cluster.local example.com";
        let table = [
            (json!({}), "10.96.0.10", inside, "ndots:5"),
            (json!({"hostNetwork": true}), "1.1.1.1", "example.com", "edns0"),
            (
                json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                "10.96.0.10",
                inside,
                "ndots:5",
            ),
            (json!({"dnsPolicy": "Default"}), "1.1.1.1", "example.com", "edns0"),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"],
                    "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}]}}),
                "9.9.9.9",
                "a.b",
                "ndots:2",
            ),
            (
                json!({"dnsConfig": {"options": [{"name": "ndots", "value": "1"},
                    {"name": "edns0"}]}}),
                "10.96.0.10",
                inside,
                "ndots:1 edns0",
            ),
        ];
        for (spec, servers, searches, options) in table {
            let config = dns(&pod(spec.clone()), &node);
            assert_eq!(config.servers.join(" "), servers, "{spec}");
            assert_eq!(config.searches.join(" "), searches, "{spec}");
            assert_eq!(config.options.join(" "), options, "{spec}");
        }
    }

    #[test]
    fn hosts_file() {
        let plain = hosts(&pod(json!({})), &["10.1.0.2".into()], "cluster.local", "");
        assert!(plain.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(plain.ends_with("fe00::2\tip6-allrouters\n10.1.0.2\tweb\n"), "{plain}");
        let spec = json!({"hostname": "h", "subdomain": "s",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]});
        let full = hosts(&pod(spec), &["10.1.0.2".into()], "cluster.local", "");
        assert!(full.contains("10.1.0.2\th.s.n.svc.cluster.local\th\n"));
        assert!(full.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
        let host = hosts(&pod(json!({"hostNetwork": true})), &[], "d", "127.0.0.1 me\n");
        assert_eq!(host, "# Kubernetes-managed hosts file (host network).\n127.0.0.1 me\n");
    }
}
