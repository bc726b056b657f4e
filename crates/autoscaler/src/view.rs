//! Policy, memory and snapshot brought together for one decision: the load, what a replica can take, and where
//! the fleet stands.

use std::{iter, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    capacity::{Basis, Capacity, Unit},
    coldstart::Progress,
    demand::{Envelope, envelope},
    policy::{Bounds, IdleAfter, Objective, Policy, Slo},
    schedule::{Cap, Lead, Look, OnRequest},
    snapshot::{FleetView, Gauges, Platform, ReplicaView, Snapshot},
    state::{Missing, State},
};

/// Seconds of the mean rates that say what a request is like.
const MEAN_SECONDS: usize = 60;
/// Replicas not listed yet whose readiness is reckoned one by one: others may set any number.
const ETAS_MOST: u32 = 1000;

/// Everything the demand terms and the rules look at.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) state: &'a State,
    pub(crate) now: Duration,
    pub(crate) wanted: u32,
    pub(crate) platform: &'a Platform,
    /// The policy's, as schedules change them.
    pub(crate) bounds: Bounds,
    pub(crate) schedule: Option<Look>,
    pub(crate) lead: Duration,
    pub(crate) load: Load,
    pub(crate) capacity: Capacity,
    pub(crate) fleet: Standing,
    /// When each replica that starts should be ready, soonest first.
    pub(crate) etas: Vec<Duration>,
    pub(crate) envelope: Envelope,
}

/// What the model has to do, in the units of its capacity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Arrivals per second in the last ten seconds.
    pub rate: f64,
    pub queued: f64,
    /// Age of the oldest request in the queue.
    pub oldest: Option<Duration>,
    /// In flight now.
    pub in_flight: f64,
    /// Mean in flight over the last ten seconds.
    pub in_flight_mean: f64,
    /// Whether a request arrived since the last look.
    pub arrived: bool,
}

/// How many replicas are how far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    pub ready: u32,
    /// Start, and are counted on.
    pub starting: u32,
    /// Nothing runs for them, and the fleet says why.
    pub unschedulable: u32,
    /// How long the first of those has waited.
    pub unschedulable_for: Duration,
    /// Do not start.
    pub failed: u32,
    pub draining: u32,
    /// Wished for, and not there although they should be by now.
    #[serde(default)]
    pub missing: u32,
    /// When the first of those that start should be ready, by the starts that were measured.
    pub first_ready: Option<Duration>,
    /// What is wrong with the first replica that is in trouble.
    pub trouble: Option<Arc<str>>,
}

impl<'a> View<'a> {
    pub(crate) fn new(policy: &'a Policy, state: &'a State, snapshot: &'a Snapshot, now: Duration) -> Self {
        let lead = state.starts.lead(policy.assumed.cold_start);
        let (fleet, etas) = standing(state, &snapshot.fleet, lead, now);
        let capacity = capacity(policy, state, now);
        let horizon =
            policy.horizon(lead).min(now.saturating_sub(state.life.woke)).max(Duration::from_secs(10));
        let load = load(state, capacity.unit, now);
        let seen = envelope::measure(&state.signals.window, &capacity, policy.slo.misses(), now, horizon);
        let past = state.past.as_ref();
        let envelope = past.map_or(seen, |past| past.or_higher(seen, capacity.unit, now));
        let FleetView { wanted, platform, .. } = &snapshot.fleet;
        let believed = state.starts.is_believed();
        let start = if believed { Lead::Measured(lead) } else { Lead::Assumed(lead) };
        let schedule = state.agenda.look(policy, start, now);
        let bounds = schedule.as_ref().map_or(policy.bounds, |look| bounds(look, *wanted));
        Self {
            policy,
            state,
            now,
            wanted: *wanted,
            platform,
            bounds,
            schedule,
            lead,
            load,
            capacity,
            fleet,
            etas,
            envelope,
        }
    }

    /// Whether anything waits or runs now.
    pub(crate) fn busy(&self) -> bool {
        self.load.queued + self.load.in_flight > 0.0
    }

    /// The cap of a schedule that allows no replica now.
    pub(crate) fn off(&self) -> Option<&Cap> {
        self.schedule.as_ref()?.scheduled.off()
    }

    /// No replica is wished for and nobody asks for one.
    pub(crate) fn asleep(&self) -> bool {
        self.wanted == 0 && !self.busy() && !self.load.arrived
    }

    /// How long the model must be idle before it may go to zero.
    pub(crate) fn idle_after(&self) -> Duration {
        match self.policy.idle_after {
            IdleAfter::Fixed(idle) => idle,
            IdleAfter::Auto => self.state.idle.learned_timeout(self.lead),
        }
    }

