//! What was learned of a model, in at most five kilobytes, of which three are the days of its season: what a process
//! that takes over should know, and has no way to see. The present is not in it: that is looked at.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{RestoreError, State};
use crate::{
    capacity::Unit,
    coldstart::ColdStarts,
    decide::Decision,
    demand::{Envelope, Measure, Why},
    idle::{GAPS_NEEDED, Idle},
    season::Season,
    signals::Signals,
    snapshot::{ChatModel, LatencyModel, SAMPLES_NEEDED},
};

/// Form of a digest; another one is not read.
const VERSION: u32 = 1;
/// Targets are kept as the highest of each of so many seconds, so many times.
const SPAN: Duration = Duration::from_secs(60);
const SPANS: usize = 5;
/// For how long a highest peak is remembered: each kind of day comes once in it.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// How far clocks of two machines may differ; a digest from later than that is of another epoch.
const SKEW: Duration = Duration::from_secs(60);

/// The learned part of a [`State`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Digest {
    version: u32,
    /// When it was made; times are in milliseconds, and before this one where they are ages.
    at: u64,
    /// The last cold starts, newest last.
    #[serde(default)]
    pub(super) starts: Vec<u64>,
    /// Gaps between requests, by length.
    #[serde(default)]
    gaps: Vec<u32>,
    /// Since the model was last busy.
    busy: Option<u64>,
    pub(super) latency: Option<Latency>,
    /// Of streams, in nanoseconds too; digests from before there were any have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chat: Option<Chat>,
    /// The highest targets of the last minutes, with their age, newest last.
    #[serde(default)]
    targets: Vec<(u64, u32)>,
    pub(super) peak: Option<Highest>,
    /// The highest of the last days; digests from before there was any have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) highest: Option<Highest>,
    /// What the times of the last days needed; digests from before there were any have none.
    #[serde(default, skip_serializing_if = "Season::is_empty")]
    season: Season,
}

/// [`LatencyModel`] in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Latency {
    fixed: u64,
    row: u64,
    tail: u32,
    samples: u64,
    rows: u32,
    calls: u32,
}

/// [`ChatModel`] in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chat {
    ttft: u64,
    fixed: u64,
    stream: u64,
    tail: u32,
    tokens: u64,
    samples: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Highest {
    age: u64,
    pub(super) peak: f64,
    pub(super) unit: Unit,
    pub(super) in_flight: bool,
}

impl Highest {
    fn of(peak: Peak, age: u64) -> Self {
        let Peak { peak, unit, in_flight, .. } = peak;
        Self { age, peak, unit, in_flight }
    }

    fn since(self, at: Duration) -> Peak {
        Peak { at, peak: self.peak.max(0.0), unit: self.unit, in_flight: self.in_flight }
    }
}

/// An envelope's peak, and when it was true.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Peak {
    at: Duration,
    peak: f64,
    unit: Unit,
    /// Of what is in flight; else of what arrives in a second.
    in_flight: bool,
}

#[derive(Deserialize)]
struct Form {
    version: u32,
}

impl Digest {
    pub(super) fn of(state: &State) -> Self {
        let now = state.life.observed().unwrap_or_default();
        let age = |at: Duration| millis(now.saturating_sub(at));
        Self {
            version: VERSION,
            at: millis(now),
            starts: state.starts.samples().map(millis).collect(),
            gaps: state.idle.gaps().to_vec(),
            busy: state.idle.busy_at.map(age),
            latency: state.signals.latency().map(Latency::from),
            chat: state.signals.chat().map(Chat::from),
            targets: highest(state, now).map(|(at, target)| (age(at), target)).collect(),
            peak: state.highest_peak().map(|peak| Highest::of(peak, age(peak.at))),
            highest: state.highest.map(|peak| Highest::of(peak, age(peak.at))),
            season: state.season.told(),
        }
    }

    /// The digest that [`to_json`](Self::to_json) has written.
    ///
    /// # Errors
    /// [`RestoreError`] if it is no digest, or one of another version.
    pub fn from_json(json: &str) -> Result<Self, RestoreError> {
        let Form { version } = serde_json::from_str(json)?;
        if version != VERSION {
            return Err(RestoreError::Version { found: version, known: VERSION });
        }
        Ok(serde_json::from_str(json)?)
    }

