//! What is kept of finished requests: histograms and counts, mergeable across threads.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::{
    call::Finished,
    chat::record::{ChatRecord, Objective},
    outcome::Outcome,
};

/// Latencies above are recorded as this.
const LATENCY_MAX: Duration = Duration::from_secs(3600);

/// Different outcomes told apart; their reasons are the server's words.
const OUTCOMES_MAX: usize = 64;

/// Durations in microseconds, to three digits.
#[derive(Clone, Debug)]
pub(crate) struct Durations(Histogram<u64>);

impl Durations {
    pub(crate) fn new() -> Self {
        let micros = u64::try_from(LATENCY_MAX.as_micros()).expect("an hour in microseconds");
        Self(Histogram::new_with_bounds(1, micros, 3).expect("the bounds are valid"))
    }

    pub(crate) fn record(&mut self, duration: Duration) {
        self.0.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    pub(crate) fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(quantile))
    }

    pub(crate) fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }

    pub(crate) fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.0.mean() / 1e6)
    }

    pub(crate) fn reset(&mut self) {
        self.0.reset();
    }
}

/// When one request was meant to be sent, was sent, and ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moments {
    pub(crate) intended: Instant,
    pub(crate) started: Instant,
    pub(crate) ended: Instant,
}

/// The record of one shard.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// From the intended time, of good answers.
    pub(crate) latency: Durations,
    /// From the actual start, of good answers.
    pub(crate) service: Durations,
    /// From the intended time to the actual start, of all requests.
    pub(crate) lag: Durations,
    /// Latency from the intended time by outcome.
    pub(crate) outcomes: BTreeMap<Outcome, Durations>,
    /// Outcomes that found no room of their own.
    pub(crate) outcomes_other: u64,
    /// Good answers within the objective.
    pub(crate) within_slo: u64,
    pub(crate) response_bytes: u64,
    /// Answers that say how many rows their batch had, and the sum of these.
    pub(crate) batches: u64,
    pub(crate) batch_rows: u64,
    pub(crate) cold_starts: u64,
    pub(crate) chat: ChatRecord,
    objective: Objective,
}

impl Record {
    /// Good answers that do not meet `objective` do not count as goodput.
    pub(crate) fn new(objective: Objective) -> Self {
        Self {
            latency: Durations::new(),
            service: Durations::new(),
            lag: Durations::new(),
            outcomes: BTreeMap::new(),
            outcomes_other: 0,
            within_slo: 0,
            response_bytes: 0,
            batches: 0,
            batch_rows: 0,
            cold_starts: 0,
            chat: ChatRecord::new(),
            objective,
        }
    }

    pub(crate) fn add(&mut self, finished: Finished, moments: Moments) {
        let latency = moments.ended - moments.intended;
        self.lag.record(moments.started - moments.intended);
        self.response_bytes += finished.bytes;
        self.cold_starts += u64::from(finished.cold_start);
        if let Some(rows) = finished.batch_rows {
            self.batches += 1;
            self.batch_rows += u64::from(rows);
        }
        if finished.outcome.is_ok() {
            self.latency.record(latency);
            self.service.record(moments.ended - moments.started);
            let reply = finished.reply.as_deref();
            self.within_slo += u64::from(self.objective.is_met(latency, reply, moments));
            if let Some(reply) = reply {
                self.chat.add(reply, moments);
            }
        }
        self.tally(finished.outcome, |durations| durations.record(latency), 1);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.latency.merge(&other.latency);
        self.service.merge(&other.service);
        self.lag.merge(&other.lag);
        self.within_slo += other.within_slo;
        self.response_bytes += other.response_bytes;
        self.batches += other.batches;
        self.batch_rows += other.batch_rows;
        self.cold_starts += other.cold_starts;
        self.chat.merge(&other.chat);
        self.outcomes_other += other.outcomes_other;
        for (outcome, durations) in &other.outcomes {
            self.tally(outcome.clone(), |mine| mine.merge(durations), durations.count());
        }
    }

    /// Requests finished.
    pub(crate) fn count(&self) -> u64 {
        self.outcomes.values().map(Durations::count).sum::<u64>() + self.outcomes_other
    }

    /// Good answers.
    pub(crate) fn ok(&self) -> u64 {
        self.latency.count()
    }

    fn tally(&mut self, outcome: Outcome, add: impl FnOnce(&mut Durations), requests: u64) {
        if self.outcomes.len() >= OUTCOMES_MAX && !self.outcomes.contains_key(&outcome) {
            self.outcomes_other += requests;
            return;
        }
        add(self.outcomes.entry(outcome).or_insert_with(Durations::new));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(lag: u64, service: u64) -> Moments {
        let intended = Instant::now();
        let started = intended + Duration::from_millis(lag);
        Moments { intended, started, ended: started + Duration::from_millis(service) }
    }

    fn finished(outcome: Outcome) -> Finished {
        Finished { bytes: 10, batch_rows: Some(4), ..Finished::without_answer(outcome) }
    }

    #[test]
    fn latency_counts_from_the_intended_time_and_service_from_the_start() {
        let mut record =
            Record::new(Objective { latency: Some(Duration::from_millis(100)), ..Objective::default() });
        record.add(finished(Outcome::Ok), moments(50, 20));
        record.add(finished(Outcome::Ok), moments(90, 20));
        assert_eq!(record.latency.max().as_millis(), 110);
        assert_eq!(record.service.max().as_millis(), 20);
        assert_eq!(record.lag.max().as_millis(), 90);
        assert_eq!((record.ok(), record.within_slo), (2, 1), "the second was answered after the objective");
    }

    #[test]
    fn failures_are_counted_by_outcome_and_stay_out_of_the_latency() {
        let refused = Outcome::Http { status: 429, reason: Some("queue_full".into()) };
        let mut one = Record::new(Objective::default());
        one.add(finished(Outcome::Ok), moments(0, 5));
        let mut other = Record::new(Objective::default());
        other.add(finished(refused.clone()), moments(0, 1));
        other.add(finished(refused.clone()), moments(0, 1));
        one.merge(&other);
        assert_eq!((one.count(), one.ok()), (3, 1));
        assert_eq!(one.outcomes[&refused].count(), 2);
        assert_eq!(one.latency.max().as_millis(), 5);
        assert_eq!((one.batches, one.batch_rows, one.response_bytes), (3, 12, 30));
    }

    #[test]
    fn a_server_that_invents_reasons_does_not_grow_the_record() {
        let mut record = Record::new(Objective::default());
        for n in 0..1000 {
            let reason = Some(format!("r{n}").into());
            record.add(finished(Outcome::Http { status: 500, reason }), moments(0, 1));
        }
        assert_eq!(record.outcomes.len(), OUTCOMES_MAX);
        assert_eq!(record.count(), 1000);
    }
}
