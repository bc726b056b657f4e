//! Situations as they come about, each played through the rules from its beginning, and the one sentence that is
//! told of its end.

use std::time::Duration;

use autoscaler::{
    decide::Decision,
    explain::{sentence, why},
    log::{Entry, Outcome},
    policy::IdleAfter,
    schedule::{Bounds, OnRequest, Schedule},
};
use jiff::{Timestamp, civil::Weekday, tz::TimeZone};

use crate::world::{Luck, World, policy, secs};

/// Ticks at `rate` until it comes about, within ten minutes.
fn until(world: &mut World, rate: f64, comes: impl Fn(&Decision) -> bool) -> Decision {
    let mut ticks = (0..600).map(|_| world.tick(rate));
    ticks.find(comes).expect("it comes about within ten minutes")
}

/// Two replicas in the middle of a day at 150 requests per second, each good for 100.
fn midday(max: u32) -> World {
    let mut world = World::with_ready(policy(1, max), 2);
    world.run(1200, 150.0);
    world
}

/// The same behind two gateways, on a platform where others have a say.
fn midday_in_a_cluster() -> World {
    let mut world = World::in_a_cluster(policy(1, 10), 2);
    world.run(1200, 150.0);
    world
}

fn entry(decision: Decision, outcome: Outcome) -> Entry {
    Entry { decision, outcome, observed: None }
}

fn clock(at: Duration) -> String {
    format!("{:02}:{:02}:{:02}", at.as_secs() / 3600, at.as_secs() / 60 % 60, at.as_secs() % 60)
}

/// The line of the whole picture with this label.
fn line(label: &str, entry: &Entry) -> String {
    let text = why("digits", entry, &[], &clock);
    let mut lines = text.lines().filter_map(|line| line.trim_start().strip_prefix(label));
    lines.next().map(|rest| rest.trim_start().to_owned()).expect("the picture has such a line")
}

#[test]
fn steady_load_names_what_it_needs_and_what_a_replica_can_do() {
    let decision = midday(10).tick(150.0);
    assert_eq!(
        sentence(&decision),
        "2: what came within 5 min, served at 150 requests/s, needs 2 (2 replicas ≈ 185 requests/s at p99 200 ms, 100 \
         each when full)"
    );
    // By the sizing two replicas bear 185.4 /s and one 85.8 /s: a tenth less is 78 /s, which is also less than what
    // fills four fifths of its four slots of 40 ms, 80 /s.
    assert_eq!(
        line("change", &entry(decision, Outcome::Unchanged)),
        "one more once what came within 5 min needs more than 185 requests/s; one fewer once what came within 5 min \
         needed less than 78 requests/s for 5 min"
    );
}

#[test]
fn a_burst_is_sized_by_its_peak_for_as_long_as_the_envelope_remembers_it() {
    let mut world = midday(10);
    world.run(60, 330.0);
    let decision = world.run(120, 20.0);
    assert_eq!(
        sentence(&decision),
        "4: what came within 5 min, served at 330 requests/s, needs 4 (4 replicas ≈ 385 requests/s at p99 200 ms, 100 \
         each when full)"
    );
}

#[test]
fn a_backlog_is_projected_to_when_a_replica_asked_for_now_could_help() {
    let mut world = midday(20);
    world.queue = 12_000.0;
    let decision = world.tick(150.0);
    // A second later 11,950 wait, and two replicas take 50 /s off it for 20 s.
    assert_eq!(
        sentence(&decision),
        "2→3: (150 requests/s + 10,950 waiting by 20 s from now ÷ 120 s) ÷ 100 requests/s per replica"
    );
}

#[test]
fn the_pace_of_the_way_up_is_named_where_it_holds() {
    let mut world = midday(40);
    let first = until(&mut world, 2500.0, |decision| decision.from < decision.to);
    assert_eq!(
        sentence(&first),
        "2→6: what came within 5 min, served at 2,148 requests/s, needs 22 (22 replicas ≈ 2,185 requests/s at p99 200 \
         ms, 100 each when full); 22 called for, at most 4 more, or twice as many, in 15 s"
    );
    assert_eq!(
        sentence(&world.tick(2500.0)),
        "want 24, have 2 of 6: at most 4 more, or twice as many, in 15 s; what came within 5 min, served at 2,324 \
         requests/s, needs 24 (24 replicas ≈ 2,385 requests/s at p99 200 ms, 100 each when full)"
    );
}

