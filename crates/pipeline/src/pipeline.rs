//! The handle of one model's pipeline and its configuration.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, future::try_join_all};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use crate::{
    admit::Charge,
    attempt::Past,
    chat,
    direct::{self, Done},
    dispatch::{Cold, Dispatcher, Event, Ticket},
    error::{CallError, Error, QueueUnit, Refusal, Rejection, Stage},
    replica::{Outlook, ReplicaSet},
    request::{Answer, Outcome, Payload, Reply, Request, Timings},
    respond,
    shared::{Merging, Shared},
    split,
    stats::Stats,
};

/// How one model's requests are dispatched. Every field has the default that the configuration file has.
#[derive(Clone, Debug)]
pub struct Config {
    pub model: Arc<str>,
    pub batching: Batching,
    pub queue: QueueLimits,
    pub concurrency: Concurrency,
    /// A call may be repeated on another replica after it may have run.
    pub idempotent: bool,
    /// Latency that requests are meant to keep; counts misses, bounds how long a batch is held.
    pub slo: Duration,
    /// Longest a request waits for a replica to start.
    pub cold_start_timeout: Duration,
    /// Of a model that may generate tokens: its targets, and where its calls go.
    pub chat: Option<chat::Config>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batching {
    /// Merge where the model has a batch dimension and the self-check passes.
    Auto,
    /// Never merge.
    Off,
    /// As `Auto`, within these bounds, and without the self-check.
    Merge { max_rows: u32, max_hold: Duration },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    pub requests: u32,
    pub bytes: usize,
}

/// Requests in flight per replica where nothing is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    Auto,
    Fixed(u32),
}

/// One model's queue and the task that serves it. Cheap to clone; the task ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Pipeline {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    replicas: watch::Sender<ReplicaSet>,
    outlook: watch::Sender<Outlook>,
    next_id: AtomicU64,
    closed: AtomicBool,
    calls: TaskTracker,
}

impl Pipeline {
    /// Starts the task that owns the queue, on the current runtime.
    #[must_use]
    pub fn start(config: Config) -> Self {
        let bound = config.queue.requests as usize;
        // A request is counted by the queue's bound once it is there; on the way to it no more may be under way
        // than would fit, and each sends at most one cancel after its arrival.
        let (events, events_in) = mpsc::channel(2 * bound + 2);
        let (returns, returns_in) = mpsc::channel(bound.max(64));
        let (replicas, replicas_in) = watch::channel(ReplicaSet::default());
        let (outlook, outlook_in) = watch::channel(Outlook::Starting { eta: None });
        let shared = Arc::new(Shared::new(config, returns));
        let dispatcher = Dispatcher::new(Arc::clone(&shared), events_in, returns_in, replicas_in, outlook_in);
        let inner = Inner {
            shared,
            events,
            replicas,
            outlook,
            next_id: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            calls: TaskTracker::new(),
        };
        let shared = Arc::clone(&inner.shared);
        tokio::spawn(async move {
            // Everybody who waits is answered by the drop of what the task held, and so is whoever comes later.
            if AssertUnwindSafe(dispatcher.run()).catch_unwind().await.is_err() {
                shared.recorder.panicked();
            }
        });
        Self { inner: Arc::new(inner) }
    }

