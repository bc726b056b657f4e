//! Windows to the second, in several zones and through changes of their clocks; what they make of decisions; and an
//! oracle that looks at every minute of a year.

mod oracle;

use std::time::Duration;

use autoscaler::{
    decide::{Decision, Reason, Zero},
    explain::{sentence, why},
    log::{Entry, Outcome},
    policy::{Bounds, IdleAfter, Mode, Policy},
    schedule::{self, Edge, OnRequest, Schedule, refuses, transitions},
    snapshot::Phase,
};
use jiff::{Timestamp, civil::Weekday, tz::TimeZone};

use crate::world::{World, limits, policy, secs, term};

const BASE: Bounds = Bounds { min: 0, max: 4 };
const DAY: Duration = Duration::from_secs(24 * 3600);

fn at(time: &str) -> Duration {
    let time: Timestamp = time.parse().expect("is a time");
    secs(time.as_second() as u64)
}

fn shown(at: Duration) -> String {
    Timestamp::from_second(at.as_secs() as i64).expect("is a time").to_string()
}

fn minutes(time: &str) -> u16 {
    let (hours, minutes) = time.split_once(':').expect("is a time of day");
    hours.parse::<u16>().expect("are hours") * 60 + minutes.parse::<u16>().expect("are minutes")
}

const EVERY_DAY: [Weekday; 7] = [
    Weekday::Monday,
    Weekday::Tuesday,
    Weekday::Wednesday,
    Weekday::Thursday,
    Weekday::Friday,
    Weekday::Saturday,
    Weekday::Sunday,
];
const WEEKDAYS: &[Weekday] =
    &[Weekday::Monday, Weekday::Tuesday, Weekday::Wednesday, Weekday::Thursday, Weekday::Friday];

fn window(name: &str, zone: &str, from: &str, to: &str, bounds: schedule::Bounds) -> Schedule {
    Schedule {
        name: name.into(),
        timezone: TimeZone::get(zone).expect("is a zone"),
        days: EVERY_DAY.to_vec(),
        from: minutes(from),
        to: minutes(to),
        bounds,
        on_request: OnRequest::Wake,
        prewarm: None,
    }
}

fn floor(n: u32) -> schedule::Bounds {
    schedule::Bounds::Between { floor: Some(n), cap: None }
}

fn cap(n: u32) -> schedule::Bounds {
    schedule::Bounds::Between { floor: None, cap: Some(n) }
}

fn pin(n: u32) -> schedule::Bounds {
    schedule::Bounds::Exactly(n)
}

fn night() -> Schedule {
    window("night", "Europe/Prague", "22:00", "07:00", cap(0))
}

fn day() -> Schedule {
    window("day", "Europe/Prague", "07:00", "22:00", floor(2))
}

/// The windows of a floor that begin within `hours` after `from`, as start and end.
fn windows(schedule: &Schedule, from: &str, hours: u64) -> Vec<(String, String)> {
    let from = at(from);
    let all = transitions(std::slice::from_ref(schedule), BASE, from, 3 * DAY + secs(hours * 3600));
    let begins = all.iter().enumerate().filter(|(_, t)| t.after.min > 0 && t.at < from + secs(hours * 3600));
    let ends = |i: usize| all.get(i + 1).map_or_else(|| "never".to_owned(), |t| shown(t.at));
    begins.map(|(i, t)| (shown(t.at), ends(i))).collect()
}

/// `from` and `to` of a window, and when it is open, if it is.
type Row<'r> = (&'r str, &'r str, Option<(&'r str, &'r str)>);