#[test]
fn the_most_that_is_allowed_says_how_many_are_missing() {
    let mut world = midday(3);
    let decision = world.run(60, 600.0);
    assert_eq!(
        sentence(&decision),
        "want 9, have 3: never more than 3; (600 requests/s + 26,000 waiting by 20 s from now ÷ 120 s) ÷ 100 \
         requests/s per replica"
    );
    assert_eq!(
        line("change", &entry(decision, Outcome::Unchanged)),
        "no more: never more than 3; one fewer once what came within 5 min needed less than 160 requests/s for 5 min"
    );
}

#[test]
fn replicas_without_a_place_are_counted_with_what_the_platform_says() {
    let mut world = World::with_ready(policy(1, 9), 1);
    world.run(600, 50.0);
    world.luck = Luck::FindsNoPlace;
    let decision = world.run(120, 300.0);
    assert_eq!(
        sentence(&decision),
        "want 6, have 1 of 4: 3 pending without a place to run (insufficient nvidia.com/gpu); (300 requests/s + 28,000 \
         waiting by 20 s from now ÷ 120 s) ÷ 100 requests/s per replica"
    );
}

#[test]
fn replicas_that_crash_are_counted_with_how_they_ended() {
    let mut world = World::with_ready(policy(1, 9), 1);
    world.run(600, 50.0);
    world.luck = Luck::Crashes;
    let decision = world.run(60, 300.0);
    assert_eq!(
        sentence(&decision),
        "want 5, have 1 of 4: 3 replicas do not start (exited with status 1); (300 requests/s + 16,000 waiting by 20 s \
         from now ÷ 120 s) ÷ 100 requests/s per replica"
    );
}

#[test]
fn a_gateway_that_is_not_heard_vetoes_the_way_down_by_name() {
    let mut world = World::in_a_cluster(policy(1, 10), 5);
    world.run(1200, 400.0);
    world.cut_off = Some("gateway-b");
    let decision = world.run(800, 50.0);
    assert_eq!(sentence(&decision), "want 1, keep 5: gateway-b was not heard for 13 min");
    assert_eq!(
        line("change", &entry(decision, Outcome::Unchanged)),
        "one more once what came within 5 min needs more than 485 requests/s; no fewer for now: gateway-b was not heard \
         for 13 min"
    );
}

#[test]
fn the_memory_of_the_way_down_says_what_it_remembers() {
    let mut world = World::with_ready(policy(1, 10), 5);
    world.run(1200, 400.0);
    let by_window = |decision: &Decision| decision.limits.iter().any(|l| l.kind.as_str() == "down_window");
    let decision = until(&mut world, 50.0, |decision| decision.to == decision.from && by_window(decision));
    assert_eq!(sentence(&decision), "want 4, keep 5: the last 5 min called for 5");
    let step = until(&mut world, 50.0, |decision| decision.to < decision.from);
    assert_eq!(
        sentence(&step),
        "5→4: what came within 5 min, served at 50 requests/s, needs 1 (1 replica ≈ 85.8 requests/s at p99 200 ms, 100 \
         when full); 1 called for, the last 5 min called for 4"
    );
}

#[test]
fn a_smaller_fleet_that_would_be_too_tight_says_so_and_from_which_load_on_it_is_not() {
    let mut world = World::with_ready(policy(1, 10), 3);
    let decision = world.run(1500, 175.0);
    assert_eq!(
        sentence(&decision),
        "want 2, keep 3: 2 would not hold the SLO with a tenth more load and a fifth of their room free"
    );
    // Two bear 185.4 /s, a tenth less is 168.5 /s; four fifths of their eight slots of 40 ms are full at 160 /s.
    assert_eq!(
        line("change", &entry(decision, Outcome::Unchanged)),
        "one more once what came within 5 min needs more than 285 requests/s; one fewer once what came within 5 min \
         needed less than 160 requests/s for 5 min"
    );
}

