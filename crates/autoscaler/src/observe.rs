//! What a model that is only observed would have had: the same decisions over a fleet that exists on paper, which
//! starts replicas as fast as real ones were measured to start; and what that fleet would have cost and kept.
//!
//! Load is what the real replicas have: a smaller fleet would have had a longer queue. So what its requests would
//! have met is predicted from the rate of arrivals, and called a prediction.

mod totals;

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use self::totals::Tally;
pub use self::totals::Totals;
use crate::{
    decide::{Decision, decide},
    policy::Policy,
    snapshot::{FleetView, Phase, Platform, ReplicaView, Snapshot},
    state::State,
};

/// What would have been done, and what it would have come to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// The decision of the fleet on paper: `from` what it has, `to` what it is to have.
    pub decision: Decision,
    /// Replicas that there are meant to be in fact.
    pub actual: u32,
    pub totals: Totals,
}

/// The fleet on paper, and the memory of its decisions. As large as a [`State`] and a fleet are.
#[derive(Clone, Debug)]
pub struct Shadow {
    state: State,
    fleet: FleetView,
    tally: Tally,
    born: u64,
}

impl Shadow {
    /// Begins with the replicas there are. `state` has observed `snapshot` at `now`.
    #[must_use]
    pub fn new(state: &State, snapshot: &Snapshot, now: Duration) -> Self {
        let staying = snapshot.fleet.replicas.iter().filter(|replica| replica.phase != Phase::Draining);
        let replicas = staying.map(on_paper).collect();
        let fleet = FleetView { wanted: snapshot.fleet.wanted, replicas, ..FleetView::default() };
        Self { state: state.clone(), fleet, tally: Tally::new(&snapshot.gateways, now), born: 0 }
    }

    /// Decides what would be done at `now`, and does it on paper. `state` has observed `snapshot` at `now`.
    pub fn follow(&mut self, policy: &Policy, state: &State, snapshot: &Snapshot, now: Duration) -> Observed {
        self.tally.add(snapshot, &self.fleet.replicas, now);
        self.start(state.lead(policy), now);
        self.fleet.platform = paper_platform(&snapshot.fleet.platform);
        let seen = Snapshot { gateways: snapshot.gateways.clone(), fleet: self.fleet.clone() };
        self.state.adopt_starts(state);
        self.state.observe(policy, &seen, now);
        let decision = decide(policy, &self.state, &seen, now);
        self.state.commit(&decision);
        self.tally.predict(&decision);
        self.scale(decision.to, now);
        let totals = self.tally.totals;
        Observed { decision, actual: snapshot.fleet.wanted, totals }
    }

    /// Those that have started for as long as a start takes are ready.
    fn start(&mut self, lead: Duration, now: Duration) {
        for replica in self.fleet.replicas.iter_mut().filter(|replica| replica.phase != Phase::Ready) {
            let ready = replica.created + lead;
            if now >= ready {
                (replica.phase, replica.ready_since) = (Phase::Ready, Some(ready));
            }
        }
    }

    /// Replicas that are not ready go first, and then the youngest.
    fn scale(&mut self, to: u32, now: Duration) {
        self.fleet.wanted = to;
        let replicas = &mut self.fleet.replicas;
        replicas.sort_by_key(|replica| (replica.phase != Phase::Ready, replica.created));
        replicas.truncate(to as usize);
        while replicas.len() < to as usize {
            self.born += 1;
            let id: Arc<str> = format!("paper-{}", self.born).into();
            let replica = ReplicaView {
                id,
                phase: Phase::Starting,
                created: now,
                ready_since: None,
                restarts: 0,
                trouble: None,
            };
            replicas.push(on_paper(&replica));
        }
    }
}

/// A replica whose start teaches nothing: it takes as long as it is believed to.
fn on_paper(replica: &ReplicaView) -> ReplicaView {
    let phase = if replica.phase == Phase::Ready { Phase::Ready } else { Phase::Starting };
    ReplicaView { phase, restarts: 1, trouble: None, ..replica.clone() }
}

/// What holds for a fleet on paper too: what forbids to believe what is seen.
fn paper_platform(platform: &Platform) -> Platform {
    Platform { rollout: platform.rollout, unheard: platform.unheard, ..Platform::default() }
}
