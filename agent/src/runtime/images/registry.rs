//! The client of a registry (OCI distribution-spec, the part that pulls): one repository at the
//! hosts that serve it. It knows how to ask; what to ask for and what to do with it is `pull`'s.

pub mod auth;
mod connect;
pub mod hosts;
mod http;
pub mod proxy;

use ::http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, RANGE, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use ::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use bytes::Bytes;
use client::{BoxError, Clock};
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

use self::auth::{Challenge, Credentials, challenges};
use self::hosts::{Host, HostsError};
use self::http::Http;
use self::proxy::Proxies;

/// Manifests and configurations are documents; whoever sends more is up to something.
pub const DOCUMENT: usize = 8 << 20;
/// Tokens and errors.
const ANSWER: usize = 1 << 20;
/// A server that is busy is asked again so often.
const TRIES: u32 = 3;
const MAX_RETRY_AFTER: Duration = Duration::from_secs(10);

/// Why a registry did not give something.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("read the configuration of the registry's hosts")]
    Hosts(#[from] HostsError),
    #[error("set up TLS for {host}")]
    Tls {
        host: String,
        #[source]
        source: BoxError,
    },
    #[error("failed to reach {host}")]
    Reach {
        host: String,
        #[source]
        source: BoxError,
    },
    #[error("{host} does not answer in time")]
    Timeout { host: String },
    #[error("{url} redirects too often")]
    Redirects { url: String },
    #[error("a registry with TLS redirects to {url}, which has none")]
    Downgrade { url: String },
    #[error("{url}: not found")]
    NotFound { url: String },
    #[error("{url}: {status}: {detail}")]
    Denied { url: String, status: StatusCode, detail: String },
    #[error("unexpected status from GET request to {url}: {status}: {detail}")]
    Status { url: String, status: StatusCode, detail: String },
    #[error("{url} is no URL that can be asked for")]
    Url { url: String },
    #[error("the token server at {realm} would be told the password without TLS")]
    PlainToken { realm: String },
    #[error("the token server at {realm} gave no token: {detail}")]
    Token { realm: String, detail: String },
}

impl RegistryError {
    /// The host is out of order; it says nothing about the image, and another try may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            RegistryError::Reach { .. } | RegistryError::Timeout { .. } => true,
            RegistryError::Status { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        }
    }
}

/// A repository at one host.
pub struct Remote {
    pub host: Host,
    http: Http,
    repository: String,
    credentials: Credentials,
    authorization: Mutex<Option<HeaderValue>>,
    clock: Clock,
}

/// A document with what it was announced as.
pub struct Document {
    pub bytes: Bytes,
    pub media_type: String,
}

/// The bytes of a blob as they come.
pub struct Blob<'a> {
    remote: &'a Remote,
    body: Incoming,
    /// Where in the blob they begin.
    pub start: u64,
}

impl Remote {
    pub fn new(
        host: Host,
        repository: &str,
        credentials: Credentials,
        proxies: Arc<Proxies>,
        clock: Clock,
    ) -> Result<Remote, RegistryError> {
        Ok(Remote {
            http: Http::new(host.clone(), proxies, clock.clone())?,
            authorization: Mutex::new(match &credentials {
                Credentials::Bearer(token) => bearer(token),
                _ => None,
            }),
            host,
            repository: repository.to_owned(),
            credentials,
            clock,
        })
    }

