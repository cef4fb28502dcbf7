//! The environment of a container: Service variables, envFrom, env, and `$(VAR)` in them and in
//! command and args (Kubernetes: Define Environment Variables for a Container). Pure.

use std::collections::BTreeMap;

use proto::view::service::Service;

use crate::csi;
use crate::downward::{self, Facts};
use crate::pod::{Container, EnvVar, KeyRef, Pod};
use crate::volume::Bound;

/// What environments refer to: the ConfigMaps and Secrets of the pod's namespace by name, each as
/// its keys' values. One that does not exist is absent.
#[derive(Debug, Default)]
pub struct Sources {
    pub config_maps: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    pub secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// ServiceAccount tokens of the pod, by audience and asked life in seconds, or why there is
    /// none.
    pub tokens: BTreeMap<(String, i64), Result<Vec<u8>, String>>,
    /// By the pod's volumes that are claims: the volume behind each, or why there is none (yet).
    /// Only where volumes are mounted; what is mounted is not looked for again.
    pub claims: BTreeMap<String, Result<Bound, String>>,
    /// The same of those that a driver makes for the pod alone.
    pub inline: BTreeMap<String, Result<csi::Wanted, String>>,
}

/// The container cannot be made as it is written; the sentence is its waiting message
/// (`CreateContainerConfigError`).
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    #[error("{kind} {name:?} not found")]
    Missing { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key { kind: &'static str, namespace: String, name: String, key: String },
    #[error("{0}")]
    Downward(#[from] downward::Error),
    #[error("env {0:?}: fileKeyRef is not supported")]
    FileKey(String),
}

/// The variables, later ones overriding earlier ones of the same name.
pub fn environment(
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    services: &BTreeMap<String, String>,
    sources: &Sources,
) -> Result<BTreeMap<String, String>, Error> {
    let mut result = BTreeMap::new();
    for from in &container.env_from {
        let (kind, reference, all) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(reference), _) => ("configmap", reference, &sources.config_maps),
            (None, Some(reference)) => ("secret", reference, &sources.secrets),
            (None, None) => continue,
        };
        match all.get(&reference.name) {
            Some(data) => result.extend(data.iter().map(|(key, value)| {
                (format!("{}{key}", from.prefix), String::from_utf8_lossy(value).into_owned())
            })),
            None if reference.optional => {}
            None => return Err(Error::Missing { kind, name: reference.name.clone() }),
        }
    }
    for variable in &container.env {
        let lookup = |name: &str| result.get(name).or_else(|| services.get(name)).cloned();
        let value = match &variable.value_from {
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), lookup)),
            Some(_) => from_source(pod, container, variable, facts, sources)?,
        };
        if let Some(value) = value {
            result.insert(variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        result.entry(name.clone()).or_insert_with(|| value.clone());
    }
    Ok(result)
}

/// Replaces `$(NAME)` by what `lookup` knows and leaves what it does not; `$$` is a `$`.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) =
            rest.strip_prefix('(').and_then(|inside| inside.split_once(')'))
        {
            match lookup(name) {
                Some(value) => result.push_str(&value),
                None => {
                    result.push_str("$(");
                    result.push_str(name);
                    result.push(')');
                }
            }
            rest = after;
        } else {
            result.push('$');
        }
    }
    result.push_str(rest);
    result
}

/// The variables by which a container finds the Services of its namespace; without service links
/// only the API server, `default/kubernetes` (Kubernetes: Service, Environment variables).
pub fn service_variables<'a>(
    pod: &Pod,
    services: impl Iterator<Item = &'a Service>,
) -> BTreeMap<String, String> {
    let links = pod.spec.enable_service_links.unwrap_or(true);
    let mut result = BTreeMap::new();
    for service in services {
        let master =
            service.metadata.namespace == "default" && service.metadata.name == "kubernetes";
        let linked = links && service.metadata.namespace == pod.metadata.namespace;
        let ip = service.spec.cluster_ip.as_str();
        if !(master || linked) || ip.is_empty() || ip == "None" {
            continue;
        }
        one_service(&mut result, service, ip);
    }
    result
}

fn one_service(result: &mut BTreeMap<String, String>, service: &Service, ip: &str) {
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let prefix = upper(&service.metadata.name);
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
    for (index, port) in service.spec.ports.iter().enumerate() {
        let number = port.port.to_string();
        let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
        let url = format!("{}://{host}:{number}", protocol.to_lowercase());
        if index == 0 {
            result.insert(format!("{prefix}_SERVICE_HOST"), ip.into());
            result.insert(format!("{prefix}_SERVICE_PORT"), number.clone());
            result.insert(format!("{prefix}_PORT"), url.clone());
        }
        if !port.name.is_empty() {
            result.insert(format!("{prefix}_SERVICE_PORT_{}", upper(&port.name)), number.clone());
        }
        let link = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        result.insert(format!("{link}_PROTO"), protocol.to_lowercase());
        result.insert(format!("{link}_PORT"), number);
        result.insert(format!("{link}_ADDR"), ip.into());
        result.insert(link, url);
    }
}

