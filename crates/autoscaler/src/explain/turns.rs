//! What would change the number: how much more load calls for one more, and how little lets one go.

use serde::Serialize;

use super::{
    limiting, schedule, season_in_words,
    words::{quantity, span},
};
use crate::{
    capacity::{Basis, Unit},
    decide::{Decision, IN_FLIGHT_SHARE, LimitKind, MARGIN, Reason},
    demand::{Envelope, Measure, Why},
    policy::Objective,
};

/// What it takes for another number than the present one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Turns {
    /// What load is counted in: `requests/s`, `rows/s`, `streams`, …
    pub unit: String,
    /// The load above which one more is called for, where it is even: a burst may wait, and calls for what serves it
    /// in time. `None` where no load would have that effect now.
    pub more_above: Option<f64>,
    /// The load below which one fewer is enough; `None` where no calm would have that effect now, other than
    /// silence at one replica.
    pub fewer_below: Option<f64>,
    /// Both in words.
    pub text: String,
}

/// What it takes for another number than `decision` calls for; `None` at zero, where the next request does it, and
/// where somebody else has set the number.
#[must_use]
pub fn turns(decision: &Decision) -> Option<Turns> {
    if decision.to == 0 || decision.reason == Reason::Override {
        return None;
    }
    let scale = Scale::of(decision);
    let (more, more_above) = more(decision, &scale);
    let fewer = fewer(decision, &scale);
    let fewer_below = fewer.as_ref().and_then(|(_, below)| *below);
    let texts = [Some(more), fewer.map(|(text, _)| text)];
    let text = texts.into_iter().flatten().collect::<Vec<_>>().join("; ");
    Some(Turns { unit: scale.unit(), more_above, fewer_below, text })
}

fn more(decision: &Decision, scale: &Scale<'_>) -> (String, Option<f64>) {
    let to = decision.to;
    if to >= decision.bounds.max {
        return (format!("no more: {}", schedule::limit(decision)), None);
    }
    if decision.target > to {
        return (format!("no more for now: {}", limiting(decision)), None);
    }
    let above = scale.borne_by(to);
    (format!("one more {}", scale.above(above)), Some(above))
}

/// `None` where nothing is to be said: of the last replica it is said when it goes to zero.
fn fewer(decision: &Decision, scale: &Scale<'_>) -> Option<(String, Option<f64>)> {
    let to = decision.to;
    let of_time = decision.terms.iter().filter(|term| term.replicas >= to).find_map(|term| match &term.why {
        Why::Schedule(floor) => Some(schedule::floor(floor, decision.at)),
        Why::Season(season) => Some(season_in_words(season, decision)),
        _ => None,
    });
    if let Some(time) = of_time {
        return Some((format!("no fewer: {time}"), None));
    }
    if to <= decision.bounds.min {
        return Some((format!("no fewer: never fewer than {}", decision.bounds.min), None));
    }
    if to == 1 {
        return None;
    }
    if decision.reason == Reason::Held && !is_load(decision) {
        return Some((format!("no fewer for now: {}", limiting(decision)), None));
    }
    let below = scale.lets_go(to - 1);
    let lasting = match decision.inputs.down_window {
        window if window.is_zero() => String::new(),
        window => format!(" for {}", span(window)),
    };
    Some((format!("one fewer {}{lasting}", scale.below(below)), Some(below)))
}

/// Whether it is the load that keeps what there is, and not the time or something that is not known.
fn is_load(decision: &Decision) -> bool {
    decision.limits.last().is_some_and(|limit| limit.kind == LimitKind::Consolidation)
}

/// In what load is measured, and how much of it a number of replicas bears.
struct Scale<'d> {
    decision: &'d Decision,
    envelope: Option<&'d Envelope>,
}

impl<'d> Scale<'d> {
    fn of(decision: &'d Decision) -> Self {
        let envelope = decision.terms.iter().find_map(|term| match &term.why {
            Why::Envelope(envelope) => Some(envelope),
            _ => None,
        });
        Self { decision, envelope }
    }

    /// Whether what is in flight is counted: as long as what a replica does in a second is not known, and of
    /// streams, which fill a replica long before their rate shows it.
    fn counts_in_flight(&self) -> bool {
        let capacity = &self.decision.inputs.capacity;
        capacity.basis == Basis::Assumed
            || self.streams()
            || self.envelope.is_some_and(|envelope| envelope.measure == Measure::InFlight)
    }

    /// The most of which `n` replicas are enough.
    fn borne_by(&self, n: u32) -> f64 {
        let inputs = &self.decision.inputs;
        let capacity = &inputs.capacity;
        match &capacity.basis {
            Basis::Learned(learned) if !self.counts_in_flight() => {
                let Objective { percentile, .. } = *inputs.slo.response();
                learned.rate_of(capacity.slots, n, percentile)
            }
            _ => f64::from(n) * capacity.slots,
        }
    }

    /// The most at which `n` replicas are few enough to be gone down to.
    fn lets_go(&self, n: u32) -> f64 {
        let capacity = &self.decision.inputs.capacity;
        let borne = self.borne_by(n) / MARGIN;
        match &capacity.basis {
            Basis::Learned(learned) => {
                let room = f64::from(n) * capacity.slots * IN_FLIGHT_SHARE;
                let seconds = if self.counts_in_flight() { 1.0 } else { learned.service.as_secs_f64() };
                borne.min(room / seconds)
            }
            Basis::Assumed => borne,
        }
    }

    fn horizon(&self) -> std::time::Duration {
        self.envelope.map_or(self.decision.inputs.down_window, |envelope| envelope.horizon)
    }

    fn unit(&self) -> String {
        let unit = super::unit(self.decision);
        if self.counts_in_flight() { format!("{unit} in flight") } else { format!("{unit}/s") }
    }

    fn amount(&self, amount: f64) -> String {
        // Of streams it is the rate that is sized for, which comes to about so many of them.
        let about = if self.streams() { "about " } else { "" };
        format!("{about}{} {}", quantity(amount), self.unit())
    }

    fn above(&self, amount: f64) -> String {
        let (amount, within) = (self.amount(amount), span(self.horizon()));
        match self.envelope.map(|envelope| envelope.measure) {
            _ if self.streams() => format!("above {amount}"),
            Some(Measure::Rate) => format!("once what came within {within} needs more than {amount}"),
            _ => format!("above a peak of {amount}"),
        }
    }

    fn below(&self, amount: f64) -> String {
        let (amount, within) = (self.amount(amount), span(self.horizon()));
        match self.envelope.map(|envelope| envelope.measure) {
            Some(Measure::Rate) if !self.streams() => {
                format!("once what came within {within} needed less than {amount}")
            }
            _ => format!("once the peak within {within} was below {amount}"),
        }
    }

    fn streams(&self) -> bool {
        self.decision.inputs.capacity.unit == Unit::Streams
    }
}
