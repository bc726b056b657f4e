//! The simulator: what would happen to the SLO and to the bill, before anything is trusted with them.
//!
//! A [`load`] arrives in a [`world`] of virtual time, where a [`policy`] decides; what came of it is [`judge`]d, and a
//! [`study`] compares policies over several seeds. Tidegate's own decisions are made by `autoscaler::decide::decide`,
//! the same as in production. Nothing here reads a file or a clock, and the same seed gives the same result.

mod bound;
mod error;
pub mod judge;
pub mod load;
pub mod policy;
pub mod replay;
pub mod report;
pub mod service;
pub mod start;
pub mod study;
pub mod timeline;
pub mod world;

pub use bound::Bound;
pub use error::Error;
