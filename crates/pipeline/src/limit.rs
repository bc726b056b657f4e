//! How many calls a replica may have at a time where nothing is merged. Pure.
//!
//! A gradient rule: while calls take about as long as they do with little to do, the limit grows by its square root;
//! as they take longer, it shrinks in proportion. What they take with little to do is only learned from calls that
//! met little load. A replica that is never so idle has its calls thinned out for a moment now and then, or else an
//! overload that lasts would come to look normal and the limit would grow without end.

use std::time::Duration;

use crate::{Concurrency, chat::limit::Streams, latency::Latency};

const START: f64 = 32.0;
const MOST: f64 = 1024.0;
/// Latency may grow to this multiple of the unloaded one before the limit shrinks.
const TOLERANCE: f64 = 2.0;
/// Little to do: this part of the limit.
const LITTLE: f64 = 0.25;
/// After so many times the limit of calls without one that met little load, and so many at least, some are made to.
const THIN_AFTER: u32 = 20;
const THIN_AFTER_LEAST: u32 = 1000;
/// Calls with little load that end it, in multiples of how many there are at a time: the first ones to end are the
/// short ones.
const THIN_FOR: u32 = 4;
const THIN_FOR_LEAST: u32 = 20;
/// Weight of the newest call with little load in their average, once there were enough to average.
const UNLOADED: f64 = 0.04;
/// Most weight of the newest call in the average of all.
const RECENT: f64 = 0.1;
/// Weight of new limits against old ones over as many calls as are under way: a change shows only after that many,
/// and to follow faster would be to swing.
const SMOOTHING: f64 = 0.5;

#[derive(Clone, Debug)]
pub(crate) enum Limit {
    Fixed(u32),
    Adaptive(Adaptive),
    /// Of generations.
    Streams(Streams),
}

#[derive(Clone, Debug)]
pub(crate) struct Adaptive {
    limit: f64,
    /// Seconds that calls take with little load, and lately.
    unloaded: f64,
    recent: f64,
    /// Calls with little load so far.
    measured: u32,
    /// Calls since the unloaded latency was last measured.
    unmeasured: u32,
    /// Calls with little load that are still to be measured.
    thinning: u32,
}

impl Limit {
    pub(crate) fn of(concurrency: Concurrency) -> Self {
        match concurrency {
            Concurrency::Fixed(limit) => Self::Fixed(limit.max(1)),
            Concurrency::Auto => Self::Adaptive(Adaptive::new()),
        }
    }

    /// One batch outstanding per replica: the next one forms while this one runs.
    pub(crate) fn one() -> Self {
        Self::Fixed(1)
    }

    /// Calls it may have in the long run.
    pub(crate) fn get(&self) -> u32 {
        match self {
            Self::Fixed(limit) => *limit,
            Self::Adaptive(adaptive) => adaptive.limit as u32,
            Self::Streams(streams) => streams.get(),
        }
    }

    /// Calls it may have now.
    pub(crate) fn ceiling(&self) -> u32 {
        match self {
            Self::Adaptive(adaptive) if adaptive.thinning > 0 => adaptive.little(),
            _ => self.get(),
        }
    }

    /// Learns from a call that took `elapsed` while the replica had `load` calls, this one included.
    pub(crate) fn succeeded(&mut self, elapsed: Duration, load: u32) {
        if let Self::Adaptive(adaptive) = self {
            adaptive.succeeded(elapsed.as_secs_f64(), load);
        }
    }

    /// See [`Streams::first_token`].
    pub(crate) fn first_token(&mut self, elapsed: Duration, load: u32) {
        if let Self::Streams(streams) = self {
            streams.first_token(elapsed, load);
        }
    }

    /// See [`Streams::paced`].
    pub(crate) fn paced(&mut self, line: &Latency, slowness: f64, per_token: Duration, load: u32) {
        if let Self::Streams(streams) = self {
            streams.paced(line, slowness, per_token, load);
        }
    }

    pub(crate) fn overloaded(&mut self) {
        match self {
            Self::Fixed(_) => {}
            Self::Adaptive(adaptive) => adaptive.limit = (adaptive.limit * 0.9).max(1.0),
            Self::Streams(streams) => streams.overloaded(),
        }
    }
}

impl Adaptive {
    /// Measures first.
    fn new() -> Self {
        let thinning = THIN_FOR * (START * LITTLE) as u32;
        Self { limit: START, unloaded: 0.0, recent: 0.0, measured: 0, unmeasured: 0, thinning }
    }

    fn succeeded(&mut self, seconds: f64, load: u32) {
        self.measure(seconds, load);
        if self.thinning > 0 {
            self.recent = self.unloaded;
            return;
        }
        self.recent += RECENT.min(1.0 / self.limit) * (seconds - self.recent);
        // Nothing is faster under load; what seems to be was measured badly.
        self.unloaded = self.unloaded.min(self.unloaded + UNLOADED * (self.recent - self.unloaded));
        let gradient = (TOLERANCE * self.unloaded / self.recent.max(1e-9)).clamp(0.5, 1.0);
        if f64::from(load) * 2.0 < self.limit && gradient >= 1.0 {
            return;
        }
        let wanted = self.limit * gradient + self.limit.sqrt();
        let weight = SMOOTHING / self.limit.max(4.0);
        self.limit = (self.limit + weight * (wanted - self.limit)).clamp(1.0, MOST);
    }

