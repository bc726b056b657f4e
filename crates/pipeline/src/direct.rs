//! The fast path: one request, one call, on the caller's own task.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use crate::{
    attempt::{Past, Size, attempt, repeats},
    board::Slot,
    error::{CallError, Error, Stage},
    replica::Call,
    request::{Answer, Request, Timings},
    shared::Shared,
};

/// How a direct call ended.
#[derive(Debug)]
pub(crate) enum Done {
    Outcome(Result<Answer, Error>),
    /// It failed in a way that another replica may mend.
    TryElsewhere {
        request: Box<Request>,
        past: Past,
    },
}

pub(crate) async fn call(shared: &Shared, slot: Slot, request: Request, rows: u32, started: Instant) -> Done {
    let call = Call {
        payload: request.payload.clone(),
        deadline: request.answer_by(),
        ends: request.deadline,
        trace: request.trace.clone(),
        requests: 1,
        traced: Vec::from_iter(request.traced.clone()),
    };
    shared.budget().deposit(started);
    shared.recorder.batch(1, rows);
    let leaving = InFlight::enter(shared, rows);
    let result = attempt(shared, &slot, call, Size::of(&request, rows)).await;
    drop(leaving);
    let upstream = started.elapsed();
    match result {
        Ok(reply) => {
            let timings = Timings { upstream, batch_rows: rows, ..Timings::default() };
            let slot = request.chat.is_some().then_some(slot);
            Done::Outcome(Ok(Answer { slot, ..Answer::new(reply, timings) }))
        }
        Err(CallError::Deadline) => {
            Done::Outcome(Err(Error::DeadlineExceeded { stage: Stage::Upstream, waited: upstream }))
        }
        Err(error) if repeats(shared, &error, [Past::default().attempts].into_iter()) => {
            let past = Past::default().and(&slot.seat, &error);
            Done::TryElsewhere { request: Box::new(request), past }
        }
        Err(error) => Done::Outcome(Err(Error::Upstream(error))),
    }
}

/// Counts a call among those in flight until it is dropped.
pub(crate) struct InFlight<'a> {
    shared: &'a Shared,
    requests: u64,
    rows: u64,
}

impl<'a> InFlight<'a> {
    fn enter(shared: &'a Shared, rows: u32) -> Self {
        Self::enter_all(shared, 1, u64::from(rows))
    }

    pub(crate) fn enter_all(shared: &'a Shared, requests: u64, rows: u64) -> Self {
        let counts = &shared.recorder.counts;
        counts.in_flight_requests.fetch_add(requests, Ordering::Relaxed);
        counts.in_flight_rows.fetch_add(rows, Ordering::Relaxed);
        Self { shared, requests, rows }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let counts = &self.shared.recorder.counts;
        counts.in_flight_requests.fetch_sub(self.requests, Ordering::Relaxed);
        counts.in_flight_rows.fetch_sub(self.rows, Ordering::Relaxed);
    }
}