    /// Answers one request, or says why not; never later than its deadline. Dropping the future cancels it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn call(&self, request: Request) -> Result<Answer, Error> {
        let shared = &self.inner.shared;
        let running = self.inner.calls.token();
        let started = Instant::now();
        let rows = rows_of(&request.payload);
        let chat = request.chat.clone();
        self.count_arrival(rows);
        if let (Some(learned), Some(_)) = (&shared.chat, &request.chat) {
            learned.shares().arrived(&request.tenant, request.class, started);
        }
        shared.end_suspension();
        let mut outcome = if self.inner.closed.load(Ordering::Acquire) {
            Err(Error::Rejected(Rejection::ShuttingDown))
        } else if request.deadline <= started {
            Err(Error::DeadlineExceeded { stage: Stage::Queue, waited: Duration::ZERO })
        } else if shared.merging() == Merging::On && rows > shared.max_rows() {
            self.call_in_parts(request).await
        } else if shared.merging().spreads() {
            self.call_directly(request, rows, started).await
        } else {
            self.call_queued(request, rows, started).await
        };
        if let (Ok(answer), Some(chat)) = (&mut outcome, chat)
            && let Some(slot) = answer.slot.take()
        {
            let begun = (started, &answer.timings);
            answer.run = chat::Run::begin(Arc::clone(shared), slot, running, begun, &chat).map(Box::new);
            if answer.run.is_some() {
                return outcome;
            }
        }
        shared.count_outcome(started.elapsed(), &outcome);
        outcome
    }

    /// Whether a call that needs no transcoding should be handed over as it came ([`crate::request::Opaque`]):
    /// true where rows are never merged, false where they are or may yet be.
    #[must_use]
    pub fn passes_through(&self) -> bool {
        self.inner.shared.merging() == Merging::Never
    }

    /// Replaces the ready replicas. Calls that run on a replica left out may finish there.
    pub fn set_replicas(&self, set: ReplicaSet) {
        self.inner.replicas.send_replace(set);
    }

    /// What requests that find no ready replica should expect.
    pub fn set_outlook(&self, outlook: Outlook) {
        self.inner.outlook.send_if_modified(|current| {
            let changed = *current != outlook;
            *current = outlook;
            changed
        });
    }

    /// Refuses what comes from now on (`shutting_down`); what was admitted goes on.
    pub fn close(&self) {
        self.inner.closed.store(true, Ordering::Release);
        self.inner.calls.close();
    }

    /// Waits until every admitted request has its outcome; only after [`Pipeline::close`].
    pub async fn drained(&self) {
        self.inner.calls.wait().await;
    }

    /// Resolves when a request arrives and no replica is ready: the signal to wake the model.
    pub async fn wake_wanted(&self) {
        self.inner.shared.wake.notified().await;
    }

    /// Asks for a replica without a request: what a client's `load` means.
    pub fn ask_to_wake(&self) {
        self.inner.shared.wake.notify_one();
    }

    /// Counters and gauges, as of now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::of(&self.inner.shared)
    }

    /// Sets the gauges of the metrics to `stats` of this pipeline.
    pub fn publish_gauges(&self, stats: &Stats) {
        self.inner.shared.recorder.publish(stats);
    }

    fn count_arrival(&self, rows: u32) {
        let shared = &self.inner.shared;
        let counts = &shared.recorder.counts;
        counts.arrivals.fetch_add(1, Ordering::Relaxed);
        counts.arrival_rows.fetch_add(u64::from(rows), Ordering::Relaxed);
        let work = shared.latency().expected(rows).as_micros() as u64;
        counts.arrival_work_micros.fetch_add(work, Ordering::Relaxed);
    }

    /// The fast path: straight to a replica with room, on the caller's own task. The queue is met only when all
    /// are full, or others wait already.
    async fn call_directly(&self, request: Request, rows: u32, started: Instant) -> Result<Answer, Error> {
        let shared = &self.inner.shared;
        if shared.waiting.requests.load(Ordering::Acquire) > 0 {
            return self.call_queued(request, rows, started).await;
        }
        let slot = {
            let board = shared.board.load();
            let courtesy = shared.courtesy(&board, &request, started);
            shared.pick(&board, started, (&request, courtesy), None)
        };
        let Some(slot) = slot else {
            return self.call_queued(request, rows, started).await;
        };
        match direct::call(shared, slot, request, rows, started).await {
            Done::Outcome(outcome) => outcome,
            Done::TryElsewhere { request, past } => self.wait(*request, rows, started, past).await,
        }
    }

    async fn call_queued(&self, request: Request, rows: u32, started: Instant) -> Result<Answer, Error> {
        self.wait(request, rows, started, Past::default()).await
    }

    /// Waits in the queue for its turn, and then for its outcome.
    async fn wait(
        &self,
        request: Request,
        rows: u32,
        enqueued: Instant,
        past: Past,
    ) -> Result<Answer, Error> {
        let shared = &self.inner.shared;
        let deadline = request.answer_by();
        let (responder, pending) = respond::channel(enqueued);
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let ticket = Ticket {
            id,
            request,
            responder,
            rows,
            enqueued,
            dispatched: (!past.is_first_attempt()).then_some(enqueued),
            past,
            cold: Cold::No,
            cold_start: None,
        };
        if let Some(traced) = &ticket.request.traced {
            traced.enqueued(Instant::now());
        }
        shared.waiting.enter();
        if let Err(unsent) = self.inner.events.try_send(Event::Arrive(Box::new(ticket))) {
            shared.waiting.leave(1);
            return Err(self.not_taken_in(&unsent));
        }
        let mut cancel = CancelOnDrop { inner: &self.inner, id: Some(id) };
        let outcome = pending.outcome(deadline).await;
        if !matches!(outcome, Err(Error::DeadlineExceeded { .. })) {
            cancel.id = None;
        }
        outcome
    }

    fn not_taken_in(&self, unsent: &mpsc::error::TrySendError<Event>) -> Error {
        match unsent {
            mpsc::error::TrySendError::Full(_) => {
                let limit = u64::from(self.inner.shared.config.queue.requests);
                let (unit, retry_after) = (QueueUnit::Requests, Duration::from_secs(1));
                Rejection::QueueFull { queued: limit, limit, unit, retry_after }.into()
            }
            // The task that owns the queue is gone, though handles are left: it failed.
            mpsc::error::TrySendError::Closed(_) => Error::Internal,
        }
    }

    /// A request of more rows than one call may have, as several, joined again.
    async fn call_in_parts(&self, request: Request) -> Result<Answer, Error> {
        let bad = || Error::Upstream(CallError::BadResponse);
        let started = Instant::now();
        let Payload::Tensors(inference) = &request.payload else {
            let rows = rows_of(&request.payload);
            return self.call_queued(request, rows, started).await;
        };
        let (rows, max_rows) = (rows_of(&request.payload), self.inner.shared.max_rows());
        if rows.div_ceil(max_rows) > self.inner.shared.config.queue.requests {
            let message = format!("{rows} rows are more than the queue of this model takes");
            return Err(Error::Upstream(CallError::Refused {
                kind: Refusal::TooLarge,
                message,
                words: None,
            }));
        }
        let Ok(parts) = split::slice(inference, max_rows) else {
            // What cannot be cut is the model server's to judge, alone.
            return self.call_queued(request, rows, started).await;
        };
        let calls = parts.into_iter().map(|part| {
            let part = Request {
                payload: Payload::Tensors(part),
                deadline: request.deadline,
                class: request.class,
                tenant: Arc::clone(&request.tenant),
                trace: request.trace.clone(),
                traced: request.traced.clone(),
                charge: Charge::none(),
                chat: None,
            };
            let rows = rows_of(&part.payload);
            self.call_queued(part, rows, started)
        });
        let answers = try_join_all(calls).await?;
        let outcomes: Option<Vec<Outcome>> = answers
            .iter()
            .map(|answer| match &answer.reply {
                Reply::Tensors(outcome) => Some(outcome.clone()),
                Reply::Opaque(_) | Reply::Stream(_) => None,
            })
            .collect();
        let joined = split::join(&outcomes.ok_or_else(bad)?).map_err(|_| bad())?;
        let timings =
            answers.into_iter().map(|answer| answer.timings).reduce(Timings::longest).unwrap_or_default();
        Ok(Answer::new(Reply::Tensors(joined), timings))
    }
}

/// Takes a request out of the queue when its caller leaves.
struct CancelOnDrop<'a> {
    inner: &'a Inner,
    /// `None` once it has its outcome.
    id: Option<u64>,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // If the channel is full the entry stays until its turn comes, and is skipped then.
            let _ = self.inner.events.try_send(Event::Cancel(id));
        }
    }
}

fn rows_of(payload: &Payload) -> u32 {
    match payload {
        Payload::Tensors(inference) => {
            inference.rows().and_then(|rows| u32::try_from(rows).ok()).unwrap_or(1).max(1)
        }
        Payload::Opaque(_) => 1,
    }
}
