//! What a call of so many rows takes, learned as calls complete: T(rows) = fixed + per_row · rows.
//!
//! Exponentially weighted least squares (forgetting 0.98: about the last 50 calls), corrected per power of two
//! where the line misses by more than a fifth (accelerators answer in steps), with the 95th percentile of what
//! was measured over what was predicted on top.

use std::{collections::VecDeque, time::Duration};

/// Weight of the past after each call.
const FORGETTING: f64 = 0.98;
/// Ratios of measured to predicted that the tail is read from.
const RATIOS: usize = 128;
/// The tail is read again after so many calls; each time while predictions are not acted upon.
const TAIL_EVERY: u64 = 8;
/// Buckets of the stepwise correction: 1, 2-3, 4-7, … 32768 and more rows.
const BUCKETS: usize = 16;
/// A bucket corrects the line once it has this weight and is off by more than [`STEP`].
const BUCKET_WEIGHT: f64 = 5.0;
const STEP: f64 = 0.2;
/// Beyond this multiple of the 95th percentile a call says something of the replica, not of the model.
const OUTLIER: f64 = 5.0;
/// So many outliers in a row are a new normal.
const NEW_NORMAL: u32 = 8;
/// Below this many calls predictions are not acted upon.
const TRUSTED: u64 = 8;

/// The latency model of one model on one class of replicas.
#[derive(Clone, Debug)]
pub struct Latency {
    sums: Sums,
    fixed: f64,
    per_row: f64,
    buckets: [Bucket; BUCKETS],
    ratios: VecDeque<f64>,
    tail: f64,
    samples: u64,
    outliers: u32,
}

/// Decayed sums over calls: weight, rows, rows², seconds, rows · seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    w: f64,
    b: f64,
    bb: f64,
    y: f64,
    by: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    weight: f64,
    /// Weighted mean of measured over the line.
    ratio: f64,
}

/// Whether a measured call belongs to the model or says that its replica is sick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    Normal,
    Outlier,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            sums: Sums::default(),
            fixed: 0.0,
            per_row: 0.0,
            buckets: [Bucket::default(); BUCKETS],
            ratios: VecDeque::with_capacity(RATIOS),
            tail: 1.0,
            samples: 0,
            outliers: 0,
        }
    }
}

impl Latency {
    /// Learns from one call of `rows` rows that took `elapsed` on a replica `slowness` times slower than usual.
    pub fn observe(&mut self, rows: u32, elapsed: Duration, slowness: f64) -> Fit {
        let rows = rows.max(1);
        let seconds = elapsed.as_secs_f64() / slowness.max(0.1);
        if self.trusted() && seconds > OUTLIER * self.seconds(rows) * self.tail {
            self.outliers += 1;
            if self.outliers < NEW_NORMAL {
                return Fit::Outlier;
            }
            *self = Self { samples: self.samples, ..Self::default() };
        }
        self.outliers = 0;
        self.learn_tail(rows, seconds);
        self.learn_line(f64::from(rows), seconds);
        self.learn_step(rows, seconds);
        self.samples += 1;
        Fit::Normal
    }

    /// Expected duration of a call; zero before the first one was seen.
    #[must_use]
    pub fn expected(&self, rows: u32) -> Duration {
        Duration::from_secs_f64(self.seconds(rows.max(1)))
    }

    /// 95th percentile of a call's duration; zero before the first one was seen.
    #[must_use]
    pub fn p95(&self, rows: u32) -> Duration {
        Duration::from_secs_f64(self.seconds(rows.max(1)) * self.tail)
    }

