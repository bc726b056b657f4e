//! How often calls may be repeated: one in ten, and three a second besides. Pure.

use std::time::Duration;

use tokio::time::Instant;

const PER_CALL: f64 = 0.1;
const PER_SECOND: f64 = 3.0;
/// Credit is kept for this long.
const WINDOW: Duration = Duration::from_secs(10);

/// Credit for repeats, earned by calls and by time, capped at what ten seconds of the present load earn.
#[derive(Debug)]
pub(crate) struct Budget {
    credit: f64,
    /// Calls per second, smoothed over the window.
    rate: f64,
    at: Instant,
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Self {
        Self { credit: PER_SECOND * WINDOW.as_secs_f64(), rate: 0.0, at: now }
    }

    /// Counts a first attempt.
    pub(crate) fn deposit(&mut self, now: Instant) {
        self.advance(now);
        self.rate += 1.0 / WINDOW.as_secs_f64();
        self.credit += PER_CALL;
    }

    /// Takes credit for one repeat, if there is some.
    pub(crate) fn withdraw(&mut self, now: Instant) -> bool {
        self.advance(now);
        let may = self.credit >= 1.0;
        if may {
            self.credit -= 1.0;
        }
        may
    }

    fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.rate *= (-elapsed / WINDOW.as_secs_f64()).exp();
        let cap = (PER_SECOND + PER_CALL * self.rate) * WINDOW.as_secs_f64();
        self.credit = (self.credit + PER_SECOND * elapsed).min(cap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_stay_within_a_tenth_of_the_calls_and_three_a_second() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut repeats = 0;
        for i in 0..60_000u64 {
            let now = start + Duration::from_millis(i);
            budget.deposit(now);
            repeats += u32::from(budget.withdraw(now));
        }
        let most = 6_000.0 + 3.0 * 60.0 + 31.0;
        assert!(f64::from(repeats) <= most && repeats > 5_000, "{repeats}");
    }

    #[test]
    fn an_idle_model_may_repeat_thirty_calls_at_once_and_no_more() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        assert_eq!((0..100).filter(|_| budget.withdraw(now)).count(), 30);
    }
}
