//! How one request ended, as the client saw it.

use std::fmt;

use serde::Serialize;

/// The header that says why a request was refused.
pub(crate) const REASON: &str = "x-tidegate-reason";

/// Characters of a server's reason that are kept.
const REASON_MAX: usize = 64;

/// How one request ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Outcome {
    Ok,
    /// Answered, but not with what this request's input should give.
    WrongAnswer,
    Http {
        status: u16,
        reason: Option<Box<str>>,
    },
    Grpc {
        code: u16,
        reason: Option<Box<str>>,
    },
    /// The client's time was up.
    ClientTimeout,
    /// The deadline passed while it waited for a free connection.
    ExpiredUnsent,
    /// Not sent: too many requests were under way already.
    Overrun,
    ConnectFailed,
    /// The connection ended before the answer did.
    BrokenOff,
    /// An answer larger than the client reads, one that is not what was asked for, or a gRPC one without a status.
    BadResponse,
    /// A stream with an error instead of its end.
    StreamError {
        code: Option<Box<str>>,
    },
    /// A stream that ended without saying that it is complete.
    StreamUnfinished,
    /// The connection ended before the stream on it did.
    StreamBrokenOff,
}

impl Outcome {
    pub(crate) fn http(status: http::StatusCode, headers: &http::HeaderMap) -> Self {
        Self::Http { status: status.as_u16(), reason: reason(headers) }
    }

    /// From the `error` object of a stream, or of a whole answer with a good status.
    pub(crate) fn stream_error(error: &serde_json::Value) -> Self {
        let word = |key| match error.get(key)? {
            serde_json::Value::String(text) => Some(text.chars().take(REASON_MAX).collect()),
            serde_json::Value::Number(number) => Some(number.to_string().into()),
            _ => None,
        };
        Self::StreamError { code: word("code").or_else(|| word("type")) }
    }

    pub(crate) fn is_ok(&self) -> bool {
        matches!(self, Self::Ok)
    }
}

/// The server's reason, cut so that it may be a key.
pub(crate) fn reason(headers: &http::HeaderMap) -> Option<Box<str>> {
    let text = headers.get(REASON)?.to_str().ok()?;
    Some(text.chars().take(REASON_MAX).collect())
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::WrongAnswer => f.write_str("wrong answer"),
            Self::Http { status, reason } => write!(f, "HTTP {status} {}", reason.as_deref().unwrap_or("")),
            Self::Grpc { code, reason } => write!(f, "gRPC {code} {}", reason.as_deref().unwrap_or("")),
            Self::ClientTimeout => f.write_str("client timeout"),
            Self::ExpiredUnsent => f.write_str("expired before it could be sent"),
            Self::Overrun => f.write_str("not sent, too many outstanding"),
            Self::ConnectFailed => f.write_str("connect failed"),
            Self::BrokenOff => f.write_str("broken off"),
            Self::BadResponse => f.write_str("unreadable response"),
            Self::StreamError { code } => write!(f, "stream error {}", code.as_deref().unwrap_or("")),
            Self::StreamUnfinished => f.write_str("stream without its end"),
            Self::StreamBrokenOff => f.write_str("stream broken off"),
        }
    }
}
