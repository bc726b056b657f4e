//! What a model server's refusal means: statuses and texts of both protocols → [`CallError`].

use std::{fmt::Write as _, time::Duration};

use bytes::Bytes;
use convert::openai::{self, ErrorText};
use http::{HeaderMap, StatusCode, header};
use pipeline::{CallError, Refusal, Words};

/// Longest text of a server that is handed on, in characters.
const MESSAGE_CHARS_MAX: usize = 300;
/// Longer bodies are not searched for a message.
const ERROR_BODY_MAX: usize = 64 << 10;
/// Longest hint that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Codes of gRPC.
pub(super) mod code {
    pub(in super::super) const OK: u32 = 0;
    pub(super) const UNKNOWN: u32 = 2;
    pub(super) const INVALID_ARGUMENT: u32 = 3;
    pub(super) const DEADLINE_EXCEEDED: u32 = 4;
    pub(super) const NOT_FOUND: u32 = 5;
    pub(super) const PERMISSION_DENIED: u32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: u32 = 8;
    pub(super) const FAILED_PRECONDITION: u32 = 9;
    pub(super) const OUT_OF_RANGE: u32 = 11;
    pub(super) const UNIMPLEMENTED: u32 = 12;
    pub(super) const UNAVAILABLE: u32 = 14;
    pub(super) const UNAUTHENTICATED: u32 = 16;
}

/// The error that an HTTP answer stands for, unless it is a success.
pub(super) fn of_http(status: StatusCode, headers: &HeaderMap, body: &Bytes) -> CallError {
    of_status(status.as_u16(), http_retry_after(headers), || said_in(headers, body))
}

/// The error that an engine tells of in the midst of a stream: by the status it names, that of an answer with that
/// status. One that names none is the engine's own failure, if it does not say that it is the client's.
pub(crate) fn of_event(error: ErrorText) -> CallError {
    let named = error.code.as_deref().and_then(|code| code.parse().ok());
    let by_kind = || match error.kind.as_deref() {
        Some("invalid_request_error" | "BadRequestError") => 400,
        _ => 500,
    };
    let status = named.unwrap_or_else(by_kind);
    of_status(status, None, || Some(error))
}

/// What `status` means. What the server said is looked at only where it is about the request: the rest is its own
/// business, and may be about its insides.
fn of_status(
    status: u16,
    retry_after: Option<Duration>,
    said: impl FnOnce() -> Option<ErrorText>,
) -> CallError {
    let kind = match status {
        429 | 503 => return CallError::Busy { retry_after },
        404 | 410 => Refusal::NotFound,
        413 => Refusal::TooLarge,
        405 | 415 | 501 => Refusal::Unsupported,
        401 => Refusal::Unauthenticated,
        403 => Refusal::Forbidden,
        // The server waited for us, or for somebody else: nothing the client did.
        408 | 500.. => return CallError::Failed,
        400..500 => Refusal::Invalid,
        _ => return CallError::BadResponse,
    };
    let said = said().unwrap_or_default();
    let message = if said.message.is_empty() {
        format!("the model server refused the request (HTTP {status})")
    } else {
        said.message
    };
    // A status is not a word that clients look for.
    let code = said.code.filter(|code| code.parse::<f64>().is_err());
    let words = Words { code, kind: said.kind, param: said.param };
    let words = (words != Words::default()).then(|| Box::new(words));
    CallError::Refused { kind, message, words }
}

/// The error that a gRPC status stands for. `trailers` carry its message and hints.
pub(super) fn of_grpc(code: u32, trailers: &HeaderMap) -> CallError {
    let kind = match code {
        code::INVALID_ARGUMENT | code::FAILED_PRECONDITION | code::OUT_OF_RANGE => Refusal::Invalid,
        code::NOT_FOUND => Refusal::NotFound,
        code::UNIMPLEMENTED => Refusal::Unsupported,
        code::UNAUTHENTICATED => Refusal::Unauthenticated,
        code::PERMISSION_DENIED => Refusal::Forbidden,
        // gRPC servers refuse an oversize message with the code of a full server; waiting would not help it.
        code::RESOURCE_EXHAUSTED if oversize(&grpc_message(trailers)) => Refusal::TooLarge,
        code::RESOURCE_EXHAUSTED | code::UNAVAILABLE => {
            return CallError::Busy { retry_after: pushback(trailers) };
        }
        code::DEADLINE_EXCEEDED => return CallError::Deadline,
        _ => return CallError::Failed,
    };
    let message = grpc_message(trailers);
    let message = if message.is_empty() {
        format!("the model server refused the request (gRPC code {code})")
    } else {
        clean(&message)
    };
    CallError::Refused { kind, message, words: None }
}

/// The gRPC code that stands for the HTTP status of an answer without one.
pub(super) fn grpc_code_of_http(status: StatusCode) -> u32 {
    match status.as_u16() {
        401 => code::UNAUTHENTICATED,
        403 => code::PERMISSION_DENIED,
        404 => code::UNIMPLEMENTED,
        429 | 502..=504 => code::UNAVAILABLE,
        _ => code::UNKNOWN,
    }
}

