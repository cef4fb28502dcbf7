//! `/healthz`: whether the agent works. It shares its task with the loop that follows pods, so one
//! that answers here follows them, too.

use std::collections::HashMap;

use axum::extract::{Path, Query};
use axum::response::Response;
use http::StatusCode;

use super::refuse;

const CHECKS: [&str; 3] = ["ping", "log", "syncloop"];

pub(super) async fn all(Query(query): Query<HashMap<String, String>>) -> Response {
    if !query.contains_key("verbose") {
        return refuse(StatusCode::OK, "ok");
    }
    let lines: String = CHECKS.iter().map(|check| format!("[+]{check} ok\n")).collect();
    refuse(StatusCode::OK, lines + "healthz check passed\n")
}

pub(super) async fn one(Path(check): Path<String>) -> Response {
    match CHECKS.contains(&check.as_str()) {
        true => refuse(StatusCode::OK, "ok"),
        false => refuse(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}
