//! The data path, without I/O.
//!
//! Life of a request: [`admit`] charges memory and checks the deadline → [`queue`] orders by class, tenant and
//! deadline → [`batch`] decides when to flush and which rows → `dispatch`, the one task that owns the queue,
//! sends the batch to a [`replica`] → [`split`] gives rows back to their callers → `respond` sees to exactly
//! one outcome for each.

pub mod admit;
pub mod arrivals;
mod attempt;
pub mod batch;
mod board;
mod budget;
pub mod chat;
mod check;
mod direct;
mod dispatch;
mod error;
mod execute;
mod health;
pub mod latency;
mod limit;
mod metrics;
mod pipeline;
pub mod queue;
pub mod replica;
pub mod request;
mod respond;
mod shared;
pub mod split;
mod stats;
pub mod tensor;
pub mod trace;

pub use error::{CallError, Error, QueueUnit, Refusal, Rejection, Stage, Words};
pub use pipeline::{Batching, Concurrency, Config, Pipeline, QueueLimits};
pub use stats::{ChatStats, ReplicaStats, Stats};
