//! What nobody can be cheaper than, whatever they know: the cost of a problem that is easier than the real one.
//!
//! In the easier problem requests are a fluid that replicas work off at their best rate, in any order, without a
//! smallest piece; a request is missed only if its work is not done when its SLO is over, then costs no work at all,
//! and slots of ten seconds are known beforehand. The queue is rounded down at each slot, and a replica that is there
//! for a part of a slot works for all of it and is charged for none of what that adds; as many as one likes are there at
//! the beginning. Each of these can only make it cheaper. A dynamic programme over replicas and queue finds the least cost where a miss has a price; by what is called
//! weak duality that cost less the price of the misses somebody has is no more than what they pay, at every price.
//! All starts take the mean.

use std::time::Duration;

use crate::world::SLOT;

/// Pieces that the longest queue is counted in.
const QUEUE_PIECES: usize = 256;

/// What a load asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demand {
    /// Replica-seconds that the requests of each slot take at the best rate.
    pub(crate) work: Vec<f64>,
    pub(crate) requests: f64,
    pub(crate) slo: Duration,
    pub(crate) cold_start: Duration,
    /// Replicas there may be.
    pub(crate) most: u32,
}

/// The least cost at several prices of a miss, for one seed or as a mean over seeds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bound {
    /// (replica-seconds a miss costs, least replica-seconds with that), by price.
    least: Vec<(f64, f64)>,
    requests: f64,
}

impl Bound {
    pub(crate) fn new(demand: &Demand, prices: impl IntoIterator<Item = f64>) -> Self {
        let least = prices.into_iter().map(|price| (price, demand.least(price))).collect();
        Self { least, requests: demand.requests }
    }

    /// The mean of several with the same prices; `None` of none.
    pub(crate) fn mean(bounds: &[Self]) -> Option<Self> {
        let first = bounds.first()?;
        let mean = |of: &dyn Fn(&Self) -> f64| bounds.iter().map(of).sum::<f64>() / bounds.len() as f64;
        let value = |index: usize| mean(&|bound| bound.least.get(index).map_or(0.0, |(_, value)| *value));
        let least = first.least.iter().enumerate().map(|(index, (price, _))| (*price, value(index)));
        Some(Self { least: least.collect(), requests: mean(&|bound| bound.requests) })
    }

    /// Replica-hours that are needed to meet the SLO for this part of the requests.
    #[must_use]
    pub fn replica_hours(&self, met: f64) -> f64 {
        let misses = (1.0 - met) * self.requests;
        let needed = self.least.iter().map(|(price, value)| value - price * misses);
        needed.fold(0.0, f64::max) / 3600.0
    }
}

impl Demand {
    /// The least replica-seconds, with `price` of them for each miss.
    fn least(&self, price: f64) -> f64 {
        let slot = SLOT.as_secs_f64();
        let all: f64 = self.work.iter().sum();
        if all <= 0.0 {
            return 0.0;
        }
        let per_work = price * self.requests / all;
        let kept: Vec<f64> = self.longest_queues();
        let longest = kept.iter().copied().fold(0.0, f64::max);
        let piece = longest / (QUEUE_PIECES - 1) as f64;
        let most = self.work.iter().copied().fold(0.0, f64::max) + longest;
        let numbers = (most / slot).ceil().min(f64::from(self.most)) as usize + 1;
        // Of each life at most the rest of its first slot and of its last one is charged and not lived.
        let up = (self.cold_start.as_secs_f64() - 2.0 * slot).max(0.0);
        let mut best = vec![vec![f64::INFINITY; QUEUE_PIECES]; numbers];
        best.iter_mut().filter_map(|row| row.first_mut()).for_each(|value| *value = 0.0);
        let mut next = best.clone();
        for (index, (work, kept)) in self.work.iter().zip(&kept).enumerate() {
            let early = SLOT * (index as u32 + 1) <= self.cold_start;
            change(&mut best, if early { f64::INFINITY } else { up });
            // Those that are there at the beginning may be gone before their last slot is over.
            let charged = if index == 0 { 0.0 } else { slot };
            for (n, (from, to)) in best.iter().zip(&mut next).enumerate() {
                to.fill(f64::INFINITY);
                let (capacity, cost) = (slot * n as f64, charged * n as f64);
                for (queue, value) in from.iter().enumerate().filter(|(_, value)| value.is_finite()) {
                    let left = (queue as f64 * piece + work - capacity).max(0.0);
                    let missed = (left - kept).max(0.0);
                    let after = if piece > 0.0 { ((left - missed) / piece + 1e-9) as usize } else { 0 };
                    if let Some(least) = to.get_mut(after.min(QUEUE_PIECES - 1)) {
                        *least = least.min(value + cost + per_work * missed);
                    }
                }
            }
            std::mem::swap(&mut best, &mut next);
        }
        best.iter().flatten().copied().fold(f64::INFINITY, f64::min)
    }