    /// Largest number of rows up to `max` whose 95th percentile fits `slack`; at least 1.
    #[must_use]
    pub fn rows_within(&self, slack: Duration, max: u32) -> u32 {
        let (mut low, mut high) = (1, max.max(1));
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if self.p95(middle) <= slack {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        low
    }

    /// Rows that a call should have at most, up to `max`: as many as keep the SLO, and in any case so many that
    /// four fifths of the time go into rows. With less, a model whose calls take about as long as the SLO would
    /// answer next to nothing under load, and keep no SLO at all.
    #[must_use]
    pub fn rows_per_call(&self, slo: Duration, max: u32) -> u32 {
        let efficient = (4.0 * self.fixed / self.per_row.max(1e-12)).ceil().min(f64::from(max)) as u32;
        self.rows_within(slo, max).max(efficient)
    }

    /// Seconds a call takes whatever its rows (c).
    #[must_use]
    pub fn fixed(&self) -> f64 {
        self.fixed
    }

    /// Seconds each row adds (a).
    #[must_use]
    pub fn per_row(&self) -> f64 {
        self.per_row
    }

    /// 95th percentile of measured over expected, ≥ 1.
    #[must_use]
    pub fn tail(&self) -> f64 {
        self.tail
    }

    /// How different the numbers of rows lately were: their standard deviation over their mean. Near 0 the slope is
    /// the one of earlier.
    #[must_use]
    pub fn spread(&self) -> f64 {
        let s = &self.sums;
        let mean = s.b / s.w;
        if s.w > 0.0 { (s.bb / s.w - mean * mean).max(0.0).sqrt() / mean } else { 0.0 }
    }

    #[must_use]
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Whether enough calls were seen to refuse work on the strength of a prediction.
    #[must_use]
    pub fn trusted(&self) -> bool {
        self.samples >= TRUSTED
    }

    fn seconds(&self, rows: u32) -> f64 {
        let line = self.line(rows);
        match self.buckets.get(bucket_of(rows)) {
            Some(b) if b.weight >= BUCKET_WEIGHT && (b.ratio - 1.0).abs() > STEP => line * b.ratio,
            _ => line,
        }
    }

    fn line(&self, rows: u32) -> f64 {
        self.fixed + self.per_row * f64::from(rows)
    }

    fn learn_tail(&mut self, rows: u32, seconds: f64) {
        let expected = self.seconds(rows);
        if expected <= 0.0 {
            return;
        }
        if self.ratios.len() == RATIOS {
            self.ratios.pop_front();
        }
        self.ratios.push_back(seconds / expected);
        if self.trusted() && !self.samples.is_multiple_of(TAIL_EVERY) {
            return;
        }
        let mut sorted: Vec<f64> = self.ratios.iter().copied().collect();
        let at = (sorted.len() * 95 / 100).min(sorted.len() - 1);
        let (_, q, _) = sorted.select_nth_unstable_by(at, f64::total_cmp);
        self.tail = q.max(1.0);
    }

    fn learn_line(&mut self, b: f64, y: f64) {
        let s = &mut self.sums;
        s.w = s.w * FORGETTING + 1.0;
        s.b = s.b * FORGETTING + b;
        s.bb = s.bb * FORGETTING + b * b;
        s.y = s.y * FORGETTING + y;
        s.by = s.by * FORGETTING + b * y;
        let (mean_b, mean_y) = (s.b / s.w, s.y / s.w);
        let (var, cov) = (s.bb / s.w - mean_b * mean_b, s.by / s.w - mean_b * mean_y);
        // Calls of one size only say nothing of the slope; the last one known is kept then, and pulled at gently
        // otherwise, so that a little noise around one size does not tilt the line.
        let prior = 0.01 * mean_b * mean_b + 1e-9;
        let slope = (cov + prior * self.per_row) / (var + prior);
        self.per_row = slope.clamp(0.0, mean_y / mean_b);
        self.fixed = (mean_y - self.per_row * mean_b).max(0.0);
    }

    fn learn_step(&mut self, rows: u32, seconds: f64) {
        let line = self.line(rows);
        let Some(bucket) = self.buckets.get_mut(bucket_of(rows)).filter(|_| line > 0.0) else { return };
        let weight = bucket.weight * FORGETTING;
        bucket.ratio = (bucket.ratio * weight + seconds / line) / (weight + 1.0);
        bucket.weight = weight + 1.0;
    }
}

fn bucket_of(rows: u32) -> usize {
    (rows.max(1).ilog2() as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: f64) -> Duration {
        Duration::from_secs_f64(ms / 1e3)
    }

    #[test]
    fn learns_a_line_exactly() {
        let mut model = Latency::default();
        for i in 0..400u32 {
            let rows = 1 + i % 16;
            model.observe(rows, ms(8.0 + f64::from(rows)), 1.0);
        }
        assert!((model.fixed() - 8e-3).abs() < 4e-4, "fixed {}", model.fixed());
        assert!((model.per_row() - 1e-3).abs() < 5e-5, "per row {}", model.per_row());
        assert!((model.expected(32).as_secs_f64() - 40e-3).abs() < 2e-3);
        assert!(model.tail() < 1.1);
    }

    #[test]
    fn one_size_only_is_all_fixed_cost() {
        let mut model = Latency::default();
        for _ in 0..50 {
            model.observe(1, ms(10.0), 1.0);
        }
        assert!((model.fixed() - 10e-3).abs() < 1e-6);
        assert!(model.per_row() < 1e-9);
    }

    #[test]
    fn never_predicts_below_zero_and_grows_with_rows() {
        let mut model = Latency::default();
        for i in 0..200u32 {
            let rows = 1 + (i * 7) % 32;
            model.observe(rows, ms(1.0 / f64::from(rows)), 1.0);
        }
        assert!(model.fixed() >= 0.0 && model.per_row() >= 0.0);
    }

    #[test]
    fn steps_are_corrected_where_the_line_misses() {
        let mut model = Latency::default();
        for i in 0..2_000u32 {
            let rows = 1 + i % 16;
            model.observe(rows, ms(if rows < 8 { 5.0 } else { 20.0 }), 1.0);
        }
        let (small, large) = (model.expected(2).as_secs_f64(), model.expected(12).as_secs_f64());
        assert!((small - 5e-3).abs() < 1.5e-3, "small {small}");
        assert!((large - 20e-3).abs() < 4e-3, "large {large}");
    }

    #[test]
    fn an_outlier_is_told_apart_until_it_is_the_new_normal() {
        let mut model = Latency::default();
        for _ in 0..50 {
            model.observe(4, ms(10.0), 1.0);
        }
        assert_eq!(model.observe(4, ms(500.0), 1.0), Fit::Outlier);
        assert!((model.expected(4).as_secs_f64() - 10e-3).abs() < 1e-3);
        for _ in 0..20 {
            model.observe(4, ms(500.0), 1.0);
        }
        assert!((model.expected(4).as_secs_f64() - 0.5).abs() < 1e-2);
    }

    #[test]
    fn the_tail_is_the_95th_percentile_of_the_residuals() {
        let mut model = Latency::default();
        for i in 0..1_000u32 {
            model.observe(1, ms(if i % 10 == 0 { 20.0 } else { 10.0 }), 1.0);
        }
        let p95 = model.p95(1).as_secs_f64();
        assert!((0.018..0.022).contains(&p95), "{p95}");
    }

    #[test]
    fn rows_within_is_the_largest_that_fits() {
        let mut model = Latency::default();
        for i in 0..400u32 {
            let rows = 1 + i % 16;
            model.observe(rows, ms(8.0 + f64::from(rows)), 1.0);
        }
        let rows = model.rows_within(ms(20.0), 64);
        assert!((10..=12).contains(&rows), "{rows}");
        assert_eq!(model.rows_within(Duration::ZERO, 64), 1);
        assert!(
            (28..=36).contains(&model.rows_per_call(Duration::ZERO, 64)),
            "four times 8 ms in rows of 1 ms"
        );
        assert_eq!(model.rows_per_call(ms(1e6), 64), 64);
        assert_eq!(model.rows_within(ms(1e6), 64), 64);
    }
}
