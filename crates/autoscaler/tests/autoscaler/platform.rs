//! On a platform where others have a say: numbers set by hand, other autoscalers, rollouts, silence, replicas that are
//! not created, and several gateways.

use autoscaler::{
    decide::{Decision, LimitKind, Reason},
    explain::sentence,
    policy::{IdleAfter, Mode},
    snapshot::Phase,
    state::State,
};

use crate::world::{Luck, World, limits, policy, secs};

const HALF_AN_HOUR: u64 = 1800;

/// A model that never sleeps and remembers little, as it is after a while at `rate`.
fn settled(ready: u32, rate: f64) -> World {
    let mut world = World::in_a_cluster(policy(1, 10), ready);
    world.policy.idle_after = IdleAfter::Fixed(secs(60));
    world.run(1200, rate);
    world
}

fn last_limit(decision: &Decision) -> Option<&LimitKind> {
    decision.limits.last().map(|limit| &limit.kind)
}

#[test]
fn a_number_set_by_hand_stands_for_half_an_hour_and_says_who_set_it() {
    let mut world = settled(2, 50.0);
    assert_eq!(world.wanted(), 1);
    world.edit("kubectl", 6);
    let adopted = world.tick(50.0);
    assert_eq!((adopted.to, adopted.reason, limits(&adopted)), (6, Reason::Override, vec!["override"]));
    assert_eq!(
        sentence(&adopted),
        "want 1, keep 6: kubectl set it from 1 to 6, which stands for another 30 min"
    );
    let kept = world.run(HALF_AN_HOUR - 1, 50.0);
    assert_eq!((kept.to, kept.reason), (6, Reason::Override));
    assert_eq!(sentence(&kept), "want 1, keep 6: kubectl set it from 1 to 6, which stands for another 1 s");
    let over = world.tick(50.0);
    assert_eq!((over.to, over.reason), (5, Reason::LowLoad), "{over:?}");
}

#[test]
fn a_number_set_by_hand_knows_no_bounds_and_a_smaller_one_stands_under_load() {
    let mut world = settled(5, 400.0);
    world.edit("kubectl", 25);
    assert_eq!(world.run(60, 400.0).to, 25, "max is 10");
    world.edit("alice", 2);
    let fewer = world.tick(400.0);
    assert_eq!((fewer.to, fewer.reason), (2, Reason::Override));
    assert!(sentence(&fewer).ends_with("have 2: alice set it from 25 to 2, which stands for another 30 min"));
    assert_eq!(world.run(600, 400.0).to, 2);
}

#[test]
fn demand_that_comes_to_call_for_the_number_ends_what_was_set_by_hand() {
    let mut world = settled(1, 50.0);
    world.edit("kubectl", 4);
    assert_eq!(world.tick(50.0).reason, Reason::Override);
    let decision = (0..60).map(|_| world.tick(320.0)).find(|d| d.reason != Reason::Override);
    assert_eq!(decision.expect("the load needs that many").to, 4);
    assert!(world.run(60, 700.0).to > 4, "and then the load rules");
}

#[test]
fn a_request_ends_a_zero_that_was_set_by_hand_and_says_so() {
    let mut world = World::in_a_cluster(policy(1, 10), 2);
    world.run(1200, 0.0);
    world.edit("kubectl", 0);
    let stands = world.run(60, 0.0);
    assert_eq!((stands.to, stands.reason), (0, Reason::Override), "although min is 1");
    let woken = world.tick(1.0);
    assert_eq!((woken.to, woken.reason), (1, Reason::FirstRequest));
    assert_eq!(
        sentence(&woken),
        "0→1: first request, 1 waiting and 0 in flight (requests); a start takes up to 20 s; \
         that ends the 0 that kubectl had set"
    );
    world.queue = 0.0;
    assert_eq!(world.run(30, 0.0).reason, Reason::Steady, "it is over");
}

#[test]
fn replicas_set_to_zero_by_hand_under_load_come_back_with_the_next_request_that_waits() {
    let mut world = settled(2, 100.0);
    world.edit("kubectl", 0);
    let decisions: Vec<_> = (0..3).map(|_| world.tick(100.0)).collect();
    assert!(decisions.iter().any(|d| d.reason == Reason::FirstRequest), "{decisions:?}");
    assert!(world.wanted() >= 1);
}

#[test]
fn where_nothing_is_written_foreign_numbers_are_only_followed() {
    let mut observed = settled(1, 50.0);
    observed.policy.mode = Mode::Observe;
    observed.edit("kubectl", 4);
    assert_ne!(observed.tick(50.0).reason, Reason::Override);
    let mut rivalled = settled(1, 50.0);
    rivalled.fleet.platform.rival = Some("HorizontalPodAutoscaler/digits".into());
    rivalled.edit("horizontal-pod-autoscaler", 4);
    assert_ne!(rivalled.tick(50.0).reason, Reason::Override);
}

