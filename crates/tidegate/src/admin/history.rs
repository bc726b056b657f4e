//! The last quarter of an hour of one model, a sample each second: what the page draws.

use std::{collections::VecDeque, time::Duration};

use autoscaler::fleet::Phase;
use pipeline::Stats;
use serde::Serialize;

use crate::serve::View;

const SAMPLES: usize = 900;

/// Samples of one model, oldest first.
#[derive(Debug, Default)]
pub(crate) struct History {
    samples: VecDeque<Sample>,
    last: Option<(Duration, Stats)>,
}

/// One second of one model.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// Seconds since the Unix epoch.
    pub(crate) at: f64,
    /// Requests per second that arrived, were answered, and were refused or failed.
    pub(crate) arrivals: f64,
    pub(crate) completions: f64,
    pub(crate) failures: f64,
    /// Seconds; `None` where nothing was answered.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) queued: u64,
    pub(crate) in_flight: u64,
    /// Mean rows of the calls made upstream.
    pub(crate) batch_rows: Option<f64>,
    pub(crate) desired: u32,
    pub(crate) ready: u32,
    pub(crate) starting: u32,
}

impl History {
    /// Adds what happened since the last sample; `stats` are those of the view's pipeline as of now.
    pub(crate) fn sample(&mut self, view: &View, stats: Stats) {
        let now = view.clock.now();
        if let Some((then, before)) = &self.last {
            if self.samples.len() == SAMPLES {
                self.samples.pop_front();
            }
            self.samples.push_back(Sample::between(view, (*then, before), (now, &stats)));
        }
        self.last = Some((now, stats));
    }

    pub(crate) fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter()
    }

    pub(crate) fn latest(&self) -> Option<&Sample> {
        self.samples.back()
    }

    /// Percentiles of the answers of the last `seconds`: the newest sample alone may have seen none.
    pub(crate) fn latest_latency(&self, seconds: usize) -> (Option<f64>, Option<f64>) {
        let recent = || self.samples.iter().rev().take(seconds);
        let highest = |of: fn(&Sample) -> Option<f64>| recent().filter_map(of).max_by(f64::total_cmp);
        (highest(|s| s.p50), highest(|s| s.p99))
    }
}

impl Sample {
    fn between(view: &View, (then, before): (Duration, &Stats), (now, after): (Duration, &Stats)) -> Self {
        let seconds = (now.saturating_sub(then)).as_secs_f64().max(0.1);
        let rate = |after: u64, before: u64| after.saturating_sub(before) as f64 / seconds;
        let answers: Vec<u64> = after
            .latency_histogram
            .iter()
            .zip(&before.latency_histogram)
            .map(|(after, before)| after.saturating_sub(*before))
            .collect();
        let quantile = |q| Stats::latency_quantile(&answers, q).map(|latency| latency.as_secs_f64());
        let batches = after.batches.saturating_sub(before.batches);
        let replicas = view.replicas();
        let count = |phases: &[Phase]| replicas.iter().filter(|r| phases.contains(&r.phase)).count() as u32;
        let ready = count(&[Phase::Ready]);
        let desired = view
            .decision()
            .map(|entry| entry.told().to)
            .or_else(|| view.directive().map(|directive| directive.desired));
        Self {
            at: now.as_secs_f64(),
            arrivals: rate(after.arrivals, before.arrivals),
            completions: rate(after.completions, before.completions),
            failures: rate(after.failures, before.failures),
            p50: quantile(0.5),
            p99: quantile(0.99),
            queued: after.queued_requests,
            in_flight: after.in_flight_requests,
            batch_rows: (batches > 0).then(|| (after.batch_rows - before.batch_rows) as f64 / batches as f64),
            desired: desired.unwrap_or(ready),
            ready,
            starting: count(&[Phase::Pending, Phase::Starting]),
        }
    }
}
