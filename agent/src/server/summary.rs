//! `/stats/summary`.

use std::collections::HashMap;

use axum::extract::{Query, State};
use axum::response::Response;
use http::StatusCode;

use super::{Shared, refuse};
use crate::stats::Scope;

pub(super) async fn get(
    State(shared): State<Shared>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let scope = match query.get("only_cpu_and_memory").map(String::as_str) {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Scope::Compute,
        None | Some("" | "0" | "f" | "F" | "false" | "FALSE" | "False") => Scope::Everything,
        Some(other) => {
            let why = format!("parse only_cpu_and_memory param failed: {other:?} is no boolean");
            return refuse(StatusCode::BAD_REQUEST, why);
        }
    };
    match shared.stats.summary(scope).await {
        Ok(summary) => super::json(&summary),
        Err(error) => {
            let why = format!("Internal Error: failed to list pod stats: {error}");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, why)
        }
    }
}
