//! The pipeline's metrics: handles made once per model. The names are promised to users.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::{error::Rejection, stats::Stats};

/// Counters read by the autoscaler and the status page, and the same and more for Prometheus.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) counts: Counts,
    model: String,
    queue_wait: Histogram,
    predicted_wait: Histogram,
    batch_rows: Histogram,
    batch_requests: Histogram,
    upstream: Histogram,
    deadline_missed: Counter,
    gauges: Gauges,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) arrivals: AtomicU64,
    pub(crate) arrival_rows: AtomicU64,
    pub(crate) arrival_work_micros: AtomicU64,
    pub(crate) completions: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) slo_misses: AtomicU64,
    pub(crate) shed: AtomicU64,
    pub(crate) held_cold: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) batch_rows: AtomicU64,
    pub(crate) batch_requests: AtomicU64,
    pub(crate) in_flight_requests: AtomicU64,
    pub(crate) in_flight_rows: AtomicU64,
    pub(crate) latency: LatencyHistogram,
}

#[derive(Debug)]
struct Gauges {
    requests: Gauge,
    rows: Gauge,
    bytes: Gauge,
    oldest: Gauge,
    in_flight: Gauge,
    fixed: Gauge,
    per_row: Gauge,
}

impl Recorder {
    pub(crate) fn new(model: &str) -> Self {
        let label = || model.to_owned();
        Self {
            counts: Counts::default(),
            model: label(),
            queue_wait: histogram!("tidegate_queue_wait_seconds", "model" => label()),
            predicted_wait: histogram!("tidegate_predicted_wait_seconds", "model" => label()),
            batch_rows: histogram!("tidegate_batch_rows", "model" => label()),
            batch_requests: histogram!("tidegate_batch_requests", "model" => label()),
            upstream: histogram!("tidegate_upstream_duration_seconds", "model" => label()),
            deadline_missed: counter!("tidegate_deadline_missed_total", "model" => label()),
            gauges: Gauges {
                requests: gauge!("tidegate_queue_requests", "model" => label()),
                rows: gauge!("tidegate_queue_rows", "model" => label()),
                bytes: gauge!("tidegate_queue_bytes", "model" => label()),
                oldest: gauge!("tidegate_queue_oldest_seconds", "model" => label()),
                in_flight: gauge!("tidegate_replica_inflight", "model" => label()),
                fixed: gauge!("tidegate_latency_model_fixed_seconds", "model" => label()),
                per_row: gauge!("tidegate_latency_model_per_row_seconds", "model" => label()),
            },
        }
    }

    pub(crate) fn waited(&self, queue: Duration) {
        self.queue_wait.record(queue);
    }

    pub(crate) fn predicted(&self, wait: Duration) {
        self.predicted_wait.record(wait);
    }

    pub(crate) fn batch(&self, requests: usize, rows: u32) {
        self.counts.batches.fetch_add(1, Ordering::Relaxed);
        self.counts.batch_rows.fetch_add(u64::from(rows), Ordering::Relaxed);
        self.counts.batch_requests.fetch_add(requests as u64, Ordering::Relaxed);
        self.batch_rows.record(rows);
        self.batch_requests.record(requests as f64);
    }

    pub(crate) fn upstream(&self, elapsed: Duration) {
        self.upstream.record(elapsed);
    }

    pub(crate) fn deadline_missed(&self) {
        self.deadline_missed.increment(1);
    }

    pub(crate) fn shed(&self, rejection: &Rejection) {
        self.counts.shed.fetch_add(1, Ordering::Relaxed);
        counter!("tidegate_shed_total", "model" => self.model.clone(), "reason" => rejection.reason())
            .increment(1);
    }

    pub(crate) fn retried(&self, cause: &'static str, result: &'static str) {
        counter!("tidegate_retries_total", "model" => self.model.clone(), "cause" => cause, "result" => result)
            .increment(1);
    }

    pub(crate) fn ejected(&self, reason: &'static str) {
        counter!("tidegate_replica_ejections_total", "model" => self.model.clone(), "reason" => reason)
            .increment(1);
    }

    pub(crate) fn merging_suspended(&self, reason: &'static str) {
        counter!("tidegate_merging_suspended_total", "model" => self.model.clone(), "reason" => reason)
            .increment(1);
    }

    /// The task that owns the queue failed: a bug, after which the model answers nothing any more.
    pub(crate) fn panicked(&self) {
        counter!("tidegate_panics_total").increment(1);
        tracing::error!(model = %self.model, "the dispatch task panicked: this model answers nothing until a restart");
    }

    pub(crate) fn publish(&self, stats: &Stats) {
        self.gauges.requests.set(stats.queued_requests as f64);
        self.gauges.rows.set(stats.queued_rows as f64);
        self.gauges.bytes.set(stats.queued_bytes as f64);
        self.gauges.oldest.set(stats.oldest.unwrap_or_default().as_secs_f64());
        self.gauges.in_flight.set(stats.in_flight_requests as f64);
        self.gauges.fixed.set(stats.latency_fixed.as_secs_f64());
        self.gauges.per_row.set(stats.latency_per_row.as_secs_f64());
    }
}

/// Counts by duration in buckets that grow by 10^(1/20), about 12 %, from 10 µs to 1,000 s: read by difference.
#[derive(Debug)]
pub(crate) struct LatencyHistogram {
    buckets: [AtomicU64; Stats::LATENCY_BUCKETS],
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl LatencyHistogram {
    pub(crate) fn record(&self, elapsed: Duration) {
        let decades = (elapsed.as_secs_f64() / 1e-5).max(1.0).log10();
        let at = (decades * f64::from(Stats::LATENCY_EDGES_PER_DECADE)).ceil() as usize;
        if let Some(bucket) = self.buckets.get(at.min(Stats::LATENCY_BUCKETS - 1)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn counts(&self) -> Vec<u64> {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect()
    }
}
