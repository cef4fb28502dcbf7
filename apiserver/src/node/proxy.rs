//! `…/proxy/PATH`: a request passed to a pod, a Service's pod or a node, and the answer back:
//! any method, path and query as they came, upgrades included.

use axum::{body::Body, response::Response};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header, request::Parts,
};
use hyper::upgrade::OnUpgrade;
use proto::status::Status;

use super::{place::Place, splice};
use crate::{http::Api, registry::Call};

/// What concerns a connection and not the request or answer on it (RFC 9110, section 7.6.1).
static HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What a backend may not tell browsers about the API server.
static CROSS_ORIGIN: [HeaderName; 5] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
];

pub(super) async fn pass(
    api: &Api,
    call: &Call<'_>,
    parts: &Parts,
    body: Body,
    upgrade: Option<OnUpgrade>,
) -> Result<Response, Status> {
    let place = Place::of(&api.registry, call, api.registry.random())?;
    let (prefix, tail) = split(parts.uri.path(), !call.namespace.is_empty());
    let upgrade = upgrade.filter(|_| parts.headers.contains_key(header::UPGRADE));
    if tail.is_empty() && upgrade.is_none() && matches!(parts.method, Method::GET | Method::HEAD) {
        return redirect(parts);
    }
    let host = host_of(parts);
    let mut request = Request::new(if upgrade.is_some() { Body::empty() } else { body });
    *request.method_mut() = parts.method.clone();
    let tail = if tail.is_empty() { "/" } else { tail };
    let onward = match parts.uri.query() {
        Some(query) => format!("{tail}?{query}"),
        None => tail.to_string(),
    };
    *request.uri_mut() = onward
        .parse()
        .map_err(|error| Status::bad_request(format!("the path {onward:?}: {error}")))?;
    *request.headers_mut() = onward_headers(parts, &host, upgrade.is_some());
    let answer = api.nodes.open(&place.host, place.port, place.security, request).await;
    let mut answer = answer
        .map_err(|why| Status::unavailable(format!("error trying to reach service: {why}")))?;
    if let Some(upgrade) = upgrade
        && answer.status() == StatusCode::SWITCHING_PROTOCOLS
    {
        return Ok(splice::join(upgrade, answer));
    }
    let backend = format!("{}:{}", place.host, place.port);
    let headers = answer.headers_mut();
    strip(headers);
    for name in &CROSS_ORIGIN {
        headers.remove(name);
    }
    if let Some(location) = headers.get(header::LOCATION).and_then(|value| value.to_str().ok())
        && let Some(moved) = moved(location, prefix, &backend, &host)
        && let Ok(value) = HeaderValue::from_str(&moved)
    {
        headers.insert(header::LOCATION, value);
    }
    Ok(answer.map(Body::new))
}

/// The path up to `/proxy`, and what follows it, slash included.
fn split(path: &str, namespaced: bool) -> (&str, &str) {
    // /api/v1/nodes/NAME/proxy, or /api/v1/namespaces/NAMESPACE/pods/NAME/proxy.
    let segments = if namespaced { 7 } else { 5 };
    let begin = path.len() - path.trim_start_matches('/').len();
    let mut slashes = path.match_indices('/').map(|(at, _)| at).filter(|at| *at >= begin);
    match slashes.nth(segments - 1) {
        Some(end) => path.split_at(end),
        None => (path, ""),
    }
}

