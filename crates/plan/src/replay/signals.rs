//! What a record tells of the world around the decisions: how many requests came when, what became of them, how long
//! calls and starts took, and what the replicas cost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use arrivals::{TraceError, counted::Count, trace::Trace};
use autoscaler::{
    record::Tick,
    snapshot::{ChatModel, Counters, FleetView, LatencyModel, Phase, Report, SAMPLES_NEEDED, deviation},
};
use serde::Serialize;

use crate::{service::Service, start::ColdStart};

/// A pause between ticks beyond which nobody knows how many replicas there were.
const PAUSE: Duration = Duration::from_secs(15);
/// Starts that are kept.
const STARTS_MOST: usize = 1000;
/// Seconds that are kept: more than a year.
const SECONDS_MOST: u64 = 400 * DAY;
const DAY: u64 = 24 * 3600;

/// Why there is no trace of a record.
#[derive(Debug, thiserror::Error)]
pub enum NoTrace {
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error(
        "the record spans {days} days, and a trace has {most} at most: if it begins before the clock was set, take a \
         later part of it"
    )]
    TooLong { days: u64, most: u64 },
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Signals {
    /// The first and the last tick.
    pub begins: Option<Duration>,
    pub ends: Option<Duration>,
    pub requests: u64,
    pub rows: u64,
    /// Requests that missed the SLO of their time, refused ones included.
    pub misses: u64,
    pub refused: u64,
    /// From creation to deletion of all replicas, pending and draining included.
    pub replica_time: Duration,
    /// Times that another number of replicas was meant to be.
    pub changes: u64,
    pub most: u32,
    /// Replicas that were ready at the beginning.
    pub initial: u32,
    /// How long starts took, from the wish to ready.
    pub starts: Vec<Duration>,
    pub latency: Option<LatencyModel>,
    pub chat: Option<ChatModel>,
    /// Requests in each second from the beginning.
    #[serde(skip)]
    seconds: Vec<u32>,
    #[serde(skip)]
    gateways: BTreeMap<Arc<str>, Option<(Duration, Counters)>>,
    /// Replicas whose start was counted.
    #[serde(skip)]
    started: BTreeSet<Arc<str>>,
    #[serde(skip)]
    before: Option<(Duration, FleetView)>,
}

/// What calls were measured to take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    pub service: Service,
    /// Coefficient of variation.
    pub variation: f64,
    /// Calls of one replica at a time; `None` of streams, which are as many as keep their pace.
    pub slots: Option<u32>,
    /// Tokens of an answer, of streams.
    pub answer: Option<u32>,
}

impl Signals {
    /// Takes a tick in; of one that is not `within` what is looked at, only what later ones are compared with.
    pub(super) fn take(&mut self, tick: &Tick, within: bool) {
        if within {
            self.begins.get_or_insert(tick.at);
            self.ends = Some(tick.at);
        }
        for view in &tick.snapshot.gateways {
            let Some(report) = &view.report else { continue };
            self.learn(report);
            // The first word of a gateway tells where its counters stand.
            let before = self.gateways.entry(Arc::clone(&view.name)).or_default();
            let known = before.replace((report.at, report.counters));
            if let Some((at, counters)) = known.filter(|_| within) {
                self.count(at, report.at, &report.counters.since(&counters));
            }
        }
        self.fleet(tick, within);
    }

    /// Makes the next word of every gateway its first one.
    pub(super) fn forget_gateways(&mut self) {
        self.gateways.clear();
        self.before = None;
    }