fn from_source(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    facts: &Facts,
    sources: &Sources,
) -> Result<Option<String>, Error> {
    let Some(source) = &variable.value_from else { return Ok(None) };
    if let Some(field) = &source.field_ref {
        return Ok(Some(downward::field(pod, &field.field_path, facts)?));
    }
    if let Some(resource) = &source.resource_field_ref {
        return Ok(Some(downward::resource(pod, Some(container), resource, facts)?));
    }
    let namespace = &pod.metadata.namespace;
    if let Some(key) = &source.config_map_key_ref {
        return keyed(("configmap", "ConfigMap"), namespace, key, &sources.config_maps);
    }
    if let Some(key) = &source.secret_key_ref {
        return keyed(("secret", "Secret"), namespace, key, &sources.secrets);
    }
    Err(Error::FileKey(variable.name.clone()))
}

fn keyed(
    (lower, kind): (&'static str, &'static str),
    namespace: &str,
    key: &KeyRef,
    all: &BTreeMap<String, BTreeMap<String, Vec<u8>>>,
) -> Result<Option<String>, Error> {
    let data = match all.get(&key.name) {
        Some(data) => data,
        None if key.optional => return Ok(None),
        None => return Err(Error::Missing { kind: lower, name: key.name.clone() }),
    };
    match data.get(&key.key) {
        Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        None if key.optional => Ok(None),
        None => Err(Error::Key {
            kind,
            namespace: namespace.into(),
            name: key.name.clone(),
            key: key.key.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_expand_once() {
        let lookup = |name: &str| match name {
            "A" => Some("1".to_string()),
            "B" => Some("$(A)".to_string()),
            _ => None,
        };
        let table = [
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)$(B)y", "x1$(A)y"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(UNKNOWN)", "$(UNKNOWN)"),
            ("$(A", "$(A"),
            ("$A $", "$A $"),
            ("$()", "$()"),
            ("", ""),
        ];
        for (text, expected) in table {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }

    fn pod(container: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [container]},
        }))
        .unwrap()
    }

    #[test]
    fn values_come_from_where_they_are_said_to() {
        let pod = pod(json!({"name": "c", "image": "i",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}},
                        {"secretRef": {"name": "gone", "optional": true}}],
            "env": [{"name": "A", "value": "$(P_k)-$(WEB_SERVICE_HOST)"},
                    {"name": "B", "value": "$(A)!"},
                    {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "D", "valueFrom": {"secretKeyRef": {"name": "s", "key": "x"}}},
                    {"name": "E", "valueFrom": {"secretKeyRef":
                        {"name": "s", "key": "no", "optional": true}}}]}));
        let mut sources = Sources::default();
        sources.config_maps.insert("cm".into(), [("k".to_string(), b"v".to_vec())].into());
        sources.secrets.insert("s".into(), [("x".to_string(), b"y".to_vec())].into());
        let services = [("WEB_SERVICE_HOST".to_string(), "10.0.0.1".to_string())].into();
        let container = &pod.spec.containers[0];
        let facts = Facts::default();
        let result = environment(&pod, container, &facts, &services, &sources).unwrap();
        let expected = [
            ("A", "v-10.0.0.1"),
            ("B", "v-10.0.0.1!"),
            ("C", "p"),
            ("D", "y"),
            ("P_k", "v"),
            ("WEB_SERVICE_HOST", "10.0.0.1"),
        ];
        let result: Vec<(&str, &str)> =
            result.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(result, expected);
    }

    #[test]
    fn what_is_missing_is_named() {
        let table = [
            (json!({"configMapKeyRef": {"name": "m", "key": "k"}}), "configmap \"m\" not found"),
            (
                json!({"secretKeyRef": {"name": "s", "key": "k"}}),
                "couldn't find key k in Secret n/s",
            ),
        ];
        let mut sources = Sources::default();
        sources.secrets.insert("s".into(), BTreeMap::new());
        for (from, message) in table {
            let pod = pod(json!({"name": "c", "env": [{"name": "A", "valueFrom": from}]}));
            let container = &pod.spec.containers[0];
            let facts = Facts::default();
            let result = environment(&pod, container, &facts, &BTreeMap::new(), &sources);
            assert_eq!(result.unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn services_as_variables() {
        let service = |namespace: &str, name: &str| -> Service {
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "web-ui", "port": 80}]},
            }))
            .unwrap()
        };
        let all = [service("n", "my-app"), service("other", "x"), service("default", "kubernetes")];
        let mut pod = pod(json!({"name": "c"}));
        let result = service_variables(&pod, all.iter());
        assert_eq!(result["MY_APP_SERVICE_HOST"], "10.96.0.7");
        assert_eq!(result["MY_APP_SERVICE_PORT_WEB_UI"], "80");
        assert_eq!(result["MY_APP_PORT_80_TCP"], "tcp://10.96.0.7:80");
        assert_eq!(result["KUBERNETES_SERVICE_PORT"], "80");
        assert!(!result.keys().any(|name| name.starts_with("X_")));
        pod.spec.enable_service_links = Some(false);
        let result = service_variables(&pod, all.iter());
        assert!(result.keys().all(|name| name.starts_with("KUBERNETES_")));
    }
}
