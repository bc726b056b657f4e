//! What the autoscaler remembers of one model between decisions. It changes in two ways only, both a function of
//! their arguments: by what is observed, and by what was decided.

mod digest;
mod learned;
mod life;

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    coldstart::ColdStarts,
    decide::Decision,
    demand::envelope,
    idle::Idle,
    manual::Manual,
    policy::{Mode, Policy},
    schedule::Agenda,
    season::{self, Season},
    signals::Signals,
    snapshot::{FleetView, Snapshot},
    view,
};

pub use self::{
    digest::Digest,
    learned::{Learned, Needed, RecordedPeak},
};
pub(crate) use self::{
    digest::Peak,
    life::{Life, Missing},
};
pub use crate::coldstart::Starts;

/// Form of a saved state; another one is not read.
const VERSION: u32 = 1;
/// How long targets are remembered at most.
const TARGETS_KEPT: Duration = Duration::from_secs(300);
/// Least history of signals: what is remembered of a time of day is of so long.
const WINDOW_LEAST: Duration = season::SLOT;

/// The memory of one model. Grows to a few hundred seconds of history and stays there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub(crate) signals: Signals,
    pub(crate) starts: ColdStarts,
    pub(crate) idle: Idle,
    #[serde(default)]
    pub(crate) season: Season,
    pub(crate) life: Life,
    /// The number somebody else has set, while it stands.
    #[serde(default)]
    pub(crate) manual: Option<Manual>,
    /// The peak that another process saw before this one took over.
    #[serde(default)]
    pub(crate) past: Option<Peak>,
    /// The peak that the last decision was reckoned from.
    #[serde(default)]
    peak: Option<Peak>,
    /// The highest peak of the last days.
    #[serde(default)]
    highest: Option<Peak>,
    /// What the policy's schedules make of these days.
    #[serde(skip)]
    pub(crate) agenda: Agenda,
    /// Targets by second, newest last.
    targets: VecDeque<(Duration, u32)>,
}

/// Why a saved state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("the saved state is not readable: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("the saved state has form {found}, not {known}")]
    Version { found: u32, known: u32 },
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
        let wished = self.life.wish();
        // At first there are none but those that came in a digest.
        let before = self.life.observed();
        let first = before.is_none();
        if self.life.resumes(now) && !first {
            self.targets.clear();
        }
        self.agenda.follow(policy, now);
        let lead = self.starts.lead(policy.assumed.cold_start);
        let starts = self.starts.observe(&snapshot.fleet.replicas, lead, now);
        self.signals.observe(&snapshot.gateways, now, policy.horizon(lead).max(WINDOW_LEAST));
        let gauges = self.signals.gauges(now);
        if self.signals.arrived {
            self.life.asked = before;
        }
        if self.signals.arrived || gauges.queued_requests + gauges.in_flight_requests > 0 {
            self.idle.busy(now);
        }
        let health = self.signals.health(now);
        let all_heard = health.stale.is_empty();
        self.life.observe(&snapshot.fleet, all_heard, now);
        self.observe_manual(policy, wished, &snapshot.fleet, now);
        self.observe_season(policy, all_heard && health.fresh > 0, now);
        starts
    }

    /// Keeps what the last five minutes needed when they are over, if all of them were seen and every gateway is
    /// heard: what one has not told yet is no silence.
    fn observe_season(&mut self, policy: &Policy, all_heard: bool, now: Duration) {
        let Some(closed) = self.season.turns(&season::zone(policy), now) else { return };
        let seen = all_heard && self.life.since + season::SLOT <= now;
        let capacity = view::capacity(policy, self, now);
        let misses = policy.slo.misses();
        let needed = envelope::to_remember(&self.signals.window, &capacity, misses, now, season::SLOT);
        if let Some(rate) = needed.filter(|_| seen) {
            self.season.keep(closed, rate, capacity.unit);
        }
    }

    /// Where nothing is written it means nothing that somebody else writes.
    fn observe_manual(&mut self, policy: &Policy, wished: Option<u32>, fleet: &FleetView, now: Duration) {
        let ours = policy.mode == Mode::Enforce && fleet.platform.rival.is_none();
        self.manual = self.manual.take().filter(|_| ours);
        if ours {
            self.manual = Manual::observe(self.manual.take(), wished, fleet, now);
        }
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
        // What somebody else has set has done its part once demand calls for it too, or has overcome it.
        self.manual = self.manual.take().filter(|manual| target != manual.to && decision.to == manual.to);
        self.peak = Peak::of(decision);
        self.highest = Peak::highest(self.highest, self.peak, self.season.unit());
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
            return Err(RestoreError::Version { found: form.version, known: VERSION });
        }
        let Restored { mut state } = serde_json::from_str(json)?;
        if state.life.began_after(now) {
            state.signals.window = Default::default();
            state.idle.busy_at = None;
            state.manual = None;
            state.past = None;
            state.highest = None;
            state.season = Season::default();
        }
        state.signals.forget_gateways();
        state.life = state.life.restored(now);
        state.targets.clear();
        Ok(state)
    }

    /// The cold start to reckon with.
    pub(crate) fn lead(&self, policy: &Policy) -> Duration {
        self.starts.lead(policy.assumed.cold_start)
    }

    /// Goes on with the starts that `other` has measured.
    pub(crate) fn adopt_starts(&mut self, other: &Self) {
        self.starts.clone_from(&other.starts);
    }

    /// What was learned, in little room, for another process that takes over.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self)
    }

    /// A state that knows what was learned, by [`Digest::to_json`], and nothing of the present.
    ///
    /// # Errors
    /// [`RestoreError`] if it is no digest, or one of another version.
    pub fn from_digest(json: &str, now: Duration) -> Result<Self, RestoreError> {
        Ok(Digest::from_json(json)?.restore(now))
    }

    /// The highest target within `window` before `now`.
    pub(crate) fn highest_target(&self, now: Duration, window: Duration) -> u32 {
        let recent = self.targets.iter().filter(|(at, _)| now.saturating_sub(*at) <= window);
        recent.map(|(_, target)| *target).max().unwrap_or(0)
    }
}
