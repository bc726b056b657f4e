//! What somebody who knows the future would do: a dynamic programme over slots of ten seconds, with the cold start
//! that everybody has.
//!
//! How many requests of a slot miss the SLO with n replicas is known from simulations in which there are n all the
//! time. A replica costs its time from the wish on, so one that is ready from slot s on costs its cold start too, and
//! a miss costs what is asked for: each price gives another point between cheap and good. The programme is exact; that
//! a slot's misses do not depend on the slots before it is not, so what comes out is a good reference and no proof.

use std::time::Duration;

use super::{Policy, Seen};
use crate::world::SLOT;

/// What there is to lose: misses per number of replicas and slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Costs {
    /// By replicas, from none on; then by slot.
    pub(crate) misses: Vec<Vec<u32>>,
    pub(crate) cold_start: Duration,
    /// Replicas that are ready at the beginning.
    pub(crate) initial: u32,
    pub(crate) least: u32,
}

impl Costs {
    /// The same where each slot is taken to miss what the worst one within `span` after it does: with as many
    /// replicas, a queue that does no harm yet may already be the reason.
    #[must_use]
    pub(crate) fn ahead(&self, span: Duration) -> Self {
        let slots = 1 + span.as_secs().div_ceil(SLOT.as_secs()) as usize;
        let ahead = |misses: &Vec<u32>| -> Vec<u32> {
            let worst = |slot| misses.iter().skip(slot).take(1 + slots).copied().max().unwrap_or(0);
            (0..misses.len()).map(worst).collect()
        };
        Self { misses: self.misses.iter().map(ahead).collect(), ..self.clone() }
    }
}

/// The number of replicas that are ready in each slot, if a miss costs `price` seconds of a replica.
#[must_use]
pub(crate) fn plan(costs: &Costs, price: f64) -> Vec<u32> {
    let numbers = costs.misses.len();
    let slots = costs.misses.first().map_or(0, Vec::len);
    let start = costs.cold_start.as_secs_f64();
    let mut best: Vec<f64> =
        (0..numbers).map(|n| if n as u32 <= costs.initial { 0.0 } else { f64::INFINITY }).collect();
    let mut choices: Vec<Vec<u32>> = Vec::with_capacity(slots);
    for slot in 0..slots {
        // What is asked for at the very beginning is not ready before one cold start.
        let up = if (SLOT * slot as u32) < costs.cold_start { f64::INFINITY } else { start };
        let (mut next, choice) = transitions(&best, up);
        for (n, (value, misses)) in next.iter_mut().zip(&costs.misses).enumerate() {
            let missed = misses.get(slot).copied().unwrap_or(0);
            *value += SLOT.as_secs_f64() * n as f64 + price * f64::from(missed);
            if (n as u32) < costs.least.min(costs.initial) {
                *value = f64::INFINITY;
            }
        }
        best = next;
        choices.push(choice);
    }
    let last = best.iter().enumerate().min_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(0, |(n, _)| n as u32);
    let mut ready = vec![last; slots];
    let mut n = last;
    for (slot, choice) in choices.iter().enumerate().rev() {
        if let Some(ready) = ready.get_mut(slot) {
            *ready = n;
        }
        n = choice.get(n as usize).copied().unwrap_or(0);
    }
    ready
}

/// The least cost of coming to each number from any other, and from which: down is free, up costs `up` for each.
fn transitions(best: &[f64], up: f64) -> (Vec<f64>, Vec<u32>) {
    let mut next = vec![f64::INFINITY; best.len()];
    let mut from = vec![0u32; best.len()];
    let mut keep = |n: usize, cost: f64, m: u32| {
        if let (Some(value), Some(from)) = (next.get_mut(n), from.get_mut(n))
            && cost < *value
        {
            (*value, *from) = (cost, m);
        }
    };
    let mut above = (f64::INFINITY, 0);
    for (n, value) in best.iter().enumerate().rev() {
        if *value <= above.0 {
            above = (*value, n as u32);
        }
        keep(n, above.0, above.1);
    }
    let mut below = (f64::INFINITY, 0);
    for (n, value) in best.iter().enumerate() {
        below.0 += up;
        if *value < below.0 {
            below = (*value, n as u32);
        } else {
            keep(n, below.0, below.1);
        }
    }
    (next, from)
}

/// Carries a plan out: each replica is asked for one cold start before it is needed.
#[derive(Clone, Debug)]
pub struct Optimum {
    /// Since the beginning, ascending: from then on so many.
    changes: Vec<(Duration, u32)>,
    begins: Duration,
    next: usize,
    initial: u32,
}