    /// Replicas that `rate` arrivals per second need; counted up to well above the most that are allowed, so
    /// that the owner can see what is missing.
    pub(crate) fn replicas_for(&self, rate: f64) -> u32 {
        let most = self.policy.bounds.max.saturating_mul(2).max(16);
        match &self.capacity.basis {
            Basis::Assumed => whole(rate / self.capacity.slots),
            Basis::Learned(learned) => {
                let percentile = self.policy.slo.response().percentile;
                learned.replicas(self.capacity.slots, rate, percentile, most)
            }
        }
    }
}

/// The bounds of the moment. Where a schedule allows no replica one may be there all the same: for whoever calls,
/// or, where calls are refused, to finish what was admitted before.
fn bounds(look: &Look, wanted: u32) -> Bounds {
    let max = match look.scheduled.off().map(|cap| cap.on_request) {
        None => look.bounds.max,
        Some(OnRequest::Wake) => 1,
        Some(OnRequest::Reject) => wanted.min(1),
    };
    Bounds { max, ..look.bounds }
}

/// The next whole number of replicas.
pub(crate) fn whole(replicas: f64) -> u32 {
    // A ratio that is whole but for rounding does not need one more.
    (replicas - 1e-9).ceil().max(0.0) as u32
}

pub(crate) fn capacity(policy: &Policy, state: &State, now: Duration) -> Capacity {
    match &policy.slo {
        Slo::Latency(slo) => capacity_for(slo, policy, state, now),
        Slo::Chat { ttft, tpot } => match state.signals.chat() {
            Some(model) => {
                let concurrency = state.signals.concurrency().unwrap_or(policy.assumed.concurrency);
                Capacity::chat(&model, ttft, tpot, concurrency)
            }
            None => Capacity::assumed(&policy.assumed, Unit::Streams),
        },
    }
}

/// Of whole answers.
fn capacity_for(slo: &Objective, policy: &Policy, state: &State, now: Duration) -> Capacity {
    let Some(model) = state.signals.latency() else {
        let unit = if state.signals.merges() { Unit::Rows } else { Unit::Requests };
        return Capacity::assumed(&policy.assumed, unit);
    };
    let recent = state.signals.window.total(now, MEAN_SECONDS);
    let requests = recent.arrivals.requests;
    let work =
        (requests >= 1.0 && recent.work > 0.0).then(|| Duration::from_secs_f64(recent.work / requests));
    Capacity::learned(&model, slo, work)
}

fn load(state: &State, unit: Unit, now: Duration) -> Load {
    let signals = &state.signals;
    let gauges = signals.gauges(now);
    let (queued, in_flight) = in_units(&gauges, unit);
    Load {
        rate: signals.window.rate(unit, now),
        queued,
        oldest: gauges.oldest,
        in_flight,
        in_flight_mean: signals.window.in_flight().of(unit),
        arrived: signals.arrived,
    }
}

fn in_units(gauges: &Gauges, unit: Unit) -> (f64, f64) {
    match unit {
        Unit::Requests | Unit::Streams => (gauges.queued_requests as f64, gauges.in_flight_requests as f64),
        Unit::Rows => (gauges.queued_rows as f64, gauges.in_flight_rows as f64),
    }
}

fn standing(state: &State, fleet: &FleetView, lead: Duration, now: Duration) -> (Standing, Vec<Duration>) {
    let mut standing = Standing::default();
    let mut etas = Vec::new();
    for replica in &fleet.replicas {
        let progress = state.starts.progress(replica, lead, now);
        standing.count(replica, progress);
        if let Progress::Starting { eta } = progress {
            etas.push(eta);
        }
    }
    let missing = fleet.wanted.saturating_sub(fleet.staying());
    match state.life.missing(now) {
        // What was asked for a moment ago is counted on as if it were listed already.
        Some(Missing::Expected { since }) => {
            standing.starting = standing.starting.saturating_add(missing);
            let eta = state.starts.eta(since, lead, now);
            etas.extend(iter::repeat_n(eta, missing.min(ETAS_MOST) as usize));
        }
        Some(Missing::Overdue) => standing.missing = missing,
        None => {}
    }
    etas.sort_unstable();
    standing.first_ready = etas.first().copied().filter(|_| state.starts.measured());
    (standing, etas)
}

impl Standing {
    fn count(&mut self, replica: &ReplicaView, progress: Progress) {
        match progress {
            Progress::Ready => self.ready += 1,
            Progress::Starting { .. } => self.starting += 1,
            Progress::Unschedulable { waited } => {
                self.unschedulable += 1;
                self.unschedulable_for = self.unschedulable_for.max(waited);
            }
            Progress::Failed => self.failed += 1,
            Progress::Draining => self.draining += 1,
        }
        if self.trouble.is_none() {
            self.trouble.clone_from(&replica.trouble);
        }
    }
}
