//! What observing a model has come to, in words.

use std::time::Duration;

use super::words::{count, quantity, span};
use crate::observe::{Observed, Totals};

const HOUR: f64 = 3600.0;

/// The number that would be asked for, what it would have cost, and what it would have kept.
pub(super) fn line(observed: &Observed, clock: &dyn Fn(Duration) -> String) -> String {
    let Observed { decision, actual, totals } = observed;
    let would = count(decision.to, "replica", "replicas");
    format!(
        "would have {would}, has {actual}; in {} since {} {}; {}",
        span(totals.observed),
        clock(totals.since),
        cost(totals),
        kept(totals)
    )
}

fn cost(totals: &Totals) -> String {
    let (would, actual) = (hours(totals.replica_seconds), hours(totals.actual_replica_seconds));
    match totals.saving() {
        None => format!("{would} replica-hours instead of none"),
        Some(part) => format!("{would} replica-hours instead of {actual} ({})", percent_more(part)),
    }
}

fn kept(totals: &Totals) -> String {
    let Some(within) = totals.within() else { return "nobody has asked".to_owned() };
    let all = quantity(totals.arrivals);
    let observed = format!("{} of {all} requests within the SLO as observed", percent(within));
    match totals.predicted_within() {
        None => format!("{observed}, and nothing to predict from yet"),
        Some(predicted) if totals.predicted < totals.arrivals => format!(
            "{observed}, {} as predicted for the {} of which it could be",
            percent(predicted),
            quantity(totals.predicted)
        ),
        Some(predicted) => format!("{observed}, {} as predicted", percent(predicted)),
    }
}

fn hours(seconds: f64) -> String {
    quantity((seconds / HOUR * 100.0).round() / 100.0)
}

/// Two decimals, and never 100 % of what is not all.
fn percent(part: f64) -> String {
    let hundredths = (part * 10_000.0).floor() / 100.0;
    format!("{hundredths} %")
}

fn percent_more(part: f64) -> String {
    let percent = (part * 100.0).round();
    match percent {
        p if p > 0.0 => format!("+{p} %"),
        p if p < 0.0 => format!("−{} %", -p),
        _ => "as many".to_owned(),
    }
}
