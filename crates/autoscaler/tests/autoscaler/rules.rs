//! One rule at a time.

use std::time::Duration;

use autoscaler::{
    decide::{Decision, Reason, Zero},
    policy::{IdleAfter, Objective, Slo},
};

use crate::world::{World, limits, policy, secs, term};

#[test]
fn a_model_at_zero_stays_there_until_somebody_comes() {
    let mut world = World::new(policy(0, 4));
    let asleep = world.run(30, 0.0);
    assert_eq!((asleep.to, asleep.reason, asleep.zero), (0, Reason::Steady, Zero::Already));
    let woken = world.tick(1.0);
    assert_eq!((woken.from, woken.to, woken.reason), (0, 1, Reason::FirstRequest));
    assert_eq!(world.writes, [(secs(31), 0, 1)]);
}

#[test]
fn a_request_that_came_and_went_at_zero_still_wakes_the_model() {
    let mut world = World::new(policy(0, 4));
    world.run(5, 0.0);
    world.pass(secs(1), 1.0);
    world.queue = 0.0;
    let woken = world.decide();
    assert_eq!((woken.to, woken.reason), (1, Reason::FirstRequest));
    world.scale(0);
    assert_eq!(world.tick(0.0).to, 0, "a request is an occasion once");
}

#[test]
fn zero_wakes_to_as_many_as_the_crowd_needs() {
    let mut world = World::new(policy(0, 10));
    world.run(5, 0.0);
    let woken = world.tick(3000.0);
    assert_eq!((woken.to, woken.reason), (4, Reason::FirstRequest));
    assert!(woken.target > 4, "{}", woken.target);
    assert_eq!(limits(&woken).last(), Some(&"up_pace"));
}

#[test]
fn before_anything_is_measured_the_queue_is_divided_by_the_room_of_a_replica() {
    let mut world = World::with_ready(policy(0, 10), 1).unmeasured();
    world.run(5, 0.0);
    world.queue = 27.0;
    let decision = world.decide();
    // Room for 5 · 0.8 = 4 at a time: ⌈27 / 4⌉.
    assert_eq!((term(&decision, "backlog"), decision.reason), (Some(7), Reason::Backlog));
}

#[test]
fn a_small_queue_is_no_backlog() {
    let mut world = World::with_ready(policy(0, 10), 1);
    world.run(5, 0.0);
    world.queue = 2.0;
    assert_eq!(term(&world.decide(), "backlog"), Some(0));
}

#[test]
fn pending_replicas_are_credited_from_their_eta_on() {
    let mut alone = World::with_ready(policy(0, 50), 1);
    alone.run(60, 90.0);
    let mut helped = alone.clone();
    helped.scale(4);
    for world in [&mut alone, &mut helped] {
        world.pass(secs(1), 90.0);
        world.queue = 3000.0;
    }
    let (without, with) = (alone.decide(), helped.decide());
    assert!(term(&with, "backlog") <= term(&without, "backlog"));
    let mut soon = helped.clone();
    soon.pass(secs(17), 90.0);
    soon.queue = 3000.0;
    assert!(term(&soon.decide(), "backlog") < term(&without, "backlog"), "they are ready any moment");
}

#[test]
fn up_is_at_once_and_at_most_four_or_double_in_fifteen_seconds() {
    let mut world = World::with_ready(policy(1, 100), 1);
    world.cold_start = secs(300);
    world.run(20, 50.0);
    let mut wishes = Vec::new();
    for _ in 0..46 {
        wishes.push(world.tick(6000.0).to);
    }
    assert_eq!((wishes[0], wishes[14], wishes[15], wishes[30], wishes[45]), (5, 5, 10, 20, 40), "{wishes:?}");
}

#[test]
fn down_keeps_the_highest_target_of_five_minutes_and_goes_by_quarters_a_minute_apart() {
    let mut world = World::with_ready(policy(1, 100), 16);
    let called_for = world.run(900, 1200.0).target;
    assert!(called_for >= 13 && world.wanted() >= called_for, "{called_for} of {}", world.wanted());
    world.writes.clear();
    world.run(1800, 300.0);
    let down: Vec<_> = world.writes.iter().collect();
    assert!(down.iter().all(|(_, from, to)| to < from && from - to <= (from / 4).max(1)), "{down:?}");
    assert!(down.windows(2).all(|pair| pair[1].0 - pair[0].0 >= secs(60)), "{down:?}");
    let below = down.iter().find(|(_, _, to)| *to < called_for);
    assert!(below.is_some_and(|(at, _, _)| *at >= secs(900 + 300)), "not within the memory: {down:?}");
    assert!((4..=6).contains(&world.wanted()), "300/s needs about 4: {}", world.wanted());
}

