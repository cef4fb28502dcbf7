//! The kubelet's flags of certificates.

use std::path::PathBuf;

use clap::ArgAction;

#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Flags {
    /// With which to ask for a client certificate where the kubeconfig is missing or its
    /// certificate has expired; the kubeconfig is then written.
    #[arg(long, value_name = "FILE")]
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Where certificates are kept that were asked for.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet/pki")]
    pub cert_dir: PathBuf,
    /// Whether a client certificate that was asked for is asked for again before it expires.
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = false,
        action = ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub rotate_certificates: bool,
    /// Whether the certificate shown to callers is asked for, and again before it expires. Somebody
    /// has to approve that.
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = false,
        action = ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true",
        conflicts_with = "tls_cert_file"
    )]
    pub rotate_server_certificates: bool,
}
