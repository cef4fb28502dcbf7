//! The overlay's properties, whatever the order in which writes and watch events arrive: a
//! controller never sees anything older than its own last write, and once the informer has
//! caught up it sees just what there is.

use client::Feed;
use proptest::prelude::*;
use proto::view::config_map::ConfigMap;

use super::*;

/// Who did something to which of three objects.
#[derive(Clone, Debug)]
enum Act {
    /// This controller wrote it (and saw the answer).
    Write(usize),
    /// This controller deleted it: at once, or (with a finalizer) by and by.
    Delete(usize, bool),
    /// Someone else wrote or deleted it.
    Foreign(usize, bool),
    /// The informer gets the next so many events.
    Deliver(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..3usize).prop_map(Act::Write),
        (0..3usize, any::<bool>()).prop_map(|(object, slow)| Act::Delete(object, slow)),
        (0..3usize, any::<bool>()).prop_map(|(object, gone)| Act::Foreign(object, gone)),
        (1..4usize).prop_map(Act::Deliver),
    ]
}

/// The API server, in as much as a cache notices.
#[derive(Default)]
struct Server {
    revision: u64,
    objects: [Option<Value>; 3],
    /// Events that the informer has not had yet, with the object after or before.
    events: Vec<(bool, Value)>,
}

impl Server {
    fn write(&mut self, index: usize, ending: bool) -> Value {
        self.revision += 1;
        let uid = match &self.objects[index] {
            Some(object) => object["metadata"]["uid"].clone(),
            None => format!("uid-{}", self.revision).into(),
        };
        let mut object = json!({ "metadata": {
            "name": format!("o{index}"), "namespace": "a", "uid": uid,
            "resourceVersion": self.revision.to_string(),
        } });
        if ending {
            object["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
            object["metadata"]["finalizers"] = json!(["hold"]);
        }
        self.objects[index] = Some(object.clone());
        self.events.push((true, object.clone()));
        object
    }

    fn delete(&mut self, index: usize) -> Option<Value> {
        let mut object = self.objects[index].take()?;
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        self.events.push((false, object.clone()));
        Some(object)
    }
}

fn entry(object: &Value) -> Entry<ConfigMap> {
    Entry::decode(object.to_string().into()).unwrap()
}

fn deliver(server: &mut Server, feed: &Feed<ConfigMap>, count: usize) {
    let count = count.min(server.events.len());
    for (put, object) in server.events.drain(..count) {
        match put {
            true => feed.put(entry(&object)),
            false => feed.delete(&entry(&object)),
        }
    }
}

/// What the view has of an object: its uid and revision.
fn seen(view: &View, index: usize) -> Option<(String, u64)> {
    let found = view.get::<ConfigMap>("a", &format!("o{index}"))?;
    let listed = view.namespace::<ConfigMap>("a");
    let same = listed.iter().filter(|other| other.metadata.name == found.metadata.name);
    assert_eq!(same.count(), 1, "get and list agree");
    Some((found.metadata.uid.clone(), found.metadata.revision()))
}

proptest! {
    #[test]
    fn own_writes_are_seen_and_forgotten(acts in prop::collection::vec(act(), 1..60)) {
        let (informer, feed) = Informer::<ConfigMap>::detached();
        let mut view = View::default();
        let cache = view.add(informer);
        let mut server = Server::default();
        // The revision and uid of this controller's last write of each object, or its end.
        let mut own: [(u64, Option<String>); 3] = Default::default();
        for act in acts {
            match act {
                Act::Write(index) => {
                    let object = server.write(index, false);
                    let meta = cache.wrote(object.to_string().into()).unwrap();
                    own[index] = (meta.revision(), Some(meta.uid));
                }
                Act::Delete(index, true) if server.objects[index].is_some() => {
                    let object = server.write(index, true);
                    let meta = cache.wrote(object.to_string().into()).unwrap();
                    own[index] = (meta.revision(), Some(meta.uid));
                }
                Act::Delete(index, _) => if let Some(object) = server.delete(index) {
                    let meta = entry(&object).metadata.clone();
                    own[index] = (meta.revision(), None);
                    cache.removed(&meta);
                },
                Act::Foreign(index, true) => drop(server.delete(index)),
                Act::Foreign(index, false) => drop(server.write(index, false)),
                Act::Deliver(count) => deliver(&mut server, &feed, count),
            }
            for (index, (revision, uid)) in own.iter().enumerate() {
                match (seen(&view, index), uid) {
                    (Some((_, shown)), _) => prop_assert!(shown >= *revision || uid.is_none()
                        && *revision == 0, "object {index}: {shown} is older than {revision}"),
                    (None, Some(_)) => {
                        let there = server.objects[index].as_ref();
                        let current = there.map(|object| &object["metadata"]["uid"]);
                        prop_assert!(current.is_none_or(|now| now != uid.as_ref().unwrap()),
                            "object {index} is hidden though it exists");
                    }
                    (None, None) => {}
                }
            }
        }
        deliver(&mut server, &feed, usize::MAX);
        for index in 0..3 {
            let truth = server.objects[index].as_ref().map(|object| {
                let meta = entry(object).metadata.clone();
                (meta.uid.clone(), meta.revision())
            });
            prop_assert_eq!(seen(&view, index), truth);
        }
        prop_assert!(cache.written.lock().is_empty(), "the overlay forgets what was seen");
    }
}
