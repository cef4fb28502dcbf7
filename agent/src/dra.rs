//! Dynamic resource allocation on the node: the drivers of the devices that pods claim get them ready
//! before a pod's containers are made, and take them down after its end. Which claim is ready for whom
//! is on the disk before anybody uses it, so that an agent that restarts forgets none.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/>

mod call;
mod checkpoint;
mod health;
mod register;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::error::chain;
use client::{Client, Entry};
use parking_lot::Mutex;
use proto::view::pod::RequestMapping;
use proto::view::resource_claim::{NamedClaim, ResourceClaim};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::cri::PodId;
use crate::pod::{Container, Pod};

use health::Words;
pub use register::Registrar;

/// The claims of one node. Clones share them. The default is a simulated node's, whose devices are always
/// ready.
#[derive(Clone, Default)]
pub struct Dra(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// `<root>/dra_manager_state`.
    file: Option<PathBuf>,
    drivers: Mutex<BTreeMap<String, Driver>>,
    /// By driver.
    health: Mutex<BTreeMap<String, Words>>,
    changed: watch::Sender<()>,
    /// By the claim's uid.
    claims: Mutex<BTreeMap<String, Held>>,
    /// By the claim's uid: one at a time gets it ready or takes it down.
    turns: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

struct Driver {
    /// Where it listens.
    socket: PathBuf,
    /// Hears how its devices are.
    _health: AbortOnDropHandle<()>,
}

/// A claim that is, or is about to be, ready on this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    pub namespace: String,
    pub name: String,
    /// The uids of the pods that have it here.
    pub pods: BTreeSet<String>,
    /// By driver; a driver that has not answered yet has none.
    pub devices: BTreeMap<String, Vec<Device>>,
    /// All its drivers have answered.
    pub ready: bool,
}

/// A device that a driver has got ready.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Device {
    /// None: all of the claim's.
    pub requests: Vec<String>,
    pub pool: String,
    pub device: String,
    /// Its names for the container runtime.
    pub cdi: Vec<String>,
}

impl Device {
    fn is_for(&self, request: &str) -> bool {
        let names = |known: &String| known.split('/').next() == Some(request) || known == request;
        request.is_empty() || self.requests.is_empty() || self.requests.iter().any(names)
    }
}

impl Dra {
    /// With what is in `file` of an earlier life. One that cannot be read counts for none.
    pub fn open(file: &Path) -> Dra {
        let kept = checkpoint::read(file).unwrap_or_else(|error| {
            let error = chain(&error);
            tracing::error!(error, "cannot read which claims are ready");
            BTreeMap::new()
        });
        let (file, claims) = (Some(file.to_path_buf()), Mutex::new(kept));
        Dra(Arc::new(Shared { file, claims, ..Shared::default() }))
    }

    /// Gets the pod's claims ready. They must be allocated, and reserved for it.
    pub async fn prepare(&self, client: &Client, pod: &Pod) -> Result<(), String> {
        let wrong = |why: String| format!("prepare dynamic resources: {why}");
        let Some(named) = &pod.resource_claims else {
            let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
            return Err(wrong(format!(
                "pod \"{namespace}/{name}\": ResourceClaim not created yet"
            )));
        };
        if self.0.file.is_none() || named.iter().all(|used| self.is_ready(pod, used)) {
            return Ok(());
        }
        let mut found: BTreeMap<String, Entry<ResourceClaim>> = BTreeMap::new();
        for used in named {
            let claim = self.claim(client, pod, used).await.map_err(wrong)?;
            found.insert(claim.metadata.uid.clone(), claim);
        }
        let _turns = self.turns(found.keys()).await;
        let mut missing: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (uid, claim) in &found {
            self.note(pod, claim).map_err(wrong)?;
            let claims = self.0.claims.lock();
            let held = claims.get(uid).filter(|held| !held.ready);
            for driver in held.into_iter().flat_map(|held| held.devices.keys()) {
                missing.entry(driver.clone()).or_default().push(uid.clone());
            }
        }
        self.save().map_err(wrong)?;
        for (driver, uids) in &missing {
            self.call_prepare(driver, uids).await.map_err(wrong)?;
        }
        let mut claims = self.0.claims.lock();
        for uid in missing.values().flatten() {
            if let Some(held) = claims.get_mut(uid) {
                held.ready = true;
            }
        }
        drop(claims);
        self.save().map_err(wrong)
    }

