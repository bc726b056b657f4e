//! Weekly windows with bounds of their own: office hours, nights, weekends.
//!
//! A window is half-open, in the civil time of its zone. Where the clock is put forward past one of its ends, that
//! end is the moment of the change; of a time that comes twice a window starts at the first and ends at the last.
//! Of windows that are open together a pin beats caps and caps beat floors; the highest floor, the lowest cap and
//! the lowest pin count. A floor is asked for ahead, by the time that a start takes ([`MARGIN`] included), and
//! then wins over a cap whose window is over when the floor begins.

mod agenda;
mod days;
mod open;
mod timeline;

use std::{sync::Arc, time::Duration};

use jiff::{Timestamp, civil, civil::Weekday, tz::TimeZone};
use serde::{Deserialize, Serialize};

pub(crate) use self::agenda::{Agenda, Look};
use self::timeline::{Segment, Turn, segments};
use crate::policy::{self, Mode, Policy};

/// Asked for so much earlier than a start takes: what is ready a moment too early costs less than what is late.
pub const MARGIN: Duration = Duration::from_secs(30);
/// Longest time that transitions are told for.
const HORIZON_MOST: Duration = Duration::from_secs(366 * 24 * 3600);

/// A weekly window with bounds of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    pub name: Arc<str>,
    #[serde(with = "jiff::fmt::serde::tz::required")]
    pub timezone: TimeZone,
    /// Days on which it starts.
    #[serde(with = "days")]
    pub days: Vec<Weekday>,
    /// Minutes after midnight; `to` is excluded, and on the next day where it is not after `from`. A window with
    /// `from` beyond 23:59 or `to` beyond 24:00 never opens.
    pub from: u16,
    pub to: u16,
    pub bounds: Bounds,
    pub on_request: OnRequest,
    /// How long before its start a floor is asked for; `None`: as long as a cold start takes.
    pub prewarm: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bounds {
    /// At least one of them is there; floor ≤ cap.
    Between {
        floor: Option<u32>,
        cap: Option<u32>,
    },
    Exactly(u32),
}

/// What a call does while a window allows no replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRequest {
    /// It starts a replica all the same: one, however many call, which then stays until it was idle for as long
    /// as at any other time. Replicas from before the window go as soon as they have finished, unless somebody
    /// has called since it began.
    Wake,
    /// It is refused. What was admitted before the window began is finished.
    Reject,
}

/// Which window a number comes from, and whose clock it follows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct By {
    pub name: Arc<str>,
    #[serde(with = "jiff::fmt::serde::tz::required")]
    pub timezone: TimeZone,
}

/// What schedules have to do with a decision, besides its terms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scheduled {
    /// What keeps the model below its own `max` now.
    pub cap: Option<Cap>,
    /// When the bounds change next; `None` where that does not happen within a week.
    pub next: Option<Transition>,
}

/// A cap, or the upper side of a pin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cap {
    pub replicas: u32,
    pub by: By,
    pub pin: bool,
    pub on_request: OnRequest,
    /// Since when it holds; where it allows none: since when none are allowed, by whichever window.
    pub since: Duration,
    /// When it ends; where it allows none: when calls meet something else. `None`: not within a week.
    pub until: Option<Duration>,
    /// The pre-warm of a floor that begins when the cap has ended needs more, and has it.
    pub yields: bool,
}

/// A floor, or the lower side of a pin: the numbers behind the term `schedule`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    pub replicas: u32,
    pub by: By,
    pub kind: FloorKind,
    pub when: When,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FloorKind {
    Floor,
    Pin,
    /// The model's own `min`, which comes back when the window ends.
    OwnMin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// It holds; `until: None`: for a week at least.
    Open { until: Option<Duration> },
    /// It is going to hold, and what it needs is asked for now.
    Prewarm { starts: Duration, lead: Lead },
}

/// How long replicas take to be ready, and how that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lead {
    /// As the owner wrote: just so long before.
    Written(Duration),
    /// A cold start, as measured.
    Measured(Duration),
    /// A cold start, until it is measured.
    Assumed(Duration),
}

