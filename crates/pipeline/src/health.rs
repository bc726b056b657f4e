//! How a replica is doing: consecutive failures, ejection with exponential time, slowness. Pure.

use std::time::Duration;

/// Failures in a row that eject.
const FAILURES: u32 = 3;
/// First ejection; doubles each time until a success.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// First pause after a call that did not get through; doubles each time until a success.
const COOL_DOWN: Duration = Duration::from_millis(50);
const LONGEST_COOL_DOWN: Duration = Duration::from_millis(500);
/// Weight of the newest call in the slowness.
const WEIGHT: f64 = 0.1;

/// What a failure means for its replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Eject,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Health {
    consecutive: u32,
    ejections: u32,
    cool_downs: u32,
    slowness: f64,
}

impl Default for Health {
    fn default() -> Self {
        Self { consecutive: 0, ejections: 0, cool_downs: 0, slowness: 1.0 }
    }
}

impl Health {
    pub(crate) fn succeeded(&mut self, elapsed: Duration, expected: Duration) {
        self.consecutive = 0;
        self.ejections = 0;
        self.cool_downs = 0;
        self.paced(elapsed, expected);
    }

    /// A part of a call took `elapsed` where `expected` was predicted.
    pub(crate) fn paced(&mut self, elapsed: Duration, expected: Duration) {
        if !expected.is_zero() {
            let ratio = (elapsed.as_secs_f64() / expected.as_secs_f64()).clamp(0.1, 10.0);
            self.slowness += WEIGHT * (ratio - self.slowness);
        }
    }

    pub(crate) fn failed(&mut self) -> Verdict {
        self.consecutive += 1;
        // On probation one failure is enough.
        if self.consecutive < FAILURES && self.ejections == 0 {
            return Verdict::Keep;
        }
        Verdict::Eject
    }

    /// How long it is ejected now.
    pub(crate) fn eject(&mut self) -> Duration {
        self.consecutive = 0;
        let pause = FIRST.saturating_mul(1 << self.ejections.min(6)).min(LONGEST);
        self.ejections += 1;
        pause
    }

    /// How long it should be left alone after a call that did not get through.
    pub(crate) fn cool_down(&mut self) -> Duration {
        let pause = COOL_DOWN.saturating_mul(1 << self.cool_downs.min(6)).min(LONGEST_COOL_DOWN);
        self.cool_downs += 1;
        pause
    }

    /// How many times longer than expected its calls take, smoothed over about ten.
    pub(crate) fn slowness(&self) -> f64 {
        self.slowness
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Verdict::{Eject, Keep},
        *,
    };

    #[test]
    fn three_failures_in_a_row_eject_for_longer_each_time_until_a_success() {
        let mut health = Health::default();
        assert_eq!([health.failed(), health.failed(), health.failed()], [Keep, Keep, Eject]);
        assert_eq!(health.eject(), FIRST);
        assert_eq!((health.failed(), health.eject()), (Eject, FIRST * 2));
        assert_eq!((health.failed(), health.eject()), (Eject, FIRST * 4));
        health.succeeded(Duration::from_millis(1), Duration::from_millis(1));
        assert_eq!(health.failed(), Keep);
    }

    #[test]
    fn failures_with_successes_between_do_not_eject() {
        let mut health = Health::default();
        for _ in 0..20 {
            assert_eq!(health.failed(), Keep);
            assert_eq!(health.failed(), Keep);
            health.succeeded(Duration::from_millis(1), Duration::from_millis(1));
        }
    }

    #[test]
    fn ejection_never_exceeds_a_minute() {
        let mut health = Health::default();
        assert!((0..100).all(|_| health.eject() <= LONGEST));
    }

    #[test]
    fn cooling_down_takes_longer_each_time_until_a_success_and_never_long() {
        let mut health = Health::default();
        assert_eq!([health.cool_down(), health.cool_down()], [COOL_DOWN, COOL_DOWN * 2]);
        assert!((0..100).all(|_| health.cool_down() <= LONGEST_COOL_DOWN));
        health.succeeded(Duration::from_millis(1), Duration::from_millis(1));
        assert_eq!(health.cool_down(), COOL_DOWN);
    }

    #[test]
    fn a_replica_three_times_slower_is_seen_as_such() {
        let mut health = Health::default();
        for _ in 0..60 {
            health.succeeded(Duration::from_millis(30), Duration::from_millis(10));
        }
        assert!((health.slowness() - 3.0).abs() < 0.1);
    }
}
