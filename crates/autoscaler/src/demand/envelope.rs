//! Replicas for what arrived of late, had it to be served again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Term, Why, replay};
use crate::{
    capacity::{Basis, Capacity, Learned, Unit},
    signals::Window,
    view::View,
};

/// Requests in the horizon below which its peaks are chance.
const SPARSE: f64 = 30.0;
/// Seconds of the mean that stands in for the peaks where requests are sparse.
const SPARSE_SECONDS: usize = 60;
/// Part of the misses that the SLO allows which may be used up by what came before: the rest is for what did not.
const MISSES_SHARE: f64 = 0.5;
/// Which of the means in flight counts as the peak.
const PEAK: f64 = 0.99;
/// One-sided 95 % of a normal distribution, in standard deviations.
const UPPER: f64 = 1.645;

/// What had to be served of what arrived (or, until a call's duration is known, the peak of what was in flight).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Units per second; units in flight where the measure says so.
    pub peak: f64,
    pub measure: Measure,
    /// How far back it looked.
    pub horizon: Duration,
}

/// How a peak was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// The least even rate of service at which what arrived would have kept the SLO.
    Rate,
    /// Upper 95 % bound of the rate of the last minute: there were fewer than 30 requests.
    SparseRate,
    /// 99th percentile of ten-second means of what is in flight.
    InFlight,
}

/// Looks at `horizon` before `now`. `misses`: the part of the requests that the SLO lets miss it.
pub(crate) fn measure(
    window: &Window,
    capacity: &Capacity,
    misses: f64,
    now: Duration,
    horizon: Duration,
) -> Envelope {
    let seconds = horizon.as_secs() as usize;
    let Basis::Learned(learned) = &capacity.basis else {
        let peak = percentile(window.in_flight_means(capacity.unit, seconds));
        return Envelope { peak, measure: Measure::InFlight, horizon };
    };
    let all = window.total(now, seconds).arrivals;
    if all.requests < SPARSE {
        let units = all.of(capacity.unit) / all.requests.max(1.0);
        let recent = seconds.clamp(1, SPARSE_SECONDS);
        let count = window.total(now, recent).arrivals.requests;
        let bound = if all.requests > 0.0 { poisson_upper(count) } else { 0.0 };
        let peak = bound / recent as f64 * units;
        return Envelope { peak, measure: Measure::SparseRate, horizon };
    }
    Envelope {
        peak: needed(window, capacity.unit, learned, misses, seconds),
        measure: Measure::Rate,
        horizon,
    }
}

/// The least rate of service, per second, that the last `seconds` needed.
fn needed(window: &Window, unit: Unit, learned: &Learned, misses: f64, seconds: usize) -> f64 {
    let arrivals = window.arrivals(unit, seconds);
    replay::needed(&arrivals, learned.patience.as_secs_f64(), misses * MISSES_SHARE)
}

/// The same where it is to be remembered for other days: `None` while what a call takes is not known.
pub(crate) fn to_remember(
    window: &Window,
    capacity: &Capacity,
    misses: f64,
    now: Duration,
    span: Duration,
) -> Option<f64> {
    let Basis::Learned(learned) = &capacity.basis else { return None };
    let seconds = span.as_secs() as usize;
    let all = window.total(now, seconds).arrivals;
    if all.requests < SPARSE {
        return Some(all.of(capacity.unit) / span.as_secs_f64());
    }
    Some(needed(window, capacity.unit, learned, misses, seconds))
}

pub(crate) fn term(view: &View<'_>) -> Term {
    let envelope = view.envelope;
    Term { replicas: view.replicas_for(envelope.peak), why: Why::Envelope(envelope) }
}

/// The value with 99 % of the values at or below it; 0 of nothing.
fn percentile(mut values: Vec<f64>) -> f64 {
    let rank = (PEAK * values.len() as f64).ceil() as usize;
    let Some(index) = rank.checked_sub(1) else { return 0.0 };
    *values.select_nth_unstable_by(index, f64::total_cmp).1
}

/// Mean of the Poisson distribution that gives `count` or less with 5 % (Wilson and Hilferty's approximation).
fn poisson_upper(count: f64) -> f64 {
    let n = count + 1.0;
    n * (1.0 - 1.0 / (9.0 * n) + UPPER / (3.0 * n.sqrt())).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_poisson_bound_is_that_of_the_tables() {
        for (count, bound) in [(0.0, 2.996), (1.0, 4.744), (5.0, 10.513), (10.0, 16.962), (29.0, 39.542)] {
            assert!((poisson_upper(count) - bound).abs() < 0.04, "{count}: {}", poisson_upper(count));
        }
    }

    #[test]
    fn the_peak_ignores_the_highest_hundredth() {
        let mut values = vec![1.0; 600];
        values[..6].fill(50.0);
        assert_eq!(percentile(values.clone()), 1.0);
        values[6] = 40.0;
        assert_eq!(percentile(values), 40.0);
        assert_eq!(percentile(vec![]), 0.0);
        assert_eq!(percentile(vec![3.0]), 3.0);
    }
}
