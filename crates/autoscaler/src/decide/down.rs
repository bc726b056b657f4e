//! The way down: late, in small steps, and only on good information.

use std::time::Duration;

use super::{
    Zero,
    limit::{Limit, LimitKind, note},
};
use crate::{capacity::Basis, signals::Health, view::View};

/// How much more load than seen the smaller fleet must bear.
pub(crate) const MARGIN: f64 = 1.1;
/// Part of the smaller fleet's slots that may be in use.
pub(crate) const IN_FLIGHT_SHARE: f64 = 0.8;
/// Part of the fleet that may go in one step.
const STEP: u32 = 4;
/// Requests in the last minute below which misses prove nothing.
const BURN_ARRIVALS: f64 = 10.0;
/// How many times the misses the SLO allows hold the fleet.
const BURN: f64 = 2.0;
const BURN_SECONDS: usize = 60;
/// How long a process that may have had a predecessor leaves what it found.
const TAKEOVER: Duration = Duration::from_secs(60);

/// `goal`, which is below the present wish, within what the rules of the way down allow.
pub(super) fn limited(
    view: &View<'_>,
    health: &Health,
    zero: Zero,
    goal: u32,
    limits: &mut Vec<Limit>,
) -> u32 {
    let wanted = view.wanted;
    let veto = unheard(health).or_else(|| unsettled(view)).or_else(|| veto(view, zero));
    if let Some(veto) = veto {
        note(limits, veto, goal, wanted);
        return wanted;
    }
    if zero.is_due() {
        return goal;
    }
    let window = view.policy.down_window();
    let bounded = view.bounds.clamp(view.state.highest_target(view.now, window));
    let kept = bounded.clamp(goal, wanted);
    note(limits, LimitKind::DownWindow { window }, goal, kept);
    if kept == wanted {
        return wanted;
    }
    stepped(view, kept, limits)
}

/// One step towards `goal`, no further than the smaller fleet can bear.
fn stepped(view: &View<'_>, goal: u32, limits: &mut Vec<Limit>) -> u32 {
    let wanted = view.wanted;
    let next = view.state.life.stepped.map(|at| at + view.policy.down_spacing());
    if let Some(until) = next.filter(|until| view.now < *until) {
        note(limits, LimitKind::DownSpacing { until }, goal, wanted);
        return wanted;
    }
    let step = goal.max(wanted - (wanted / STEP).max(1));
    note(limits, LimitKind::DownStep, goal, step);
    let borne = (step..wanted).find(|n| bears(view, *n)).unwrap_or(wanted);
    note(limits, LimitKind::Consolidation, step, borne);
    borne
}

/// Whether `n` replicas hold the SLO with a margin over what was seen.
fn bears(view: &View<'_>, n: u32) -> bool {
    let room = f64::from(n) * view.capacity.slots;
    let in_flight = view.load.in_flight_mean.max(view.load.in_flight);
    let quiet = match view.capacity.basis {
        // An assumed capacity has its share taken off already.
        Basis::Assumed => in_flight <= room,
        Basis::Learned(_) => in_flight <= IN_FLIGHT_SHARE * room,
    };
    quiet && view.replicas_for(view.envelope.peak * MARGIN) <= n
}

fn unheard(health: &Health) -> Option<LimitKind> {
    if let Some((gateway, age)) = health.stale.first() {
        return Some(LimitKind::Stale { gateway: gateway.clone(), age: *age });
    }
    (health.fresh == 0).then_some(LimitKind::NoReports)
}

/// The platform does not tell, or not yet reliably, how things stand.
fn unsettled(view: &View<'_>) -> Option<LimitKind> {
    if let Some(age) = view.platform.unheard {
        Some(LimitKind::Unheard { age })
    } else if let Some(until) = view.state.life.settled_at() {
        Some(LimitKind::HeardAgain { until })
    } else {
        view.platform.rollout.then_some(LimitKind::Rollout)
    }
}

/// A reason to keep every replica for now, although fewer would do. Idleness has its own history.
fn veto(view: &View<'_>, zero: Zero) -> Option<LimitKind> {
    let idle = zero.is_due();
    let history = if idle { Duration::ZERO } else { view.policy.down_window() };
    let takeover = if view.platform.shared { TAKEOVER } else { Duration::ZERO };
    let until = view.state.life.since + history.max(takeover);
    if view.fleet.ready == 0 && view.load.queued > 0.0 {
        Some(LimitKind::Waiting)
    } else if view.now < until {
        Some(LimitKind::Young { until })
    } else if idle {
        None
    } else {
        burning(view)
    }
}

/// The SLO is being missed, and more replicas could help: where a single call takes longer than the SLO allows,
/// they could not, and would be kept for nothing.
fn burning(view: &View<'_>) -> Option<LimitKind> {
    let Basis::Learned(learned) = view.capacity.basis else { return None };
    let recent = view.state.signals.window.total(view.now, BURN_SECONDS);
    let (misses, arrivals) = (recent.misses, recent.arrivals.requests);
    let allowed = view.policy.slo.misses() * arrivals * BURN;
    let burns = arrivals >= BURN_ARRIVALS && misses > allowed.max(1.0) && !learned.patience.is_zero();
    burns.then_some(LimitKind::SloBurning { misses, arrivals })
}
