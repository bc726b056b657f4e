//! Headers of calls and answers: what ends at a connection, and what a call carries on.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::time::Instant;

/// Headers that belong to one connection, besides those that `connection` names.
static HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
];
/// Headers that whoever sends the message writes anew.
static FRAMING: [HeaderName; 3] = [header::CONTENT_LENGTH, header::HOST, header::UPGRADE];

static REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// Removes what must not be handed on: hop-by-hop headers, those that `connection` names, and framing.
pub(super) fn strip(headers: &mut HeaderMap) {
    let stays = |name: &HeaderName| !HOP_BY_HOP.contains(name) && !FRAMING.contains(name);
    if headers.keys().all(stays) {
        return;
    }
    let connection: Vec<HeaderValue> = headers.get_all(header::CONNECTION).iter().cloned().collect();
    let named = connection.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    for name in named {
        headers.remove(name.trim());
    }
    for name in HOP_BY_HOP.iter().chain(&FRAMING) {
        headers.remove(name);
    }
}

/// Adds the headers that a call carries on.
pub(super) fn carry(headers: &mut HeaderMap, trace: HeaderMap) {
    if headers.is_empty() {
        *headers = trace;
        return;
    }
    headers.extend(trace);
}

/// Tells an HTTP server what remains until `deadline`, in whole milliseconds and at least one.
pub(super) fn tell_deadline(headers: &mut HeaderMap, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
    headers.insert(REQUEST_TIMEOUT.clone(), HeaderValue::from(millis));
}

/// The value of `grpc-timeout` for what remains until `deadline`: at most eight digits and a unit.
pub(super) fn grpc_timeout(deadline: Instant) -> HeaderValue {
    const DIGITS_END: u128 = 100_000_000;
    let left: Duration = deadline.saturating_duration_since(Instant::now());
    let text = match (left.as_micros().max(1), left.as_millis()) {
        (micros, _) if micros < DIGITS_END => format!("{micros}u"),
        (_, millis) if millis < DIGITS_END => format!("{millis}m"),
        _ => format!("{}S", u128::from(left.as_secs()).min(DIGITS_END - 1)),
    };
    HeaderValue::try_from(text).expect("digits and a letter are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_connection_and_those_it_names_are_stripped() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("content-type", "application/json"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["content-type"]);
    }

    #[test]
    fn a_connection_header_that_names_nonsense_is_survived() {
        let mut headers = HeaderMap::new();
        headers.append(header::CONNECTION, HeaderValue::from_static(", ,\u{20}a b,("));
        headers.append(header::CONNECTION, HeaderValue::from_bytes(b"\xff").unwrap());
        strip(&mut headers);
        assert!(headers.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_remains_is_told_in_at_most_eight_digits() {
        let now = Instant::now();
        for (left, told) in [
            (Duration::ZERO, "1u"),
            (Duration::from_millis(1500), "1500000u"),
            (Duration::from_secs(300), "300000m"),
            (Duration::from_secs(200_000), "200000S"),
        ] {
            assert_eq!(grpc_timeout(now + left), told);
        }
        let mut headers = HeaderMap::new();
        tell_deadline(&mut headers, now + Duration::from_millis(1500));
        assert_eq!(headers["x-request-timeout-ms"], "1500");
        tell_deadline(&mut headers, now);
        assert_eq!(headers["x-request-timeout-ms"], "1");
    }
}
