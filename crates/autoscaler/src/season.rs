//! What each time of day needed on other days: the crowd that comes at nine comes at nine tomorrow.
//!
//! A day has 288 slots of five minutes. When one is over, the rate of service that it needed is kept. What counts of a
//! slot is the median over the last four days of the same type (Monday to Friday, or the weekend), so that a single day
//! on which somebody tested the load neither adds nor takes anything. Nothing is believed before three such days are
//! known. Days are those of the zone of the model's schedules, or of UTC; in another zone they would be other days.

use std::{collections::VecDeque, time::Duration};

use jiff::{Timestamp, civil::Weekday, fmt::temporal::DateTimePrinter, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::{capacity::Unit, policy::Policy};

pub(crate) const SLOT: Duration = Duration::from_secs(300);
const SLOTS: usize = 288;
/// Days of one type that are looked at.
const DAYS_MOST: usize = 4;
/// Days that are kept: those of both types, and the present one.
const KEPT: usize = 2 * DAYS_MOST + 1;
/// Days of one type that must know a slot before it is believed.
const DAYS_NEEDED: usize = 3;
/// Slots that are looked at ahead at most: of two hours.
const AHEAD_MOST: usize = 24;
/// A slot is one character that JSON takes as it is: nothing known, nothing needed, or a level of the rate, each a
/// sixth above the one before.
const UNKNOWN: u8 = b'!';
const NOTHING: u8 = b'#';
const LOWEST: u8 = b'$';
const HIGHEST: u8 = b'~';
/// JSON doubles it. It is no level, and read as the next one where it was once written.
const SKIPPED: u8 = b'\\';
/// The rate of the lowest level, per second. The highest is 9,100; more is kept as that.
const LEAST: f64 = 0.01;
const STEP: f64 = 7.0 / 6.0;

/// What the slots of the last days needed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Season {
    unit: Unit,
    /// Slots of another unit that came since, less those of this one.
    #[serde(default, skip_serializing_if = "is_zero")]
    foreign: usize,
    /// The zone of the days; unknown where it has no name, and in what was kept before it was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    /// By date, oldest first.
    days: VecDeque<Day>,
    /// The slot of the last observation, whole or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    open: Option<Place>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Day {
    /// Days since 1970 in the zone.
    date: i64,
    weekend: bool,
    slots: String,
}

/// A slot of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    date: i64,
    weekend: bool,
    slot: usize,
}

/// What is to be expected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Forecast {
    /// Units per second that had to be served, the median over `days`.
    pub(crate) rate: f64,
    pub(crate) days: u32,
    /// Whether so many days are enough.
    pub(crate) believed: bool,
    /// A time within the slot.
    pub(crate) at: Duration,
}

impl Season {
    /// Notes that it is `now`, and says which slot is over since the last time. Days of another zone are forgotten.
    pub(crate) fn turns(&mut self, zone: &TimeZone, now: Duration) -> Option<Closed> {
        let place = Place::of(zone, now)?;
        let before = self.open.replace(place);
        if before == Some(place) || !self.stays_in(zone) {
            return None;
        }
        before.map(Closed)
    }

    /// Whether the days can be those of `zone`; if not, there are none any more.
    fn stays_in(&mut self, zone: &TimeZone) -> bool {
        let Ok(name) = DateTimePrinter::new().time_zone_to_string(zone) else { return true };
        let stays = self.zone.as_ref().is_none_or(|before| *before == name);
        if !stays {
            self.days.clear();
            self.foreign = 0;
        }
        self.zone = Some(name);
        stays
    }

    /// Keeps what a slot needed. A time that the clock shows twice keeps the more.
    pub(crate) fn keep(&mut self, Closed(place): Closed, rate: f64, unit: Unit) {
        if !self.takes(unit) {
            return;
        }
        if self.days.back().is_none_or(|day| day.date != place.date) {
            let slots = char::from(UNKNOWN).to_string().repeat(SLOTS);
            self.days.push_back(Day { date: place.date, weekend: place.weekend, slots });
        }
        self.forget();
        if let Some(day) = self.days.back_mut() {
            let set = |(index, kept): (usize, char)| {
                if index == place.slot { char::from(level(rate)).max(kept) } else { kept }
            };
            day.slots = day.slots.chars().enumerate().map(set).collect();
        }
    }

