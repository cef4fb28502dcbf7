//! How the devices of claims are, by the word of their drivers, which holds for a while and no longer. A
//! driver need not serve that; of its devices nothing is known.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/#device-health-monitoring>

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use client::Clock;
use proto::dra_health::dra_resource_health_client::DraResourceHealthClient;
use proto::dra_health::{DeviceHealth as Told, HealthStatus, NodeWatchResourcesRequest};
use proto::time::Time;
use tonic::{Code, Status};

use super::{Dra, Shared};
use crate::devices::DeviceHealth;
use crate::plugins::{CallError, patient_channel};
use crate::pod::{Container, Pod};

/// How long a word holds that does not say so (kubelet: 30 s).
const PATIENCE: i64 = 30;
/// Before a driver that has stopped telling is asked anew.
const RETRY: Duration = Duration::from_secs(5);
/// Characters of a driver's message that are shown.
const LONGEST: usize = 1024;

/// By pool and device.
pub type Words = BTreeMap<(String, String), Word>;

/// What a driver says of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    health: &'static str,
    message: String,
    /// How long that holds.
    until: Time,
}

/// Listens to one driver, as long as somebody wants to know.
pub struct Listener {
    dra: Weak<Shared>,
    clock: Clock,
    driver: String,
}

impl Listener {
    pub fn new(dra: &Dra, clock: Clock, driver: &str) -> Listener {
        Listener { dra: Arc::downgrade(&dra.0), clock, driver: driver.into() }
    }

    /// Ends where the driver does not serve it.
    pub async fn follow(self, socket: PathBuf) {
        loop {
            let ended = self.listen(&socket).await;
            self.put(Words::new());
            match ended {
                Err(status) if status.code() == Code::Unimplemented => return,
                Err(status) => {
                    let (driver, error) = (&self.driver, CallError(status));
                    tracing::warn!(driver, %error, "a driver does not tell how its devices are");
                }
                Ok(()) => {}
            }
            self.clock.sleep(RETRY).await;
        }
    }

    async fn listen(&self, socket: &Path) -> Result<(), Status> {
        let mut client = DraResourceHealthClient::new(patient_channel(socket));
        let call = client.node_watch_resources(NodeWatchResourcesRequest {});
        let mut lists = call.await?.into_inner();
        let mut words = Words::new();
        loop {
            let expiry = words.values().filter(|word| word.health != UNKNOWN);
            let expiry = expiry.map(|word| word.until).min();
            let expired = async {
                match expiry {
                    Some(time) => self.clock.sleep_until(time).await,
                    None => std::future::pending().await,
                }
            };
            let list = tokio::select! {
                list = lists.message() => match list? {
                    Some(list) => list.devices,
                    None => return Ok(()),
                },
                () = expired => Vec::new(),
            };
            merge(&mut words, list, self.clock.now());
            self.put(words.clone());
        }
    }

    fn put(&self, words: Words) {
        let Some(dra) = self.dra.upgrade() else { return };
        let mut health = dra.health.lock();
        let known = health.entry(self.driver.clone()).or_default();
        // When it runs out does not make it another word.
        let same = known.len() == words.len()
            && known.iter().zip(&words).all(|((id, old), (other, new))| {
                id == other && (old.health, &old.message) == (new.health, &new.message)
            });
        *known = words;
        if !same {
            dra.changed.send_replace(());
        }
    }
}

const UNKNOWN: &str = "Unknown";

/// Takes in what the driver said just now. What it does not repeat is worth nothing once its time is
/// over.
fn merge(words: &mut Words, list: Vec<Told>, now: Time) {
    for told in list {
        let health = match told.health() {
            HealthStatus::Healthy => "Healthy",
            HealthStatus::Unhealthy => "Unhealthy",
            HealthStatus::Unknown => UNKNOWN,
        };
        let seconds = match told.health_check_timeout_seconds {
            seconds if seconds > 0 => seconds,
            _ => PATIENCE,
        };
        let until = now.plus(Duration::from_secs(seconds.unsigned_abs()));
        let id = told.device.unwrap_or_default();
        let word = Word { health, message: shortened(told.message), until };
        words.insert((id.pool_name, id.device_name), word);
    }
    for word in words.values_mut().filter(|word| word.until <= now) {
        (word.health, word.message) = (UNKNOWN, String::new());
    }
}

