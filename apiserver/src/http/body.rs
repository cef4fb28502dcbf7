//! Reading request bodies, bounded in size.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use proto::status::Status;

/// The largest body, as upstream's.
pub(super) const LIMIT: usize = 3 << 20;
/// What is read and thrown away of one that is larger.
const DRAINED: usize = 64 << 20;

/// The whole body; 413 where it is too large. One that does not come ends with the request's time.
pub(super) async fn read(mut body: Body) -> Result<Bytes, Status> {
    let announced = http_body::Body::size_hint(&body).lower();
    if announced > LIMIT as u64 {
        return Err(too_large(body).await);
    }
    let mut first: Option<Bytes> = None;
    let mut whole = BytesMut::new();
    loop {
        let frame = match body.frame().await {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                return Err(Status::bad_request(format!("reading the body: {error}")));
            }
            None => break,
        };
        let Ok(data) = frame.into_data() else { continue };
        if first.as_ref().map_or(0, Bytes::len) + whole.len() + data.len() > LIMIT {
            return Err(too_large(body).await);
        }
        match first.take() {
            None if whole.is_empty() => first = Some(data),
            held => {
                whole.extend_from_slice(&held.unwrap_or_default());
                whole.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| whole.freeze()))
}

/// Lets the client finish (within bounds): many look at the answer only then.
async fn too_large(mut body: Body) -> Status {
    let mut left = DRAINED;
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        left = left.saturating_sub(data.len());
        if left == 0 {
            break;
        }
    }
    Status::too_large(format!("Request entity too large: limit is {LIMIT}"))
}
