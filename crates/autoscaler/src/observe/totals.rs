//! What has come of observing so far.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    capacity::Basis,
    decide::Decision,
    snapshot::{Counters, GatewayView, ReplicaView, Snapshot},
};

/// A pause between two looks beyond which nobody knows what was.
const GAP: Duration = Duration::from_secs(15);

/// Sums since observing began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// When it began.
    pub since: Duration,
    /// For how long it was looked at.
    pub observed: Duration,
    /// Replica-seconds of the real fleet, from creation to the end, and of the one on paper.
    pub actual_replica_seconds: f64,
    pub replica_seconds: f64,
    /// Requests that arrived, and those that missed the SLO.
    pub arrivals: f64,
    pub misses: f64,
    /// Those of the arrivals for which it was predicted whether they would keep the SLO with the fleet on paper,
    /// and the sum of the predicted chances that they would not.
    pub predicted: f64,
    pub predicted_misses: f64,
}

impl Totals {
    /// Part of the requests that kept the SLO; `None` before there were any.
    #[must_use]
    pub fn within(&self) -> Option<f64> {
        share(self.arrivals, self.misses)
    }

    /// The same as predicted for the fleet on paper, of the requests of which it was.
    #[must_use]
    pub fn predicted_within(&self) -> Option<f64> {
        share(self.predicted, self.predicted_misses)
    }

    /// By how much replica-seconds would have changed, as a part of the real ones; `None` where there were none.
    #[must_use]
    pub fn saving(&self) -> Option<f64> {
        let actual = self.actual_replica_seconds;
        (actual > 0.0).then(|| self.replica_seconds / actual - 1.0)
    }
}

fn share(all: f64, misses: f64) -> Option<f64> {
    (all > 0.0).then(|| (1.0 - misses / all).clamp(0.0, 1.0))
}

/// The sums, and what they go on from.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) totals: Totals,
    at: Duration,
    /// Of each gateway that there is.
    counters: BTreeMap<Arc<str>, Counters>,
    /// Requests since the last look, for which nothing was predicted yet.
    came: f64,
}

impl Tally {
    pub(super) fn new(gateways: &[GatewayView], now: Duration) -> Self {
        let totals = Totals { since: now, ..Totals::default() };
        Self { totals, at: now, counters: counters(gateways), came: 0.0 }
    }

    /// Adds what was since the last look, in which the fleet on paper had `replicas`.
    pub(super) fn add(&mut self, snapshot: &Snapshot, replicas: &[ReplicaView], now: Duration) {
        let span = now.checked_sub(self.at).filter(|span| *span <= GAP).unwrap_or_default();
        self.at = now;
        let seconds = span.as_secs_f64();
        self.totals.observed += span;
        self.totals.actual_replica_seconds += seconds * snapshot.fleet.replicas.len() as f64;
        self.totals.replica_seconds += seconds * replicas.len() as f64;
        let after = counters(&snapshot.gateways);
        let (mut came, mut missed) = (0, 0);
        for (name, after) in &after {
            // The first word of a gateway tells where its counters stand.
            let since = after.since(self.counters.get(name).unwrap_or(after));
            came += since.arrivals;
            missed += since.slo_misses;
        }
        self.counters = after;
        self.came = came as f64;
        self.totals.arrivals += self.came;
        self.totals.misses += missed as f64;
    }

    /// Adds what those who came would have met: `decision` has seen the fleet on paper as they would have.
    pub(super) fn predict(&mut self, decision: &Decision) {
        let inputs = &decision.inputs;
        let Basis::Learned(learned) = &inputs.capacity.basis else { return };
        let (slots, load) = (inputs.capacity.slots, &inputs.load);
        let Some(within) = learned.within(slots, load.rate, inputs.fleet.ready) else {
            return;
        };
        self.totals.predicted += self.came;
        self.totals.predicted_misses += self.came * (1.0 - within);
    }
}

/// What each gateway that is heard counts.
fn counters(gateways: &[GatewayView]) -> BTreeMap<Arc<str>, Counters> {
    let heard = gateways.iter().filter_map(|gateway| Some((gateway, gateway.report.as_ref()?)));
    heard.map(|(gateway, report)| (Arc::clone(&gateway.name), report.counters)).collect()
}
