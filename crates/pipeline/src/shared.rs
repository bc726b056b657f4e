//! What the handle, the dispatch task and the calls in flight of one model share.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use crate::{
    batch::stretched,
    board::{Board, Slot, Waiting},
    budget::Budget,
    chat::{self, Courtesy, run::Ending},
    dispatch::Ticket,
    error::{CallError, Error},
    latency::Latency,
    limit::Limit,
    metrics::Recorder,
    pipeline::{Batching, Concurrency, Config},
    request::{Answer, Request},
};

/// Rows of a merged call where the configuration does not say.
const MAX_ROWS: u32 = 64;
/// After an answer that did not fit its batch, nothing is merged for this long.
const SUSPENSION: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) board: ArcSwap<Board>,
    pub(crate) recorder: Recorder,
    /// Where the model generates tokens.
    pub(crate) chat: Option<Arc<chat::Learned>>,
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) queue: QueueGauges,
    /// Notified when a request finds no ready replica.
    pub(crate) wake: Notify,
    pub(crate) epoch: Instant,
    /// Requests that go back to the queue for another attempt.
    pub(crate) returns: mpsc::Sender<Ticket>,
    merging: AtomicU8,
    suspended_until: AtomicU64,
    latency: Mutex<Latency>,
    budget: Mutex<Budget>,
}

/// The queue as the dispatch task last saw it.
#[derive(Debug, Default)]
pub(crate) struct QueueGauges {
    pub(crate) rows: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Arrival of the oldest request in microseconds since the epoch, plus one; 0: none.
    pub(crate) oldest: AtomicU64,
}

/// What a request will take once it is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// Until its answer or the first piece of it.
    pub(crate) answer: Duration,
    /// Until its end.
    pub(crate) end: Duration,
}

impl Needs {
    /// Whether a request that is sent after `wait` comes to no good end.
    pub(crate) fn are_too_much(&self, request: &Request, wait: Duration, now: Instant) -> bool {
        let start = now + wait;
        start + self.answer >= request.answer_by() || start + self.end >= request.deadline
    }
}

/// Whether requests of this model are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Merging {
    /// By configuration, or because the model has no batch dimension.
    Never,
    /// No replica has told its metadata yet.
    Unknown,
    /// The self-check has yet to pass.
    Unchecked,
    Checking,
    On,
    /// An answer did not fit its batch.
    Suspended,
}

impl Merging {
    const ALL: [Self; 6] =
        [Self::Never, Self::Unknown, Self::Unchecked, Self::Checking, Self::On, Self::Suspended];

    /// Whether calls are single and as many as the replica's limit allows.
    pub(crate) fn spreads(self) -> bool {
        matches!(self, Self::Never | Self::Unknown | Self::Suspended)
    }
}

impl Shared {
    pub(crate) fn new(config: Config, returns: mpsc::Sender<Ticket>) -> Self {
        let merging = if config.batching == Batching::Off { Merging::Never } else { Merging::Unknown };
        let now = Instant::now();
        Self {
            recorder: Recorder::new(&config.model),
            chat: config.chat.map(|chat| Arc::new(chat::Learned::new(&config.model, chat))),
            config,
            board: ArcSwap::default(),
            waiting: Arc::default(),
            queue: QueueGauges::default(),
            wake: Notify::new(),
            epoch: now,
            returns,
            merging: AtomicU8::new(merging as u8),
            suspended_until: AtomicU64::new(0),
            latency: Mutex::new(Latency::default()),
            budget: Mutex::new(Budget::new(now)),
        }
    }

    pub(crate) fn merging(&self) -> Merging {
        let at = usize::from(self.merging.load(Ordering::Relaxed));
        Merging::ALL.get(at).copied().unwrap_or(Merging::Never)
    }

    /// Changes how requests are dispatched from now on, and the number of calls a replica may have with it.
    fn set_merging(&self, merging: Merging) {
        let before = self.merging.swap(merging as u8, Ordering::Relaxed);
        if before != merging as u8 {
            self.board.load().set_limit(&self.limit());
        }
    }

