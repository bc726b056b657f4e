//! Kubernetes' HorizontalPodAutoscaler on an external metric with an AverageValue: requests queued and in flight.
//!
//! Every 15 s: N stays where tot is within 10 % of T·N, else it becomes ⌈tot/T⌉, at least 1. Down to the highest
//! recommendation of the last 300 s, up by 4 or to twice as many at a time.

use std::{collections::VecDeque, time::Duration};

use super::{Policy, Seen};

const PERIOD: Duration = Duration::from_secs(15);
const TOLERANCE: f64 = 0.1;
const STABILISATION: Duration = Duration::from_secs(300);
const STEP: u32 = 4;

#[derive(Clone, Debug)]
pub struct Hpa {
    /// T: requests that each replica is meant to have.
    target: f64,
    least: u32,
    next: Option<Duration>,
    recommended: VecDeque<(Duration, u32)>,
    words: String,
}

impl Hpa {
    /// With `target` requests per replica, and never fewer replicas than `least` and 1.
    #[must_use]
    pub fn new(target: f64, least: u32) -> Self {
        let least = least.max(1);
        Self { target, least, next: None, recommended: VecDeque::new(), words: String::new() }
    }

    fn recommend(&self, total: f64, wanted: u32) -> u32 {
        let ratio = total / (self.target * f64::from(wanted));
        if (ratio - 1.0).abs() <= TOLERANCE {
            return wanted;
        }
        ((total / self.target).ceil() as u32).max(self.least)
    }
}

impl Policy for Hpa {
    fn decide(&mut self, seen: &Seen<'_>, now: Duration) -> Option<u32> {
        if self.next.is_some_and(|next| now < next) {
            return None;
        }
        self.next = Some(now + PERIOD);
        let wanted = seen.wanted.max(1);
        if self.recommended.is_empty() {
            // What it finds counts as its first recommendation.
            self.recommended.push_back((now, wanted));
        }
        let recommended = self.recommend(seen.total() as f64, wanted);
        self.recommended.push_back((now, recommended));
        while self.recommended.front().is_some_and(|(at, _)| now - *at > STABILISATION) {
            self.recommended.pop_front();
        }
        let highest = self.recommended.iter().map(|(_, replicas)| *replicas).max().unwrap_or(recommended);
        let pace = wanted.saturating_add(STEP).max(wanted.saturating_mul(2));
        let to = if recommended > wanted { recommended.min(pace) } else { highest.min(wanted) };
        self.words = format!("{} requests ÷ {:.3} per replica", seen.total(), self.target);
        Some(to.max(self.least))
    }

    fn words(&self) -> String {
        self.words.clone()
    }
}

#[cfg(test)]
mod tests {
    use autoscaler::snapshot::Snapshot;

    use super::*;
    use crate::policy::{Moment, seen};

    /// Decisions for (second, requests in the system), carried out at once.
    fn play(hpa: &mut Hpa, from: u32, rows: &[(u64, u64)]) -> Vec<u32> {
        let snapshot = Snapshot::default();
        let mut wanted = from;
        let decided = rows.iter().map(|(second, total)| {
            let seen = seen(Moment::Second, *total, wanted, wanted, &snapshot);
            wanted = hpa.decide(&seen, Duration::from_secs(*second)).unwrap_or(wanted);
            wanted
        });
        decided.collect()
    }

    #[test]
    fn the_ratio_decides_outside_of_a_tenth() {
        // 4 replicas of 8: 29 to 35 requests are within a tenth; 36 are 4.5 replicas.
        assert_eq!(play(&mut Hpa::new(8.0, 1), 4, &[(0, 29)]), [4]);
        assert_eq!(play(&mut Hpa::new(8.0, 1), 4, &[(0, 35)]), [4]);
        assert_eq!(play(&mut Hpa::new(8.0, 1), 4, &[(0, 36)]), [5]);
        assert_eq!(play(&mut Hpa::new(8.0, 1), 4, &[(0, 28)]), [4]);
        assert_eq!(play(&mut Hpa::new(8.0, 1), 4, &[(0, 24), (315, 24)]), [4, 3]);
    }

    #[test]
    fn it_looks_every_fifteen_seconds_and_adds_four_or_doubles() {
        let mut hpa = Hpa::new(1.0, 1);
        let decided = play(&mut hpa, 1, &[(0, 100), (14, 100), (15, 100), (30, 100), (45, 12)]);
        assert_eq!(decided, [5, 5, 10, 20, 20]);
    }

    #[test]
    fn it_goes_down_to_the_highest_of_five_minutes_and_to_one_at_last() {
        let mut hpa = Hpa::new(1.0, 1);
        let rows = [(0, 10), (150, 6), (300, 2), (315, 2), (450, 0), (465, 0), (615, 0), (765, 0)];
        assert_eq!(play(&mut hpa, 10, &rows), [10, 10, 10, 6, 6, 2, 2, 1]);
    }
}
