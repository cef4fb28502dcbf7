//! Admission: what is added to or refused of a request beyond its kind's own rules. Plugins run in
//! the order of [`PLUGINS`], which is upstream's: the registry calls [`Chain::mutate`] before
//! defaults are set again, [`Chain::validate`] when the object is complete and valid, and
//! [`Chain::reserve`] last, for what is written in the object's own transaction.
//! <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/>

use serde_json::Value;

use crate::kinds::Reservation;

mod certificates;
mod class;
mod default_class;
mod images;
mod limits;
mod mountable;
mod namespace_lifecycle;
mod node;
mod pod;
mod pod_security;
mod quota;
mod request;
mod service;
mod service_account;
mod storage;
mod topology;

pub use request::{Cluster, Denied, Effect, Operation, Plugin, Request};

/// Whether it changed the object.
type Mutate = fn(&Request, &mut Value) -> Result<bool, Denied>;
/// Without an object for deletions and connections.
type Validate = fn(&Request, Option<&Value>) -> Result<(), Denied>;

/// How a plugin does its work.
enum Make {
    Mutate(Mutate),
    Validate(Validate),
    Both(Mutate, Validate),
    Plugin(fn() -> Box<dyn Plugin>),
}

use Make::{Both, Mutate as Mutates, Plugin as Waits, Validate as Validates};

/// Name, whether it is on unless told otherwise, how it works; in the order in which they run.
static PLUGINS: &[(&str, bool, Make)] = &[
    // Refusals come before anything is changed.
    (
        "NamespaceLifecycle",
        true,
        Both(namespace_lifecycle::refuse_early, namespace_lifecycle::validate),
    ),
    ("LimitRanger", true, Both(limits::mutate, limits::validate)),
    ("ServiceAccount", true, Waits(|| Box::new(service_account::ServiceAccount))),
    ("NodeRestriction", true, Both(node::restrict, node::restrict_deletion)),
    ("TaintNodesByCondition", true, Mutates(node::taint_new)),
    ("AlwaysPullImages", false, Both(images::pull_always, images::validate)),
    ("PodSecurity", true, Validates(pod_security::validate)),
    ("Priority", true, Both(class::priority, class::one_default)),
    ("DefaultTolerationSeconds", true, Mutates(pod::tolerate)),
    ("ExtendedResourceToleration", false, Mutates(pod::tolerate_extended)),
    ("DefaultStorageClass", true, Mutates(default_class::storage)),
    ("StorageObjectInUseProtection", true, Mutates(storage::protect)),
    ("PersistentVolumeClaimResize", true, Validates(storage::resize)),
    ("RuntimeClass", true, Both(class::runtime, class::overhead)),
    ("CertificateApproval", true, Validates(certificates::approval)),
    ("CertificateSigning", true, Validates(certificates::signing)),
    ("CertificateSubjectRestriction", true, Validates(certificates::subject)),
    ("PodTopologyLabels", true, Mutates(topology::label)),
    ("DefaultIngressClass", true, Mutates(default_class::ingress)),
    ("DenyServiceExternalIPs", false, Validates(service::deny_external_ips)),
    // Last, when nothing else can refuse what has been charged.
    ("ResourceQuota", true, Waits(|| Box::new(quota::Quotas::default()))),
];

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    #[error("{flag}-admission-plugins plugin {name:?} is unknown; there are: {known}")]
    Unknown { flag: &'static str, name: String, known: String },
    #[error("{0} in enable-admission-plugins and disable-admission-plugins overlapped")]
    Both(String),
}

/// The plugins that are on.
pub struct Chain(Vec<Link>);

struct Link {
    name: &'static str,
    mutate: Option<Mutate>,
    validate: Option<Validate>,
    plugin: Option<Box<dyn Plugin>>,
}

impl Chain {
    /// What is on by default, more and less.
    pub fn choose(enabled: &[String], disabled: &[String]) -> Result<Chain, ChoiceError> {
        for (flag, names) in [("enable", enabled), ("disable", disabled)] {
            for name in names {
                if !PLUGINS.iter().any(|(known, ..)| known == name) {
                    let known: Vec<&str> = PLUGINS.iter().map(|(known, ..)| *known).collect();
                    let (name, known) = (name.clone(), known.join(", "));
                    return Err(ChoiceError::Unknown { flag, name, known });
                }
            }
        }
        if let Some(both) = enabled.iter().find(|name| disabled.contains(name)) {
            return Err(ChoiceError::Both(both.clone()));
        }
        let says = |names: &[String], name: &str| names.iter().any(|known| known == name);
        let on = PLUGINS
            .iter()
            .filter(|(name, on, _)| says(enabled, name) || (*on && !says(disabled, name)));
        Ok(Chain(on.map(|(name, _, make)| Link::new(name, make)).collect()))
    }

    /// What is on, in the order in which it runs.
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|link| link.name).collect()
    }

    /// Whether anything was changed.
    pub async fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<bool, Denied> {
        let mut effect = self.mutate_once(request, object).await?;
        if effect == Effect::Again {
            let again = Request { again: true, ..*request };
            self.mutate_once(&again, object).await?;
            effect = Effect::Changed;
        }
        Ok(effect != Effect::Nothing)
    }

    async fn mutate_once(
        &self,
        request: &Request<'_>,
        object: &mut Value,
    ) -> Result<Effect, Denied> {
        let mut total = Effect::Nothing;
        for link in &self.0 {
            let effect = match (link.mutate, &link.plugin) {
                (Some(mutate), _) => mutate(request, object)?.into(),
                (None, Some(plugin)) => plugin.mutate(request, object).await?,
                (None, None) => Effect::Nothing,
            };
            total = match (total, effect) {
                (Effect::Again, _) | (_, Effect::Again) => Effect::Again,
                (Effect::Changed, _) | (_, Effect::Changed) => Effect::Changed,
                _ => Effect::Nothing,
            };
        }
        Ok(total)
    }

    pub async fn validate(
        &self,
        request: &Request<'_>,
        object: Option<&Value>,
    ) -> Result<(), Denied> {
        for link in &self.0 {
            match (link.validate, &link.plugin) {
                (Some(validate), _) => validate(request, object)?,
                (None, Some(plugin)) => plugin.validate(request, object).await?,
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// What belongs in the same transaction as the object.
    pub async fn reserve(
        &self,
        request: &Request<'_>,
        object: &Value,
    ) -> Result<Reservation, Denied> {
        let mut all = Reservation::default();
        for plugin in self.0.iter().filter_map(|link| link.plugin.as_ref()) {
            all.add(plugin.reserve(request, object).await?);
        }
        Ok(all)
    }
}

impl Link {
    fn new(name: &'static str, make: &Make) -> Link {
        let link = Link { name, mutate: None, validate: None, plugin: None };
        match make {
            Mutates(mutate) => Link { mutate: Some(*mutate), ..link },
            Validates(validate) => Link { validate: Some(*validate), ..link },
            Both(mutate, validate) => {
                Link { mutate: Some(*mutate), validate: Some(*validate), ..link }
            }
            Waits(make) => Link { plugin: Some(make()), ..link },
        }
    }
}

#[cfg(test)]
mod tests;
