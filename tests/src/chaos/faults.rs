//! A bad way to the API server: requests are refused, answered late or not at all though they were
//! done, and watches break off or say nothing for a while.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use client::{Body, Client, Clock, Rng, Service};
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use proto::status::Status;
use proto::user::User;
use tower::ServiceExt;

/// Whether and how the ways of its clients are bad.
#[derive(Clone)]
pub struct Faults {
    clock: Clock,
    rng: Rng,
    on: Arc<AtomicBool>,
}

/// What becomes of a request.
enum Fate {
    Well,
    /// Refused though nothing has changed: someone else wrote, it seems.
    Conflict,
    Unavailable,
    /// Nothing is done and nothing said for a while.
    Lost,
    /// It is done, and the answer does not come.
    Unanswered,
    Slow,
}

impl Faults {
    pub fn new(clock: Clock, rng: Rng) -> Faults {
        Faults { clock, rng, on: Arc::default() }
    }

    pub fn set(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// A client of this server whose way is bad while faults are on.
    pub fn client(&self, server: &apiserver::Server, user: User) -> Client {
        let (faults, router) = (self.clone(), server.router());
        let service = tower::service_fn(move |request: Request<Full<Bytes>>| {
            let (faults, router) = (faults.clone(), router.clone());
            async move { Ok::<_, Infallible>(faults.answer(router, request).await) }
        });
        Client::in_process(Service::new(service), user)
    }

    fn fate(&self, writes: bool) -> Fate {
        if !self.on.load(Ordering::Relaxed) {
            return Fate::Well;
        }
        match self.rng.below(1000) {
            0..=9 if writes => Fate::Conflict,
            10..=19 => Fate::Unavailable,
            20..=22 => Fate::Lost,
            23..=27 if writes => Fate::Unanswered,
            28..=37 => Fate::Slow,
            _ => Fate::Well,
        }
    }

    async fn answer(&self, router: axum::Router, request: Request<Full<Bytes>>) -> Response<Body> {
        let watches = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let fate = self.fate(request.method() != Method::GET);
        match fate {
            Fate::Conflict => return refusal(&Status::modified("", "things", "one")),
            Fate::Unavailable => return refusal(&Status::unavailable("for a while")),
            Fate::Lost => {
                self.pause(15_000).await;
                return refusal(&Status::timeout("nobody answers"));
            }
            Fate::Slow => self.pause(3000).await,
            Fate::Well | Fate::Unanswered => {}
        }
        let response = match router.oneshot(request.map(axum::body::Body::new)).await {
            Ok(response) => response.map(|body| body.map_err(client::BoxError::from)),
            Err(never) => match never {},
        };
        if matches!(fate, Fate::Unanswered) {
            self.pause(15_000).await;
            return refusal(&Status::timeout("the answer was lost"));
        }
        if watches && self.on.load(Ordering::Relaxed) {
            return response.map(|body| self.watch(body.boxed_unsync()));
        }
        response.map(BodyExt::boxed_unsync)
    }

    async fn pause(&self, most: u64) {
        self.clock.sleep(Duration::from_millis(self.rng.below(most))).await;
    }

    /// Some watches break off after a while, some fall silent first: what they miss comes late, or
    /// they learn that it is too old to be told.
    fn watch(&self, body: Body) -> Body {
        let frames = BodyStream::new(body);
        let life = Duration::from_secs(self.rng.below(1800));
        let silence = Duration::from_secs(self.rng.below(90));
        let falls_silent = self.rng.below(3) == 0;
        let end = self.clock.instant() + life;
        let clock = self.clock.clone();
        let until = async move {
            clock.sleep_until_instant(end).await;
        };
        let told = frames.take_until(Box::pin(until));
        if !falls_silent {
            return StreamBody::new(told).boxed_unsync();
        }
        let clock = self.clock.clone();
        let start = self.clock.instant() + life / 2;
        let late = told.then(move |frame| {
            let clock = clock.clone();
            async move {
                let now = clock.instant();
                if now >= start && now < start + silence {
                    clock.sleep_until_instant(start + silence).await;
                }
                frame
            }
        });
        StreamBody::new(Box::pin(late)).boxed_unsync()
    }
}

fn refusal(status: &Status) -> Response<Body> {
    let body = Full::new(Bytes::from(serde_json::to_vec(status).expect("a Status is JSON")));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() =
        http::StatusCode::from_u16(status.code).expect("a Status bears a code of HTTP");
    response
}