    /// By slot, the work that can be left at its end and still be in time: what came within one SLO before.
    fn longest_queues(&self) -> Vec<f64> {
        let slots = self.slo.as_nanos().div_ceil(SLOT.as_nanos()).max(1) as usize;
        let within = |end: usize| self.work.iter().take(end + 1).skip((end + 1).saturating_sub(slots)).sum();
        (0..self.work.len()).map(within).collect()
    }
}

/// Lets the number of replicas change: down for nothing, up for `up` each.
fn change(best: &mut [Vec<f64>], up: f64) {
    let least = |to: &mut [f64], from: &[f64], cost: f64| {
        for (to, from) in to.iter_mut().zip(from) {
            *to = to.min(from + cost);
        }
    };
    for n in (1..best.len()).rev() {
        let (below, above) = best.split_at_mut(n);
        if let (Some(below), Some(above)) = (below.last_mut(), above.first()) {
            least(below, above, 0.0);
        }
    }
    if !up.is_finite() {
        return;
    }
    for n in 1..best.len() {
        let (below, above) = best.split_at_mut(n);
        if let (Some(below), Some(above)) = (below.last(), above.first_mut()) {
            least(above, below, up);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAR: f64 = 1e6;

    fn demand(work: &[f64], slo: u64, start: u64) -> Demand {
        Demand {
            work: work.to_vec(),
            requests: work.iter().sum(),
            slo: Duration::from_secs(slo),
            cold_start: Duration::from_secs(start),
            most: 100,
        }
    }

    #[test]
    fn work_that_cannot_wait_takes_as_many_replicas_as_come_to_it() {
        // 15 replica-seconds in each slot of ten: two all the time, of which the first slot is given. A tenth of the
        // work may be done in the slot after.
        let least = demand(&[15.0; 20], 1, 100).least(DEAR);
        assert!((300.0..=380.0).contains(&least), "{least}");
        assert_eq!(demand(&[15.0; 20], 1, 100).least(0.0), 0.0, "nobody minds a miss");
    }

    #[test]
    fn a_peak_that_may_wait_takes_fewer() {
        let mut work = [5.0; 30];
        work[20] = 60.0;
        let hurried = demand(&work, 5, 50).least(DEAR);
        let patient = demand(&work, 120, 50).least(DEAR);
        assert!(patient <= 10.0 * 30.0 && hurried >= patient + 100.0, "{hurried} and {patient}");
    }

    #[test]
    fn a_start_is_paid_for() {
        let mut work = [0.0; 60];
        work[50] = 20.0;
        let (quick, slow) = (demand(&work, 10, 20).least(DEAR), demand(&work, 10, 200).least(DEAR));
        assert!((slow - quick - 180.0).abs() < 1e-6, "{slow} and {quick}");
    }

    #[test]
    fn fewer_misses_never_cost_less() {
        let work: Vec<f64> = (0..60).map(|slot| if slot % 13 == 0 { 80.0 } else { 12.0 }).collect();
        let bound = Bound::new(&demand(&work, 10, 40), (0..9).map(|power| 4f64.powi(power) / 100.0));
        let hours: Vec<f64> = [0.5, 0.9, 0.99, 1.0].iter().map(|met| bound.replica_hours(*met)).collect();
        assert!(hours.is_sorted() && hours[0] < hours[3], "{hours:?}");
    }
}
