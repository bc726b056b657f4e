//! What the autoscaler remembers of one model between decisions. It changes in two ways only, both a function of
//! their arguments: by what is observed, and by what was decided.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    coldstart::ColdStarts,
    decide::Decision,
    idle::Idle,
    policy::Policy,
    signals::Signals,
    snapshot::{Phase, Snapshot},
};

pub use crate::coldstart::Starts;

/// Form of a saved state; another one is not read.
const VERSION: u32 = 1;
/// A pause between observations beyond which history has a hole, and is begun anew.
const GAP: Duration = Duration::from_secs(15);
/// How long targets are remembered at most.
const TARGETS_KEPT: Duration = Duration::from_secs(300);
/// Least history of signals: what the rules that look at the last minute need.
const WINDOW_LEAST: Duration = Duration::from_secs(60);
/// How long wishes are remembered, for the pace of the way up.
pub(crate) const UP_PERIOD: Duration = Duration::from_secs(15);

/// The memory of one model. Grows to a few hundred seconds of history and stays there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub(crate) signals: Signals,
    pub(crate) starts: ColdStarts,
    pub(crate) idle: Idle,
    pub(crate) life: Life,
    /// Targets by second, newest last.
    targets: VecDeque<(Duration, u32)>,
}

/// Since when things are as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Life {
    /// The latest observation.
    observed: Option<Duration>,
    /// Since when there is history without a hole.
    pub(crate) since: Duration,
    /// When replicas were last wished for after none were.
    pub(crate) woke: Duration,
    /// When the first of the present replicas became ready.
    pub(crate) ready_since: Option<Duration>,
    /// When the wish last changed.
    pub(crate) stepped: Option<Duration>,
    /// The wish at each observation of the last seconds, newest last.
    wishes: VecDeque<(Duration, u32)>,
}

/// Why a saved state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("the saved state is not readable: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("the saved state has form {found}, not {VERSION}")]
    Version { found: u32 },
}

#[derive(Serialize)]
struct Saved<'a> {
    version: u32,
    state: &'a State,
}

#[derive(Deserialize)]
struct Form {
    version: u32,
}

#[derive(Deserialize)]
struct Restored {
    state: State,
}

impl State {
    /// Takes in what was seen at `now`. Times must not go back; after a pause or a step back history begins anew.
    pub fn observe(&mut self, policy: &Policy, snapshot: &Snapshot, now: Duration) -> Starts {
        if self.life.resumes(now) {
            self.targets.clear();
        }
        let lead = self.starts.lead(policy.assumed.cold_start);
        let starts = self.starts.observe(&snapshot.fleet.replicas, lead, now);
        self.signals.observe(&snapshot.gateways, now, policy.horizon(lead).max(WINDOW_LEAST));
        let gauges = self.signals.gauges(now);
        if self.signals.arrived || gauges.queued_requests + gauges.in_flight_requests > 0 {
            self.idle.busy(now);
        }
        let ready = snapshot.fleet.replicas.iter().any(|r| r.phase == Phase::Ready);
        self.life.observe(snapshot.fleet.wanted, ready, now);
        starts
    }

    /// Takes in what was decided, so that later decisions know the targets of the last minutes.
    pub fn commit(&mut self, decision: &Decision) {
        let (now, target) = (decision.at, decision.bounds.clamp(decision.target));
        match self.targets.back_mut() {
            Some((at, highest)) if at.as_secs() == now.as_secs() => *highest = target.max(*highest),
            _ => self.targets.push_back((now, target)),
        }
        while self.targets.front().is_some_and(|(at, _)| now.saturating_sub(*at) > TARGETS_KEPT) {
            self.targets.pop_front();
        }
    }

    /// The state as JSON, to be restored by another process whose times have the same epoch.
    #[must_use]
    pub fn to_json(&self) -> String {
        let saved = Saved { version: VERSION, state: self };
        serde_json::to_string(&saved).expect("has string keys only and no value that can refuse")
    }

    /// The state saved by [`State::to_json`]. What it knows of the fleet's present is not believed; what it
    /// learned is. If `now` lies before what was saved, the saver's times are of another epoch: then only what
    /// has no time in it is kept.
    ///
    /// # Errors
    /// [`RestoreError`] if it is no state, or one of another version.
    pub fn from_json(json: &str, now: Duration) -> Result<Self, RestoreError> {
        let form: Form = serde_json::from_str(json)?;
        if form.version != VERSION {
            return Err(RestoreError::Version { found: form.version });
        }
        let Restored { mut state } = serde_json::from_str(json)?;
        if state.life.observed.is_none_or(|observed| observed > now) {
            state.signals.window = Default::default();
            state.idle.busy_at = None;
        }
        state.signals.forget_gateways();
        state.life = Life { woke: state.life.woke.min(now), ..Life::default() };
        state.targets.clear();
        Ok(state)
    }

    /// The highest target within `window` before `now`.
    pub(crate) fn highest_target(&self, now: Duration, window: Duration) -> u32 {
        let recent = self.targets.iter().filter(|(at, _)| now.saturating_sub(*at) <= window);
        recent.map(|(_, target)| *target).max().unwrap_or(0)
    }
}

impl Life {
    /// The least wish of the last seconds: what the pace of the way up is reckoned from.
    pub(crate) fn least_wish(&self) -> Option<u32> {
        self.wishes.iter().map(|(_, wish)| *wish).min()
    }

    /// Notes that an observation is made, and says whether there was a hole before it.
    fn resumes(&mut self, now: Duration) -> bool {
        let hole = self.observed.is_none_or(|before| before > now || now - before > GAP);
        self.observed = Some(now);
        if hole {
            *self = Self { observed: self.observed, since: now, woke: self.woke.min(now), ..Self::default() };
        }
        hole
    }

    fn observe(&mut self, wanted: u32, ready: bool, now: Duration) {
        if let Some((_, before)) = self.wishes.back().copied().filter(|(_, before)| *before != wanted) {
            self.stepped = Some(now);
            if before == 0 {
                self.woke = now;
            }
        }
        self.ready_since = if ready { self.ready_since.or(Some(now)) } else { None };
        match self.wishes.back_mut() {
            Some((at, wish)) if *wish == wanted && at.as_secs() == now.as_secs() => *at = now,
            _ => self.wishes.push_back((now, wanted)),
        }
        while self.wishes.front().is_some_and(|(at, _)| now.saturating_sub(*at) >= UP_PERIOD) {
            self.wishes.pop_front();
        }
    }
}
