//! How fast rows arrive. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Of rows that may be merged, the last fifth of a second counts.
const WINDOW: Duration = Duration::from_millis(200);

/// An exponentially weighted arrival rate.
#[derive(Debug)]
pub struct Rate {
    window: Duration,
    per_second: f64,
    at: Instant,
}

impl Rate {
    /// Nothing has arrived yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self::over(WINDOW, now)
    }

    /// Nothing has arrived yet, and the past counts less the more of a `window` it is ago.
    #[must_use]
    pub fn over(window: Duration, now: Instant) -> Self {
        Self { window, per_second: 0.0, at: now }
    }

    /// Takes in `rows` rows that arrive at `now`.
    pub fn record(&mut self, rows: u32, now: Instant) {
        self.per_second = self.get(now) + f64::from(rows) / self.window.as_secs_f64();
        self.at = self.at.max(now);
    }

    /// Rows per second as of `now`.
    #[must_use]
    pub fn get(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.per_second * (-elapsed / self.window.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_is_measured_and_forgotten() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        for i in 0..1_000u64 {
            rate.record(2, start + Duration::from_millis(i));
        }
        let now = start + Duration::from_secs(1);
        assert!((rate.get(now) - 2_000.0).abs() < 20.0, "{}", rate.get(now));
        assert!(rate.get(now + Duration::from_secs(2)) < 1.0);
    }
}
