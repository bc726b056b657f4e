//! What one model's pipeline counts, in the autoscaler's words.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use autoscaler::{
    reconcile::Source,
    snapshot::{ChatModel, Counters, GatewayView, Gauges, LatencyModel, ReplicaLoad, Report},
};
use pipeline::{ChatStats, Pipeline, Stats};

/// What one model's pipeline counts.
#[derive(Clone, Debug)]
pub(super) struct Signals {
    pub(super) pipeline: Pipeline,
    pub(super) asked: Arc<Asked>,
}

/// Somebody wants a replica without having a request in the queue: a client that asks to load the model, or one
/// whose request cannot be read before the model's metadata is known.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Microseconds since the epoch of decisions until which the wish stands; 0: none.
    until: AtomicU64,
}

impl Asked {
    pub(super) fn ask(&self, until: Duration) {
        self.until.fetch_max(until.as_micros() as u64, Ordering::Relaxed);
    }

    fn stands(&self, now: Duration) -> bool {
        Duration::from_micros(self.until.load(Ordering::Relaxed)) > now
    }

    fn fulfilled(&self) {
        self.until.store(0, Ordering::Relaxed);
    }
}

impl Signals {
    /// The counts as of `now`.
    pub(super) fn report(&self, now: Duration) -> Report {
        let stats = self.pipeline.stats();
        if !stats.replicas.is_empty() {
            self.asked.fulfilled();
        }
        let mut report = report(&stats, now);
        if self.asked.stands(now) {
            report.gauges.queued_requests = report.gauges.queued_requests.max(1);
            report.gauges.queued_rows = report.gauges.queued_rows.max(1);
        }
        report
    }

    /// Resolves when a request arrives and no replica is ready.
    pub(super) async fn wake(&self) {
        self.pipeline.wake_wanted().await;
    }
}

/// Signals of a model whose only gateway is this process.
#[derive(Clone, Debug)]
pub(super) struct LocalSource(Signals);

impl LocalSource {
    pub(super) fn new(signals: Signals) -> Self {
        Self(signals)
    }
}

impl Source for LocalSource {
    async fn wake(&self) {
        self.0.wake().await;
    }

    fn gateways(&self, now: Duration) -> Vec<GatewayView> {
        vec![GatewayView { name: "local".into(), listed: true, report: Some(self.0.report(now)) }]
    }
}

fn report(stats: &Stats, at: Duration) -> Report {
    Report {
        at,
        counters: Counters {
            arrivals: stats.arrivals,
            arrival_rows: stats.arrival_rows,
            arrival_work: stats.arrival_work,
            completions: stats.completions,
            slo_misses: stats.slo_misses,
            shed: stats.shed,
            held_cold: stats.held_cold,
        },
        gauges: Gauges {
            queued_requests: stats.queued_requests,
            queued_rows: stats.queued_rows,
            oldest: stats.oldest,
            // Whichever count the pipeline keeps of a stream, it runs until its last token.
            in_flight_requests: stats
                .chat
                .as_ref()
                .map_or(0, |chat| chat.streams)
                .max(stats.in_flight_requests),
            in_flight_rows: stats.in_flight_rows,
        },
        latency: LatencyModel {
            fixed: stats.latency_fixed,
            per_row: stats.latency_per_row,
            tail_permille: (stats.latency_tail * 1e3).round() as u32,
            samples: stats.latency_samples,
            max_batch_rows: stats.max_batch_rows,
            concurrency: stats.concurrency,
        },
        chat: stats.chat.as_ref().map(chat),
        replicas: stats
            .replicas
            .iter()
            .map(|replica| ReplicaLoad { id: Arc::clone(&replica.id), in_flight: replica.in_flight })
            .collect(),
    }
}

fn chat(stats: &ChatStats) -> ChatModel {
    ChatModel {
        ttft: stats.ttft,
        tpot_fixed: stats.tpot_fixed,
        tpot_per_stream: stats.tpot_per_stream,
        tpot_tail_permille: (stats.tpot_tail * 1e3).round() as u32,
        output_tokens_milli: (stats.output_tokens * 1e3).round() as u64,
        samples: stats.samples,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_reported_in_whole_numbers_and_count_as_in_flight() {
        let chat = ChatStats {
            streams: 7,
            ttft: Duration::from_millis(300),
            tpot_tail: 1.25,
            output_tokens: 250.5,
            samples: 400,
            ..ChatStats::default()
        };
        let stats = Stats { in_flight_requests: 2, chat: Some(chat), ..Stats::default() };
        let report = report(&stats, Duration::from_secs(9));
        assert_eq!(report.gauges.in_flight_requests, 7);
        let chat = report.chat.expect("was there");
        assert_eq!((chat.tpot_tail_permille, chat.output_tokens_milli), (1250, 250_500));
        assert_eq!((chat.ttft, chat.samples), (Duration::from_millis(300), 400));
    }
}