/// A change of the bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    pub at: Duration,
    pub before: policy::Bounds,
    pub after: policy::Bounds,
    /// The window that begins; where none does, the one that ends.
    pub by: By,
    pub edge: Edge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edge {
    Begins,
    Ends,
}

/// Why a call is refused, and until when.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub by: Arc<str>,
    /// `None`: for a week at least.
    pub until: Option<Duration>,
}

/// Every change of the bounds within `horizon` (a year at most) after `from`, for a model with `base` of its own.
/// Times are since the Unix epoch.
#[must_use]
pub fn transitions(
    schedules: &[Schedule],
    base: policy::Bounds,
    from: Duration,
    horizon: Duration,
) -> Vec<Transition> {
    let range = from..from.saturating_add(horizon.min(HORIZON_MOST));
    let segments = segments(schedules, base, &range);
    let pairs = segments.windows(2).filter_map(|pair| <&[Segment; 2]>::try_from(pair).ok());
    pairs.filter_map(|[before, after]| transition(schedules, before, after)).collect()
}

/// Whether calls that find no replica are refused at `now` (since the Unix epoch) although one could be started:
/// a window allows none, and no floor is being pre-warmed by a start that takes `lead`. Costs some tens of
/// microseconds where any window refuses calls at all.
#[must_use]
pub fn refuses(policy: &Policy, lead: Duration, now: Duration) -> Option<Refusal> {
    if policy.mode == Mode::Observe || !policy.schedules.iter().any(Schedule::may_refuse) {
        return None;
    }
    let look = Agenda::default().look(policy, Lead::Assumed(lead), now)?;
    let cap = look.scheduled.refuses()?;
    Some(Refusal { by: Arc::clone(&cap.by.name), until: cap.until })
}

impl Schedule {
    fn by(&self) -> By {
        By { name: Arc::clone(&self.name), timezone: self.timezone.clone() }
    }

    fn may_refuse(&self) -> bool {
        let none = matches!(self.bounds, Bounds::Exactly(0) | Bounds::Between { cap: Some(0), .. });
        none && self.on_request == OnRequest::Reject
    }
}

impl By {
    /// What the clock of the window's zone shows at `at`.
    #[must_use]
    pub fn clock(&self, at: Duration) -> civil::DateTime {
        self.timezone.to_datetime(timestamp(at).unwrap_or(Timestamp::MAX))
    }
}

impl Scheduled {
    /// The cap that allows no replica now.
    #[must_use]
    pub fn off(&self) -> Option<&Cap> {
        self.cap.as_ref().filter(|cap| cap.replicas == 0 && !cap.yields)
    }

    /// The cap because of which calls do not wake now.
    #[must_use]
    pub fn refuses(&self) -> Option<&Cap> {
        self.off().filter(|cap| cap.on_request == OnRequest::Reject)
    }
}

impl Cap {
    /// Whether something that is `age` old at `now` is older than the cap.
    pub(crate) fn is_younger_than(&self, age: Option<Duration>, now: Duration) -> bool {
        age.is_some_and(|age| now.saturating_sub(age) < self.since)
    }
}

impl Lead {
    /// How long before a floor begins it is asked for.
    #[must_use]
    pub fn ahead(self) -> Duration {
        match self {
            Self::Written(ahead) => ahead,
            Self::Measured(start) | Self::Assumed(start) => start.saturating_add(MARGIN),
        }
    }
}

fn transition(schedules: &[Schedule], before: &Segment, after: &Segment) -> Option<Transition> {
    if before.bounds == after.bounds {
        return None;
    }
    let Turn { schedule, edge } = after.turn?;
    let by = schedules.get(schedule)?.by();
    Some(Transition { at: after.from, before: before.bounds, after: after.bounds, by, edge })
}

fn timestamp(at: Duration) -> Option<Timestamp> {
    i64::try_from(at.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok())
}
