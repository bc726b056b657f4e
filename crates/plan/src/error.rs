//! Why something cannot be simulated.

/// What is wrong with what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Arrivals(#[from] arrivals::Error),
    #[error("{text:?}: use {usage}")]
    Part { text: String, usage: &'static str },
    #[error("{text:?} is not a duration: {source}")]
    Duration { text: String, source: humantime::DurationError },
    #[error("a replica that takes no time has no capacity")]
    NoTime,
    #[error("more than {0} seeds, or none")]
    Seeds(usize),
    #[error("the load is longer than {0} days")]
    TooLong(u64),
}
