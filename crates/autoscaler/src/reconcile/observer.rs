//! What a model that is only observed would have had, and its metrics.

use std::{sync::Arc, time::Duration};

use metrics::{Counter, Gauge, counter, gauge};

use crate::{
    observe::{Observed, Shadow, Totals},
    policy::Policy,
    snapshot::Snapshot,
    state::State,
};

pub(super) struct Observer {
    shadow: Shadow,
    replicas: Gauge,
    sums: [Sum; 6],
}

/// A total, as a counter of whole units.
struct Sum {
    of: fn(&Totals) -> f64,
    counter: Counter,
    told: u64,
}

impl Observer {
    /// `state` has observed `snapshot` at `now`.
    pub(super) fn new(model: &Arc<str>, state: &State, snapshot: &Snapshot, now: Duration) -> Self {
        let model = || model.to_string();
        let cost =
            |fleet| counter!("tidegate_observe_replica_seconds_total", "model" => model(), "fleet" => fleet);
        let requests = |kind| counter!("tidegate_observe_requests_total", "model" => model(), "kind" => kind);
        let sum = |of, counter| Sum { of, counter, told: 0 };
        let sums = [
            sum(|totals| totals.actual_replica_seconds, cost("actual")),
            sum(|totals| totals.replica_seconds, cost("observed")),
            sum(|totals| totals.arrivals, requests("arrived")),
            sum(|totals| totals.misses, requests("missed")),
            sum(|totals| totals.predicted, requests("predicted")),
            sum(|totals| totals.predicted_misses, requests("predicted_missed")),
        ];
        let replicas = gauge!("tidegate_observe_replicas", "model" => model());
        Self { shadow: Shadow::new(state, snapshot, now), replicas, sums }
    }

    pub(super) fn follow(
        &mut self,
        policy: &Policy,
        state: &State,
        snapshot: &Snapshot,
        now: Duration,
    ) -> Observed {
        let observed = self.shadow.follow(policy, state, snapshot, now);
        self.replicas.set(f64::from(observed.decision.to));
        self.sums.iter_mut().for_each(|sum| sum.tell(&observed.totals));
        observed
    }
}

impl Sum {
    fn tell(&mut self, totals: &Totals) {
        let total = (self.of)(totals) as u64;
        self.counter.increment(total.saturating_sub(self.told));
        self.told = total;
    }
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer").field("shadow", &self.shadow).finish_non_exhaustive()
    }
}
