//! What one replica can take whose answers are streams of tokens: as many at a time as leave each its pace.

use std::time::Duration;

use super::{Basis, Capacity, Learned, SERVICE_LEAST, Unit};
use crate::{policy::Objective, snapshot::ChatModel};

/// Squared coefficient of variation of a stream's length: answers end as if by chance.
const LENGTH_VARIABILITY: f64 = 1.0;

impl Capacity {
    /// By TPOT(b) = α + β·b and S(b) = TTFT + tokens·TPOT(b): b* is the most streams at which the percentile of TPOT
    /// keeps its objective, at most `concurrency`; one stream where none does.
    pub(crate) fn chat(model: &ChatModel, ttft: &Objective, tpot: &Objective, concurrency: u32) -> Self {
        let (streams, kept) = most_streams(model, tpot, concurrency);
        let per_token = model.tpot_fixed.as_secs_f64() + model.tpot_per_stream.as_secs_f64() * streams;
        let tokens = model.output_tokens_milli as f64 / 1000.0;
        let first = model.ttft.as_secs_f64();
        let service = (first + tokens * per_token).max(SERVICE_LEAST);
        // The spread of first tokens is believed to be that of the others.
        let late = Duration::from_secs_f64(first * tail(model, 0.95));
        let learned = Learned {
            rate: streams / service,
            service: Duration::from_secs_f64(service),
            patience: if kept { ttft.target.saturating_sub(late) } else { Duration::ZERO },
            service_variability: LENGTH_VARIABILITY,
            samples: model.samples,
        };
        Self { unit: Unit::Streams, slots: streams, basis: Basis::Learned(learned) }
    }
}

/// The most streams that keep the objective, and whether they do.
fn most_streams(model: &ChatModel, tpot: &Objective, concurrency: u32) -> (f64, bool) {
    let most = f64::from(concurrency.max(1));
    let per_stream = model.tpot_per_stream.as_secs_f64();
    let left = tpot.target.as_secs_f64() / tail(model, tpot.percentile) - model.tpot_fixed.as_secs_f64();
    if per_stream <= 0.0 {
        return if left >= 0.0 { (most, true) } else { (1.0, false) };
    }
    // A ratio that is whole but for rounding is whole.
    let fit = (left / per_stream + 1e-9).floor();
    (fit.clamp(1.0, most), fit >= 1.0)
}

/// The quantile `percentile` of a stream's TPOT as a multiple of the mean, by the 95th.
fn tail(model: &ChatModel, percentile: f64) -> f64 {
    let beyond = f64::from(model.tpot_tail_permille.max(1000)) / 1000.0 - 1.0;
    1.0 + beyond * deviations(percentile) / deviations(0.95)
}

/// Standard deviations between the median of a normal distribution and its quantile `percentile`; 0 below the median
/// (Abramowitz and Stegun 26.2.22, within 0.003).
fn deviations(percentile: f64) -> f64 {
    if percentile <= 0.5 {
        return 0.0;
    }
    let t = (-2.0 * (1.0 - percentile).max(1e-9).ln()).sqrt();
    t - (2.307_53 + 0.270_61 * t) / (1.0 + 0.992_29 * t + 0.044_81 * t * t)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: ChatModel = ChatModel {
        ttft: Duration::from_millis(300),
        tpot_fixed: Duration::from_millis(20),
        tpot_per_stream: Duration::from_millis(2),
        tpot_tail_permille: 1200,
        output_tokens_milli: 250_000,
        samples: 500,
    };
    const TTFT: Objective = Objective { target: Duration::from_secs(2), percentile: 0.99 };
    const TPOT: Objective = Objective { target: Duration::from_millis(60), percentile: 0.95 };

    fn learned(capacity: &Capacity) -> Learned {
        match capacity.basis {
            Basis::Learned(learned) => learned,
            Basis::Assumed => panic!("not learned"),
        }
    }

    #[test]
    fn a_replica_takes_as_many_streams_as_leave_each_its_pace() {
        // 60 ms / 1.2 = 50 ms on average; (50 − 20) / 2 = 15 streams. A stream takes 0.3 s + 250 · 50 ms = 12.8 s, so
        // 15 / 12.8 s = 1.17/s. First tokens come within 0.3 s · 1.2 = 0.36 s, which leaves 1.64 s of 2 s.
        let capacity = Capacity::chat(&MODEL, &TTFT, &TPOT, 64);
        assert_eq!((capacity.unit, capacity.slots), (Unit::Streams, 15.0));
        let learned = learned(&capacity);
        assert_eq!(learned.service.as_millis(), 12_800);
        assert!((learned.rate - 15.0 / 12.8).abs() < 1e-9);
        assert_eq!(learned.patience.as_millis(), 1640);
    }

    #[test]
    fn the_configured_concurrency_and_a_stricter_percentile_take_fewer() {
        assert_eq!(Capacity::chat(&MODEL, &TTFT, &TPOT, 8).slots, 8.0);
        // p99 lies 2.326 deviations out and p95 1.645: 1 + 0.2 · 2.326 / 1.645 = 1.283; (60 / 1.283 − 20) / 2 = 13.4.
        let strict = Objective { percentile: 0.99, ..TPOT };
        assert_eq!(Capacity::chat(&MODEL, &TTFT, &strict, 64).slots, 13.0);
        // The median is the mean: (60 − 20) / 2 = 20.
        let median = Objective { percentile: 0.5, ..TPOT };
        assert_eq!(Capacity::chat(&MODEL, &TTFT, &median, 64).slots, 20.0);
    }

    #[test]
    fn a_pace_that_no_stream_can_keep_leaves_one_and_no_patience() {
        let slow = ChatModel { tpot_fixed: Duration::from_millis(70), ..MODEL };
        let capacity = Capacity::chat(&slow, &TTFT, &TPOT, 64);
        assert_eq!((capacity.slots, learned(&capacity).patience), (1.0, Duration::ZERO));
        let flat = ChatModel { tpot_per_stream: Duration::ZERO, ..slow };
        assert_eq!(Capacity::chat(&flat, &TTFT, &TPOT, 64).slots, 1.0);
        let nothing = Capacity::chat(&ChatModel::default(), &TTFT, &TPOT, 64);
        assert_eq!(nothing.slots, 64.0);
        assert!(learned(&nothing).rate.is_finite());
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (percentile, z) in
            [(0.0, 0.0), (0.5, 0.0), (0.9, 1.2816), (0.95, 1.6449), (0.99, 2.3263), (0.999, 3.0902)]
        {
            assert!((deviations(percentile) - z).abs() < 0.004, "{percentile}: {}", deviations(percentile));
        }
    }
}
