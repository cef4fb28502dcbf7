//! OpenAPI documents: made when first asked for, then kept compressed.

use std::{
    collections::HashMap,
    io::{Read, Write},
    sync::Arc,
};

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, header};
use parking_lot::Mutex;
use proto::{kind::Row, status::Status, time::Time};

use super::{accept::medias, answer, compress, query::Query};
use crate::{discovery::Document, openapi};

/// The documents of one set of rows.
pub struct OpenApi {
    rows: &'static [&'static Row],
    made: Mutex<HashMap<String, Arc<Packed>>>,
}

/// How a document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Protobuf,
}

/// A document whose body is compressed.
pub(super) struct Packed(Document);

const JSON: &str = "application/json";
/// By version, less 2. The second name, with an at sign, is the older one, and no media type by the
/// letter.
const PROTOBUF: [[&str; 2]; 2] = [
    [
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
        "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    ],
    [
        "application/com.github.proto-openapi.spec.v3.v1.0+protobuf",
        "application/com.github.proto-openapi.spec.v3@v1.0+protobuf",
    ],
];

/// The form of version 2 or 3 that is asked for.
pub(super) fn form(accept: Option<&str>, version: usize) -> Result<Form, Status> {
    let accept = accept.filter(|accept| !accept.trim().is_empty()).unwrap_or(JSON);
    let names = PROTOBUF[version - 2];
    medias(accept)
        .iter()
        .find_map(|media| match media.name {
            JSON | "*/*" | "application/*" => Some(Form::Json),
            name if names.contains(&name) => Some(Form::Protobuf),
            _ => None,
        })
        .ok_or_else(|| Status::not_acceptable(&format!("{JSON}, {}", names[0])))
}

/// As Go prints a time by RFC 1123, the zone by its own name.
fn in_a_year(now: Time) -> HeaderValue {
    let now = now.0.to_zoned(jiff::tz::TimeZone::UTC);
    let then = now.saturating_add(jiff::Span::new().years(1));
    let text = then.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string();
    HeaderValue::from_str(&text).expect("a date is letters, digits and signs")
}

impl OpenApi {
    pub fn new(rows: &'static [&'static Row]) -> OpenApi {
        OpenApi { rows, made: Mutex::default() }
    }

    /// `/openapi/v2`: everything, which takes a moment the first time.
    pub(super) fn v2(&self, form: Form) -> Arc<Packed> {
        let (key, content_type) = match form {
            Form::Json => ("v2 json", JSON),
            Form::Protobuf => ("v2 protobuf", PROTOBUF[0][0]),
        };
        let make = || {
            let body = match form {
                Form::Json => openapi::v2_document(self.rows),
                Form::Protobuf => openapi::v2_protobuf(self.rows),
            };
            Some(Packed::new(content_type, &body, openapi::v2_hash(key, self.rows)))
        };
        self.made(key, make).expect("there is always a document of everything")
    }

    /// `/openapi/v3`.
    pub(super) fn index(&self) -> Arc<Packed> {
        let make = || {
            let body = openapi::v3_index(self.rows);
            let etag = Document::new(JSON, body.clone()).etag.trim_matches('"').to_string();
            Some(Packed::new(JSON, &body, etag))
        };
        self.made("v3", make).expect("there is always an index")
    }

    /// Version 3 of one group's version.
    pub(super) fn version(&self, group: &str, version: &str, form: Form) -> Option<Arc<Packed>> {
        let make = || {
            let (content_type, body) = match form {
                Form::Json => (JSON, openapi::v3_document(group, version, self.rows)?),
                Form::Protobuf => {
                    (PROTOBUF[1][0], openapi::v3_protobuf(group, version, self.rows)?)
                }
            };
            Some(Packed::new(content_type, &body, openapi::v3_hash(group, version, self.rows)))
        };
        self.made(&format!("v3 {group}/{version} {form:?}"), make)
    }

    fn made(&self, key: &str, make: impl FnOnce() -> Option<Packed>) -> Option<Arc<Packed>> {
        let mut made = self.made.lock();
        if let Some(document) = made.get(key) {
            return Some(document.clone());
        }
        let document = Arc::new(make()?);
        made.insert(key.to_string(), document.clone());
        Some(document)
    }
}

impl Packed {
    fn new(content_type: &'static str, body: &[u8], hash: String) -> Packed {
        let mut encoder = compress::encoder(Vec::with_capacity(body.len() / 8));
        let packed = encoder.write_all(body).and_then(|()| encoder.finish());
        let body = Bytes::from(packed.expect("writing into memory does not fail"));
        Packed(Document { body, etag: format!("\"{hash}\"").into(), content_type })
    }

    /// The document, or 304 where the client has it; unpacked unless the client takes gzip.
    pub(super) fn answer(&self, known: Option<&str>, packed: bool) -> Response {
        let mut document = self.0.clone();
        if !packed {
            let mut body = Vec::new();
            flate2::read::GzDecoder::new(&*self.0.body)
                .read_to_end(&mut body)
                .expect("it was packed here");
            document.body = body.into();
        }
        let mut response = answer::document(&document, known);
        let headers = response.headers_mut();
        headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        if packed && response.status() == http::StatusCode::OK {
            let gzip = HeaderValue::from_static("gzip");
            response.headers_mut().insert(header::CONTENT_ENCODING, gzip);
        }
        response
    }

    /// The same, for ever where the URL names the hash that the document has; who names another is
    /// sent to that URL.
    pub(super) fn answer_hashed(
        &self,
        path: &str,
        query: &Query,
        (known, packed): (Option<&str>, bool),
        now: Time,
    ) -> Response {
        let (hash, named) = (self.0.etag.trim_matches('"'), query.text("hash"));
        if !named.is_empty() && named != hash {
            return answer::moved(&format!("{path}?hash={hash}"));
        }
        let mut response = self.answer(known, packed);
        if !named.is_empty() {
            let immutable = HeaderValue::from_static("public, immutable");
            response.headers_mut().insert(header::CACHE_CONTROL, immutable);
            response.headers_mut().insert(header::EXPIRES, in_a_year(now));
        }
        response
    }
}