#[test]
fn what_was_set_by_hand_outlives_a_new_configuration_and_not_a_new_leader() {
    let mut world = settled(1, 50.0);
    world.edit("kubectl", 4);
    world.tick(50.0);
    let mut reloaded = world.clone();
    reloaded.state = State::from_json(&world.state.to_json(), world.now).expect("was just saved");
    assert_eq!(reloaded.tick(50.0).reason, Reason::Override);
    let digest = world.state.digest().to_json();
    world.state = State::from_digest(&digest, world.now).expect("was just made");
    assert_eq!((world.tick(50.0).reason, world.wanted()), (Reason::Held, 4));
}

#[test]
fn nothing_goes_while_replicas_are_exchanged() {
    let mut world = settled(4, 50.0);
    world.scale(4);
    world.fleet.platform.rollout = true;
    let decision = world.run(900, 50.0);
    assert_eq!((decision.to, last_limit(&decision)), (4, Some(&LimitKind::Rollout)));
    assert_eq!(sentence(&decision), "want 1, keep 4: replicas are being exchanged for another revision");
    assert!(world.run(60, 900.0).to > 4, "more may come");
    let mut idle = World::in_a_cluster(policy(0, 4), 1);
    idle.policy.idle_after = IdleAfter::Fixed(secs(30));
    idle.run(100, 1.0);
    idle.fleet.platform.rollout = true;
    assert_eq!(idle.run(300, 0.0).to, 1, "nor the last one");
    idle.fleet.platform.rollout = false;
    assert_eq!(idle.tick(0.0).to, 0);
}

#[test]
fn a_platform_that_was_away_for_five_minutes_is_not_acted_upon_for_a_minute() {
    let mut world = settled(4, 330.0);
    let before = world.wanted();
    for second in 1..=300 {
        world.fleet.platform.unheard = Some(secs(second));
        let decision = world.tick(0.0);
        assert_eq!(decision.to, before, "{decision:?}");
    }
    let away = world.decide();
    assert_eq!(last_limit(&away), Some(&LimitKind::Unheard { age: secs(300) }));
    assert!(sentence(&away).ends_with("the platform was not heard for 5 min"), "{}", sentence(&away));
    world.fleet.platform.unheard = None;
    for _ in 0..59 {
        let decision = world.tick(0.0);
        assert_eq!((decision.to, limits(&decision).last()), (before, Some(&"heard_again")), "{decision:?}");
    }
    world.run(2, 0.0);
    assert!(world.wanted() < before, "a minute later it shrinks: {}", world.wanted());
}

#[test]
fn the_minute_after_an_outage_begins_anew_when_a_gateway_falls_silent_in_it() {
    let mut world = settled(4, 330.0);
    let before = world.wanted();
    world.fleet.platform.unheard = Some(secs(1));
    world.run(310, 0.0);
    world.fleet.platform.unheard = None;
    world.run(50, 0.0);
    world.cut_off = Some("gateway-b");
    assert_eq!(limits(&world.run(10, 0.0)).last(), Some(&"stale"));
    world.cut_off = None;
    assert_eq!(limits(&world.run(55, 0.0)).last(), Some(&"heard_again"));
    assert_eq!(world.wanted(), before);
    world.run(10, 0.0);
    assert!(world.wanted() < before);
}

#[test]
fn while_the_platform_is_away_more_may_be_asked_for() {
    let mut world = settled(2, 100.0);
    world.fleet.platform.unheard = Some(secs(90));
    assert!(world.run(30, 900.0).to > 2);
}

#[test]
fn a_new_leader_leaves_what_it_finds_for_a_minute_also_where_idleness_is_short() {
    let mut world = World::in_a_cluster(policy(0, 10), 3);
    world.policy.idle_after = IdleAfter::Fixed(secs(30));
    world.run(300, 100.0);
    let before = world.wanted();
    let digest = world.state.digest().to_json();
    let taken_over = [State::default(), State::from_digest(&digest, world.now).expect("was just made")];
    for state in taken_over {
        let mut next = world.clone();
        next.state = state;
        // The first observation is the one its minute counts from.
        next.tick(0.0);
        let held = next.run(59, 0.0);
        assert_eq!((held.to, limits(&held)), (before, vec!["young"]), "{held:?}");
        assert_eq!(next.tick(0.0).to, 0);
    }
}

#[test]
fn a_restored_state_is_as_young_as_a_new_one() {
    let mut world = World::in_a_cluster(policy(1, 10), 5);
    world.run(100, 10.0);
    world.state = State::from_json(&world.state.to_json(), world.now).expect("was just saved");
    let decision = world.run(300, 10.0);
    assert_eq!((decision.to, limits(&decision)), (5, vec!["young"]));
    assert_eq!(world.run(30, 10.0).to, 4);
}

