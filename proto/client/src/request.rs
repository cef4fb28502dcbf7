//! What a component may ask the API server: the verbs of the API on typed views. Each method is
//! one request.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use proto::kind::Row;
use proto::status::Status;
use proto::user::User;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::kubeconfig::Config;
use crate::transport::{ConnectError, Transport};
use crate::{DeleteOptions, Entry, Error, List, ListOptions, Object, Patch, WatchEvent};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A body, of requests sent raw and of their answers.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;
/// The API server's router in this process.
pub type Service =
    tower::util::BoxCloneSyncService<Request<Full<Bytes>>, Response<Body>, Infallible>;

const JSON: &str = "application/json";

/// A connection to an API server; clones share it.
#[derive(Clone)]
pub struct Client {
    transport: Arc<Transport>,
    agent: HeaderValue,
}

impl Client {
    /// Speaks HTTPS (or, where the URL says so, HTTP). Connects at the first request.
    pub fn connect(config: &Config) -> Result<Client, ConnectError> {
        Ok(Client::over(Transport::https(config)?))
    }

    /// Speaks with a router in this process, as `user`.
    pub fn in_process(service: Service, user: User) -> Client {
        Client::over(Transport::in_process(service, user))
    }

    fn over(transport: Transport) -> Client {
        Client { transport: Arc::new(transport), agent: HeaderValue::from_static("coracle") }
    }

    /// The same connection under another name: the User-Agent, and so the manager of the fields
    /// it writes.
    pub fn named(&self, agent: &'static str) -> Client {
        Client { agent: HeaderValue::from_static(agent), ..self.clone() }
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    pub(crate) fn agent(&self) -> &HeaderValue {
        &self.agent
    }

    /// Asks for metadata alone where the view is of no more, unless whole objects cost nothing.
    pub(crate) fn accepts<T: Object>(&self, row: &Row, suffix: &str) -> String {
        let asked = T::row();
        if asked.kind == row.kind || self.shares_bytes() {
            return JSON.into();
        }
        let (kind, group, version) = (&asked.kind, &asked.group, &asked.version);
        format!("{JSON};as={kind}{suffix};g={group};v={version},{JSON}")
    }

    pub(crate) fn shares_bytes(&self) -> bool {
        self.transport.shares_bytes()
    }

    /// Sends a request as it is, its URI a path with a query; any answer is an answer.
    pub async fn request(&self, mut request: Request<Bytes>) -> Result<Response<Body>, Error> {
        let (method, path) = (request.method().clone(), request.uri().path().to_string());
        request.headers_mut().entry(USER_AGENT).or_insert(self.agent.clone());
        let server = || self.transport.server().to_string();
        self.transport.send(request).await.map_err(|source| Error::Transport {
            method,
            path,
            server: server(),
            source,
        })
    }

    /// Sends a request; an answer of 400 or more is an error. The body has yet to arrive.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Response<Body>, Error> {
        self.open_as(method, path, JSON, content_type, body).await
    }

