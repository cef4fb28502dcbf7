//! What FlowSchemas and PriorityLevelConfigurations say, ready to be asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::meta::ObjectMeta;
use proto::user::User;
use serde::Deserialize;

use super::Asks;
use crate::authz::What;

/// All of it. There is always a level and a schema for everyone.
pub struct Config {
    schemas: Vec<Schema>,
    levels: BTreeMap<Arc<str>, Arc<Level>>,
}

pub struct Schema {
    pub name: Arc<str>,
    pub uid: Arc<str>,
    precedence: i32,
    level: Arc<Level>,
    distinguisher: Option<String>,
    rules: Vec<Rule>,
}

pub struct Level {
    pub name: Arc<str>,
    pub uid: Arc<str>,
    /// Absent for an exempt level.
    pub limited: Option<Limited>,
}

/// The seats of a level: its own, how many of them it lends, how many more it may borrow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    pub seats: u32,
    pub lendable: u32,
    pub may_borrow: u32,
    /// Absent where requests are refused instead of queued.
    pub(super) queuing: Option<Queuing>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Queuing {
    pub queues: usize,
    pub hand_size: usize,
    pub queue_length_limit: usize,
}

impl Default for Queuing {
    fn default() -> Queuing {
        Queuing { queues: 64, hand_size: 8, queue_length_limit: 50 }
    }
}

/// Where a request belongs.
pub(super) struct Found<'a> {
    pub schema: &'a Schema,
    pub level: &'a Level,
}