/// A refusal for what no server of this protocol can be asked.
pub(super) fn unsupported(message: &str) -> CallError {
    CallError::Refused { kind: Refusal::Unsupported, message: message.to_owned(), words: None }
}

/// A refusal for what cannot be written in the server's protocol.
pub(super) fn inexpressible(reason: &impl std::fmt::Display) -> CallError {
    CallError::Refused { kind: Refusal::Invalid, message: clean(&reason.to_string()), words: None }
}

fn oversize(message: &str) -> bool {
    message.contains("message larger than max")
}

fn http_retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let after = number("retry-after-ms")
        .map(Duration::from_millis)
        .or_else(|| number("retry-after").map(Duration::from_secs))?;
    Some(after.min(RETRY_AFTER_MAX))
}

fn pushback(trailers: &HeaderMap) -> Option<Duration> {
    let millis = trailers.get("grpc-retry-pushback-ms")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(millis).min(RETRY_AFTER_MAX))
}

/// What an error body says: JSON as servers write it, or text that says it is.
fn said_in(headers: &HeaderMap, body: &Bytes) -> Option<ErrorText> {
    if body.len() > ERROR_BODY_MAX {
        return None;
    }
    openai::error_of(body).or_else(|| {
        let media = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let text = std::str::from_utf8(body).ok().filter(|_| media.starts_with("text/plain"))?;
        Some(ErrorText { message: clean(text), ..ErrorText::default() })
    })
}

/// Bounds a text and escapes what could forge a log line or an answer's header.
fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len().min(MESSAGE_CHARS_MAX));
    for character in text.trim().chars().take(MESSAGE_CHARS_MAX) {
        if character.is_control() {
            write!(cleaned, "{}", character.escape_default()).expect("a string takes all writes");
        } else {
            cleaned.push(character);
        }
    }
    cut(&mut cleaned);
    cleaned
}

/// Escaping lengthens a text: bounds it again.
fn cut(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(MESSAGE_CHARS_MAX) {
        text.truncate(end);
    }
}

