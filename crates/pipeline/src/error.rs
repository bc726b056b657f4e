//! Everything that can go wrong between admission and answer, as closed enums.

use std::time::Duration;

/// A request that was refused before any model server saw it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Rejection {
    #[error("the queue is full: {queued} of {limit} {unit} waiting")]
    QueueFull { queued: u64, limit: u64, unit: QueueUnit, retry_after: Duration },
    #[error("predicted wait of {wait:.1?} is more than the {left:.1?} left before the deadline")]
    PredictedLate { wait: Duration, left: Duration },
    #[error("low-priority work is held back while the model is overloaded")]
    ShedPriority { retry_after: Duration },
    #[error("tenant is over its limit")]
    TenantLimit { retry_after: Duration },
    #[error("the gateway is out of memory for request bodies")]
    MemoryFull { retry_after: Duration },
    #[error("no replica is running and none can be started now")]
    NoReplicas { retry_after: Duration },
    #[error("the model is not served at this hour")]
    ScheduledOff { retry_after: Duration },
    #[error("no replica became ready within {waited:.1?}")]
    ColdStartTimeout { waited: Duration, retry_after: Duration },
    #[error("the model does not start")]
    ColdStartFailed { retry_after: Duration },
    #[error("the gateway is shutting down")]
    ShuttingDown,
}

impl Rejection {
    /// The word for it in metrics and logs.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::QueueFull { .. } | Self::MemoryFull { .. } => "queue_full",
            Self::PredictedLate { .. } => "predicted_late",
            Self::ShedPriority { .. } => "shed_priority",
            Self::TenantLimit { .. } => "tenant_limit",
            Self::NoReplicas { .. } => "no_replicas",
            Self::ScheduledOff { .. } => "scheduled_off",
            Self::ColdStartTimeout { .. } => "cold_start_timeout",
            Self::ColdStartFailed { .. } => "cold_start_failed",
            Self::ShuttingDown => "shutting_down",
        }
    }
}

/// Which bound of a queue was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueUnit {
    Requests,
    Rows,
    Bytes,
}

impl std::fmt::Display for QueueUnit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests",
            Self::Rows => "rows",
            Self::Bytes => "bytes",
        })
    }
}

/// Why a request that was accepted for the pipeline has no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Rejected(#[from] Rejection),
    #[error("deadline exceeded after {waited:.1?} {stage}")]
    DeadlineExceeded { stage: Stage, waited: Duration },
    #[error(transparent)]
    Upstream(#[from] CallError),
    #[error("a task of the gateway failed")]
    Internal,
}

/// Where a request was when its deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Queue,
    Upstream,
}

impl CallError {
    /// The word for it in metrics and logs.
    #[must_use]
    pub const fn cause(&self) -> &'static str {
        match self {
            Self::NotSent => "not_sent",
            Self::Reset => "reset",
            Self::Refused { .. } => "refused",
            Self::Busy { .. } => "busy",
            Self::Failed => "failed",
            Self::BadResponse => "bad_response",
            Self::TooLarge { .. } => "too_large",
            Self::Deadline => "deadline",
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Queue => "in the queue",
            Self::Upstream => "at the model server",
        })
    }
}

/// How one call to a model server failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CallError {
    /// It provably did not run: connect refused, REFUSED_STREAM, above GOAWAY's last id.
    #[error("the model server could not be reached")]
    NotSent,
    /// Broke off after it was sent: it may have run.
    #[error("the model server broke off the call")]
    Reset,
    /// The server says the client is at fault (400, 404, 413, 422, INVALID_ARGUMENT, …). `message` is the server's text.
    #[error("{message}")]
    Refused { kind: Refusal, message: String, words: Option<Box<Words>> },
    /// The server is full (429, 503, RESOURCE_EXHAUSTED, UNAVAILABLE with a status): it did not run.
    #[error("the model server is full")]
    Busy { retry_after: Option<Duration> },
    /// 5xx, INTERNAL, UNKNOWN: the server's own fault; it may have run.
    #[error("the model server failed")]
    Failed,
    /// An answer that cannot be read, or with the wrong number of rows.
    #[error("the model server's answer could not be understood")]
    BadResponse,
    /// The answer is larger than the limit.
    #[error("the model server's answer is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the model server did not answer in time")]
    Deadline,
}

/// What a model server calls a refusal, where its protocol has words for it that clients look for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    pub code: Option<String>,
    /// The kind of the error.
    pub kind: Option<String>,
    /// The member of the request it is about.
    pub param: Option<String>,
}

/// What a model server held against a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Invalid,
    NotFound,
    TooLarge,
    Unsupported,
    Unauthenticated,
    Forbidden,
}