#[test]
fn replicas_not_created_yet_are_counted_on_for_a_minute_and_then_named() {
    let mut world = settled(1, 50.0);
    world.policy.bounds.max = 4;
    world.quota = 1;
    assert_eq!(world.tick(5000.0).to, 4);
    let fresh = world.run(60, 330.0);
    assert_eq!((fresh.to, fresh.inputs.fleet.starting, fresh.inputs.fleet.missing), (4, 3, 0));
    let late = world.run(5, 330.0);
    assert_eq!((late.inputs.fleet.starting, late.inputs.fleet.missing), (0, 3));
    assert!(sentence(&late).ends_with("; want 4, have 1: 3 not created"), "{}", sentence(&late));
    world.policy.bounds.max = 10;
    let stuck = world.run(60, 900.0);
    assert_eq!((stuck.to, stuck.reason), (4, Reason::Limited));
    assert_eq!(last_limit(&stuck), Some(&LimitKind::NotCreated { missing: 3 }));
    assert!(sentence(&stuck).contains(", have 1 of 4: 3 of 4 not created; "), "{}", sentence(&stuck));
    world.quota = 20;
    assert!(world.run(60, 900.0).to > 4, "there is room again");
}

#[test]
fn each_replica_that_is_created_gives_the_others_another_minute() {
    let mut world = settled(1, 50.0);
    world.quota = 1;
    world.edit("kubectl", 4);
    world.run(50, 50.0);
    world.quota = 2;
    let decision = world.run(50, 50.0);
    assert_eq!((decision.inputs.fleet.missing, decision.inputs.fleet.starting), (0, 2));
    assert_eq!(world.run(20, 50.0).inputs.fleet.missing, 2);
}

#[test]
fn a_first_replica_that_is_not_created_yet_is_waited_for() {
    let mut world = World::in_a_cluster(policy(0, 4), 0);
    world.policy.idle_after = IdleAfter::Fixed(secs(10));
    world.run(100, 0.0);
    world.quota = 0;
    world.tick(1.0);
    world.queue = 0.0;
    assert_eq!(world.run(55, 0.0).to, 1, "it may be on its way");
    assert_eq!(world.run(60, 0.0).to, 0, "and then nobody asks any more");
}

#[test]
fn one_gateway_that_is_cut_off_keeps_the_fleet_and_is_named() {
    let mut world = settled(4, 330.0);
    let before = world.wanted();
    world.cut_off = Some("gateway-b");
    let decision = world.run(1200, 0.0);
    assert_eq!(decision.to, before);
    let text = sentence(&decision);
    assert!(text.ends_with(": gateway-b was not heard for 20 min"), "{text}");
    world.cut_off = None;
    let back = world.run(700, 0.0);
    assert!(back.to < before, "{back:?}");
}

#[test]
fn a_gateway_that_restarts_makes_no_burst() {
    let mut world = settled(4, 350.0);
    let before = world.wanted();
    world.restart_gateway();
    assert!(world.tick(350.0).to <= before + 1);
}

#[test]
fn what_stands_in_the_way_is_part_of_the_sentence() {
    let mut world = World::in_a_cluster(policy(0, 4), 0);
    world.fleet.platform.trouble = Some("deployments.apps \"digits\" not found".into());
    world.run(5, 0.0);
    let text = sentence(&world.tick(1.0));
    assert!(text.ends_with("; the number cannot be set: deployments.apps \"digits\" not found"), "{text}");
}

#[test]
fn crashing_and_homeless_replicas_are_told_apart_behind_several_gateways_too() {
    for (luck, failed, homeless) in [(Luck::Crashes, 1, 0), (Luck::FindsNoPlace, 0, 1)] {
        let mut world = World::in_a_cluster(policy(0, 20), 0);
        world.run(100, 0.0);
        world.luck = luck;
        world.tick(1.0);
        let fleet = world.run(70, 0.0).inputs.fleet;
        assert_eq!((fleet.failed.min(1), fleet.unschedulable), (failed, homeless), "{fleet:?}");
        assert!(fleet.trouble.is_some());
        assert!(world.wanted() <= 2, "{}", world.wanted());
    }
}

#[test]
fn replicas_that_leave_do_not_hide_those_that_are_not_created() {
    let mut world = settled(2, 150.0);
    let before = world.wanted();
    for replica in &mut world.fleet.replicas {
        replica.phase = Phase::Draining;
    }
    world.quota = 0;
    let decision = world.run(70, 0.0);
    assert_eq!(decision.inputs.fleet.missing, before, "{decision:?}");
}
