//! What the simulations of a study come to.

use serde::Serialize;

use super::{Contestant, Family, Scores};
use crate::Bound;
use crate::judge::{Mean, Point, Score, cost_at, frontier};

/// One contestant over all seeds.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    #[serde(skip)]
    pub contestant: Contestant,
    pub policy: &'static str,
    pub name: String,
    pub requests: Mean,
    pub met: Mean,
    pub late: Mean,
    pub shed: Mean,
    pub timed_out: Mean,
    /// Part whose first token, and whose others, were in time; `None` where whole answers are judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_met: Option<Mean>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpot_met: Option<Mean>,
    pub worst_five_minutes: Option<Mean>,
    pub opening: Option<Mean>,
    pub replica_hours: Mean,
    pub changes_per_hour: Mean,
    pub reversals_per_hour: Mean,
    pub wasted_per_hour: Mean,
    pub most_replicas: Mean,
}

/// What a family would cost where it met the SLO as often as Tidegate does.
#[derive(Clone, Debug, Serialize)]
pub struct Equal {
    #[serde(skip)]
    pub family: Family,
    pub policy: &'static str,
    /// `None`: no tuning comes that far.
    pub replica_hours: Option<f64>,
    /// That over Tidegate's.
    pub ratio: Option<f64>,
    /// The cheapest tuning that meets the SLO at least as often, else the one that meets it most often.
    pub nearest: String,
    #[serde(skip)]
    pub contestant: Contestant,
}

/// Every contestant, and the families side by side.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    #[serde(skip)]
    pub ours: Contestant,
    pub summaries: Vec<Summary>,
    pub at_equal_slo: Vec<Equal>,
    /// Replica-hours without which nobody, whatever they know, can keep the SLO as often as Tidegate does; `None`
    /// where the optimum was not asked for.
    pub least_replica_hours: Option<f64>,
    #[serde(skip)]
    pub bound: Option<Bound>,
}

impl Summary {
    fn new(contestant: Contestant, scores: &[Score]) -> Option<Self> {
        let mean = |of: fn(&Score) -> f64| Mean::of(&scores.iter().map(of).collect::<Vec<_>>());
        let some =
            |of: fn(&Score) -> Option<f64>| Mean::of(&scores.iter().filter_map(of).collect::<Vec<_>>());
        Some(Self {
            contestant,
            policy: contestant.family.as_str(),
            name: contestant.to_string(),
            requests: mean(|score| score.requests)?,
            met: mean(|score| score.met)?,
            late: mean(|score| score.late)?,
            shed: mean(|score| score.shed)?,
            timed_out: mean(|score| score.timed_out)?,
            ttft_met: some(|score| score.ttft),
            tpot_met: some(|score| score.tpot),
            worst_five_minutes: some(|score| score.worst),
            opening: some(|score| score.opening),
            replica_hours: mean(|score| score.replica_hours)?,
            changes_per_hour: mean(|score| score.changes)?,
            reversals_per_hour: mean(|score| score.reversals)?,
            wasted_per_hour: mean(|score| score.wasted)?,
            most_replicas: mean(|score| score.most)?,
        })
    }

    #[must_use]
    pub fn point(&self) -> Point {
        Point { met: self.met.mean, cost: self.replica_hours.mean }
    }
}

impl Comparison {
    pub(super) fn new(ours: Contestant, scores: Scores, bound: Option<Bound>, against: &[Family]) -> Self {
        let summary = |(contestant, scores): (Contestant, std::collections::BTreeMap<u64, Score>)| {
            Summary::new(contestant, &scores.into_values().collect::<Vec<_>>())
        };
        let summaries: Vec<Summary> = scores.into_iter().filter_map(summary).collect();
        let mut comparison =
            Self { ours, summaries, at_equal_slo: Vec::new(), least_replica_hours: None, bound };
        let met = comparison.our_summary().map(|summary| summary.met.mean);
        let least = comparison.bound.as_ref().zip(met);
        comparison.least_replica_hours = least.map(|(bound, met)| bound.replica_hours(met));
        comparison.at_equal_slo = against.iter().filter_map(|family| comparison.equal(*family)).collect();
        comparison
    }

    /// Whether the SLO is one of tokens, and not of whole answers.
    #[must_use]
    pub fn is_of_tokens(&self) -> bool {
        self.our_summary().is_some_and(|summary| summary.ttft_met.is_some())
    }

    /// Tidegate as it is configured.
    #[must_use]
    pub fn our_summary(&self) -> Option<&Summary> {
        self.summary(self.ours)
    }

    #[must_use]
    pub fn summary(&self, contestant: Contestant) -> Option<&Summary> {
        self.summaries.iter().find(|summary| summary.contestant == contestant)
    }

    pub fn of(&self, family: Family) -> impl Iterator<Item = &Summary> {
        self.summaries.iter().filter(move |summary| summary.contestant.family == family)
    }

    /// The tunings of a family that are worth having.
    #[must_use]
    pub fn frontier(&self, family: Family) -> Vec<Point> {
        frontier(&self.of(family).map(Summary::point).collect::<Vec<_>>())
    }

    fn equal(&self, family: Family) -> Option<Equal> {
        let ours = self.our_summary()?.point();
        let points: Vec<Point> = self.of(family).map(Summary::point).collect();
        let replica_hours = cost_at(&points, ours.met);
        let good = self.of(family).filter(|summary| summary.met.mean >= ours.met);
        let cheapest = good.min_by(|a, b| a.replica_hours.mean.total_cmp(&b.replica_hours.mean));
        let best = || self.of(family).max_by(|a, b| a.met.mean.total_cmp(&b.met.mean));
        let nearest = cheapest.or_else(best)?;
        Some(Equal {
            family,
            policy: family.as_str(),
            replica_hours,
            ratio: replica_hours.map(|hours| hours / ours.cost),
            nearest: nearest.name.clone(),
            contestant: nearest.contestant,
        })
    }
}
