//! The way up: at once, at a bounded pace, and not past replicas that cannot start.

use std::time::Duration;

use super::limit::{Limit, LimitKind, note};
use crate::view::{Standing, View};

/// Replicas that may be added within 15 s however small the fleet is.
const UP_PACE: u32 = 4;
/// After this long of finding no place, one replica is left to try.
const PROBE_AFTER: Duration = Duration::from_secs(600);

/// One more than `goal` where some replica will not start, so that capacity is not short of it for ever.
pub(super) fn replaced(view: &View<'_>, goal: u32) -> u32 {
    let needed = goal > view.fleet.ready + view.fleet.starting;
    let more = u32::from(view.fleet.failed > 0 && needed);
    view.bounds.clamp(goal + more)
}

/// `goal`, which is not below the present wish, within what the rules of the way up allow.
pub(super) fn limited(view: &View<'_>, goal: u32, limits: &mut Vec<Limit>) -> u32 {
    let least = view.state.life.least_wish().unwrap_or(view.wanted).min(view.wanted);
    let pace = goal.min(least.saturating_add(UP_PACE).max(least.saturating_mul(2)).max(view.wanted));
    note(limits, LimitKind::UpPace, goal, pace);
    let degraded = pace.min(cap_degraded(&view.fleet, view.wanted));
    let trouble = view.fleet.trouble.clone();
    note(limits, LimitKind::Degraded { failed: view.fleet.failed, trouble: trouble.clone() }, pace, degraded);
    let placed = degraded.min(cap_unschedulable(&view.fleet, view.wanted));
    let kind = LimitKind::Unschedulable { pending: view.fleet.unschedulable, trouble };
    note(limits, kind, degraded, placed);
    let missing = view.fleet.missing;
    let created = if missing > 0 { placed.min(view.wanted) } else { placed };
    note(limits, LimitKind::NotCreated { missing }, placed, created);
    created
}

/// While a replica fails to start, one more may be tried, and only while no other is on its way.
fn cap_degraded(fleet: &Standing, wanted: u32) -> u32 {
    match fleet.failed {
        0 => u32::MAX,
        1 if fleet.starting + fleet.unschedulable == 0 => wanted.saturating_add(1),
        _ => wanted,
    }
}

/// While replicas find no place no more are asked for; after ten minutes one is left to try.
fn cap_unschedulable(fleet: &Standing, wanted: u32) -> u32 {
    match fleet.unschedulable {
        0 => u32::MAX,
        _ if fleet.unschedulable_for > PROBE_AFTER => {
            wanted.min(fleet.ready + fleet.starting + fleet.failed + 1)
        }
        _ => wanted,
    }
}
