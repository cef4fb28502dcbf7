//! Informers against a scripted API server: streaming lists and plain ones, watches that break
//! off, revisions that are gone.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::{Body, BoxError, Client, Clock, Informers, Rng, Service};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use parking_lot::Mutex;
use proto::time::Time;
use proto::user::User;
use proto::view::config_map::ConfigMap;

/// An answer: the words its query must hold, the code, the lines, and whether it then stays open.
struct Answer {
    expects: &'static [&'static str],
    code: u16,
    lines: Vec<String>,
    stays: bool,
}

fn event(kind: &str, name: &str, revision: u64) -> String {
    format!(
        r#"{{"type":"{kind}","object":{{"metadata":{{"name":"{name}","namespace":"a","uid":"{name}","resourceVersion":"{revision}"}}}}}}"#
    )
}

fn end_of_list(revision: u64) -> String {
    format!(
        r#"{{"type":"BOOKMARK","object":{{"metadata":{{"resourceVersion":"{revision}","annotations":{{"k8s.io/initial-events-end":"true"}}}}}}}}"#
    )
}

fn expired() -> String {
    r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}"#.into()
}

fn answer(answers: &Mutex<VecDeque<Answer>>, request: &Request<Full<Bytes>>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default().to_string();
    let answer = answers.lock().pop_front();
    let answer = answer.unwrap_or_else(|| panic!("no more requests were expected: {query}"));
    for word in answer.expects {
        assert!(query.contains(word), "{query:?} lacks {word:?}");
    }
    let frames = answer
        .lines
        .into_iter()
        .map(|line| Ok::<_, BoxError>(Frame::data(Bytes::from(line + "\n"))));
    let body = match answer.stays {
        true => Body::new(StreamBody::new(futures::StreamExt::chain(
            futures::stream::iter(frames.collect::<Vec<_>>()),
            futures::stream::pending(),
        ))),
        false => Body::new(StreamBody::new(futures::stream::iter(frames.collect::<Vec<_>>()))),
    };
    Response::builder().status(answer.code).body(body.boxed_unsync()).unwrap()
}

fn informers(answers: Vec<Answer>) -> (Informers, Arc<Mutex<VecDeque<Answer>>>, Clock) {
    let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
    let served = answers.clone();
    let service = tower::service_fn(move |request: Request<Full<Bytes>>| {
        let response = answer(&served, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let client = Client::in_process(Service::new(service), User::default());
    let clock = Clock::simulated(Time::from_unix(0));
    (Informers::new(client, clock.clone(), Rng::seeded(1)), answers, clock)
}

/// The next so many changes: `+name`, `~name`, `-name`.
async fn changes(
    informer: &client::Informer<ConfigMap>,
    clock: &Clock,
    count: usize,
) -> Vec<String> {
    let mut changes = informer.changes();
    let mut seen = Vec::new();
    while seen.len() < count {
        let next = clock.timeout(Duration::from_secs(60), changes.next()).await;
        let change = next.unwrap_or_else(|_| panic!("only {seen:?} came"));
        let sign = match (&change.old, &change.new) {
            (None, _) => "+",
            (Some(_), Some(_)) => "~",
            (Some(_), None) => "-",
        };
        seen.push(format!("{sign}{}", change.key.name));
    }
    seen
}

const WATCH: &[&str] = &["watch=true", "allowWatchBookmarks=true"];

#[tokio::test(start_paused = true)]
async fn a_streaming_list_then_a_watch_that_resumes() {
    let (informers, answers, clock) = informers(vec![
        Answer {
            expects: &["sendInitialEvents=true", "resourceVersionMatch=NotOlderThan"],
            code: 200,
            lines: vec![
                event("ADDED", "x", 3),
                event("ADDED", "y", 4),
                end_of_list(5),
                event("MODIFIED", "x", 6),
            ],
            stays: false,
        },
        Answer {
            expects: &["resourceVersion=6", "watch=true"],
            code: 200,
            lines: vec![event("DELETED", "y", 7)],
            stays: true,
        },
    ]);
    let informer = informers.of::<ConfigMap>();
    assert_eq!(changes(&informer, &clock, 4).await, ["+x", "+y", "~x", "-y"]);
    assert!(informer.is_synced() && answers.lock().is_empty());
    assert_eq!((informer.revision(), informer.snapshot().len()), (7, 1));
    assert_eq!(informer.get("a", "x").unwrap().metadata.revision(), 6);
    assert!(informer.get("b", "x").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_is_gone_leads_to_a_new_list_of_differences() {
    let (informers, answers, clock) = informers(vec![
        Answer {
            expects: WATCH,
            code: 200,
            lines: vec![event("ADDED", "x", 3), event("ADDED", "y", 4), end_of_list(5), expired()],
            stays: false,
        },
        // An end before the list was complete counts for nothing.
        Answer { expects: WATCH, code: 200, lines: vec![event("ADDED", "z", 9)], stays: false },
        Answer { expects: WATCH, code: 503, lines: vec!["down".into()], stays: false },
        Answer {
            expects: &["sendInitialEvents=true"],
            code: 200,
            lines: vec![event("ADDED", "y", 4), event("ADDED", "z", 9), end_of_list(9)],
            stays: true,
        },
    ]);
    let informer = informers.of::<ConfigMap>();
    assert_eq!(changes(&informer, &clock, 4).await, ["+x", "+y", "+z", "-x"]);
    assert!(answers.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn servers_without_streaming_lists_are_listed_in_pages() {
    let page = |name: &str, more: &str| {
        format!(
            r#"{{"metadata":{{"resourceVersion":"8","continue":"{more}"}},"items":[{{"metadata":{{"name":"{name}","namespace":"a","resourceVersion":"2"}}}}]}}"#
        )
    };
    let refusal = r#"{"kind":"Status","code":422,"reason":"Invalid","message":"no"}"#;
    let (informers, answers, clock) = informers(vec![
        Answer { expects: WATCH, code: 422, lines: vec![refusal.into()], stays: false },
        Answer { expects: &["limit="], code: 200, lines: vec![page("x", "t")], stays: false },
        Answer { expects: &["continue=t"], code: 200, lines: vec![page("y", "")], stays: false },
        Answer {
            expects: &["resourceVersion=8"],
            code: 200,
            lines: vec![
                "{\"type\":\"ADDED\",\"object\":{\"metadata\":7}}".into(),
                event("ADDED", "z", 9),
            ],
            stays: true,
        },
    ]);
    let informer = informers.of::<ConfigMap>();
    assert_eq!(changes(&informer, &clock, 3).await, ["+x", "+y", "+z"]);
    assert!(answers.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn owners_and_orphans_are_found() {
    let owned = r#"{"type":"ADDED","object":{"metadata":{"name":"x","namespace":"a","uid":"x","resourceVersion":"3","ownerReferences":[{"uid":"o","controller":true}]}}}"#;
    let (informers, _, _) = informers(vec![Answer {
        expects: WATCH,
        code: 200,
        lines: vec![owned.into(), event("ADDED", "y", 4), end_of_list(5)],
        stays: true,
    }]);
    let informer = informers.of::<ConfigMap>();
    informer.synced().await;
    let names = |uid: &str| {
        informer.owned_by(uid).keys().map(|key| key.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!((names("o"), names(""), names("z")), (vec!["x".into()], vec!["y".into()], vec![]));
    assert!(informers.of::<ConfigMap>().is_synced(), "one informer serves all readers");
}
