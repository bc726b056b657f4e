//! How fast what fails is tried again.

use std::time::Duration;

use rand::Rng as _;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// The longest that we let ourselves be asked to wait.
const ASKED_MAX: Duration = Duration::from_secs(120);

/// The pauses double with each failure, and are up to a quarter longer by chance: those who failed together must
/// not come back together.
#[derive(Debug, Default)]
pub(in crate::kubernetes) struct Pace {
    failures: u32,
}

impl Pace {
    /// The pause after a failure. `asked` is what the API server asked for.
    pub(in crate::kubernetes) fn pause(&mut self, asked: Option<Duration>) -> Duration {
        let doubled = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let least = asked.unwrap_or_default().min(ASKED_MAX);
        doubled.max(least).mul_f64(rand::rng().random_range(1.0..1.25))
    }

    /// The pause before another list, when the last one was good for `good_for`.
    pub(super) fn again(&mut self, good_for: Duration) -> Duration {
        if good_for < LONGEST {
            return self.pause(None);
        }
        self.settle();
        FIRST.mul_f64(rand::rng().random_range(0.0..1.0))
    }

    pub(in crate::kubernetes) fn settle(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(pause: Duration, seconds: f64) -> bool {
        (seconds..seconds * 1.25).contains(&pause.as_secs_f64())
    }

    #[test]
    fn pauses_double_up_to_half_a_minute() {
        let mut pace = Pace::default();
        for seconds in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
            let pause = pace.pause(None);
            assert!(within(pause, seconds), "{pause:?}");
        }
        pace.settle();
        assert!(within(pace.pause(None), 0.5));
    }

    #[test]
    fn the_api_server_can_ask_for_longer_within_reason() {
        let mut pace = Pace::default();
        assert!(within(pace.pause(Some(Duration::from_secs(7))), 7.0));
        assert!(within(pace.pause(Some(Duration::from_secs(9_999))), 120.0));
    }

    #[test]
    fn lists_in_a_row_are_as_rare_as_failures() {
        let mut pace = Pace::default();
        assert!(pace.again(Duration::from_secs(600)) < FIRST);
        for seconds in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0] {
            assert!(within(pace.again(Duration::from_secs(1)), seconds));
        }
    }
}
