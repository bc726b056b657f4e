//! Replicas for what waits: the queue as it will be when a replica asked for now could help.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Term, Why};
use crate::{
    capacity::{Basis, Learned},
    view::{Load, View, whole},
};

/// Time in which a backlog is to be worked off, in seconds. Whoever waits in it is late already, and each replica
/// that is added for it stays for minutes.
pub(crate) const DRAIN_SECONDS: f64 = 120.0;
/// The arrival rate is expected to last for one cold start if it has lasted as long, within these bounds in seconds.
const RATE_SECONDS: (u64, u64) = (10, 60);
/// Part of what the ready replicas can take within the patience that may wait: they get by themselves through that.
const WAITING_SHARE: f64 = 0.5;

/// A queue and what it takes to clear it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backlog {
    /// Waiting now.
    pub queued: f64,
    /// In flight now.
    pub in_flight: f64,
    /// Waiting one cold start from now, at the present rate, with the replicas that will be ready by then.
    pub projected: f64,
    /// Arrivals per second, over as long as a start takes, 10 to 60 s.
    pub rate: f64,
    /// What one replica can take.
    pub per_replica: PerReplica,
}

/// What one replica can take, in whichever measure is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PerReplica {
    /// Units at a time, assumed.
    Room(f64),
    /// Units per second, learned.
    Rate(f64),
}

pub(crate) fn term(view: &View<'_>) -> Term {
    let (backlog, needed) = match &view.capacity.basis {
        Basis::Assumed => assumed(view),
        Basis::Learned(learned) => projected(view, learned),
    };
    let asleep = view.asleep() || backlog.projected <= harmless(view);
    let replicas = if asleep { 0 } else { whole(needed) };
    Term { replicas, why: Why::Backlog(backlog) }
}

/// The queue that is none: half of what a replica has at a time, or half of what those that are ready can take before
/// anybody is late.
fn harmless(view: &View<'_>) -> f64 {
    let half = view.capacity.slots / 2.0;
    let Basis::Learned(learned) = &view.capacity.basis else { return half };
    let within_patience = f64::from(view.fleet.ready) * learned.rate * learned.patience.as_secs_f64();
    half.max(within_patience * WAITING_SHARE)
}

/// Without a rate all that can be said is how many replicas have room for what is there.
fn assumed(view: &View<'_>) -> (Backlog, f64) {
    let Load { queued, in_flight, rate, .. } = view.load;
    let room = view.capacity.slots;
    let per_replica = PerReplica::Room(room);
    let backlog = Backlog { queued, in_flight, projected: queued, rate, per_replica };
    (backlog, (queued + in_flight) / room)
}

fn projected(view: &View<'_>, learned: &Learned) -> (Backlog, f64) {
    let Load { queued, in_flight, .. } = view.load;
    let rate = lasting_rate(view);
    let until = view.now + view.lead;
    let projected = project(queued, rate, learned.rate, view, until);
    let backlog = Backlog { queued, in_flight, projected, rate, per_replica: PerReplica::Rate(learned.rate) };
    (backlog, (rate + projected / DRAIN_SECONDS) / learned.rate)
}

/// What arrives per second and can be expected to go on until a replica asked for now is ready: a burst of a few
/// seconds is over by then. Since the model was last at zero; there nothing came before what comes now.
fn lasting_rate(view: &View<'_>) -> f64 {
    let (least, most) = RATE_SECONDS;
    let awake = if view.wanted == 0 { 0 } else { view.now.saturating_sub(view.state.life.woke).as_secs() };
    let seconds = view.lead.as_secs().min(awake).clamp(least, most);
    view.state.signals.window.mean_rate(view.capacity.unit, view.now, seconds as usize)
}

/// The queue at `until`: it grows by what arrives and shrinks by what the ready replicas take, and each
/// starting one from its ETA on.
fn project(queued: f64, rate: f64, per_replica: f64, view: &View<'_>, until: Duration) -> f64 {
    let mut queue = queued;
    let mut at = view.now;
    let mut serving = f64::from(view.fleet.ready);
    for change in view.etas.iter().copied().filter(|eta| *eta < until).chain([until]) {
        let span = change.saturating_sub(at).as_secs_f64();
        queue = f64::max(queue + (rate - serving * per_replica) * span, 0.0);
        at = at.max(change);
        serving += 1.0;
    }
    queue
}
