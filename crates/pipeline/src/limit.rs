//! How many calls a replica may have at a time where nothing is merged. Pure.
//!
//! The gradient rule of adaptive concurrency limits (Netflix concurrency-limits, Gradient2): while calls take
//! about as long as they did with little to do, the limit grows by its square root; as they take longer, it
//! shrinks in proportion. Growth needs the present limit to be used.

use std::time::Duration;

use crate::Concurrency;

const START: f64 = 32.0;
const MOST: f64 = 1024.0;
/// Latency may grow to this multiple of the long-term one before the limit shrinks.
const TOLERANCE: f64 = 2.0;
/// Weights of the newest call in the long and short averages.
const LONG: f64 = 0.002;
const SHORT: f64 = 0.1;
/// Weight of a new limit against the old one.
const SMOOTHING: f64 = 0.1;

#[derive(Clone, Debug)]
pub(crate) enum Limit {
    Fixed(u32),
    Adaptive(Adaptive),
}

#[derive(Clone, Debug)]
pub(crate) struct Adaptive {
    limit: f64,
    long: f64,
    short: f64,
}

impl Limit {
    pub(crate) fn of(concurrency: Concurrency) -> Self {
        match concurrency {
            Concurrency::Fixed(limit) => Self::Fixed(limit.max(1)),
            Concurrency::Auto => Self::Adaptive(Adaptive { limit: START, long: 0.0, short: 0.0 }),
        }
    }

    /// One batch outstanding per replica: the next one forms while this one runs.
    pub(crate) fn one() -> Self {
        Self::Fixed(1)
    }

    pub(crate) fn get(&self) -> u32 {
        match self {
            Self::Fixed(limit) => *limit,
            Self::Adaptive(adaptive) => adaptive.limit as u32,
        }
    }

    pub(crate) fn succeeded(&mut self, elapsed: Duration, in_flight: u32) {
        if let Self::Adaptive(adaptive) = self {
            adaptive.succeeded(elapsed.as_secs_f64(), f64::from(in_flight));
        }
    }

    pub(crate) fn overloaded(&mut self) {
        if let Self::Adaptive(adaptive) = self {
            adaptive.limit = (adaptive.limit * 0.9).max(1.0);
        }
    }
}

impl Adaptive {
    fn succeeded(&mut self, seconds: f64, in_flight: f64) {
        if self.long == 0.0 {
            (self.long, self.short) = (seconds, seconds);
        }
        self.short += SHORT * (seconds - self.short);
        self.long += LONG * (seconds - self.long);
        // After a long stretch of overload the long average is too high; it comes down faster than it goes up.
        if self.long > 2.0 * self.short {
            self.long *= 0.95;
        }
        let gradient = (TOLERANCE * self.long / self.short.max(1e-9)).clamp(0.5, 1.0);
        if in_flight * 2.0 < self.limit && gradient >= 1.0 {
            return;
        }
        let wanted = self.limit * gradient + self.limit.sqrt();
        self.limit = (self.limit + SMOOTHING * (wanted - self.limit)).clamp(1.0, MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server with `cores` workers: calls beyond them wait for each other.
    fn settle(cores: f64, offered: u32) -> u32 {
        let mut limit = Limit::of(Concurrency::Auto);
        let alone = 0.010;
        for _ in 0..200 {
            limit.succeeded(Duration::from_secs_f64(alone), 1);
        }
        for _ in 0..20_000 {
            let in_flight = limit.get().min(offered);
            let seconds = alone * (f64::from(in_flight) / cores).max(1.0);
            limit.succeeded(Duration::from_secs_f64(seconds), in_flight);
        }
        limit.get()
    }

    #[test]
    fn an_unused_limit_does_not_grow() {
        assert_eq!(settle(8.0, 4), START as u32);
    }

    #[test]
    fn a_limit_that_is_used_without_harm_grows() {
        assert!(settle(1e6, 10_000) > 500);
    }

    #[test]
    fn a_server_that_says_it_is_full_gets_less() {
        let mut limit = Limit::of(Concurrency::Auto);
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
