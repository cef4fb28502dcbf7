//! Responses: rendered objects, documents, failures.

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::stream;
use http::{HeaderName, HeaderValue, header};
use proto::status::Status;
use serde_json::Value;

use super::{
    accept::{self, Encoding},
    coalesce::{self, Pieces},
};
use crate::{
    discovery::Document,
    registry::{Answer, Call, Content, Renderer, protobuf},
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const YAML: HeaderValue = HeaderValue::from_static("application/yaml");
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/vnd.kubernetes.protobuf");
const PRIVATE: HeaderValue = HeaderValue::from_static("no-cache, private");

/// What the registry came to; `wire`, on its way to another process.
pub(super) fn answer(call: &Call, answer: Answer, wire: bool) -> Result<Response, Status> {
    let Answer { code, content, warnings } = answer;
    let encoding = call.wanted.encoding;
    let mut response = match content {
        Content::Entry(entry) => {
            encoded(code, encoding, Renderer::new(call, false)?.entry(&entry)?)?
        }
        Content::Object(value) => {
            encoded(code, encoding, Renderer::new(call, false)?.value(&value)?)?
        }
        Content::Made(objects) => {
            let body = Renderer::new(call, true)?.made(&objects)?;
            match encoding {
                Encoding::Protobuf => response(code, PROTOBUF, Body::from(body)),
                Encoding::Json | Encoding::Indented | Encoding::Yaml => {
                    encoded(code, encoding, body)?
                }
            }
        }
        Content::Other(value) => encoded(code, encoding, Bytes::from(value.to_string()))?,
        Content::List(list) => {
            let pieces = Renderer::new(call, true)?.list(&list)?;
            match encoding {
                Encoding::Json => in_pieces(code, JSON, pieces, wire),
                Encoding::Protobuf => in_pieces(code, PROTOBUF, pieces, wire),
                Encoding::Indented | Encoding::Yaml => {
                    encoded(code, encoding, Bytes::from(pieces.concat()))?
                }
            }
        }
    };
    warn(&mut response, warnings.iter().map(String::as_str));
    Ok(response)
}

/// A watch: its frames as they are made.
pub(super) fn streaming<S>(encoding: Encoding, frames: S) -> Response
where
    S: futures::Stream<Item = Result<Bytes, std::convert::Infallible>> + Send + 'static,
{
    let content_type = match encoding {
        Encoding::Protobuf => {
            HeaderValue::from_static("application/vnd.kubernetes.protobuf;stream=watch")
        }
        Encoding::Json | Encoding::Indented | Encoding::Yaml => JSON,
    };
    let mut response = response(200, content_type, Body::from_stream(frames));
    response.extensions_mut().insert(Pieces);
    response
}

/// The status as the body of a failure, in the encoding that was asked for if there is one.
pub(super) fn failure(status: &Status, accept: Option<&str>) -> Response {
    let wanted = accept::negotiate(accept, accept::EVERYTHING);
    let encoding = wanted.map_or(Encoding::Json, |wanted| wanted.encoding);
    let json = Bytes::from(serde_json::to_vec(status).expect("a Status always serializes"));
    let mut response = match encoded(status.code, encoding, json.clone()) {
        Ok(response) => response,
        Err(_) => response(status.code, JSON, Body::from(json)),
    };
    let retry = status.details.as_ref().and_then(|details| details.retry_after_seconds);
    if let Some(seconds) = retry {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status.code == 401 {
        let bearer = HeaderValue::from_static("Bearer realm=\"coracle\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
    }
    response
}

/// A document, or 304 where the client has it.
pub(super) fn document(document: &Document, if_none_match: Option<&str>) -> Response {
    let known = if_none_match.is_some_and(|tags| {
        tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == &*document.etag)
    });
    let content_type = HeaderValue::from_static(document.content_type);
    let mut response = match known {
        true => response(304, content_type, Body::empty()),
        false => response(200, content_type, Body::from(document.body.clone())),
    };
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Ok(etag) = HeaderValue::from_str(&document.etag) {
        headers.insert(header::ETAG, etag);
    }
    response
}

pub(super) fn json(value: &Value) -> Response {
    response(200, JSON, Body::from(value.to_string()))
}

/// A document that anybody may keep for an hour.
pub(super) fn public(content_type: &'static str, value: &Value) -> Response {
    let content_type = HeaderValue::from_static(content_type);
    let mut response = response(200, content_type, Body::from(value.to_string()));
    let public = HeaderValue::from_static("public, max-age=3600");
    response.headers_mut().insert(header::CACHE_CONTROL, public);
    response
}

/// For a document that people read.
pub(super) fn readable(value: &Value) -> Response {
    response(200, JSON, Body::from(format!("{value:#}")))
}

pub(super) fn text(code: u16, text: impl Into<Bytes>) -> Response {
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    let mut response = response(code, plain, Body::from(text.into()));
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

/// It is at another URL of this server, from now on.
pub(super) fn moved(url: &str) -> Response {
    let mut response = text(301, "");
    if let Ok(url) = HeaderValue::from_str(url) {
        response.headers_mut().insert(header::LOCATION, url);
    }
    response
}

pub(super) fn metrics(text: String) -> Response {
    response(200, HeaderValue::from_static(crate::metrics::CONTENT_TYPE), Body::from(text))
}

/// `body` is JSON.
fn encoded(code: u16, encoding: Encoding, body: Bytes) -> Result<Response, Status> {
    match encoding {
        Encoding::Json => Ok(response(code, JSON, Body::from(body))),
        Encoding::Indented => Ok(response(code, JSON, Body::from(indented(&body)))),
        Encoding::Protobuf => Ok(response(code, PROTOBUF, Body::from(protobuf(&body)?))),
        Encoding::Yaml => {
            let value: Value = serde_json::from_slice(&body)
                .map_err(|error| Status::internal(format!("rendering YAML: {error}")))?;
            Ok(response(code, YAML, Body::from(yaml(&value)?)))
        }
    }
}

fn in_pieces(code: u16, content_type: HeaderValue, pieces: Vec<Bytes>, wire: bool) -> Response {
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let body = match wire {
        true => coalesce::joined(pieces),
        false => Body::from_stream(stream::iter(
            pieces.into_iter().map(Ok::<_, std::convert::Infallible>),
        )),
    };
    let mut response = response(code, content_type, body);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

fn response(code: u16, content_type: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, PRIVATE);
    response
}

/// `Warning: 299 - "unknown field \"spec.foo\""` per sentence.
pub(super) fn warn<'a>(response: &mut Response, warnings: impl IntoIterator<Item = &'a str>) {
    const WARNING: HeaderName = header::WARNING;
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        let text: String = quoted.chars().filter(|c| !c.is_control()).collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

/// The same JSON with a line per value. Works on the text, so that the order of fields stays.
fn indented(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    for (index, &byte) in json.iter().enumerate() {
        if quoted {
            out.push(byte);
            quoted = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'{' | b'[' => {
                out.push(byte);
                if !matches!(json.get(index + 1), Some(b'}' | b']')) {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                if !matches!(json[..index].last(), Some(b'{' | b'[')) {
                    depth = depth.saturating_sub(1);
                    line(&mut out, depth);
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b' ' | b'\n' | b'\r' | b'\t' => {}
            b'"' => {
                quoted = true;
                out.push(byte);
            }
            _ => out.push(byte),
        }
    }
    out
}

fn yaml(value: &Value) -> Result<String, Status> {
    serde_saphyr::to_string(value)
        .map_err(|error| Status::internal(format!("rendering YAML: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::codec;

    #[test]
    fn indented_as_go_indents() {
        let value = json!({"a": [1, {"b\"{,:": "x\\"}], "c": {}, "d": [], "e": null});
        let expected = serde_json::to_string_pretty(&value).unwrap();
        assert_eq!(String::from_utf8(indented(value.to_string().as_bytes())).unwrap(), expected);
    }

    #[test]
    fn what_is_printed_reads_back() {
        let texts = [
            "yes",
            "no",
            "on",
            "y",
            "N",
            "true",
            "null",
            "~",
            "",
            " ",
            "0644",
            "0o17",
            "1_000",
            "1e3",
            "0x1f",
            "1:30",
            "2020-01-01",
            ".inf",
            ".nan",
            "-",
            "- a",
            "a: b",
            "a #b",
            "# a",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a",
            "[a",
            "{a",
            "|",
            ">",
            "<<",
            "=",
            "a\nb\n",
            "a\n",
            "\n",
            "  a\n b",
            "tab\there",
            "\u{7}",
            "\u{2028}",
            "é",
            "'",
            "\"",
            "\\",
            "a ",
            "?",
            ":",
            "a:",
            "...",
            "---",
            "+1",
            "-1",
            "1.0",
            "1.",
            "12e03",
            "0b1",
            "NULL",
            "True",
            "long \n\n text\n\n\n",
        ];
        for text in texts {
            let value = json!({"k": text, text: ["v", {"n": text}], "n": 1, "b": true, "z": null});
            let printed = yaml(&value).unwrap();
            let read = codec::yaml::parse(printed.as_bytes());
            assert_eq!(read.map(|read| read.value), Ok(value), "{text:?}:\n{printed}");
        }
    }
}
