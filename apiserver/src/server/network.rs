//! The names that follow from the options.

use super::Options;

/// Every name and address under which the server is met.
pub(super) fn serving_names(options: &Options) -> Vec<String> {
    let mut names: Vec<String> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "127.0.0.1",
        "::1",
    ]
    .map(String::from)
    .to_vec();
    names.push(options.service_cluster_ip_range.first.nth(0).to_string());
    names.push(options.local().to_string());
    names.push(options.advertised().to_string());
    names.extend(options.tls_san.iter().cloned());
    names.sort();
    names.dedup();
    names
}