fn check(zone: &str, from: &str, rows: &[Row<'_>]) {
    for (opens, closes, expected) in rows {
        let schedule = window("w", zone, opens, closes, floor(1));
        let expected: Vec<_> = expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        assert_eq!(windows(&schedule, from, 23), expected, "{opens}-{closes} {zone}");
    }
}

#[test]
fn windows_in_prague_when_the_clock_is_put_forward() {
    let rows = [
        ("22:00", "07:00", Some(("2026-03-28T21:00:00Z", "2026-03-29T05:00:00Z"))),
        ("01:00", "02:00", Some(("2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z"))),
        ("01:00", "02:30", Some(("2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z"))),
        ("02:30", "05:00", Some(("2026-03-29T01:00:00Z", "2026-03-29T03:00:00Z"))),
        ("02:30", "03:15", Some(("2026-03-29T01:00:00Z", "2026-03-29T01:15:00Z"))),
        ("03:00", "04:00", Some(("2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"))),
        ("02:15", "02:45", None),
        ("02:00", "03:00", None),
    ];
    check("Europe/Prague", "2026-03-28T20:30:00Z", &rows[..1]);
    // The whole day is one of many that follow each other: it has no end, and here no beginning either.
    let whole = window("w", "Europe/Prague", "00:00", "24:00", floor(1));
    assert_eq!(transitions(&[whole], BASE, at("2026-03-28T20:30:00Z"), 30 * DAY), []);
    check("Europe/Prague", "2026-03-28T23:00:00Z", &rows[1..]);
}

#[test]
fn windows_in_prague_when_the_clock_is_put_back() {
    let rows = [
        ("22:00", "07:00", Some(("2026-10-24T20:00:00Z", "2026-10-25T06:00:00Z"))),
        ("23:00", "02:30", Some(("2026-10-24T21:00:00Z", "2026-10-25T01:30:00Z"))),
        ("02:30", "05:00", Some(("2026-10-25T00:30:00Z", "2026-10-25T04:00:00Z"))),
        ("02:15", "02:45", Some(("2026-10-25T00:15:00Z", "2026-10-25T01:45:00Z"))),
        ("02:00", "03:00", Some(("2026-10-25T00:00:00Z", "2026-10-25T02:00:00Z"))),
        ("01:00", "02:00", Some(("2026-10-24T23:00:00Z", "2026-10-25T01:00:00Z"))),
        ("03:00", "04:00", Some(("2026-10-25T02:00:00Z", "2026-10-25T03:00:00Z"))),
    ];
    check("Europe/Prague", "2026-10-24T19:30:00Z", &rows);
}

#[test]
fn windows_in_new_york_and_on_lord_howe_whose_summer_is_half_an_hour() {
    let forward = [
        ("02:30", "04:00", Some(("2026-03-08T07:00:00Z", "2026-03-08T08:00:00Z"))),
        ("01:30", "02:30", Some(("2026-03-08T06:30:00Z", "2026-03-08T07:00:00Z"))),
        ("02:10", "02:50", None),
    ];
    check("America/New_York", "2026-03-08T05:00:00Z", &forward);
    let back = [
        ("01:30", "03:00", Some(("2026-11-01T05:30:00Z", "2026-11-01T08:00:00Z"))),
        ("00:30", "01:30", Some(("2026-11-01T04:30:00Z", "2026-11-01T06:30:00Z"))),
    ];
    check("America/New_York", "2026-11-01T04:00:00Z", &back);
    let back = [
        ("01:45", "03:00", Some(("2026-04-04T14:45:00Z", "2026-04-04T16:30:00Z"))),
        ("00:30", "01:45", Some(("2026-04-04T13:30:00Z", "2026-04-04T15:15:00Z"))),
        ("01:15", "02:15", Some(("2026-04-04T14:15:00Z", "2026-04-04T15:45:00Z"))),
    ];
    check("Australia/Lord_Howe", "2026-04-04T13:00:00Z", &back);
    let forward = [
        ("02:15", "04:00", Some(("2026-10-03T15:30:00Z", "2026-10-03T17:00:00Z"))),
        ("01:00", "02:15", Some(("2026-10-03T14:30:00Z", "2026-10-03T15:30:00Z"))),
        ("02:00", "02:30", None),
    ];
    check("Australia/Lord_Howe", "2026-10-03T13:30:00Z", &forward);
}

#[test]
fn windows_cross_midnight_and_belong_to_the_day_on_which_they_start() {
    let rows = [
        ("12:01", "12:00", Some(("2026-06-01T12:01:00Z", "2026-06-02T12:00:00Z"))),
        ("09:00", "17:00", Some(("2026-06-01T09:00:00Z", "2026-06-01T17:00:00Z"))),
        ("22:00", "24:00", Some(("2026-06-01T22:00:00Z", "2026-06-02T00:00:00Z"))),
        ("22:00", "00:00", Some(("2026-06-01T22:00:00Z", "2026-06-02T00:00:00Z"))),
        ("23:59", "00:01", Some(("2026-06-01T23:59:00Z", "2026-06-02T00:01:00Z"))),
    ];
    check("UTC", "2026-06-01T12:00:30Z", &rows[..1]);
    check("UTC", "2026-06-01T01:00:30Z", &rows[1..]);
    let mut nights = window("w", "Europe/Prague", "22:00", "07:00", floor(1));
    nights.days = WEEKDAYS.to_vec();
    // Friday the 5th to Tuesday the 9th: Friday's night ends on Saturday; the next one starts on Monday.
    let expected =
        [("2026-06-05T20:00:00Z", "2026-06-06T05:00:00Z"), ("2026-06-08T20:00:00Z", "2026-06-09T05:00:00Z")];
    let expected: Vec<_> = expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    assert_eq!(windows(&nights, "2026-06-05T12:00:00Z", 4 * 24), expected);
    let mut weekend = window("w", "UTC", "00:00", "24:00", floor(1));
    weekend.days = vec![Weekday::Saturday, Weekday::Sunday];
    let whole = ("2026-06-06T00:00:00Z".to_owned(), "2026-06-08T00:00:00Z".to_owned());
    assert_eq!(windows(&weekend, "2026-06-05T12:00:00Z", 24), [whole]);
}

#[test]
fn a_window_with_impossible_times_never_opens() {
    for (from, to) in [(1440, 60), (9999, 60), (60, 1441), (60, u16::MAX)] {
        let schedule = Schedule { from, to, ..day() };
        assert_eq!(transitions(&[schedule], BASE, at("2026-06-01T00:00:00Z"), 7 * DAY), []);
    }
    assert_eq!(transitions(&[day()], BASE, Duration::MAX, DAY), [], "beyond any calendar");
    assert!(transitions(&[day()], BASE, secs(0), Duration::MAX).len() > 700, "a year at most");
}

/// The bounds at 10:00 UTC on a Monday, of a model with min 1 and max 8.
fn bounds_of(schedules: Vec<Schedule>) -> (u32, u32) {
    let mut world = World::new(Policy { schedules, ..policy(1, 8) });
    world.now = at("2026-06-01T09:59:59Z");
    let Bounds { min, max } = world.tick(0.0).bounds;
    (min, max)
}

#[test]
fn pins_beat_caps_and_caps_beat_floors() {
    let open = |bounds| window("w", "UTC", "08:00", "18:00", bounds);
    let between = |floor, cap| schedule::Bounds::Between { floor: Some(floor), cap: Some(cap) };
    let rows = [
        (vec![], (1, 8)),
        (vec![floor(3)], (3, 8)),
        (vec![floor(3), floor(5)], (5, 8)),
        (vec![floor(0)], (1, 8)),
        (vec![floor(99)], (8, 8)),
        (vec![cap(6)], (1, 6)),
        (vec![cap(6), cap(4)], (1, 4)),
        (vec![cap(99)], (1, 8)),
        (vec![floor(3), cap(2)], (2, 2)),
        (vec![between(2, 5)], (2, 5)),
        (vec![between(2, 5), between(3, 4)], (3, 4)),
        (vec![pin(6)], (6, 6)),
        (vec![pin(6), floor(7), cap(2)], (6, 6)),
        (vec![pin(6), pin(3)], (3, 3)),
        (vec![pin(99)], (8, 8)),
        // One may answer whoever calls where none is allowed.
        (vec![cap(0)], (0, 1)),
        (vec![pin(0), floor(3)], (0, 1)),
    ];
    for (windows, bounds) in rows {
        let schedules: Vec<_> = windows.iter().copied().map(open).collect();
        assert_eq!(bounds_of(schedules), bounds, "{windows:?}");
    }
    let shut = |bounds| window("w", "UTC", "18:00", "08:00", bounds);
    assert_eq!(bounds_of(vec![shut(cap(0)), shut(pin(3))]), (1, 8), "not open at that time");
}

#[test]
fn of_windows_that_allow_none_the_one_that_refuses_decides() {
    let asleep = Schedule { on_request: OnRequest::Reject, name: "repairs".into(), ..night() };
    for schedules in [vec![night(), asleep.clone()], vec![asleep, night()]] {
        let policy = Policy { schedules, ..policy(0, 4) };
        let refusal = refuses(&policy, secs(20), at("2026-06-01T00:00:00Z")).expect("both are open");
        assert_eq!(&*refusal.by, "repairs");
    }
}

/// A world in which `ready` replicas have been ready for long, at `now`.
fn world(schedules: Vec<Schedule>, now: &str, ready: u32) -> World {
    let mut world = World::new(Policy { schedules, ..policy(0, 4) });
    world.now = at(now);
    world.scale(ready);
    for replica in &mut world.fleet.replicas {
        (replica.phase, replica.ready_since) = (Phase::Ready, Some(world.now));
    }
    world
}

/// The decisions of each second until `until`, itself included.
fn run_until(world: &mut World, until: &str, rate: f64) -> Vec<Decision> {
    let seconds = (at(until) - world.now).as_secs();
    world.seen.clear();
    (0..seconds).map(|_| world.tick(rate)).collect()
}

#[test]
fn a_floor_is_asked_for_one_cold_start_and_half_a_minute_before_it_begins() {
    for (lead, first) in
        [(20, "2026-06-01T04:59:10Z"), (103, "2026-06-01T04:57:47Z"), (300, "2026-06-01T04:54:30Z")]
    {
        let mut world = world(vec![night(), day()], "2026-06-01T04:50:00Z", 0);
        world.policy.assumed.cold_start = secs(lead);
        world.cold_start = secs(lead);
        let decisions = run_until(&mut world, "2026-06-01T05:00:00Z", 0.0);
        assert_eq!(world.writes, [(at(first), 0, 2)], "{lead} s");
        let up = decisions.iter().find(|d| d.to > 0).expect("it was written");
        assert_eq!((up.reason, term(up, "schedule")), (Reason::ScheduleFloor, Some(2)));
        assert_eq!(world.ready(), 2, "at 07:00");
    }
}

#[test]
fn a_written_pre_warm_is_obeyed_to_the_second_and_may_be_none() {
    for (prewarm, first) in
        [(600, "2026-06-01T04:50:00Z"), (1, "2026-06-01T04:59:59Z"), (0, "2026-06-01T05:00:00Z")]
    {
        let day = Schedule { prewarm: Some(secs(prewarm)), ..day() };
        let mut world = world(vec![night(), day], "2026-06-01T04:45:00Z", 0);
        run_until(&mut world, "2026-06-01T05:00:10Z", 0.0);
        assert_eq!(world.writes, [(at(first), 0, 2)]);
    }
}

#[test]
fn the_start_that_was_measured_is_the_one_that_counts() {
    let mut world = world(vec![day()], "2026-06-01T04:00:00Z", 0);
    world.cold_start = secs(103);
    world.policy.idle_after = IdleAfter::Fixed(secs(60));
    world.policy.bounds.min = 3;
    world.run(200, 0.0);
    world.policy.bounds.min = 0;
    run_until(&mut world, "2026-06-01T04:30:00Z", 0.0);
    assert_eq!(world.wanted(), 0);
    world.writes.clear();
    let decisions = run_until(&mut world, "2026-06-01T04:58:00Z", 0.0);
    assert_eq!(world.writes, [(at("2026-06-01T04:57:47Z"), 0, 2)]);
    let up = decisions.iter().find(|d| d.to > 0).expect("it was written");
    assert_eq!(sentence(up), "0→2: for 07:00, schedule \"day\" (pre-warm, cold start p90 103 s)");
}

#[test]
fn a_pin_and_the_models_own_min_are_pre_warmed_too_and_a_floor_under_a_cap_is_not() {
    let early = "2026-06-01T04:50:00Z";
    let pinned = Schedule { bounds: pin(3), ..day() };
    let mut to_a_pin = world(vec![night(), pinned], early, 0);
    run_until(&mut to_a_pin, "2026-06-01T05:00:10Z", 0.0);
    assert_eq!(to_a_pin.writes, [(at("2026-06-01T04:59:10Z"), 0, 3)]);

    let mut to_min = world(vec![night()], early, 0);
    to_min.policy.bounds.min = 1;
    let decisions = run_until(&mut to_min, "2026-06-01T05:00:10Z", 0.0);
    assert_eq!(to_min.writes, [(at("2026-06-01T04:59:10Z"), 0, 1)]);
    let up = decisions.iter().find(|d| d.to > 0).expect("it was written");
    assert_eq!(sentence(up), "0→1: for 07:00, end of schedule \"night\" (pre-warm, cold start assumed 20 s)");

    // In another zone, so that nobody could compare them: caps win while both are open.
    let late = window("late", "UTC", "20:00", "06:00", cap(1));
    let mut capped = world(vec![late, day()], early, 0);
    run_until(&mut capped, "2026-06-01T06:00:10Z", 0.0);
    let expected = [(at("2026-06-01T04:59:10Z"), 0, 1), (at("2026-06-01T05:59:10Z"), 1, 2)];
    assert_eq!(capped.writes, expected);
}

#[test]
fn a_window_that_is_over_before_its_replicas_could_start_has_them_from_its_pre_warm_on() {
    let short = window("short", "UTC", "12:00", "12:01", floor(2));
    let mut world = world(vec![short], "2026-06-01T11:50:00Z", 0);
    world.policy.assumed.cold_start = secs(300);
    world.policy.idle_after = IdleAfter::Fixed(secs(1));
    world.cold_start = secs(300);
    run_until(&mut world, "2026-06-01T12:00:59Z", 0.0);
    assert_eq!((world.writes.clone(), world.ready()), (vec![(at("2026-06-01T11:54:30Z"), 0, 2)], 2));
}

#[test]
fn a_model_is_off_from_drain_to_pre_warm() {
    let night = window("night", "UTC", "22:00", "23:00", cap(0));
    let mut world =
        world(vec![night, window("late", "UTC", "23:00", "24:00", floor(2))], "2026-06-01T21:40:00Z", 2);
    run_until(&mut world, "2026-06-01T21:59:58Z", 50.0);
    assert!(world.wanted() >= 1);
    world.writes.clear();
    let decisions = run_until(&mut world, "2026-06-01T23:00:00Z", 0.0);
    let off = decisions.iter().find(|d| d.to == 0).expect("it goes");
    assert_eq!((off.at, off.reason, off.zero), (at("2026-06-01T22:00:00Z"), Reason::ScheduleCap, Zero::Off));
    assert_eq!(sentence(off), format!("{}→0: off until 23:00 by schedule \"night\"", off.from));
    let up = at("2026-06-01T22:59:10Z");
    let on = decisions.iter().filter(|d| d.to > 0 && d.at >= off.at && d.at < up).count();
    assert_eq!((on, world.ready()), (0, 2), "not one replica-second between, and two at 23:00");
    assert_eq!(world.writes.last(), Some(&(up, 0, 2)));
    let asleep = decisions.iter().find(|d| d.at == at("2026-06-01T22:30:00Z")).expect("each second has one");
    assert_eq!(sentence(asleep), "0: off until 23:00 by schedule \"night\"");
}

#[test]
fn a_cap_of_none_waits_for_what_waits_and_runs() {
    let mut world = world(vec![night()], "2026-06-01T19:50:00Z", 4);
    run_until(&mut world, "2026-06-01T19:59:59Z", 350.0);
    let before = world.wanted();
    assert!(before > 1, "{before}");
    world.queue = 1000.0;
    let first = world.tick(0.0);
    assert_eq!((first.to, first.zero, first.reason), (1, Zero::Busy, Reason::ScheduleCap));
    assert_eq!(
        sentence(&first),
        format!("{before}→1: off until 07:00 by schedule \"night\", one answers whoever calls")
    );
    let mut gone = None;
    for _ in 0..30 {
        let waiting = world.queue;
        let decision = world.tick(0.0);
        gone = gone.or((decision.to == 0).then_some(waiting));
        assert!(decision.to == 1 || world.queue == 0.0, "{decision:?}");
    }
    assert!(gone.is_some(), "it does go");
}

#[test]
fn a_call_in_the_night_wakes_one_and_it_stays_for_the_idle_time_of_the_model() {
    let mut world = world(vec![night(), day()], "2026-06-01T22:00:00Z", 0);
    world.policy.idle_after = IdleAfter::Fixed(secs(60));
    assert_eq!(world.run(30, 0.0).to, 0);
    let woken = world.tick(2000.0);
    assert_eq!((woken.to, woken.reason, limits(&woken)), (1, Reason::FirstRequest, vec!["schedule_cap"]));
    world.queue = 5.0;
    let ready = world.run(21, 0.0);
    assert_eq!((ready.to, world.ready()), (1, 1));
    assert_eq!(world.run(58, 0.0).to, 1);
    let slept = world.run(3, 0.0);
    assert_eq!((slept.to, world.wanted()), (0, 0));
    assert_eq!(run_until(&mut world, "2026-06-01T22:10:00Z", 0.0).iter().filter(|d| d.to > 0).count(), 0);
}

#[test]
fn calls_that_go_on_into_the_night_keep_the_one_they_would_wake() {
    let mut world = world(vec![night()], "2026-06-01T19:50:00Z", 3);
    world.policy.idle_after = IdleAfter::Fixed(secs(60));
    run_until(&mut world, "2026-06-01T19:59:59Z", 2.0);
    world.writes.clear();
    let busy = run_until(&mut world, "2026-06-01T20:05:00Z", 2.0);
    assert!(busy.iter().all(|d| d.to == 1), "{:?}", world.writes);
    run_until(&mut world, "2026-06-01T20:06:05Z", 0.0);
    assert_eq!(world.wanted(), 0);
}

#[test]
fn where_calls_are_refused_none_wakes_and_none_keeps() {
    let night = Schedule { on_request: OnRequest::Reject, ..night() };
    let mut asleep = world(vec![night.clone(), day()], "2026-06-01T22:00:00Z", 0);
    let called = asleep.tick(50.0);
    assert_eq!((called.to, called.reason), (0, Reason::Steady));
    assert_eq!(sentence(&called), "0: off until 07:00 by schedule \"night\"");
    asleep.queue = 0.0;
    assert_eq!(asleep.run(100, 0.0).to, 0);

    let mut busy = world(vec![night], "2026-06-01T19:50:00Z", 4);
    run_until(&mut busy, "2026-06-01T19:59:59Z", 350.0);
    let decisions = run_until(&mut busy, "2026-06-01T20:02:00Z", 50.0);
    let off = decisions.iter().find(|d| d.to == 0).expect("calls do not keep it for ever");
    assert!(off.at <= at("2026-06-01T20:01:00Z"), "{}", shown(off.at));
    assert!(decisions.iter().take_while(|d| d.at < off.at).all(|d| d.to == 1));
}

#[test]
fn whoever_waits_since_before_a_window_that_refuses_is_waited_for() {
    let night = Schedule { on_request: OnRequest::Reject, ..night() };
    let mut world = world(vec![night], "2026-06-01T19:58:00Z", 0);
    world.cold_start = secs(300);
    run_until(&mut world, "2026-06-01T19:59:00Z", 0.0);
    run_until(&mut world, "2026-06-01T20:00:58Z", 1.0);
    let now = at("2026-06-01T20:01:00Z");
    let seen_with = |oldest: u64| {
        let (mut snapshot, mut state) = (world.snapshot(), world.state.clone());
        for report in snapshot.gateways.iter_mut().filter_map(|gateway| gateway.report.as_mut()) {
            report.gauges.oldest = Some(secs(oldest));
        }
        state.observe(&world.policy, &snapshot, now);
        let decision = autoscaler::decide::decide(&world.policy, &state, &snapshot, now);
        (decision.to, decision.zero)
    };
    assert_eq!(seen_with(61), (1, Zero::Busy), "since 19:59:59");
    assert_eq!(
        seen_with(60),
        (1, Zero::Off),
        "since 20:00:00: it is time, and the wait for a start holds it"
    );
}

#[test]
fn refusals_have_an_end_and_stop_where_the_pre_warm_begins() {
    let night = Schedule { on_request: OnRequest::Reject, ..night() };
    let mut weekend = Schedule { from: 0, to: 24 * 60, name: "weekend".into(), ..night.clone() };
    weekend.days = vec![Weekday::Saturday, Weekday::Sunday];
    let with = |schedules| Policy { schedules, ..policy(0, 4) };
    let both = with(vec![night.clone(), day(), weekend]);
    let rows = [
        (&both, "2026-06-01T19:59:59Z", None),
        (&both, "2026-06-01T20:00:00Z", Some("2026-06-02T05:00:00Z")),
        (&both, "2026-06-02T04:59:09Z", Some("2026-06-02T05:00:00Z")),
        (&both, "2026-06-02T04:59:10Z", None),
        (&both, "2026-06-02T05:00:00Z", None),
        // Friday's night goes over into the weekend, and that into Sunday's night.
        (&both, "2026-06-05T20:00:00Z", Some("2026-06-08T05:00:00Z")),
    ];
    for (policy, now, until) in rows {
        let refusal = refuses(policy, secs(20), at(now));
        assert_eq!(refusal.map(|r| r.until.map(shown)), until.map(|u| Some(u.to_owned())), "{now}");
    }
    let never = Schedule { from: 0, to: 24 * 60, ..night.clone() };
    let refusal = refuses(&with(vec![never]), secs(20), at("2026-06-01T00:00:00Z"));
    assert_eq!(refusal.map(|r| r.until), Some(None), "always");
    let wakes = Schedule { on_request: OnRequest::Wake, ..night.clone() };
    assert_eq!(refuses(&with(vec![wakes]), secs(20), at("2026-06-01T22:00:00Z")), None);
    let observed = Policy { mode: Mode::Observe, ..with(vec![night]) };
    assert_eq!(refuses(&observed, secs(20), at("2026-06-01T22:00:00Z")), None, "nothing is changed");
}

#[test]
fn a_cap_is_obeyed_at_once_and_traffic_decides_below_it() {
    let evening = window("evening", "UTC", "18:00", "22:00", cap(2));
    let mut world = world(vec![evening], "2026-06-01T17:45:00Z", 4);
    run_until(&mut world, "2026-06-01T17:59:59Z", 350.0);
    assert_eq!(world.wanted(), 4);
    world.queue = 0.0;
    let down = world.tick(350.0);
    assert_eq!((down.from, down.to, down.reason), (4, 2, Reason::ScheduleCap));
    assert_eq!(sentence(&down), "4→2: schedule \"evening\" allows at most 2 until 22:00");
    let held = world.run(30, 350.0);
    assert_eq!((held.to, held.reason), (2, Reason::Limited));
    assert!(
        sentence(&held).contains(", have 2: schedule \"evening\" allows at most 2 until 22:00; "),
        "{}",
        sentence(&held)
    );
    world.queue = 0.0;
    run_until(&mut world, "2026-06-01T18:40:00Z", 0.0);
    assert_eq!(world.wanted(), 0, "it may go to zero as ever");
}

#[test]
fn a_floor_holds_without_traffic_and_ends_with_its_window() {
    let hour = window("hour", "UTC", "12:00", "13:00", floor(2));
    let mut world = world(vec![hour], "2026-06-01T11:50:00Z", 0);
    world.policy.idle_after = IdleAfter::Fixed(secs(60));
    let decisions = run_until(&mut world, "2026-06-01T12:59:59Z", 0.0);
    let open = decisions.last().expect("there were some");
    assert_eq!((open.to, open.reason, open.zero), (2, Reason::Steady, Zero::Never));
    assert_eq!(sentence(open), "2: schedule \"hour\" until 13:00");
    let over = world.tick(0.0);
    assert_eq!((over.to, over.reason), (0, Reason::Idle), "nobody has come for an hour");
}

#[test]
fn a_pin_holds_the_number_from_both_sides() {
    let show = window("show", "UTC", "12:00", "13:00", pin(3));
    let mut world = world(vec![show], "2026-06-01T11:50:00Z", 0);
    run_until(&mut world, "2026-06-01T12:00:00Z", 0.0);
    let quiet = world.run(60, 0.0);
    assert_eq!((quiet.to, sentence(&quiet)), (3, "3: schedule \"show\" (a pin) until 13:00".to_owned()));
    let crowded = world.run(60, 900.0);
    assert_eq!(crowded.to, 3);
    assert!(
        sentence(&crowded).contains("schedule \"show\" allows exactly 3 until 13:00"),
        "{}",
        sentence(&crowded)
    );
}

#[test]
fn a_clock_that_jumps_is_followed_to_where_it_goes() {
    let mut world = world(vec![night(), day()], "2026-06-01T12:00:00Z", 2);
    assert_eq!(world.run(30, 0.0).to, 2);
    world.now = at("2026-06-01T23:00:00Z");
    assert_eq!(world.run(30, 0.0).bounds, Bounds { min: 0, max: 1 }, "into the night");
    world.now = at("2026-06-01T12:10:00Z");
    let back = world.tick(0.0);
    assert_eq!((back.bounds, back.to), (Bounds { min: 2, max: 4 }, 2), "and back");
    world.now = at("2031-12-24T23:00:00Z");
    assert_eq!(world.tick(0.0).bounds, Bounds { min: 0, max: 1 }, "years ahead");
}

#[test]
fn after_a_jump_into_the_night_nobody_is_known_not_to_have_called() {
    let mut world = world(vec![night()], "2026-06-01T12:00:00Z", 1);
    world.policy.idle_after = IdleAfter::Fixed(secs(60));
    world.run(30, 1.0);
    world.now = at("2026-06-01T23:00:00Z");
    assert_eq!(world.run(50, 0.0).to, 1);
    assert_eq!(world.run(20, 0.0).to, 0, "the idle time of the model");
}

#[test]
fn windows_that_were_changed_count_at_once() {
    let mut world = world(vec![day()], "2026-06-01T12:00:00Z", 2);
    world.run(10, 0.0);
    world.policy.schedules = vec![Schedule { bounds: pin(3), ..day() }];
    assert_eq!(world.tick(0.0).to, 3);
    world.policy.schedules = vec![Schedule { bounds: cap(1), ..day() }];
    assert_eq!(world.tick(0.0).to, 1);
    world.policy.schedules.clear();
    let without = world.tick(0.0);
    assert_eq!((without.bounds, without.schedule), (BASE, None));
}

#[test]
fn transitions_say_what_changes_and_by_which_window() {
    let found = transitions(&[night(), day()], BASE, at("2026-10-24T10:00:00Z"), 2 * DAY);
    let told: Vec<_> = found
        .iter()
        .map(|t| (shown(t.at), &*t.by.name, t.edge, (t.before.min, t.before.max), (t.after.min, t.after.max)))
        .collect();
    let expected = [
        ("2026-10-24T20:00:00Z", "night", Edge::Begins, (2, 4), (0, 0)),
        ("2026-10-25T06:00:00Z", "day", Edge::Begins, (0, 0), (2, 4)),
        ("2026-10-25T21:00:00Z", "night", Edge::Begins, (2, 4), (0, 0)),
        ("2026-10-26T06:00:00Z", "day", Edge::Begins, (0, 0), (2, 4)),
    ];
    assert_eq!(told, expected.map(|(at, name, edge, a, b)| (at.to_owned(), name, edge, a, b)));
    let week = window("week", "UTC", "00:00", "24:00", floor(1));
    let late = window("late", "UTC", "20:00", "24:00", cap(2));
    let found = transitions(&[week, late], BASE, at("2026-06-01T12:00:00Z"), DAY);
    let told: Vec<_> = found.iter().map(|t| (&*t.by.name, t.edge, t.after.max)).collect();
    assert_eq!(
        told,
        [("late", Edge::Begins, 2), ("late", Edge::Ends, 4)],
        "not the week that goes on at midnight"
    );
}

fn picture(world: &World, decision: Decision) -> String {
    let entry = Entry { decision, outcome: Outcome::Unchanged, observed: None };
    let clock = |at: Duration| shown(at);
    let text = why("digits", &entry, &[], &clock);
    let lines =
        text.lines().filter(|line| ["next", "schedule"].iter().any(|l| line.trim_start().starts_with(l)));
    assert!(world.policy.schedules.is_empty() || text.contains("  schedule "), "{text}");
    lines.map(str::trim).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_whole_picture_names_what_holds_and_what_comes() {
    let mut it = world(vec![night(), day()], "2026-06-01T12:00:00Z", 2);
    let noon = it.tick(0.0);
    assert_eq!(
        picture(&it, noon),
        "next      never to zero: at least 2\n\
         schedule  2: schedule \"day\" until 22:00; next: 22:00 off by \"night\" (Europe/Prague)"
    );
    let mut it = world(vec![night(), day()], "2026-06-01T22:00:00Z", 0);
    let midnight = it.tick(0.0);
    assert_eq!(
        picture(&it, midnight),
        "next      starts with the next request\n\
         schedule  off until 07:00 by schedule \"night\", a call starts one; \
         next: 07:00 floor 2 by \"day\" (Europe/Prague)"
    );
    it.now = at("2026-06-02T04:59:30Z");
    let early = it.tick(0.0);
    assert_eq!(
        picture(&it, early),
        "next      never to zero: at least 2\n\
         schedule  07:00 → 2: schedule \"day\" (pre-warm, cold start assumed 20 s); \
         schedule \"night\" allows no more than the pre-warm needs until 07:00; \
         next: 07:00 floor 2 by \"day\" (Europe/Prague)"
    );
    let refusing = Schedule { on_request: OnRequest::Reject, ..night() };
    let mut it = world(vec![refusing], "2026-06-01T22:00:00Z", 0);
    let midnight = it.tick(0.0);
    assert_eq!(
        picture(&it, midnight),
        "next      calls are refused until 07:00\n\
         schedule  off until 07:00 by schedule \"night\", calls are refused; \
         next: 07:00 min 0, max 4 after \"night\" (Europe/Prague)"
    );
    let mut sundays = window("sunday", "UTC", "10:00", "12:00", pin(3));
    sundays.days = vec![Weekday::Sunday];
    let mut it = world(vec![sundays], "2026-06-01T22:00:00Z", 0);
    let monday = it.tick(0.0);
    assert!(picture(&it, monday).ends_with("schedule  next: Sun 10:00 exactly 3 by \"sunday\" (UTC)"));
}

#[test]
fn a_policy_and_its_decisions_are_recorded_and_read_back() {
    let mut some = Schedule { prewarm: Some(secs(90)), on_request: OnRequest::Reject, ..night() };
    some.days = WEEKDAYS.to_vec();
    let policy =
        Policy { schedules: vec![some, day(), window("u", "UTC", "00:00", "24:00", pin(1))], ..policy(0, 4) };
    let json = serde_json::to_string(&policy).expect("has string keys only");
    assert!(json.contains(r#""timezone":"Europe/Prague","days":["mon","tue","wed","thu","fri"]"#), "{json}");
    assert_eq!(serde_json::from_str::<Policy>(&json).expect("was just written"), policy);
    let mut world = world(vec![night(), day()], "2026-06-02T04:59:30Z", 0);
    let decision = world.tick(0.0);
    let json = serde_json::to_string(&decision).expect("has string keys only");
    assert_eq!(serde_json::from_str::<Decision>(&json).expect("was just written"), decision);
}

#[test]
fn a_decision_is_the_same_for_a_state_that_knows_nothing_of_schedules_yet() {
    let mut world = world(vec![night(), day()], "2026-06-02T04:55:00Z", 0);
    world.run(30, 0.0);
    let snapshot = world.snapshot();
    let before = world.state.clone();
    let others = Policy { schedules: vec![day()], ..world.policy.clone() };
    let [a, b] =
        [&world.policy, &others].map(|p| autoscaler::decide::decide(p, &before, &snapshot, world.now));
    assert_ne!(a.schedule, b.schedule, "whatever the state has prepared for another policy");
    let mut observed = before.clone();
    observed.observe(&others, &snapshot, world.now);
    assert_eq!(autoscaler::decide::decide(&others, &observed, &snapshot, world.now).schedule, b.schedule);
}

/// Prints what five windows cost; run by hand with `--release -- --nocapture`.
#[test]
fn five_windows_cost_little() {
    let names = ["a", "b", "c", "d", "e"];
    let zones = ["Europe/Prague", "America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Tokyo"];
    let five = names.iter().zip(zones).map(|(name, zone)| window(name, zone, "08:00", "18:00", floor(1)));
    let cost = |schedules: Vec<Schedule>| {
        let mut world = world(schedules, "2026-06-01T12:00:00Z", 1);
        world.run(30, 1.0);
        let snapshot = world.snapshot();
        let start = tokio::time::Instant::now();
        for _ in 0..1000 {
            std::hint::black_box(autoscaler::decide::decide(
                &world.policy,
                &world.state,
                &snapshot,
                world.now,
            ));
        }
        start.elapsed() / 1000
    };
    let (with, without) = (cost(five.collect()), cost(Vec::new()));
    println!("decide: {with:?} with five windows, {without:?} without");
    let off = Schedule { on_request: OnRequest::Reject, ..night() };
    let policy = Policy { schedules: vec![off; 5], ..policy(0, 4) };
    let start = tokio::time::Instant::now();
    for _ in 0..100 {
        std::hint::black_box(refuses(&policy, secs(20), at("2026-06-01T22:00:00Z")));
    }
    println!("refuses: {:?}", start.elapsed() / 100);
    assert!(with < Duration::from_millis(2), "{with:?}");
}
