//! Knative's pod autoscaler on concurrency.
//!
//! Every 2 s: the mean of the requests in the system over 60 s, and over 6 s when that calls for twice what is ready
//! or more (panic, which lasts until it has not for 60 s, and in which nothing goes). A replica is meant to use 70 %
//! of its slots. At most half go at a time, and to zero 30 s after a quiet minute; with a scale-down delay down to
//! the most of 300 s.

use std::{collections::VecDeque, time::Duration};

use super::{Moment, Policy, Seen};

const PERIOD: Duration = Duration::from_secs(2);
const STABLE: Duration = Duration::from_secs(60);
const PANIC_SECONDS: usize = 6;
const STABLE_SECONDS: usize = 60;
const PANIC: f64 = 2.0;
const GRACE: Duration = Duration::from_secs(30);
const DELAY: Duration = Duration::from_secs(300);

/// Whether replicas are kept for 300 s after they were called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    None,
    FiveMinutes,
}

#[derive(Clone, Debug)]
pub struct Kpa {
    /// Requests that each replica is meant to have.
    target: f64,
    delay: Delay,
    least: u32,
    /// Requests in the system at each second, newest last.
    samples: VecDeque<f64>,
    next: Option<Duration>,
    /// Since when, or when again, the short window called for a panic; and the most of it.
    panic: Option<(Duration, u32)>,
    /// Since when nothing is called for.
    quiet: Option<Duration>,
    began: bool,
    desired: VecDeque<(Duration, u32)>,
    words: String,
}

impl Kpa {
    /// With `target` requests per replica, and never fewer replicas than `least`.
    #[must_use]
    pub fn new(target: f64, delay: Delay, least: u32) -> Self {
        Self {
            target,
            delay,
            least,
            samples: VecDeque::with_capacity(STABLE_SECONDS),
            next: None,
            panic: None,
            quiet: None,
            began: false,
            desired: VecDeque::new(),
            words: String::new(),
        }
    }

    fn sample(&mut self, total: f64) {
        if self.samples.len() == STABLE_SECONDS {
            self.samples.pop_front();
        }
        self.samples.push_back(total);
    }

    fn mean(&self, seconds: usize) -> f64 {
        let newest = self.samples.iter().rev().take(seconds);
        let count = newest.len().max(1) as f64;
        newest.sum::<f64>() / count
    }

    fn desired(&mut self, ready: u32, now: Duration) -> u32 {
        let per = |mean: f64| (mean / self.target).ceil() as u32;
        let (stable, short) = (per(self.mean(STABLE_SECONDS)), per(self.mean(PANIC_SECONDS)));
        let ready = ready.max(1);
        if f64::from(short) / f64::from(ready) >= PANIC {
            let most = self.panic.map_or(0, |(_, most)| most);
            self.panic = Some((now, most));
        } else if self.panic.is_some_and(|(at, _)| now - at > STABLE) {
            self.panic = None;
        }
        let slowest = ready / 2;
        let to = match &mut self.panic {
            Some((_, most)) => {
                *most = (*most).max(stable).max(short).max(ready);
                *most
            }
            None => stable.max(if stable == 0 && ready == 1 { 0 } else { slowest }),
        };
        self.words = format!(
            "{:.1} requests ÷ {:.3} per replica{}",
            if self.panic.is_some() { self.mean(PANIC_SECONDS) } else { self.mean(STABLE_SECONDS) },
            self.target,
            if self.panic.is_some() { ", panicking" } else { "" }
        );
        to
    }

    fn delayed(&mut self, desired: u32, now: Duration) -> u32 {
        if self.delay == Delay::None {
            return desired;
        }
        self.desired.push_back((now, desired));
        while self.desired.front().is_some_and(|(at, _)| now - *at > DELAY) {
            self.desired.pop_front();
        }
        self.desired.iter().map(|(_, replicas)| *replicas).max().unwrap_or(desired)
    }

