//! When requests arrive: decided beforehand and from a seed, never by how fast answers come back.
//!
//! A schedule is a rate [`profile`] with a [`spacing`], the times of a [`trace`], what was [`counted`], or everything at once. The load
//! generator sends by it, the simulator of the control path plays it.

pub mod counted;
mod error;
pub mod office;
pub mod profile;
pub mod spacing;
pub mod trace;

pub use error::{Error, LineError, TraceError};

use std::{sync::Arc, time::Duration};

use counted::Count;
use profile::Profile;
use rand::{SeedableRng as _, rngs::StdRng};

/// One request of a schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// Since the start.
    pub at: Duration,
    /// Tokens of the prompt, where the trace tells.
    pub prompt: Option<u32>,
    /// Tokens of the answer, where the trace tells.
    pub tokens: Option<u32>,
}

/// One request of a listed trace: 16 bytes, of which there may be many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Listed {
    /// Seconds since the start.
    pub at: f64,
    /// Tokens of the prompt; 0 where the trace does not tell.
    pub prompt: u32,
    /// Tokens of the answer; 0 where the trace does not tell.
    pub output: u32,
}

impl Listed {
    /// A request of which only the time is known.
    #[must_use]
    pub fn untold(at: f64) -> Self {
        Self { at, prompt: 0, output: 0 }
    }
}

/// When the requests of one run arrive.
#[derive(Clone, Debug)]
pub enum Schedule {
    Profile(Arc<Profile>),
    /// By time, ascending.
    Listed(Arc<[Listed]>),
    /// So many in each span of time.
    Counted(Arc<[Count]>),
    /// So many requests, all at the start.
    Burst(usize),
}

impl Schedule {
    /// From the start until the last request may arrive.
    #[must_use]
    pub fn length(&self) -> Duration {
        let seconds = match self {
            Self::Profile(profile) => profile.length(),
            Self::Listed(listed) => listed.last().map_or(0.0, |last| last.at),
            Self::Counted(counts) => counts.iter().map(|count| count.length).sum(),
            Self::Burst(_) => 0.0,
        };
        Duration::from_secs_f64(seconds)
    }

    /// The same, ended after so many arrivals.
    #[must_use]
    pub fn first(&self, arrivals: usize, seed: u64) -> Self {
        match self {
            Self::Profile(_) | Self::Counted(_) => {
                let drawn = self.arrivals(seed).take(arrivals);
                Self::Listed(drawn.map(|arrival| Listed::untold(arrival.at.as_secs_f64())).collect())
            }
            Self::Listed(listed) => Self::Listed(listed.iter().take(arrivals).copied().collect()),
            Self::Burst(requests) => Self::Burst(arrivals.min(*requests)),
        }
    }

    /// The requests by their time, ascending; the same for the same seed.
    #[must_use]
    pub fn arrivals(&self, seed: u64) -> Arrivals {
        match self {
            Self::Profile(profile) => Arrivals::Drawn(Box::new(Walk::new(Arc::clone(profile), seed))),
            Self::Listed(listed) => Arrivals::Listed { listed: Arc::clone(listed), next: 0 },
            Self::Counted(counts) => {
                Arrivals::Counted(Box::new(counted::Steps::new(Arc::clone(counts), seed)))
            }
            Self::Burst(requests) => Arrivals::Burst { left: *requests },
        }
    }
}

/// Iterator over the requests of one schedule.
#[derive(Debug)]
pub enum Arrivals {
    Drawn(Box<Walk>),
    Listed { listed: Arc<[Listed]>, next: usize },
    Counted(Box<counted::Steps>),
    Burst { left: usize },
}

impl Iterator for Arrivals {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        match self {
            Self::Drawn(walk) => {
                walk.next().map(|at| Arrival { at: Duration::from_secs_f64(at), prompt: None, tokens: None })
            }
            Self::Listed { listed, next } => {
                let Listed { at, prompt, output } = *listed.get(*next)?;
                *next += 1;
                let told = |tokens: u32| (tokens > 0).then_some(tokens);
                Some(Arrival { at: Duration::from_secs_f64(at), prompt: told(prompt), tokens: told(output) })
            }
            Self::Counted(steps) => {
                steps.next().map(|at| Arrival { at: Duration::from_secs_f64(at), prompt: None, tokens: None })
            }
            Self::Burst { left } => {
                *left = left.checked_sub(1)?;
                Some(Arrival { at: Duration::ZERO, prompt: None, tokens: None })
            }
        }
    }
}

/// Share of a request that rounding may cost: the arrival at the very end of a segment belongs to it.
const ROUNDING: f64 = 1e-6;

