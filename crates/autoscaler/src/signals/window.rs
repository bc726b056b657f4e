//! The recent past in seconds: what arrived in each, and what was in flight.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use crate::capacity::Unit;

/// Seconds over which one arrival rate is taken.
const RATE_SECONDS: usize = 10;
/// The same amount counted in requests and in rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Amount {
    pub(crate) requests: f64,
    pub(crate) rows: f64,
}

impl Amount {
    pub(crate) fn of(self, unit: Unit) -> f64 {
        match unit {
            Unit::Requests | Unit::Streams => self.requests,
            Unit::Rows => self.rows,
        }
    }

    pub(crate) fn add(&mut self, other: Self, share: f64) {
        self.requests += other.requests * share;
        self.rows += other.rows * share;
    }
}

/// What came in over some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Flow {
    pub(crate) arrivals: Amount,
    /// Predicted service time, in seconds.
    pub(crate) work: f64,
    pub(crate) misses: f64,
}

impl Flow {
    fn add(&mut self, other: &Self, share: f64) {
        self.arrivals.add(other.arrivals, share);
        self.work += other.work * share;
        self.misses += other.misses * share;
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Bin {
    flow: Flow,
    in_flight: Amount,
}

/// A ring of one-second bins up to now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Window {
    /// The second of the newest bin.
    end: u64,
    bins: VecDeque<Bin>,
}

impl Window {
    /// Makes `now` the newest second and forgets what is older than `keep`.
    pub(crate) fn advance(&mut self, now: Duration, keep: Duration) {
        let second = now.as_secs();
        if self.bins.is_empty() || second < self.end || second - self.end > keep.as_secs() {
            self.bins.clear();
            self.bins.push_back(Bin::default());
            self.end = second;
        }
        while self.end < second {
            self.bins.push_back(Bin::default());
            self.end += 1;
        }
        while self.bins.len() as u64 > keep.as_secs() + 1 {
            self.bins.pop_front();
        }
    }

    /// Adds what came between `from` and `to`, evenly, so that a late report makes no burst.
    pub(crate) fn spread(&mut self, from: Duration, to: Duration, flow: &Flow) {
        let span = to.saturating_sub(from).as_secs_f64();
        if span <= 0.0 {
            self.add(to.as_secs(), flow, 1.0);
            return;
        }
        let mut at = from.max(Duration::from_secs(self.start()));
        while at < to {
            let next = Duration::from_secs(at.as_secs() + 1).min(to);
            self.add(at.as_secs(), flow, (next - at).as_secs_f64() / span);
            at = next;
        }
    }

    pub(crate) fn set_in_flight(&mut self, in_flight: Amount) {
        if let Some(bin) = self.bins.back_mut() {
            bin.in_flight = in_flight;
        }
    }

    /// What came in the last `seconds` before `now`.
    pub(crate) fn total(&self, now: Duration, seconds: usize) -> Flow {
        let mut total = Flow::default();
        for bin in self.bins.iter().rev().take(seconds) {
            total.add(&bin.flow, 1.0);
        }
        let part = 1.0 - f64::from(now.subsec_nanos()) / 1e9;
        if let Some(oldest) = self.bins.iter().rev().nth(seconds) {
            total.add(&oldest.flow, part);
        }
        total
    }

    /// Mean of what was in flight in the last ten seconds.
    pub(crate) fn in_flight(&self) -> Amount {
        let mut sum = Amount::default();
        let newest = self.bins.iter().rev().take(RATE_SECONDS);
        let share = 1.0 / newest.len().max(1) as f64;
        newest.for_each(|bin| sum.add(bin.in_flight, share));
        sum
    }

    /// What was in flight in each of the last `seconds`, as means over ten.
    pub(crate) fn in_flight_means(&self, unit: Unit, seconds: usize) -> Vec<f64> {
        sliding(&self.series(seconds, |bin| bin.in_flight.of(unit)), seconds)
    }

    /// What arrived in each complete second of the last `seconds`, oldest first.
    pub(crate) fn arrivals(&self, unit: Unit, seconds: usize) -> Vec<f64> {
        let complete = self.bins.len().saturating_sub(1);
        let skip = complete.saturating_sub(seconds);
        self.bins.iter().take(complete).skip(skip).map(|bin| bin.flow.arrivals.of(unit)).collect()
    }

    /// The mean arrival rate of the last `seconds`, per second, or of as many as are known.
    pub(crate) fn mean_rate(&self, unit: Unit, now: Duration, seconds: usize) -> f64 {
        let seconds = seconds.min(self.bins.len().saturating_sub(1)).max(1);
        self.total(now, seconds).arrivals.of(unit) / seconds as f64
    }

    /// The arrival rate of the last ten seconds, per second.
    pub(crate) fn rate(&self, unit: Unit, now: Duration) -> f64 {
        self.total(now, RATE_SECONDS).arrivals.of(unit) / RATE_SECONDS as f64
    }