    /// As [`Client::open`], with what is accepted as an answer.
    pub(crate) async fn open_as(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Response<Body>, Error> {
        let mut request =
            Request::builder().method(method.clone()).uri(path).header(ACCEPT, accept);
        if !content_type.is_empty() {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let request = request.body(body).map_err(|source| Error::Request {
            method,
            path: path.into(),
            source,
        })?;
        let response = self.request(request).await?;
        if response.status().as_u16() < 400 {
            return Ok(response);
        }
        let code = response.status();
        let text = collect(path, response.into_body()).await?;
        Err(refusal(code, &text))
    }

    /// Sends a request and waits for the whole answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Bytes, Error> {
        let response = self.open(method, path, content_type, body).await?;
        collect(path, response.into_body()).await
    }

    pub async fn get<T: Object>(&self, namespace: &str, name: &str) -> Result<Entry<T>, Error> {
        let path = T::row().path(namespace, name);
        let bytes = self.send(Method::GET, &path, "", Bytes::new()).await?;
        entry(&path, bytes)
    }

    /// One page (or all) of a collection.
    pub async fn list<T: Object>(&self, options: &ListOptions) -> Result<List<T>, Error> {
        self.list_of(T::row(), options).await
    }

    /// As [`Client::list`], of a kind only known at run time.
    pub async fn list_of<T: Object>(
        &self,
        row: &Row,
        options: &ListOptions,
    ) -> Result<List<T>, Error> {
        let path = collection(row, options, false);
        let accept = self.accepts::<T>(row, "List");
        let response = self.open_as(Method::GET, &path, &accept, "", Bytes::new()).await?;
        let bytes = collect(&path, response.into_body()).await?;
        let decode = |source| Error::Decode { path: path.clone(), source };
        let body: ListBody<'_> = serde_json::from_slice(&bytes).map_err(decode)?;
        let raw = body.items.unwrap_or_default();
        let slice = |item: &RawValue| match self.shares_bytes() {
            true => bytes.slice_ref(item.get().as_bytes()),
            // A slice would keep the whole page in memory.
            false => Bytes::copy_from_slice(item.get().as_bytes()),
        };
        let items = raw.into_iter().map(|item| Entry::decode(slice(item)));
        Ok(List {
            items: items.collect::<Result<_, _>>().map_err(decode)?,
            revision: body.metadata.resource_version.parse().unwrap_or(0),
            continue_token: body.metadata.continue_token,
        })
    }

    pub async fn create<T: Object>(
        &self,
        namespace: &str,
        object: &Value,
    ) -> Result<Entry<T>, Error> {
        let path = T::row().path(namespace, "");
        let bytes = self.send(Method::POST, &path, JSON, encode(object)).await?;
        entry(&path, bytes)
    }

    /// Replaces an object, or with a subresource (`status`) a part of it.
    pub async fn update<T: Object>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        object: &Value,
    ) -> Result<Entry<T>, Error> {
        let path = below(T::row().path(namespace, name), subresource);
        let bytes = self.send(Method::PUT, &path, JSON, encode(object)).await?;
        entry(&path, bytes)
    }

    pub async fn patch<T: Object>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &Patch,
    ) -> Result<Entry<T>, Error> {
        let bytes = self.patch_of(T::row(), namespace, name, subresource, patch).await?;
        entry(&T::row().path(namespace, name), bytes)
    }

    /// As [`Client::patch`], of a kind only known at run time.
    pub async fn patch_of(
        &self,
        row: &Row,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &Patch,
    ) -> Result<Bytes, Error> {
        let mut path = below(row.path(namespace, name), subresource);
        let (content_type, body) = match patch {
            Patch::Json(body) => ("application/json-patch+json", body),
            Patch::Merge(body) => ("application/merge-patch+json", body),
            Patch::Strategic(body) => ("application/strategic-merge-patch+json", body),
            Patch::Apply { manager, force, object } => {
                let mut query = url::form_urlencoded::Serializer::new(String::new());
                query.append_pair("fieldManager", manager);
                if *force {
                    query.append_pair("force", "true");
                }
                path = format!("{path}?{}", query.finish());
                ("application/apply-patch+yaml", object)
            }
        };
        self.send(Method::PATCH, &path, content_type, encode(body)).await
    }

    pub async fn delete<T: Object>(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), Error> {
        self.delete_of(T::row(), namespace, name, options).await.map(drop)
    }

    /// As [`Client::delete`], of a kind only known at run time. The answer is the object as it
    /// was, or a Status.
    pub async fn delete_of(
        &self,
        row: &Row,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Bytes, Error> {
        let path = row.path(namespace, name);
        self.send(Method::DELETE, &path, JSON, encode(&options.body())).await
    }

    /// Creates what is no stored object: bindings, evictions, reviews.
    pub async fn post(&self, path: &str, object: &Value) -> Result<Value, Error> {
        let bytes = self.send(Method::POST, path, JSON, encode(object)).await?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Decode { path: path.into(), source })
    }

    /// Reads a document that is no stored object: discovery, versions.
    pub async fn document(&self, path: &str) -> Result<Value, Error> {
        let bytes = self.send(Method::GET, path, "", Bytes::new()).await?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Decode { path: path.into(), source })
    }

    /// The changes of a collection after `options.resource_version`, with bookmarks. Ends when
    /// the server ends it, or after the first error.
    pub fn watch<T: Object>(
        &self,
        options: &ListOptions,
    ) -> BoxStream<'static, Result<WatchEvent<T>, Error>> {
        crate::watch::watch(self.clone(), T::row(), options)
    }

    /// As [`Client::watch`], of a kind only known at run time.
    pub fn watch_of<T: Object>(
        &self,
        row: &Row,
        options: &ListOptions,
    ) -> BoxStream<'static, Result<WatchEvent<T>, Error>> {
        crate::watch::watch(self.clone(), row, options)
    }
}

