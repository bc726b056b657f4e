//! A Kubernetes API server in memory, for tests: generic over kinds, in JSON, on the runtime's clock, with faults on
//! demand.
//!
//! [`Cluster::service`] is what a client connects to; [`Cluster`] itself is for the test to prepare and to look. It is
//! no validator (schemas and CEL are not checked), and what it stores stays as it is unless a [`workload`] brings it to
//! life.

#![expect(
    clippy::indexing_slicing,
    reason = "members of JSON values: an absent one reads as null, and only maps are written to"
)]

mod accounts;
mod answer;
mod body;
mod clock;
mod cluster;
mod defaults;
mod discovery;
mod events;
mod faults;
mod fields;
mod history;

mod kinds;
mod list;
mod log;
mod object;
mod openapi;
mod patch;
mod refusal;
mod route;
mod rules;
mod scale;
mod selector;
mod server;
mod service;
mod store;
mod watch;
pub mod workload;
mod write;

pub use accounts::{ADMIN, Accounts, Rule};
pub use body::Body;
pub use clock::Clock;
pub use cluster::{Cluster, Options};
pub use faults::{Fault, Faults, Switch};
pub use history::Change;
pub use log::{Call, Calls, Counted, Log};
pub use refusal::Refusal;
pub use route::Verb;
pub use server::Server;
pub use service::ApiService;