    fn measure(&mut self, seconds: f64, load: u32) {
        if load <= self.little() {
            self.measured = self.measured.saturating_add(1);
            self.unloaded += UNLOADED.max(1.0 / f64::from(self.measured)) * (seconds - self.unloaded);
            self.unmeasured = 0;
            self.thinning = self.thinning.saturating_sub(1);
        } else {
            self.unmeasured += 1;
        }
        if self.unmeasured >= THIN_AFTER_LEAST.max(THIN_AFTER * self.limit as u32) {
            (self.unmeasured, self.thinning) = (0, THIN_FOR_LEAST.max(THIN_FOR * self.little()));
        }
    }

    fn little(&self) -> u32 {
        ((self.limit * LITTLE) as u32).max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    /// A server that starts calls in their order on `workers` workers.
    struct Workers {
        workers: usize,
        /// Seconds of service, from a number between 0 and 1.
        service: fn(f64) -> f64,
    }

    fn steady(_: f64) -> f64 {
        0.010
    }

    fn exponential(random: f64) -> f64 {
        -0.010 * (1.0 - random).ln()
    }

    /// Up to `offered` calls at a time for as long as 50,000 calls take: the average limit over the last half of them,
    /// and calls per second.
    fn drive(limit: &mut Limit, server: &Workers, offered: u32) -> (f64, f64) {
        let mut random = StdRng::seed_from_u64(3);
        let nanos = |seconds: f64| (seconds * 1e9) as u64;
        let mut free: BinaryHeap<Reverse<u64>> = (0..server.workers).map(|_| Reverse(0)).collect();
        let mut running: BinaryHeap<Reverse<(u64, u64, u32)>> = BinaryHeap::new();
        let (mut now, mut limits) = (0, 0.0);
        for call in 0..50_000 {
            while (running.len() as u32) < limit.ceiling().min(offered) {
                let Reverse(worker) = free.pop().unwrap();
                let end = worker.max(now) + nanos((server.service)(random.random()));
                free.push(Reverse(end));
                running.push(Reverse((end, now, running.len() as u32 + 1)));
            }
            let load = running.len() as u32;
            let Reverse((end, began, load_then)) = running.pop().unwrap();
            now = end;
            limit.succeeded(Duration::from_nanos(end - began), load.max(load_then));
            if call >= 25_000 {
                limits += f64::from(limit.get());
            }
        }
        (limits / 25_000.0, 50_000.0 / (now as f64 / 1e9))
    }

    fn auto() -> Limit {
        Limit::of(Concurrency::Auto)
    }

    #[test]
    fn an_unused_limit_does_not_grow() {
        let server = Workers { workers: 8, service: steady };
        assert!(drive(&mut auto(), &server, 4).0 <= START);
    }

    #[test]
    fn a_limit_that_is_used_without_harm_grows() {
        let server = Workers { workers: 2_000, service: steady };
        let (limit, _) = drive(&mut auto(), &server, 10_000);
        assert!(limit > 500.0, "{limit}");
    }

    #[test]
    fn a_server_with_few_workers_is_kept_busy_without_a_queue_that_grows() {
        for workers in [1, 2, 8, 32] {
            for service in [steady, exponential] {
                let server = Workers { workers, service };
                let (limit, rate) = drive(&mut auto(), &server, 10_000);
                let (workers, full) = (workers as f64, workers as f64 / 0.010);
                let context = format!("{workers} workers: limit {limit:.1}, {rate:.0} of {full:.0}/s");
                assert!(limit > workers && limit < 3.0 * workers + 8.0, "{context}");
                assert!(rate > 0.9 * full, "{context}");
            }
        }
    }

    #[test]
    fn a_server_that_becomes_slower_as_a_whole_keeps_its_limit() {
        let mut limit = auto();
        drive(&mut limit, &Workers { workers: 8, service: steady }, 10_000);
        let (limit, _) = drive(&mut limit, &Workers { workers: 8, service: |_| 0.030 }, 10_000);
        assert!(limit > 8.0 && limit < 32.0, "{limit}");
    }

    #[test]
    fn a_server_that_says_it_is_full_gets_less() {
        let mut limit = auto();
        for _ in 0..200 {
            limit.overloaded();
        }
        assert_eq!(limit.get(), 1);
    }

    #[test]
    fn a_fixed_limit_stays() {
        let mut limit = Limit::of(Concurrency::Fixed(4));
        limit.overloaded();
        limit.succeeded(Duration::from_secs(9), 4);
        assert_eq!(limit.get(), 4);
    }
}
