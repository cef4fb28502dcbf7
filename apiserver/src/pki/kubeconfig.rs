//! A kubeconfig with its certificates inside.

use base64::{Engine, prelude::BASE64_STANDARD};

use super::Pair;

/// The text of a kubeconfig with one cluster, one user and one context named `coracle`.
pub fn kubeconfig(server: &str, ca: &str, user: &str, pair: &Pair) -> String {
    let data = |pem: &str| BASE64_STANDARD.encode(pem);
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: coracle\n  \
           cluster:\n    \
             certificate-authority-data: {}\n    \
             server: {server}\n\
         users:\n\
         - name: {user}\n  \
           user:\n    \
             client-certificate-data: {}\n    \
             client-key-data: {}\n\
         contexts:\n\
         - name: coracle\n  \
           context:\n    \
             cluster: coracle\n    \
             user: {user}\n\
         current-context: coracle\n",
        data(ca),
        data(&pair.certificate),
        data(&pair.key),
    )
}
