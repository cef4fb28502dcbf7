//! GET of one object.

use std::sync::Arc;

use proto::status::Status;

use super::{Answer, Call, Content, Registry};
use crate::cache::Entry;

impl Registry {
    pub async fn get(&self, call: &Call<'_>) -> Result<Answer, Status> {
        match call.query.text("resourceVersion") {
            "" => drop(self.fresh().await?),
            "0" => {}
            text => self.reach(super::list::revision(text)?).await?,
        }
        self.entry(call).map(Content::Entry).map(Answer::ok)
    }

    /// The object a call names, as the cache has it.
    pub(super) fn entry(&self, call: &Call) -> Result<Arc<Entry>, Status> {
        call.kind.cache.get(call.namespace, call.name).ok_or_else(|| call.not_found())
    }
}
