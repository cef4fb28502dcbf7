//! What a component shows of itself: figures for Prometheus, and health. Callers are who the API
//! server says that they are, and may read what RBAC grants them of these paths
//! (`nonResourceURLs`), as of upstream's components.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use proto::exposition::{self, Text};
use proto::health;
use proto::status::Status;
use proto::user::User;
use serde_json::json;

use super::process::write_build;
use super::{Authenticator, Authorizer, Process};
use crate::{Client, Clock};

/// How long the API server's words about tokens and rights hold (upstream:
/// `--authentication-token-webhook-cache-ttl` and its kin).
const LASTS: Duration = Duration::from_secs(10);

/// Made when it is asked for.
pub type Page = Arc<dyn Fn() -> BoxFuture<'static, Text> + Send + Sync>;

/// Something that must hold for the component to be well.
#[derive(Clone)]
pub struct Check {
    pub name: &'static str,
    pub holds: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// All pages of a component.
#[derive(Default)]
pub struct Pages {
    figures: Vec<(&'static str, Page)>,
    /// By `healthz` and the like.
    health: Vec<(&'static str, Vec<Check>)>,
}

impl Check {
    pub fn new(name: &'static str, holds: impl Fn() -> bool + Send + Sync + 'static) -> Check {
        Check { name, holds: Arc::new(holds) }
    }
}

impl Pages {
    /// `/metrics`: what `write` writes, and what is the same for every process.
    pub fn metrics(self, write: impl Fn(&mut Text) + Send + Sync + 'static) -> Pages {
        let write = Arc::new(write);
        self.page("/metrics", move || {
            let write = write.clone();
            Box::pin(async move {
                let mut text = Text::default();
                write(&mut text);
                write_build(&mut text);
                Process::now().write(&mut text);
                text
            })
        })
    }

    pub fn page(
        mut self,
        path: &'static str,
        page: impl Fn() -> BoxFuture<'static, Text> + Send + Sync + 'static,
    ) -> Pages {
        self.figures.push((path, Arc::new(page)));
        self
    }

    /// `/healthz` and the like, and each check below it; that it answers at all is one.
    pub fn health(mut self, endpoint: &'static str, checks: &[Check]) -> Pages {
        let ping = Check::new("ping", || true);
        self.health.push((endpoint, [&[ping], checks].concat()));
        self
    }
}

type Answer = Response<Full<Bytes>>;

struct Guarded {
    pages: Pages,
    /// What needs no right.
    open: Vec<String>,
    authenticator: Authenticator,
    authorizer: Authorizer,
}

/// The pages behind the question who asks.
pub(super) fn service(
    pages: Pages,
    open: Vec<String>,
    client: &Client,
    clock: &Clock,
) -> impl tower::Service<
    Request<Incoming>,
    Response = Answer,
    Error = Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static {
    let authenticator = Authenticator::new(client.clone(), clock.clone(), true, LASTS);
    let authorizer = Authorizer::new(client.clone(), clock.clone(), LASTS, LASTS);
    let guarded = Arc::new(Guarded { pages, open, authenticator, authorizer });
    tower::service_fn(move |request: Request<Incoming>| {
        let guarded = guarded.clone();
        async move { Ok(guarded.answer(request).await) }
    })
}

impl Guarded {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        match self.admit(&request).await {
            Err(status) => refuse(&status),
            Ok(()) if !matches!(*request.method(), Method::GET | Method::HEAD) => {
                refuse(&Status::method_not_allowed())
            }
            Ok(()) => self.page(request.uri().path(), request.uri().query()).await,
        }
    }

    async fn admit(&self, request: &Request<Incoming>) -> Result<(), Status> {
        let certified = request.extensions().get::<User>().cloned();
        let user = self.authenticator.identify(certified, request.headers()).await;
        let user = user.ok_or_else(Status::unauthorized)?;
        let path = request.uri().path();
        if self.open.iter().any(|open| covers(open, path)) {
            return Ok(());
        }
        let verb = request.method().as_str().to_lowercase();
        let attributes = json!({"nonResourceAttributes": {"path": path, "verb": verb}});
        match self.authorizer.allows(&user, attributes).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let why = format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name);
                Err(Status::failure(403, "Forbidden", why))
            }
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::warn!(user = user.name, error, "cannot review an access");
                Err(Status::internal("the API server does not say what is allowed"))
            }
        }
    }

    async fn page(&self, path: &str, query: Option<&str>) -> Answer {
        if let Some((_, page)) = self.pages.figures.iter().find(|(known, _)| *known == path) {
            return text(200, exposition::CONTENT_TYPE, page().await.finish());
        }
        let (endpoint, single) = match path.trim_matches('/').split_once('/') {
            Some((endpoint, single)) => (endpoint, Some(single)),
            None => (path.trim_matches('/'), None),
        };
        let Some((name, checks)) = self.pages.health.iter().find(|(name, _)| *name == endpoint)
        else {
            return text(404, PLAIN, "404 page not found\n".into());
        };
        let query: Vec<_> = url::form_urlencoded::parse(query.unwrap_or("").as_bytes()).collect();
        let excluded = query.iter().filter(|(key, _)| key == "exclude");
        let excluded = excluded.map(|(_, value)| &**value).collect();
        let verbose = query.iter().any(|(key, _)| key == "verbose");
        let held: Vec<_> = checks.iter().map(|check| (check.name, (check.holds)())).collect();
        let (code, said) = health::answer(name, &held, single, excluded, verbose);
        text(code, PLAIN, said)
    }
}

/// `PATH*` covers all that begins so, another path itself.
fn covers(open: &str, path: &str) -> bool {
    match open.strip_suffix('*') {
        Some(beginning) => path.starts_with(beginning),
        None => path == open,
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";

fn refuse(status: &Status) -> Answer {
    let mut answer = text(status.code, "application/json", json!(status).to_string());
    if matches!(status.code, 401 | 403) {
        // Whose certificates are believed may have been learned since this connection was made: on
        // the next one the caller is asked for its own.
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

fn text(code: u16, kind: &'static str, body: String) -> Answer {
    let response = Response::builder().status(code).header(CONTENT_TYPE, kind);
    let response = response.header(CACHE_CONTROL, "no-cache, private");
    response.body(Full::from(body)).expect("code and headers are sound")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open() {
        for (open, path, expected) in [
            ("/healthz", "/healthz", true),
            ("/healthz", "/healthz/ping", false),
            ("/healthz", "/healthzx", false),
            ("/healthz*", "/healthz/ping", true),
            ("*", "/metrics", true),
            ("", "/metrics", false),
        ] {
            assert_eq!(covers(open, path), expected, "{open} {path}");
        }
    }
}
