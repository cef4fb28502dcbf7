//! What every daemon has around its work: a log on stderr, a runtime, an end at SIGTERM or SIGINT,
//! and the reason why it could not go on, on the last line.

use std::io::IsTerminal;
use std::process::ExitCode;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::BoxError;
use crate::error::chain;

/// What is logged unless `RUST_LOG` says otherwise. The DNS server would write a line for every
/// question.
const LOGGED: &str = "info,hickory_server=warn";

/// What differs between daemons.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Logs as JSON, a line each.
    pub json: bool,
    /// How many threads run its tasks; one per core if not said. A thread's arena of memory costs
    /// more than the thread.
    pub threads: Option<usize>,
}

/// For what runs once on every node, however large: it must stay small there.
pub const ON_A_NODE: Settings = Settings { json: false, threads: Some(2) };

/// Runs `work` to its end, which should come soon after the token that it is given is cancelled.
pub fn run<F>(settings: Settings, work: impl FnOnce(CancellationToken) -> F) -> ExitCode
where
    F: Future<Output = Result<(), BoxError>>,
{
    log(settings.json);
    let mut builder = Builder::new_multi_thread();
    if let Some(threads) = settings.threads {
        builder.worker_threads(threads);
    }
    let ended = builder
        .enable_all()
        .build()
        .map_err(BoxError::from)
        .and_then(|runtime| runtime.block_on(async { work(on_signal()?).await }));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Cancelled at the first SIGTERM or SIGINT.
fn on_signal() -> std::io::Result<CancellationToken> {
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ended = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        ended.cancel();
    });
    Ok(shutdown)
}

fn log(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match json {
        true => builder.json().init(),
        false => builder.init(),
    }
}
