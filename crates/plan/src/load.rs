//! The requests of a simulation: a trace or a made-up day, another for each seed.

use std::sync::Arc;

use arrivals::{
    Schedule,
    office::Office,
    profile::Profile,
    trace::{Replay, Trace},
};

use crate::Error;

/// Longest load that is simulated.
const DAYS_MAX: u64 = 400;

/// What arrives.
#[derive(Clone, Debug)]
pub enum Load {
    /// Replays of a trace; their seeds are those of the simulation.
    Trace(Trace, Replay),
    Office(Office),
    Profile(Arc<Profile>),
}

impl Load {
    /// What arrives with this seed.
    ///
    /// # Errors
    /// Numbers that make no sense, a part of a trace without a request, or more than a year.
    pub fn schedule(&self, seed: u64) -> Result<Schedule, Error> {
        let schedule = match self {
            Self::Trace(trace, replay) => trace.replay(Replay { seed, ..*replay })?,
            Self::Office(office) => Schedule::Profile(Arc::new(office.profile(seed)?)),
            Self::Profile(profile) => Schedule::Profile(Arc::clone(profile)),
        };
        let within = schedule.length().as_secs() < DAYS_MAX * 24 * 3600;
        if within { Ok(schedule) } else { Err(Error::TooLong(DAYS_MAX)) }
    }
}