    /// Five kilobytes at most.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("has string keys only and no value that can refuse")
    }

    /// How much was learned, in samples that count: one that weighs less is not to replace one that weighs more. The
    /// season does not count: its days may go, with their zone or their unit.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let gaps: u64 = self.gaps.iter().map(|count| u64::from(*count)).sum();
        let calls = self.latency.map_or(0, |latency| latency.samples);
        let calls = calls.max(self.chat.map_or(0, |chat| chat.samples));
        // More than what makes it believed is not more: histories are shortened and gateways restart.
        self.starts.len() as u64 + gaps.min(u64::from(GAPS_NEEDED)) + calls.min(SAMPLES_NEEDED)
    }

    /// If it was made well after `now`, its times are of another epoch: then only what has no time in it is kept.
    pub(super) fn restore(self, now: Duration) -> State {
        let made = Duration::from_millis(self.at);
        let dated = made <= now + SKEW;
        let at = |age: &u64| made.min(now).checked_sub(Duration::from_millis(*age)).filter(|_| dated);
        let targets = self.targets.iter().take(SPANS);
        State {
            signals: Signals::restored(self.latency.map(LatencyModel::from), self.chat.map(ChatModel::from)),
            starts: ColdStarts::restored(self.starts.iter().map(|took| Duration::from_millis(*took))),
            idle: Idle::restored(&self.gaps, self.busy.as_ref().and_then(at)),
            season: if dated { self.season.restored() } else { Season::default() },
            past: self.peak.and_then(|peak| Some(peak.since(at(&peak.age)?))),
            highest: self.highest.and_then(|peak| Some(peak.since(at(&peak.age)?))),
            targets: targets.filter_map(|(age, target)| Some((at(age)?, *target))).collect(),
            ..State::default()
        }
    }
}

/// The highest target of each span, oldest first.
fn highest(state: &State, now: Duration) -> impl Iterator<Item = (Duration, u32)> {
    let within = move |span: usize| {
        let ages = SPAN * span as u32..SPAN * (span as u32 + 1);
        let targets = state.targets.iter().filter(move |(at, _)| ages.contains(&now.saturating_sub(*at)));
        targets.copied().max_by_key(|(_, target)| *target)
    };
    (0..SPANS).rev().filter_map(within)
}

impl State {
    /// The peak to be told to another process: the last decision's, or one that was told to us and is higher.
    fn highest_peak(&self) -> Option<Peak> {
        let ours = self.peak?;
        Some(self.past.filter(|past| past.is_like(&ours) && past.peak >= ours.peak).unwrap_or(ours))
    }
}

impl Peak {
    /// What the envelope of `decision` was reckoned from. A bound for few requests is no peak.
    pub(super) fn of(decision: &Decision) -> Option<Self> {
        let envelope = decision.terms.iter().find_map(|term| match &term.why {
            Why::Envelope(envelope) if envelope.measure != Measure::SparseRate => Some(envelope),
            _ => None,
        })?;
        Some(Self::new(envelope, decision.inputs.capacity.unit, decision.at))
    }

    fn new(envelope: &Envelope, unit: Unit, at: Duration) -> Self {
        Self { at, peak: envelope.peak, unit, in_flight: envelope.measure == Measure::InFlight }
    }

    /// `before`, or `now` where that is higher, says more, or the other was too long ago. While other days are known
    /// in the unit of `before`, one of another unit does not replace it: merging may be suspended for some minutes.
    pub(super) fn highest(before: Option<Self>, now: Option<Self>, days: Option<Unit>) -> Option<Self> {
        let Some(now) = now else { return before };
        let outdoes = |before: &Self| match before {
            before if before.unit != now.unit => days == Some(before.unit),
            // A rate says more than what is in flight.
            before if before.in_flight != now.in_flight => now.in_flight,
            before => before.peak > now.peak,
        };
        let kept = |before: &Self| outdoes(before) && now.at.saturating_sub(before.at) < WEEK;
        Some(before.filter(kept).unwrap_or(now))
    }

