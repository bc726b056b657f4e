//! The whole program as its users run it: `tidegate serve` as a process, clients over loopback, and the bundled
//! model server as replicas.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here fails a test")]

mod bad_input;
mod chat;
mod cli;
mod client;
mod digits;
mod faults;
mod kubernetes;
mod merging;
mod observed;
mod process;
mod record;
mod reload;
mod rig;
mod shutdown;
mod town;
mod traces;
mod upstreams;
mod zero;
