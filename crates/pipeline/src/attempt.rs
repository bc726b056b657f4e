//! One call to one replica: its time limits, and what the replica and the latency model learn from it.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};
use tower::Service as _;

use crate::{
    board::{Seat, Slot},
    error::CallError,
    health::Verdict,
    latency::{Fit, Latency},
    replica::Call,
    request::{Reply, Request},
    shared::Shared,
};

/// A call without an answer after this multiple of its 95th percentile makes no progress.
const STALLED: f64 = 5.0;
const SHORTEST_STALL: Duration = Duration::from_secs(1);
/// Shorter silence says nothing, however fast the model.
const SHORTEST_SILENCE: Duration = Duration::from_millis(50);
/// Calls that must have been seen before silence means anything.
const STALL_SAMPLES: u64 = 20;
const FULL_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// For so long a request waits for another replica than the one that failed it, and those behind it with it.
const AVOIDANCE: Duration = Duration::from_millis(500);
/// Times a request is sent again that did not run: with the pauses of an only replica between them about six
/// seconds, in which it may restart.
const REPEATS_NOT_RUN: u32 = 16;

/// What is predicted of a call's time, and learned from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// All of it, by its rows.
    Rows(u32),
    /// The time to the first piece of a generation, by the rows that stand for its prompt.
    Prompt(u32),
    /// Nothing: the whole of a generation depends on how much is generated.
    Unknown,
}

impl Size {
    /// That of a request of `rows` rows.
    pub(crate) fn of(request: &Request, rows: u32) -> Self {
        match request.chat.as_deref() {
            None => Self::Rows(rows),
            Some(chat) if chat.is_streamed() => Self::Prompt(chat.prompt_rows()),
            Some(_) => Self::Unknown,
        }
    }

    fn rows(self) -> Option<u32> {
        match self {
            Self::Rows(rows) | Self::Prompt(rows) => Some(rows),
            Self::Unknown => None,
        }
    }
}

/// Sends one call and waits for its answer, or the first piece of it, at the latest until its deadline.
pub(crate) async fn attempt(
    shared: &Shared,
    slot: &Slot,
    call: Call,
    size: Size,
) -> Result<Reply, CallError> {
    let started = Instant::now();
    let deadline = call.deadline;
    if deadline <= started {
        return Err(CallError::Deadline);
    }
    let (expected, limit) = match size.rows() {
        Some(rows) => {
            let latency = shared.latency();
            (latency.expected(rows), silence_limit(&latency, rows))
        }
        None => (Duration::ZERO, None),
    };
    let mut silence = Silence { shared, seat: &slot.seat, started, limit, size };
    let sent = slot.seat.replica.upstream.clone().call(call);
    tokio::pin!(sent);
    let first_look = limit.map_or(deadline, |limit| deadline.min(started + limit.max(SHORTEST_STALL)));
    let result = match timeout_at(first_look, &mut sent).await {
        Ok(result) => result,
        Err(_) if first_look == deadline => Err(CallError::Deadline),
        Err(_) => {
            let is_silent = silence.is_the_replicas();
            silence.limit = None;
            if is_silent && stalled(shared, &slot.seat) {
                return Err(CallError::Reset);
            }
            timeout_at(deadline, sent).await.unwrap_or(Err(CallError::Deadline))
        }
    };
    if !matches!(result, Err(CallError::Deadline)) {
        silence.limit = None;
    }
    match &result {
        Ok(_) => learn(shared, slot, size, started.elapsed(), expected),
        Err(error) => blame(shared, &slot.seat, error),
    }
    result
}

/// After how long without an answer a replica is suspected.
fn silence_limit(latency: &Latency, rows: u32) -> Option<Duration> {
    (latency.samples() >= STALL_SAMPLES).then(|| latency.p95(rows).mul_f64(STALLED).max(SHORTEST_SILENCE))
}

/// A call that has no answer yet. If its deadline passes, or its callers leave, after they waited for longer than
/// the `limit`, that is a failure of the replica; `None`: it is none.
struct Silence<'a> {
    shared: &'a Shared,
    seat: &'a Seat,
    started: Instant,
    limit: Option<Duration>,
    size: Size,
}

impl Silence<'_> {
    /// Whether it is the replica that is silent. One that goes on with other generations is busy.
    fn is_the_replicas(&self) -> bool {
        let Some(limit) = self.limit.filter(|limit| self.started.elapsed() >= *limit) else { return false };
        let generates = || self.seat.progressed_within(limit, Instant::now());
        !(matches!(self.size, Size::Prompt(_)) && generates())
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        if self.is_the_replicas() {
            failed(self.shared, self.seat, "stalled", Instant::now());
        }
    }
}

/// Ejects a silent replica; says whether its call may be tried elsewhere.
fn stalled(shared: &Shared, seat: &Seat) -> bool {
    let now = Instant::now();
    eject(shared, seat, "stalled", now);
    let elsewhere = |other: &Arc<Seat>| !std::ptr::eq(&**other, seat) && !other.is_closed(now);
    shared.config.idempotent && shared.board.load().seats.iter().any(elsewhere)
}