    /// The complete seconds of the last `seconds`, and the ten before them, oldest first.
    fn series(&self, seconds: usize, value: impl Fn(&Bin) -> f64) -> Vec<f64> {
        let skip = self.bins.len().saturating_sub(seconds + RATE_SECONDS);
        let complete = self.bins.len().saturating_sub(1);
        self.bins.iter().take(complete).skip(skip).map(value).collect()
    }

    fn start(&self) -> u64 {
        (self.end + 1).saturating_sub(self.bins.len() as u64)
    }

    fn add(&mut self, second: u64, flow: &Flow, share: f64) {
        let Some(back) = self.end.checked_sub(second) else { return };
        if let Some(bin) = self.bins.iter_mut().nth_back(back as usize) {
            bin.flow.add(flow, share);
        }
    }
}

/// Means over ten seconds ending at each of the last `seconds` of the series.
fn sliding(series: &[f64], seconds: usize) -> Vec<f64> {
    let mut leaving = series.iter();
    let mut sum = 0.0;
    let means = series.iter().enumerate().map(|(i, entering)| {
        sum += entering;
        if i >= RATE_SECONDS {
            sum -= leaving.next().copied().unwrap_or(0.0);
        }
        f64::max(sum, 0.0) / RATE_SECONDS as f64
    });
    let skip = series.len().saturating_sub(seconds);
    means.skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(600);

    fn requests(n: f64) -> Flow {
        Flow { arrivals: Amount { requests: n, rows: n }, ..Flow::default() }
    }

    fn filled(counts: &[f64]) -> (Window, Duration) {
        let mut window = Window::default();
        let mut now = Duration::ZERO;
        window.advance(now, KEEP);
        for n in counts {
            let next = now + Duration::from_secs(1);
            window.advance(next, KEEP);
            window.spread(now, next, &requests(*n));
            now = next;
        }
        (window, now)
    }

    #[test]
    fn a_late_report_is_spread_over_the_time_it_covers() {
        let mut window = Window::default();
        window.advance(Duration::from_secs(10), KEEP);
        window.spread(Duration::from_secs(5), Duration::from_secs(10), &requests(50.0));
        // Half of the time lies before the window began, and is not known.
        assert_eq!(window.rate(Unit::Requests, Duration::from_secs(10)), 0.0);
        let (mut window, _) = filled(&[0.0; 20]);
        window.advance(Duration::from_millis(25_500), KEEP);
        window.spread(Duration::from_secs(20), Duration::from_millis(25_500), &requests(55.0));
        assert!((window.rate(Unit::Requests, Duration::from_millis(25_500)) - 5.5).abs() < 1e-9);
        assert!((window.total(Duration::from_millis(25_500), 2).arrivals.requests - 20.0).abs() < 1e-9);
    }

    #[test]
    fn the_rate_is_exact_between_whole_seconds_too() {
        let (mut window, now) = filled(&[7.0; 30]);
        let later = now + Duration::from_millis(400);
        window.advance(later, KEEP);
        window.spread(now, later, &requests(2.8));
        assert!((window.rate(Unit::Requests, later) - 7.0).abs() < 1e-9);
    }

    #[test]
    fn old_seconds_are_forgotten_and_a_long_silence_empties_the_window() {
        let (mut window, now) = filled(&[1.0; 900]);
        assert_eq!(window.bins.len(), 601);
        window.advance(now + Duration::from_secs(601), KEEP);
        assert_eq!(window.bins.len(), 1);
        window.advance(Duration::from_secs(3), KEEP);
        assert_eq!((window.bins.len(), window.end), (1, 3), "a clock that went back starts afresh");
    }

    #[test]
    fn arrivals_are_told_by_the_second_and_stop_at_the_horizon() {
        let counts: Vec<f64> = (0..100).map(f64::from).collect();
        let (window, now) = filled(&counts);
        assert_eq!(window.arrivals(Unit::Requests, 3), [97.0, 98.0, 99.0]);
        assert_eq!(window.arrivals(Unit::Requests, 600).len(), 100);
        assert!((window.mean_rate(Unit::Requests, now, 20) - 89.5).abs() < 1e-9);
        assert!((window.mean_rate(Unit::Requests, now, 600) - 49.5).abs() < 1e-9);
    }

    #[test]
    fn means_in_flight_slide_by_a_second_and_stop_at_the_horizon() {
        let mut window = Window::default();
        for second in 0..=100u32 {
            window.advance(Duration::from_secs(u64::from(second)), KEEP);
            let n = if second < 50 { 10.0 } else { 30.0 };
            window.set_in_flight(Amount { requests: n, rows: n });
        }
        let means = window.in_flight_means(Unit::Requests, 60);
        assert_eq!(means.len(), 60);
        assert!((means[0] - 10.0).abs() < 1e-9 && (means[59] - 30.0).abs() < 1e-9, "{means:?}");
        assert!(means.windows(2).all(|pair| pair[1] >= pair[0] - 1e-9), "{means:?}");
    }
}
