//! Counts the calls to the runtime, by the kubelet's names for them.

use std::sync::Arc;
use std::task::{Context, Poll};

use client::Clock;
use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service;

use crate::metrics::Metrics;

/// A channel of which every call is measured until its answer begins.
#[derive(Clone)]
pub struct Measured {
    channel: Channel,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl Measured {
    pub fn new(channel: Channel, metrics: Arc<Metrics>, clock: Clock) -> Measured {
        Measured { channel, metrics, clock }
    }
}

impl Service<Request<Body>> for Measured {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, tonic::transport::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let name = operation(request.uri().path());
        let (metrics, clock) = (self.metrics.clone(), self.clock.clone());
        let begun = clock.instant();
        let answer = self.channel.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let failed = match &answer {
                // A call that fails has no body, so its status comes at once.
                Ok(answer) => answer.headers().get("grpc-status").is_some_and(|code| code != "0"),
                Err(_) => true,
            };
            metrics.operation(&name, clock.instant() - begun, failed);
            answer
        })
    }
}

/// `/runtime.v1.RuntimeService/RunPodSandbox` → `run_podsandbox`.
fn operation(path: &str) -> String {
    let method = path.rsplit('/').next().unwrap_or_default();
    let method = match method {
        "UpdateContainerResources" => "UpdateContainer",
        other => other,
    };
    let mut name = String::new();
    for c in method.replace("PodSandbox", "Podsandbox").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelet_s_names() {
        let cases = [
            ("RunPodSandbox", "run_podsandbox"),
            ("PodSandboxStatus", "podsandbox_status"),
            ("ListPodSandboxStats", "list_podsandbox_stats"),
            ("UpdateContainerResources", "update_container"),
            ("ExecSync", "exec_sync"),
            ("Version", "version"),
        ];
        for (method, expected) in cases {
            assert_eq!(operation(&format!("/runtime.v1.RuntimeService/{method}")), expected);
        }
    }
}
