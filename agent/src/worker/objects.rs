//! The ConfigMaps and Secrets that the pods of this node refer to: each is watched by itself, once,
//! for as long as a pod needs it. A node has no business with the others. Tokens are kept up to
//! date in the same way.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Client, Clock, ListOptions, Object, WatchEvent};
use futures::StreamExt;
use parking_lot::Mutex;
use proto::view::config_map::ConfigMap;
use proto::view::secret::Secret;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::tokens::{self, Renewal};
use crate::environment::Sources;
use crate::pod::{Pod, VolumeSource};

/// Keys and their values.
pub type Data = BTreeMap<String, Vec<u8>>;

/// Every object that some pod of the node refers to.
#[derive(Clone)]
pub struct Objects {
    client: Client,
    clock: Clock,
    /// Whether the node mounts volumes.
    volumes: bool,
    all: Arc<Mutex<HashMap<(Kind, String, String), Weak<Watch>>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    ConfigMap,
    Secret,
}

/// One pod's objects, by kind and name.
#[derive(Default)]
pub struct Watched {
    objects: BTreeMap<(Kind, String), Known>,
    /// By audience and life.
    tokens: BTreeMap<(String, i64), Known>,
    changed: bool,
}

/// Keeps it watched; what is known of it.
type Known = (Arc<Watch>, watch::Receiver<State>);

#[derive(Clone, Default)]
pub enum State {
    #[default]
    Unknown,
    Missing,
    Failed(String),
    Present(Arc<Data>),
}

pub struct Watch {
    state: watch::Receiver<State>,
    wakers: Arc<Mutex<Vec<Weak<Notify>>>>,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How long a container's start waits for an object that has not arrived.
const PATIENCE: Duration = Duration::from_secs(10);

impl Objects {
    pub fn new(client: Client, clock: Clock) -> Objects {
        Objects { client, clock, volumes: true, all: Arc::default() }
    }

    /// For nodes that mount nothing and so need nothing of what volumes hold.
    pub fn without_volumes(self) -> Objects {
        Objects { volumes: false, ..self }
    }

    fn watch(&self, kind: Kind, namespace: &str, name: &str) -> Arc<Watch> {
        let mut all = self.all.lock();
        all.retain(|_, watch| watch.strong_count() > 0);
        let key = (kind, namespace.to_string(), name.to_string());
        if let Some(known) = all.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let (this, namespace, name) = (self.clone(), namespace.to_string(), name.to_string());
        let watch = Watch::start(|tell| async move {
            match kind {
                Kind::ConfigMap => this.follow::<ConfigMap>(namespace, name, tell).await,
                Kind::Secret => this.follow::<Secret>(namespace, name, tell).await,
            }
        });
        all.insert(key, Arc::downgrade(&watch));
        watch
    }

    fn renew(&self, renewal: Renewal) -> Arc<Watch> {
        let (client, clock) = (self.client.clone(), self.clock.clone());
        Watch::start(|tell| renewal.run(client, clock, tell))
    }

    /// Lists and watches one object for ever.
    async fn follow<T: Content>(self, namespace: String, name: String, tell: Tell) {
        let mut delay = Duration::from_millis(200);
        loop {
            match self.once::<T>(&namespace, &name, &tell).await {
                Ok(()) => delay = Duration::from_millis(200),
                Err(error) => {
                    tracing::debug!(%namespace, %name, %error, "cannot watch an object");
                    delay = (delay * 2).min(Duration::from_secs(30));
                }
            }
            self.clock.sleep(delay).await;
        }
    }

    async fn once<T: Content>(
        &self,
        namespace: &str,
        name: &str,
        tell: &Tell,
    ) -> Result<(), client::Error> {
        let mut options = ListOptions {
            namespace: namespace.into(),
            field_selector: format!("metadata.name={name}"),
            ..ListOptions::default()
        };
        let list = self.client.list::<T>(&options).await?;
        let found = list.items.first();
        tell.content(found.map(|entry| entry.view.content()));
        if found.is_some_and(|entry| entry.view.is_immutable()) {
            // It cannot change: watching it would be for nothing.
            return std::future::pending().await;
        }
        options.resource_version = list.revision.to_string();
        let mut events = self.client.watch::<T>(&options);
        while let Some(event) = events.next().await {
            match event? {
                WatchEvent::Added(entry) | WatchEvent::Modified(entry) => {
                    tell.content(Some(entry.view.content()));
                }
                WatchEvent::Deleted(_) => tell.content(None),
                WatchEvent::Bookmark { .. } => {}
            }
        }
        Ok(())
    }
}

impl Watch {
    /// `task` tells what it finds until nobody wants to know any longer.
    fn start<F>(task: impl FnOnce(Tell) -> F) -> Arc<Watch>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, state) = watch::channel(State::Unknown);
        let wakers: Arc<Mutex<Vec<Weak<Notify>>>> = Arc::default();
        let task = tokio::spawn(task(Tell { sender, wakers: wakers.clone() }));
        Arc::new(Watch { state, wakers, task: task.abort_handle() })
    }

    fn woken(self: Arc<Self>, wake: &Arc<Notify>) -> Known {
        self.wakers.lock().push(Arc::downgrade(wake));
        let state = self.state.clone();
        (self, state)
    }
}

