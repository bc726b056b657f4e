//! The autoscaler's metrics: handles made once per model.

use std::{sync::Arc, time::Duration};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::{
    coldstart::Starts,
    decide::Reason,
    demand::Why,
    log::{Entry, Outcome},
};

/// The handles of one model.
pub(crate) struct Metrics {
    desired: Gauge,
    ready: Gauge,
    pending: Gauge,
    terms: [(&'static str, Gauge); Why::NAMES.len()],
    decisions: [(Reason, Counter); Reason::ALL.len()],
    starts_ready: Counter,
    starts_failed: Counter,
    start_duration: Histogram,
}

impl Metrics {
    pub(crate) fn new(model: &Arc<str>) -> Self {
        let model = || model.to_string();
        let replicas = |state| gauge!("tidegate_replicas", "model" => model(), "state" => state);
        let starts =
            |outcome| counter!("tidegate_cold_starts_total", "model" => model(), "outcome" => outcome);
        Self {
            desired: replicas("desired"),
            ready: replicas("ready"),
            pending: replicas("pending"),
            terms: Why::NAMES
                .map(|term| (term, gauge!("tidegate_desired_replicas", "model" => model(), "term" => term))),
            decisions: Reason::ALL.map(|reason| (reason, decisions(model(), reason))),
            starts_ready: starts("ready"),
            starts_failed: starts("failed"),
            start_duration: histogram!(
                "tidegate_cold_start_duration_seconds", "model" => model(), "phase" => "total"
            ),
        }
    }

    pub(crate) fn started(&self, starts: &Starts) {
        self.starts_ready.increment(starts.ready.len() as u64);
        self.starts_failed.increment(u64::from(starts.failed));
        starts.ready.iter().for_each(|took: &Duration| self.start_duration.record(took.as_secs_f64()));
    }

    pub(crate) fn decided(&self, entry: &Entry) {
        let (decision, outcome) = (&entry.decision, &entry.outcome);
        let fleet = &decision.inputs.fleet;
        self.desired.set(f64::from(decision.to));
        self.ready.set(f64::from(fleet.ready));
        self.pending.set(f64::from(fleet.starting + fleet.unschedulable + fleet.failed + fleet.missing));
        for (name, gauge) in &self.terms {
            let term = decision.terms.iter().find(|term| term.why.name() == *name);
            gauge.set(term.map_or(0.0, |term| f64::from(term.replicas)));
        }
        if *outcome == Outcome::Applied {
            let counted = self.decisions.iter().filter(|(reason, _)| *reason == decision.reason);
            counted.for_each(|(_, counter)| counter.increment(1));
        }
    }
}

fn decisions(model: String, reason: Reason) -> Counter {
    let direction = reason.direction().as_str();
    counter!(
        "tidegate_scale_decisions_total",
        "model" => model, "direction" => direction, "reason" => reason.as_str()
    )
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
