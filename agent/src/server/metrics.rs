//! `/metrics` and what is below it: the agent's own counters, those of containers by cAdvisor's and
//! by the resource metrics' names, and of probes. Collected when they are asked for.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use client::endpoint::Process;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use proto::exposition::{self, Text};

use super::{Shared, refuse};
use crate::stats::Scope;

mod cadvisor;
mod own;
mod resource;

pub(super) async fn own(State(shared): State<Shared>) -> Response {
    let context = shared.pods.context();
    let running = context.runtime.running().await.inspect_err(|error| {
        tracing::warn!(%error, "cannot count what runs");
    });
    let mut text = Text::default();
    own::write(
        &mut text,
        &own::Own {
            node: &shared.node,
            running: running.as_ref().ok(),
            desired: shared.informer.snapshot().len(),
            active: shared.pods.len(),
            process: &Process::now(),
        },
    );
    context.metrics.write(&mut text);
    answer(text)
}

pub(super) async fn cadvisor(State(shared): State<Shared>) -> Response {
    match shared.stats.figures(Scope::Everything).await {
        Ok(figures) => {
            let mut text = Text::default();
            cadvisor::write(&mut text, &figures);
            answer(text)
        }
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

pub(super) async fn resource(State(shared): State<Shared>) -> Response {
    let summary = shared.stats.summary(Scope::Compute).await;
    if let Err(error) = &summary {
        tracing::warn!(%error, "cannot tell the resource metrics");
    }
    let mut text = Text::default();
    resource::write(&mut text, summary.as_ref().ok());
    answer(text)
}

pub(super) async fn probes(State(shared): State<Shared>) -> Response {
    let mut text = Text::default();
    shared.pods.context().metrics.write_probes(&mut text);
    Process::now().write_start(&mut text);
    answer(text)
}

fn answer(text: Text) -> Response {
    ([(CONTENT_TYPE, exposition::CONTENT_TYPE)], text.finish()).into_response()
}