fn shortened(message: String) -> String {
    match message.chars().count() > LONGEST {
        true => message.chars().take(LONGEST - 3).chain("...".chars()).collect(),
        false => message,
    }
}

impl Dra {
    /// How the container's devices are, by what it calls its claims: `claim:name`, or
    /// `claim:name/request`.
    pub fn health(&self, pod: &Pod, container: &Container) -> BTreeMap<String, Vec<DeviceHealth>> {
        let mut found: BTreeMap<String, Vec<DeviceHealth>> = BTreeMap::new();
        let named = pod.resource_claims.iter().flatten();
        for used in super::uses(container) {
            let (name, request) = &used;
            let resource = match request.as_str() {
                "" => format!("claim:{name}"),
                request => format!("claim:{name}/{request}"),
            };
            let devices = self.used(&pod.metadata.uid, named.clone(), std::slice::from_ref(&used));
            let health = self.0.health.lock();
            for (_, driver, device) in devices {
                let (pool, device_name) = (device.pool, device.device);
                let id = match device.cdi.into_iter().next() {
                    Some(id) => id,
                    None => format!("{driver}/{pool}/{device_name}"),
                };
                let word = health.get(&driver).and_then(|its| its.get(&(pool, device_name)));
                let message = word.map(|word| word.message.clone());
                let message = message.filter(|message| !message.is_empty());
                let health = word.map_or(UNKNOWN, |word| word.health);
                let all = found.entry(resource.clone()).or_default();
                // The API takes each id once.
                if all.iter().all(|known| known.id != id) {
                    all.push(DeviceHealth { id, health, message });
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proto::dra_health::DeviceIdentifier;

    use super::*;

    fn told(device: &str, health: HealthStatus, seconds: i64) -> Told {
        let device_name = device.to_string();
        Told {
            device: Some(DeviceIdentifier { pool_name: "p".into(), device_name }),
            health: health.into(),
            health_check_timeout_seconds: seconds,
            message: "m".into(),
            ..Told::default()
        }
    }

    #[test]
    fn a_word_holds_for_a_while() {
        let at = |seconds: i64| Time::from_unix(seconds);
        let mut words = Words::new();
        let shown = |words: &Words| {
            let all = words.iter().map(|((_, device), word)| format!("{device}={}", word.health));
            all.collect::<Vec<_>>().join(" ")
        };
        let first = vec![
            told("a", HealthStatus::Healthy, 0),
            told("b", HealthStatus::Unhealthy, 60),
            told("c", HealthStatus::Unknown, -1),
        ];
        for (now, list, expected) in [
            (0, first, "a=Healthy b=Unhealthy c=Unknown"),
            (29, vec![], "a=Healthy b=Unhealthy c=Unknown"),
            (30, vec![], "a=Unknown b=Unhealthy c=Unknown"),
            (31, vec![told("a", HealthStatus::Healthy, 1)], "a=Healthy b=Unhealthy c=Unknown"),
            (60, vec![], "a=Unknown b=Unknown c=Unknown"),
        ] {
            merge(&mut words, list, at(now));
            assert_eq!(shown(&words), expected, "after {now} s");
        }
    }

    #[test]
    fn messages_are_cut() {
        assert_eq!(shortened("é".repeat(1024)).chars().count(), 1024);
        let cut = shortened("é".repeat(1025));
        assert!(cut.chars().count() == 1024 && cut.ends_with("é..."), "{cut}");
    }
}
