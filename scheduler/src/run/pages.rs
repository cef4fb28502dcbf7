//! What the scheduler shows of itself over HTTPS.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use client::endpoint::{Check, Pages};
use client::{CancellationToken, Clock, Informers, Standing};
use proto::exposition::Text;
use proto::view::pod::Pod;

use crate::metrics::{self, Metrics};

/// `standing` is there, with the name of the Lease, where a leader is elected; `follows` says whether
/// nothing is waited for.
pub fn of(
    metrics: &Arc<Metrics>,
    standing: Option<(String, Standing)>,
    follows: &Arc<AtomicBool>,
    informers: &Informers,
    clock: &Clock,
    shutdown: &CancellationToken,
) -> Pages {
    let (metrics, informers) = (metrics.clone(), informers.clone());
    let live: Vec<Check> = standing
        .iter()
        .map(|(_, standing)| {
            let (standing, clock) = (standing.clone(), clock.clone());
            Check::new("leaderElection", move || standing.is_well(&clock))
        })
        .collect();
    let (follows, shutdown) = (follows.clone(), shutdown.clone());
    let ready = [
        Check::new("sched-handler-sync", move || follows.load(Relaxed)),
        Check::new("shutdown", move || !shutdown.is_cancelled()),
    ];
    Pages::default()
        .metrics(move |text| {
            metrics.write(text);
            if let Some((lease, standing)) = &standing {
                standing.write(lease, text);
            }
        })
        .page("/metrics/resources", move || {
            let pods = informers.of::<Pod>();
            Box::pin(async move {
                pods.synced().await;
                let (pods, mut text) = (pods.snapshot(), Text::default());
                metrics::write_resources(&mut text, pods.values().map(|pod| &pod.view));
                text
            })
        })
        .health("healthz", &live)
        .health("livez", &live)
        .health("readyz", &[live.as_slice(), &ready].concat())
}
