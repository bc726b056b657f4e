//! The rate over time, as straight pieces: constant, steps, a ramp, on/off bursts, an office day.

use std::{str::FromStr, time::Duration};

use crate::{Error, spacing::Spacing};

/// Pieces of one profile; more would only be a mistake in the units of its durations.
const SEGMENTS_MAX: usize = 1_000_000;

/// Share of the peak in each hour of an office day, from midnight.
const DAY: [f64; 24] = [
    0.02, 0.01, 0.01, 0.01, 0.01, 0.02, 0.06, 0.20, 0.60, 0.90, 1.00, 0.95, 0.70, 0.85, 1.00, 0.95, 0.85,
    0.60, 0.30, 0.20, 0.15, 0.10, 0.06, 0.03,
];

/// A stretch of time in which the rate moves along a straight line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    /// Seconds.
    pub length: f64,
    /// Requests per second at its start.
    pub from: f64,
    /// Requests per second at its end.
    pub to: f64,
    pub spacing: Spacing,
}

impl Segment {
    /// One rate from its start to its end.
    #[must_use]
    pub fn flat(length: f64, rate: f64, spacing: Spacing) -> Self {
        Self { length, from: rate, to: rate, spacing }
    }

    fn rate_at(&self, offset: f64) -> f64 {
        self.from + (self.to - self.from) * offset / self.length
    }

    /// Requests expected from `offset` to the end.
    pub fn requests_after(&self, offset: f64) -> f64 {
        (self.length - offset) * (self.rate_at(offset) + self.to) / 2.0
    }

    /// The offset at which `requests` more than at `offset` are expected; they must lie within the segment.
    pub fn offset_after(&self, offset: f64, requests: f64) -> f64 {
        let rate = self.rate_at(offset);
        let slope = (self.to - self.from) / self.length;
        // The root of rate·d + slope·d²/2 = requests in the form that stays exact as the slope goes to zero.
        let root = (rate * rate + 2.0 * slope * requests).max(0.0).sqrt();
        (offset + 2.0 * requests / (rate + root)).min(self.length)
    }
}

/// The rate over the whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    segments: Vec<Segment>,
}

impl Profile {
    /// # Errors
    /// When it is empty, too long, has a negative or absurd number, or never sends a request.
    pub fn new(segments: Vec<Segment>) -> Result<Self, Error> {
        if segments.len() > SEGMENTS_MAX {
            return Err(Error::TooManySegments(SEGMENTS_MAX));
        }
        for segment in &segments {
            let numbers = [segment.length, segment.from, segment.to];
            if !numbers.iter().all(|n| n.is_finite() && *n >= 0.0) {
                return Err(Error::NotARate(numbers));
            }
        }
        let segments: Vec<_> = segments.into_iter().filter(|segment| segment.length > 0.0).collect();
        if !segments.iter().any(|s| s.from > 0.0 || s.to > 0.0) {
            return Err(Error::Silent);
        }
        Ok(Self { segments })
    }

    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Seconds.
    #[must_use]
    pub fn length(&self) -> f64 {
        self.segments.iter().map(|segment| segment.length).sum()
    }

    /// One rate all the time.
    ///
    /// # Errors
    /// As [`Profile::new`].
    pub fn constant(rate: f64, duration: Duration, spacing: Spacing) -> Result<Self, Error> {
        Self::new(vec![Segment::flat(duration.as_secs_f64(), rate, spacing)])
    }

    /// A rate that changes evenly.
    ///
    /// # Errors
    /// As [`Profile::new`].
    pub fn ramp(ramp: Ramp, duration: Duration, spacing: Spacing) -> Result<Self, Error> {
        let length = duration.as_secs_f64();
        Self::new(vec![Segment { length, from: ramp.from, to: ramp.to, spacing }])
    }

    /// Rates one after the other.
    ///
    /// # Errors
    /// As [`Profile::new`].
    pub fn steps(steps: &Steps, spacing: Spacing) -> Result<Self, Error> {
        let flat = |(rate, length): &(f64, Duration)| Segment::flat(length.as_secs_f64(), *rate, spacing);
        Self::new(steps.0.iter().map(flat).collect())
    }

    /// `rate` while on, `bursts.idle` while off, over and over until `duration` is filled.
    ///
    /// # Errors
    /// As [`Profile::new`].
    pub fn bursts(rate: f64, bursts: Bursts, duration: Duration, spacing: Spacing) -> Result<Self, Error> {
        let phases = [(bursts.on.as_secs_f64(), rate), (bursts.off.as_secs_f64(), bursts.idle)];
        let mut left = duration.as_secs_f64();
        let mut segments = Vec::new();
        for (length, rate) in phases.into_iter().cycle().take(SEGMENTS_MAX) {
            if left <= 0.0 {
                break;
            }
            segments.push(Segment::flat(length.min(left), rate, spacing));
            left -= length;
        }
        if left > 0.0 {
            return Err(Error::TooManySegments(SEGMENTS_MAX));
        }
        Self::new(segments)
    }