    fn is_like(&self, other: &Self) -> bool {
        self.unit == other.unit && self.in_flight == other.in_flight
    }

    /// `seen`, or this peak where it is higher, of the same kind, and within the horizon.
    pub(crate) fn or_higher(&self, seen: Envelope, unit: Unit, now: Duration) -> Envelope {
        let counts = self.is_like(&Self::new(&seen, unit, now))
            && now.saturating_sub(self.at) < seen.horizon
            && self.peak > seen.peak;
        if !counts {
            return seen;
        }
        let measure = if self.in_flight { Measure::InFlight } else { Measure::Rate };
        Envelope { peak: self.peak, measure, ..seen }
    }
}

impl From<LatencyModel> for Latency {
    fn from(model: LatencyModel) -> Self {
        Self {
            fixed: nanos(model.fixed),
            row: nanos(model.per_row),
            tail: model.tail_permille,
            samples: model.samples,
            rows: model.max_batch_rows,
            calls: model.concurrency,
        }
    }
}

impl From<Latency> for LatencyModel {
    fn from(latency: Latency) -> Self {
        Self {
            fixed: Duration::from_nanos(latency.fixed),
            per_row: Duration::from_nanos(latency.row),
            tail_permille: latency.tail,
            samples: latency.samples,
            max_batch_rows: latency.rows,
            concurrency: latency.calls,
        }
    }
}

impl From<ChatModel> for Chat {
    fn from(model: ChatModel) -> Self {
        Self {
            ttft: nanos(model.ttft),
            fixed: nanos(model.tpot_fixed),
            stream: nanos(model.tpot_per_stream),
            tail: model.tpot_tail_permille,
            tokens: model.output_tokens_milli,
            samples: model.samples,
        }
    }
}

impl From<Chat> for ChatModel {
    fn from(chat: Chat) -> Self {
        Self {
            ttft: Duration::from_nanos(chat.ttft),
            tpot_fixed: Duration::from_nanos(chat.fixed),
            tpot_per_stream: Duration::from_nanos(chat.stream),
            tpot_tail_permille: chat.tail,
            output_tokens_milli: chat.tokens,
            samples: chat.samples,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peak(at: u64, peak: f64, unit: Unit) -> Peak {
        Peak { at: Duration::from_secs(at), peak, unit, in_flight: false }
    }

    #[test]
    fn a_peak_of_another_unit_drops_the_recorded_one_once_days_are_of_it_or_after_a_week() {
        let rows = peak(0, 900.0, Unit::Rows);
        let requests = peak(60, 30.0, Unit::Requests);
        let highest = |now, days| Peak::highest(Some(rows), Some(now), days);
        assert_eq!(highest(requests, Some(Unit::Rows)), Some(rows), "suspended");
        assert_eq!(highest(requests, Some(Unit::Requests)), Some(requests));
        assert_eq!(highest(requests, None), Some(requests));
        let later = Peak { at: WEEK, ..requests };
        assert_eq!(highest(later, Some(Unit::Rows)), Some(later));
    }

    #[test]
    fn a_recorded_peak_of_another_unit_than_the_present_one_is_not_judged_by() {
        let mut digest = State::default().digest();
        digest.highest = Some(Highest::of(peak(0, 900.0, Unit::Rows), 0));
        let judged = |digest: &Digest| digest.learned().peak.map(|peak| (peak.amount, peak.unit));
        assert_eq!(judged(&digest), Some((900.0, Unit::Rows)));
        digest.peak = Some(Highest::of(peak(60, 30.0, Unit::Requests), 0));
        assert_eq!(judged(&digest), Some((30.0, Unit::Requests)));
    }

    #[test]
    fn a_rate_drops_what_was_in_flight_and_not_the_other_way_round() {
        let rate = peak(60, 30.0, Unit::Rows);
        let in_flight = Peak { in_flight: true, ..peak(0, 90.0, Unit::Rows) };
        assert_eq!(Peak::highest(Some(in_flight), Some(rate), None), Some(rate));
        assert_eq!(Peak::highest(Some(rate), Some(in_flight), None), Some(rate));
    }
}
