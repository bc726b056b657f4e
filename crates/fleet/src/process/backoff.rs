//! How long to wait before a replica that ended by itself is started again.

use std::time::Duration;

/// The pauses between restarts of one replica. They double with each crash and lose up to a fifth by chance, so
/// that replicas that fell together do not rise together.
#[derive(Clone, Debug)]
pub struct Restart {
    /// After the first crash. Default 1 s.
    pub pause_min: Duration,
    /// At most. Default 60 s.
    pub pause_max: Duration,
    /// A replica that was ready for this long starts over from `pause_min`. Default 60 s.
    pub forgiven_after: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            pause_min: Duration::from_secs(1),
            pause_max: Duration::from_secs(60),
            forgiven_after: Duration::from_secs(60),
        }
    }
}

#[derive(Debug)]
pub(super) struct Backoff {
    restart: Restart,
    crashes: u32,
}

impl Backoff {
    pub(super) const fn new(restart: Restart) -> Self {
        Self { restart, crashes: 0 }
    }

    /// The pause after a crash that followed `ready_for` of readiness. `chance` is between 0 and 1.
    pub(super) fn pause(&mut self, ready_for: Duration, chance: f64) -> Duration {
        if ready_for >= self.restart.forgiven_after {
            self.crashes = 0;
        }
        let doubled = self.restart.pause_min.saturating_mul(1 << self.crashes.min(16));
        self.crashes += 1;
        doubled.min(self.restart.pause_max).mul_f64(1.0 - chance.clamp(0.0, 1.0) / 5.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::new(Restart::default());
        let pauses: Vec<_> = (0..40).map(|_| backoff.pause(Duration::ZERO, 0.0).as_secs()).collect();
        assert_eq!(pauses[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pauses[39], 60);
    }

    #[test]
    fn a_replica_that_was_ready_for_long_is_forgiven() {
        let mut backoff = Backoff::new(Restart::default());
        for _ in 0..5 {
            backoff.pause(59 * SECOND, 0.0);
        }
        assert_eq!(backoff.pause(59 * SECOND, 0.0), 32 * SECOND);
        assert_eq!(backoff.pause(60 * SECOND, 0.0), SECOND);
        assert_eq!(backoff.pause(Duration::ZERO, 0.0), 2 * SECOND);
    }

    #[test]
    fn chance_shortens_a_pause_by_a_fifth_at_most() {
        let pause = |chance| Backoff::new(Restart::default()).pause(Duration::ZERO, chance);
        assert_eq!(pause(1.0), Duration::from_millis(800));
        assert_eq!(pause(0.5), Duration::from_millis(900));
    }
}