impl Watched {
    /// Watches what the pod refers to, and wakes its worker when any of it changes.
    pub fn follow(&mut self, objects: &Objects, pod: &Pod, wake: &Arc<Notify>) {
        for (kind, name) in references(pod, objects.volumes) {
            let key = (kind, name);
            if self.objects.contains_key(&key) {
                continue;
            }
            let watch = objects.watch(kind, &pod.metadata.namespace, &key.1);
            self.objects.insert(key, watch.woken(wake));
        }
        let tokens = if objects.volumes { tokens::wanted(pod) } else { BTreeMap::new() };
        for (key, token) in tokens {
            let start = || objects.renew(Renewal::new(pod, &token)).woken(wake);
            self.tokens.entry(key).or_insert_with(start);
        }
        for (_, state) in self.objects.values_mut().chain(self.tokens.values_mut()) {
            if state.has_changed().unwrap_or(false) {
                state.mark_unchanged();
                self.changed = true;
            }
        }
    }

    /// Has any object changed since this was last asked?
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What the objects hold; waits until each is known, for a while.
    pub async fn sources(&self, clock: &Clock) -> Result<Sources, String> {
        let mut sources = Sources::default();
        for ((kind, name), (_, state)) in &self.objects {
            let known = known(state, clock).await.ok_or_else(|| {
                let kind = format!("{kind:?}").to_lowercase();
                format!("failed to sync {kind} cache: timed out waiting for the condition")
            })?;
            let State::Present(data) = known else { continue };
            let map = match kind {
                Kind::ConfigMap => &mut sources.config_maps,
                Kind::Secret => &mut sources.secrets,
            };
            map.insert(name.clone(), (*data).clone());
        }
        for (key, (_, state)) in &self.tokens {
            let token = match known(state, clock).await {
                Some(State::Present(data)) => {
                    Ok(data.get(tokens::KEY).cloned().unwrap_or_default())
                }
                Some(State::Failed(why)) => Err(why),
                _ => Err("timed out waiting for the condition".into()),
            };
            sources.tokens.insert(key.clone(), token);
        }
        Ok(sources)
    }
}

/// The state, once there is one; `None` if that takes too long.
async fn known(state: &watch::Receiver<State>, clock: &Clock) -> Option<State> {
    let mut state = state.clone();
    let known = state.wait_for(|state| !matches!(state, State::Unknown));
    Some(clock.timeout(PATIENCE, known).await.ok()?.ok()?.clone())
}

pub struct Tell {
    sender: watch::Sender<State>,
    wakers: Arc<Mutex<Vec<Weak<Notify>>>>,
}

impl Tell {
    fn content(&self, data: Option<Data>) {
        self.state(data.map_or(State::Missing, |data| State::Present(Arc::new(data))));
    }

    pub fn state(&self, state: State) {
        self.sender.send_replace(state);
        self.wakers.lock().retain(|waker| match waker.upgrade() {
            Some(waker) => {
                waker.notify_one();
                true
            }
            None => false,
        });
    }
}

trait Content: Object {
    fn content(&self) -> Data;
    fn is_immutable(&self) -> bool;
}

impl Content for ConfigMap {
    fn content(&self) -> Data {
        let text = self.data.iter().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
        text.chain(decoded(&self.binary_data)).collect()
    }

    fn is_immutable(&self) -> bool {
        self.immutable
    }
}

impl Content for Secret {
    fn content(&self) -> Data {
        decoded(&self.data).collect()
    }

    fn is_immutable(&self) -> bool {
        self.immutable
    }
}

