//! Compression of large answers for clients that accept it.

use std::io::Write;

use axum::{body::Body, response::Response};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::{StreamExt, stream};
use http::{HeaderValue, StatusCode, header};

use super::coalesce::Pieces;

/// Smaller answers are not worth the work; upstream's threshold.
const WORTH: u64 = 128 << 10;
/// What is gathered before it is sent on.
const PIECE: usize = 32 << 10;

/// Compresses the answer to a read or write where it is large and `accept` (the header
/// Accept-Encoding) names gzip.
pub(super) fn response(response: Response, accept: Option<&str>) -> Response {
    let length = http_body::Body::size_hint(response.body())
        .exact()
        .or_else(|| response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok());
    let large = length.is_some_and(|length| length > WORTH);
    if !large || response.status() != StatusCode::OK || !accepted(accept) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    parts.extensions.insert(Pieces);
    Response::from_parts(parts, gzip(body))
}

/// Whether Accept-Encoding admits gzip.
pub(super) fn accepted(accept: Option<&str>) -> bool {
    accept.is_some_and(|accept| {
        accept.split(',').any(|entry| {
            let (name, params) = entry.split_once(';').unwrap_or((entry, ""));
            let refused = matches!(params.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000");
            matches!(name.trim(), "gzip" | "*") && !refused
        })
    })
}

/// Speed before size, as upstream chooses.
pub(super) fn encoder(into: Vec<u8>) -> GzEncoder<Vec<u8>> {
    GzEncoder::new(into, Compression::fast())
}

/// Compresses piece by piece, as the client reads.
fn gzip(body: Body) -> Body {
    let start = Some((body.into_data_stream(), encoder(Vec::new())));
    Body::from_stream(stream::unfold(start, |state| async move {
        let (mut body, mut encoder) = state?;
        loop {
            match body.next().await {
                None => {
                    let rest = encoder.finish().map_err(axum::Error::new);
                    return Some((rest.map(Bytes::from), None));
                }
                Some(Err(error)) => return Some((Err(error), None)),
                Some(Ok(data)) => {
                    if let Err(error) = encoder.write_all(&data) {
                        return Some((Err(axum::Error::new(error)), None));
                    }
                }
            }
            if encoder.get_ref().len() >= PIECE {
                let piece = std::mem::take(encoder.get_mut());
                return Some((Ok(Bytes::from(piece)), Some((body, encoder))));
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_gzip() {
        let cases = [
            (None, false),
            (Some("gzip"), true),
            (Some("deflate, gzip;q=0.5"), true),
            (Some("*"), true),
            (Some("gzip;q=0"), false),
            (Some("identity"), false),
            (Some("br"), false),
        ];
        for (accept, expected) in cases {
            assert_eq!(accepted(accept), expected, "{accept:?}");
        }
    }
}
