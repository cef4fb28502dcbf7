//! Roles and bindings of the API, indexed by whom they speak of. The index follows the caches: a
//! question compares four revisions and, where nothing was written since, reads the index; what
//! was written is decoded once. So a deleted binding is gone for the next request.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use proto::{
    kind::{self, Row},
    user::User,
    view::rbac::{Binding, PolicyRule, Role, Subject},
};

use super::{Attributes, What, rule};
use crate::{
    cache::{Entry, KindCache},
    store::Revision,
};

/// The kinds that are followed, roles before bindings.
const KINDS: [&Row; 4] =
    [&kind::CLUSTER_ROLE, &kind::ROLE, &kind::CLUSTER_ROLE_BINDING, &kind::ROLE_BINDING];

pub struct Rbac {
    caches: [Arc<KindCache>; 4],
    index: ArcSwap<Index>,
    /// Held while the index is made anew.
    renewal: Mutex<()>,
}

/// What somebody may do in a namespace, as far as it could be resolved.
#[derive(Debug, Default)]
pub struct Rules {
    pub rules: Vec<PolicyRule>,
    /// Why it may be more: roles that bindings name and that are not there.
    pub problems: Vec<String>,
}

type RuleSet = Arc<[PolicyRule]>;

#[derive(Default)]
struct Index {
    revisions: [Revision; 4],
    /// Every role and binding by its key, decoded.
    decoded: HashMap<Arc<str>, (Revision, Decoded)>,
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

#[derive(Clone)]
enum Decoded {
    Rules(RuleSet),
    Binding(Arc<Binding>),
}

/// One subject of one binding.
struct Grant {
    binding: Arc<Binding>,
    subject: usize,
    /// `None` where the role is not there.
    rules: Option<RuleSet>,
}

impl Rbac {
    pub fn new(cache: impl Fn(&Row) -> Arc<KindCache>) -> Rbac {
        let caches = KINDS.map(cache);
        Rbac { caches, index: ArcSwap::default(), renewal: Mutex::new(()) }
    }

    /// Why it is allowed (in words only if they are wanted), or what stood in the way of knowing.
    pub fn decide(&self, attributes: &Attributes, explain: bool) -> Result<String, String> {
        let index = self.current();
        let namespace = match attributes.what {
            What::Resource { namespace, .. } => namespace,
            What::Path(_) => "",
        };
        let mut problems = BTreeSet::new();
        for grant in index.grants(attributes.user, namespace) {
            let Some(rules) = &grant.rules else {
                problems.insert(grant.problem());
                continue;
            };
            if rules.iter().any(|rule| rule::allows(rule, attributes.verb, attributes.what)) {
                let reason = if explain { grant.reason() } else { String::new() };
                return Ok(reason);
            }
        }
        Err(match problems.len() {
            0 => String::new(),
            1 => format!("RBAC: {}", Vec::from_iter(problems).concat()),
            _ => format!("RBAC: [{}]", Vec::from_iter(problems).join(", ")),
        })
    }

    /// All that a user may do in a namespace; with an empty one, everywhere.
    pub fn rules(&self, user: &User, namespace: &str) -> Rules {
        let mut found = Rules::default();
        for grant in self.current().grants(user, namespace) {
            match &grant.rules {
                Some(rules) => found.rules.extend(rules.iter().cloned()),
                None => found.problems.push(grant.problem()),
            }
        }
        found
    }

    /// The rules of a role; in the words of an error where it is not there.
    pub fn role(&self, namespace: &str, kind: &str, name: &str) -> Result<RuleSet, String> {
        let (row, namespace) = match kind {
            "ClusterRole" => (&kind::CLUSTER_ROLE, ""),
            _ => (&kind::ROLE, namespace),
        };
        match self.current().decoded.get(row.key(namespace, name).as_str()) {
            Some((_, Decoded::Rules(rules))) => Ok(rules.clone()),
            _ => Err(not_found(kind, name)),
        }
    }

    fn current(&self) -> Arc<Index> {
        let index = self.index.load_full();
        if index.revisions == self.revisions() {
            return index;
        }
        let _turn = self.renewal.lock();
        let index = self.index.load_full();
        // Read before the objects are: what is written in between is seen as new the next time.
        let revisions = self.revisions();
        if index.revisions == revisions {
            return index;
        }
        let renewed = Arc::new(self.renew(&index, revisions));
        self.index.store(renewed.clone());
        renewed
    }

    fn revisions(&self) -> [Revision; 4] {
        self.caches.each_ref().map(|cache| cache.revision())
    }

