//! The control path, without I/O: signals → demand → decide → explain.
//!
//! Life of a decision: each second, and at once when a request finds no replica, [`reconcile`] takes a
//! [`snapshot`] of gateways and fleet → [`state`] takes from it what must be remembered (`signals`,
//! `coldstart`, `idle`, `season`) → [`demand`] says how many replicas each reason calls for, by the [`capacity`] of
//! one → [`decide`] applies the rules for going up, down and to zero → [`log`] keeps it → [`explain`] puts it
//! in words.
//!
//! Every time in here is a [`Duration`](std::time::Duration) since one epoch that the caller chooses, so that a
//! decision can be replayed from what was recorded. Nothing here reads a wall clock. Schedules
//! follow calendars: for a policy that has some the epoch is the Unix epoch.

pub mod capacity;
mod coldstart;
pub mod decide;
pub mod demand;
pub mod explain;
pub mod fleet;
mod idle;
pub mod log;
mod manual;
mod metrics;
pub mod observe;
pub mod policy;
pub mod reconcile;
pub mod record;
pub mod schedule;
mod season;
mod signals;
pub mod snapshot;
pub mod state;
mod view;