/// A browser needs the slash: relative links would lead out of the proxy.
fn redirect(parts: &Parts) -> Result<Response, Status> {
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = HeaderValue::from_str(&format!("{}/{query}", parts.uri.path()))
        .map_err(|error| Status::bad_request(format!("the path: {error}")))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// By what name the client called us.
fn host_of(parts: &Parts) -> String {
    let header = parts.headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    header.or(authority).unwrap_or_default().to_string()
}

/// The client's headers without its credentials, which no backend may see.
fn onward_headers(parts: &Parts, host: &str, upgraded: bool) -> HeaderMap {
    let mut headers = parts.headers.clone();
    let impersonates = |name: &&HeaderName| name.as_str().starts_with("impersonate-");
    let secret: Vec<HeaderName> = headers.keys().filter(impersonates).cloned().collect();
    for name in secret.iter().chain([&header::AUTHORIZATION]) {
        headers.remove(name);
    }
    strip(&mut headers);
    if upgraded {
        for name in [header::CONNECTION, header::UPGRADE] {
            for value in parts.headers.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
    }
    let path = parts.uri.path();
    let forwarded =
        [("x-forwarded-host", host), ("x-forwarded-proto", "https"), ("x-forwarded-uri", path)];
    for (name, text) in forwarded {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(header::HOST, host);
    }
    headers
}

/// Removes what concerns this connection, also what its `Connection` header names.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP) {
        headers.remove(name);
    }
}

/// A redirect of the backend to itself, as the client can follow it; `None`: it stands as it is.
fn moved(location: &str, prefix: &str, backend: &str, host: &str) -> Option<String> {
    let uri: Uri = location.split('#').next()?.parse().ok()?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let bare = backend.rsplit_once(':').map_or(backend, |(bare, _)| bare);
    let own = ["", backend, bare, host].contains(&authority);
    let path = uri.path();
    if !own || !path.starts_with('/') || path.starts_with(prefix) {
        return None;
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let fragment = location.split_once('#').map(|(_, name)| format!("#{name}"));
    let origin = match authority {
        "" => String::new(),
        authority if authority == host => {
            format!("{}://{authority}", uri.scheme_str().unwrap_or("https"))
        }
        _ => String::new(),
    };
    Some(format!("{origin}{prefix}{path}{query}{}", fragment.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_kept_to_the_letter() {
        let cases = [
            ("/api/v1/nodes/n/proxy", false, ""),
            ("/api/v1/nodes/n/proxy/", false, "/"),
            ("/api/v1/nodes/n/proxy//a/../b%2Fc/", false, "//a/../b%2Fc/"),
            ("/api/v1/namespaces/proxy/pods/proxy/proxy/proxy", true, "/proxy"),
            ("//api/v1/namespaces/a/services/https:s:web/proxy/x", true, "/x"),
        ];
        for (path, namespaced, tail) in cases {
            let (prefix, found) = split(path, namespaced);
            assert_eq!(found, tail, "{path}");
            assert!(prefix.ends_with("/proxy"), "{path}: {prefix}");
        }
    }

    #[test]
    fn redirects_lead_through_the_proxy() {
        let prefix = "/api/v1/namespaces/a/pods/p/proxy";
        let cases = [
            ("/next?q=1#f", Some(format!("{prefix}/next?q=1#f"))),
            ("http://10.0.0.1:8080/a/", Some(format!("{prefix}/a/"))),
            ("https://api:6443/a", Some(format!("https://api:6443{prefix}/a"))),
            ("http://elsewhere/a", None),
            ("/api/v1/namespaces/a/pods/p/proxy/a", None),
        ];
        for (location, expected) in cases {
            let found = moved(location, prefix, "10.0.0.1:8080", "api:6443");
            assert_eq!(found, expected, "{location}");
        }
    }

    #[test]
    fn credentials_stay_here() {
        let request = Request::get("/x?y")
            .header("authorization", "Bearer secret")
            .header("impersonate-user", "root")
            .header("connection", "upgrade, x-hop")
            .header("upgrade", "test")
            .header("x-hop", "1")
            .header("x-kept", "1");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let mut names: Vec<String> =
            onward_headers(&parts, "h", false).keys().map(ToString::to_string).collect();
        names.sort();
        let expected =
            ["host", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-uri", "x-kept"];
        assert_eq!(names, expected);
        assert_eq!(onward_headers(&parts, "h", true)["upgrade"], "test");
    }
}
