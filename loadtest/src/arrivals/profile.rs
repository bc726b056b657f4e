//! The rate over time, as straight pieces: constant, steps, a ramp, on/off bursts, an office day.

use std::{str::FromStr, time::Duration};

use anyhow::{Context as _, bail, ensure};

use super::spacing::Spacing;

/// Pieces of one profile; more would only be a mistake in the units of its durations.
const SEGMENTS_MAX: usize = 1_000_000;

/// Share of the peak in each hour of an office day, from midnight.
const DAY: [f64; 24] = [
    0.02, 0.01, 0.01, 0.01, 0.01, 0.02, 0.06, 0.20, 0.60, 0.90, 1.00, 0.95, 0.70, 0.85, 1.00, 0.95, 0.85,
    0.60, 0.30, 0.20, 0.15, 0.10, 0.06, 0.03,
];

/// A stretch of time in which the rate moves along a straight line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Segment {
    /// Seconds.
    pub(crate) length: f64,
    /// Requests per second at its start.
    pub(crate) from: f64,
    /// Requests per second at its end.
    pub(crate) to: f64,
    pub(crate) spacing: Spacing,
}

impl Segment {
    pub(crate) fn flat(length: f64, rate: f64, spacing: Spacing) -> Self {
        Self { length, from: rate, to: rate, spacing }
    }

    fn rate_at(&self, offset: f64) -> f64 {
        self.from + (self.to - self.from) * offset / self.length
    }

    /// Requests expected from `offset` to the end.
    pub(crate) fn requests_after(&self, offset: f64) -> f64 {
        (self.length - offset) * (self.rate_at(offset) + self.to) / 2.0
    }

    /// The offset at which `requests` more than at `offset` are expected; they must lie within the segment.
    pub(crate) fn offset_after(&self, offset: f64, requests: f64) -> f64 {
        let rate = self.rate_at(offset);
        let slope = (self.to - self.from) / self.length;
        // The root of rate·d + slope·d²/2 = requests in the form that stays exact as the slope goes to zero.
        let root = (rate * rate + 2.0 * slope * requests).max(0.0).sqrt();
        (offset + 2.0 * requests / (rate + root)).min(self.length)
    }
}

/// The rate over the whole run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Profile {
    segments: Vec<Segment>,
}

impl Profile {
    /// Fails when it is empty, too long, has a negative or absurd number, or never sends a request.
    pub(crate) fn new(segments: Vec<Segment>) -> anyhow::Result<Self> {
        ensure!(segments.len() <= SEGMENTS_MAX, "more than {SEGMENTS_MAX} changes of rate");
        for segment in &segments {
            let numbers = [segment.length, segment.from, segment.to];
            ensure!(
                numbers.iter().all(|n| n.is_finite() && *n >= 0.0),
                "not a rate or a duration: {numbers:?}"
            );
        }
        let segments: Vec<_> = segments.into_iter().filter(|segment| segment.length > 0.0).collect();
        ensure!(segments.iter().any(|s| s.from > 0.0 || s.to > 0.0), "the rate is zero all the time");
        Ok(Self { segments })
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Seconds.
    pub(crate) fn length(&self) -> f64 {
        self.segments.iter().map(|segment| segment.length).sum()
    }

    pub(crate) fn constant(rate: f64, duration: Duration, spacing: Spacing) -> anyhow::Result<Self> {
        Self::new(vec![Segment::flat(duration.as_secs_f64(), rate, spacing)])
    }

    pub(crate) fn ramp(ramp: Ramp, duration: Duration, spacing: Spacing) -> anyhow::Result<Self> {
        let length = duration.as_secs_f64();
        Self::new(vec![Segment { length, from: ramp.from, to: ramp.to, spacing }])
    }

    pub(crate) fn steps(steps: &Steps, spacing: Spacing) -> anyhow::Result<Self> {
        let flat = |(rate, length): &(f64, Duration)| Segment::flat(length.as_secs_f64(), *rate, spacing);
        Self::new(steps.0.iter().map(flat).collect())
    }

    /// `rate` while on, `bursts.idle` while off, over and over until `duration` is filled.
    pub(crate) fn bursts(
        rate: f64,
        bursts: Bursts,
        duration: Duration,
        spacing: Spacing,
    ) -> anyhow::Result<Self> {
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
        ensure!(left <= 0.0, "more than {SEGMENTS_MAX} bursts");
        Self::new(segments)
    }

    /// An office day with `peak` requests per second in its busiest hours, squeezed into `duration`.
    pub(crate) fn day(peak: f64, duration: Duration, spacing: Spacing) -> anyhow::Result<Self> {
        let length = duration.as_secs_f64() / 24.0;
        let next_hours = DAY.iter().cycle().skip(1);
        let hour = |(from, to): (&f64, &f64)| Segment { length, from: from * peak, to: to * peak, spacing };
        Self::new(DAY.iter().zip(next_hours).map(hour).collect())
    }
}

/// `on=5s,off=10s`, and optionally `idle=RATE` for the rate while off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bursts {
    pub(crate) on: Duration,
    pub(crate) off: Duration,
    /// Requests per second.
    pub(crate) idle: f64,
}

impl FromStr for Bursts {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut on, mut off, mut idle) = (None, None, 0.0);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("on", value)) => on = Some(humantime::parse_duration(value)?),
                Some(("off", value)) => off = Some(humantime::parse_duration(value)?),
                Some(("idle", value)) => idle = value.parse()?,
                _ => bail!("{part:?}: use on=DURATION,off=DURATION[,idle=RATE]"),
            }
        }
        let (on, off) = (on.context("on=DURATION is missing")?, off.context("off=DURATION is missing")?);
        ensure!(!on.is_zero() && !off.is_zero(), "a phase of no length");
        Ok(Self { on, off, idle })
    }
}

/// `100x10s,400x30s`: requests per second, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Steps(Vec<(f64, Duration)>);

impl FromStr for Steps {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let step = |part: &str| {
            let (rate, length) =
                part.split_once('x').with_context(|| format!("{part:?}: use RATExDURATION"))?;
            Ok((rate.parse()?, humantime::parse_duration(length)?))
        };
        text.split(',').map(step).collect::<anyhow::Result<_>>().map(Self)
    }
}

/// `100..1000`: requests per second at the start and at the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ramp {
    from: f64,
    to: f64,
}

impl FromStr for Ramp {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (from, to) = text.split_once("..").context("use RATE..RATE")?;
        Ok(Self { from: from.parse()?, to: to.parse()? })
    }
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
