//! Paths that are no resources: discovery, OpenAPI, version, health.

use std::sync::Arc;

use axum::response::Response;
use http::{Method, header, request::Parts};
use proto::status::Status;
use serde_json::json;

use super::{Api, answer, compress, header_text, openapi, query::Query, target::Target};

/// The version of Kubernetes whose behaviour this is.
const MAJOR: &str = "1";
const MINOR: &str = "36";
pub const GIT_VERSION: &str = concat!("v1.36.0+coracle-", env!("CARGO_PKG_VERSION"));

pub(super) async fn handle(
    api: &Arc<Api>,
    parts: &Parts,
    path: &str,
    target: &Target<'_>,
) -> Result<Response, Status> {
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return Err(match target {
            Target::Unknown => Status::no_such_path(),
            _ => Status::method_not_allowed(),
        });
    }
    let accept = header_text(parts, header::ACCEPT);
    let known = header_text(parts, header::IF_NONE_MATCH);
    let packed = compress::accepted(header_text(parts, header::ACCEPT_ENCODING));
    let path = path.trim_end_matches('/');
    match target {
        Target::Index => Ok(answer::json(&json!({"paths": index(api)}))),
        Target::Version => Ok(answer::readable(&version())),
        Target::Health { endpoint, check } => {
            let query = Query::parse(parts.uri.query());
            Ok(api.health.answer(endpoint, check.as_deref(), &query).await)
        }
        Target::Metrics => {
            let text = api.metrics.text(&api.flow.loads(), api.registry.counts());
            Ok(answer::metrics(text))
        }
        Target::Backup => api.backup.answer().await,
        Target::Issuer => match api.authenticator.configuration(&api.address) {
            Some(document) => Ok(answer::public("application/json", &document)),
            None => Err(Status::no_such_path()),
        },
        Target::IssuerKeys => {
            let keys = api.authenticator.keys().jwks();
            Ok(answer::public("application/jwk-set+json", &keys))
        }
        Target::LegacyVersions | Target::Groups => {
            Ok(answer::document(api.discovery.root(path, accept)?, known))
        }
        Target::Group(_) | Target::Resources { .. } => {
            Ok(answer::document(api.discovery.document(path)?, known))
        }
        Target::OpenApiV2 => {
            let form = openapi::form(accept, 2)?;
            let api = api.clone();
            let made = move || api.openapi.v2(form);
            let document = tokio::task::spawn_blocking(made).await;
            let document = document.map_err(|error| Status::internal(error.to_string()))?;
            Ok(document.answer(known, packed))
        }
        Target::OpenApiIndex => Ok(api.openapi.index().answer(known, packed)),
        Target::OpenApi { group, version } => {
            let query = Query::parse(parts.uri.query());
            let form = openapi::form(accept, 3)?;
            let document = api.openapi.version(group, version, form);
            let document = document.ok_or_else(Status::no_such_path)?;
            Ok(document.answer_hashed(path, &query, (known, packed), api.clock.now()))
        }
        Target::Resource(_) | Target::Unknown => Err(Status::no_such_path()),
    }
}

fn index(api: &Api) -> Vec<String> {
    let mut paths: Vec<String> =
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks"]
            .map(String::from)
            .to_vec();
    paths.extend(["/readyz", "/version", "/.well-known/openid-configuration"].map(String::from));
    paths.extend(api.discovery.paths());
    paths.sort();
    paths
}

fn version() -> serde_json::Value {
    json!({
        "major": MAJOR,
        "minor": MINOR,
        "emulationMajor": MAJOR,
        "emulationMinor": MINOR,
        "minCompatibilityMajor": MAJOR,
        "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": platform(),
    })
}

/// `linux/amd64`.
pub fn platform() -> String {
    format!("linux/{}", architecture())
}

/// As Go names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