    /// An office day with `peak` requests per second in its busiest hours, squeezed into `duration`.
    ///
    /// # Errors
    /// As [`Profile::new`].
    pub fn day(peak: f64, duration: Duration, spacing: Spacing) -> Result<Self, Error> {
        let length = duration.as_secs_f64() / 24.0;
        let next_hours = DAY.iter().cycle().skip(1);
        let hour = |(from, to): (&f64, &f64)| Segment { length, from: from * peak, to: to * peak, spacing };
        Self::new(DAY.iter().zip(next_hours).map(hour).collect())
    }
}

/// `on=5s,off=10s`, and optionally `idle=RATE` for the rate while off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bursts {
    pub on: Duration,
    pub off: Duration,
    /// Requests per second.
    pub idle: f64,
}

impl FromStr for Bursts {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const USAGE: &str = "on=DURATION,off=DURATION[,idle=RATE]";
        let (mut on, mut off, mut idle) = (None, None, 0.0);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("on", value)) => on = Some(duration(value)?),
                Some(("off", value)) => off = Some(duration(value)?),
                Some(("idle", value)) => idle = number(value)?,
                _ => return Err(Error::Part { text: part.to_owned(), usage: USAGE }),
            }
        }
        let (Some(on), Some(off)) = (on, off) else { return Err(Error::Usage(USAGE)) };
        if on.is_zero() || off.is_zero() {
            return Err(Error::EmptyPhase);
        }
        Ok(Self { on, off, idle })
    }
}

/// `100x10s,400x30s`: requests per second, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps(Vec<(f64, Duration)>);

impl FromStr for Steps {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let step = |part: &str| {
            let usage = || Error::Part { text: part.to_owned(), usage: "RATExDURATION" };
            let (rate, length) = part.split_once('x').ok_or_else(usage)?;
            Ok((number(rate)?, duration(length)?))
        };
        text.split(',').map(step).collect::<Result<_, _>>().map(Self)
    }
}

/// `100..1000`: requests per second at the start and at the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ramp {
    from: f64,
    to: f64,
}

impl FromStr for Ramp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (from, to) = text.split_once("..").ok_or(Error::Usage("RATE..RATE"))?;
        Ok(Self { from: number(from)?, to: number(to)? })
    }
}

pub(crate) fn number(text: &str) -> Result<f64, Error> {
    text.parse().map_err(|source| Error::Number { text: text.to_owned(), source })
}

fn duration(text: &str) -> Result<Duration, Error> {
    humantime::parse_duration(text).map_err(|source| Error::Duration { text: text.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walking_along_a_ramp_spends_exactly_its_requests() {
        let ramp = Segment { length: 10.0, from: 0.0, to: 100.0, spacing: Spacing::Constant };
        assert!((ramp.requests_after(0.0) - 500.0).abs() < 1e-9);
        let half_way = ramp.offset_after(0.0, 125.0);
        assert!((half_way - 5.0).abs() < 1e-9, "{half_way}");
        assert!((ramp.requests_after(half_way) - 375.0).abs() < 1e-9);
    }

    #[test]
    fn bursts_fill_the_duration_and_no_more() {
        let bursts = "on=5s,off=10s,idle=2".parse().unwrap();
        let profile = Profile::bursts(100.0, bursts, Duration::from_secs(22), Spacing::Constant).unwrap();
        let pieces: Vec<_> = profile.segments().iter().map(|s| (s.length, s.from)).collect();
        assert_eq!(pieces, [(5.0, 100.0), (10.0, 2.0), (5.0, 100.0), (2.0, 2.0)]);
    }

    #[test]
    fn a_day_has_its_peak_in_office_hours_and_the_length_that_was_asked_for() {
        let day = Profile::day(200.0, Duration::from_secs(240), Spacing::Poisson).unwrap();
        assert!((day.length() - 240.0).abs() < 1e-9);
        let busiest = day.segments().iter().map(|s| s.from).fold(0.0, f64::max);
        assert!((busiest - 200.0).abs() < 1e-9);
    }

    #[test]
    fn a_profile_that_never_sends_or_makes_no_sense_is_refused() {
        for text in ["0x10s", "-5x10s", "nanx1s", "infx1s"] {
            assert!(Profile::steps(&text.parse().unwrap(), Spacing::Constant).is_err(), "{text}");
        }
        for text in ["on=5s", "on=0s,off=1s", "on=1s,off=1", "up=1s,off=1s"] {
            assert!(text.parse::<Bursts>().is_err(), "{text}");
        }
    }
}