fn decoded(data: &BTreeMap<String, String>) -> impl Iterator<Item = (String, Vec<u8>)> {
    data.iter().map(|(key, value)| (key.clone(), STANDARD.decode(value).unwrap_or_default()))
}

/// The ConfigMaps and Secrets a pod names: in variables, pull secrets and, if these count, volumes.
fn references(pod: &Pod, volumes: bool) -> Vec<(Kind, String)> {
    let mut found = Vec::new();
    let pulls = pod.spec.image_pull_secrets.iter();
    found.extend(pulls.map(|reference| (Kind::Secret, reference.name.clone())));
    for container in pod.containers() {
        for from in &container.env_from {
            found.extend(from.config_map_ref.iter().map(|r| (Kind::ConfigMap, r.name.clone())));
            found.extend(from.secret_ref.iter().map(|r| (Kind::Secret, r.name.clone())));
        }
        for source in container.env.iter().filter_map(|variable| variable.value_from.as_ref()) {
            let map = source.config_map_key_ref.iter();
            found.extend(map.map(|r| (Kind::ConfigMap, r.name.clone())));
            found.extend(source.secret_key_ref.iter().map(|r| (Kind::Secret, r.name.clone())));
        }
    }
    if !volumes {
        return found;
    }
    let mut volume = |source: &VolumeSource| match source {
        VolumeSource::ConfigMap(files) => found.push((Kind::ConfigMap, files.name.clone())),
        VolumeSource::Secret(files) => found.push((Kind::Secret, files.name.clone())),
        _ => {}
    };
    for source in pod.spec.volumes.iter().filter_map(|volume| volume.source().ok()) {
        volume(&source);
        if let VolumeSource::Projected(projected) = &source {
            let parts = projected.sources.iter().filter_map(|part| part.source().ok());
            parts.for_each(|part| volume(&part));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::{BodyExt, Full};
    use proto::time::Time;
    use proto::user::User;
    use serde_json::json;

    use super::*;

    /// An API server that answers every request so, by its number.
    fn server(clock: &Clock, answer: fn(u32, Time) -> (u16, serde_json::Value)) -> Client {
        let (clock, count) = (clock.clone(), Arc::new(Mutex::new(0)));
        let service = tower::service_fn(move |_: Request<Full<Bytes>>| {
            let mut count = count.lock();
            *count += 1;
            let (code, body) = answer(*count, clock.now());
            let body = Full::new(Bytes::from(body.to_string()));
            let body = body.map_err(client::BoxError::from).boxed_unsync();
            let answer = Response::builder().status(code).body(body).expect("a plain answer");
            async move { Ok::<_, Infallible>(answer) }
        });
        Client::in_process(client::Service::new(service), User::new("system:node:n", &[]))
    }

    async fn next(state: &mut watch::Receiver<State>) -> String {
        state.changed().await.unwrap();
        match &*state.borrow_and_update() {
            State::Present(data) => String::from_utf8(data[tokens::KEY].clone()).unwrap(),
            State::Failed(why) => format!("failed: {why}"),
            State::Unknown | State::Missing => panic!("no token comes so"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_renewed_in_time() {
        let clock = Clock::simulated(Time::from_unix(0));
        let client = server(&clock, |number, now| match number {
            1 | 4 => {
                let expires = now.plus(Duration::from_secs(3600));
                let status = json!({"token": format!("t{number}"), "expirationTimestamp": expires});
                (201, json!({ "status": status }))
            }
            _ => {
                let message = "serviceaccounts \"robot\" not found";
                (
                    404,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "code": 404, "reason": "NotFound", "message": message}),
                )
            }
        });
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"serviceAccountName": "robot"}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let token = json!({"path": "t", "expirationSeconds": 3600});
        let token = serde_json::from_value(token).unwrap();
        let watch = Objects::new(client, clock.clone()).renew(Renewal::new(&pod, &token));
        let mut state = watch.state.clone();
        assert_eq!(next(&mut state).await, "t1");
        // At four fifths of its life; two failures are no reason to give up what still serves.
        assert_eq!(next(&mut state).await, "t4");
        let second = clock.now().0.as_second();
        assert!((2880..2890).contains(&second), "{second}");
        // No more come: only at its end is that a failure.
        assert_eq!(next(&mut state).await, "failed: serviceaccounts \"robot\" not found");
        let ended = clock.now().0.as_second() - second;
        assert!((3600..3665).contains(&ended), "{ended}");
    }
}
