//! What the loop must survive.

use autoscaler::{
    decide::{LimitKind, Reason, Zero},
    policy::IdleAfter,
    snapshot::Phase,
    state::{RestoreError, State},
};

use crate::world::{Luck, World, limits, policy, secs, term};

#[test]
fn stale_reports_never_scale_down() {
    let mut world = World::with_ready(policy(0, 10), 5);
    world.run(700, 400.0);
    let before = world.wanted();
    world.reports = false;
    let decision = world.run(3600, 0.0);
    assert_eq!(decision.to, before);
    assert!(matches!(decision.limits.last().map(|l| &l.kind), Some(LimitKind::Stale { .. })), "{decision:?}");
}

#[test]
fn silence_does_not_lead_to_zero() {
    let mut world = World::with_ready(policy(0, 10), 1);
    world.policy.idle_after = IdleAfter::Fixed(secs(30));
    world.run(20, 1.0);
    world.reports = false;
    world.run(600, 0.0);
    assert_eq!(world.wanted(), 1);
}

#[test]
fn a_counter_reset_makes_no_burst_and_no_hole() {
    let mut world = World::with_ready(policy(1, 50), 5);
    world.run(700, 350.0);
    let before = world.wanted();
    world.restart_gateway();
    let after = world.tick(350.0);
    assert!(after.to <= before + 1, "{} after {before}", after.to);
}

#[test]
fn a_storm_at_zero_is_one_write_where_one_replica_is_allowed_and_paced_where_more_are() {
    let mut world = World::new(policy(0, 4));
    world.run(5, 0.0);
    world.tick(10_000.0);
    world.run(19, 0.0);
    assert_eq!(world.writes, [(secs(6), 0, 4)]);
}

#[test]
fn crash_loops_get_no_credit_and_one_more_at_most() {
    let mut world = World::new(policy(0, 20));
    world.luck = Luck::Crashes;
    world.run(5, 0.0);
    world.tick(1.0);
    let decision = world.run(300, 1.0);
    assert!(world.wanted() <= 2, "{}", world.wanted());
    assert_eq!(decision.inputs.fleet.failed, world.wanted());
    assert!(decision.inputs.fleet.trouble.is_some());
}

#[test]
fn a_crash_loop_in_a_growing_fleet_stops_the_growth_and_says_so() {
    let mut world = World::with_ready(policy(1, 20), 2);
    world.run(30, 150.0);
    world.luck = Luck::Crashes;
    let decision = world.run(200, 900.0);
    assert!(decision.inputs.fleet.failed > 0);
    let stuck = world.wanted();
    let decision = world.run(600, 900.0);
    assert_eq!((decision.to, decision.reason), (stuck, Reason::Limited));
    assert!(limits(&decision).contains(&"degraded"), "{decision:?}");
}

#[test]
fn a_model_that_cannot_start_gives_up_when_nobody_waits() {
    let mut world = World::new(policy(0, 4));
    world.policy.idle_after = IdleAfter::Fixed(secs(30));
    world.luck = Luck::Crashes;
    world.run(5, 0.0);
    world.tick(1.0);
    world.queue = 0.0;
    world.run(60, 0.0);
    assert_eq!(world.wanted(), 0);
}

#[test]
fn replicas_without_a_place_stop_the_growth_and_one_goes_on_trying() {
    let mut world = World::with_ready(policy(1, 20), 1);
    world.run(30, 80.0);
    world.luck = Luck::FindsNoPlace;
    let decision = world.run(90, 400.0);
    let wanted = world.wanted();
    assert!(limits(&decision).contains(&"unschedulable"), "{decision:?}");
    world.run(400, 400.0);
    assert_eq!(world.wanted(), wanted, "no further up");
    world.run(200, 400.0);
    assert_eq!(world.wanted(), 2, "one ready, one that tries");
    assert_eq!(world.writes.last().map(|(_, from, to)| (*from, *to)), Some((wanted, 2)));
    world.luck = Luck::Starts;
    world.run(120, 400.0);
    assert!(world.ready() >= 5, "there is room again: {}", world.ready());
}

#[test]
fn a_ten_minute_image_pull_is_waited_for() {
    let mut world = World::new(policy(0, 4));
    world.cold_start = secs(600);
    world.run(5, 0.0);
    world.tick(1.0);
    let decision = world.run(590, 0.0);
    assert_eq!((decision.to, decision.inputs.fleet.starting, decision.inputs.fleet.failed), (1, 1, 0));
}

