//! The gRPC health check (grpc.health.v1.Health/Check), of which a probe needs one call.

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    /// 1 is SERVING.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks the server at the other end of `stream` whether `service` serves.
pub async fn check(stream: TcpStream, authority: &str, service: &str) -> Result<(), String> {
    let connection =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = connection.map_err(|error| error.to_string())?;
    let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(frame(&HealthCheckRequest { service: service.into() })))
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let refused = response.headers().get("grpc-status").cloned();
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
        let status = body.trailers().and_then(|trailers| trailers.get("grpc-status").cloned());
        let code = refused.or(status);
        let code = code.as_ref().and_then(|code| code.to_str().ok()).unwrap_or("2").to_string();
        Ok::<_, String>((code, body.to_bytes()))
    };
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let (code, body) = exchange.await?;
    match code.as_str() {
        "0" => {}
        "12" => return Err("this server does not implement the grpc health protocol".into()),
        code => return Err(format!("health rpc failed with code {code}")),
    }
    let message = body.get(5..).unwrap_or_default();
    match HealthCheckResponse::decode(message) {
        Ok(HealthCheckResponse { status: 1 }) => Ok(()),
        Ok(HealthCheckResponse { status }) => {
            let name = match status {
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "UNKNOWN",
            };
            Err(format!("service unhealthy (responded with {name:?})"))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// One uncompressed message with its length before it.
fn frame(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    bytes.put_slice(&message.encode_to_vec());
    bytes.freeze()
}
