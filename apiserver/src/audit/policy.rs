//! audit.k8s.io/v1 Policy: the first rule that fits a request says how much of it is written.

use std::path::{Path, PathBuf};

use proto::user::User;
use serde::Deserialize;

use crate::authz::What;

#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("reading the audit policy {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the audit policy {path} is not valid: {why}")]
    Invalid { path: PathBuf, why: String },
}

/// How much is written; each holds what the one before it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Stage {
    RequestReceived,
    /// Of what goes on for long: the head of the answer is sent.
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "an object's metadata says nothing here")]
    metadata: serde_json::Value,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What the policy says of a request.
pub(super) struct Verdict {
    pub level: Level,
    pub omitted: Vec<Stage>,
    pub omit_managed_fields: bool,
}

impl Policy {
    pub fn read(path: &Path) -> Result<Policy, PolicyError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| PolicyError::Read { path: path.into(), source })?;
        Policy::parse(&text).map_err(|why| PolicyError::Invalid { path: path.into(), why })
    }

    fn parse(text: &str) -> Result<Policy, String> {
        let policy: Policy = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if policy.api_version != "audit.k8s.io/v1" || policy.kind != "Policy" {
            let found = format!("{}, kind {}", policy.api_version, policy.kind);
            return Err(format!("apiVersion must be audit.k8s.io/v1 and kind Policy, not {found}"));
        }
        if policy.rules.is_empty() {
            return Err("it has no rules".into());
        }
        Ok(policy)
    }

    pub(super) fn rule(&self, user: &User, verb: &str, what: &What<'_>) -> Verdict {
        let Some(rule) = self.rules.iter().find(|rule| rule.fits(user, verb, what)) else {
            return Verdict { level: Level::None, omitted: Vec::new(), omit_managed_fields: false };
        };
        Verdict {
            level: rule.level,
            omitted: [&self.omit_stages[..], &rule.omit_stages].concat(),
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

impl Rule {
    fn fits(&self, user: &User, verb: &str, what: &What<'_>) -> bool {
        let among = |list: &[String], text: &str| list.is_empty() || list.iter().any(|x| x == text);
        let grouped = |group: &String| user.groups.contains(group);
        among(&self.users, &user.name)
            && (self.user_groups.is_empty() || self.user_groups.iter().any(grouped))
            && among(&self.verbs, verb)
            && self.concerns(what)
    }

    /// A rule that names neither resources nor URLs is about everything.
    fn concerns(&self, what: &What<'_>) -> bool {
        let about_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        match *what {
            What::Path(path) => {
                let fits = |pattern: &String| match pattern.strip_suffix('*') {
                    Some(prefix) => path.starts_with(prefix),
                    None => pattern == path,
                };
                match self.non_resource_urls.is_empty() {
                    true => !about_resources,
                    false => self.non_resource_urls.iter().any(fits),
                }
            }
            What::Resource { group, resource, subresource, namespace, name } => {
                if !self.non_resource_urls.is_empty() && !about_resources {
                    return false;
                }
                let here = self.namespaces.is_empty()
                    || self.namespaces.iter().any(|one| one == namespace);
                let fits = |one: &GroupResources| {
                    one.group == group
                        && (one.resources.is_empty()
                            || one.resources.iter().any(|r| names(r, resource, subresource)))
                        && (one.resource_names.is_empty()
                            || one.resource_names.iter().any(|n| n == name))
                };
                here && (self.resources.is_empty() || self.resources.iter().any(fits))
            }
        }
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/status`, `*`.
fn names(pattern: &str, resource: &str, subresource: &str) -> bool {
    match pattern.split_once('/') {
        _ if pattern == "*" => true,
        None => pattern == resource && subresource.is_empty(),
        Some(("*", sub)) => sub == subresource,
        Some((one, "*")) => one == resource,
        Some((one, sub)) => one == resource && sub == subresource,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:kube-proxy"]
  verbs: [watch]
  resources: [{group: "", resources: [endpoints, services]}]
- level: None
  nonResourceURLs: ["/healthz*", "/version"]
- level: Metadata
  resources: [{group: "", resources: [secrets, "pods/log"]}]
- level: Request
  namespaces: [kube-system]
  omitManagedFields: true
- level: RequestResponse
  userGroups: ["auditors"]
- level: Metadata
  omitStages: [ResponseStarted]
"#;

    #[test]
    fn the_first_rule_that_fits() {
        let policy = Policy::parse(POLICY).unwrap();
        let resource = |resource, subresource, namespace| What::Resource {
            group: "",
            resource,
            subresource,
            namespace,
            name: "n",
        };
        let cases = [
            ("system:kube-proxy", "watch", resource("services", "", ""), Level::None),
            ("system:kube-proxy", "get", resource("services", "", "a"), Level::Metadata),
            ("a", "get", What::Path("/healthz/ping"), Level::None),
            ("a", "get", What::Path("/metrics"), Level::Metadata),
            ("auditor", "get", resource("secrets", "", "kube-system"), Level::Metadata),
            ("a", "get", resource("pods", "log", "kube-system"), Level::Metadata),
            ("a", "get", resource("pods", "", "kube-system"), Level::Request),
            ("auditor", "get", resource("pods", "", "default"), Level::RequestResponse),
        ];
        for (name, verb, what, level) in cases {
            let groups: &[&str] = if name == "auditor" { &["auditors"] } else { &[] };
            let verdict = policy.rule(&User::new(name, groups), verb, &what);
            assert_eq!(verdict.level, level, "{name} {verb} {what:?}");
        }
        let verdict = policy.rule(&User::new("a", &[]), "get", &resource("pods", "", "x"));
        assert_eq!(verdict.omitted, [Stage::RequestReceived, Stage::ResponseStarted]);
    }

    #[test]
    fn what_is_no_policy() {
        for (text, why) in [
            ("apiVersion: v1\nkind: Policy\nrules: [{level: None}]", "apiVersion must be"),
            ("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: []", "no rules"),
            ("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: All}]", "All"),
            (
                "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, user: [a]}]",
                "user",
            ),
        ] {
            let error = Policy::parse(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