    /// Whether the pod has this claim here already: an agent that has restarted need not ask.
    fn is_ready(&self, pod: &Pod, used: &NamedClaim) -> bool {
        let meta = &pod.metadata;
        self.0.claims.lock().values().any(|held| {
            held.ready
                && (&held.namespace, &held.name) == (&meta.namespace, &used.name)
                && held.pods.contains(&meta.uid)
        })
    }

    /// The claim as the API has it, if the pod may use it.
    async fn claim(
        &self,
        client: &Client,
        pod: &Pod,
        used: &NamedClaim,
    ) -> Result<Entry<ResourceClaim>, String> {
        let meta = &pod.metadata;
        let claim = client.get::<ResourceClaim>(&meta.namespace, &used.name).await;
        let claim = claim.map_err(|error| {
            format!("fetch ResourceClaim {} referenced by pod {}: {error}", used.name, meta.name)
        })?;
        let owner = claim.metadata.controller().map(|owner| owner.uid.as_str());
        if used.made && owner != Some(&meta.uid) {
            return Err(format!(
                "ResourceClaim {0}/{1} was not created for pod {0}/{2} (pod is not owner)",
                meta.namespace, used.name, meta.name
            ));
        }
        let (name, uid) = (&claim.metadata.name, &claim.metadata.uid);
        if claim.status.allocation.is_none() {
            return Err(format!("resource claim {name}({uid}) is not allocated"));
        }
        if !claim.status.reserved_for.iter().any(|consumer| consumer.uid == meta.uid) {
            return Err(format!(
                "pod {}({}) is not allowed to use resource claim {name}({uid})",
                meta.name, meta.uid
            ));
        }
        Ok(claim)
    }

    /// Remembers that the pod has the claim.
    fn note(&self, pod: &Pod, claim: &ResourceClaim) -> Result<(), String> {
        let meta = &claim.metadata;
        let mut claims = self.0.claims.lock();
        let others = claims.iter().find(|(uid, held)| {
            **uid != meta.uid && held.namespace == meta.namespace && held.name == meta.name
        });
        if let Some((uid, _)) = others {
            return Err(format!(
                "old ResourceClaim with same name {} and different UID {uid} still exists",
                meta.name
            ));
        }
        let held = claims.entry(meta.uid.clone()).or_insert_with(|| {
            let results = claim.status.allocation.iter().flat_map(|it| &it.devices.results);
            Held {
                namespace: meta.namespace.clone(),
                name: meta.name.clone(),
                devices: results.map(|result| (result.driver.clone(), Vec::new())).collect(),
                ..Held::default()
            }
        });
        held.pods.insert(pod.metadata.uid.clone());
        Ok(())
    }

    /// The pod has ended: what nobody has any more is taken down.
    pub async fn unprepare(&self, pod: &str) -> Result<(), String> {
        let has = |(uid, held): (&String, &Held)| held.pods.contains(pod).then(|| uid.clone());
        let own: BTreeSet<String> = self.0.claims.lock().iter().filter_map(has).collect();
        if own.is_empty() {
            return Ok(());
        }
        let _turns = self.turns(own.iter()).await;
        let mut unused: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut last: Vec<String> = Vec::new();
        for (uid, held) in self.0.claims.lock().iter_mut().filter(|(uid, _)| own.contains(*uid)) {
            if held.pods.len() > 1 {
                held.pods.remove(pod);
                continue;
            }
            // From here on it has to be got ready anew.
            held.ready = false;
            last.push(uid.clone());
            for driver in held.devices.keys() {
                unused.entry(driver.clone()).or_default().push(uid.clone());
            }
        }
        for (driver, uids) in &unused {
            self.call_unprepare(driver, uids).await?;
        }
        self.0.claims.lock().retain(|uid, _| !last.contains(uid));
        self.save()
    }

    /// Waits until nobody else is at work on these claims, in an order that is the same for all.
    async fn turns(
        &self,
        uids: impl Iterator<Item = &String>,
    ) -> Vec<tokio::sync::OwnedMutexGuard<()>> {
        let wanted: Vec<Arc<tokio::sync::Mutex<()>>> = {
            let mut turns = self.0.turns.lock();
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            uids.map(|uid| turns.entry(uid.clone()).or_default().clone()).collect()
        };
        let mut guards = Vec::new();
        for turn in wanted {
            guards.push(turn.lock_owned().await);
        }
        guards
    }

    /// Marked whenever devices are well or unwell.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// The uids of pods that have claims here.
    pub fn holders(&self) -> BTreeSet<String> {
        self.0.claims.lock().values().flat_map(|held| held.pods.iter().cloned()).collect()
    }