/// The percent-decoded `grpc-message`.
fn grpc_message(trailers: &HeaderMap) -> String {
    let Some(value) = trailers.get("grpc-message") else { return String::new() };
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, escaped(tail)) {
            (b'%', Some((byte, tail))) => {
                decoded.push(byte);
                rest = tail;
            }
            _ => decoded.push(byte),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn escaped(text: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, rest) = text.split_at_checked(2)?;
    let digits = std::str::from_utf8(digits).ok()?;
    // A sign is not a digit, but `from_str_radix` would take it.
    let hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten().map(|byte| (byte, rest))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn http(status: u16, body: &'static str) -> CallError {
        of_http(
            StatusCode::from_u16(status).unwrap(),
            &HeaderMap::new(),
            &Bytes::from_static(body.as_bytes()),
        )
    }

    fn refused(kind: Refusal, message: &str) -> CallError {
        CallError::Refused { kind, message: message.to_owned(), words: None }
    }

    fn grpc(code: u32, message: &'static str) -> CallError {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-message", HeaderValue::from_static(message));
        of_grpc(code, &trailers)
    }

    #[test]
    fn every_http_status_has_its_error() {
        let refusal = |status: u16, kind| {
            assert_eq!(http(status, r#"{"error":"no"}"#), refused(kind, "no"), "{status}");
        };
        for status in [400, 402, 406, 409, 411, 422, 431, 499] {
            refusal(status, Refusal::Invalid);
        }
        refusal(404, Refusal::NotFound);
        refusal(410, Refusal::NotFound);
        refusal(413, Refusal::TooLarge);
        refusal(415, Refusal::Unsupported);
        refusal(501, Refusal::Unsupported);
        refusal(401, Refusal::Unauthenticated);
        refusal(403, Refusal::Forbidden);
        for status in [408, 500, 502, 504, 599, 999] {
            assert_eq!(http(status, r#"{"error":"secret"}"#), CallError::Failed, "{status}");
        }
        for status in [429, 503] {
            assert_eq!(http(status, ""), CallError::Busy { retry_after: None }, "{status}");
        }
        for status in [101, 204, 302] {
            assert_eq!(http(status, ""), CallError::BadResponse, "{status}");
        }
    }

    #[test]
    fn messages_are_found_in_the_bodies_that_servers_write() {
        for (body, message) in [
            (r#"{"error":"bad shape"}"#, "bad shape"),
            (r#"{"error":{"message":"bad shape","code":3}}"#, "bad shape"),
            (r#"{"detail":"bad shape"}"#, "bad shape"),
            (
                r#"{"detail":[{"loc":["body","inputs",0],"msg":"field required"}]}"#,
                "body.inputs.0: field required",
            ),
            (r#"{"error":"a\u000ab\u001b[1m"}"#, "a b [1m"),
            (r#"{"error":17}"#, "the model server refused the request (HTTP 400)"),
            ("<html>", "the model server refused the request (HTTP 400)"),
            ("", "the model server refused the request (HTTP 400)"),
        ] {
            assert_eq!(http(400, body), refused(Refusal::Invalid, message), "{body}");
        }
    }

    #[test]
    fn what_a_server_calls_a_refusal_is_kept() {
        let body =
            r#"{"error":{"message":"too long","type":"invalid","param":"messages","code":"too_long"}}"#;
        let CallError::Refused { words: Some(words), .. } = http(400, body) else { panic!("no words") };
        let word = |word: &str| Some(word.to_owned());
        assert_eq!(*words, Words { code: word("too_long"), kind: word("invalid"), param: word("messages") });
    }

    #[test]
    fn a_status_is_not_among_a_server_s_words() {
        let body = r#"{"error":{"message":"no","code":400}}"#;
        assert_eq!(http(400, body), refused(Refusal::Invalid, "no"));
    }

    #[test]
    fn an_error_within_a_stream_is_judged_by_the_status_it_names() {
        let event = |kind: Option<&str>, code: Option<&str>| {
            let [kind, code] = [kind, code].map(|text| text.map(str::to_owned));
            of_event(ErrorText { message: "secret".to_owned(), kind, param: None, code })
        };
        for code in [None, Some("500"), Some("502"), Some("408"), Some("server_error")] {
            assert_eq!(event(None, code), CallError::Failed, "{code:?}");
            assert_eq!(event(Some("InternalServerError"), code), CallError::Failed, "{code:?}");
        }
        assert_eq!(event(None, Some("429")), CallError::Busy { retry_after: None });
        assert_eq!(event(None, Some("7")), CallError::BadResponse);
        assert_eq!(event(None, Some("400")), refused(Refusal::Invalid, "secret"));
        for (kind, code) in [("BadRequestError", "400"), ("invalid_request_error", "too_long")] {
            let error = event(Some(kind), Some(code));
            let CallError::Refused { kind: Refusal::Invalid, message, words: Some(words) } = error else {
                panic!("{error:?}")
            };
            assert_eq!((&*message, words.kind.as_deref()), ("secret", Some(kind)));
            assert_eq!(words.code.as_deref(), (code == "too_long").then_some(code));
        }
    }

    #[test]
    fn plain_text_is_a_message_only_if_it_says_so() {
        let body = Bytes::from_static(b"bad shape\r\n");
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("text/plain; charset=utf-8"));
        let error = of_http(StatusCode::BAD_REQUEST, &headers, &body);
        assert_eq!(error, refused(Refusal::Invalid, "bad shape"));
    }

    #[test]
    fn messages_are_bounded() {
        let text = "\u{7}ž".repeat(1000);
        assert_eq!(clean(&text).chars().count(), MESSAGE_CHARS_MAX);
        assert!(!clean(&text).chars().any(char::is_control));
    }

    #[test]
    fn hints_to_wait_are_read_and_bounded() {
        for (name, value, expected) in [
            ("retry-after", "7", Some(Duration::from_secs(7))),
            ("retry-after-ms", "1500", Some(Duration::from_millis(1500))),
            ("retry-after", "99999999", Some(RETRY_AFTER_MAX)),
            ("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            let error = of_http(StatusCode::SERVICE_UNAVAILABLE, &headers, &Bytes::new());
            assert_eq!(error, CallError::Busy { retry_after: expected }, "{name}: {value}");
        }
    }

    #[test]
    fn every_grpc_code_has_its_error() {
        for (code, kind) in [
            (3, Refusal::Invalid),
            (9, Refusal::Invalid),
            (11, Refusal::Invalid),
            (5, Refusal::NotFound),
            (12, Refusal::Unsupported),
            (16, Refusal::Unauthenticated),
            (7, Refusal::Forbidden),
        ] {
            assert_eq!(grpc(code, "no"), refused(kind, "no"), "{code}");
        }
        for code in [8, 14] {
            assert_eq!(grpc(code, "full"), CallError::Busy { retry_after: None }, "{code}");
        }
        assert_eq!(grpc(4, ""), CallError::Deadline);
        for code in [1, 2, 6, 10, 13, 15, 17, u32::MAX] {
            assert_eq!(grpc(code, "secret"), CallError::Failed, "{code}");
        }
        let oversize = "Received message larger than max (5 vs. 4)";
        assert_eq!(grpc(8, oversize), refused(Refusal::TooLarge, oversize));
    }

    #[test]
    fn grpc_messages_are_percent_decoded() {
        for (wire, text) in [
            ("a%20b", "a b"),
            ("%C5%BE", "ž"),
            ("100%", "100%"),
            ("%+1%zz", "%+1%zz"),
            ("%0A", "the model server refused the request (gRPC code 3)"),
            ("a%0Ab", r"a\nb"),
        ] {
            let expected = if wire == "%0A" { "" } else { text };
            assert_eq!(grpc(3, wire), refused(Refusal::Invalid, expected), "{wire}");
        }
    }

    #[test]
    fn grpc_pushback_is_read() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-retry-pushback-ms", HeaderValue::from_static("250"));
        assert_eq!(of_grpc(14, &trailers), CallError::Busy { retry_after: Some(Duration::from_millis(250)) });
        trailers.insert("grpc-retry-pushback-ms", HeaderValue::from_static("-1"));
        assert_eq!(of_grpc(14, &trailers), CallError::Busy { retry_after: None });
    }
}
