//! What one shard has done, readable from outside while it runs.

use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use tokio::time::Instant;

use crate::{
    call::Finished,
    chat::record::Objective,
    record::{Durations, Moments, Record},
};

/// The record of the whole run, and the counts since the last look. Besides the shard itself only the progress
/// display takes the lock, once a second.
#[derive(Debug)]
pub(crate) struct Meter {
    state: Mutex<State>,
    in_flight: AtomicUsize,
    sent: AtomicU64,
}

#[derive(Debug)]
struct State {
    record: Record,
    interval: Interval,
    last_end: Option<Instant>,
}

/// What happened since the last look.
#[derive(Debug)]
pub(crate) struct Interval {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    /// From the intended time, of good answers.
    pub(crate) latency: Durations,
    pub(crate) lag: Durations,
}

impl Interval {
    pub(crate) fn new() -> Self {
        Self { ok: 0, failed: 0, latency: Durations::new(), lag: Durations::new() }
    }
}

impl Meter {
    pub(crate) fn new(objective: Objective) -> Self {
        let state = State { record: Record::new(objective), interval: Interval::new(), last_end: None };
        Self { state: Mutex::new(state), in_flight: AtomicUsize::new(0), sent: AtomicU64::new(0) }
    }

    /// A request is started; [`Meter::end`] follows.
    pub(crate) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that was begun has ended. It is recorded if it is `measured`, i.e. not part of the warm-up.
    pub(crate) fn end(&self, finished: Finished, moments: Moments, measured: Measured) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.note(finished, moments, measured);
    }

    /// A request has an outcome; also one that was never begun.
    pub(crate) fn note(&self, finished: Finished, moments: Moments, measured: Measured) {
        let mut state = self.lock();
        let interval = &mut state.interval;
        interval.lag.record(moments.started - moments.intended);
        if finished.outcome.is_ok() {
            interval.ok += 1;
            interval.latency.record(moments.ended - moments.intended);
        } else {
            interval.failed += 1;
        }
        state.last_end = state.last_end.max(Some(moments.ended));
        if measured == Measured::Yes {
            state.record.add(finished, moments);
        }
    }

    /// Requests under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Requests begun since the start.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// When the last request ended.
    pub(crate) fn last_end(&self) -> Option<Instant> {
        self.lock().last_end
    }

    /// Adds what happened since the last call to `total`.
    pub(crate) fn drain_interval(&self, total: &mut Interval) {
        let interval = &mut self.lock().interval;
        total.ok += std::mem::take(&mut interval.ok);
        total.failed += std::mem::take(&mut interval.failed);
        total.latency.merge(&interval.latency);
        total.lag.merge(&interval.lag);
        interval.latency.reset();
        interval.lag.reset();
    }

    /// Adds the record of the run so far to `total`.
    pub(crate) fn add_record(&self, total: &mut Record) {
        total.merge(&self.lock().record);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }
}

/// Whether a request counts, or is part of the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measured {
    Yes,
    WarmUp,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::outcome::Outcome;

    #[test]
    fn the_warm_up_is_shown_but_not_recorded() {
        let meter = Meter::new(Objective::default());
        let now = Instant::now();
        let moments = Moments { intended: now, started: now, ended: now + Duration::from_millis(3) };
        for measured in [Measured::WarmUp, Measured::Yes] {
            meter.begin();
            meter.end(Finished::without_answer(Outcome::Ok), moments, measured);
        }
        let (mut interval, mut record) = (Interval::new(), Record::new(Objective::default()));
        meter.drain_interval(&mut interval);
        meter.add_record(&mut record);
        assert_eq!((interval.ok, record.ok()), (2, 1));
        assert_eq!((meter.in_flight(), meter.sent()), (0, 2));

        let mut next = Interval::new();
        meter.drain_interval(&mut next);
        assert_eq!(next.ok, 0, "an interval is drained once");
    }
}
