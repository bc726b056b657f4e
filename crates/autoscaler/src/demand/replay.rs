//! What the recent past would have needed: its arrivals, second by second, through a queue that is served at an even
//! rate.
//!
//! A peak need not be served as it comes where the SLO leaves time to wait: a burst of 300 requests in one second that
//! may wait for 20 s needs 15 a second, not 300. And a few peaks may be missed where the SLO allows misses. Both follow
//! from the queue itself, so that no window or percentile of rates has to be chosen. Rates between whole seconds are
//! the affair of the Erlang formula.

/// Pieces that the past is looked at in at most: a longer one is taken in pieces of several seconds.
const PIECES_MOST: usize = 600;
/// How closely the rate is found, as a part of it.
const PRECISION: f64 = 0.005;

/// The least rate of service, per second, at which no more than the part `misses` of what came would have waited for
/// longer than `patience` seconds. `arrivals` are those of each second, oldest first; the queue was empty before.
pub(super) fn needed(arrivals: &[f64], patience: f64, misses: f64) -> f64 {
    let seconds = arrivals.len().div_ceil(PIECES_MOST).max(1);
    let pieces: Vec<f64> = arrivals.chunks(seconds).map(|piece| piece.iter().sum()).collect();
    let seconds = seconds as f64;
    let past =
        Past { pieces: &pieces, patience: patience / seconds, misses: misses * pieces.iter().sum::<f64>() };
    past.needed() / seconds
}

/// Arrivals, and what may become of them; time is in pieces.
struct Past<'a> {
    pieces: &'a [f64],
    patience: f64,
    /// Arrivals that may wait for longer than that.
    misses: f64,
}

impl Past<'_> {
    fn needed(&self) -> f64 {
        // At the highest rate of arrivals nobody waits.
        let mut enough = self.pieces.iter().copied().fold(0.0, f64::max);
        let mut too_little = 0.0;
        while enough - too_little > enough * PRECISION {
            let rate = f64::midpoint(enough, too_little);
            if self.is_served(rate) {
                enough = rate;
            } else {
                too_little = rate;
            }
        }
        enough
    }

    fn is_served(&self, rate: f64) -> bool {
        let most = rate * self.patience;
        let (mut queue, mut late) = (0.0, 0.0);
        for came in self.pieces {
            let after = f64::max(queue + came - rate, 0.0);
            late += came * part_above(most, queue, after);
            if late > self.misses {
                return false;
            }
            queue = after;
        }
        true
    }
}

/// The part of a piece of time in which a queue that goes evenly from `before` to `after` is longer than `most`.
fn part_above(most: f64, before: f64, after: f64) -> f64 {
    let (low, high) = if before < after { (before, after) } else { (after, before) };
    if high <= most {
        0.0
    } else if low >= most {
        1.0
    } else {
        (high - most) / (high - low)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, proptest};

    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() <= expected * 0.01, "{found}, not {expected}");
    }

    #[test]
    fn what_comes_evenly_needs_its_rate_and_nothing_needs_nothing() {
        close(needed(&[20.0; 300], 0.1, 0.0), 20.0);
        assert_eq!(needed(&[0.0; 300], 10.0, 0.0), 0.0);
        assert_eq!(needed(&[], 10.0, 0.0), 0.0);
    }

    #[test]
    fn a_burst_needs_what_serves_it_within_the_patience() {
        let mut arrivals = [0.0; 300];
        arrivals[100] = 300.0;
        // 300 come within one second, and the last of them waits until 1 + 20 s after the first came.
        close(needed(&arrivals, 20.0, 0.0), 300.0 / 21.0);
        close(needed(&arrivals, 0.0, 0.0), 300.0);
    }

    #[test]
    fn what_may_be_missed_need_not_be_served_in_time() {
        let mut arrivals = [10.0; 300];
        arrivals[299] = 100.0;
        // The burst is 3.2 % of all.
        close(needed(&arrivals, 0.0, 0.04), 10.0);
        assert!(needed(&arrivals, 0.0, 0.01) > 50.0);
    }

    #[test]
    fn a_step_that_lasts_needs_its_rate_soon() {
        let mut arrivals = [10.0; 300];
        arrivals[240..].fill(20.0);
        let rate = needed(&arrivals, 5.0, 0.025);
        assert!((17.0..20.0).contains(&rate), "{rate}");
    }

    #[test]
    fn a_long_past_is_looked_at_in_longer_pieces_to_the_same_effect() {
        let arrivals: Vec<f64> =
            (0..3600).map(|second| if second % 300 < 60 { 30.0 } else { 10.0 }).collect();
        let short = needed(&arrivals[..600], 8.0, 0.0);
        close(needed(&arrivals, 8.0, 0.0), short);
    }

    proptest! {
        #[test]
        fn more_patience_or_more_misses_never_need_more(
            arrivals in prop::collection::vec(0.0..50.0f64, 1..100),
            patience in 0.0..20.0f64,
            misses in 0.0..0.2f64,
        ) {
            let rate = needed(&arrivals, patience, misses);
            let most = arrivals.iter().copied().fold(0.0, f64::max);
            assert!(rate <= most);
            assert!(needed(&arrivals, patience + 1.0, misses) <= rate * 1.01);
            assert!(needed(&arrivals, patience, misses + 0.05) <= rate * 1.01);
        }
    }
}