    pub(crate) fn start_check(&self) {
        self.set_merging(Merging::Checking);
    }

    /// Ends a check, unless something else has decided meanwhile.
    pub(crate) fn conclude_check(&self, merging: Merging) {
        let (from, to) = (Merging::Checking as u8, merging as u8);
        // Both go with one call per replica: the limits stay.
        let _ = self.merging.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Learns from a replica's metadata whether rows can be merged at all.
    pub(crate) fn learn_batch_dimension(&self, has: Option<bool>) {
        match (self.merging(), has) {
            (Merging::Unknown, Some(true)) => self.set_merging(self.with_batch_dimension()),
            (_, Some(false)) => self.set_merging(Merging::Never),
            _ => {}
        }
    }

    fn with_batch_dimension(&self) -> Merging {
        match self.config.batching {
            Batching::Off => Merging::Never,
            Batching::Merge { .. } => Merging::On,
            // The check computes requests twice, which a model that is not idempotent forbids.
            Batching::Auto if self.config.idempotent => Merging::Unchecked,
            Batching::Auto => Merging::Never,
        }
    }

    /// Merges nothing for ten minutes.
    pub(crate) fn suspend_merging(&self, reason: &'static str) {
        if self.merging() == Merging::Never {
            return;
        }
        let until = self.epoch.elapsed() + SUSPENSION;
        self.suspended_until.store(until.as_micros() as u64, Ordering::Relaxed);
        self.set_merging(Merging::Suspended);
        self.recorder.merging_suspended(reason);
        tracing::warn!(model = %self.config.model, reason, "requests are not merged for ten minutes");
    }

    pub(crate) fn end_suspension(&self) {
        let until = Duration::from_micros(self.suspended_until.load(Ordering::Relaxed));
        if self.merging() == Merging::Suspended && self.epoch.elapsed() >= until {
            self.set_merging(self.with_batch_dimension());
        }
    }

    pub(crate) fn limit(&self) -> Limit {
        match (self.config.concurrency, self.config.chat) {
            _ if !self.merging().spreads() => Limit::one(),
            (Concurrency::Auto, Some(chat)) => Limit::Streams(chat::limit::Streams::new(&chat)),
            (concurrency, _) => Limit::of(concurrency),
        }
    }

    /// Most rows of one call.
    pub(crate) fn max_rows(&self) -> u32 {
        match self.config.batching {
            Batching::Merge { max_rows, .. } => max_rows.max(1),
            Batching::Auto => MAX_ROWS,
            Batching::Off => 1,
        }
    }

    /// Longest a batch is held open.
    pub(crate) fn max_hold(&self) -> Duration {
        match self.config.batching {
            Batching::Merge { max_hold, .. } => max_hold,
            Batching::Auto | Batching::Off => self.config.slo / 10,
        }
    }

    pub(crate) fn latency(&self) -> MutexGuard<'_, Latency> {
        // Nothing panics while it is held; what a poisoned lock holds is still sound.
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows per second, above zero, that all replicas which take calls answer together; `None` before enough calls
    /// were seen, and while no replica takes any.
    pub(crate) fn service_rate(&self, latency: &Latency) -> Option<f64> {
        if !latency.trusted() {
            return None;
        }
        let board = self.board.load();
        let open = board.seats.iter().filter(|seat| !seat.is_closed(Instant::now()));
        let rate_of = |seats: f64, rows: u32| {
            let seconds = latency.expected(rows).as_secs_f64();
            (seats > 0.0 && seconds > 0.0).then(|| seats * f64::from(rows) / seconds)
        };
        if let Some(chat) = self.chat.as_ref().filter(|_| self.merging().spreads()) {
            let occupancy = chat.averages().occupancy()?.as_secs_f64().max(1e-3);
            let limits: f64 = open.map(|seat| f64::from(seat.limit())).sum();
            return (limits > 0.0).then(|| limits / occupancy);
        }
        if self.merging() == Merging::On {
            let rows = latency.rows_per_call(self.config.slo, self.max_rows());
            let speed = open.map(|seat| 1.0 / seat.slowness().max(0.1)).sum();
            return rate_of(speed, rows);
        }
        rate_of(open.map(|seat| f64::from(seat.limit())).sum(), 1)
    }

    /// The time a request will take once it is sent: to its answer or the first piece of it, for that to come with
    /// near certainty, and to its end, on average. `None` while too little was seen to act upon.
    pub(crate) fn needs(&self, request: &Request, rows: u32, latency: &Latency) -> Option<Needs> {
        if !latency.trusted() {
            return None;
        }
        let (Some(learned), Some(chat)) = (&self.chat, request.chat.as_deref()) else {
            let answer = stretched(latency.p95(rows));
            return Some(Needs { answer, end: answer });
        };
        let averages = learned.averages();
        let first = stretched(latency.p95(chat.prompt_rows()));
        let rest = averages.line.expected(1).mul_f64(averages.output_tokens(chat));
        let end = latency.expected(chat.prompt_rows()) + rest;
        Some(if chat.is_streamed() { Needs { answer: first, end } } else { Needs { answer: end, end } })
    }

    /// How long a request may wait for a place, once replicas take calls; see [`chat::patience`]. To wait for longer would
    /// be to miss the target for the first token with certainty, and to have all who come later miss it too. `None`: as
    /// long as its deadline.
    pub(crate) fn patience(&self, request: &Request, needs: &Needs) -> Option<Duration> {
        let learned =
            self.chat.as_ref().filter(|_| request.chat.as_ref().is_some_and(|chat| chat.is_streamed()))?;
        Some(chat::patience(learned.config.ttft.latency, needs.answer))
    }

    /// Takes a seat for a request; `None` if all replicas that take calls are full.
    pub(crate) fn pick(
        &self,
        board: &Board,
        now: Instant,
        (request, courtesy): (&Request, Courtesy),
        avoid: Option<&str>,
    ) -> Option<Slot> {
        match (&self.chat, request.chat.as_deref()) {
            (Some(learned), Some(chat)) => board.pick_for_chat(now, avoid, (chat, courtesy), learned),
            _ => board.pick(now, avoid),
        }
    }

    /// What a request leaves to others of the places there are.
    pub(crate) fn courtesy(&self, board: &Board, request: &Request, now: Instant) -> Courtesy {
        match &self.chat {
            Some(learned) if request.chat.is_some() => learned.courtesy(request, board.places(now), now),
            _ => Courtesy::None,
        }
    }

    /// Counts the end of a generation whose answer had begun.
    pub(crate) fn count_run(&self, ending: Ending, elapsed: Duration, late: bool) {
        let counts = &self.recorder.counts;
        match ending {
            Ending::Completed => {
                counts.completions.fetch_add(1, Ordering::Relaxed);
                counts.latency.record(elapsed);
                counts.slo_misses.fetch_add(u64::from(late), Ordering::Relaxed);
            }
            Ending::Broken => {
                counts.failures.fetch_add(1, Ordering::Relaxed);
                counts.slo_misses.fetch_add(1, Ordering::Relaxed);
            }
            Ending::Left => {}
        }
    }

    /// The one place where the end of a request is counted.
    pub(crate) fn count_outcome(&self, elapsed: Duration, outcome: &Result<Answer, Error>) {
        let counts = &self.recorder.counts;
        match outcome {
            Ok(_) => {
                counts.completions.fetch_add(1, Ordering::Relaxed);
                counts.latency.record(elapsed);
                counts.slo_misses.fetch_add(u64::from(elapsed > self.config.slo), Ordering::Relaxed);
                return;
            }
            Err(Error::Rejected(rejection)) => self.recorder.shed(rejection),
            Err(Error::DeadlineExceeded { .. }) => self.recorder.deadline_missed(),
            // The server holds it against the client: neither a failure nor a miss.
            Err(Error::Upstream(CallError::Refused { .. })) => return,
            Err(Error::Upstream(_) | Error::Internal) => {}
        }
        counts.failures.fetch_add(1, Ordering::Relaxed);
        counts.slo_misses.fetch_add(1, Ordering::Relaxed);
    }
}