    /// Between the first and the last tick.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.ends.unwrap_or_default().saturating_sub(self.begins.unwrap_or_default())
    }

    /// The arrivals as a trace whose requests come at random moments of their seconds.
    ///
    /// # Errors
    /// There are no ticks, or more than a year lies between the first and the last.
    pub fn trace(&self) -> Result<Trace, NoTrace> {
        let whole = self.length().as_secs();
        let rest = self.length().subsec_nanos();
        let seconds = whole + u64::from(rest > 0);
        if seconds > SECONDS_MOST {
            return Err(NoTrace::TooLong { days: whole / DAY, most: SECONDS_MOST / DAY });
        }
        let count = |second: u64| {
            let length = if second < whole { 1.0 } else { f64::from(rest) / 1e9 };
            let requests = self.seconds.get(second as usize).copied().unwrap_or(0);
            Count { length, requests }
        };
        Ok(Trace::counted((0..seconds).map(count).collect())?)
    }

    /// What a request was measured to take; `None` where too few were.
    #[must_use]
    pub fn measured(&self) -> Option<Measured> {
        self.chat.map(streamed).or_else(|| self.called())
    }

    fn called(&self) -> Option<Measured> {
        let model = self.latency.filter(|model| model.samples >= SAMPLES_NEEDED)?;
        let rows = if self.requests == 0 { 1.0 } else { (self.rows as f64 / self.requests as f64).max(1.0) };
        let (fixed, per_row) = (micros(model.fixed), micros(model.per_row.mul_f64(rows)));
        let service = if model.max_batch_rows > 1 {
            let most = (f64::from(model.max_batch_rows) / rows).floor().max(1.0) as u32;
            Service::Batch { fixed, per_row, rows: most }
        } else {
            Service::Single { time: fixed + per_row }
        };
        let (variation, slots) = (variation(model.tail_permille), Some(model.concurrency.max(1)));
        Some(Measured { service, variation, slots, answer: None })
            .filter(|measured| measured.service.rate(1, 1.0).is_finite())
    }

    /// The starts that were measured; `None` where none was.
    #[must_use]
    pub fn cold_start(&self) -> Option<ColdStart> {
        (!self.starts.is_empty()).then(|| ColdStart::Measured(self.starts.clone()))
    }

    fn learn(&mut self, report: &Report) {
        let believed = |samples: u64| samples >= SAMPLES_NEEDED;
        let known = self.latency.map_or(0, |known| known.samples);
        if believed(report.latency.samples) || report.latency.samples > known {
            self.latency = Some(report.latency);
        }
        self.chat = report.chat.filter(|chat| believed(chat.samples)).or(self.chat);
    }

    /// Counts what came between two reports.
    fn count(&mut self, from: Duration, to: Duration, came: &Counters) {
        self.requests += came.arrivals;
        self.rows += came.arrival_rows;
        self.misses += came.slo_misses;
        self.refused += came.shed;
        self.spread(from, to.max(from), came.arrivals);
    }

    /// Spreads requests evenly over the seconds between `from` and `to`, whole ones.
    fn spread(&mut self, from: Duration, to: Duration, requests: u64) {
        let begins = self.begins.unwrap_or_default();
        let from = from.saturating_sub(begins);
        let to = to.saturating_sub(begins);
        let span = to.saturating_sub(from).as_secs_f64();
        let (first, last) = (from.as_secs(), to.as_secs().min(SECONDS_MOST));
        let mut given = 0;
        for second in first..=last {
            let end = Duration::from_secs(second + 1).min(to).saturating_sub(from).as_secs_f64();
            let share = if span > 0.0 && second < last { end / span } else { 1.0 };
            let by_then = (requests as f64 * share).round() as u64;
            let here = by_then.saturating_sub(given);
            given = given.max(by_then);
            self.add(second, here);
        }
    }

    fn add(&mut self, second: u64, requests: u64) {
        if requests == 0 {
            return;
        }
        let index = second as usize;
        if self.seconds.len() <= index {
            self.seconds.resize(index + 1, 0);
        }
        if let Some(count) = self.seconds.get_mut(index) {
            *count = count.saturating_add(u32::try_from(requests).unwrap_or(u32::MAX));
        }
    }

    fn fleet(&mut self, tick: &Tick, within: bool) {
        let fleet = &tick.snapshot.fleet;
        if within {
            if self.begins == Some(tick.at) {
                let ready = fleet.replicas.iter().filter(|replica| replica.phase == Phase::Ready);
                self.initial = ready.count() as u32;
            }
            if let Some((at, before)) = &self.before {
                let passed = tick.at.checked_sub(*at).filter(|passed| *passed <= PAUSE).unwrap_or_default();
                self.replica_time += passed * u32::try_from(before.replicas.len()).unwrap_or(u32::MAX);
                self.changes += u64::from(before.wanted != fleet.wanted);
            }
            self.most = self.most.max(fleet.wanted);
        }
        self.starts(fleet);
        self.before = Some((tick.at, fleet.clone()));
    }

    /// After a crash `ready_since` tells of the restart, which is not a start from the wish; and what was ready when it
    /// was first seen may not tell of its start either.
    fn starts(&mut self, fleet: &FleetView) {
        self.started.retain(|id| fleet.replicas.iter().any(|replica| replica.id == *id));
        let fresh = fleet.replicas.iter().filter(|replica| replica.restarts == 0);
        for replica in fresh {
            let Some(ready) = replica.ready_since else { continue };
            let took = micros(ready.saturating_sub(replica.created));
            let is_new = self.started.insert(Arc::clone(&replica.id));
            if is_new && !took.is_zero() && self.starts.len() < STARTS_MOST {
                self.starts.push(took);
            }
        }
    }
}

/// What was learned is not known to the nanosecond.
fn micros(span: Duration) -> Duration {
    Duration::from_micros(u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
}

/// What streams were measured to take. How long first tokens took for each token of their prompts is not on record.
fn streamed(model: ChatModel) -> Measured {
    let service = Service::Chat {
        first: micros(model.ttft),
        prompt: Duration::ZERO,
        token: micros(model.tpot_fixed),
        per_stream: micros(model.tpot_per_stream),
    };
    let answer = (model.output_tokens_milli / 1000).clamp(1, u64::from(u32::MAX)) as u32;
    Measured { service, variation: variation(model.tpot_tail_permille), slots: None, answer: Some(answer) }
}

/// The coefficient of variation, no larger than it can be simulated.
fn variation(tail_permille: u32) -> f64 {
    deviation(tail_permille).min(3.0)
}

#[cfg(test)]
mod tests;
