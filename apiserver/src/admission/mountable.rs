//! Pods of a ServiceAccount that is marked so use no Secrets but those that it lists.
//! <https://kubernetes.io/docs/concepts/security/service-accounts/#enforce-mountable-secrets>

use proto::view::service_account::ServiceAccount;
use serde_json::Value;

use crate::kinds::{lens::Lens, service_account::ENFORCE_SECRETS};

/// The lists of containers, and what one of each is called.
const CONTAINERS: [(&str, &str); 2] =
    [("initContainers", "init container"), ("containers", "container")];
const EPHEMERAL: (&str, &str) = ("ephemeralContainers", "ephemeral container");

/// Why a new pod may not act as the account.
pub(super) fn check(account: &ServiceAccount, pod: &Value) -> Result<(), String> {
    if !is_enforced(account) {
        return Ok(());
    }
    let (spec, name) = (pod.at("spec"), &account.metadata.name);
    for volume in spec.items("volumes").iter().filter(|volume| volume.has("secret")) {
        let secret = volume.at("secret").text("secretName");
        if !lists(account, secret) {
            return Err(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account \
                 {name} does not reference that secret"
            ));
        }
    }
    for list in CONTAINERS {
        containers(account, spec, list)?;
    }
    for (index, reference) in spec.items("imagePullSecrets").iter().enumerate() {
        let secret = reference.text("name");
        if !account.image_pull_secrets.iter().any(|listed| listed.name == secret) {
            return Err(format!(
                "imagePullSecrets[{index}].name=\"{secret}\" is not allowed because service account \
                 {name} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

/// The same of containers that are added to a running pod.
pub(super) fn check_ephemeral(account: &ServiceAccount, pod: &Value) -> Result<(), String> {
    match is_enforced(account) {
        true => containers(account, pod.at("spec"), EPHEMERAL),
        false => Ok(()),
    }
}

fn containers(
    account: &ServiceAccount,
    spec: &Value,
    (list, kind): (&str, &str),
) -> Result<(), String> {
    for container in spec.items(list) {
        let variables = container.items("env").iter().map(|variable| {
            let reference = variable.at("valueFrom").at("secretKeyRef");
            (format!("envVar {}", variable.text("name")), reference)
        });
        let sources = container.items("envFrom").iter();
        let sources = sources.map(|source| ("envFrom".to_string(), source.at("secretRef")));
        for (what, reference) in variables.chain(sources).filter(|(_, it)| !it.is_null()) {
            let secret = reference.text("name");
            if !lists(account, secret) {
                return Err(format!(
                    "{kind} {} with {what} referencing secret.secretName=\"{secret}\" is not allowed \
                     because service account {} does not reference that secret",
                    container.text("name"),
                    account.metadata.name
                ));
            }
        }
    }
    Ok(())
}

fn lists(account: &ServiceAccount, secret: &str) -> bool {
    account.secrets.iter().any(|listed| listed.name == secret)
}

/// As Go reads booleans.
fn is_enforced(account: &ServiceAccount) -> bool {
    let mark = account.metadata.annotations.get(ENFORCE_SECRETS);
    mark.is_some_and(|mark| matches!(mark.as_str(), "1" | "t" | "T" | "TRUE" | "true" | "True"))
}
