//! The only table from what went wrong to HTTP status, gRPC code, reason and retry hint. It is a promise to
//! clients: nothing else in the gateway knows a status code of an error.

mod grpc;
mod http;

use std::{borrow::Cow, time::Duration};

use ::http::StatusCode;
use convert::Reason;
use pipeline::{CallError, Error, Refusal, Rejection, Words};
use tonic::Code;

pub(crate) use self::http::REASON;

/// Longest sentence a client is shown, in characters.
const SENTENCE_MAX: usize = 300;
/// Longest piece of a client's own text inside a sentence, in characters.
const QUOTE_MAX: usize = 64;
/// Above this OpenAI clients stop retrying altogether.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
/// The hint where nobody measured a better one.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// What a client's call came to, other than an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Situation {
    BadRequest,
    BadJson,
    BadTensor,
    BadDeadline,
    BadHeaderLength,
    Unauthenticated,
    Forbidden,
    ModelNotFound,
    RouteNotFound,
    MethodNotAllowed,
    RequestTimeout,
    BodyTooLarge,
    UriTooLong,
    UnsupportedMediaType,
    HeadersTooLarge,
    QueueFull,
    PredictedLate,
    ShedPriority,
    TenantLimit,
    ClientCancelled,
    Internal,
    Unsupported,
    UpstreamReset,
    UpstreamBadResponse,
    NoReplicas,
    ColdStartTimeout,
    ColdStartFailed,
    ScheduledOff,
    ShuttingDown,
    DeadlineExceeded,
}

/// What a client is told about trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// The same call fails the same way.
    Pointless,
    /// After the given wait.
    After,
    /// It may have run already, or the time for it is over: `x-should-retry: false`.
    Never,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) http: u16,
    pub(crate) grpc: Code,
    pub(crate) reason: &'static str,
    pub(crate) retry: Retry,
}

impl Situation {
    /// Every situation, in the order of the declaration.
    pub(crate) const ALL: [Self; 30] = [
        Self::BadRequest,
        Self::BadJson,
        Self::BadTensor,
        Self::BadDeadline,
        Self::BadHeaderLength,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::ModelNotFound,
        Self::RouteNotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::BodyTooLarge,
        Self::UriTooLong,
        Self::UnsupportedMediaType,
        Self::HeadersTooLarge,
        Self::QueueFull,
        Self::PredictedLate,
        Self::ShedPriority,
        Self::TenantLimit,
        Self::ClientCancelled,
        Self::Internal,
        Self::Unsupported,
        Self::UpstreamReset,
        Self::UpstreamBadResponse,
        Self::NoReplicas,
        Self::ColdStartTimeout,
        Self::ColdStartFailed,
        Self::ScheduledOff,
        Self::ShuttingDown,
        Self::DeadlineExceeded,
    ];

    /// The table itself.
    #[rustfmt::skip]
    pub(crate) const fn row(self) -> Row {
        use Retry::{After, Never, Pointless};
        let (http, grpc, reason, retry) = match self {
            Self::BadRequest           => (400, Code::InvalidArgument,   "bad_request",            Pointless),
            Self::BadJson              => (400, Code::InvalidArgument,   "bad_json",               Pointless),
            Self::BadTensor            => (400, Code::InvalidArgument,   "bad_tensor",             Pointless),
            Self::BadDeadline          => (400, Code::InvalidArgument,   "bad_deadline",           Pointless),
            Self::BadHeaderLength      => (400, Code::InvalidArgument,   "bad_header_length",      Pointless),
            Self::Unauthenticated      => (401, Code::Unauthenticated,   "unauthenticated",        Pointless),
            Self::Forbidden            => (403, Code::PermissionDenied,  "forbidden",              Pointless),
            Self::ModelNotFound        => (404, Code::NotFound,          "model_not_found",        Pointless),
            Self::RouteNotFound        => (404, Code::Unimplemented,     "route_not_found",        Pointless),
            Self::MethodNotAllowed     => (405, Code::Unimplemented,     "method_not_allowed",     Pointless),
            Self::RequestTimeout       => (408, Code::DeadlineExceeded,  "request_timeout",        Pointless),
            Self::BodyTooLarge         => (413, Code::ResourceExhausted, "body_too_large",         Pointless),
            Self::UriTooLong           => (414, Code::InvalidArgument,   "headers_too_large",      Pointless),
            Self::UnsupportedMediaType => (415, Code::Unimplemented,     "unsupported_media_type", Pointless),
            Self::HeadersTooLarge      => (431, Code::ResourceExhausted, "headers_too_large",      Pointless),
            Self::QueueFull            => (429, Code::ResourceExhausted, "queue_full",             After),
            Self::PredictedLate        => (429, Code::ResourceExhausted, "predicted_late",         After),
            Self::ShedPriority         => (429, Code::ResourceExhausted, "shed_priority",          After),
            Self::TenantLimit          => (429, Code::ResourceExhausted, "tenant_limit",           After),
            Self::ClientCancelled      => (499, Code::Cancelled,         "client_cancelled",       Pointless),
            Self::Internal             => (500, Code::Internal,          "internal",               Pointless),
            Self::Unsupported          => (501, Code::Unimplemented,     "unsupported",            Pointless),
            Self::UpstreamReset        => (502, Code::Unavailable,       "upstream_reset",         Never),
            Self::UpstreamBadResponse  => (502, Code::Internal,          "upstream_bad_response",  Never),
            Self::NoReplicas           => (503, Code::Unavailable,       "no_replicas",            After),
            Self::ColdStartTimeout     => (503, Code::Unavailable,       "cold_start_timeout",     After),
            Self::ColdStartFailed      => (503, Code::Unavailable,       "cold_start_failed",      After),
            Self::ScheduledOff         => (503, Code::Unavailable,       "scheduled_off",          After),
            Self::ShuttingDown         => (503, Code::Unavailable,       "shutting_down",          After),
            Self::DeadlineExceeded     => (504, Code::DeadlineExceeded,  "deadline_exceeded",      Never),
        };
        Row { http, grpc, reason, retry }
    }

