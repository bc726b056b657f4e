//! What the loop sees and decides, in lines from which another process comes to the same decisions.
//!
//! The loop hands each tick to a [`Recorder`], which never waits: what finds no room is counted, and the record then
//! has a gap instead. Whoever holds [`Taken`]'s other end writes the lines. After a gap, from time to time, and
//! whenever the writer asks for it, a tick comes with the memory from before it: a replay can begin there.

mod exact;
mod line;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::sync::mpsc;

pub use self::line::{
    Gap, Header, Line, LineError, PolicyLine, Run, StateLine, Tick, VERSION, begins_record,
};
use crate::{log::Entry, policy::Policy, snapshot::Snapshot, state::State};

/// How often a tick comes with the memory although nothing else calls for it.
const STATE_EVERY: Duration = Duration::from_secs(300);

/// Where recorders send to: a cheap handle. At first nobody listens, and nothing is sent.
#[derive(Clone, Debug, Default)]
pub struct Sink {
    shared: Arc<Shared>,
}

/// What recorders have sent since it is there.
#[derive(Debug)]
pub struct Tape {
    sent: mpsc::Receiver<Sent>,
    /// Nothing else of what sinks share: else a tape would wait for itself.
    renewals: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Sent {
    Tick(Box<Taken>),
    End,
}

#[derive(Debug, Default)]
struct Shared {
    /// To the tape there is.
    tape: Mutex<Option<mpsc::Sender<Sent>>>,
    /// Counts the times that the writer needs every model's memory again.
    renewals: Arc<AtomicU64>,
    runs: AtomicU64,
}

/// One tick, and what must stand before it.
#[derive(Debug)]
pub struct Taken {
    run: Run,
    at: Duration,
    /// Ticks before it that found no room.
    missed: u64,
    /// Where it is new, with the settings that it follows from.
    policy: Option<(Arc<Policy>, Arc<Value>)>,
    state: Option<Box<State>>,
    epoch: Option<u64>,
    snapshot: Snapshot,
    entry: Arc<Entry>,
}

/// The record of one loop over one model.
#[derive(Debug)]
pub struct Recorder {
    sink: Sink,
    run: Run,
    settings: Arc<Value>,
    epoch: Option<u64>,
    /// As the record has it.
    policy: Option<Arc<Policy>>,
    /// When the memory was last sent, and for which renewal.
    stated: Option<(Duration, u64)>,
    missed: u64,
}

impl Sink {
    /// From now on what is recorded goes to this tape, which has room for so many ticks, and to no earlier one.
    #[must_use]
    pub fn tape(&self, room: usize) -> Tape {
        let (sender, receiver) = mpsc::channel(room);
        *self.shared.lock() = Some(sender);
        let tape = Tape { sent: receiver, renewals: Arc::clone(&self.shared.renewals) };
        tape.renew();
        tape
    }

    /// Ends the tape there is after what was sent so far.
    pub async fn end(&self) {
        let tape = self.shared.lock().take();
        if let Some(tape) = tape {
            // One that is gone has ended.
            let _ = tape.send(Sent::End).await;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<mpsc::Sender<Sent>>> {
        // It is replaced whole.
        self.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tape, if somebody listens.
    fn tape(&self) -> Option<mpsc::Sender<Sent>> {
        self.lock().as_ref().filter(|tape| !tape.is_closed()).cloned()
    }
}

impl Tape {
    /// Has every model's memory come with its next tick.
    pub fn renew(&self) {
        self.renewals.fetch_add(1, Ordering::Relaxed);
    }
}

/// Each tick as it comes, until a sink ends it, gets another tape, or is gone. Blocks: for a thread of its own.
impl Iterator for Tape {
    type Item = Taken;

    fn next(&mut self) -> Option<Taken> {
        match self.sent.blocking_recv()? {
            Sent::Tick(taken) => Some(*taken),
            Sent::End => None,
        }
    }
}

impl Recorder {
    /// Of a new loop over `model`. `settings` are the model's in the words of a configuration file, as far as they
    /// matter to decisions, and `epoch` is that of the term of office, where there are such.
    #[must_use]
    pub fn new(sink: Sink, model: Arc<str>, settings: Arc<Value>, epoch: Option<u64>) -> Self {
        let number = sink.shared.runs.fetch_add(1, Ordering::Relaxed);
        let run = Run { model, number };
        Self { sink, run, settings, epoch, policy: None, stated: None, missed: 0 }
    }

    /// Whether the memory before the tick at `now` is to come with it.
    pub(crate) fn wants_state(&self, now: Duration) -> bool {
        let renewals = self.sink.shared.renewals.load(Ordering::Relaxed);
        let fresh = self
            .stated
            .is_some_and(|(at, renewal)| renewal == renewals && at <= now && now - at < STATE_EVERY);
        !fresh && self.sink.shared.tape().is_some()
    }

    /// Sends a tick, or counts it as missed. `before` is the memory, if it was wanted.
    pub(crate) fn take(
        &mut self,
        policy: &Arc<Policy>,
        before: Option<State>,
        snapshot: Snapshot,
        entry: &Arc<Entry>,
    ) {
        let Some(tape) = self.sink.shared.tape() else { return };
        let at = entry.decision.at;
        let renewals = self.sink.shared.renewals.load(Ordering::Relaxed);
        let changed = before.is_some()
            || !self.policy.as_ref().is_some_and(|known| Arc::ptr_eq(known, policy) || known == policy);
        let stated = before.is_some();
        let taken = Taken {
            run: self.run.clone(),
            at,
            missed: self.missed,
            policy: changed.then(|| (Arc::clone(policy), Arc::clone(&self.settings))),
            state: before.map(Box::new),
            epoch: self.epoch,
            snapshot,
            entry: Arc::clone(entry),
        };
        match tape.try_send(Sent::Tick(Box::new(taken))) {
            Ok(()) => {
                self.missed = 0;
                self.policy = Some(Arc::clone(policy));
                if stated {
                    self.stated = Some((at, renewals));
                }
            }
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.missed += 1;
                (self.policy, self.stated) = (None, None);
            }
            // Nobody writes any more.
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }
}

impl Taken {
    #[must_use]
    pub fn model(&self) -> &Arc<str> {
        &self.run.model
    }

    /// Ticks before it that found no room.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// The lines that tell it, each with its end.
    #[must_use]
    pub fn lines(self) -> String {
        let Self { run, at, missed, policy, state, epoch, snapshot, entry } = self;
        let mut lines = Vec::new();
        if missed > 0 {
            lines.push(Line::Gap(Gap { run: run.clone(), ticks: missed }));
        }
        if let Some((policy, settings)) = policy {
            let (policy, settings) = ((*policy).clone(), (*settings).clone());
            lines.push(Line::Policy(Box::new(PolicyLine { run: run.clone(), at, policy, settings })));
        }
        if let Some(state) = state {
            lines.push(Line::State(Box::new(StateLine { run: run.clone(), at, epoch, state: *state })));
        }
        let decision = serde_json::value::to_raw_value(&entry.decision);
        let decision = decision.expect("has string keys only and no value that can refuse");
        let outcome = entry.outcome.clone();
        lines.push(Line::Tick(Box::new(Tick { run, at, snapshot, decision, outcome })));
        lines.iter().map(|line| line.text() + "\n").collect()
    }
}

#[cfg(test)]
mod tests;
