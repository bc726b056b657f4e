//! Who decides how many replicas there should be: Tidegate's own rules, and what they are compared with.

mod fixed;
mod hpa;
mod keda;
mod kpa;
mod optimum;
mod ours;

use std::{fmt, time::Duration};

use autoscaler::snapshot::Snapshot;

pub(crate) use self::optimum::{Costs, plan};
pub use self::{
    fixed::Fixed,
    hpa::Hpa,
    keda::Keda,
    kpa::{Delay, Kpa},
    optimum::Optimum,
    ours::Ours,
};

/// Decides, each second and at the moments in between that reconcilers are told of.
pub trait Policy: fmt::Debug {
    /// The number of replicas there should be; `None`: as many as are wished for.
    fn decide(&mut self, seen: &Seen<'_>, now: Duration) -> Option<u32>;

    /// Why the last decision was what it was.
    fn words(&self) -> String {
        String::new()
    }

    /// Replicas that should be ready at the beginning, where others would begin with `given`.
    fn initial(&self, given: u32) -> u32 {
        given
    }
}

/// Why a policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A second is over.
    Second,
    /// A request came when no replica was ready.
    Woken,
    /// A replica became ready.
    Fleet,
}

/// What there is to see.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub moment: Moment,
    pub queued: u64,
    pub in_flight: u64,
    /// Requests since the beginning.
    pub arrivals: u64,
    pub ready: u32,
    pub wanted: u32,
    pub snapshot: &'a Snapshot,
}

impl Seen<'_> {
    /// Requests that are in the system.
    pub(crate) fn total(&self) -> u64 {
        self.queued + self.in_flight
    }
}

#[cfg(test)]
pub(crate) fn seen(moment: Moment, total: u64, ready: u32, wanted: u32, snapshot: &Snapshot) -> Seen<'_> {
    Seen { moment, queued: total, in_flight: 0, arrivals: total, ready, wanted, snapshot }
}