/// Three replicas where two are called for at `rate` by an SLO of `slo`, after the memory of the way down.
fn one_too_many(rate: f64, slo: Duration) -> Decision {
    let mut world = World::with_ready(policy(1, 10), 3);
    world.latency.tail_permille = 1000;
    world.policy.slo = Slo::Latency(Objective { target: slo, percentile: 0.99 });
    for _ in 0..700 {
        world.scale(3);
        world.tick(rate);
    }
    world.scale(3);
    world.tick(rate)
}

#[test]
fn a_smaller_fleet_that_could_not_bear_a_tenth_more_is_not_formed() {
    // At 125/s 0.8 % wait for more than the 20 ms that are left, at 137/s 1.9 %.
    let slo = Duration::from_millis(60);
    let kept = one_too_many(125.0, slo);
    assert_eq!((kept.target, limits(&kept)), (2, vec!["consolidation"]), "{kept:?}");
    let formed = one_too_many(105.0, slo);
    assert_eq!((formed.target, formed.to), (2, 2), "{formed:?}");
}

#[test]
fn a_smaller_fleet_whose_slots_would_be_full_is_not_formed() {
    // Who may wait for 20 s can be served by two; 7 of their eight slots would be in use.
    let kept = one_too_many(175.0, secs(20));
    assert_eq!((kept.target, limits(&kept)), (2, vec!["consolidation"]), "{kept:?}");
}

#[test]
fn an_idle_model_goes_to_zero_after_ten_minutes_and_not_a_second_sooner() {
    let mut world = World::with_ready(policy(0, 4), 2);
    world.run(60, 20.0);
    world.run(599, 0.0);
    assert!(world.wanted() >= 1);
    let decision = world.tick(0.0);
    assert_eq!((decision.to, decision.reason), (0, Reason::Idle));
}

#[test]
fn an_explicit_idle_time_is_obeyed_as_written_from_any_size() {
    let mut world = World::with_ready(policy(0, 4), 1);
    world.policy.idle_after = IdleAfter::Fixed(secs(30));
    world.run(60, 350.0);
    assert_eq!(world.wanted(), 4);
    world.queue = 0.0;
    world.run(29, 0.0);
    assert!(world.wanted() >= 1);
    assert_eq!(world.tick(0.0).to, 0);
}

#[test]
fn an_explicit_idle_time_shortens_the_way_down_under_light_traffic_too() {
    let mut world = World::with_ready(policy(0, 4), 1);
    world.policy.idle_after = IdleAfter::Fixed(secs(30));
    world.run(60, 350.0);
    world.queue = 0.0;
    world.run(150, 5.0);
    assert_eq!(world.wanted(), 1);
}

#[test]
fn idleness_counts_from_the_first_readiness_and_never_while_starting() {
    let mut world = World::new(policy(0, 4));
    world.policy.idle_after = IdleAfter::Fixed(secs(30));
    world.cold_start = secs(180);
    world.run(5, 0.0);
    world.tick(1.0);
    world.queue = 0.0;
    let starting = world.run(100, 0.0);
    assert_eq!((starting.to, starting.zero), (1, Zero::Starting));
    world.run(80 + 29, 0.0);
    assert_eq!(world.wanted(), 1);
    world.run(3, 0.0);
    assert_eq!(world.wanted(), 0);
}

#[test]
fn after_a_wake_the_peaks_of_the_life_before_do_not_count() {
    let mut world = World::with_ready(policy(0, 4), 1);
    world.policy.idle_after = IdleAfter::Fixed(secs(30));
    world.run(60, 350.0);
    world.queue = 0.0;
    world.run(31, 0.0);
    assert_eq!(world.wanted(), 0);
    world.tick(1.0);
    world.run(15, 0.0);
    assert_eq!(world.wanted(), 1);
}

#[test]
fn bounds_that_were_changed_are_obeyed_at_once() {
    let mut world = World::with_ready(policy(1, 20), 12);
    world.run(10, 1000.0);
    world.policy = policy(1, 3);
    let lowered = world.tick(1000.0);
    assert_eq!((lowered.to, lowered.reason), (3, Reason::MaxReplicas));
    world.policy = policy(9, 20);
    let mut quiet = World::with_ready(policy(0, 20), 0);
    quiet.policy = policy(9, 20);
    let raised = quiet.tick(0.0);
    assert_eq!((raised.to, raised.reason), (9, Reason::MinReplicas));
}

#[test]
fn too_many_misses_hold_the_fleet() {
    let mut world = World::with_ready(policy(1, 10), 6);
    world.run(1000, 100.0);
    let held = world.wanted();
    world.scale(6);
    for _ in 0..400 {
        world.counters.slo_misses += 5;
        world.tick(100.0);
    }
    assert!(held < 6);
    assert_eq!(world.wanted(), 6);
    world.counters.slo_misses += 5;
    assert_eq!(limits(&world.tick(100.0)), ["slo_burning"]);
}