#[test]
fn nothing_goes_while_a_request_waits_for_a_start() {
    let mut world = World::new(policy(0, 4));
    world.policy.idle_after = IdleAfter::Fixed(secs(10));
    world.cold_start = secs(200);
    world.run(5, 0.0);
    world.tick(3000.0);
    assert_eq!(world.wanted(), 4);
    world.queue = 1.0;
    let decision = world.run(150, 0.0);
    assert_eq!(decision.to, 4);
    assert_eq!(limits(&decision), ["waiting"]);
}

#[test]
fn a_request_between_idle_and_zero_keeps_the_model_up() {
    let mut world = World::with_ready(policy(0, 4), 1);
    world.policy.idle_after = IdleAfter::Fixed(secs(30));
    world.run(20, 1.0);
    world.run(29, 0.0);
    let decision = world.tick(1.0);
    assert_eq!(decision.to, 1);
    assert!(matches!(decision.zero, Zero::At { .. } | Zero::Busy), "{:?}", decision.zero);
}

#[test]
fn a_pause_of_the_machine_is_not_idleness() {
    let mut world = World::with_ready(policy(0, 4), 1);
    world.policy.idle_after = IdleAfter::Fixed(secs(30));
    world.run(20, 1.0);
    world.pass(secs(3600), 0.0);
    assert_eq!(world.tick(0.0).to, 1);
    world.run(28, 0.0);
    assert_eq!(world.wanted(), 1);
    world.run(5, 0.0);
    assert_eq!(world.wanted(), 0, "idle for as long as it should be, seen");
}

#[test]
fn a_clock_that_went_back_scales_nothing_down() {
    let mut world = World::with_ready(policy(1, 10), 5);
    world.run(700, 400.0);
    let before = world.wanted();
    world.now = secs(100);
    let decision = world.tick(400.0);
    assert!(decision.to >= before, "{decision:?}");
}

#[test]
fn replicas_that_were_taken_away_are_asked_for_again() {
    let mut world = World::with_ready(policy(1, 10), 4);
    world.run(700, 330.0);
    let before = world.wanted();
    world.scale(1);
    world.run(5, 330.0);
    assert!(world.wanted() >= before.min(5), "{} of {before}", world.wanted());
}

#[test]
fn a_new_decider_holds_what_it_finds_until_it_has_history() {
    let mut world = World::with_ready(policy(0, 10), 6);
    let decision = world.run(299, 10.0);
    assert_eq!((decision.to, limits(&decision)), (6, vec!["young"]));
    world.run(30, 10.0);
    assert!(world.wanted() < 6);
}

#[test]
fn a_restored_state_knows_the_cold_start_and_the_capacity_but_not_the_fleet() {
    let mut world = World::new(policy(0, 10));
    for _ in 0..3 {
        world.run(5, 0.0);
        world.tick(1.0);
        world.run(30, 1.0);
        world.scale(0);
        world.run(20, 0.0);
    }
    let json = world.state.to_json();
    let restored = State::from_json(&json, world.now + secs(60)).expect("was just saved");
    let mut next = World::new(policy(0, 10));
    next.state = restored;
    next.now = world.now + secs(60);
    next.latency = Default::default();
    let decision = next.tick(0.0);
    assert_eq!(decision.inputs.cold_start, secs(20));
    assert!(matches!(decision.inputs.capacity.basis, autoscaler::capacity::Basis::Learned(_)));
    assert_eq!(decision.to, 0);
}

#[test]
fn a_state_of_another_form_is_not_read() {
    let other = State::default().to_json().replacen("\"version\":1", "\"version\":9", 1);
    assert!(matches!(State::from_json(&other, secs(0)), Err(RestoreError::Version { found: 9, known: 1 })));
    assert!(matches!(State::from_json("{", secs(0)), Err(RestoreError::Unreadable(_))));
}

#[test]
fn a_saved_state_stays_small_through_a_long_busy_life() {
    let mut world = World::with_ready(policy(1, 10), 5);
    world.run(2000, 400.3);
    let size = world.state.to_json().len();
    assert!(size < 200 * 1024, "{size} bytes");
}

#[test]
fn draining_replicas_count_for_nothing() {
    let mut world = World::with_ready(policy(0, 4), 1);
    world.run(20, 50.0);
    let mut leaving = world.fleet.replicas[0].clone();
    leaving.id = "leaving".into();
    leaving.phase = Phase::Draining;
    world.fleet.replicas.push(leaving);
    let decision = world.tick(50.0);
    assert_eq!((decision.inputs.fleet.ready, decision.inputs.fleet.draining), (1, 1));
    assert_eq!(term(&decision, "waiting"), Some(1));
}