    fn renew(&self, old: &Index, revisions: [Revision; 4]) -> Index {
        let mut index = Index { revisions, ..Index::default() };
        for (position, cache) in self.caches.iter().enumerate() {
            let snapshot = cache.snapshot();
            for entry in snapshot.list("", None) {
                let known = old.decoded.get(&entry.key);
                let known = known.filter(|(revision, _)| *revision == entry.revision);
                let decoded = match known {
                    Some((_, decoded)) => decoded.clone(),
                    None => match decode(entry, position < 2) {
                        Some(decoded) => decoded,
                        None => continue,
                    },
                };
                if let Decoded::Binding(binding) = &decoded {
                    index.enter(binding);
                }
                index.decoded.insert(entry.key.clone(), (entry.revision, decoded));
            }
        }
        index
    }
}

/// Nothing, and a complaint, for what cannot be read: it grants nothing then.
fn decode(entry: &Entry, role: bool) -> Option<Decoded> {
    let bytes = entry.bytes();
    let decoded = match role {
        true => {
            serde_json::from_slice::<Role>(&bytes).map(|role| Decoded::Rules(role.rules.into()))
        }
        false => serde_json::from_slice::<Binding>(&bytes)
            .map(|binding| Decoded::Binding(Arc::new(binding))),
    };
    decoded
        .inspect_err(
            |error| tracing::error!(key = %entry.key, %error, "unreadable; it grants nothing"),
        )
        .ok()
}

impl Index {
    /// The roles are there by now.
    fn enter(&mut self, binding: &Arc<Binding>) {
        let namespace = &binding.metadata.namespace;
        let role = &binding.role_ref;
        let (row, role_namespace) = match &*role.kind {
            "ClusterRole" => (&kind::CLUSTER_ROLE, ""),
            _ => (&kind::ROLE, namespace.as_str()),
        };
        let rules = match self.decoded.get(row.key(role_namespace, &role.name).as_str()) {
            Some((_, Decoded::Rules(rules))) => Some(rules.clone()),
            _ => None,
        };
        for (position, subject) in binding.subjects.iter().enumerate() {
            let grant = Grant { binding: binding.clone(), subject: position, rules: rules.clone() };
            let (map, name) = match &*subject.kind {
                "User" => (&mut self.users, subject.name.clone()),
                "Group" => (&mut self.groups, subject.name.clone()),
                "ServiceAccount" => {
                    let namespace = home(subject, namespace);
                    let user = format!("system:serviceaccount:{namespace}:{}", subject.name);
                    (&mut self.users, user)
                }
                _ => continue,
            };
            map.entry(name).or_default().push(grant);
        }
    }

    /// Those of the whole cluster before those of the namespace.
    fn grants<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = &'a Grant> {
        let all = move || {
            let groups = user.groups.iter().filter_map(|group| self.groups.get(group));
            self.users.get(&user.name).into_iter().chain(groups).flatten()
        };
        let wide = all().filter(|grant| grant.binding.metadata.namespace.is_empty());
        let near = all().filter(move |grant| {
            !namespace.is_empty() && grant.binding.metadata.namespace == namespace
        });
        wide.chain(near)
    }
}

impl Grant {
    /// `RBAC: allowed by ClusterRoleBinding "x" of ClusterRole "y" to User "z"`.
    fn reason(&self) -> String {
        let Binding { metadata, role_ref, subjects } = &*self.binding;
        let subject = &subjects[self.subject];
        let binding = match &*metadata.namespace {
            "" => format!("ClusterRoleBinding {:?}", metadata.name),
            namespace => format!("RoleBinding \"{}/{namespace}\"", metadata.name),
        };
        let subject = match &*subject.kind {
            "ServiceAccount" => {
                let namespace = home(subject, &metadata.namespace);
                format!("ServiceAccount \"{}/{namespace}\"", subject.name)
            }
            kind => format!("{kind} {:?}", subject.name),
        };
        format!("RBAC: allowed by {binding} of {} {:?} to {subject}", role_ref.kind, role_ref.name)
    }

    fn problem(&self) -> String {
        not_found(&self.binding.role_ref.kind, &self.binding.role_ref.name)
    }
}

/// Where a service account is; that of the binding where the subject does not say.
fn home<'a>(subject: &'a Subject, binding: &'a str) -> &'a str {
    if subject.namespace.is_empty() { binding } else { &subject.namespace }
}

fn not_found(kind: &str, name: &str) -> String {
    format!("{}.rbac.authorization.k8s.io {name:?} not found", kind.to_lowercase())
}