    pub(crate) fn http_status(self) -> StatusCode {
        StatusCode::from_u16(self.row().http).expect("the table holds valid status codes")
    }
}

/// A failed call: what happened, in a word for machines and a sentence for people.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) situation: Situation,
    sentence: Cow<'static, str>,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
    /// What the model server calls it, for clients that speak its protocol.
    words: Option<Box<Words>>,
}

impl Failure {
    pub(crate) fn new(situation: Situation, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self {
            situation,
            sentence: presentable(sentence.into()),
            retry_after: None,
            allow: None,
            words: None,
        }
    }

    /// A wrong verb; `allow` lists the right ones.
    pub(crate) fn method_not_allowed(allow: &'static str) -> Self {
        let sentence = format!("this method is not allowed here; use {allow}");
        Self { allow: Some(allow), ..Self::new(Situation::MethodNotAllowed, sentence) }
    }

    pub(crate) fn deadline_exceeded(stage: &'static str) -> Self {
        Self::new(Situation::DeadlineExceeded, format!("the deadline passed {stage}"))
    }

    pub(crate) fn internal() -> Self {
        Self::new(Situation::Internal, "the gateway failed to handle this call; its log has the request id")
    }

    pub(crate) fn sentence(&self) -> &str {
        &self.sentence
    }

    fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// How long a client should wait before it tries again; `None` where that is no use.
    fn retry_after(&self) -> Option<Duration> {
        let hinted = self.situation.row().retry == Retry::After;
        hinted.then(|| self.retry_after.unwrap_or(RETRY_AFTER_DEFAULT).min(RETRY_AFTER_MAX))
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        let (situation, wait) = match &rejection {
            Rejection::QueueFull { retry_after, .. } | Rejection::MemoryFull { retry_after } => {
                (Situation::QueueFull, Some(*retry_after))
            }
            Rejection::PredictedLate { wait, .. } => (Situation::PredictedLate, Some(*wait)),
            Rejection::ShedPriority { retry_after } => (Situation::ShedPriority, Some(*retry_after)),
            Rejection::TenantLimit { retry_after } => (Situation::TenantLimit, Some(*retry_after)),
            Rejection::NoReplicas { retry_after } => (Situation::NoReplicas, Some(*retry_after)),
            Rejection::ScheduledOff { retry_after } => (Situation::ScheduledOff, Some(*retry_after)),
            Rejection::ColdStartTimeout { retry_after, .. } => {
                (Situation::ColdStartTimeout, Some(*retry_after))
            }
            Rejection::ColdStartFailed { retry_after } => (Situation::ColdStartFailed, Some(*retry_after)),
            Rejection::ShuttingDown => (Situation::ShuttingDown, None),
        };
        Self { retry_after: wait, ..Self::new(situation, rejection.to_string()) }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Rejected(rejection) => rejection.into(),
            Error::DeadlineExceeded { .. } => Self::new(Situation::DeadlineExceeded, error.to_string()),
            Error::Upstream(error) => error.into(),
            Error::Internal => Self::internal(),
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let situation = match &error {
            CallError::NotSent => Situation::NoReplicas,
            CallError::Reset => Situation::UpstreamReset,
            CallError::Refused { kind, .. } => (*kind).into(),
            CallError::Busy { retry_after } => {
                let busy = Self::new(Situation::QueueFull, error.to_string());
                return busy.after(retry_after.unwrap_or(RETRY_AFTER_DEFAULT));
            }
            CallError::Failed | CallError::BadResponse | CallError::TooLarge { .. } => {
                Situation::UpstreamBadResponse
            }
            CallError::Deadline => Situation::DeadlineExceeded,
        };
        let sentence = error.to_string();
        let words = if let CallError::Refused { words, .. } = error { words } else { None };
        Self { words, ..Self::new(situation, sentence) }
    }
}

