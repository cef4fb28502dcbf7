//! Events: what a component tells the user about an object (core/v1 Event). Recording never
//! waits and never fails; repetitions are counted, similar ones gathered, and a flood about one
//! object is dropped, as client-go does it.

use std::collections::HashMap;
use std::time::Duration;

use proto::time::Time;
use proto::view::ObjectReference;
use proto::view::event::Event;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::{Client, Clock, Patch, Rng};

/// How many events may wait to be sent.
const BACKLOG: usize = 5000;
/// How many kinds of events are remembered.
const MEMORY: usize = 4096;
/// So many different messages of one reason about one object, and they are gathered into one.
const SIMILAR: usize = 10;
const SIMILAR_WITHIN: Duration = Duration::from_secs(600);
/// Events about one object that may come at once; one more every five minutes.
const BURST: f64 = 25.0;
const REFILL: f64 = 1.0 / 300.0;

/// Records events of one component.
#[derive(Clone)]
pub struct Recorder {
    clock: Clock,
    sender: mpsc::Sender<Note>,
    _task: std::sync::Arc<Task>,
}

/// Ends the sending when the last recorder is gone.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One thing to tell.
#[derive(Clone, Debug)]
struct Note {
    regarding: ObjectReference,
    /// `Normal` or `Warning`.
    kind: &'static str,
    reason: String,
    message: String,
    at: Time,
}

impl Recorder {
    /// `host` is the node's name for node components, else empty.
    pub fn new(client: Client, clock: Clock, rng: Rng, component: &str, host: &str) -> Recorder {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let sink = Sink {
            client,
            clock: clock.clone(),
            rng,
            component: component.into(),
            host: host.into(),
            correlator: Correlator::default(),
        };
        let task = tokio::spawn(sink.run(receiver)).abort_handle();
        Recorder { clock, sender, _task: std::sync::Arc::new(Task(task)) }
    }

    /// Tells something about an object; `kind` is `Normal` or `Warning`.
    pub fn event(
        &self,
        regarding: &ObjectReference,
        kind: &'static str,
        reason: &str,
        message: impl Into<String>,
    ) {
        let note = Note {
            regarding: regarding.clone(),
            kind,
            reason: reason.into(),
            message: message.into(),
            at: self.clock.now(),
        };
        if self.sender.try_send(note).is_err() {
            tracing::debug!(reason, object = %regarding.name, "too many events, one was dropped");
        }
    }
}

struct Sink {
    client: Client,
    clock: Clock,
    rng: Rng,
    component: String,
    host: String,
    correlator: Correlator,
}

/// What is known of earlier events.
#[derive(Default)]
struct Correlator {
    /// Events on the server, by everything that makes them the same.
    told: HashMap<Identity, Told>,
    /// The different messages of late, by everything but the message.
    similar: HashMap<Identity, Similar>,
    budgets: HashMap<String, Budget>,
}

