//! What the autoscaler saw at one moment: each gateway's own counts, and the fleet. Whole numbers and durations
//! only, so that a recorded snapshot reads back exactly as it was.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

pub use crate::fleet::Phase;

/// Calls after which a model of what they take is believed.
pub const SAMPLES_NEEDED: u64 = 200;
/// Standard deviations between the mean and the 95th percentile of a normal distribution.
const P95_DEVIATIONS: f64 = 1.645;

/// Everything a decision may look at, besides policy and memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub gateways: Vec<GatewayView>,
    pub fleet: FleetView,
}

/// One gateway, as discovery and its newest report show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatewayView {
    pub name: Arc<str>,
    /// Whether discovery still knows it: a gateway that is gone need not be heard.
    pub listed: bool,
    pub report: Option<Report>,
}

/// What one gateway counts of one model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// When it was taken.
    pub at: Duration,
    pub counters: Counters,
    pub gauges: Gauges,
    pub latency: LatencyModel,
    /// Of a model whose answers are streams of tokens.
    #[serde(default)]
    pub chat: Option<ChatModel>,
    pub replicas: Vec<ReplicaLoad>,
}

/// Counts since the gateway started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Requests that asked to be admitted, refused ones included.
    pub arrivals: u64,
    /// Rows of those requests.
    pub arrival_rows: u64,
    /// Service time those requests are predicted to need.
    pub arrival_work: Duration,
    pub completions: u64,
    /// Answers later than the SLO, and requests refused or timed out.
    pub slo_misses: u64,
    pub shed: u64,
    /// Requests that had to wait for a replica to start.
    pub held_cold: u64,
}

impl Counters {
    /// What was counted since `before`. A counter that fell was reset: its new value is what came.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let reset = self.arrivals < before.arrivals || self.completions < before.completions;
        if reset {
            return *self;
        }
        Self {
            arrivals: self.arrivals.saturating_sub(before.arrivals),
            arrival_rows: self.arrival_rows.saturating_sub(before.arrival_rows),
            arrival_work: self.arrival_work.saturating_sub(before.arrival_work),
            completions: self.completions.saturating_sub(before.completions),
            slo_misses: self.slo_misses.saturating_sub(before.slo_misses),
            shed: self.shed.saturating_sub(before.shed),
            held_cold: self.held_cold.saturating_sub(before.held_cold),
        }
    }
}

/// What is there now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gauges {
    pub queued_requests: u64,
    pub queued_rows: u64,
    /// Age of the oldest request in the queue.
    pub oldest: Option<Duration>,
    /// Requests that run; of a chat model, its streams.
    pub in_flight_requests: u64,
    pub in_flight_rows: u64,
}

/// How long a call takes: T(rows) = fixed + per_row · rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyModel {
    pub fixed: Duration,
    pub per_row: Duration,
    /// The 95th percentile of T in thousandths of T.
    pub tail_permille: u32,
    /// Calls it was learned from.
    pub samples: u64,
    /// Most rows that are sent in one call; 1 (or 0, unknown) where nothing is merged.
    pub max_batch_rows: u32,
    /// Calls one replica may have at a time.
    pub concurrency: u32,
}

/// How long a stream takes on a replica with `b` of them: TTFT + tokens · TPOT(b), TPOT(b) = fixed + per_stream · b.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatModel {
    /// Mean time to the first token at the model server, without the queue.
    pub ttft: Duration,
    pub tpot_fixed: Duration,
    pub tpot_per_stream: Duration,
    /// The 95th percentile of TPOT in thousandths of its mean.
    pub tpot_tail_permille: u32,
    /// Mean tokens of an answer, in thousandths.
    pub output_tokens_milli: u64,
    /// Streams it was learned from.
    pub samples: u64,
}

/// The standard deviation, as a part of the mean, of what has its 95th percentile at so many thousandths of the mean.
#[must_use]
pub fn deviation(tail_permille: u32) -> f64 {
    (f64::from(tail_permille.max(1000)) / 1000.0 - 1.0) / P95_DEVIATIONS
}

impl ChatModel {
    /// What several gateways learned, each weighing as much as it has seen; `None` if none has seen anything.
    pub(crate) fn merged(models: &[Self]) -> Option<Self> {
        let all: f64 = models.iter().map(|model| model.samples as f64).sum();
        if all <= 0.0 {
            return None;
        }
        let mean = |part: fn(&Self) -> f64| -> f64 {
            models.iter().map(|model| part(model) * (model.samples as f64 / all)).sum()
        };
        let span = |part: fn(&Self) -> f64| Duration::from_secs_f64(mean(part));
        Some(Self {
            ttft: span(|model| model.ttft.as_secs_f64()),
            tpot_fixed: span(|model| model.tpot_fixed.as_secs_f64()),
            tpot_per_stream: span(|model| model.tpot_per_stream.as_secs_f64()),
            tpot_tail_permille: mean(|model| f64::from(model.tpot_tail_permille)).round() as u32,
            output_tokens_milli: mean(|model| model.output_tokens_milli as f64).round() as u64,
            samples: models.iter().fold(0, |sum, model| model.samples.saturating_add(sum)),
        })
    }
}

/// Calls of one gateway that are running on one replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaLoad {
    pub id: Arc<str>,
    pub in_flight: u32,
}

