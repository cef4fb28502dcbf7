//! Who may do what: the API server is asked (Kubernetes: SubjectAccessReview). What a path stands
//! for is the component's to say.

use std::time::Duration;

use proto::kind::SUBJECT_ACCESS_REVIEW;
use proto::user::User;
use serde_json::{Value, json};

use super::cache::Cache;
use crate::{Client, Clock, Error};

pub struct Authorizer {
    client: Client,
    /// How long a yes and a no hold.
    yes_lasts: Duration,
    no_lasts: Duration,
    known: Cache<String, bool>,
}

impl Authorizer {
    pub fn new(
        client: Client,
        clock: Clock,
        yes_lasts: Duration,
        no_lasts: Duration,
    ) -> Authorizer {
        Authorizer { client, yes_lasts, no_lasts, known: Cache::new(clock) }
    }

    /// `attributes` is the part of a SubjectAccessReview's spec that says what is to be done:
    /// `{"resourceAttributes": …}` or `{"nonResourceAttributes": …}`.
    pub async fn allows(&self, user: &User, attributes: Value) -> Result<bool, Error> {
        let mut spec = attributes;
        spec["user"] = user.name.as_str().into();
        spec["groups"] = json!(user.groups);
        if !user.uid.is_empty() {
            spec["uid"] = user.uid.as_str().into();
        }
        if !user.extra.is_empty() {
            spec["extra"] = json!(user.extra);
        }
        let key = spec.to_string();
        if let Some(known) = self.known.get(&key) {
            return Ok(known);
        }
        let review = json!({
            "apiVersion": SUBJECT_ACCESS_REVIEW.api_version(),
            "kind": SUBJECT_ACCESS_REVIEW.kind,
            "spec": spec,
        });
        let answer = self.client.post(&SUBJECT_ACCESS_REVIEW.path("", ""), &review).await?;
        let allowed = answer["status"]["allowed"] == true;
        self.known.put(key, allowed, if allowed { self.yes_lasts } else { self.no_lasts });
        Ok(allowed)
    }
}
