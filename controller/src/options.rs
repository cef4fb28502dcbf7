//! The command line of the controllers, with upstream's names where the same thing exists.

use std::path::PathBuf;
use std::time::Duration;

use client::endpoint;

use crate::load_balancer::Range;

/// What can be said on the command line.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Path to the kubeconfig with the API server's address and our credentials.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Controllers to run: '*' is all, 'foo' the one called foo, '-foo' not that one.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "*",
        allow_hyphen_values = true
    )]
    pub controllers: Vec<String>,
    /// Become leader before starting; for more than one copy.
    #[arg(long, value_name = "BOOL", default_value_t = true, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pub leader_elect: bool,
    /// Give Services of type LoadBalancer addresses of this range.
    #[arg(long, value_name = "CIDR")]
    pub load_balancer_cidr: Option<Range>,
    /// Give every node a range for its pods, out of --cluster-cidr.
    #[arg(long, value_name = "BOOL", default_value_t = false, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set,
          requires_if("true", "cluster_cidr"))]
    pub allocate_node_cidrs: bool,
    /// The range of all pods' addresses.
    #[arg(long, value_name = "CIDR")]
    pub cluster_cidr: Option<String>,
    /// The length of a node's range.
    #[arg(long, value_name = "BITS", default_value_t = 24)]
    pub node_cidr_mask_size: u32,
    /// Publish this certificate authority to every namespace as ConfigMap kube-root-ca.crt.
    #[arg(long, value_name = "FILE")]
    pub root_ca_file: Option<PathBuf>,
    /// The private key that signs the tokens in Secrets of type
    /// kubernetes.io/service-account-token.
    #[arg(long, value_name = "FILE")]
    pub service_account_private_key_file: Option<PathBuf>,
    /// The authority that signs certificates of nodes and of the API's clients.
    #[arg(long, value_name = "FILE", requires = "cluster_signing_key_file")]
    pub cluster_signing_cert_file: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "cluster_signing_cert_file")]
    pub cluster_signing_key_file: Option<PathBuf>,
    /// How long signed certificates are good for, unless a shorter time is asked.
    #[arg(long, value_name = "DURATION", default_value = "8760h0m0s", value_parser = duration)]
    pub cluster_signing_duration: Duration,
    /// How long a node may be silent before it is taken for not ready.
    #[arg(long, value_name = "DURATION", default_value = "40s", value_parser = duration)]
    pub node_monitor_grace_period: Duration,
    /// How long a ServiceAccount's token in a Secret may be unused before it is marked invalid, and
    /// then again before it is deleted.
    #[arg(long, value_name = "DURATION", default_value = "8760h0m0s", value_parser = positive)]
    pub legacy_service_account_token_clean_up_period: Duration,
    /// How many ended pods may exist before the oldest are deleted; 0: any number.
    #[arg(long, value_name = "COUNT", default_value_t = 12500)]
    pub terminated_pod_gc_threshold: usize,
    /// The port on which metrics and health are served over HTTPS; 0: nowhere.
    #[arg(long, value_name = "PORT", default_value_t = 10257)]
    pub secure_port: u16,
    #[command(flatten)]
    pub endpoint: endpoint::Flags,
}

/// The command line's defaults, but for the endpoint: who runs controllers in a process of others
/// says whether there is one.
impl Default for Options {
    fn default() -> Options {
        Options {
            kubeconfig: None,
            controllers: vec!["*".into()],
            leader_elect: true,
            load_balancer_cidr: None,
            allocate_node_cidrs: false,
            cluster_cidr: None,
            node_cidr_mask_size: 24,
            root_ca_file: None,
            service_account_private_key_file: None,
            cluster_signing_cert_file: None,
            cluster_signing_key_file: None,
            cluster_signing_duration: Duration::from_secs(365 * 24 * 3600),
            node_monitor_grace_period: Duration::from_secs(40),
            legacy_service_account_token_clean_up_period: Duration::from_secs(365 * 24 * 3600),
            terminated_pod_gc_threshold: 12500,
            secure_port: 0,
            endpoint: endpoint::Flags::default(),
        }
    }
}

/// A name in `--controllers` that no controller bears.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not in the list of known controllers")]
pub struct UnknownController(String);

impl Options {
    /// Which of the known controllers are to run.
    pub fn enabled<'a>(&self, known: &[&'a str]) -> Result<Vec<&'a str>, UnknownController> {
        for name in &self.controllers {
            let bare = name.strip_prefix('-').unwrap_or(name);
            if name != "*" && !known.contains(&bare) {
                return Err(UnknownController(bare.into()));
            }
        }
        Ok(known.iter().copied().filter(|name| self.includes(name)).collect())
    }

    /// Whether a controller of that name is to run.
    pub fn includes(&self, name: &str) -> bool {
        let says = |text: &str| self.controllers.iter().any(|said| said == text);
        says(name) || (says("*") && !says(&format!("-{name}")))
    }
}

/// A duration as Go writes it: `40s`, `1m30s`, `500ms`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("time: invalid duration {text:?}");
    let (mut total, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(unit_at);
        let next = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(next);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        rest = tail;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// A duration that is not nothing.
fn positive(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.is_zero() { Err("it must be more than 0".into()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_controllers_run() {
        let known = ["a", "b", "c"];
        for (list, expected) in [
            ("*", Ok(vec!["a", "b", "c"])),
            ("*,-b", Ok(vec!["a", "c"])),
            ("b", Ok(vec!["b"])),
            ("x", Err(UnknownController("x".into()))),
        ] {
            let controllers = list.split(',').map(String::from).collect();
            let options = Options { controllers, ..Options::default() };
            assert_eq!(options.enabled(&known), expected, "{list}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0.5s"), Ok(Duration::from_millis(500)));
        assert!(duration("40").is_err() && duration("").is_err() && duration("4x").is_err());
    }
}
