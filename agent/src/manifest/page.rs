//! The pods of `--manifest-url`: one, or a list of them, asked for again and again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::error::chain;
use client::{BoxError, Clock};
use http::header::LOCATION;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use proto::time::Time;
use rustls::ClientConfig;

use super::{Manifest, Origin, read_all};
use crate::authorities;

/// Whom to ask, how often, and what to say of oneself.
#[derive(Clone, Debug)]
pub struct Config {
    pub url: Uri,
    pub headers: HeaderMap,
    pub every: Duration,
}

/// Asks one URL.
pub struct Page {
    config: Config,
    node: String,
    clock: Clock,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    /// What it said last; nothing before it has.
    known: Option<Vec<Manifest>>,
    due: Time,
}

/// Why there is nothing new.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("it does not answer")]
    Silent(#[source] BoxError),
    #[error("it takes too long")]
    Slow,
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("it leads from one place to the next")]
    Redirects,
    #[error("zero-length data received")]
    Empty,
    #[error(transparent)]
    Manifest(#[from] super::Error),
}

/// As long as the kubelet waits for a whole answer, and as much as it reads.
const PATIENCE: Duration = Duration::from_secs(10);
const LARGEST: usize = 10 << 20;
const REDIRECTS: usize = 10;

impl Page {
    pub fn new(config: Config, node: &str, clock: Clock) -> Result<Page, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(authorities::system())
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let due = clock.now();
        Ok(Page { config, node: node.into(), clock, client, known: None, due })
    }

    /// What it says, once that is something else. What it cannot say changes nothing.
    pub async fn changed(&mut self) -> Vec<Manifest> {
        loop {
            self.clock.sleep(self.due.since(self.clock.now())).await;
            let asked = self.clock.timeout(PATIENCE, self.ask()).await.unwrap_or(Err(Error::Slow));
            // Who lets go of this before there is an answer loses nothing.
            self.due = self.clock.now().plus(self.config.every);
            let uids = |pods: &[Manifest]| -> Vec<_> {
                pods.iter().map(|pod| (pod.namespace.clone(), pod.uid.clone())).collect()
            };
            match asked {
                // Since when a pod is seen is no news.
                Ok(pods) if self.known.as_deref().map(uids) == Some(uids(&pods)) => {}
                Ok(pods) => {
                    self.known = Some(pods.clone());
                    return pods;
                }
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(url = %self.config.url, error, "cannot use the manifests");
                }
            }
        }
    }

    async fn ask(&self) -> Result<Vec<Manifest>, Error> {
        let answer = self.answer().await?;
        if answer.status() != StatusCode::OK {
            return Err(Error::Status(answer.status()));
        }
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        let text = body.map_err(Error::Silent)?.to_bytes();
        if text.is_empty() {
            return Err(Error::Empty);
        }
        let url = self.config.url.to_string();
        Ok(read_all(&text, Origin::Url(&url), &self.node, self.clock.now())?)
    }

    /// Wherever it leads to; what is said of oneself only the first host is told.
    async fn answer(&self) -> Result<Response<Incoming>, Error> {
        let mut url = self.config.url.clone();
        for _ in 0..=REDIRECTS {
            let mut request = Request::new(Empty::new());
            *request.uri_mut() = url.clone();
            if url.authority() == self.config.url.authority() {
                *request.headers_mut() = self.config.headers.clone();
            }
            let answer = self.client.request(request).await;
            let answer = answer.map_err(|error| Error::Silent(error.into()))?;
            let next = answer.headers().get(LOCATION).filter(|_| answer.status().is_redirection());
            match next.and_then(|next| resolve(&url, next)) {
                Some(next) => url = next,
                None => return Ok(answer),
            }
        }
        Err(Error::Redirects)
    }
}

fn resolve(base: &Uri, target: &HeaderValue) -> Option<Uri> {
    let base = url::Url::parse(&base.to_string()).ok()?;
    base.join(target.to_str().ok()?).ok()?.as_str().parse().ok()
}

/// `NAME:VALUE`, as a header is written on the command line.
pub fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let bad = || format!("{text:?} is no header such as name:value");
    let (name, value) = text.split_once(':').ok_or_else(bad)?;
    let name = name.trim().parse().map_err(|_| bad())?;
    Ok((name, value.trim().parse().map_err(|_| bad())?))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::HeaderMap as Headers;
    use axum::response::Redirect;
    use axum::routing::get;
    use parking_lot::Mutex;

    use super::*;

    type Said = Arc<Mutex<(StatusCode, String)>>;

    const LIST: &str = "{apiVersion: v1, kind: PodList, items: [
        {metadata: {name: a}, spec: {containers: [{name: c, image: i}]}},
        {metadata: {name: b}, spec: {containers: [{name: c, image: i}]}}]}";
    const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}";

    /// A page that says what it is told to, to who knows the word; and one that leads there.
    async fn page() -> (Said, Page) {
        let said: Said = Arc::new(Mutex::new((StatusCode::OK, String::new())));
        let answers = said.clone();
        let answer = move |headers: Headers| async move {
            let words: Vec<_> = headers.get_all("word").iter().collect();
            match words == ["open", "sesame"] {
                true => answers.lock().clone(),
                false => (StatusCode::FORBIDDEN, format!("{words:?}")),
            }
        };
        let lead = || async { Redirect::temporary("pods") };
        let router = Router::new().route("/pods", get(answer)).route("/old", get(lead));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/old", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let headers = ["word:open", "word: sesame"].map(|text| header(text).unwrap());
        let headers = headers.into_iter().collect();
        let config = Config { url, headers, every: Duration::ZERO };
        (said, Page::new(config, "n", Clock::system()).unwrap())
    }

    fn names(pods: Vec<Manifest>) -> Vec<String> {
        pods.into_iter().map(|pod| pod.name).collect()
    }

    #[tokio::test]
    async fn pods_come_change_and_stay_when_nobody_answers() {
        let (said, mut page) = page().await;
        let error = page.ask().await.unwrap_err();
        assert_eq!(error.to_string(), "zero-length data received");
        *said.lock() = (StatusCode::OK, POD.into());
        let first = page.changed().await;
        assert!(String::from_utf8_lossy(&first[0].bytes).contains("\"http\""));
        assert_eq!(names(first), ["p-n"]);
        for (status, text, why) in [
            (StatusCode::NOT_FOUND, POD, "it answers 404 Not Found"),
            (StatusCode::OK, "{kind: PodList", "it is neither YAML nor JSON"),
        ] {
            *said.lock() = (status, text.into());
            assert_eq!(page.ask().await.unwrap_err().to_string(), why);
        }
        *said.lock() = (StatusCode::OK, LIST.into());
        assert_eq!(names(page.changed().await), ["a-n", "b-n"]);
        *said.lock() = (StatusCode::OK, "{apiVersion: v1, kind: PodList, items: []}".into());
        assert_eq!(page.changed().await, []);
    }

    #[test]
    fn headers_as_they_are_written() {
        assert_eq!(header("a:b:c").unwrap(), ("a".parse().unwrap(), "b:c".parse().unwrap()));
        for bad in ["a", ":b", "a b:c"] {
            assert!(header(bad).is_err(), "{bad}");
        }
    }
}
