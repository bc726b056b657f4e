//! How good a simulation was: the SLO as a user sees it, and the cost as it is paid.

mod frontier;
mod mean;

use std::time::Duration;

pub use self::{
    frontier::{Point, cost_at, frontier},
    mean::Mean,
};
use crate::world::{Run, Slot};

/// Slots in five minutes.
const WORST_SLOTS: usize = 30;
/// Requests in five minutes below which their share says nothing.
const WORST_REQUESTS: u32 = 20;
/// Silence after which the next request opens a day, and how long the opening lasts, in slots.
const CLOSED_SLOTS: usize = 360;
const OPENING_SLOTS: usize = 180;

/// One simulation in numbers. Parts are of all requests; sheds, time-outs and cold waits count as misses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    pub requests: f64,
    /// Part of the requests that were answered within the SLO.
    pub met: f64,
    pub late: f64,
    pub shed: f64,
    pub timed_out: f64,
    /// Part whose first token, and whose others, came as fast as they should; `None` where whole answers are judged.
    pub ttft: Option<f64>,
    pub tpot: Option<f64>,
    /// Part that was met in the worst five minutes; `None` where there were never enough requests.
    pub worst: Option<f64>,
    /// Part that was met in the half-hours after openings, which follow an hour of silence.
    pub opening: Option<f64>,
    pub replica_hours: f64,
    /// Per hour.
    pub changes: f64,
    /// Changes in the other direction than the one before, per hour.
    pub reversals: f64,
    /// Replicas that went before they had served anybody, per hour.
    pub wasted: f64,
    /// Most replicas that were wished for.
    pub most: f64,
}

impl Score {
    #[must_use]
    pub fn of(run: &Run) -> Self {
        let all = run.arrivals.max(1) as f64;
        let hours = run.length.as_secs_f64() / 3600.0;
        let directions = run.changes.iter().map(|change| change.to > change.from);
        let reversals =
            directions.clone().zip(directions.skip(1)).filter(|(before, after)| before != after).count();
        let counted = &run.counted;
        Self {
            requests: run.arrivals as f64,
            met: counted.met as f64 / all,
            late: counted.late as f64 / all,
            shed: counted.shed as f64 / all,
            timed_out: counted.timed_out as f64 / all,
            ttft: run.kept.map(|kept| kept.ttft as f64 / all),
            tpot: run.kept.map(|kept| kept.tpot as f64 / all),
            worst: worst(&run.slots),
            opening: opening(&run.slots),
            replica_hours: run.replica_time.as_secs_f64() / 3600.0,
            changes: run.changes.len() as f64 / hours,
            reversals: reversals as f64 / hours,
            wasted: f64::from(run.wasted) / hours,
            most: f64::from(run.changes.iter().map(|change| change.to).max().unwrap_or(0).max(run.initial)),
        }
    }

    /// The same with `replicas` all the time and no miss: what more replicas than enough come to.
    pub(crate) fn with_enough(self, replicas: u32, length: Duration) -> Self {
        Self {
            replica_hours: f64::from(replicas) * length.as_secs_f64() / 3600.0,
            most: f64::from(replicas),
            ..self
        }
    }
}

fn worst(slots: &[Slot]) -> Option<f64> {
    let windows = slots.windows(WORST_SLOTS.min(slots.len()).max(1));
    let parts = windows.filter_map(|window| part_met(window, WORST_REQUESTS));
    parts.min_by(f64::total_cmp)
}

fn opening(slots: &[Slot]) -> Option<f64> {
    let mut silent = 0;
    let mut open = Vec::new();
    for (index, slot) in slots.iter().enumerate() {
        if slot.arrivals == 0 {
            silent += 1;
        } else {
            if silent >= CLOSED_SLOTS {
                open.extend(slots.iter().skip(index).take(OPENING_SLOTS).copied());
            }
            silent = 0;
        }
    }
    part_met(&open, 1)
}

fn part_met(slots: &[Slot], least: u32) -> Option<f64> {
    let arrivals: u32 = slots.iter().map(|slot| slot.arrivals).sum();
    let misses: u32 = slots.iter().map(|slot| slot.misses).sum();
    (arrivals >= least).then(|| 1.0 - f64::from(misses) / f64::from(arrivals))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(spans: &[(usize, u32, u32)]) -> Vec<Slot> {
        let slot = |arrivals, misses| Slot { arrivals, misses };
        spans.iter().flat_map(|(n, arrivals, misses)| vec![slot(*arrivals, *misses); *n]).collect()
    }

    #[test]
    fn the_worst_five_minutes_are_found_and_quiet_ones_do_not_count() {
        let day = slots(&[(100, 10, 0), (15, 10, 5), (100, 10, 0), (60, 0, 0), (1, 3, 3), (60, 0, 0)]);
        assert_eq!(worst(&day), Some(1.0 - 75.0 / 300.0));
        assert_eq!(worst(&slots(&[(30, 0, 0)])), None);
    }

    #[test]
    fn an_opening_is_the_half_hour_after_an_hour_of_silence() {
        let day = slots(&[(400, 0, 0), (18, 10, 10), (162, 10, 0), (200, 10, 10)]);
        assert_eq!(opening(&day), Some(0.9));
        assert_eq!(opening(&slots(&[(359, 0, 0), (18, 10, 10)])), None);
    }
}
