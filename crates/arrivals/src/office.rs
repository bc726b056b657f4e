//! Office days with a night at zero and flash crowds, drawn from a seed: the load that autoscalers are made for.

use std::str::FromStr;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    Error,
    profile::{Profile, Segment, number},
    spacing::Spacing,
};

const USAGE: &str = "peak=RATE[,days=N][,crowds=N][,height=FACTOR]";
const MINUTES: usize = 24 * 60;
/// Days one profile may have.
const DAYS_MAX: u32 = 366;
/// Flash crowds one day may have.
const CROWDS_MAX: u32 = 100;
/// Share of the peak at a minute of the day; straight lines between them. People come at seven all at once.
const SHAPE: [(u32, f64); 15] = [
    (0, 0.0),
    (419, 0.0),
    (420, 0.15),
    (480, 0.5),
    (540, 0.9),
    (600, 1.0),
    (720, 0.95),
    (780, 0.7),
    (840, 0.95),
    (960, 0.95),
    (1020, 0.7),
    (1080, 0.4),
    (1140, 0.15),
    (1200, 0.02),
    (1201, 0.0),
];
/// Minutes of the day in which a crowd may come.
const OPEN: std::ops::Range<u32> = 8 * 60..18 * 60;

/// Days from midnight to midnight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Office {
    /// Requests per second in the busiest hour, without crowds.
    pub peak: f64,
    pub days: u32,
    /// Flash crowds a day: within two minutes many come, and within a quarter of an hour they are gone.
    pub crowds: u32,
    /// Requests per second that the largest crowd adds, as a multiple of the peak; the smallest adds a third of that.
    pub height: f64,
}

impl Office {
    /// The rate of these days; crowds come at other times with another seed.
    ///
    /// # Errors
    /// A number that makes no sense.
    pub fn profile(&self, seed: u64) -> Result<Profile, Error> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut segments = Vec::with_capacity(self.days as usize * MINUTES);
        for _ in 0..self.days.min(DAYS_MAX) {
            let mut rates: Vec<f64> = (0..=MINUTES as u32).map(|minute| self.peak * share(minute)).collect();
            for _ in 0..self.crowds.min(CROWDS_MAX) {
                self.crowd(&mut rates, &mut rng);
            }
            let pairs = rates.iter().zip(rates.iter().skip(1));
            segments.extend(pairs.map(|(from, to)| Segment {
                length: 60.0,
                from: *from,
                to: *to,
                spacing: Spacing::Poisson,
            }));
        }
        Profile::new(segments)
    }

    fn crowd(&self, rates: &mut [f64], rng: &mut StdRng) {
        let start = rng.random_range(OPEN) as usize;
        let added = self.peak * self.height * rng.random_range(0.33..1.0);
        let stays = rng.random_range(4..12usize);
        for (minute, rate) in rates.iter_mut().enumerate().skip(start) {
            let after = minute - start;
            let share = match after {
                0 => 0.0,
                1 => 0.5,
                _ if after < 2 + stays => 1.0,
                _ => 1.0 - (after - 1 - stays) as f64 / 4.0,
            };
            if share < 0.0 {
                break;
            }
            *rate += added * share;
        }
    }
}

fn share(minute: u32) -> f64 {
    let after = SHAPE.partition_point(|(at, _)| *at <= minute);
    match (SHAPE.get(after.wrapping_sub(1)), SHAPE.get(after)) {
        (Some((from, low)), Some((to, high))) => {
            low + (high - low) * f64::from(minute - from) / f64::from(to - from)
        }
        _ => 0.0,
    }
}

impl FromStr for Office {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut office = Self { peak: 0.0, days: 1, crowds: 3, height: 1.0 };
        for part in text.split(',') {
            let usage = || Error::Part { text: part.to_owned(), usage: USAGE };
            let whole = |value: &str| value.parse().map_err(|_| usage());
            match part.split_once('=') {
                Some(("peak", value)) => office.peak = number(value)?,
                Some(("days", value)) => office.days = whole(value)?,
                Some(("crowds", value)) => office.crowds = whole(value)?,
                Some(("height", value)) => office.height = number(value)?,
                _ => return Err(usage()),
            }
        }
        let numbers = [office.peak, office.height, f64::from(office.days)];
        if office.peak <= 0.0 || office.days == 0 || office.days > DAYS_MAX || office.crowds > CROWDS_MAX {
            return Err(Error::NotARate(numbers));
        }
        Ok(office)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(text: &str, seed: u64) -> Vec<f64> {
        let profile = text.parse::<Office>().unwrap().profile(seed).unwrap();
        profile.segments().iter().map(|segment| segment.from).collect()
    }

    #[test]
    fn nights_are_silent_and_mornings_come_at_once() {
        let rates = rates("peak=100,days=2,crowds=0", 1);
        assert_eq!(rates.len(), 2 * MINUTES);
        for day in [0, MINUTES] {
            assert!(rates[day..day + 419].iter().all(|rate| *rate == 0.0));
            assert!((rates[day + 420] - 15.0).abs() < 1e-9 && (rates[day + 600] - 100.0).abs() < 1e-9);
            assert!(rates[day + 1201..day + MINUTES].iter().all(|rate| *rate == 0.0));
        }
    }

    #[test]
    fn crowds_come_on_top_by_day_and_at_other_times_with_another_seed() {
        let calm = rates("peak=100,crowds=0", 1);
        let crowded = rates("peak=100,crowds=2,height=2", 1);
        assert_ne!(crowded, rates("peak=100,crowds=2,height=2", 2));
        let added: Vec<f64> = crowded.iter().zip(&calm).map(|(with, without)| with - without).collect();
        let minutes = added.iter().filter(|rate| **rate > 1.0).count();
        assert!((8..40).contains(&minutes), "{minutes}");
        let most = added.iter().copied().fold(0.0, f64::max);
        assert!((60.0..400.0).contains(&most), "{most}");
        assert!(added[..480].iter().all(|rate| *rate == 0.0));
    }

    #[test]
    fn an_office_that_cannot_be_is_refused() {
        for text in ["", "peak=0", "days=2", "peak=5,days=0", "peak=5,night=1", "peak=x"] {
            assert!(text.parse::<Office>().is_err(), "{text:?}");
        }
    }
}
