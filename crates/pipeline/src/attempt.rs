//! One call to one replica: its time limits, and what the replica and the latency model learn from it.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tower::Service as _;

use crate::{
    board::{Seat, Slot},
    error::CallError,
    health::Verdict,
    latency::{Fit, Latency},
    replica::Call,
    request::Reply,
    shared::Shared,
};

/// A call without an answer after this multiple of its 95th percentile makes no progress.
const STALLED: f64 = 5.0;
const SHORTEST_STALL: Duration = Duration::from_secs(1);
/// Calls that must have been seen before silence means anything.
const STALL_SAMPLES: u64 = 20;
/// A replica that could not be reached, or broke off, is left alone for a moment even if it is the only one.
const COOL_DOWN: Duration = Duration::from_millis(50);
const FULL_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Attempts of one request that did not run.
const ATTEMPTS_NOT_RUN: u32 = 8;

/// Sends one call of `rows` rows and waits for its answer, at the latest until its deadline.
pub(crate) async fn attempt(shared: &Shared, slot: &Slot, call: Call, rows: u32) -> Result<Reply, CallError> {
    let started = Instant::now();
    let deadline = call.deadline;
    let (expected, stall) = {
        let latency = shared.latency();
        (latency.expected(rows), stall_after(&latency, rows))
    };
    let mut upstream = slot.seat.replica.upstream.clone();
    let sent = upstream.call(call);
    tokio::pin!(sent);
    let first_limit = stall.map_or(deadline, |stall| deadline.min(started + stall));
    let result = match timeout_at(first_limit, &mut sent).await {
        Ok(result) => result,
        Err(_) if first_limit == deadline => Err(CallError::Deadline),
        Err(_) => {
            let moved = stalled(shared, &slot.seat);
            if moved { Err(CallError::Reset) } else { finish(deadline, sent).await }
        }
    };
    let elapsed = started.elapsed();
    match &result {
        Ok(_) => learn(shared, &slot.seat, rows, elapsed, expected),
        Err(error) => blame(shared, &slot.seat, error),
    }
    result
}

async fn finish(
    deadline: Instant,
    sent: impl Future<Output = Result<Reply, CallError>>,
) -> Result<Reply, CallError> {
    timeout_at(deadline, sent).await.unwrap_or(Err(CallError::Deadline))
}

fn stall_after(latency: &Latency, rows: u32) -> Option<Duration> {
    let stall = latency.p95(rows).mul_f64(STALLED).max(SHORTEST_STALL);
    (latency.samples() >= STALL_SAMPLES).then_some(stall)
}

/// Ejects a silent replica; says whether its call may be tried elsewhere.
fn stalled(shared: &Shared, seat: &Seat) -> bool {
    let now = Instant::now();
    let board = shared.board.load();
    if !board.eject(seat, COOL_DOWN.max(Duration::from_secs(1)), now) {
        return false;
    }
    shared.recorder.ejected("stalled");
    tracing::warn!(model = %shared.config.model, replica = %seat.replica.id, "replica makes no progress: ejected");
    shared.config.idempotent && board.seats.iter().any(|other| !other.is_closed(now))
}

fn learn(shared: &Shared, seat: &Seat, rows: u32, elapsed: Duration, expected: Duration) {
    shared.recorder.upstream(elapsed);
    let fit = shared.latency().observe(rows, elapsed, seat.slowness());
    let expected = if fit == Fit::Outlier { Duration::ZERO } else { expected };
    seat.succeeded(elapsed, expected);
}

fn blame(shared: &Shared, seat: &Seat, error: &CallError) {
    let now = Instant::now();
    match error {
        CallError::Refused { .. } | CallError::Deadline | CallError::TooLarge { .. } => {}
        CallError::Busy { retry_after } => {
            seat.is_full(retry_after.unwrap_or(FULL_PAUSE).min(LONGEST_PAUSE), now);
        }
        CallError::NotSent | CallError::Reset | CallError::Failed | CallError::BadResponse => {
            if matches!(error, CallError::NotSent | CallError::Reset) {
                seat.pause(COOL_DOWN, now);
            }
            if let Verdict::Eject(pause) = seat.failed()
                && shared.board.load().eject(seat, pause, now)
            {
                shared.recorder.ejected(error.cause());
                tracing::warn!(
                    model = %shared.config.model, replica = %seat.replica.id, cause = error.cause(), ?pause,
                    "replica ejected"
                );
            }
        }
    }
}

/// What comes after a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Fail,
    Retry,
}

/// Whether requests whose call failed with `error`, after `attempts` earlier ones, may be sent again: what
/// provably did not run, or may run twice, once, within the budget.
pub(crate) fn next(shared: &Shared, error: &CallError, attempts: u32) -> Next {
    let now = Instant::now();
    let may = match error {
        CallError::NotSent => attempts < ATTEMPTS_NOT_RUN,
        CallError::Busy { .. } => attempts < ATTEMPTS_NOT_RUN && shared.budget().withdraw(now),
        CallError::Reset | CallError::Failed => {
            shared.config.idempotent && attempts == 0 && shared.budget().withdraw(now)
        }
        _ => false,
    };
    let repeatable =
        matches!(error, CallError::NotSent | CallError::Busy { .. } | CallError::Reset | CallError::Failed);
    if repeatable {
        shared.recorder.retried(error.cause(), if may { "sent" } else { "denied" });
    }
    if may { Next::Retry } else { Next::Fail }
}
