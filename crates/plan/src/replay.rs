//! A record through the same decisions again: whether they come out as they did, to the last bit, and what another
//! policy would have wanted at each moment.
//!
//! The latter is an open loop: the snapshots stay as they were recorded, and the other policy's wishes change nothing
//! in them. What would have come of those wishes is for a simulation of the recorded arrivals, which [`Signals`] has.

mod difference;
mod open;
mod signals;

use std::{mem, ops::RangeInclusive, time::Duration};

use autoscaler::{
    decide::{Decision, decide},
    policy::Policy,
    record::{Gap, PolicyLine, Run, StateLine, Tick},
    state::State,
};
use serde::Serialize;
use serde_json::Value;

pub use self::{
    difference::Difference,
    open::{Moment, Open, Wishes},
    signals::{Measured, NoTrace, Signals},
};

/// Runs of one model that are followed at a time: a loop that ends ticks beside its successor for a moment at most.
const RUNS: usize = 4;
/// Differences that are kept; more are counted.
const KEPT: usize = 5;

/// The replay of one model.
#[derive(Debug)]
pub struct Replay {
    window: RangeInclusive<Duration>,
    runs: Vec<Running>,
    found: Replayed,
}

/// What came of a replay.
#[derive(Debug, Default, Serialize)]
pub struct Replayed {
    /// Decisions that were made again.
    pub ticks: u64,
    /// Those that came out as they were recorded, to the last bit.
    pub identical: u64,
    /// Ticks without a memory to begin with: at the start of a record that goes on from another, and after gaps.
    pub skipped: u64,
    pub gaps: u64,
    /// Ticks that are not in the record.
    pub missed: u64,
    /// Recorded memories that are another than the replay's own.
    pub other_memories: u64,
    /// Times that the policy changed.
    pub policy_changes: u64,
    /// The first decisions that came out otherwise.
    pub differences: Vec<Difference>,
    /// What the other policy would have wanted, if there is one.
    pub open_loop: Option<Open>,
    pub signals: Signals,
    /// The last policy and the settings that it follows from.
    #[serde(skip)]
    pub last: Option<(Policy, Value)>,
}

/// One run, as far as it was replayed.
#[derive(Debug)]
struct Running {
    number: u64,
    policy: Option<Policy>,
    state: Option<State>,
    /// Another policy and its own memory.
    other: Option<(Policy, Option<State>)>,
}

impl Replay {
    /// Of the ticks within `window`; those before it are followed for their memory.
    #[must_use]
    pub fn new(window: RangeInclusive<Duration>) -> Self {
        Self { window, runs: Vec::new(), found: Replayed::default() }
    }

    /// Another process begins to write.
    pub fn began(&mut self) {
        self.runs.clear();
        self.found.signals.forget_gateways();
    }

    /// A line cannot be read: nobody knows what it was.
    pub fn tore(&mut self) {
        self.runs.iter_mut().for_each(Running::forget);
    }

    /// Takes a policy in, and the `other` one that is tried in its place.
    pub fn ruled(&mut self, line: PolicyLine, other: Option<Policy>) {
        let before = self.found.last.replace((line.policy.clone(), line.settings));
        if before.is_some_and(|(policy, _)| policy != line.policy) && self.window.contains(&line.at) {
            self.found.policy_changes += 1;
        }
        let Some(running) = self.running(&line.run) else { return };
        running.policy = Some(line.policy);
        let state = running.other.take().and_then(|(_, state)| state);
        running.other = other.map(|policy| (policy, state));
    }

    pub fn stated(&mut self, line: StateLine) {
        let within = self.window.contains(&line.at);
        let Some(running) = self.running(&line.run) else { return };
        let other = running.state.as_ref().is_some_and(|state| *state != line.state);
        if let Some((_, state)) = &mut running.other {
            state.get_or_insert_with(|| line.state.clone());
        }
        running.state = Some(line.state);
        self.found.other_memories += u64::from(other && within);
    }

    pub fn missed(&mut self, gap: &Gap) {
        self.found.gaps += 1;
        self.found.missed += gap.ticks;
        if let Some(running) = self.running(&gap.run) {
            running.forget();
        }
    }

    pub fn tick(&mut self, tick: &Tick) {
        let within = self.window.contains(&tick.at);
        let newest = self.runs.last().is_none_or(|run| run.number <= tick.run.number);
        if newest {
            self.found.signals.take(tick, within);
        }
        let Some(running) = self.running(&tick.run) else { return };
        let Some(decision) = running.decide(tick) else {
            self.found.skipped += u64::from(within);
            return;
        };
        let other = running.decide_otherwise(tick);
        if !within {
            return;
        }
        self.found.compare(tick, &decision);
        if let Some(other) = other.filter(|_| newest) {
            self.found.open_loop.get_or_insert_default().take(&decision, &other);
        }
    }

    #[must_use]
    pub fn finish(self) -> Replayed {
        self.found
    }

    /// The run of this name; `None` for one that ended long ago.
    fn running(&mut self, run: &Run) -> Option<&mut Running> {
        let place = self.runs.partition_point(|known| known.number < run.number);
        if self.runs.get(place).is_none_or(|known| known.number != run.number) {
            self.runs.insert(place, Running { number: run.number, policy: None, state: None, other: None });
            if self.runs.len() > RUNS {
                self.runs.remove(0);
            }
        }
        self.runs.iter_mut().find(|known| known.number == run.number)
    }
}

impl Running {
    fn forget(&mut self) {
        self.state = None;
        if let Some((_, state)) = &mut self.other {
            *state = None;
        }
    }

    fn decide(&mut self, tick: &Tick) -> Option<Decision> {
        Some(step(self.policy.as_ref()?, self.state.as_mut()?, tick))
    }

    fn decide_otherwise(&mut self, tick: &Tick) -> Option<Decision> {
        let (policy, state) = self.other.as_mut()?;
        Some(step(policy, state.as_mut()?, tick))
    }
}

/// As the loop does.
fn step(policy: &Policy, state: &mut State, tick: &Tick) -> Decision {
    state.observe(policy, &tick.snapshot, tick.at);
    let decision = decide(policy, state, &tick.snapshot, tick.at);
    state.commit(&decision);
    decision
}

impl Replayed {
    /// Whether there was anything to replay, and all of it came out as it was recorded.
    #[must_use]
    pub fn is_identical(&self) -> bool {
        self.ticks > 0 && self.identical == self.ticks
    }

    fn compare(&mut self, tick: &Tick, decision: &Decision) {
        self.ticks += 1;
        let again = serde_json::to_string(decision).expect("has string keys only");
        if again == tick.decision.get() {
            self.identical += 1;
        } else if self.differences.len() < KEPT {
            self.differences.push(Difference::new(tick, decision, &again));
        }
    }

    /// The signals, for a simulation.
    pub fn take_signals(&mut self) -> Signals {
        mem::take(&mut self.signals)
    }
}
