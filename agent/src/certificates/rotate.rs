//! Keeping a certificate good: asked for when there is none, when it says the wrong names, and when
//! most of its time has passed. When is pure.

use client::error::chain;
use client::{Client, Clock, Rng};
use proto::time::Time;
use tokio::sync::watch;

use super::request::Asker;
use super::store::{Held, Store, new_key};
use super::{RETRY, Template};

/// One pair that is kept good.
pub struct Rotation {
    pub client: Client,
    pub clock: Clock,
    pub rng: Rng,
    pub store: Store,
    pub template: Template,
    /// Set when there is one.
    pub present: watch::Sender<bool>,
}

/// When to ask for the next one. `chance`, below 1, keeps nodes from asking all at once.
fn due(held: Option<&Held>, template: &Template, chance: f64, now: Time) -> Time {
    match held {
        Some(held) if held.names == template.names() => {
            let life = held.not_after.since(held.not_before);
            held.not_before.plus(life.mul_f64(0.7 + 0.2 * chance))
        }
        _ => now,
    }
}

/// For ever.
pub async fn rotate(rotation: Rotation) {
    let Rotation { client, clock, rng, store, template, present } = &rotation;
    let asker = Asker { client: client.clone(), clock, rng };
    let (first, longest) = RETRY;
    let mut pause = first;
    loop {
        let held = store.current().unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "the certificate on disk is of no use");
            None
        });
        if held.is_some() {
            present.send_replace(true);
        }
        let chance = rng.below(1000) as f64 / 1000.0;
        let now = clock.now();
        let due = due(held.as_ref(), template, chance, now);
        if due > now {
            clock.sleep_until(due).await;
        }
        match renew(&asker, store, template).await {
            Ok(()) => pause = first,
            Err(error) => {
                tracing::warn!(error = chain(&error), "cannot renew a certificate");
                clock.sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
        }
    }
}

async fn renew(asker: &Asker<'_>, store: &Store, template: &Template) -> Result<(), super::Error> {
    let key = new_key()?;
    let certificate = asker.another(template, &key).await?;
    store.replace(&certificate, &key, asker.clock.now())?;
    tracing::info!(path = %store.path().display(), "a new certificate");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_certificate_is_renewed() {
        let template = Template::serving("n", vec!["n".into()], Vec::new());
        let held = |names: &[&str]| Held {
            not_before: Time::from_unix(1000),
            not_after: Time::from_unix(2000),
            names: names.iter().map(|name| name.to_string()).collect(),
        };
        let now = Time::from_unix(1100);
        let table = [
            (None, 0.0, 1100),
            (Some(held(&["n"])), 0.0, 1700),
            (Some(held(&["n"])), 0.5, 1800),
            // Another address: it is of no use.
            (Some(held(&["n", "10.0.0.1"])), 0.5, 1100),
        ];
        for (held, chance, expected) in table {
            assert_eq!(due(held.as_ref(), &template, chance, now), Time::from_unix(expected));
        }
    }
}
