//! One layer of a pull: fetched from whichever host gives it, from where an earlier try broke off,
//! and unpacked while it arrives.

use std::time::Duration;

use client::Clock;
use tokio::sync::{Semaphore, mpsc};

use super::super::downloads::{Arrival, Download, Received};
use super::super::manifest::Descriptor;
use super::super::registry::{RegistryError, Remote};
use super::super::{ImageError, ImageStore};
use super::error::Failure;
use super::{Progress, Step};
use crate::runtime::engine::blocking;

/// So often a broken connection is taken up without a byte in between; 200 ms, then twice as long.
const RESUMES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Parts on their way from the network to the disk.
const IN_FLIGHT: usize = 16;

/// What the layers of a pull share.
pub struct Fetch<'a> {
    pub store: &'a ImageStore,
    pub remotes: &'a [Remote],
    pub permits: &'a Semaphore,
    pub clock: &'a Clock,
    pub progress: &'a dyn Progress,
}

impl Fetch<'_> {
    /// Brings one layer into the store unless it is there.
    pub async fn layer(&self, layer: &Descriptor, diff: &str) -> Result<(), Failure> {
        self.progress.tell(Step::Layer { digest: &layer.digest, size: layer.size });
        let permit = self.permits.acquire().await.expect("the permits are not closed");
        let (store, digest, wanted) = (self.store.clone(), layer.digest.clone(), diff.to_owned());
        let download = blocking(move || -> Result<Option<Download>, ImageError> {
            if store.has_layer(&wanted) {
                return Ok(None);
            }
            let download = store.download(&digest)?;
            if !store.has_layer(&wanted) {
                return Ok(Some(download));
            }
            // Who had it before has brought the layer.
            download.finish()?;
            Ok(None)
        });
        let Some(mut download) = download.await? else {
            self.progress.tell(Step::Present { digest: &layer.digest });
            return Ok(());
        };
        // What is corrupt may be so at one host only, or on one way: that host is asked last.
        let mut suspects: Vec<usize> = Vec::new();
        loop {
            if download.length > layer.size {
                download.clear()?;
            }
            let from = download.length;
            self.progress.tell(Step::Received { digest: &layer.digest, bytes: from });
            let (sender, arrivals) = mpsc::channel(IN_FLIGHT);
            let (store, diff) = (self.store.clone(), diff.to_owned());
            let (digest, size) = (layer.digest.clone(), layer.size);
            let unpacking = tokio::task::spawn_blocking(move || {
                let received = store.receive(&mut download, (&digest, size), &diff, arrivals);
                (received, download)
            });
            let mut giver = None;
            let fed = self.feed(layer, from, &suspects, sender, &mut giver).await;
            let (received, returned) = unpacking.await.expect("unpacking does not panic");
            download = returned;
            let received = match received {
                Ok(received) => received,
                Err(error) => {
                    blocking(move || download.finish()).await?;
                    return Err(error.into());
                }
            };
            match received {
                Received::Layer(pending) => {
                    // The next layer may be fetched while this one goes to the disk.
                    drop(permit);
                    let store = self.store.clone();
                    let published = blocking(move || {
                        store.publish(pending)?;
                        download.finish()
                    });
                    published.await?;
                    self.progress.tell(Step::Unpacked { digest: &layer.digest });
                    return Ok(());
                }
                Received::Interrupted => {
                    let lost = RegistryError::Timeout { host: "the registry".into() };
                    return Err(fed.err().unwrap_or(lost).into());
                }
                Received::Corrupt(error) => {
                    // Each host has one more chance, as what was there before may have been wrong.
                    if suspects.len() > self.remotes.len() {
                        blocking(move || download.finish()).await?;
                        return Err(error.into());
                    }
                    tracing::warn!(%error, "a layer is not what its digest says; fetching it again");
                    suspects.push(giver.unwrap_or(usize::MAX));
                    download.measure()?;
                }
            }
        }
    }

    /// Sends the layer's bytes from `from` on. It goes on where a connection breaks off, with the next
    /// host where one cannot, and gives up when all are silent for long.
    async fn feed(
        &self,
        layer: &Descriptor,
        from: u64,
        suspects: &[usize],
        sender: mpsc::Sender<Arrival>,
        giver: &mut Option<usize>,
    ) -> Result<(), RegistryError> {
        let able = self.remotes.iter().enumerate().filter(|(_, remote)| remote.host.pull);
        let mut remotes: Vec<(usize, &Remote)> = able.collect();
        remotes.sort_by_key(|(number, _)| suspects.contains(number));
        let mut refused = vec![false; remotes.len()];
        let (mut at, mut rounds, mut last) = (from, 0, None);
        loop {
            let before = at;
            for ((number, remote), refused) in remotes.iter().zip(&mut refused) {
                if *refused {
                    continue;
                }
                let from = at;
                let streamed = self.stream(remote, layer, &mut at, &sender).await;
                if at > from {
                    *giver = Some(*number);
                }
                match streamed {
                    Ok(()) => return Ok(()),
                    Err(error) => {
                        *refused = !error.is_transient();
                        last = Some(error);
                    }
                }
            }
            rounds = if at > before { 1 } else { rounds + 1 };
            if rounds > RESUMES || refused.iter().all(|refused| *refused) {
                let nobody = || RegistryError::NotFound { url: layer.digest.clone() };
                return Err(last.unwrap_or_else(nobody));
            }
            self.clock.sleep(FIRST_PAUSE * (1 << (rounds - 1))).await;
        }
    }

    /// One request. `at` is where the next one would begin.
    async fn stream(
        &self,
        remote: &Remote,
        layer: &Descriptor,
        at: &mut u64,
        sender: &mpsc::Sender<Arrival>,
    ) -> Result<(), RegistryError> {
        if *at == layer.size && layer.size > 0 {
            let _ = sender.send(Arrival::End).await;
            return Ok(());
        }
        let mut blob = remote.blob(&layer.digest, *at).await?;
        // A server without ranges begins with what is there already.
        let mut skip = at.saturating_sub(blob.start);
        while let Some(mut part) = blob.part().await? {
            let dropped = skip.min(part.len() as u64);
            skip -= dropped;
            let _ = part.split_to(dropped as usize);
            if part.is_empty() {
                continue;
            }
            *at += part.len() as u64;
            self.progress.tell(Step::Received { digest: &layer.digest, bytes: part.len() as u64 });
            // More than announced is no layer of ours; the digest will say so, and the disk is safe.
            let stopped = sender.send(Arrival::Bytes(part)).await.is_err();
            if stopped || *at > layer.size {
                break;
            }
        }
        if *at < layer.size && !sender.is_closed() {
            let host = remote.host.authority.clone();
            let source = format!("the connection ended after {at} of {} bytes", layer.size).into();
            return Err(RegistryError::Reach { host, source });
        }
        let _ = sender.send(Arrival::End).await;
        Ok(())
    }
}