impl Optimum {
    /// `ready`: replicas by slot. A cold start must take `cold_start` each time.
    pub(crate) fn new(ready: &[u32], costs: &Costs, begins: Duration) -> Self {
        let slots = ready.len();
        let start = costs.cold_start;
        let mut steps: Vec<(Duration, i64)> = Vec::new();
        for level in 1..=ready.iter().copied().max().unwrap_or(0) {
            let mut until: Option<Duration> = (level <= costs.initial).then_some(Duration::ZERO);
            let mut slot = 0;
            while slot < slots {
                let on = |slot: &usize| ready.get(*slot).is_some_and(|n| *n >= level);
                if !on(&slot) {
                    slot += 1;
                    continue;
                }
                let end = (slot..slots).take_while(|slot| on(slot)).last().unwrap_or(slot) + 1;
                let from = (SLOT * slot as u32).saturating_sub(start);
                match until {
                    // One that is still there is not let go.
                    Some(before) if before >= from => {}
                    Some(before) => {
                        steps.push((before, -1));
                        steps.push((from, 1));
                    }
                    None => steps.push((from, 1)),
                }
                until = Some(SLOT * end as u32);
                slot = end;
            }
            steps.extend(until.map(|until| (until, -1)));
        }
        Self { changes: summed(steps, costs.initial), begins, next: 0, initial: costs.initial }
    }
}

fn summed(mut steps: Vec<(Duration, i64)>, initial: u32) -> Vec<(Duration, u32)> {
    steps.sort_unstable();
    let mut wanted = i64::from(initial);
    let mut changes: Vec<(Duration, u32)> = Vec::new();
    for chunk in steps.chunk_by(|(a, _), (b, _)| a == b) {
        let Some((at, _)) = chunk.first() else { continue };
        let change: i64 = chunk.iter().map(|(_, step)| step).sum();
        wanted += change;
        if change != 0 {
            changes.push((*at, u32::try_from(wanted).unwrap_or(0)));
        }
    }
    changes
}

impl Policy for Optimum {
    fn decide(&mut self, _: &Seen<'_>, now: Duration) -> Option<u32> {
        let mut wanted = None;
        while let Some((at, replicas)) = self.changes.get(self.next)
            && self.begins + *at <= now
        {
            wanted = Some(*replicas);
            self.next += 1;
        }
        wanted
    }

    fn words(&self) -> String {
        "knows the future".into()
    }

    fn initial(&self, _: u32) -> u32 {
        self.initial
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, prop, proptest};

    use super::*;

    /// Demand in replicas by slot, each of which misses 100 requests with one replica too few.
    fn costs(demand: &[u32], start: u64, initial: u32) -> Costs {
        let most = demand.iter().copied().max().unwrap_or(0).max(initial);
        let misses = (0..=most).map(|n| demand.iter().map(|d| 100 * d.saturating_sub(n)).collect()).collect();
        Costs { misses, cold_start: Duration::from_secs(start), initial, least: 0 }
    }

    fn cost(ready: &[u32], costs: &Costs, price: f64) -> f64 {
        let mut before = costs.initial;
        let mut cost = 0.0;
        for (slot, n) in ready.iter().enumerate() {
            let early = SLOT * (slot as u32) < costs.cold_start;
            if *n > before && early {
                return f64::INFINITY;
            }
            cost += costs.cold_start.as_secs_f64() * f64::from(n.saturating_sub(before));
            cost += 10.0 * f64::from(*n) + price * f64::from(costs.misses[*n as usize][slot]);
            before = *n;
        }
        cost
    }

    #[test]
    fn a_replica_is_kept_over_a_gap_that_is_shorter_than_a_start() {
        // A start takes three slots: kept over a gap of two, not over one of five.
        let costs = costs(&[0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1], 30, 0);
        assert_eq!(plan(&costs, 10.0), [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1]);
        assert_eq!(plan(&costs, 0.0), [0; 14], "nobody minds a miss");
        let optimum = Optimum::new(&plan(&costs, 10.0), &costs, Duration::ZERO);
        let seconds: Vec<_> = optimum.changes.iter().map(|(at, n)| (at.as_secs(), *n)).collect();
        assert_eq!(seconds, [(10, 1), (80, 0), (100, 1), (140, 0)]);
    }

    #[test]
    fn who_looks_ahead_has_a_replica_before_it_is_missed() {
        let costs = costs(&[0, 0, 0, 0, 0, 0, 1, 0, 0, 0], 10, 0);
        assert_eq!(plan(&costs, 10.0), [0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(plan(&costs.ahead(Duration::from_secs(10)), 10.0), [0, 0, 0, 0, 1, 1, 1, 0, 0, 0]);
    }

    #[test]
    fn nothing_is_ready_before_one_start_but_what_was_there() {
        let costs = costs(&[2, 2, 2, 2], 20, 1);
        assert_eq!(plan(&costs, 100.0), [1, 1, 2, 2]);
    }

    proptest! {
        #[test]
        fn no_plan_is_cheaper(
            demand in prop::collection::vec(0u32..3, 6),
            other in prop::collection::vec(0u32..3, 6),
            start in (0u64..5).prop_map(|slots| slots * 10),
            initial in 0u32..3,
            price in 0.0..3.0f64,
        ) {
            let costs = costs(&demand, start, initial);
            let best = cost(&plan(&costs, price), &costs, price);
            let most = costs.misses.len() as u32 - 1;
            let other: Vec<u32> = other.iter().map(|n| (*n).min(most)).collect();
            assert!(best <= cost(&other, &costs, price) + 1e-6);
        }
    }
}
