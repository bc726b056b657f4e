//! Every way a call can be refused, and the one table of its HTTP status and gRPC code.

use http::StatusCode;
use tonic::Code;

use crate::engine::InferError;

/// Client text is quoted up to this many characters.
const QUOTE_CHARS_MAX: usize = 64;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the server is still loading its models")]
    Loading,
    #[error("the server is shutting down")]
    Stopping,
    #[error("{limit} calls are in the server already, which is its limit")]
    Full { limit: usize },
    #[error("model {0} not found")]
    ModelNotFound(Quoted),
    #[error("model {model:?} has no version {version}; it has {:?}", crate::engine::VERSION)]
    VersionNotFound { model: String, version: Quoted },
    #[error("no such route: {0}")]
    RouteNotFound(Quoted),
    #[error("this route takes {allow} only")]
    MethodNotAllowed { allow: &'static str },
    #[error("{0} is not offered by this server")]
    Unsupported(&'static str),
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge { limit: usize },
    #[error("the body did not arrive within {seconds} s")]
    BodySlow { seconds: u64 },
    #[error("the body broke off")]
    BodyBroken,
    #[error("content-encoding {0} is not supported: send the body as it is")]
    Encoding(Quoted),
    #[error("header inference-header-content-length is given more than once, or is not text")]
    HeaderLength,
    #[error("{rows} rows are more than the {limit} a call may have")]
    TooManyRows { rows: u64, limit: u32 },
    #[error(transparent)]
    Wire(#[from] convert::Error),
    #[error(transparent)]
    Infer(#[from] InferError),
    #[error("the computation was abandoned")]
    Abandoned,
}

/// Client text in quotes, escaped and cut.
#[derive(Debug)]
pub(crate) struct Quoted(String);

impl Quoted {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.chars().take(QUOTE_CHARS_MAX).collect())
    }
}

impl std::fmt::Display for Quoted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Error {
    pub(crate) fn status(&self) -> (StatusCode, Code) {
        match self {
            Self::Loading | Self::Stopping | Self::Full { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable)
            }
            Self::ModelNotFound(_) | Self::VersionNotFound { .. } => (StatusCode::NOT_FOUND, Code::NotFound),
            Self::RouteNotFound(_) => (StatusCode::NOT_FOUND, Code::Unimplemented),
            Self::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented),
            Self::Unsupported(_) => (StatusCode::NOT_IMPLEMENTED, Code::Unimplemented),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted),
            Self::BodySlow { .. } => (StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded),
            Self::Encoding(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::Unimplemented),
            Self::BodyBroken | Self::HeaderLength | Self::TooManyRows { .. } => {
                (StatusCode::BAD_REQUEST, Code::InvalidArgument)
            }
            Self::Wire(error) | Self::Infer(InferError::Mismatch(error)) => wire_status(error),
            Self::Infer(InferError::Failed(_)) | Self::Abandoned => {
                (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal)
            }
            Self::Infer(_) => (StatusCode::BAD_REQUEST, Code::InvalidArgument),
        }
    }
}

fn wire_status(error: &convert::Error) -> (StatusCode, Code) {
    match error.reason() {
        convert::Reason::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted),
        convert::Reason::Unsupported => (StatusCode::NOT_IMPLEMENTED, Code::Unimplemented),
        _ => (StatusCode::BAD_REQUEST, Code::InvalidArgument),
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        let (_, code) = error.status();
        Self::new(code, error.to_string())
    }
}
