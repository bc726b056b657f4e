//! Sending: one single-threaded runtime per shard, so that no request crosses a thread.
//!
//! Every shard walks the same seeded schedule and sends every n-th arrival of it, which needs no coordination and
//! gives the same load for any number of threads.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arrivals::Schedule;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    call::{Finished, Rules, call},
    chat::session::Sessions,
    connection::Pool,
    message::Message,
    meter::{Measured, Meter},
    outcome::Outcome,
    pacer::Pacer,
    record::Moments,
};

/// Overdue requests started in a row before answers are looked at again.
const OVERDUE_BURST: usize = 32;

/// A client of the closed loop waits so long after a connection failed, so as not to spin.
const BACK_OFF: Duration = Duration::from_millis(10);

/// What decides when the next request is sent.
#[derive(Clone, Debug)]
pub(crate) enum Load {
    /// The clock alone.
    Open(Schedule),
    /// The previous answer: each client sends one request at a time.
    Closed { clients: usize, duration: Duration },
}

impl Load {
    pub(crate) fn length(&self) -> Duration {
        match self {
            Self::Open(schedule) => schedule.length(),
            Self::Closed { duration, .. } => *duration,
        }
    }
}

/// What is sent.
#[derive(Debug)]
pub(crate) enum Requests {
    /// These in turn, one for each arrival.
    Encoded(Vec<Message>),
    /// A session for each arrival, whose turns follow their answers.
    Sessions(Box<Sessions>),
}

impl Requests {
    /// Bytes of a body: on average, or of the first of all sessions.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Encoded(messages) => {
                messages.iter().map(Message::len).sum::<usize>() / messages.len().max(1)
            }
            Self::Sessions(sessions) => sessions.session(0).next_turn().map_or(0, |message| message.len()),
        }
    }
}

/// What every shard of a run is told.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) load: Load,
    pub(crate) requests: Requests,
    pub(crate) rules: Rules,
    pub(crate) seed: u64,
    pub(crate) shards: usize,
    /// Requests under way per shard.
    pub(crate) outstanding_max: usize,
    /// Requests meant to be sent before are not recorded.
    pub(crate) warm_up: Duration,
}

/// One thread's part of a run.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) index: usize,
    pub(crate) plan: Arc<Plan>,
    pub(crate) pool: Pool,
    pub(crate) meter: Meter,
    pub(crate) start: Instant,
    /// Ends the run early; what is under way is still waited for.
    pub(crate) stop: CancellationToken,
}

impl Shard {
    /// Runs this shard to its end on a runtime of its own.
    pub(crate) fn run(self: &Arc<Self>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            match &self.plan.load {
                Load::Open(schedule) => self.open_loop(schedule).await,
                Load::Closed { clients, duration } => {
                    self.closed_loop(*clients, self.start + *duration).await;
                    Ok(())
                }
            }
        })
    }

    async fn open_loop(self: &Arc<Self>, schedule: &Schedule) -> io::Result<()> {
        let calls = TaskTracker::new();
        let mut pacer = Pacer::new()?;
        let mut overdue = 0;
        let arrivals = schedule.arrivals(self.plan.seed).enumerate();
        for (number, arrival) in arrivals.skip(self.index).step_by(self.plan.shards) {
            let intended = self.start + arrival.at;
            if intended > Instant::now() {
                overdue = 0;
                tokio::select! {
                    woken = pacer.until(intended) => woken?,
                    () = self.stop.cancelled() => break,
                }
            } else {
                overdue += 1;
                if overdue % OVERDUE_BURST == 0 {
                    tokio::task::yield_now().await;
                }
            }
            if self.stop.is_cancelled() {
                break;
            }
            self.launch(number, intended, &calls);
        }
        calls.close();
        calls.wait().await;
        Ok(())
    }

    fn launch(self: &Arc<Self>, number: usize, intended: Instant, calls: &TaskTracker) {
        // Sessions whose users think are under way too: each holds what was said so far.
        if calls.len() >= self.plan.outstanding_max {
            let now = Instant::now();
            let moments = Moments { intended, started: now, ended: now };
            self.meter.note(Finished::without_answer(Outcome::Overrun), moments, self.measured(intended));
            return;
        }
        self.meter.begin();
        let shard = Arc::clone(self);
        calls.spawn(async move { shard.arrival(number, intended).await });
    }

    /// All that comes of one arrival; its first request was begun.
    async fn arrival(&self, number: usize, intended: Instant) -> Transport {
        match &self.plan.requests {
            Requests::Encoded(messages) => {
                let message =
                    messages.get(number % messages.len()).expect("the remainder is below the length");
                self.exchange(message, intended, |_| ()).await
            }
            Requests::Sessions(sessions) => self.converse(sessions, number, intended).await,
        }
    }

    /// The turns of one session. It ends early with a turn that fails, as its user would have nothing to go on with,
    /// and when the run is stopped.
    async fn converse(&self, sessions: &Sessions, number: usize, mut intended: Instant) -> Transport {
        let mut session = sessions.session(number);
        let mut message = session.next_turn().expect("a session has at least one turn");
        loop {
            let mut answered = None;
            let keep = |finished: &mut Finished| {
                answered = finished.reply.as_mut().map(|r| std::mem::take(&mut r.text))
            };
            let transport = self.exchange(&message, intended, keep).await;
            let Some(text) = answered else { return transport };
            session.answered(&text);
            let Some(next) = session.next_turn() else { return transport };
            message = next;
            intended = Instant::now() + session.think();
            tokio::select! {
                () = sleep_until(intended) => self.meter.begin(),
                () = self.stop.cancelled() => return transport,
            }
        }
    }

    /// One request that was begun. `look` sees how it ended before that is recorded.
    async fn exchange(
        &self,
        message: &Message,
        intended: Instant,
        look: impl FnOnce(&mut Finished),
    ) -> Transport {
        let started = Instant::now();
        let mut finished = call(&self.pool, &self.plan.rules, message, intended).await;
        let transport = match finished.outcome {
            Outcome::ConnectFailed | Outcome::BrokenOff => Transport::Failed,
            _ => Transport::Worked,
        };
        let moments = Moments { intended, started, ended: Instant::now() };
        look(&mut finished);
        self.meter.end(finished, moments, self.measured(intended));
        transport
    }

    fn measured(&self, intended: Instant) -> Measured {
        if intended < self.start + self.plan.warm_up { Measured::WarmUp } else { Measured::Yes }
    }

    async fn closed_loop(self: &Arc<Self>, clients: usize, end: Instant) {
        sleep_until(self.start).await;
        let numbers = Arc::new(AtomicUsize::new(self.index));
        let calls = TaskTracker::new();
        for _ in (self.index..clients).step_by(self.plan.shards) {
            let (shard, numbers) = (Arc::clone(self), Arc::clone(&numbers));
            calls.spawn(async move { shard.client(&numbers, end).await });
        }
        calls.close();
        calls.wait().await;
    }

    async fn client(&self, numbers: &AtomicUsize, end: Instant) {
        while Instant::now() < end && !self.stop.is_cancelled() {
            let number = numbers.fetch_add(self.plan.shards, Ordering::Relaxed);
            self.meter.begin();
            if self.arrival(number, Instant::now()).await == Transport::Failed {
                sleep(BACK_OFF).await;
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Worked,
    Failed,
}