    /// Whether a slot of `unit` is to be kept. One of another unit is left out, for merging may be suspended for some
    /// minutes, until there are as many of them as are known of the unit so far, or as a day has.
    fn takes(&mut self, unit: Unit) -> bool {
        if unit == self.unit {
            self.foreign = self.foreign.saturating_sub(1);
            return true;
        }
        self.foreign = self.foreign.saturating_add(1);
        if self.foreign < self.known().min(SLOTS) {
            return false;
        }
        self.days.clear();
        (self.unit, self.foreign) = (unit, 0);
        true
    }

    /// Slots of which something is known.
    fn known(&self) -> usize {
        let known = |day: &Day| day.slots.bytes().filter(|slot| *slot != UNKNOWN).count();
        self.days.iter().map(known).sum()
    }

    /// The most that the slots between `from` and `to` are expected to need; `None` where nothing is known of them.
    pub(crate) fn forecast(
        &self,
        policy: &Policy,
        unit: Unit,
        from: Duration,
        to: Duration,
    ) -> Option<Forecast> {
        if self.days.is_empty() || unit != self.unit {
            return None;
        }
        let zone = zone(policy);
        let times = (0..AHEAD_MOST as u32).map(|n| (from + SLOT * n).min(to)).take_while(|at| *at < to);
        let found = times.chain([to]).filter_map(|at| self.expected(&zone, at));
        found.max_by(|a, b| a.believed.cmp(&b.believed).then(a.rate.total_cmp(&b.rate)))
    }

    /// What another process is told: not how far the present slot is.
    pub(crate) fn told(&self) -> Self {
        if self.is_empty() { Self::default() } else { Self { open: None, ..self.clone() } }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.days.is_empty()
    }

    /// What the days are counted in, if there are any.
    pub(crate) fn unit(&self) -> Option<Unit> {
        (!self.is_empty()).then_some(self.unit)
    }

    /// What another process has seen, as far as it is readable.
    pub(crate) fn restored(mut self) -> Self {
        self.days.retain(|day| {
            day.slots.len() == SLOTS && day.slots.bytes().all(|b| (UNKNOWN..=HIGHEST).contains(&b))
        });
        self.forget();
        self
    }

    fn expected(&self, zone: &TimeZone, at: Duration) -> Option<Forecast> {
        let place = Place::of(zone, at)?;
        let alike =
            self.days.iter().rev().filter(|day| day.weekend == place.weekend && day.date < place.date);
        let known = alike.filter_map(|day| rate(*day.slots.as_bytes().get(place.slot)?));
        let mut rates: Vec<f64> = known.take(DAYS_MOST).collect();
        rates.sort_by(f64::total_cmp);
        let median = *rates.get(rates.len().checked_sub(1)? / 2)?;
        Some(Forecast { rate: median, days: rates.len() as u32, believed: rates.len() >= DAYS_NEEDED, at })
    }

    /// Only as many days of each type as are looked at, and the newest.
    fn forget(&mut self) {
        let newest = self.days.back().map(|day| day.date);
        for weekend in [false, true] {
            let alike = |day: &&Day| day.weekend == weekend && Some(day.date) != newest;
            let excess = self.days.iter().filter(alike).count().saturating_sub(DAYS_MOST);
            let mut left = excess;
            self.days.retain(|day| {
                let goes = left > 0 && alike(&day);
                left -= usize::from(goes);
                !goes
            });
        }
        while self.days.len() > KEPT {
            self.days.pop_front();
        }
    }
}

/// A slot that is over.
#[derive(Debug)]
pub(crate) struct Closed(Place);

impl Place {
    fn of(zone: &TimeZone, at: Duration) -> Option<Self> {
        let time = Timestamp::from_second(i64::try_from(at.as_secs()).ok()?).ok()?;
        let local = zone.to_datetime(time);
        let (hour, minute) = (local.hour(), local.minute());
        let slot = usize::try_from((i32::from(hour) * 60 + i32::from(minute)) / 5).ok()?;
        let weekend = matches!(local.weekday(), Weekday::Saturday | Weekday::Sunday);
        let offset = i64::from(zone.to_offset(time).seconds());
        Some(Self { date: (time.as_second() + offset).div_euclid(24 * 3600), weekend, slot })
    }
}

