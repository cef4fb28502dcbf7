//! Lifecycle hooks: postStart and preStop (Kubernetes: Container Lifecycle Hooks).

use std::time::Duration;

use super::Context;
use crate::pod::{Container, Handler};
use crate::probe::{self, Target as Endpoint};

/// Whose hook it is.
pub struct Target<'a> {
    /// The container's id.
    pub id: &'a str,
    pub container: &'a Container,
    pub ips: &'a [String],
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Exec(#[from] crate::cri::Error),
    #[error("command {command:?} exited with {code}: {output}")]
    Code { command: Vec<String>, code: i32, output: String },
    #[error("{0}")]
    Http(String),
    #[error("the hook has no action that this node knows")]
    Unsupported,
}

/// Commands in hooks are bounded by the grace period alone.
const NO_TIMEOUT: Duration = Duration::ZERO;

pub async fn run(context: &Context, hook: &Handler, target: &Target<'_>) -> Result<(), Error> {
    if let Some(exec) = &hook.exec {
        let output = context.runtime.exec(target.id, &exec.command, NO_TIMEOUT).await?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        return match output.code {
            0 => Ok(()),
            code => Err(Error::Code { command: exec.command.clone(), code, output: text }),
        };
    }
    if let Some(http) = &hook.http_get {
        let host = target.ips.first().map(String::as_str).unwrap_or_default();
        let endpoint = Endpoint::http(http, target.container, host).map_err(Error::Http)?;
        return match context.prober.check(&endpoint).await {
            probe::Verdict::Success => Ok(()),
            probe::Verdict::Failure(why) => Err(Error::Http(why)),
        };
    }
    if let Some(sleep) = &hook.sleep {
        context.clock.sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs())).await;
        return Ok(());
    }
    Err(Error::Unsupported)
}
