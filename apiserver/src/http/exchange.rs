//! One request from its arrival to the end of its answer: its id, its seat, what is counted of it,
//! and what the audit log says of it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use client::Clock;
use http::{HeaderName, HeaderValue, header, request::Parts};
use http_body_util::BodyExt;
use proto::{status::Status, time::Time, user::User};
use serde_json::Value;
use tokio::time::Instant;

use super::{Api, header_text, query::Query};
use crate::{
    audit::{self, Level, Notes, Outcome, Stage, Subject},
    authz::What,
    flow::{Admitted, Asks},
    metrics::{self, Metrics, Running},
};

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
const SCHEMA: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

pub(super) struct Exchange {
    id: String,
    started: Instant,
    received: Time,
    known: Option<Known>,
}

/// Where the peer is, as a request extension.
#[derive(Clone, Copy, Debug)]
pub struct Source(pub std::net::SocketAddr);

/// Who asks for what, once that is known.
pub(super) struct Asked<'a> {
    /// Who proved to be whom, and whom they act as.
    pub user: &'a Arc<User>,
    pub acting: &'a Arc<User>,
    pub verb: &'static str,
    pub what: What<'a>,
    pub version: &'a str,
    pub query: &'a Query<'a>,
}

struct Known {
    labels: metrics::Request,
    long: bool,
    record: Option<audit::Record>,
    /// Only where there is a record to annotate.
    notes: Option<Arc<Notes>>,
    requested: Option<Value>,
    decision: Option<(&'static str, String)>,
    admitted: Option<Admitted>,
    running: Option<Running>,
}

impl Exchange {
    pub fn begin(api: &Api, parts: &Parts) -> Exchange {
        let named = header_text(parts, AUDIT_ID).filter(|id| !id.is_empty() && id.len() <= 64);
        let id = named.map_or_else(|| api.rng.uuid(), str::to_string);
        Exchange { id, started: api.clock.instant(), received: api.clock.now(), known: None }
    }

    /// Tells the audit log of the request and waits for its seat.
    pub async fn admit(
        &mut self,
        api: &Api,
        parts: &Parts,
        asked: Asked<'_>,
    ) -> Result<(), Status> {
        let Asked { user, acting, verb, what, version, query } = asked;
        let impersonated = (!Arc::ptr_eq(user, acting)).then_some(&**acting);
        let uri = parts.uri.path_and_query().map_or("/", |uri| uri.as_str());
        let record = api.audit.as_ref().and_then(|audit| {
            audit.begin(&Subject {
                id: &self.id,
                uri,
                verb,
                user,
                impersonated,
                source: parts.extensions.get::<Source>().map(|source| source.0.ip()),
                user_agent: header_text(parts, header::USER_AGENT).unwrap_or_default(),
                what,
                version,
                received: self.received,
            })
        });
        let served = is_served(api, &what, version);
        let (labels, long) = (labels(verb, &what, version, query, served), is_long(verb, &what));
        let running = match long {
            true => api.metrics.long_running(&labels),
            false => api.metrics.running(!matches!(verb, "get" | "list" | "head")),
        };
        let known = self.known.insert(Known {
            labels,
            long,
            notes: record.as_ref().map(|_| Arc::default()),
            record,
            requested: None,
            decision: None,
            admitted: None,
            running: Some(running),
        });
        match api.flow.enter(&Asks { user: acting, verb, what }).await {
            Ok(admitted) => known.admitted = Some(admitted),
            Err(refused) => {
                api.metrics.refused(&refused.schema, &refused.level, refused.reason);
                return Err(refused.status());
            }
        }
        Ok(())
    }

    /// What authorization came to.
    pub fn decided<T>(&mut self, verdict: &Result<T, String>) {
        if let Some(known) = &mut self.known {
            known.decision = Some(match verdict {
                Ok(_) => ("allow", String::new()),
                Err(why) => ("forbid", why.clone()),
            });
        }
    }

    /// Where to note what the audit log should say of the request.
    pub fn notes(&self) -> Option<Arc<Notes>> {
        self.known.as_ref().and_then(|known| known.notes.clone())
    }

    /// Whether the audit log wants the body.
    pub fn wants_body(&self) -> bool {
        let record = self.known.as_ref().and_then(|known| known.record.as_ref());
        record.is_some_and(|record| record.level >= Level::Request)
    }

    pub fn requested(&mut self, body: Value) {
        if let Some(known) = &mut self.known {
            known.requested = Some(body);
        }
    }