impl From<convert::Error> for Failure {
    fn from(error: convert::Error) -> Self {
        let situation = match error.reason() {
            Reason::BadRequest => Situation::BadRequest,
            Reason::BadJson => Situation::BadJson,
            Reason::BadTensor => Situation::BadTensor,
            Reason::BadHeaderLength => Situation::BadHeaderLength,
            Reason::BodyTooLarge => Situation::BodyTooLarge,
            Reason::Unsupported => Situation::Unsupported,
        };
        Self::new(situation, error.to_string())
    }
}

impl From<Refusal> for Situation {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid => Self::BadRequest,
            Refusal::NotFound => Self::ModelNotFound,
            Refusal::TooLarge => Self::BodyTooLarge,
            Refusal::Unsupported => Self::Unsupported,
            Refusal::Unauthenticated => Self::Unauthenticated,
            Refusal::Forbidden => Self::Forbidden,
        }
    }
}

/// Client text inside a sentence: quoted, escaped and cut, so that it forges no log line and fills no screen.
pub(crate) fn quote(text: &str) -> String {
    let mut shown: String = text.chars().take(QUOTE_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

/// One line of at most [`SENTENCE_MAX`] characters without control characters.
fn presentable(sentence: Cow<'static, str>) -> Cow<'static, str> {
    let short = sentence.len() <= SENTENCE_MAX || sentence.chars().count() <= SENTENCE_MAX;
    if short && !sentence.chars().any(char::is_control) {
        return sentence;
    }
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut cut: String = sentence.chars().take(SENTENCE_MAX - 1).map(plain).collect();
    if !short {
        cut.push('…');
    }
    Cow::Owned(cut)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn the_table_is_the_one_that_was_promised() {
        let mut table = String::new();
        for situation in Situation::ALL {
            let Row { http, grpc, reason, retry } = situation.row();
            let grpc = format!("{grpc:?}");
            writeln!(table, "{http} {grpc:<17} {reason:<22} {retry:?}").unwrap();
        }
        insta::assert_snapshot!(table, @r"
        400 InvalidArgument   bad_request            Pointless
        400 InvalidArgument   bad_json               Pointless
        400 InvalidArgument   bad_tensor             Pointless
        400 InvalidArgument   bad_deadline           Pointless
        400 InvalidArgument   bad_header_length      Pointless
        401 Unauthenticated   unauthenticated        Pointless
        403 PermissionDenied  forbidden              Pointless
        404 NotFound          model_not_found        Pointless
        404 Unimplemented     route_not_found        Pointless
        405 Unimplemented     method_not_allowed     Pointless
        408 DeadlineExceeded  request_timeout        Pointless
        413 ResourceExhausted body_too_large         Pointless
        414 InvalidArgument   headers_too_large      Pointless
        415 Unimplemented     unsupported_media_type Pointless
        431 ResourceExhausted headers_too_large      Pointless
        429 ResourceExhausted queue_full             After
        429 ResourceExhausted predicted_late         After
        429 ResourceExhausted shed_priority          After
        429 ResourceExhausted tenant_limit           After
        499 Cancelled         client_cancelled       Pointless
        500 Internal          internal               Pointless
        501 Unimplemented     unsupported            Pointless
        502 Unavailable       upstream_reset         Never
        502 Internal          upstream_bad_response  Never
        503 Unavailable       no_replicas            After
        503 Unavailable       cold_start_timeout     After
        503 Unavailable       cold_start_failed      After
        503 Unavailable       scheduled_off          After
        503 Unavailable       shutting_down          After
        504 DeadlineExceeded  deadline_exceeded      Never
        ");
    }

    #[test]
    fn every_situation_is_listed_at_its_own_place() {
        for (place, situation) in Situation::ALL.into_iter().enumerate() {
            assert_eq!(situation as usize, place);
        }
    }

    #[test]
    fn a_retry_hint_never_exceeds_what_clients_accept() {
        let failure = Failure::from(Rejection::NoReplicas { retry_after: Duration::from_secs(900) });
        assert_eq!(failure.retry_after(), Some(RETRY_AFTER_MAX));
    }

    #[test]
    fn client_text_is_cut_and_cannot_break_a_line() {
        let quoted = quote(&format!("a\nb{}", "x".repeat(100)));
        assert!(quoted.starts_with("\"a\\nb") && quoted.ends_with("x…\""), "{quoted}");
        let failure = Failure::new(Situation::BadRequest, format!("line\r\nbreak {}", "y".repeat(400)));
        assert_eq!(failure.sentence().chars().count(), SENTENCE_MAX);
        assert!(!failure.sentence().contains('\n'));
    }
}
