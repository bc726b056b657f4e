//! The pause before the next attempt to call a leader, and what the log says of those that failed.

use std::{fmt, time::Duration};

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// Grows with each attempt in a row that failed.
#[derive(Debug, Default)]
pub(super) struct Pause {
    last: Duration,
    /// The log knows that the leader is not heard.
    noted: bool,
}

impl Pause {
    /// How long to wait now: between half and all of a time that doubles, so that gateways do not come together.
    pub(super) fn next(&mut self) -> Duration {
        self.last = (self.last * 2).clamp(FIRST, LONGEST);
        self.last.mul_f64(rand::random_range(0.5..=1.0))
    }

    pub(super) fn reset(&mut self) {
        self.last = Duration::ZERO;
    }

    pub(super) fn connected(&mut self, leader: &str) {
        self.noted = false;
        tracing::info!(leader, "reports to the leader");
    }

    /// The first attempt that fails is worth a warning.
    pub(super) fn note(&mut self, leader: &str, ended: &dyn fmt::Display) {
        if self.noted {
            tracing::debug!(leader, %ended, "the leader is still not heard");
        } else {
            tracing::warn!(leader, %ended, "the leader is not heard; serving goes on without it");
            self.noted = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_fifty_milliseconds_to_two_seconds_and_begin_anew() {
        let mut pause = Pause::default();
        for whole in [50, 100, 200, 400, 800, 1600, 2000, 2000] {
            let whole = Duration::from_millis(whole);
            let next = pause.next();
            assert!(next >= whole / 2 && next <= whole, "{next:?} of {whole:?}");
        }
        pause.reset();
        assert!(pause.next() <= FIRST);
    }
}