    /// Zero only after it was called for, without a break, for the grace period.
    fn graced(&mut self, to: u32, now: Duration) -> u32 {
        if to > 0 {
            self.quiet = None;
            return to;
        }
        let since = *self.quiet.get_or_insert(now);
        u32::from(now - since < GRACE)
    }
}

impl Policy for Kpa {
    fn decide(&mut self, seen: &Seen<'_>, now: Duration) -> Option<u32> {
        if seen.moment == Moment::Second {
            self.sample(seen.total() as f64);
        }
        // The activator tells of a request at zero at once.
        let woken = seen.wanted == 0 && seen.total() > 0;
        if !woken && self.next.is_some_and(|next| now < next) {
            return None;
        }
        self.next = Some(now + PERIOD);
        if !self.began {
            // It begins in panic where it finds several: it does not know yet why they are there.
            self.panic = (seen.ready > 1).then_some((now, seen.ready));
            self.began = true;
        }
        if seen.wanted == 0 && seen.total() == 0 && self.mean(STABLE_SECONDS) <= 0.0 {
            return None;
        }
        if seen.wanted == 0 && !woken {
            return None;
        }
        let desired = self.desired(seen.ready, now);
        let to = self.delayed(desired, now);
        let to = self.graced(to, now).max(self.least).max(u32::from(woken));
        Some(to)
    }

    fn words(&self) -> String {
        self.words.clone()
    }
}

#[cfg(test)]
mod tests {
    use autoscaler::snapshot::Snapshot;

    use super::*;
    use crate::policy::seen;

    /// Plays seconds with so many requests in the system; replicas are ready at once.
    fn play(kpa: &mut Kpa, from: u64, seconds: u64, total: u64, mut wanted: u32) -> u32 {
        let snapshot = Snapshot::default();
        for second in from..from + seconds {
            let seen = seen(Moment::Second, total, wanted, wanted, &snapshot);
            wanted = kpa.decide(&seen, Duration::from_secs(second)).unwrap_or(wanted);
        }
        wanted
    }

    #[test]
    fn a_steady_load_gets_its_mean_over_the_target() {
        // 16 slots at 70 %: 11.2 each; 50 requests need 4.46.
        let mut kpa = Kpa::new(11.2, Delay::None, 0);
        assert_eq!(play(&mut kpa, 0, 120, 50, 5), 5);
    }

    #[test]
    fn twice_as_much_is_a_panic_and_nothing_goes_until_a_minute_after_it() {
        let mut kpa = Kpa::new(10.0, Delay::None, 0);
        let wanted = play(&mut kpa, 0, 60, 20, 2);
        assert_eq!(wanted, 2);
        // Six seconds of 60 requests call for 6 of 2 ready.
        let wanted = play(&mut kpa, 60, 8, 60, wanted);
        assert_eq!(wanted, 6);
        let wanted = play(&mut kpa, 68, 58, 20, wanted);
        assert_eq!(wanted, 6, "panicking");
        let wanted = play(&mut kpa, 126, 70, 20, wanted);
        assert_eq!(wanted, 2);
    }

    #[test]
    fn it_halves_at_most_and_is_at_zero_half_a_minute_after_a_quiet_one() {
        let mut kpa = Kpa::new(10.0, Delay::None, 0);
        let wanted = play(&mut kpa, 0, 70, 80, 8);
        let wanted = play(&mut kpa, 70, 59, 0, wanted);
        assert!(wanted > 0, "{wanted}");
        assert_eq!(play(&mut kpa, 129, 40, 0, wanted), 0);
    }

    #[test]
    fn with_a_delay_what_was_called_for_stays_for_five_minutes() {
        let mut kpa = Kpa::new(10.0, Delay::FiveMinutes, 0);
        let wanted = play(&mut kpa, 0, 70, 80, 8);
        let wanted = play(&mut kpa, 70, 290, 10, wanted);
        assert_eq!(wanted, 8);
        assert!(play(&mut kpa, 360, 80, 10, wanted) < 8);
    }
}
