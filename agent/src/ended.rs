//! How many ended runs of containers stay on the node as a whole (`--maximum-dead-containers`):
//! beyond that every container keeps an equal share of them, and if that is still too much the
//! oldest go. The last run of each container does not count and always stays.
//! <https://kubernetes.io/docs/concepts/architecture/garbage-collection/#containers-images>

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use proto::time::Time;
use tokio::sync::Notify;

use crate::observed::Observed;

/// The ended runs of all pods. Clones share them.
#[derive(Clone, Default)]
pub struct Ended(Option<Arc<All>>);

struct All {
    most: usize,
    pods: Mutex<BTreeMap<String, Pod>>,
}

struct Pod {
    /// Newest run of a container first.
    runs: Vec<Run>,
    /// Ids of those that have to go, as the pod's worker knows them.
    excess: BTreeSet<String>,
    wake: Arc<Notify>,
}

#[derive(Clone, Debug, PartialEq)]
struct Run {
    id: String,
    container: String,
    finished: Option<Time>,
}

impl Ended {
    /// Of a node that keeps so many; a negative number is no limit.
    pub fn new(most: i64) -> Ended {
        let all = |most| Arc::new(All { most, pods: Mutex::default() });
        Ended(usize::try_from(most).ok().map(all))
    }

    /// Takes over what a pod has, and says which of its runs have to go. Workers of other pods whose
    /// runs have to go because of it are woken.
    pub fn put(&self, uid: &str, observed: &Observed, wake: &Arc<Notify>) -> BTreeSet<String> {
        let Some(all) = &self.0 else { return BTreeSet::new() };
        let mut pods = all.pods.lock();
        let known = pods.remove(uid).map(|pod| pod.excess).unwrap_or_default();
        let pod = Pod { runs: replaced(observed), excess: known, wake: wake.clone() };
        pods.insert(uid.to_owned(), pod);
        let runs = pods.iter().map(|(uid, pod)| (uid.as_str(), pod.runs.as_slice()));
        let excess: BTreeSet<String> =
            excess(runs, all.most).into_iter().map(String::from).collect();
        for (other, pod) in pods.iter_mut() {
            let own = |run: &&Run| excess.contains(&run.id);
            let due: BTreeSet<String> =
                pod.runs.iter().filter(own).map(|run| run.id.clone()).collect();
            if pod.excess != due {
                pod.excess = due;
                if other != uid {
                    pod.wake.notify_one();
                }
            }
        }
        pods[uid].excess.clone()
    }

    /// Nothing is left of the pod.
    pub fn forget(&self, uid: &str) {
        if let Some(all) = &self.0 {
            all.pods.lock().remove(uid);
        }
    }
}

/// The ended runs after which their containers were started again.
fn replaced(observed: &Observed) -> Vec<Run> {
    let mut latest = BTreeSet::new();
    let old = observed.containers.iter().filter(|run| !latest.insert(run.name.as_str()));
    let ended = old.filter_map(|run| {
        let finished = run.exit()?.finished;
        Some(Run { id: run.id.clone(), container: run.name.clone(), finished })
    });
    ended.collect()
}

/// The ids of the runs that have to go.
fn excess<'a>(pods: impl Iterator<Item = (&'a str, &'a [Run])>, most: usize) -> BTreeSet<&'a str> {
    let mut units: BTreeMap<(&str, &str), Vec<&Run>> = BTreeMap::new();
    for (uid, runs) in pods {
        for run in runs {
            units.entry((uid, &run.container)).or_default().push(run);
        }
    }
    let total: usize = units.values().map(Vec::len).sum();
    if total <= most {
        return BTreeSet::new();
    }
    let share = (most / units.len()).max(1);
    let (mut kept, mut gone) = (Vec::new(), BTreeSet::new());
    for runs in units.into_values() {
        kept.extend(runs.iter().take(share).copied());
        gone.extend(runs.iter().skip(share).map(|run| run.id.as_str()));
    }
    kept.sort_by(|a, b| (b.finished, &b.id).cmp(&(a.finished, &a.id)));
    gone.extend(kept.into_iter().skip(most).map(|run| run.id.as_str()));
    gone
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::observed::{Container, Exit, State};

    fn run(container: &str, at: i64) -> Run {
        let finished = Some(Time::from_unix(at));
        Run { id: format!("{container}{at}"), container: container.into(), finished }
    }

    #[test]
    fn shares_are_equal_and_then_the_oldest_go() {
        let a = [run("a", 9), run("a", 8), run("a", 7), run("a", 1)];
        let (b, c) = ([run("b", 5)], [run("c", 6), run("c", 2)]);
        for (most, expected) in [
            (7, ""),
            // Two each, and not more than that many although one more would fit.
            (6, "a1 a7"),
            (3, "a1 a7 a8 c2"),
            (2, "a1 a7 a8 b5 c2"),
            (0, "a1 a7 a8 a9 b5 c2 c6"),
        ] {
            let pods = [("p", &a[..]), ("q", &b[..]), ("r", &c[..])];
            let gone: Vec<&str> = excess(pods.into_iter(), most).into_iter().collect();
            assert_eq!(gone.join(" "), expected, "{most}");
        }
    }

    fn observed(attempts: std::ops::Range<u32>) -> Observed {
        let run = |attempt: u32| Container {
            id: format!("c{attempt}"),
            name: "c".into(),
            attempt,
            state: State::Exited(Exit {
                finished: Some(Time::from_unix(attempt.into())),
                ..Exit::default()
            }),
            ..Container::default()
        };
        Observed { containers: attempts.rev().map(run).collect(), ..Observed::default() }
    }

    #[test]
    fn one_pods_runs_are_at_another_ones_cost() {
        let (mine, theirs) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let ended = Ended::new(1);
        let ids = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join(" ");
        // The last run does not count.
        assert_eq!(ids(ended.put("p", &observed(0..2), &theirs)), "");
        assert_eq!(ids(ended.put("q", &observed(5..7), &mine)), "");
        assert!(theirs.notified().now_or_never().is_some(), "the older one has to go");
        assert!(mine.notified().now_or_never().is_none());
        assert_eq!(ids(ended.put("p", &observed(0..2), &theirs)), "c0");
        assert_eq!(ids(ended.put("p", &observed(1..2), &theirs)), "");
        ended.forget("q");
        assert_eq!(ids(ended.put("p", &observed(0..3), &theirs)), "c0");
        assert_eq!(ids(Ended::new(-1).put("p", &observed(0..9), &mine)), "");
    }
}
