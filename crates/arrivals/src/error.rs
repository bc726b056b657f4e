//! Why a profile, a spacing or a trace cannot be.

use std::{fmt, num::ParseFloatError};

/// What is wrong with a description of arrivals.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("use {0}")]
    Usage(&'static str),
    #[error("{text:?}: use {usage}")]
    Part { text: String, usage: &'static str },
    #[error("{text:?} is not a number")]
    Number { text: String, source: ParseFloatError },
    #[error("{text:?} is not a duration: {source}")]
    Duration { text: String, source: humantime::DurationError },
    #[error("{0} is not a positive number")]
    NotPositive(f64),
    #[error("a phase of no length")]
    EmptyPhase,
    #[error("more than {0} changes of rate")]
    TooManySegments(usize),
    #[error("not a rate or a duration: {0:?}")]
    NotARate([f64; 3]),
    #[error("the rate is zero all the time")]
    Silent,
    #[error(transparent)]
    Trace(#[from] TraceError),
}

/// What is wrong with a trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("the trace is empty")]
    Empty,
    #[error("the {0} of a trace must be above zero")]
    NotPositive(&'static str),
    #[error("line {line}: {problem}")]
    Line { line: usize, problem: LineError },
    #[error("no column of {known:?} in {header:?}")]
    NoTimeColumn { known: &'static [&'static str], header: String },
    #[error("a time is not a finite number")]
    NotFinite,
    #[error("more than {0} arrivals")]
    TooMany(usize),
    #[error("no arrival is left in that part of the trace")]
    NothingLeft,
    #[error("the seconds of the bins do not ascend")]
    NotAscending,
    #[error("a single bin has no width")]
    OneBin,
}

/// What is wrong with one line of a trace.
#[derive(Debug)]
pub enum LineError {
    Json(serde_json::Error),
    /// There is no time in this field.
    NoTime(String),
    NoNumber(String),
    /// There is no number of tokens in this field.
    NoTokens(String),
    /// A bin has at least four fields.
    Fields(usize),
    Family(String),
    NoShape,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => write!(f, "{error}"),
            Self::NoTime(field) => write!(f, "no time in {field:?}"),
            Self::NoNumber(field) => write!(f, "{field:?} is not a number"),
            Self::NoTokens(field) => write!(f, "no number of tokens in {field:?}"),
            Self::Fields(count) => write!(f, "a bin has at least four fields, not {count}"),
            Self::Family(family) => write!(f, "unknown family {family:?}"),
            Self::NoShape => f.write_str("no shape"),
        }
    }
}
