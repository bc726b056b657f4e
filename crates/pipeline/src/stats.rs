//! What one model's pipeline says of itself: for the autoscaler, the status page and the metrics.

mod chat;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

pub use self::chat::ChatStats;
use crate::{
    board::Seat,
    shared::{Merging, Shared},
};

/// Counters since the start and gauges as of now, of one model in this process.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Requests that asked to be admitted, refused ones included.
    pub arrivals: u64,
    /// Rows of those requests.
    pub arrival_rows: u64,
    /// Service time those requests are predicted to need of a replica, in total.
    pub arrival_work: Duration,
    pub completions: u64,
    pub failures: u64,
    /// Answers later than the SLO, and requests refused or timed out.
    pub slo_misses: u64,
    /// Refusals (queue full, predicted late, …).
    pub shed: u64,
    /// Requests that had to wait for a replica to start.
    pub held_cold: u64,
    pub queued_requests: u64,
    pub queued_rows: u64,
    pub queued_bytes: u64,
    /// Age of the oldest request in the queue.
    pub oldest: Option<Duration>,
    pub in_flight_requests: u64,
    pub in_flight_rows: u64,
    pub replicas: Vec<ReplicaStats>,
    /// The latency model: T(rows) = fixed + per_row · rows, and T95 = T · tail.
    pub latency_fixed: Duration,
    pub latency_per_row: Duration,
    pub latency_tail: f64,
    /// Calls the latency model has learned from.
    pub latency_samples: u64,
    /// Most rows that are sent upstream in one call; 1 where nothing is merged.
    pub max_batch_rows: u32,
    /// Calls one replica may have at a time.
    pub concurrency: u32,
    /// Calls made upstream, and the rows and requests in them.
    pub batches: u64,
    pub batch_rows: u64,
    pub batch_requests: u64,
    /// Answers by duration: counts per bucket, see [`Stats::latency_edge`].
    pub latency_histogram: Vec<u64>,
    /// Of a model that answers in streams of tokens.
    pub chat: Option<ChatStats>,
}

impl Stats {
    /// Buckets of [`Stats::latency_histogram`] per factor of ten, the first one ending at 10 µs.
    pub const LATENCY_EDGES_PER_DECADE: u32 = 20;
    /// Up to 1,000 s.
    pub const LATENCY_BUCKETS: usize = 161;

    /// Upper edge of a bucket of [`Stats::latency_histogram`].
    #[must_use]
    pub fn latency_edge(bucket: usize) -> Duration {
        let decades = bucket as f64 / f64::from(Self::LATENCY_EDGES_PER_DECADE);
        Duration::from_secs_f64(1e-5 * 10f64.powf(decades))
    }

    /// The `q`-quantile (0 to 1) of the answers in `histogram`, the upper edge of its bucket; `None` without answers.
    #[must_use]
    pub fn latency_quantile(histogram: &[u64], q: f64) -> Option<Duration> {
        let total: u64 = histogram.iter().sum();
        let rank = ((total as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = histogram.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        bucket.filter(|_| total > 0).map(Self::latency_edge)
    }

    pub(crate) fn of(shared: &Shared) -> Self {
        let counts = &shared.recorder.counts;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let latency = shared.latency().clone();
        let merging = shared.merging();
        let board = shared.board.load();
        let now = Instant::now();
        let oldest = match read(&shared.queue.oldest) {
            0 => None,
            since => Some(shared.epoch.elapsed().saturating_sub(Duration::from_micros(since - 1))),
        };
        Self {
            arrivals: read(&counts.arrivals),
            arrival_rows: read(&counts.arrival_rows),
            arrival_work: Duration::from_micros(read(&counts.arrival_work_micros)),
            completions: read(&counts.completions),
            failures: read(&counts.failures),
            slo_misses: read(&counts.slo_misses),
            shed: read(&counts.shed),
            held_cold: read(&counts.held_cold),
            queued_requests: read(&shared.waiting.requests),
            queued_rows: read(&shared.queue.rows),
            queued_bytes: read(&shared.queue.bytes),
            oldest,
            in_flight_requests: read(&counts.in_flight_requests),
            in_flight_rows: read(&counts.in_flight_rows),
            replicas: board.seats.iter().map(|seat| ReplicaStats::of(seat, now)).collect(),
            latency_fixed: Duration::from_secs_f64(latency.fixed()),
            latency_per_row: Duration::from_secs_f64(latency.per_row()),
            latency_tail: latency.tail(),
            latency_samples: latency.samples(),
            max_batch_rows: if merging == Merging::On { shared.max_rows() } else { 1 },
            concurrency: board.seats.iter().map(|seat| seat.limit()).max().unwrap_or(shared.limit().get()),
            batches: read(&counts.batches),
            batch_rows: read(&counts.batch_rows),
            batch_requests: read(&counts.batch_requests),
            latency_histogram: counts.latency.counts(),
            chat: shared.chat.as_ref().map(|learned| learned.stats()),
        }
    }
}

/// One replica, as its calls show it.
#[derive(Clone, Debug)]
pub struct ReplicaStats {
    pub id: Arc<str>,
    pub in_flight: u32,
    /// How many times longer its calls take than expected (1: like the others).
    pub slowness: f64,
    pub ejected: bool,
    pub completions: u64,
    pub failures: u64,
}

impl ReplicaStats {
    fn of(seat: &Seat, now: Instant) -> Self {
        Self {
            id: Arc::clone(&seat.replica.id),
            in_flight: seat.in_flight(),
            slowness: seat.slowness(),
            ejected: seat.is_closed(now),
            completions: seat.completions.load(Ordering::Relaxed),
            failures: seat.failures.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::LatencyHistogram;

    #[test]
    fn quantiles_are_read_within_a_bucket_of_the_truth() {
        let histogram = LatencyHistogram::default();
        for ms in 1..=1_000 {
            histogram.record(Duration::from_millis(ms));
        }
        let counts = histogram.counts();
        for (q, truth) in [(0.5, 0.5), (0.99, 0.99), (1.0, 1.0)] {
            let read = Stats::latency_quantile(&counts, q).unwrap().as_secs_f64();
            assert!(read >= truth * 0.999 && read <= truth * 1.13, "q {q}: {read}");
        }
        assert_eq!(Stats::latency_quantile(&[0; 4], 0.5), None);
    }
}
