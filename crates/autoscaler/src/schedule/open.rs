//! When the windows of a schedule are open: civil times of its zone as instants.

use std::{iter::successors, ops::Range, time::Duration};

use jiff::{
    Timestamp,
    civil::{Date, DateTime, Time},
    tz::{AmbiguousOffset, AmbiguousTimestamp, TimeZone},
};

use super::{Schedule, timestamp};

const DAY: u16 = 24 * 60;

/// The windows that are open within `range`, in order; those at its ends are whole.
pub(super) fn windows(schedule: &Schedule, range: &Range<Duration>) -> Vec<Range<Duration>> {
    let date = |at| Some(schedule.timezone.to_datetime(timestamp(at)?).date());
    let (Some(first), Some(last)) = (date(range.start), date(range.end)) else { return Vec::new() };
    // A window may end on the day after its start, and a zone may once leave a day out.
    let first = first.yesterday().and_then(Date::yesterday).unwrap_or(first);
    let days = successors(Some(first), |day| day.tomorrow().ok()).take_while(|day| *day <= last);
    days.filter(|day| schedule.days.contains(&day.weekday()))
        .filter_map(|day| window(schedule, day))
        .filter(|window| window.start < range.end && range.start < window.end)
        .collect()
}

/// The window that starts on `day`; `None` where the clock is put forward past all of it.
fn window(schedule: &Schedule, day: Date) -> Option<Range<Duration>> {
    let Schedule { from, to, timezone, .. } = schedule;
    let last = if *to == DAY || to <= from { day.tomorrow().ok()? } else { day };
    let start = opens(timezone, DateTime::from_parts(day, time(*from)?))?;
    let end = closes(timezone, DateTime::from_parts(last, time(if *to == DAY { 0 } else { *to })?))?;
    (start < end).then_some(start..end)
}

fn time(minutes: u16) -> Option<Time> {
    let hour = i8::try_from(minutes / 60).ok()?;
    Time::new(hour, (minutes % 60) as i8, 0, 0).ok()
}

fn opens(zone: &TimeZone, civil: DateTime) -> Option<Duration> {
    let at = zone.to_ambiguous_timestamp(civil);
    after_gap(zone, at).or_else(|| at.earlier().ok()).map(since_epoch)
}

fn closes(zone: &TimeZone, civil: DateTime) -> Option<Duration> {
    let at = zone.to_ambiguous_timestamp(civil);
    after_gap(zone, at).or_else(|| at.later().ok()).map(since_epoch)
}

/// For a time that the clock never shows, the moment at which it is put forward past it. (To go on from that time
/// by as much as the clock is put forward, as is usual elsewhere, would set 02:30 behind 03:15.)
fn after_gap(zone: &TimeZone, at: AmbiguousTimestamp) -> Option<Timestamp> {
    let AmbiguousOffset::Gap { after, .. } = at.offset() else { return None };
    let change = zone.following(at.earlier().ok()?).find(|change| change.offset() == after);
    change.map(|change| change.timestamp())
}

fn since_epoch(at: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0))
}
