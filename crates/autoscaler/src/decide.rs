//! From demand to a number of replicas. A function of its arguments: the same policy, memory, snapshot and time
//! give the same decision, today or in a replay.

mod down;
mod limit;
mod up;
mod zero;

pub(crate) use self::down::{IN_FLIGHT_SHARE, MARGIN};

use std::{cmp::Ordering, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{
    limit::{Limit, LimitKind},
    zero::Zero,
};
use crate::{
    capacity::Capacity,
    demand::{self, Term, Why},
    policy::{Bounds, Policy, Slo},
    schedule::{OnRequest, Scheduled},
    snapshot::{Platform, Snapshot},
    state::State,
    view::View,
};
pub use crate::{
    signals::Health,
    view::{Load, Standing},
};

/// How many replicas there should be, and everything that led to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub at: Duration,
    /// Replicas wished for before.
    pub from: u32,
    /// Replicas wished for now.
    pub to: u32,
    pub reason: Reason,
    /// What the terms call for, before bounds and limits.
    pub target: u32,
    pub terms: Vec<Term>,
    /// What kept `to` from being `target`, in the order in which it was applied.
    pub limits: Vec<Limit>,
    /// When and why the model goes, or does not go, to zero.
    pub zero: Zero,
    /// The bounds that held, as schedules change the model's own.
    pub bounds: Bounds,
    /// What schedules say besides; `None` where there are none.
    #[serde(default)]
    pub schedule: Option<Scheduled>,
    pub inputs: Inputs,
}

/// What a decision was reckoned from, for its explanation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    pub slo: Slo,
    pub load: Load,
    pub capacity: Capacity,
    pub fleet: Standing,
    pub health: Health,
    /// The cold start that was reckoned with.
    pub cold_start: Duration,
    /// How long targets are remembered on the way down.
    #[serde(default)]
    pub down_window: Duration,
    /// What the platform said besides.
    #[serde(default)]
    pub platform: Platform,
}

/// Why the wish is what it is: used alike as log field, event and label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// As many as are called for.
    Steady,
    /// Fewer are called for, and a limit keeps them.
    Held,
    /// More are called for, and a limit forbids them.
    Limited,
    /// As many as somebody else has set.
    Override,
    /// Up from zero because somebody came.
    FirstRequest,
    /// Up because of what waits.
    Backlog,
    /// Up because of what arrives.
    Load,
    /// Up to the fewest that are allowed.
    MinReplicas,
    /// Up to what a schedule asks for, now or soon.
    ScheduleFloor,
    /// Up to what other days needed at this time.
    Season,
    /// Up by one beside replicas that do not start.
    Replacement,
    /// Down to the most that are allowed.
    MaxReplicas,
    /// Down to what a schedule allows.
    ScheduleCap,
    /// Down because fewer do.
    LowLoad,
    /// Down to zero.
    Idle,
    /// Down to one that goes on trying, of those that find no place to run.
    Unschedulable,
}

/// Which way a decision goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    Up,
    Down,
    Hold,
}

impl Reason {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 16] = [
        Self::Steady,
        Self::Held,
        Self::Limited,
        Self::Override,
        Self::FirstRequest,
        Self::Backlog,
        Self::Load,
        Self::MinReplicas,
        Self::ScheduleFloor,
        Self::Season,
        Self::Replacement,
        Self::MaxReplicas,
        Self::ScheduleCap,
        Self::LowLoad,
        Self::Idle,
        Self::Unschedulable,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Held => "held",
            Self::Limited => "limited",
            Self::Override => "override",
            Self::FirstRequest => "first_request",
            Self::Backlog => "backlog",
            Self::Load => "load",
            Self::MinReplicas => "min_replicas",
            Self::ScheduleFloor => "schedule_floor",
            Self::Season => "season",
            Self::Replacement => "replacement",
            Self::MaxReplicas => "max_replicas",
            Self::ScheduleCap => "schedule_cap",
            Self::LowLoad => "low_load",
            Self::Idle => "idle",
            Self::Unschedulable => "unschedulable",
        }
    }

    /// The reason of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    #[must_use]
    pub fn direction(self) -> Direction {
        match self {
            Self::Steady | Self::Held | Self::Limited | Self::Override => Direction::Hold,
            Self::FirstRequest
            | Self::Backlog
            | Self::Load
            | Self::MinReplicas
            | Self::ScheduleFloor
            | Self::Season
            | Self::Replacement => Direction::Up,
            Self::MaxReplicas | Self::ScheduleCap | Self::LowLoad | Self::Idle | Self::Unschedulable => {
                Direction::Down
            }
        }
    }
}

impl Direction {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Hold => "hold",
        }
    }
}