/// The error that an answer of 400 or more says.
pub(crate) fn refusal(code: StatusCode, body: &[u8]) -> Error {
    match serde_json::from_slice::<Status>(body) {
        Ok(status) if status.kind == "Status" => status.into(),
        _ => {
            let text = String::from_utf8_lossy(body);
            let reason = code.canonical_reason().unwrap_or_default();
            let message = if text.trim().is_empty() { reason } else { text.trim() };
            Status::failure(code.as_u16(), "", message).into()
        }
    }
}

#[derive(Deserialize)]
struct ListBody<'a> {
    #[serde(default)]
    metadata: proto::status::ListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

/// The path and query of a collection.
pub(crate) fn collection(row: &Row, options: &ListOptions, watch: bool) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    let number = |number: u32| if number == 0 { String::new() } else { number.to_string() };
    let limit = number(options.limit);
    let (timeout, initial) = (number(options.timeout_seconds), options.send_initial_events);
    let matching = match options.resource_version_match.as_str() {
        "" if watch && initial => "NotOlderThan",
        text => text,
    };
    for (field, value) in [
        ("labelSelector", options.label_selector.as_str()),
        ("fieldSelector", &options.field_selector),
        ("limit", &limit),
        ("continue", &options.continue_token),
        ("resourceVersion", &options.resource_version),
        ("resourceVersionMatch", matching),
        ("watch", if watch { "true" } else { "" }),
        ("allowWatchBookmarks", if watch { "true" } else { "" }),
        ("sendInitialEvents", if watch && initial { "true" } else { "" }),
        ("timeoutSeconds", &timeout),
    ] {
        if !value.is_empty() {
            query.append_pair(field, value);
        }
    }
    let path = row.path(&options.namespace, "");
    match query.finish() {
        query if query.is_empty() => path,
        query => format!("{path}?{query}"),
    }
}

fn below(path: String, subresource: &str) -> String {
    if subresource.is_empty() { path } else { format!("{path}/{subresource}") }
}

fn encode(object: &Value) -> Bytes {
    object.to_string().into()
}

fn entry<T: Object>(path: &str, bytes: Bytes) -> Result<Entry<T>, Error> {
    Entry::decode(bytes).map_err(|source| Error::Decode { path: path.into(), source })
}

async fn collect(path: &str, body: Body) -> Result<Bytes, Error> {
    let collected = body.collect().await;
    collected
        .map(|body| body.to_bytes())
        .map_err(|source| Error::Body { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_of_a_collection() {
        let options = ListOptions {
            namespace: "a".into(),
            label_selector: "x in (y)".into(),
            resource_version: "5".into(),
            ..ListOptions::default()
        };
        assert_eq!(
            collection(&proto::kind::POD, &options, true),
            "/api/v1/namespaces/a/pods?labelSelector=x+in+%28y%29&resourceVersion=5&watch=true\
             &allowWatchBookmarks=true"
        );
        assert_eq!(collection(&proto::kind::NODE, &ListOptions::default(), false), "/api/v1/nodes");
    }
}