    /// What the runtime is to give to a container, by CDI.
    pub fn cdi(&self, pod: &Pod, container: &Container) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let mut uses = uses(container);
        uses.extend(mapped(pod.claimed.iter(), &container.name));
        let named = pod.resource_claims.iter().flatten();
        for (_, _, device) in self.used(&pod.metadata.uid, named, &uses) {
            for name in device.cdi {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }

    /// The devices behind these claims of a pod, or single requests of them.
    pub fn used<'a>(
        &self,
        pod: &str,
        named: impl Iterator<Item = &'a NamedClaim> + Clone,
        uses: &[(String, String)],
    ) -> Vec<(Held, String, Device)> {
        let claims = self.0.claims.lock();
        let mut found = Vec::new();
        for (name, request) in uses {
            let own = named.clone().filter(|claim| claim.pod_claim == *name);
            for claim in own {
                let mut all = claims.values();
                let held = all.find(|held| held.name == claim.name && held.pods.contains(pod));
                let Some(held) = held else { continue };
                for (driver, devices) in &held.devices {
                    let devices = devices.iter().filter(|device| device.is_for(request));
                    found.extend(devices.map(|it| (held.clone(), driver.clone(), it.clone())));
                }
            }
        }
        found
    }

    fn save(&self) -> Result<(), String> {
        let Some(file) = &self.0.file else { return Ok(()) };
        let written = checkpoint::write(file, &self.0.claims.lock());
        written.map_err(|error| format!("checkpoint ResourceClaim state: {}", chain(&error)))
    }
}

/// What the container names: a claim of its pod, and perhaps a single request of it.
fn uses(container: &Container) -> Vec<(String, String)> {
    let uses = container.resources.claims.iter().map(|used| {
        let text = |key: &str| used.get(key).and_then(Value::as_str).unwrap_or_default();
        (text("name").to_string(), text("request").to_string())
    });
    uses.collect()
}

/// The same of what it has by the claim for its pod's extended resources, which has no name there.
pub fn mapped<'a>(
    mappings: impl Iterator<Item = &'a RequestMapping> + 'a,
    container: &'a str,
) -> impl Iterator<Item = (String, String)> + 'a {
    let own = mappings.filter(move |mapping| mapping.container_name == container);
    own.map(|mapping| (String::new(), mapping.request_name.clone()))
}

/// Takes down, for as long as it takes, what a pod had that has gone while nobody looked.
pub async fn forget(dra: Dra, clock: client::Clock, pod: String) {
    while let Err(error) = dra.unprepare(&pod).await {
        tracing::warn!(pod, error, "cannot unprepare the claims of a pod");
        clock.sleep(crate::backoff::RETRY.max).await;
    }
}

/// As [`Dra::unprepare`], and says in the log what went wrong.
pub async fn ended(dra: &Dra, id: &PodId) -> bool {
    let outcome = dra.unprepare(&id.uid).await;
    if let Err(error) = &outcome {
        tracing::warn!(pod = %id.name, error, "cannot unprepare the claims of a pod");
    }
    outcome.is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_get_what_they_name() {
        let device = |requests: &[&str], cdi: &str| Device {
            requests: requests.iter().map(|name| name.to_string()).collect(),
            cdi: vec![cdi.into()],
            ..Device::default()
        };
        let held = Held {
            name: "p-gpu-abcde".into(),
            pods: ["u".to_string()].into(),
            devices: [(
                "d".to_string(),
                vec![
                    device(&["big/one"], "d/c=1"),
                    device(&["small"], "d/c=2"),
                    device(&[], "d/c=3"),
                ],
            )]
            .into(),
            ready: true,
            ..Held::default()
        };
        let dra = Dra::default();
        dra.0.claims.lock().insert("c".into(), held);
        let mut pod = Pod::default();
        pod.metadata.uid = "u".into();
        pod.resource_claims = Some(vec![NamedClaim {
            pod_claim: "gpu".into(),
            name: "p-gpu-abcde".into(),
            made: true,
        }]);
        for (claims, expected) in [
            (json!([]), vec![]),
            (json!([{"name": "gpu"}]), vec!["d/c=1", "d/c=2", "d/c=3"]),
            (json!([{"name": "gpu", "request": "big"}]), vec!["d/c=1", "d/c=3"]),
            (json!([{"name": "gpu", "request": "small"}]), vec!["d/c=2", "d/c=3"]),
            (json!([{"name": "other"}]), vec![]),
        ] {
            let container = json!({"name": "c", "resources": {"claims": claims}});
            let container: Container = serde_json::from_value(container).unwrap();
            assert_eq!(dra.cdi(&pod, &container), expected, "{claims}");
        }
    }
}