/// Decides how many replicas there should be at `now`. `state` has observed `snapshot` at `now`.
#[must_use]
pub fn decide(policy: &Policy, state: &State, snapshot: &Snapshot, now: Duration) -> Decision {
    let view = View::new(policy, state, snapshot, now);
    let health = state.signals.health(now);
    let zero = zero::check(&view);
    let terms = demand::terms(&view, zero);
    let called_for = demand::binding(&terms).map_or(0, |term| term.replicas);
    let target = if zero.is_due() || refuses(&view) { 0 } else { called_for };
    let mut limits = Vec::new();
    let set = overridden(&view, target, &mut limits);
    let to = set.unwrap_or_else(|| limited(&view, &health, zero, target, &mut limits));
    let reason = if set.is_some() { Reason::Override } else { reason(&view, zero, &terms, target, to) };
    let View { load, capacity, fleet, lead, wanted, platform, bounds, schedule, .. } = view;
    let platform = platform.clone();
    let (cold_start, down_window) = (lead, policy.down_window());
    let inputs = Inputs { slo: policy.slo, load, capacity, fleet, health, cold_start, down_window, platform };
    let schedule = schedule.map(|look| look.scheduled);
    Decision { at: now, from: wanted, to, reason, target, terms, limits, zero, bounds, schedule, inputs }
}

/// At zero, where a schedule has calls refused, none of them is a reason for a replica.
fn refuses(view: &View<'_>) -> bool {
    view.wanted == 0 && view.off().is_some_and(|cap| cap.on_request == OnRequest::Reject)
}

/// The number that somebody else has set, as long as it stands: without bounds, they knew what they did. Zero does
/// not stand against a request that came after it.
fn overridden(view: &View<'_>, target: u32, limits: &mut Vec<Limit>) -> Option<u32> {
    let manual = view.state.manual.as_ref()?;
    let goal = view.bounds.clamp(target);
    let by = Arc::clone(&manual.by);
    let came = view.load.queued > 0.0 || (view.load.arrived && view.platform.changed_by.is_none());
    if manual.to == 0 && came {
        limit::note(limits, LimitKind::OverrideEnded { by }, 0, goal);
        return None;
    }
    let kind = LimitKind::Override { by, from: manual.from, until: manual.until };
    limit::note(limits, kind, goal, manual.to);
    (goal != manual.to).then_some(manual.to)
}

/// Applies bounds and rules to `target`. Bounds come first, so that the rules know where to go, and last, so
/// that no rule can leave them.
fn limited(view: &View<'_>, health: &Health, zero: Zero, target: u32, limits: &mut Vec<Limit>) -> u32 {
    let bounds = view.bounds;
    let goal = bounds.clamp(target);
    let kind = match goal > target {
        true => LimitKind::Min,
        false if is_capped(view) => LimitKind::ScheduleCap,
        false => LimitKind::Max,
    };
    limit::note(limits, kind, target, goal);
    let goal = up::replaced(view, goal);
    let ruled = if goal < view.wanted {
        down::limited(view, health, zero, goal, limits)
    } else {
        up::limited(view, goal, limits)
    };
    bounds.clamp(ruled)
}

fn is_capped(view: &View<'_>) -> bool {
    view.schedule.as_ref().is_some_and(|look| look.scheduled.cap.is_some())
}

fn reason(view: &View<'_>, zero: Zero, terms: &[Term], target: u32, to: u32) -> Reason {
    match to.cmp(&view.wanted) {
        Ordering::Greater => reason_up(view, terms, target, to),
        Ordering::Less => reason_down(view, zero, target, to),
        Ordering::Equal if target > to => Reason::Limited,
        Ordering::Equal if view.bounds.clamp(target) < to => Reason::Held,
        Ordering::Equal => Reason::Steady,
    }
}

fn reason_up(view: &View<'_>, terms: &[Term], target: u32, to: u32) -> Reason {
    if target <= view.wanted {
        return if to <= view.bounds.min { Reason::MinReplicas } else { Reason::Replacement };
    }
    match demand::binding(terms).map(|term| &term.why) {
        Some(Why::Schedule(_)) => Reason::ScheduleFloor,
        Some(Why::Season(_)) => Reason::Season,
        _ if view.wanted == 0 => Reason::FirstRequest,
        Some(Why::Backlog(_)) => Reason::Backlog,
        _ => Reason::Load,
    }
}

fn reason_down(view: &View<'_>, zero: Zero, target: u32, to: u32) -> Reason {
    if zero == Zero::Off || (to == view.bounds.max && is_capped(view)) {
        Reason::ScheduleCap
    } else if to == view.bounds.max {
        Reason::MaxReplicas
    } else if to == 0 {
        Reason::Idle
    } else if target > to && view.fleet.unschedulable > 0 {
        Reason::Unschedulable
    } else {
        Reason::LowLoad
    }
}
