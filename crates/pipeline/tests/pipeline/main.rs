//! The pipeline as its callers meet it, on a paused clock: model servers are futures that sleep.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod chat;
mod isolation;
mod lifecycle;
mod policy;
mod recovery;
mod server;
mod traces;