fn learn(shared: &Shared, slot: &Slot, size: Size, elapsed: Duration, expected: Duration) {
    shared.recorder.upstream(elapsed);
    let expected = match size {
        Size::Rows(rows) => {
            let slowness = shared.board.load().relative_slowness(&slot.seat);
            let fit = shared.latency().observe(rows, elapsed, slowness);
            if fit == Fit::Outlier { Duration::ZERO } else { expected }
        }
        // How slow a replica is shows in its tokens: the first one comes sooner where the prompt is in a cache.
        Size::Prompt(rows) => {
            shared.latency().observe(rows, elapsed, 1.0);
            slot.first_token(elapsed);
            Duration::ZERO
        }
        Size::Unknown => Duration::ZERO,
    };
    slot.succeeded(elapsed, expected);
}

/// A replica that had begun to answer sends nothing any more.
pub(crate) fn fell_silent(shared: &Shared, seat: &Seat) {
    failed(shared, seat, "stalled", Instant::now());
}

/// Holds a failed call against the replica, where it is its fault.
pub(crate) fn blame(shared: &Shared, seat: &Seat, error: &CallError) {
    let now = Instant::now();
    match error {
        CallError::Refused { .. } | CallError::Deadline | CallError::TooLarge { .. } => {}
        CallError::Busy { retry_after } => {
            seat.is_full(retry_after.unwrap_or(FULL_PAUSE).min(LONGEST_PAUSE), now);
        }
        CallError::NotSent | CallError::Reset => {
            seat.cool_down(now);
            failed(shared, seat, error.cause(), now);
        }
        CallError::Failed | CallError::BadResponse => failed(shared, seat, error.cause(), now),
    }
}

fn failed(shared: &Shared, seat: &Seat, cause: &'static str, now: Instant) {
    if seat.failed(now) == Verdict::Eject {
        eject(shared, seat, cause, now);
    }
}

fn eject(shared: &Shared, seat: &Seat, cause: &'static str, now: Instant) {
    if let Some(pause) = shared.board.load().eject(seat, now) {
        shared.recorder.ejected(cause);
        tracing::warn!(
            model = %shared.config.model, replica = %seat.replica.id, cause, ?pause, "replica ejected"
        );
    }
}

/// What earlier attempts leave to the next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Past {
    pub(crate) attempts: Attempts,
    avoid: Option<Avoid>,
}

#[derive(Clone, Debug)]
struct Avoid {
    replica: Arc<str>,
    until: Instant,
}

impl Past {
    /// This and an attempt at `seat` that ended with `error`.
    pub(crate) fn and(&self, seat: &Seat, error: &CallError) -> Self {
        let avoid = Avoid { replica: Arc::clone(&seat.replica.id), until: Instant::now() + AVOIDANCE };
        Self { attempts: self.attempts.and(error), avoid: Some(avoid) }
    }

    pub(crate) fn is_first_attempt(&self) -> bool {
        self.attempts == Attempts::default()
    }

    /// The replica that failed it last, unless that was long ago.
    pub(crate) fn avoid(&self, now: Instant) -> Option<&str> {
        self.avoid.as_ref().filter(|avoid| now < avoid.until).map(|avoid| &*avoid.replica)
    }
}

/// How often a request was sent before, in vain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attempts {
    not_run: u32,
    may_have_run: u32,
}

impl Attempts {
    /// These and the one that ended with `error`.
    fn and(self, error: &CallError) -> Self {
        match error {
            CallError::NotSent | CallError::Busy { .. } => Self { not_run: self.not_run + 1, ..self },
            _ => Self { may_have_run: self.may_have_run + 1, ..self },
        }
    }

    /// Whether the request may be sent again after `error`: what provably did not run, or may run twice, once.
    pub(crate) fn may_follow(self, shared: &Shared, error: &CallError) -> bool {
        match error {
            CallError::NotSent | CallError::Busy { .. } => self.not_run < REPEATS_NOT_RUN,
            CallError::Reset | CallError::Failed | CallError::BadResponse => {
                shared.config.idempotent && self.may_have_run == 0
            }
            CallError::Refused { .. } | CallError::TooLarge { .. } | CallError::Deadline => false,
        }
    }
}

/// Whether those requests of a failed call that may be sent again are: one repeat of the budget is for all of them.
pub(crate) fn repeats(
    shared: &Shared,
    error: &CallError,
    mut attempts: impl Iterator<Item = Attempts>,
) -> bool {
    if !matches!(error, CallError::NotSent | CallError::Busy { .. } | CallError::Reset | CallError::Failed) {
        return false;
    }
    let may = attempts.any(|attempts| attempts.may_follow(shared, error))
        && (*error == CallError::NotSent || shared.budget().withdraw(Instant::now()));
    shared.recorder.retried(error.cause(), if may { "sent" } else { "denied" });
    may
}
