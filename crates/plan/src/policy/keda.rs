//! KEDA: an HPA between one and the most, and activation beside it. 0→1 on a request (a push scaler) or a poll
//! every 30 s; to zero after 300 s without activity.

use std::time::Duration;

use super::{Hpa, Moment, Policy, Seen};

const POLL: Duration = Duration::from_secs(30);
const COOL_DOWN: Duration = Duration::from_secs(300);

#[derive(Clone, Debug)]
pub struct Keda {
    target: f64,
    least: u32,
    hpa: Hpa,
    next: Option<Duration>,
    active: Option<Duration>,
    arrivals: u64,
    words: String,
}

impl Keda {
    /// With `target` requests per replica; with `least` above 0 it never goes to zero.
    #[must_use]
    pub fn new(target: f64, least: u32) -> Self {
        let hpa = Hpa::new(target, least);
        Self { target, least, hpa, next: None, active: None, arrivals: 0, words: String::new() }
    }
}

impl Policy for Keda {
    fn decide(&mut self, seen: &Seen<'_>, now: Duration) -> Option<u32> {
        let came = seen.arrivals > self.arrivals || seen.moment == Moment::Woken;
        self.arrivals = seen.arrivals;
        // A push scaler tells of activity at once.
        if came || seen.total() > 0 || self.active.is_none() {
            self.active = Some(now);
        }
        if seen.wanted == 0 {
            // A new HPA object is in charge from one on.
            self.hpa = Hpa::new(self.target, self.least);
            let woken = came || seen.total() > 0;
            self.words = "activated by a request".into();
            return woken.then_some(self.least.max(1));
        }
        let polls = self.next.is_none_or(|next| now >= next);
        if polls {
            self.next = Some(now + POLL);
            let idle = self.active.is_some_and(|active| now - active >= COOL_DOWN);
            if idle && self.least == 0 && seen.total() == 0 {
                self.words = "no activity for 300 s".into();
                return Some(0);
            }
        }
        let to = self.hpa.decide(seen, now);
        self.words = self.hpa.words();
        to
    }

    fn words(&self) -> String {
        self.words.clone()
    }
}

#[cfg(test)]
mod tests {
    use autoscaler::snapshot::Snapshot;

    use super::*;

    fn decide(keda: &mut Keda, second: u64, arrivals: u64, total: u64, wanted: u32) -> Option<u32> {
        let snapshot = Snapshot::default();
        let seen = Seen {
            moment: Moment::Second,
            queued: total,
            in_flight: 0,
            arrivals,
            ready: wanted,
            wanted,
            snapshot: &snapshot,
        };
        keda.decide(&seen, Duration::from_secs(second))
    }

    #[test]
    fn a_request_wakes_one_and_five_quiet_minutes_end_all() {
        let mut keda = Keda::new(8.0, 0);
        assert_eq!(decide(&mut keda, 0, 0, 0, 0), None);
        assert_eq!(decide(&mut keda, 1, 1, 1, 0), Some(1));
        assert_eq!(decide(&mut keda, 2, 1, 1, 1), Some(1));
        for second in 3..302 {
            assert_ne!(decide(&mut keda, second, 1, 0, 1), Some(0), "{second}");
        }
        // Polls at 2, 32, …, 302: active last at 2.
        assert_eq!(decide(&mut keda, 302, 1, 0, 1), Some(0));
    }

    #[test]
    fn with_a_floor_it_stays() {
        let mut keda = Keda::new(8.0, 2);
        for second in 0..900 {
            assert!(decide(&mut keda, second, 0, 0, 2).is_none_or(|to| to == 2));
        }
    }
}
