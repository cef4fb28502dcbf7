//! Reading request bodies, bounded in size and time.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use client::Clock;
use http_body_util::BodyExt;
use proto::status::Status;

/// The largest body, as upstream's.
pub(super) const LIMIT: usize = 3 << 20;
/// What is read and thrown away of one that is larger.
const DRAINED: usize = 64 << 20;
/// A client whose body takes longer loses its request, and the seat that it holds; upstream's bound
/// of a whole request.
const PATIENCE: Duration = Duration::from_secs(60);

/// The whole body; 413 where it is too large, 408 where it does not come.
pub(super) async fn read(clock: &Clock, body: Body) -> Result<Bytes, Status> {
    let late = "the request body did not arrive in time";
    let read = clock.timeout(PATIENCE, gather(body)).await;
    read.unwrap_or_else(|_| Err(Status::failure(408, "Timeout", late)))
}

async fn gather(mut body: Body) -> Result<Bytes, Status> {
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