    /// A manifest by tag or digest.
    pub async fn manifest(&self, reference: &str) -> Result<Document, RegistryError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(super::manifest::ACCEPT));
        let response = self.get(&format!("manifests/{reference}"), headers).await?;
        let media_type = text(&response, CONTENT_TYPE.as_str()).to_owned();
        Ok(Document { bytes: self.http.bytes(response, DOCUMENT).await?, media_type })
    }

    /// The digest of what a tag or digest stands for, where the registry says it without being asked
    /// for the whole.
    pub async fn digest(&self, reference: &str) -> Result<Option<String>, RegistryError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(super::manifest::ACCEPT));
        let path = format!("manifests/{reference}");
        match self.ask(Method::HEAD, &path, headers).await {
            Ok(response) => {
                let digest = text(&response, "docker-content-digest");
                Ok((!digest.is_empty()).then(|| digest.to_owned()))
            }
            // Some do not know the question; an answer to GET says more about what is wrong.
            Err(error) if error.is_transient() => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// A small blob as a whole.
    pub async fn document(&self, digest: &str) -> Result<Bytes, RegistryError> {
        let response = self.get(&format!("blobs/{digest}"), HeaderMap::new()).await?;
        self.http.bytes(response, DOCUMENT).await
    }

    /// A blob from a byte on. The server may begin earlier, at the first.
    pub async fn blob(&self, digest: &str, from: u64) -> Result<Blob<'_>, RegistryError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if from > 0 {
            let range = HeaderValue::try_from(format!("bytes={from}-"));
            headers.insert(RANGE, range.expect("numbers are a header"));
        }
        let response = self.get(&format!("blobs/{digest}"), headers).await?;
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = text(&response, CONTENT_RANGE.as_str());
                let first = range.trim_start_matches("bytes ").split('-').next();
                first.and_then(|first| first.parse().ok()).unwrap_or(from)
            }
            _ => 0,
        };
        Ok(Blob { remote: self, body: response.into_body(), start })
    }

    async fn get(
        &self,
        path: &str,
        headers: HeaderMap,
    ) -> Result<Response<Incoming>, RegistryError> {
        self.ask(Method::GET, path, headers).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
    ) -> Result<Response<Incoming>, RegistryError> {
        let Host { scheme, authority, path: prefix, mirror_of, .. } = &self.host;
        let mut url = format!("{scheme}://{authority}{prefix}/{}/{path}", self.repository);
        if let Some(registry) = mirror_of {
            // A mirror of several registries must know which is meant (containerd's convention).
            url.push_str(&format!("?ns={registry}"));
        }
        let uri: Uri = url.parse().map_err(|_| RegistryError::Url { url: url.clone() })?;
        let mut tried = 0;
        loop {
            tried += 1;
            let response = self.authorized(&method, &uri, &headers).await?;
            let status = response.status();
            let busy =
                status == StatusCode::TOO_MANY_REQUESTS || matches!(status.as_u16(), 502..=504);
            if busy && tried < TRIES {
                self.clock.sleep(patience(&response, tried)).await;
                continue;
            }
            if status.is_success() {
                return Ok(response);
            }
            let detail = self.detail(response).await;
            return Err(match status {
                StatusCode::NOT_FOUND => RegistryError::NotFound { url },
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    RegistryError::Denied { url, status, detail }
                }
                _ => RegistryError::Status { url, status, detail },
            });
        }
    }

    /// Asks; says who we are as soon as the registry wants to know, and again when a token has
    /// expired.
    async fn authorized(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, RegistryError> {
        let mut headers = headers.clone();
        let known = self.authorization.lock().clone();
        if let Some(value) = known {
            headers.insert(AUTHORIZATION, value);
        }
        let send = |headers| self.http.send(method.clone(), uri.clone(), headers, Bytes::new());
        let response = send(headers.clone()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let offers = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let offers: Vec<Challenge> =
            offers.filter_map(|value| value.to_str().ok()).flat_map(challenges).collect();
        let Some(value) = self.answer(&offers).await? else { return Ok(response) };
        *self.authorization.lock() = Some(value.clone());
        headers.insert(AUTHORIZATION, value);
        send(headers).await
    }

    /// The header that answers one of the challenges; a token is better than a password.
    async fn answer(&self, offers: &[Challenge]) -> Result<Option<HeaderValue>, RegistryError> {
        let token = offers.iter().find(|offer| matches!(offer, Challenge::Bearer { .. }));
        if let Some(Challenge::Bearer { realm, service, scope }) = token {
            if matches!(self.credentials, Credentials::Bearer(_)) {
                return Ok(None); // It was refused as it is.
            }
            let own = format!("repository:{}:pull", self.repository);
            let scope = scope.as_deref().unwrap_or(&own);
            return self.token(realm, service.as_deref(), scope).await.map(Some);
        }
        let basic = offers.contains(&Challenge::Basic);
        Ok(self.credentials.basic().filter(|_| basic))
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
    ) -> Result<HeaderValue, RegistryError> {
        if self.host.scheme == "https"
            && realm.starts_with("http://")
            && self.credentials != Credentials::Anonymous
        {
            return Err(RegistryError::PlainToken { realm: realm.to_owned() });
        }
        let url = |text: &str| {
            text.parse::<Uri>().map_err(|_| RegistryError::Url { url: text.to_owned() })
        };
        let mut headers = HeaderMap::new();
        let response = if let Credentials::Identity(token) = &self.credentials {
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            headers.insert(CONTENT_TYPE, form);
            let body = auth::form(service, scope, token).into();
            self.http.send(Method::POST, url(realm)?, headers, body).await?
        } else {
            let username = match &self.credentials {
                Credentials::Basic { username, .. } => Some(username.as_str()),
                _ => None,
            };
            if let Some(value) = self.credentials.basic() {
                headers.insert(AUTHORIZATION, value);
            }
            let separator = if realm.contains('?') { '&' } else { '?' };
            let full = format!("{realm}{separator}{}", auth::query(service, scope, username));
            self.http.send(Method::GET, url(&full)?, headers, Bytes::new()).await?
        };
        let status = response.status();
        if !status.is_success() {
            let (url, detail) = (realm.to_owned(), self.detail(response).await);
            return Err(match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    RegistryError::Denied { url, status, detail }
                }
                _ => RegistryError::Status { url, status, detail },
            });
        }
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let failed = |detail: String| RegistryError::Token { realm: realm.to_owned(), detail };
        let answer = self.http.bytes(response, ANSWER).await?;
        let token: Token =
            serde_json::from_slice(&answer).map_err(|error| failed(error.to_string()))?;
        let token = token.token.or(token.access_token).unwrap_or_default();
        bearer(&token)
            .filter(|_| !token.is_empty())
            .ok_or_else(|| failed("the answer has none".into()))
    }

    /// What the server says about a failure.
    async fn detail(&self, response: Response<Incoming>) -> String {
        #[derive(Deserialize)]
        struct Errors {
            errors: Vec<One>,
        }
        #[derive(Deserialize)]
        struct One {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let bytes = self.http.bytes(response, ANSWER).await.unwrap_or_default();
        match serde_json::from_slice::<Errors>(&bytes) {
            Ok(Errors { errors }) => {
                let errors = errors.iter().map(|one| format!("{}: {}", one.code, one.message));
                errors.collect::<Vec<_>>().join("; ")
            }
            // A page of a proxy: its beginning says enough.
            Err(_) => String::from_utf8_lossy(&bytes).trim().chars().take(200).collect(),
        }
    }
}

impl Blob<'_> {
    /// The next part; `None` at the end.
    pub async fn part(&mut self) -> Result<Option<Bytes>, RegistryError> {
        self.remote.http.part(&mut self.body).await
    }
}

fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn text<'a>(response: &'a Response<Incoming>, header: &str) -> &'a str {
    response.headers().get(header).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// How long a busy server wants to be left alone; it doubles where it does not say.
fn patience(response: &Response<Incoming>, tried: u32) -> Duration {
    let asked = text(response, RETRY_AFTER.as_str()).parse().ok().map(Duration::from_secs);
    asked.unwrap_or(Duration::from_millis(100 << tried)).min(MAX_RETRY_AFTER)
}
