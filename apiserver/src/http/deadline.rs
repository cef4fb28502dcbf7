//! How long the server tries: a minute, or what the client says with `?timeout=34s`. Streams have
//! their own ends.

use std::time::Duration;

use proto::status::Status;

use super::{query::Query, target::Target};
use crate::{codec::duration::parse, node};

/// What a request has that asks for nothing, for 0 or for more.
const MOST: Duration = Duration::from_secs(60);

/// The time that the request has; nothing where it is a stream. 400 where it says it wrongly.
pub(super) fn of(target: &Target, query: Option<&str>) -> Result<Option<Duration>, Status> {
    // Most say nothing of either.
    let telling = query.filter(|text| text.contains("timeout=") || text.contains("watch"));
    let query = Query::parse(telling);
    if is_stream(target, &query) {
        return Ok(None);
    }
    let asked = query.text("timeout");
    if asked.is_empty() {
        return Ok(Some(MOST));
    }
    let wrong = |why| format!("invalid timeout specified in the request URL - {why}");
    let nanoseconds = parse(asked).map_err(|why| Status::bad_request(wrong(why)))?;
    let asked = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0));
    Ok(Some(if asked.is_zero() { MOST } else { asked.min(MOST) }))
}

/// The answer when it is over.
pub(super) fn exceeded() -> Status {
    Status::timeout("Timeout: request did not complete within the allotted timeout")
}

fn is_stream(target: &Target, query: &Query) -> bool {
    let Target::Resource(path) = target else { return false };
    path.watch || (path.name.is_empty() && query.flag("watch")) || node::answers(&path.subresource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_reads_them() {
        let cases = [
            ("0", Ok(0)),
            ("-0", Ok(0)),
            ("1.5s", Ok(1_500_000_000)),
            ("1h2m3s4ms5us6ns", Ok(3_723_004_005_006)),
            ("-2ms", Ok(-2_000_000)),
            (".5m", Ok(30_000_000_000)),
            ("", Err("time: invalid duration \"\"")),
            ("invalid", Err("time: invalid duration \"invalid\"")),
            ("5", Err("time: missing unit in duration \"5\"")),
            ("5x", Err("time: unknown unit \"x\" in duration \"5x\"")),
            ("1..s", Err("time: invalid duration \"1..s\"")),
            ("99999999h", Err("time: invalid duration \"99999999h\"")),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected.map_err(String::from), "{text}");
        }
    }

    #[test]
    fn what_is_limited() {
        let of = |path: &'static str, query| of(&Target::parse(path), Some(query));
        let seconds = |seconds| Ok(Some(Duration::from_secs(seconds)));
        assert_eq!(of("/version", "timeout=34s"), seconds(34));
        assert_eq!(of("/version", "timeout=3m"), seconds(60));
        assert_eq!(of("/version", "timeout=0s"), seconds(60));
        assert_eq!(of("/version", "timeoutSeconds=5"), seconds(60));
        assert_eq!(of("/api/v1/pods", ""), seconds(60));
        for (path, query) in [
            ("/api/v1/pods", "watch=true"),
            ("/api/v1/pods", "watch=true&timeout=5s"),
            ("/api/v1/namespaces/a/pods/p/log", "timeout=x"),
        ] {
            assert_eq!(of(path, query), Ok(None), "{path}?{query}");
        }
        assert_eq!(of("/version", "timeout=x").unwrap_err().code, 400);
    }
}
