//! Replicas because the time that comes needed them on other days.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Term, Why};
use crate::{policy::IdleAfter, season::SLOT, view::View};

/// What other days say of the time in which a replica asked for now could help.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Season {
    /// Units per second that had to be served then: the median over `days`.
    pub rate: f64,
    /// Days of the same type that are known.
    pub days: u32,
    /// Replicas for that.
    pub replicas: u32,
    /// Too few days are known: it is told, and calls for nothing.
    pub shadow: bool,
    /// A time within the five minutes that need it.
    pub at: Duration,
}

/// `None` where no other day is known, or none needed anything. What is asked for is kept for the memory of the way
/// down, so that of a longer start the end of the time in between is looked at too.
pub(crate) fn term(view: &View<'_>) -> Option<Term> {
    let from = view.now + view.lead.min(view.policy.down_window());
    let to = view.now + view.lead + SLOT;
    let forecast = view.state.season.forecast(view.policy, view.capacity.unit, from, to)?;
    if forecast.rate <= 0.0 {
        return None;
    }
    let replicas = view.replicas_for(forecast.rate);
    let shadow = !forecast.believed;
    let season = Season { rate: forecast.rate, days: forecast.days, replicas, shadow, at: forecast.at };
    let replicas = if shadow || keeps_out(view) { 0 } else { replicas };
    Some(Term { replicas, why: Why::Season(season) })
}

/// Whether the owner's word is against replicas that nobody asked for: an explicit idle time is obeyed as written, and
/// where a schedule allows none there is none.
fn keeps_out(view: &View<'_>) -> bool {
    view.off().is_some() || (view.asleep() && view.policy.idle_after != IdleAfter::Auto)
}

/// Whether somebody is expected before a replica that goes now could be back.
pub(crate) fn expects(view: &View<'_>) -> bool {
    view.policy.idle_after == IdleAfter::Auto && term(view).is_some_and(|term| term.replicas > 0)
}