/// flowcontrol.apiserver.k8s.io/v1 FlowSchema, as far as it is needed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct FlowSchema {
    metadata: ObjectMeta,
    spec: FlowSchemaSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FlowSchemaSpec {
    priority_level_configuration: Named,
    matching_precedence: i32,
    distinguisher_method: Option<Distinguisher>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
    namespace: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Distinguisher {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    subjects: Vec<Subject>,
    resource_rules: Vec<ResourceRule>,
    non_resource_rules: Vec<NonResourceRule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Subject {
    kind: String,
    user: Named,
    group: Named,
    service_account: Named,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ResourceRule {
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    cluster_scope: bool,
    namespaces: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NonResourceRule {
    verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
}

/// flowcontrol.apiserver.k8s.io/v1 PriorityLevelConfiguration, as far as it is needed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PriorityLevel {
    metadata: ObjectMeta,
    spec: PriorityLevelSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PriorityLevelSpec {
    #[serde(rename = "type")]
    kind: String,
    limited: LimitedSpec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LimitedSpec {
    nominal_concurrency_shares: u32,
    lendable_percent: u32,
    borrowing_limit_percent: Option<u32>,
    limit_response: LimitResponse,
}

impl Default for LimitedSpec {
    fn default() -> LimitedSpec {
        LimitedSpec {
            nominal_concurrency_shares: 30,
            lendable_percent: 0,
            borrowing_limit_percent: None,
            limit_response: LimitResponse::default(),
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LimitResponse {
    #[serde(rename = "type")]
    kind: String,
    queuing: Option<Queuing>,
}

const EXEMPT: &str = "exempt";
const CATCH_ALL: &str = "catch-all";
/// The precedence of the mandatory catch-all schema; that of the exempt one is 1.
const LAST: i32 = 10_000;

impl Config {
    /// `total` seats are divided by the levels' shares. The mandatory levels and schemas are there
    /// whatever the objects say.
    pub fn new(total: u32, schemas: &[FlowSchema], levels: &[PriorityLevel]) -> Config {
        let missing = |name: &str| !levels.iter().any(|level| level.metadata.name == name);
        let mandatory = [(EXEMPT, "Exempt", 0), (CATCH_ALL, "Limited", 5)];
        let mandatory = mandatory.into_iter().filter(|(name, ..)| missing(name));
        let mandatory = mandatory.map(|(name, kind, shares)| PriorityLevel {
            metadata: ObjectMeta { name: name.into(), ..ObjectMeta::default() },
            spec: PriorityLevelSpec {
                kind: kind.into(),
                limited: LimitedSpec {
                    nominal_concurrency_shares: shares,
                    ..LimitedSpec::default()
                },
            },
        });
        let all: Vec<PriorityLevel> = levels.iter().cloned().chain(mandatory).collect();
        let shares = all.iter().filter(|level| level.spec.kind == "Limited");
        let shares: u32 = shares.map(|level| level.spec.limited.nominal_concurrency_shares).sum();
        let levels: BTreeMap<Arc<str>, Arc<Level>> = all
            .iter()
            .map(|level| Arc::new(level.build(total, shares.max(1))))
            .map(|level| (level.name.clone(), level))
            .collect();
        let built = schemas.iter().filter_map(|schema| schema.build(&levels));
        let mut schemas: Vec<Schema> = built.collect();
        for (name, precedence, group) in [(EXEMPT, 1, "system:masters"), (CATCH_ALL, LAST, "*")] {
            if !schemas.iter().any(|schema| &*schema.name == name) {
                schemas.push(mandatory_schema(name, precedence, group, levels[name].clone()));
            }
        }
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        Config { schemas, levels }
    }

    pub fn level(&self, name: &str) -> Option<&Arc<Level>> {
        self.levels.get(name)
    }

    pub fn levels(&self) -> impl Iterator<Item = &Arc<Level>> {
        self.levels.values()
    }

    /// The first schema that fits; the last one fits everything.
    pub(super) fn classify(&self, asks: &Asks<'_>) -> Found<'_> {
        let fits = |schema: &&Schema| schema.rules.iter().any(|rule| rule.fits(asks));
        let last = self.schemas.last().expect("there is a schema for everyone");
        let schema = self.schemas.iter().find(fits).unwrap_or(last);
        Found { schema, level: &schema.level }
    }
}

impl Found<'_> {
    /// What tells the flows of the schema apart.
    pub fn flow(&self, asks: &Asks<'_>) -> String {
        let part = match (self.schema.distinguisher.as_deref(), asks.what) {
            (Some("ByUser"), _) => asks.user.name.as_str(),
            (Some("ByNamespace"), What::Resource { namespace, .. }) => namespace,
            _ => "",
        };
        format!("{}/{part}", self.schema.name)
    }
}

fn mandatory_schema(name: &str, precedence: i32, group: &str, level: Arc<Level>) -> Schema {
    let star = || vec!["*".to_string()];
    let group = Named { name: group.into(), ..Named::default() };
    let rule = Rule {
        subjects: vec![Subject { kind: "Group".into(), group, ..Subject::default() }],
        resource_rules: vec![ResourceRule {
            verbs: star(),
            api_groups: star(),
            resources: star(),
            cluster_scope: true,
            namespaces: star(),
        }],
        non_resource_rules: vec![NonResourceRule { verbs: star(), non_resource_urls: star() }],
    };
    let distinguisher = (name == CATCH_ALL).then(|| "ByUser".to_string());
    Schema {
        name: name.into(),
        uid: "".into(),
        precedence,
        level,
        distinguisher,
        rules: vec![rule],
    }
}

impl FlowSchema {
    /// Nothing where its level does not exist (upstream: dangling).
    fn build(&self, levels: &BTreeMap<Arc<str>, Arc<Level>>) -> Option<Schema> {
        Some(Schema {
            name: self.metadata.name.as_str().into(),
            uid: self.metadata.uid.as_str().into(),
            precedence: self.spec.matching_precedence,
            level: levels.get(&*self.spec.priority_level_configuration.name)?.clone(),
            distinguisher: self.spec.distinguisher_method.clone().map(|method| method.kind),
            rules: self.spec.rules.clone(),
        })
    }
}

impl PriorityLevel {
    fn build(&self, total: u32, shares: u32) -> Level {
        let limited = &self.spec.limited;
        let part =
            |of: u32, percent: u32| (f64::from(of) * f64::from(percent) / 100.0).round() as u32;
        let limited = (self.spec.kind == "Limited").then(|| {
            let seats = (total * limited.nominal_concurrency_shares).div_ceil(shares);
            let queues = limited.limit_response.kind == "Queue";
            Limited {
                seats,
                lendable: part(seats, limited.lendable_percent),
                // Absent: whatever the others lend.
                may_borrow: limited.borrowing_limit_percent.map_or(total, |p| part(seats, p)),
                queuing: queues.then(|| limited.limit_response.queuing.clone().unwrap_or_default()),
            }
        });
        Level {
            name: self.metadata.name.as_str().into(),
            uid: self.metadata.uid.as_str().into(),
            limited,
        }
    }
}

impl Rule {
    fn fits(&self, asks: &Asks<'_>) -> bool {
        self.subjects.iter().any(|subject| subject.fits(asks.user))
            && match asks.what {
                What::Path(path) => {
                    self.non_resource_rules.iter().any(|rule| rule.fits(asks.verb, path))
                }
                what => self.resource_rules.iter().any(|rule| rule.fits(asks.verb, &what)),
            }
    }
}

impl Subject {
    fn fits(&self, user: &User) -> bool {
        let is = |pattern: &str, name: &str| pattern == "*" || pattern == name;
        match self.kind.as_str() {
            "User" => is(&self.user.name, &user.name),
            "Group" => user.groups.iter().any(|group| is(&self.group.name, group)),
            "ServiceAccount" => {
                let account = user.name.strip_prefix("system:serviceaccount:");
                account.and_then(|rest| rest.split_once(':')).is_some_and(|(namespace, name)| {
                    self.service_account.namespace == namespace
                        && is(&self.service_account.name, name)
                })
            }
            _ => false,
        }
    }
}

fn any(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

impl ResourceRule {
    fn fits(&self, verb: &str, what: &What<'_>) -> bool {
        let What::Resource { group, resource, subresource, namespace, .. } = what else {
            return false;
        };
        let scope = match *namespace {
            "" => self.cluster_scope,
            namespace => any(&self.namespaces, namespace),
        };
        let resource = match *subresource {
            "" => any(&self.resources, resource),
            sub => any(&self.resources, &format!("{resource}/{sub}")),
        };
        scope && resource && any(&self.verbs, verb) && any(&self.api_groups, group)
    }
}

impl NonResourceRule {
    fn fits(&self, verb: &str, path: &str) -> bool {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => pattern == path,
        };
        any(&self.verbs, verb) && self.non_resource_urls.iter().any(fits)
    }
}
