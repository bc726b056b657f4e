//! When a call must have its answer: what the client asked for, within what the model allows.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

use crate::{
    models::Deadlines,
    status::{Failure, Situation, quote},
};

const TIMEOUT_MS: HeaderName = HeaderName::from_static("x-request-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Longest life of a stream.
const STREAM_MAX: Duration = Duration::from_secs(24 * 3600);

/// The time a client gives its call, and when the call came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    started: Instant,
    asked: Option<Duration>,
}

impl Patience {
    /// Reads `grpc-timeout` and `x-request-timeout-ms`; the shorter counts.
    pub(crate) fn of(headers: &HeaderMap, started: Instant) -> Result<Self, Failure> {
        let grpc = given(headers, &GRPC_TIMEOUT, grpc_timeout)?;
        let millis = given(headers, &TIMEOUT_MS, timeout_ms)?;
        Ok(Self { started, asked: grpc.into_iter().chain(millis).min() })
    }

    /// As before, and not longer than `asked` where the body names a time too.
    pub(crate) fn and(self, asked: Option<Duration>) -> Self {
        Self { asked: self.asked.into_iter().chain(asked).min(), ..self }
    }

    /// What is left of it for a message that came at `started`.
    pub(crate) fn from(self, started: Instant) -> Self {
        let spent = started.saturating_duration_since(self.started);
        Self { started, asked: self.asked.map(|asked| asked.saturating_sub(spent)) }
    }

    /// The moment a stream of messages must end; without a client's word that is far off.
    pub(crate) fn deadline_of_stream(self) -> Result<Instant, Failure> {
        self.deadline(Deadlines { default: STREAM_MAX, max: STREAM_MAX, cold_start: STREAM_MAX })
    }

    /// The moment it ends.
    pub(crate) fn deadline(self, limits: Deadlines) -> Result<Instant, Failure> {
        if self.asked == Some(Duration::ZERO) {
            return Err(Failure::deadline_exceeded("on arrival: the client gave it no time"));
        }
        Ok(self.started + self.asked.unwrap_or(limits.default).min(limits.max))
    }
}

fn given(
    headers: &HeaderMap,
    name: &HeaderName,
    parse: fn(&str) -> Option<Duration>,
) -> Result<Option<Duration>, Failure> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let malformed = || {
        let sentence = format!("{name}: {} is not a valid time-out", quote(&text));
        Failure::new(Situation::BadDeadline, sentence)
    };
    parse(&text).map(Some).ok_or_else(malformed)
}

/// One to eight digits and a unit, by the gRPC specification.
fn grpc_timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let amount = digits_only(digits, 8)?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

fn timeout_ms(value: &str) -> Option<Duration> {
    digits_only(value, 15).map(Duration::from_millis)
}

/// A number written in at most `length_max` digits and nothing else.
fn digits_only(text: &str, length_max: usize) -> Option<u64> {
    let valid = text.len() <= length_max && text.bytes().all(|b| b.is_ascii_digit());
    valid.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Deadlines = Deadlines {
        default: Duration::from_secs(30),
        max: Duration::from_secs(300),
        cold_start: Duration::from_secs(120),
    };

    fn left(name: &'static str, value: &str) -> Result<Duration, Situation> {
        let now = Instant::now();
        let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())]);
        let deadline = Patience::of(&headers, now).and_then(|patience| patience.deadline(LIMITS));
        deadline.map(|at| at - now).map_err(|failure| failure.situation)
    }

    #[test]
    fn the_shorter_of_client_and_model_counts() {
        assert_eq!(left("grpc-timeout", "100m"), Ok(Duration::from_millis(100)));
        assert_eq!(left("grpc-timeout", "99999999H"), Ok(LIMITS.max));
        assert_eq!(left("x-request-timeout-ms", "250"), Ok(Duration::from_millis(250)));
        assert_eq!(left("x-other", "1"), Ok(LIMITS.default));
    }

    #[test]
    fn a_malformed_time_is_refused_and_none_left_is_too_late() {
        for bad in ["", "10", "m", "123456789S", "-1S", "+1S", "1 S", "1.5S", "1s"] {
            assert_eq!(left("grpc-timeout", bad), Err(Situation::BadDeadline), "{bad:?}");
        }
        for bad in ["", "-1", "1.5", "10ms", "99999999999999999999"] {
            assert_eq!(left("x-request-timeout-ms", bad), Err(Situation::BadDeadline), "{bad:?}");
        }
        assert_eq!(left("grpc-timeout", "0n"), Err(Situation::DeadlineExceeded));
    }

    #[test]
    fn a_time_in_the_body_only_shortens() {
        let now = Instant::now();
        let patience = Patience { started: now, asked: Some(Duration::from_secs(2)) };
        let longer = patience.and(Some(Duration::from_secs(5))).deadline(LIMITS);
        assert_eq!(longer.unwrap() - now, Duration::from_secs(2));
        let alone = Patience { started: now, asked: None }.and(Some(Duration::from_secs(90)));
        assert_eq!(alone.deadline(LIMITS).unwrap() - now, Duration::from_secs(90));
    }
}
