//! Every minute of a year, looked at on the clocks of the windows' zones.

use autoscaler::{
    policy::Bounds,
    schedule::{self, OnRequest, Schedule, transitions},
};
use jiff::{Timestamp, civil::Weekday, tz::TimeZone};
use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof, proptest};

use crate::world::secs;

/// 2025-12-29, a Monday, in minutes since the epoch; and a year and some days.
const START: i64 = 29_449_440;
const MINUTES: i64 = 370 * DAY;
const DAY: i64 = 24 * 60;
/// Clocks are at most so far from UTC.
const FAR: i64 = 15 * 60;
const BASE: Bounds = Bounds { min: 1, max: 9 };

/// Minutes since the epoch that clocks show, a few days more at each end.
struct Clock(Vec<i64>);

const SPARE: i64 = 3 * DAY;

impl Clock {
    fn new(zone: &TimeZone) -> Self {
        let shown = (START - SPARE..START + MINUTES + SPARE).map(|minute| {
            let at = Timestamp::from_second(minute * 60).expect("is this year");
            minute + i64::from(zone.to_offset(at).seconds()) / 60
        });
        Self(shown.collect())
    }

    fn at(&self, minute: i64) -> i64 {
        let index = usize::try_from(minute - START + SPARE).ok();
        *index.and_then(|index| self.0.get(index)).expect("is within the year")
    }

    /// The first minute that shows `civil` or later.
    fn first(&self, civil: i64) -> i64 {
        (civil - FAR..).find(|minute| self.at(*minute) >= civil).expect("clocks go on")
    }

    /// The last minute that shows `civil`; where none does, the first that shows more.
    fn last(&self, civil: i64) -> i64 {
        let shown = (civil - FAR..civil + FAR).rev().find(|minute| self.at(*minute) == civil);
        shown.unwrap_or_else(|| self.first(civil))
    }
}

fn open(schedule: &Schedule) -> Vec<bool> {
    let clock = Clock::new(&schedule.timezone);
    let mut open = vec![false; MINUTES as usize];
    let (from, to) = (i64::from(schedule.from), i64::from(schedule.to));
    for day in -2..MINUTES / DAY + 1 {
        let weekday = Weekday::from_monday_zero_offset(day.rem_euclid(7) as i8).expect("is one of seven");
        if !schedule.days.contains(&weekday) {
            continue;
        }
        let midnight = START + day * DAY;
        let to = if to > from { to } else { to + DAY };
        for minute in clock.first(midnight + from)..clock.last(midnight + to) {
            if let Some(open) = usize::try_from(minute - START).ok().and_then(|m| open.get_mut(m)) {
                *open = true;
            }
        }
    }
    open
}

fn bounds(schedules: &[(&Schedule, Vec<bool>)], minute: usize) -> Bounds {
    let (mut pins, mut floors, mut caps) = (Vec::new(), vec![BASE.min], vec![BASE.max]);
    for (schedule, _) in schedules.iter().filter(|(_, open)| open.get(minute) == Some(&true)) {
        match schedule.bounds {
            schedule::Bounds::Exactly(n) => pins.push(n),
            schedule::Bounds::Between { floor, cap } => {
                floors.extend(floor);
                caps.extend(cap);
            }
        }
    }
    let (floor, cap) = (*floors.iter().max().expect("has one"), *caps.iter().min().expect("has one"));
    match pins.iter().min() {
        Some(pin) => Bounds { min: (*pin).min(BASE.max), max: (*pin).min(BASE.max) },
        None => Bounds { min: floor.min(cap), max: cap },
    }
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let mut zones: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
    zones.sort();
    let zone =
        proptest::sample::select(zones).prop_filter_map("zones with files", |name| TimeZone::get(&name).ok());
    let bounds = prop_oneof![
        (0u32..12).prop_map(schedule::Bounds::Exactly),
        (0u32..12).prop_map(|n| schedule::Bounds::Between { floor: Some(n), cap: None }),
        (0u32..12).prop_map(|n| schedule::Bounds::Between { floor: None, cap: Some(n) }),
        (0u32..4, 0u32..4)
            .prop_map(|(n, more)| schedule::Bounds::Between { floor: Some(n), cap: Some(n + more) }),
    ];
    // Half of the windows end or begin at times that clocks leave out or show twice.
    let time = || prop_oneof![0u16..1440, 0u16..240];
    let days = proptest::sample::subsequence((0..7i8).collect::<Vec<_>>(), 1..=7);
    (zone, bounds, time(), prop_oneof![4 => time(), 1 => proptest::strategy::Just(1440)], days, any::<bool>())
        .prop_filter("not empty", |(_, _, from, to, _, _)| from != to)
        .prop_map(|(timezone, bounds, from, to, days, reject)| Schedule {
            name: "w".into(),
            timezone,
            days: days.into_iter().filter_map(|day| Weekday::from_monday_zero_offset(day).ok()).collect(),
            from,
            to,
            bounds,
            on_request: if reject { OnRequest::Reject } else { OnRequest::Wake },
            prewarm: None,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_bounds_of_every_minute_of_a_year_are_those_that_the_clocks_show(
        schedules in proptest::collection::vec(schedules(), 1..4)
    ) {
        let shown: Vec<_> = schedules.iter().map(|schedule| (schedule, open(schedule))).collect();
        let from = secs(START as u64 * 60);
        let found = transitions(&schedules, BASE, from, secs(365 * 24 * 3600));
        let mut found = found.iter().peekable();
        let mut now = bounds(&shown, 0);
        for minute in 0..365 * DAY as usize {
            if let Some(next) = found.next_if(|next| next.at == from + secs(minute as u64 * 60)) {
                assert_eq!(next.before, now);
                now = next.after;
            }
            assert_eq!(bounds(&shown, minute), now, "{minute} {schedules:?}");
        }
        assert_eq!(found.next(), None);
    }
}