/// The zone whose days count.
pub(crate) fn zone(policy: &Policy) -> TimeZone {
    policy.schedules.first().map_or(TimeZone::UTC, |schedule| schedule.timezone.clone())
}

fn level(rate: f64) -> u8 {
    if rate < LEAST / STEP {
        return NOTHING;
    }
    let steps = ((rate / LEAST).ln() / STEP.ln()).round().clamp(0.0, f64::from(steps(HIGHEST)));
    let level = LOWEST + steps as u8;
    level + u8::from(level >= SKIPPED)
}

/// `None` where nothing is known.
fn rate(level: u8) -> Option<f64> {
    match level {
        NOTHING => Some(0.0),
        LOWEST..=HIGHEST => Some(LEAST * STEP.powi(i32::from(steps(level)))),
        _ => None,
    }
}

/// How far above the lowest a level is.
fn steps(level: u8) -> u8 {
    level - LOWEST - u8::from(level > SKIPPED)
}

fn is_zero(slots: &usize) -> bool {
    *slots == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Assumed, Bounds, IdleAfter, Mode, Objective, Slo};

    const DAY: Duration = Duration::from_secs(24 * 3600);
    /// A Monday, 00:00 UTC.
    const MONDAY: Duration = Duration::from_secs(1_767_571_200);

    fn policy() -> Policy {
        Policy {
            bounds: Bounds { min: 0, max: 9 },
            slo: Slo::Latency(Objective { target: Duration::from_secs(1), percentile: 0.99 }),
            idle_after: IdleAfter::Auto,
            mode: Mode::Enforce,
            assumed: Assumed::default(),
            schedules: Vec::new(),
        }
    }

    /// The same rate in each slot of each day that is given; `None`: nobody looked.
    fn season(days: &[Option<f64>]) -> Season {
        let mut season = Season::default();
        for (day, rate) in days.iter().enumerate() {
            for slot in 0..SLOTS {
                let end = MONDAY + DAY * day as u32 + SLOT * (slot as u32 + 1);
                let closed = season.turns(&TimeZone::UTC, end);
                if let (Some(closed), Some(rate)) = (closed, rate) {
                    season.keep(closed, *rate, Unit::Requests);
                }
            }
        }
        season
    }

    fn at_noon(season: &Season, day: u32) -> Option<Forecast> {
        let noon = MONDAY + DAY * day + DAY / 2;
        season.forecast(&policy(), Unit::Requests, noon, noon + SLOT)
    }

    #[test]
    fn levels_keep_a_rate_within_a_tenth_and_a_day_in_one_character_a_slot() {
        for rate_in in [0.01, 0.5, 3.3, 25.0, 700.0, 9000.0] {
            let kept = rate(level(rate_in)).unwrap();
            assert!((kept / rate_in - 1.0).abs() < 0.1, "{rate_in}: {kept}");
        }
        assert_eq!((rate(level(0.0)), rate(UNKNOWN)), (Some(0.0), None));
        assert_eq!(level(1e12), HIGHEST);
    }

    #[test]
    fn each_level_reads_as_it_was_written_and_none_is_longer_in_json() {
        let levels = (LOWEST..=HIGHEST).filter(|level| *level != SKIPPED);
        let again: Vec<u8> = levels.clone().filter_map(|known| rate(known).map(level)).collect();
        assert!(levels.eq(again.iter().copied()), "{again:?}");
        for slot in again.into_iter().chain([UNKNOWN, NOTHING]) {
            let json = serde_json::to_string(&char::from(slot)).unwrap();
            assert_eq!(json.len(), 3, "{json}");
        }
        // Once it was a level, of 56 a second.
        assert!((rate(SKIPPED).unwrap() / 56.0 - 1.0).abs() < 0.1);
    }

    #[test]
    fn three_days_of_the_same_type_are_believed_and_two_are_a_shadow() {
        let known = |days: &[Option<f64>]| at_noon(&season(days), days.len() as u32);
        assert_eq!(known(&[]), None);
        assert_eq!(known(&[Some(10.0); 2]).map(|f| (f.days, f.believed)), Some((2, false)));
        assert_eq!(known(&[Some(10.0); 3]).map(|f| (f.days, f.believed)), Some((3, true)));
        // Saturday after five days of work: another type.
        assert_eq!(known(&[Some(10.0); 5]), None);
    }

    #[test]
    fn one_day_of_a_load_test_changes_nothing() {
        for day in 0..4 {
            let mut days = [Some(10.0); 4];
            days[day] = Some(5000.0);
            let forecast = at_noon(&season(&days), 4).unwrap();
            assert!((forecast.rate / 10.0 - 1.0).abs() < 0.1, "{day}: {forecast:?}");
        }
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go_first() {
        let days: Vec<_> = (0..60).map(|day| Some(f64::from(day) + 1.0)).collect();
        let season = season(&days);
        assert!(season.days.len() <= KEPT, "{}", season.days.len());
        // The 61st day is a Friday: 56 to 59 were Monday to Thursday, and their lower middle is the second.
        let forecast = at_noon(&season, 60).unwrap();
        assert!((forecast.rate / 58.0 - 1.0).abs() < 0.1, "{forecast:?}");
    }

    /// So many slots more, of another unit.
    fn suspended(season: &mut Season, from: Duration, slots: usize) {
        for slot in 1..=slots {
            let closed = season.turns(&TimeZone::UTC, from + SLOT * slot as u32).unwrap();
            season.keep(closed, 4.0, Unit::Rows);
        }
    }

    #[test]
    fn another_unit_is_another_season_once_it_has_held_for_a_day() {
        let mut season = season(&[Some(10.0); 3]);
        let (before, later) = (MONDAY + DAY * 3, MONDAY + DAY * 4);
        assert_eq!(season.forecast(&policy(), Unit::Rows, before, before + SLOT), None);
        suspended(&mut season, before, SLOTS - 1);
        assert_eq!((season.unit(), season.days.len()), (Some(Unit::Requests), 3));
        suspended(&mut season, later - SLOT, 1);
        assert_eq!((season.unit(), season.known()), (Some(Unit::Rows), 1));
    }

    #[test]
    fn some_minutes_of_another_unit_cost_those_minutes_only() {
        let mut season = season(&[Some(10.0); 3]);
        let mut now = MONDAY + DAY * 3;
        for _ in 0..200 {
            suspended(&mut season, now, 2);
            now += SLOT * 2;
            for _ in 0..4 {
                now += SLOT;
                let closed = season.turns(&TimeZone::UTC, now).unwrap();
                season.keep(closed, 10.0, Unit::Requests);
            }
        }
        assert_eq!((season.unit(), season.foreign), (Some(Unit::Requests), 0));
        assert!(season.known() > 3 * SLOTS);
    }

    #[test]
    fn the_first_slot_is_of_any_unit_and_a_few_do_not_bind() {
        let mut season = Season::default();
        season.turns(&TimeZone::UTC, MONDAY);
        suspended(&mut season, MONDAY, 1);
        assert_eq!(season.unit(), Some(Unit::Rows));
        let closed = season.turns(&TimeZone::UTC, MONDAY + SLOT * 2).unwrap();
        season.keep(closed, 10.0, Unit::Requests);
        assert_eq!((season.unit(), season.known()), (Some(Unit::Requests), 1));
    }

    #[test]
    fn days_of_another_zone_are_forgotten_and_those_of_an_unknown_one_are_not() {
        let tokyo = TimeZone::get("Asia/Tokyo").unwrap();
        let monday = MONDAY + DAY * 3;
        let mut moved = season(&[Some(10.0); 3]);
        let json = serde_json::to_string(&moved).unwrap();
        assert!(json.contains("\"zone\":\"UTC\""), "{json}");
        assert!(moved.turns(&tokyo, monday).is_none() && moved.is_empty());
        let closed = moved.turns(&tokyo, monday + SLOT).expect("this one was of Tokyo");
        moved.keep(closed, 10.0, Unit::Requests);
        assert_eq!(moved.known(), 1);
        let mut older: Season = serde_json::from_str(&json.replace(",\"zone\":\"UTC\"", "")).unwrap();
        assert!(older.zone.is_none() && older.turns(&tokyo, monday + SLOT).is_some());
        assert_eq!((older.days.len(), older.zone.as_deref()), (3, Some("Asia/Tokyo")));
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let mut season = season(&[Some(10.0); 3]);
        season.days[0].slots.pop();
        season.days[1].slots = "é".repeat(SLOTS / 2);
        assert_eq!(season.restored().days.len(), 1);
    }
}
