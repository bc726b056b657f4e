//! The reasons for replicas. Each term says how many it calls for and keeps the numbers it was reckoned from;
//! the target is the largest.

pub(crate) mod backlog;
pub(crate) mod envelope;
pub(crate) mod occupancy;
mod replay;
pub(crate) mod schedule;
pub(crate) mod season;
pub(crate) mod waiting;
pub(crate) mod warm;

use serde::{Deserialize, Serialize};

pub(crate) use self::backlog::DRAIN_SECONDS;
pub use self::{
    backlog::{Backlog, PerReplica},
    envelope::{Envelope, Measure},
    occupancy::Occupancy,
    season::Season,
    waiting::Waiting,
    warm::Warm,
};
use crate::{schedule::Floor, view::View};

/// One reason for a number of replicas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Term {
    pub replicas: u32,
    pub why: Why,
}

/// The numbers behind a term.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The rate of arrivals, at its recent peaks.
    Envelope(Envelope),
    /// What waits now and is going to wait until a new replica could help.
    Backlog(Backlog),
    /// The streams that run and wait, where answers are streams.
    Occupancy(Occupancy),
    /// Somebody is there.
    Waiting(Waiting),
    /// It is too early to go to zero.
    Warm(Warm),
    /// A schedule has a floor now or soon.
    Schedule(Floor),
    /// Other days needed them at this time.
    Season(Season),
}

impl Why {
    /// Every name a term can have.
    pub const NAMES: [&'static str; 7] =
        ["envelope", "backlog", "occupancy", "waiting", "warm", "schedule", "season"];

    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Envelope(_) => "envelope",
            Self::Backlog(_) => "backlog",
            Self::Occupancy(_) => "occupancy",
            Self::Waiting(_) => "waiting",
            Self::Warm(_) => "warm",
            Self::Schedule(_) => "schedule",
            Self::Season(_) => "season",
        }
    }
}

/// Every term of the moment. At zero the last minutes call for nothing.
pub(crate) fn terms(view: &View<'_>, zero: crate::decide::Zero) -> Vec<Term> {
    let mut terms = Vec::with_capacity(7);
    if view.wanted > 0 {
        terms.push(envelope::term(view));
    }
    terms.extend(occupancy::term(view));
    terms.push(waiting::term(view));
    terms.push(backlog::term(view));
    terms.extend(warm::term(view, zero));
    terms.extend(schedule::term(view));
    terms.extend(season::term(view));
    terms
}

/// The term that calls for most; the first of equals.
#[must_use]
pub fn binding(terms: &[Term]) -> Option<&Term> {
    terms.iter().rev().max_by_key(|term| term.replicas).filter(|term| term.replicas > 0)
}
