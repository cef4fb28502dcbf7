//! The flags that say which credentials count, with upstream's names.

use std::{path::PathBuf, time::Duration};

/// The issuer where none is named: what members of the cluster call the API server.
pub const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Flags of authentication.
#[derive(Clone, Debug, clap::Args)]
pub struct AuthnOptions {
    /// A CSV file of bearer tokens: token,user,uid,"group1,group2".
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,

    /// Let requests without a credential in as system:anonymous.
    #[arg(long, value_name = "BOOL", default_value_t = true, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pub anonymous_auth: bool,

    /// Take Secrets of type bootstrap.kubernetes.io/token in kube-system for bearer tokens.
    #[arg(long, value_name = "BOOL", default_value_t = true, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pub enable_bootstrap_token_auth: bool,

    /// Who issues ServiceAccount tokens: the first goes into new ones, all are accepted
    /// (repeatable).
    #[arg(long, value_name = "URL", default_value = DEFAULT_ISSUER)]
    pub service_account_issuer: Vec<String>,

    /// The private key (PEM, RSA or ECDSA) that signs ServiceAccount tokens [default: made at the
    /// first start, pki/sa.key].
    #[arg(long, value_name = "FILE")]
    pub service_account_signing_key_file: Option<PathBuf>,

    /// Keys (PEM, public or private) that verify ServiceAccount tokens, besides the one that signs
    /// (repeatable).
    #[arg(long, value_name = "FILE")]
    pub service_account_key_file: Vec<PathBuf>,

    /// The address of the keys in the discovery document [default: this server's /openid/v1/jwks].
    #[arg(long, value_name = "URL")]
    pub service_account_jwks_uri: Option<String>,

    /// Whom tokens for this API are addressed to (comma-separated) [default: the issuers].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub api_audiences: Vec<String>,

    /// The longest life of a requested ServiceAccount token, between 1h and 2^32s; longer requests
    /// are shortened.
    #[arg(long, value_name = "DURATION", value_parser = max_expiration)]
    pub service_account_max_token_expiration: Option<Duration>,

    /// Let a pod's own tokens live for a year, so that clients that do not read them anew go on.
    #[arg(long, value_name = "BOOL", default_value_t = true, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pub service_account_extend_token_expiration: bool,

    #[command(flatten)]
    pub oidc: OidcOptions,
}

/// Flags of OpenID Connect.
#[derive(Clone, Debug, clap::Args)]
pub struct OidcOptions {
    /// The URL of the OpenID issuer, https only; its ID tokens are bearer tokens then.
    #[arg(long = "oidc-issuer-url", value_name = "URL", requires = "client_id", value_parser = https)]
    pub issuer_url: Option<String>,

    /// Whom its tokens must be addressed to.
    #[arg(long = "oidc-client-id", value_name = "ID", requires = "issuer_url")]
    pub client_id: Option<String>,

    /// The claim that is the user's name.
    #[arg(long = "oidc-username-claim", value_name = "CLAIM", default_value = "sub")]
    pub username_claim: String,

    /// What goes before user names; `-` for nothing [default: the issuer and #, nothing for
    /// e-mail addresses].
    #[arg(long = "oidc-username-prefix", value_name = "PREFIX", allow_hyphen_values = true)]
    pub username_prefix: Option<String>,

    /// The claim that holds the user's groups.
    #[arg(long = "oidc-groups-claim", value_name = "CLAIM")]
    pub groups_claim: Option<String>,

    /// What goes before group names.
    #[arg(long = "oidc-groups-prefix", value_name = "PREFIX", default_value = "")]
    pub groups_prefix: String,

    /// A claim that must be there with this value (repeatable).
    #[arg(long = "oidc-required-claim", value_name = "KEY=VALUE", value_parser = pair)]
    pub required_claim: Vec<(String, String)>,

    /// The authority of the issuer's certificate [default: the system's].
    #[arg(long = "oidc-ca-file", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// The signatures that count (comma-separated).
    #[arg(
        long = "oidc-signing-algs",
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "RS256",
        value_parser = ["RS256", "RS384", "RS512", "ES256", "ES384", "PS256", "PS384", "PS512"],
    )]
    pub signing_algs: Vec<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

fn https(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).map_err(|error| error.to_string())?;
    match url.scheme() {
        "https" => Ok(text.into()),
        scheme => {
            Err(format!("'oidc-issuer-url' has invalid scheme ({scheme:?}), require 'https'"))
        }
    }
}

fn max_expiration(text: &str) -> Result<Duration, String> {
    let duration: jiff::SignedDuration = text.parse().map_err(|error| format!("{error}"))?;
    match duration.as_secs() {
        3600..=0x1_0000_0000 => Ok(duration.unsigned_abs()),
        _ => Err("must be between 1 hour and 2^32 seconds".into()),
    }
}

impl Default for AuthnOptions {
    /// What holds where no flag is given.
    fn default() -> AuthnOptions {
        #[derive(clap::Parser)]
        struct Flags {
            #[command(flatten)]
            options: AuthnOptions,
        }
        <Flags as clap::Parser>::parse_from([""]).options
    }
}