/// Object, type, reason and, where it counts, message.
type Identity = (String, &'static str, String, String);

#[derive(Clone)]
struct Told {
    namespace: String,
    name: String,
    count: i32,
    last: Instant,
}

struct Similar {
    messages: Vec<String>,
    last: Instant,
}

struct Budget {
    tokens: f64,
    last: Instant,
}

/// What to do about a note.
enum Verdict {
    Drop,
    Create { message: String, key: Identity },
    Count { message: String, key: Identity, told: Told },
}

impl Correlator {
    fn judge(&mut self, note: &Note, now: Instant) -> Verdict {
        self.shrink();
        let ObjectReference { kind, namespace, name, uid, field_path, .. } = &note.regarding;
        let object = format!("{kind}/{namespace}/{name}/{uid}/{field_path}");
        let similar = (object.clone(), note.kind, note.reason.clone(), String::new());
        let group = self
            .similar
            .entry(similar.clone())
            .or_insert_with(|| Similar { messages: Vec::new(), last: now });
        if now.duration_since(group.last) > SIMILAR_WITHIN {
            group.messages.clear();
        }
        group.last = now;
        if !group.messages.contains(&note.message) {
            group.messages.push(note.message.clone());
        }
        let gathered = group.messages.len() > SIMILAR;
        if gathered {
            group.messages.truncate(SIMILAR + 1);
        }
        let budget = self.budgets.entry(object).or_insert(Budget { tokens: BURST, last: now });
        let earned = now.duration_since(budget.last).as_secs_f64() * REFILL;
        budget.tokens = (budget.tokens + earned).min(BURST);
        budget.last = now;
        if budget.tokens < 1.0 {
            return Verdict::Drop;
        }
        budget.tokens -= 1.0;
        let (message, key) = if gathered {
            (format!("(combined from similar events): {}", note.message), similar)
        } else {
            let (object, kind, reason, _) = similar;
            (note.message.clone(), (object, kind, reason, note.message.clone()))
        };
        match self.told.get_mut(&key) {
            Some(told) => {
                told.count += 1;
                told.last = now;
                Verdict::Count { message, told: told.clone(), key }
            }
            None => Verdict::Create { message, key },
        }
    }

    /// Forgets the oldest half of what became too much.
    fn shrink(&mut self) {
        fn halve<K: Clone + Eq + std::hash::Hash, V>(
            map: &mut HashMap<K, V>,
            last: fn(&V) -> Instant,
        ) {
            if map.len() < MEMORY {
                return;
            }
            let mut times: Vec<Instant> = map.values().map(last).collect();
            times.sort_unstable();
            let middle = times[times.len() / 2];
            map.retain(|_, value| last(value) > middle);
        }
        halve(&mut self.told, |told| told.last);
        halve(&mut self.similar, |similar| similar.last);
        halve(&mut self.budgets, |budget| budget.last);
    }
}

impl Sink {
    async fn run(mut self, mut notes: mpsc::Receiver<Note>) {
        while let Some(note) = notes.recv().await {
            match self.correlator.judge(&note, self.clock.instant()) {
                Verdict::Drop => {}
                Verdict::Create { message, key } => self.create(&note, message, key).await,
                Verdict::Count { message, key, told } => {
                    let patch = Patch::Strategic(json!({
                        "count": told.count, "lastTimestamp": note.at, "message": message,
                    }));
                    let Told { namespace, name, .. } = &told;
                    match self.client.patch::<Event>(namespace, name, "", &patch).await {
                        Ok(_) => {}
                        // It has expired: tell it anew.
                        Err(error) if error.is_not_found() => {
                            self.correlator.told.remove(&key);
                            self.create(&note, message, key).await;
                        }
                        Err(error) => tracing::warn!(%error, reason = %note.reason, "event lost"),
                    }
                }
            }
        }
    }

    async fn create(&mut self, note: &Note, message: String, key: Identity) {
        let namespace = match note.regarding.namespace.as_str() {
            "" => "default",
            namespace => namespace,
        };
        let name = format!("{}.{:016x}", note.regarding.name, self.rng.u64());
        let event = self.object(note, namespace, &name, &message);
        match self.client.create::<Event>(namespace, &event).await {
            Ok(_) => {
                let last = self.clock.instant();
                let told = Told { namespace: namespace.into(), name, count: 1, last };
                self.correlator.told.insert(key, told);
            }
            Err(error) if error.is_namespace_terminating() => {}
            Err(error) => tracing::warn!(%error, reason = %note.reason, "event lost"),
        }
    }

    fn object(&self, note: &Note, namespace: &str, name: &str, message: &str) -> Value {
        let mut source = json!({ "component": self.component });
        if !self.host.is_empty() {
            source["host"] = self.host.as_str().into();
        }
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "name": name, "namespace": namespace },
            "involvedObject": note.regarding,
            "reason": note.reason,
            "message": message,
            "source": source,
            "firstTimestamp": note.at,
            "lastTimestamp": note.at,
            "count": 1,
            "type": note.kind,
            "reportingComponent": self.component,
            "reportingInstance": self.host,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(message: &str) -> Note {
        Note {
            regarding: ObjectReference { name: "web".into(), ..ObjectReference::default() },
            kind: "Normal",
            reason: "R".into(),
            message: message.into(),
            at: Time::from_unix(0),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn repeated_gathered_and_dropped() {
        let clock = Clock::simulated(Time::from_unix(0));
        let mut correlator = Correlator::default();
        let mut outcomes = Vec::new();
        for index in 0..40 {
            let text = if index < 3 { "same".to_string() } else { format!("message {index}") };
            outcomes.push(match correlator.judge(&note(&text), clock.instant()) {
                Verdict::Drop => "drop".to_string(),
                Verdict::Create { key, message } => {
                    let last = clock.instant();
                    let told = Told { namespace: "a".into(), name: "n".into(), count: 1, last };
                    correlator.told.insert(key, told);
                    if message.starts_with("(combined") { "gather".into() } else { "new".into() }
                }
                Verdict::Count { told, .. } => format!("x{}", told.count),
            });
        }
        assert_eq!(outcomes[..4], ["new", "x2", "x3", "new"]);
        assert_eq!(outcomes[11..14], ["new", "gather", "x2"]);
        assert_eq!((outcomes[24].as_str(), outcomes[25].as_str()), ("x13", "drop"));
        clock.sleep(Duration::from_secs(301)).await;
        assert!(!matches!(correlator.judge(&note("late"), clock.instant()), Verdict::Drop));
    }
}
