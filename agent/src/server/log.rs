//! `/containerLogs/NAMESPACE/POD/CONTAINER`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::{Shared, refuse};
use crate::logs::{LogOptions, Source, stream};
use crate::observed::Container as Run;
use crate::pod::Pod;

pub(super) async fn get(
    State(shared): State<Shared>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let Some(entry) = shared.informer.get(&namespace, &name) else {
        return refuse(StatusCode::NOT_FOUND, format!("pod {name:?} not found"));
    };
    let Ok(pod) = serde_json::from_slice::<Pod>(&entry.bytes) else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("pod {name:?} cannot be read"));
    };
    if pod.container(&container).is_none() {
        let why = format!("container {container} is not valid for pod {name}");
        return refuse(StatusCode::BAD_REQUEST, why);
    }
    let context = shared.pods.context();
    let options = match options(&query, context.clock.now()) {
        Ok(options) => options,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, why),
    };
    let uid = shared.pods.runtime_uid(&entry.view);
    let observed = match context.runtime.observe(&uid).await {
        Ok(observed) => observed,
        Err(error) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let mut runs = observed.containers.iter().filter(|run| run.name == container);
    let previous = flag(&query, "previous");
    // While a container waits to be restarted its last run is already the previous one.
    let status = pod.status.container(&container);
    let waits = status.is_some_and(|status| status.state.waiting.is_some());
    let run = match previous && !waits {
        true => runs.nth(1),
        false => runs.find(|run| !run.log_path.is_empty()),
    };
    let Some(run) = run else {
        return refuse(StatusCode::BAD_REQUEST, missing(&pod, &container, previous));
    };
    let file = PathBuf::from(&run.log_path);
    let follow = options.follow && run.is_running();
    let options = LogOptions { follow, ..options };
    let written = match file.parent().filter(|_| follow) {
        Some(folder) => match shared.watcher.watch(folder) {
            Ok(notify) => Some(notify),
            Err(error) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        None => None,
    };
    let ended = if follow { ended(&shared, uid, run) } else { watch::channel(true).1 };
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(stream(Source { file, written, ended }, options, sender));
    let body = Body::from_stream(ReceiverStream::new(receiver));
    ([(CONTENT_TYPE, "text/plain")], body).into_response()
}

/// Becomes true when the run has ended.
fn ended(shared: &Shared, uid: String, run: &Run) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    let (pods, id) = (shared.pods.clone(), run.id.clone());
    tokio::spawn(async move {
        let mut events = pods.events();
        let runtime = pods.context().runtime.clone();
        loop {
            let running = match runtime.observe(&uid).await {
                Ok(observed) => observed.running().any(|run| run.id == id),
                // The runtime is being restarted; its containers run on.
                Err(_) => true,
            };
            if !running {
                sender.send_replace(true);
                return;
            }
            loop {
                tokio::select! {
                    event = events.recv() => match event {
                        Ok(changed) if *changed != *uid && !changed.is_empty() => {}
                        Ok(_) => break,
                        // Some were missed: look again.
                        Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => break,
                        Err(_) => return,
                    },
                    () = sender.closed() => return,
                }
            }
        }
    });
    receiver
}

fn missing(pod: &Pod, container: &str, previous: bool) -> String {
    let name = &pod.metadata.name;
    if previous {
        return format!("previous terminated container {container:?} in pod {name:?} not found");
    }
    let waiting = pod.status.container(container).and_then(|status| status.state.waiting.as_ref());
    let reason = waiting.map_or("ContainerCreating", |waiting| waiting.reason.as_str());
    match reason {
        "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" => format!(
            "container {container:?} in pod {name:?} is waiting to start: trying and failing to \
             pull image"
        ),
        reason => format!("container {container:?} in pod {name:?} is waiting to start: {reason}"),
    }
}

fn options(query: &HashMap<String, String>, now: proto::time::Time) -> Result<LogOptions, String> {
    let number = |name: &str| -> Result<Option<u64>, String> {
        let text = query.get(name).filter(|text| !text.is_empty());
        text.map(|text| text.parse().map_err(|_| format!("invalid {name}: {text:?}"))).transpose()
    };
    let since = match query.get("sinceTime").filter(|text| !text.is_empty()) {
        Some(text) => Some(text.parse().map_err(|_| format!("invalid sinceTime: {text:?}"))?),
        None => number("sinceSeconds")?.map(|seconds| ago(now, seconds)),
    };
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Ok(LogOptions {
        since,
        follow: flag(query, "follow"),
        timestamps: flag(query, "timestamps"),
        tail_lines: number("tailLines")?.map(size),
        limit_bytes: number("limitBytes")?.map(size),
        stream: match query.get("stream").map(String::as_str) {
            Some("Stdout") => Some("stdout".into()),
            Some("Stderr") => Some("stderr".into()),
            _ => None,
        },
    })
}

fn ago(now: proto::time::Time, seconds: u64) -> proto::time::Time {
    let since = now.since(proto::time::Time::from_unix(0));
    let then = since.saturating_sub(Duration::from_secs(seconds));
    proto::time::Time::from_unix(0).plus(then)
}

fn flag(query: &HashMap<String, String>, name: &str) -> bool {
    query.get(name).is_some_and(|value| matches!(value.as_str(), "true" | "1"))
}