/// A walk along a profile: gaps are drawn with a mean of one and spent at the profile's rate.
#[derive(Debug)]
pub struct Walk {
    profile: Arc<Profile>,
    rng: StdRng,
    segment: usize,
    /// Seconds at which the current segment starts.
    start: f64,
    /// Seconds into the current segment.
    offset: f64,
}

impl Walk {
    fn new(profile: Arc<Profile>, seed: u64) -> Self {
        Self { profile, rng: StdRng::seed_from_u64(seed), segment: 0, start: 0.0, offset: 0.0 }
    }
}

impl Iterator for Walk {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        let mut gap = None;
        loop {
            let segment = self.profile.segments().get(self.segment)?;
            let wanted = gap.unwrap_or_else(|| segment.spacing.draw(&mut self.rng));
            let available = segment.requests_after(self.offset);
            if wanted <= available + ROUNDING {
                self.offset = segment.offset_after(self.offset, wanted);
                return Some(self.start + self.offset);
            }
            // What is left of the gap is carried into the next segment and spent at that one's rate.
            gap = Some(wanted - available);
            self.start += segment.length;
            self.offset = 0.0;
            self.segment += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        profile::{Bursts, Profile},
        spacing::Spacing,
        *,
    };

    fn times(profile: Profile, seed: u64) -> Vec<f64> {
        Schedule::Profile(Arc::new(profile)).arrivals(seed).map(|t| t.at.as_secs_f64()).collect()
    }

    #[test]
    fn poisson_arrivals_have_the_asked_rate_and_a_variation_of_one() {
        let profile = Profile::constant(500.0, Duration::from_secs(200), Spacing::Poisson).unwrap();
        let times = times(profile, 3);
        let rate = times.len() as f64 / 200.0;
        assert!((rate / 500.0 - 1.0).abs() < 0.02, "rate {rate}");

        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        let cv = variance.sqrt() / mean;
        assert!((cv - 1.0).abs() < 0.02, "cv {cv}");
    }

    #[test]
    fn constant_arrivals_keep_their_distance() {
        let times = times(Profile::constant(100.0, Duration::from_secs(2), Spacing::Constant).unwrap(), 1);
        assert_eq!(times.len(), 200);
        assert!(times.windows(2).all(|pair| (pair[1] - pair[0] - 0.01).abs() < 1e-9));
    }

    #[test]
    fn bursts_are_loud_while_on_and_silent_while_off() {
        let bursts = Bursts { on: Duration::from_secs(5), off: Duration::from_secs(10), idle: 0.0 };
        let times =
            times(Profile::bursts(200.0, bursts, Duration::from_secs(60), Spacing::Poisson).unwrap(), 9);
        assert!(times.iter().all(|t| t % 15.0 <= 5.0), "sent while off");
        let rate_while_on = times.len() as f64 / 20.0;
        assert!((rate_while_on / 200.0 - 1.0).abs() < 0.05, "{rate_while_on}");
    }

    #[test]
    fn a_ramp_puts_three_quarters_of_its_requests_into_its_second_half() {
        let ramp =
            Profile::ramp("0..1000".parse().unwrap(), Duration::from_secs(20), Spacing::Constant).unwrap();
        let times = times(ramp, 0);
        let late = times.iter().filter(|t| **t > 10.0).count() as f64 / times.len() as f64;
        assert!((late - 0.75).abs() < 0.001, "{late}");
        assert!(times.is_sorted());
    }

    #[test]
    fn the_same_seed_gives_the_same_times_and_another_seed_others() {
        let profile =
            || Profile::constant(50.0, Duration::from_secs(5), Spacing::Gamma { shape: 0.5 }).unwrap();
        assert_eq!(times(profile(), 4), times(profile(), 4));
        assert_ne!(times(profile(), 4), times(profile(), 5));
    }

    #[test]
    fn the_first_arrivals_of_a_schedule_are_those_it_starts_with() {
        let profile = Profile::constant(50.0, Duration::from_secs(50), Spacing::Poisson).unwrap();
        let all = Schedule::Profile(Arc::new(profile));
        let first = all.first(20, 4);
        assert_eq!(first.arrivals(9).collect::<Vec<_>>(), all.arrivals(4).take(20).collect::<Vec<_>>());
        assert_eq!(first.length(), all.arrivals(4).nth(19).unwrap().at);
    }

    #[test]
    fn a_burst_is_all_at_the_start() {
        let times: Vec<_> = Schedule::Burst(3).arrivals(0).map(|arrival| arrival.at).collect();
        assert_eq!(times, [Duration::ZERO; 3]);
    }
}
