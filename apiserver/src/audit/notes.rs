//! What is noted of a request on its way, for the annotations of its audit event.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// Shared by whoever handles one request.
#[derive(Debug, Default)]
pub struct Notes(Mutex<BTreeMap<String, String>>);

impl Notes {
    /// What was noted first stays: nobody overwrites another's word.
    pub fn add(&self, key: &str, value: impl Into<String>) {
        self.0.lock().entry(key.to_string()).or_insert_with(|| value.into());
    }

    pub fn all(&self) -> BTreeMap<String, String> {
        self.0.lock().clone()
    }
}