    /// The answer, with its headers; what remains to be said of a long one is said at its end.
    pub async fn end(self, api: &Api, mut response: Response) -> Response {
        let headers = response.headers_mut();
        if let Ok(mut id) = HeaderValue::from_str(&self.id) {
            // Never the same again: in HPACK's table it would only displace what is.
            id.set_sensitive(true);
            headers.insert(AUDIT_ID, id);
        }
        let mut set = |name: HeaderName, text: &str| {
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(name, value);
            }
        };
        let Some(mut known) = self.known else { return response };
        // The seat is free as soon as the answer is made: sending it costs no one else.
        if let Some(admitted) = known.admitted.take() {
            set(SCHEMA, &admitted.schema_uid);
            set(LEVEL, &admitted.level_uid);
        }
        let code = response.status().as_u16();
        let mut ending = Ending {
            known,
            code,
            started: self.started,
            clock: api.clock.clone(),
            metrics: api.metrics.clone(),
        };
        if ending.known.long && code < 400 {
            ending.say(Stage::ResponseStarted, None);
            return response.map(|body| Body::new(Accompanied { body, _ending: ending }));
        }
        let wanted = ending
            .known
            .record
            .as_ref()
            .is_some_and(|record| record.level >= Level::RequestResponse || code >= 400);
        if !wanted {
            ending.finish(None);
            return response;
        }
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        ending.finish(Some(&bytes));
        Response::from_parts(parts, Body::from(bytes))
    }

    /// The log is told that the server failed; the answer still comes through [`Exchange::end`].
    pub fn panicked(&mut self, api: &Api) {
        let now = api.clock.now();
        let record = self.known.as_ref().and_then(|known| known.record.as_ref());
        if let Some(record) = record {
            record.write(&Outcome {
                stage: Stage::Panic,
                code: 500,
                answered: None,
                requested: None,
                now,
                decision: None,
                notes: None,
            });
        }
    }
}

/// What is left to say of a request when its answer is over.
struct Ending {
    known: Known,
    code: u16,
    started: Instant,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl Ending {
    fn say(&self, stage: Stage, answered: Option<&Bytes>) {
        let Some(record) = &self.known.record else { return };
        let decision = self.known.decision.as_ref();
        record.write(&Outcome {
            stage,
            code: self.code,
            answered,
            requested: self.known.requested.as_ref(),
            now: self.clock.now(),
            decision: decision.map(|(decision, reason)| (*decision, reason.as_str())),
            notes: self.known.notes.as_deref(),
        });
    }

    fn finish(&mut self, answered: Option<&Bytes>) {
        self.say(Stage::ResponseComplete, answered);
        let took = self.clock.instant() - self.started;
        self.known.running = None;
        self.metrics.answered(std::mem::take(&mut self.known.labels), self.code, took);
    }
}

/// A long answer; whenever it ends, however it ends, that is counted and written.
struct Accompanied {
    body: Body,
    _ending: Ending,
}

impl Drop for Accompanied {
    fn drop(&mut self) {
        self._ending.finish(None);
    }
}

impl http_body::Body for Accompanied {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

fn is_long(verb: &str, what: &What<'_>) -> bool {
    const STREAMS: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];
    match what {
        What::Resource { subresource, .. } => verb == "watch" || STREAMS.contains(subresource),
        What::Path(_) => false,
    }
}

/// Whether there is such a resource. What clients make up would have no end as labels.
fn is_served(api: &Api, what: &What<'_>, version: &str) -> bool {
    let What::Resource { group, resource, subresource, .. } = *what else { return false };
    let kind = api.registry.kind(group, version, resource);
    kind.is_some_and(|kind| subresource.is_empty() || kind.row.has_subresource(subresource))
}

fn labels(
    verb: &str,
    what: &What<'_>,
    version: &str,
    query: &Query,
    served: bool,
) -> metrics::Request {
    const VERBS: [(&str, &str); 11] = [
        ("get", "GET"),
        ("list", "LIST"),
        ("watch", "WATCH"),
        ("create", "POST"),
        ("update", "PUT"),
        ("patch", "PATCH"),
        ("delete", "DELETE"),
        ("deletecollection", "DELETECOLLECTION"),
        ("post", "POST"),
        ("put", "PUT"),
        ("head", "HEAD"),
    ];
    let found = VERBS.iter().find(|(own, _)| *own == verb);
    let common = metrics::Request {
        component: "apiserver",
        dry_run: if query.find("dryRun").is_some_and(|run| run == "All") { "All" } else { "" },
        verb: found.map_or("other", |(_, shown)| shown),
        ..metrics::Request::default()
    };
    match *what {
        What::Resource { group, resource, subresource, namespace, name } if served => {
            metrics::Request {
                group: group.into(),
                version: version.into(),
                resource: resource.into(),
                subresource: subresource.into(),
                scope: match (namespace, name) {
                    (_, name) if !name.is_empty() || verb == "create" => "resource",
                    ("", _) => "cluster",
                    _ => "namespace",
                },
                ..common
            }
        }
        _ => common,
    }
}
