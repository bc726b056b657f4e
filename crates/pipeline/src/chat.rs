//! Calls that generate tokens: what is known of one before it is sent, what all of them teach of a model, and
//! the part of a replica that one takes until its last token.
//!
//! They are never merged. A replica has as many at a time as keep the time per output token within its target
//! ([`limit`](self)); the rest waits in the queue, where class, tenant and deadline still mean something.

mod affinity;
mod learned;
pub mod limit;
pub(crate) mod run;
mod shares;
pub(crate) mod yielding;

use std::time::Duration;

use tokio::time::Instant;

pub(crate) use self::{affinity::Table, learned::Learned};
pub use self::{
    learned::Averages,
    run::{Run, Usage},
};

/// How a model that generates tokens is dispatched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// What time to first token is meant to be, from the request's arrival.
    pub ttft: Target,
    /// What time per output token after the first is meant to be.
    pub tpot: Target,
    /// Whether calls that share the start of their prompts go to the same replica while it is not overloaded.
    pub prefix_affinity: bool,
    /// How much busier than the average a replica may be and still be preferred for its prefix; at least 1.
    pub load_factor: f64,
}

/// A latency that `percentile` (in 0..1) of the calls must keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    pub latency: Duration,
    pub percentile: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ttft: Target { latency: Duration::from_secs(2), percentile: 0.99 },
            tpot: Target { latency: Duration::from_millis(100), percentile: 0.95 },
            prefix_affinity: true,
            load_factor: 1.25,
        }
    }
}

/// What is known of a call that generates tokens, besides its body.
#[derive(Clone, Debug)]
pub struct Chat {
    /// Tokens of the prompt, estimated.
    pub prompt_tokens: u32,
    /// The most tokens that the client takes, if it said so.
    pub output_tokens_max: Option<u32>,
    pub affinity: Affinity,
    pub delivery: Delivery,
}

/// Which replica may have the start of the prompt in its memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// The conversation this call belongs to, hashed: it goes where the one before went.
    pub session: Option<u64>,
    /// Hashes of the prompt's first blocks, each of all up to it.
    pub prefix: Vec<u64>,
}

/// How the answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// As one body.
    Whole,
    /// Piece by piece, the first one not later than this.
    Streamed { first_piece_by: Instant },
}

/// What a call leaves to others of the places at a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Courtesy {
    None,
    /// A few of them, for those who may come.
    LeavesRoom,
    /// As many as those others need who are there, lest they notice.
    GivesWay,
}

/// How long a stream may wait for a place where its first token is meant to come within `ttft`, and near certainly comes
/// within `answer` of being sent: what that leaves of the target, and half of the target where the prompt alone needs all
/// of it.
#[must_use]
pub fn patience(ttft: Duration, answer: Duration) -> Duration {
    ttft.saturating_sub(answer).max(ttft / 2)
}

/// Prompt tokens that count as one row where the time to the first token is predicted.
const TOKENS_PER_ROW: u32 = 64;

/// The rows that stand for a prompt of so many tokens where the time to the first token is predicted; at least one.
#[must_use]
pub fn prompt_rows(tokens: u32) -> u32 {
    tokens.div_ceil(TOKENS_PER_ROW).max(1)
}

impl Chat {
    /// The rows that stand for the prompt in the latency model.
    pub(crate) fn prompt_rows(&self) -> u32 {
        prompt_rows(self.prompt_tokens)
    }

    pub(crate) fn is_streamed(&self) -> bool {
        matches!(self.delivery, Delivery::Streamed { .. })
    }
}
