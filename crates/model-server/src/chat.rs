//! A simulated chat engine: OpenAI's interfaces in front of a model of an engine, with no model behind it.
//!
//! A call goes `calls` (route) → `request` (decode) → `engine` (a slot, prefill, tokens in time) → `wire` (encode)
//! → `stream` (as its time comes) and back. What it says is an echo, and honest about that: the tests, the demo
//! and the comparisons of the gateway need an engine's timing, load and failures, not its wit.

mod answer;
mod args;
mod cache;
mod calls;
mod counts;
mod digest;
mod engine;
mod error;
mod fail;
mod options;
mod prompt;
mod request;
mod simulator;
mod stream;
mod vectors;
mod wire;

pub use args::SimulatorArgs;
pub use counts::Counts;
pub use fail::{Failures, Fault, FaultError, Planned};
pub use options::{Options, OutputTokens, OutputTokensError, Times};
pub use simulator::{BindError, Running, Simulator};