/// The replicas, and how many there are meant to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FleetView {
    /// The number last asked for.
    pub wanted: u32,
    pub replicas: Vec<ReplicaView>,
    #[serde(default)]
    pub platform: Platform,
}

/// What the platform says of the number of replicas besides the number; see [`crate::fleet::Target`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Platform {
    /// The number stands outside of this process: others may set it and may have led before, and replicas appear
    /// some time after it was set.
    #[serde(default)]
    pub shared: bool,
    /// Who has set the number to `wanted` since the last look, if it was not us.
    pub changed_by: Option<Arc<str>>,
    /// Another autoscaler of the same object, by kind and name.
    pub rival: Option<Arc<str>>,
    /// Replicas are being exchanged for those of another revision.
    pub rollout: bool,
    /// How long the platform has not been heard; `None`: it is heard.
    pub unheard: Option<Duration>,
    /// Why the number cannot be set at all, in words.
    pub trouble: Option<Arc<str>>,
}

/// One replica; see [`crate::fleet::Replica`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicaView {
    pub id: Arc<str>,
    pub phase: Phase,
    pub created: Duration,
    pub ready_since: Option<Duration>,
    pub restarts: u32,
    pub trouble: Option<Arc<str>>,
}

impl FleetView {
    /// Replicas that are not on their way out.
    pub(crate) fn staying(&self) -> u32 {
        self.replicas.iter().filter(|replica| replica.phase != Phase::Draining).count() as u32
    }
}

impl Snapshot {
    /// The ready replicas in the order in which they should go: least calls in flight first, and of equals the
    /// youngest, whose loss costs the least warm memory.
    #[must_use]
    pub fn victims(&self) -> Vec<Arc<str>> {
        let mut ready: Vec<_> = self.fleet.replicas.iter().filter(|r| r.phase == Phase::Ready).collect();
        ready
            .sort_by_cached_key(|r| (self.in_flight(&r.id), std::cmp::Reverse(r.created), Arc::clone(&r.id)));
        ready.into_iter().map(|r| Arc::clone(&r.id)).collect()
    }

    /// Those of [`victims`](Self::victims) that go if only `to` are wished for: replicas that are not ready go
    /// before them.
    #[must_use]
    pub fn leaving(&self, to: u32) -> Vec<Arc<str>> {
        let mut victims = self.victims();
        let staying = self.fleet.staying() as usize;
        let unready = staying - victims.len();
        victims.truncate(staying.saturating_sub(to as usize).saturating_sub(unready));
        victims
    }

    fn in_flight(&self, replica: &str) -> u64 {
        let reports = self.gateways.iter().filter_map(|g| g.report.as_ref());
        reports.flat_map(|r| &r.replicas).filter(|r| &*r.id == replica).map(|r| u64::from(r.in_flight)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(id: &str, created: u64, phase: Phase) -> ReplicaView {
        ReplicaView {
            id: id.into(),
            phase,
            created: Duration::from_secs(created),
            ready_since: None,
            restarts: 0,
            trouble: None,
        }
    }

    fn gateway(loads: &[(&str, u32)]) -> GatewayView {
        let replicas = loads.iter().map(|(id, n)| ReplicaLoad { id: (*id).into(), in_flight: *n }).collect();
        let report = Some(Report { replicas, ..Report::default() });
        GatewayView { name: "g".into(), listed: true, report }
    }

    #[test]
    fn what_gateways_learned_of_streams_weighs_by_what_they_have_seen() {
        let model = |ms, samples| ChatModel {
            ttft: Duration::from_millis(ms),
            tpot_tail_permille: 1000 + ms as u32,
            output_tokens_milli: ms * 10,
            samples,
            ..ChatModel::default()
        };
        // (100 · 300 + 500 · 100) / 400 = 200.
        let merged = ChatModel::merged(&[model(100, 300), model(500, 100)]).expect("400 samples");
        assert_eq!((merged.ttft.as_millis(), merged.samples), (200, 400));
        assert_eq!((merged.tpot_tail_permille, merged.output_tokens_milli), (1200, 2000));
        assert_eq!(ChatModel::merged(&[model(100, 0)]), None);
        assert_eq!(ChatModel::merged(&[model(9, u64::MAX), model(9, 9)]).map(|m| m.samples), Some(u64::MAX));
    }

    #[test]
    fn victims_are_the_least_busy_over_all_gateways_then_the_youngest() {
        let replicas = vec![
            replica("busy", 1, Phase::Ready),
            replica("old", 2, Phase::Ready),
            replica("young", 3, Phase::Ready),
            replica("starting", 4, Phase::Starting),
            replica("leaving", 5, Phase::Draining),
        ];
        let snapshot = Snapshot {
            gateways: vec![gateway(&[("busy", 1), ("old", 1)]), gateway(&[("busy", 3), ("young", 1)])],
            fleet: FleetView { wanted: 3, replicas, ..FleetView::default() },
        };
        let victims: Vec<_> = snapshot.victims().iter().map(ToString::to_string).collect();
        assert_eq!(victims, ["young", "old", "busy"]);
        let leaving = |to| snapshot.leaving(to).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(leaving(4).is_empty());
        assert!(leaving(3).is_empty(), "the one that starts goes first");
        assert_eq!(leaving(2), ["young"]);
        assert_eq!(leaving(0), ["young", "old", "busy"]);
    }
}