#[test]
fn the_last_replica_goes_when_it_was_idle_and_says_for_how_long() {
    let mut world = World::with_ready(policy(0, 10), 1);
    world.policy.idle_after = IdleAfter::Fixed(secs(300));
    world.run(100, 10.0);
    let decision = until(&mut world, 0.0, |decision| decision.to == 0);
    assert_eq!(sentence(&decision), "1→0: idle for 5 min");
    assert_eq!(decision.at, secs(100 + 300));
    let asleep = entry(world.tick(0.0), Outcome::Unchanged);
    assert_eq!(sentence(&asleep.decision), "0: nobody asks");
    assert_eq!(line("next", &asleep), "starts with the next request");
}

#[test]
fn a_floor_is_asked_for_ahead_and_says_for_when_and_why_so_early() {
    let dawn: Timestamp = "2026-11-30T06:50:00+01:00".parse().expect("is a time");
    let mut world = World::new(policy(0, 10));
    world.policy.schedules = vec![Schedule {
        name: "office".into(),
        timezone: TimeZone::get("Europe/Prague").expect("is a zone"),
        days: vec![Weekday::Monday],
        from: 7 * 60,
        to: 18 * 60,
        bounds: Bounds::Between { floor: Some(3), cap: None },
        on_request: OnRequest::Wake,
        prewarm: None,
    }];
    world.now = secs(dawn.as_second() as u64);
    let before = entry(world.tick(0.0), Outcome::Unchanged);
    assert_eq!(line("schedule", &before), "next: 07:00 floor 3 by \"office\" (Europe/Prague)");
    let prewarm = until(&mut world, 0.0, |decision| decision.to > 0);
    assert_eq!(sentence(&prewarm), "0→3: for 07:00, schedule \"office\" (pre-warm, cold start assumed 20 s)");
    assert_eq!(prewarm.at, secs(dawn.as_second() as u64 + 600 - 20 - 30));
    let open = entry(world.run(120, 0.0), Outcome::Unchanged);
    assert_eq!(sentence(&open.decision), "3: schedule \"office\" until 18:00");
    assert_eq!(
        line("change", &open),
        "one more above a peak of 285 requests/s; no fewer: schedule \"office\" until 18:00"
    );
}

#[test]
fn a_number_set_by_hand_names_who_set_it_and_how_long_it_stands() {
    let mut world = midday_in_a_cluster();
    world.edit("kubectl", 6);
    world.tick(150.0);
    assert_eq!(
        sentence(&world.run(600, 150.0)),
        "want 2, keep 6: kubectl set it from 2 to 6, which stands for another 20 min"
    );
}

#[test]
fn another_autoscaler_of_the_same_object_is_named_and_left_to_it() {
    let mut world = midday_in_a_cluster();
    let rival = "HorizontalPodAutoscaler/digits";
    world.fleet.platform.rival = Some(rival.into());
    world.edit("horizontal-pod-autoscaler", 6);
    let seen = entry(world.run(60, 330.0), Outcome::ConflictingAutoscaler(rival.into()));
    assert_eq!(
        line("decision", &seen),
        "want 4, keep 6: next step down in 1 s (not written, ConflictingAutoscaler: HorizontalPodAutoscaler/digits \
         scales it too)"
    );
    assert!(why("digits", &seen, &[], &clock).starts_with(
        "digits has 6 ready replicas (want 6, min 1, max 10); HorizontalPodAutoscaler/digits scales it too\n"
    ));
}

#[test]
fn an_slo_that_is_being_missed_keeps_what_there_is_and_counts_the_misses() {
    let mut world = midday(10);
    world.scale(6);
    for _ in 0..600 {
        world.counters.slo_misses += 4;
        world.tick(150.0);
    }
    world.counters.slo_misses += 4;
    assert_eq!(
        sentence(&world.tick(150.0)),
        "want 2, keep 6: 240 of 9,000 requests missed the SLO in the last minute"
    );
}

#[test]
fn a_leader_that_is_too_young_says_when_it_will_know_enough() {
    let mut world = World::in_a_cluster(policy(1, 10), 6);
    assert_eq!(sentence(&world.run(120, 150.0)), "want 2, keep 6: history is long enough in 3 min");
    assert_eq!(sentence(&world.run(151, 150.0)), "want 2, keep 6: history is long enough in 30 s");
}
