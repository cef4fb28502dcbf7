//! OpenAPI v3 documents: made when first asked for, then served as bytes.

use std::{collections::HashMap, sync::Arc};

use axum::response::Response;
use http::{HeaderValue, header};
use parking_lot::Mutex;
use proto::{kind::Row, status::Status};

use super::{answer, query::Query};
use crate::{discovery::Document, openapi};

/// The documents of one set of rows.
pub struct OpenApi {
    rows: &'static [&'static Row],
    made: Mutex<HashMap<String, Arc<Document>>>,
}

impl OpenApi {
    pub fn new(rows: &'static [&'static Row]) -> OpenApi {
        OpenApi { rows, made: Mutex::default() }
    }

    /// `/openapi/v3`.
    pub(super) fn index(&self, known: Option<&str>) -> Response {
        let document = self.made("", || Some(document(openapi::v3_index(self.rows), None)));
        answer::document(&document.expect("there is always an index"), known)
    }

    /// One group's version; for ever where the URL names the hash that it has.
    pub(super) fn version(
        &self,
        group: &str,
        version: &str,
        query: &Query,
        known: Option<&str>,
    ) -> Result<Response, Status> {
        let make = || {
            let body = openapi::v3_document(group, version, self.rows)?;
            Some(document(body, Some(openapi::v3_hash(group, version, self.rows))))
        };
        let document =
            self.made(&format!("{group}/{version}"), make).ok_or_else(Status::no_such_path)?;
        let mut response = answer::document(&document, known);
        if query.text("hash") == document.etag.trim_matches('"') {
            let immutable = HeaderValue::from_static("public, immutable");
            response.headers_mut().insert(header::CACHE_CONTROL, immutable);
        }
        Ok(response)
    }

    fn made(&self, key: &str, make: impl FnOnce() -> Option<Document>) -> Option<Arc<Document>> {
        let mut made = self.made.lock();
        if let Some(document) = made.get(key) {
            return Some(document.clone());
        }
        let document = Arc::new(make()?);
        made.insert(key.to_string(), document.clone());
        Some(document)
    }
}

fn document(body: bytes::Bytes, hash: Option<String>) -> Document {
    let mut document = Document::new("application/json", body);
    if let Some(hash) = hash {
        document.etag = format!("\"{hash}\"").into();
    }
    document
}
