//! The ServiceAccount tokens of a pod's projected volumes: asked for, bound to the pod, and asked
//! for anew when four fifths of their life are over (kubernetes.io/docs, "Projected Volumes").

use std::collections::BTreeMap;
use std::time::Duration;

use client::{Client, Clock};
use proto::time::Time;
use serde_json::{Value, json};

use super::objects::{Data, State, Tell};
use crate::pod::volume::Token;
use crate::pod::{Pod, VolumeSource};

/// Under which a token stands in its data.
pub const KEY: &str = "token";
/// Even a long-lived token is not kept longer.
const OLDEST: Duration = Duration::from_secs(24 * 3600);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// A request that is made again and again.
pub struct Renewal {
    path: String,
    body: Value,
}

impl Renewal {
    pub fn new(pod: &Pod, token: &Token) -> Renewal {
        let account = match pod.spec.service_account_name.as_str() {
            "" => "default",
            name => name,
        };
        let namespace = &pod.metadata.namespace;
        let audiences = Some(&token.audience).filter(|audience| !audience.is_empty());
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": Vec::from_iter(audiences),
                "expirationSeconds": token.expiration_seconds,
                "boundObjectRef": {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": pod.metadata.name,
                    "uid": pod.metadata.uid,
                },
            },
        });
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        Renewal { path, body }
    }

    /// Keeps `tell` supplied for ever.
    pub async fn run(self, client: Client, clock: Clock, tell: Tell) {
        let mut delay = FIRST_RETRY;
        let mut end: Option<Time> = None;
        loop {
            let asked = clock.now();
            match self.once(&client).await {
                Ok((token, expires)) => {
                    delay = FIRST_RETRY;
                    end = Some(expires);
                    let data = Data::from([(KEY.to_string(), token.into_bytes())]);
                    tell.state(State::Present(data.into()));
                    let rest = expires.since(asked).mul_f64(0.8).min(OLDEST);
                    clock.sleep_until(asked.plus(rest.max(FIRST_RETRY))).await;
                }
                Err(why) => {
                    tracing::warn!(path = self.path, why, "cannot fetch a token");
                    // The one that is there serves until its end.
                    if end.is_none_or(|end| end <= asked) {
                        tell.state(State::Failed(why));
                    }
                    clock.sleep(delay).await;
                    delay = (delay * 2).min(LAST_RETRY);
                }
            }
        }
    }

    pub async fn once(&self, client: &Client) -> Result<(String, Time), String> {
        let made = client.post(&self.path, &self.body).await.map_err(|error| error.to_string())?;
        let status = &made["status"];
        let token = status["token"].as_str().filter(|token| !token.is_empty());
        let expires = status["expirationTimestamp"].as_str().and_then(|text| text.parse().ok());
        match (token, expires) {
            (Some(token), Some(expires)) => Ok((token.to_string(), expires)),
            _ => Err("the answer holds no token".into()),
        }
    }
}

/// The tokens a pod's volumes want, each once.
pub fn wanted(pod: &Pod) -> BTreeMap<(String, i64), Token> {
    let mut tokens = BTreeMap::new();
    for source in pod.spec.volumes.iter().filter_map(|volume| volume.source().ok()) {
        let VolumeSource::Projected(projected) = source else { continue };
        for part in projected.sources.iter().filter_map(|part| part.source().ok()) {
            if let VolumeSource::Token(token) = part {
                tokens.insert(token.key(), token);
            }
        }
    }
    tokens
}
